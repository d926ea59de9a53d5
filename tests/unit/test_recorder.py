"""Recording: the same bytes whatever way they take to their files, and errors that are not lost on it."""

from __future__ import annotations

import io
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dataplane.capture import PcapWriter, open_capture, read_capture
from dataplane.capture.merge import merge
from dataplane.capture.overlap import WriteBehind
from dataplane.packets.batch import FRAME, PacketBatch
from dataplane.runs.record import BACKBONE, Recorder
from dataplane.runs.replay import send_and_record
from dataplane.runs.warmup import _SYN
from dataplane.simulator import Simulator
from dataplane.topology.model import Topology

POINTS = ("contoso", "provider", BACKBONE)


@pytest.fixture
def topology() -> Topology:
    return Topology.model_validate(
        {
            "virtual_networks": [
                {"name": "contoso", "address_space": ["10.0.0.0/8"]},
                {"name": "provider", "address_space": ["192.168.0.0/16"]},
            ],
            "private_link_services": [
                {
                    "name": "service",
                    "virtual_network": "provider",
                    "nat_ips": ["192.168.50.4"],
                    "load_balancer": {
                        "frontend_ip": "192.168.60.10",
                        "rules": [{"protocol": "tcp", "frontend_port": 443, "backend_port": 8443}],
                        "backend_pool": ["192.168.61.4"],
                    },
                }
            ],
            "private_endpoints": [
                {"name": "endpoint", "virtual_network": "contoso", "ip": "10.0.1.5", "target": "service"}
            ],
        }
    )


def syns(count: int, payload: int, dropped: Collection[int] = ()) -> list[bytes]:
    """SYNs of different clients; those that are `dropped` go to a port where nobody listens."""
    packets = []
    for number in range(count):
        packet = bytearray(_SYN + bytes(payload))
        packet[28:30] = (number >> 8, number & 255)
        if number in dropped:
            packet[36] ^= 1
        packets.append(bytes(packet))
    return packets


def pcap(packets: list[bytes], times: NDArray[np.int64] | None = None) -> bytes:
    file = io.BytesIO()
    with PcapWriter(file) as writer:
        writer.write_batch(PacketBatch.from_bytes(packets, np.arange(len(packets)) if times is None else times))
    return file.getvalue()


def recorded(
    topology: Topology,
    capture: bytes,
    *,
    room: bool,
    behind: bool,
    chunk_bytes: int,
    points: tuple[str, ...] = POINTS,
    file: type[io.BytesIO] = io.BytesIO,
) -> dict[str, bytes]:
    """What a capture leaves at each point and in a pcapng; without `room`, nothing is written between frames."""
    simulator = Simulator(topology)
    files = {point: file() for point in points}
    pcapng = file()
    recorder = Recorder(topology, pcapng if points == POINTS else None, files, behind=behind)
    with open_capture(io.BytesIO(capture), chunk_bytes=chunk_bytes) as reader:
        for batch in merge([reader]):
            batch.frames["point"] = 0
            if not room:
                batch.spare = 0
            send_and_record(simulator, batch, recorder)
    recorder.close()
    return {point: file.getvalue() for point, file in files.items()} | {"pcapng": pcapng.getvalue()}


@pytest.mark.parametrize("dropped", [set(), {7}, set(range(0, 4_000, 3)), set(range(100, 4_000))])
@pytest.mark.parametrize("points", [POINTS, ("provider",), ("contoso",)])
def test_the_way_to_a_file_does_not_show(topology: Topology, dropped: set[int], points: tuple[str, ...]) -> None:
    capture = pcap(syns(4_000, 300, dropped))
    plain = recorded(topology, capture, room=False, behind=False, chunk_bytes=1 << 23, points=points)
    for behind in (False, True):
        for chunk_bytes in (1_000, 100_000, 250_000, 1 << 23):
            way = {"room": True, "behind": behind, "chunk_bytes": chunk_bytes}
            assert plain == recorded(topology, capture, **way, points=points)


def test_batches_that_leave_nothing_do_not_let_memory_be_used_too_early(topology: Topology) -> None:
    # After a batch that is written comes one that is not (all dropped), then one that is.
    capture = pcap(syns(6_000, 300, set(range(1_500, 3_500))))
    plain = recorded(topology, capture, room=False, behind=False, chunk_bytes=1 << 23, points=("provider",))
    assert plain == recorded(topology, capture, room=True, behind=True, chunk_bytes=300_000, points=("provider",))
    assert len(read_capture(io.BytesIO(plain["provider"]))) == 4_000


class _SlowDisk(io.BytesIO):
    def write(self, data: object) -> int:  # type: ignore[override]
        time.sleep(0.003)  # by then the recorder has long made its next pieces
        return super().write(data)  # type: ignore[arg-type]


@pytest.mark.parametrize("room", [False, True])
@pytest.mark.parametrize("points", [POINTS, ("provider",), ("contoso", "provider")])
def test_memory_is_not_used_again_before_a_slow_disk_has_it(
    topology: Topology, room: bool, points: tuple[str, ...]
) -> None:
    capture = pcap(syns(12_000, 300, set(range(3_000, 6_000))))
    plain = recorded(topology, capture, room=False, behind=False, chunk_bytes=1 << 23, points=points)
    for chunk_bytes in (300_000, 1 << 23):
        way = {"room": room, "behind": True, "chunk_bytes": chunk_bytes}
        assert plain == recorded(topology, capture, **way, points=points, file=_SlowDisk)


def test_bytes_between_frames_are_kept_where_the_batch_does_not_give_them_up(topology: Topology) -> None:
    # Frames that happen to lie 16 bytes apart in memory of the caller's own.
    data = np.full(2 * (16 + len(_SYN)), 0xEE, np.uint8)
    frames = np.zeros(2, FRAME)
    for number in range(2):
        frames[number]["offset"] = 16 + number * (16 + len(_SYN))
        data[frames[number]["offset"] :][: len(_SYN)] = np.frombuffer(_SYN, np.uint8)
    frames["captured"] = frames["original"] = len(_SYN)
    frames["link_type"] = 1
    simulator = Simulator(topology)
    recorder = Recorder(topology, None, {"provider": io.BytesIO()})
    send_and_record(simulator, PacketBatch(data, frames), recorder)
    assert (data[:16] == 0xEE).all()


class _FullDisk(io.BytesIO):
    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room

    def write(self, data: object) -> int:  # type: ignore[override]
        if self.tell() + len(memoryview(data)) > self._room:  # type: ignore[arg-type]
            raise OSError(28, "No space left on device")
        return super().write(data)  # type: ignore[arg-type]


@pytest.mark.parametrize("room", [24, 100_000, 1_300_000])
@pytest.mark.parametrize("behind", [False, True])
def test_a_full_disk_is_not_overlooked(topology: Topology, room: int, behind: bool) -> None:
    simulator = Simulator(topology)
    recorder = Recorder(topology, None, {"provider": _FullDisk(room)}, behind=behind)

    def record_all() -> None:
        for batch in open_capture(io.BytesIO(pcap(syns(4_000, 300)))):
            batch.frames["point"] = 0
            send_and_record(simulator, batch, recorder)
        recorder.close()

    with pytest.raises(OSError, match="No space left"):
        record_all()


def test_after_a_piece_that_failed_none_is_written() -> None:
    written: list[int] = []

    def write(piece: NDArray[np.uint8]) -> None:
        if len(written) == 1:
            written.append(-1)
            time.sleep(0.01)  # meanwhile the next piece is given
            raise OSError(28, "No space left on device")
        written.append(int(piece[0]))

    behind = WriteBehind(True, 3)
    pieces = np.repeat(np.arange(4, dtype=np.uint8), 1 << 17).reshape(4, -1)

    def write_all() -> None:
        for piece in pieces:
            behind.write(write, piece)
        behind.wait()

    with pytest.raises(OSError, match="No space left"):
        write_all()
    behind.close()
    assert written == [0, -1]


def test_a_capture_of_every_kind_becomes_the_same_pcap(topology: Topology, tmp_path: Path) -> None:
    packets, times = syns(50, 20), np.arange(50) * 1_000
    little = pcap(packets, times)
    plain = recorded(topology, little, room=True, behind=False, chunk_bytes=1 << 20)
    for magic, order, unit, extra in (
        ("a1b23c4d", ">", 1, b""),
        ("d4c3b2a1", "<", 1000, b""),
        ("a1b2c3d4", ">", 1000, b""),
        ("34cdb2a1", "<", 1000, bytes(8)),
    ):
        file = bytes.fromhex(magic) + np.array([2, 4], order + "u2").tobytes()
        file += np.array([0, 0, 262_144, 1], order + "u4").tobytes()
        for packet, time_ns in zip(packets, times.tolist(), strict=True):
            file += np.array([0, time_ns // unit, len(packet), len(packet)], order + "u4").tobytes() + extra + packet
        assert plain == recorded(topology, file, room=True, behind=False, chunk_bytes=1 << 20)
