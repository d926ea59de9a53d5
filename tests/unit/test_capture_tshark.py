"""tshark judges how we read the real captures that ship with the project."""

import gzip
import subprocess
from pathlib import Path

import pytest

from dataplane.capture import PcapngWriter, PcapWriter, open_capture, read_capture
from dataplane.packets.batch import TIME_UNREPRESENTABLE, PacketBatch

CAPTURES = sorted((Path(__file__).resolve().parents[2] / "pcaps").glob("*.pcap*"))


def test_there_are_captures() -> None:
    """Else nothing was judged here."""
    assert CAPTURES


def _judge(tshark: str, path: Path) -> list[tuple[int, int, int]]:
    """Time (ns), captured and original length of every packet, as tshark sees them."""
    command = [tshark, "-r", str(path), "-T", "fields"]
    for name in ("frame.time_epoch", "frame.cap_len", "frame.len"):
        command += ["-e", name]
    found = []
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        time, captured, original = line.split("\t")
        seconds, fraction = time.split(".")
        found.append((int(seconds) * 10**9 + int(fraction.ljust(9, "0")), int(captured), int(original)))
    return found


def _ours(batch: PacketBatch) -> list[tuple[int, int, int]]:
    return [(int(row["time_ns"]), int(row["captured"]), int(row["original"])) for row in batch.frames]


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.name)
def test_tshark_sees_the_same_packets(tshark: str, path: Path) -> None:
    batch = read_capture(path)
    judged = _judge(tshark, path)
    assert len(batch) == len(judged)
    for row, ours, theirs in zip(batch.frames, _ours(batch), judged, strict=True):
        if row["flags"] & TIME_UNREPRESENTABLE:
            assert theirs[0] >= 2**63
            assert ours == (0, *theirs[1:])
        else:
            assert ours == theirs


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.name)
def test_a_capture_copied_by_us_is_the_same_to_tshark(tshark: str, path: Path, tmp_path: Path) -> None:
    batch = read_capture(path)
    expected = _ours(batch)
    with PcapngWriter(tmp_path / "out.pcapng") as writer:
        for each in batch.interfaces:
            writer.add_interface(each.name, each.link_type)
        writer.write_batch(batch, batch.frames["interface"])
    assert _judge(tshark, tmp_path / "out.pcapng") == expected
    if len({each.link_type for each in batch.interfaces}) == 1:
        with PcapWriter(tmp_path / "out.pcap") as pcap:
            pcap.write_batch(batch)
        assert _judge(tshark, tmp_path / "out.pcap") == expected
    again = read_capture(tmp_path / "out.pcapng")
    assert [again[index] for index in range(len(again))] == [batch[index] for index in range(len(batch))]


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.name)
def test_compressed_and_in_small_buffers_it_is_the_same(path: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(gzip.compress(path.read_bytes()))
    whole = read_capture(path)
    position = 0
    with open_capture(tmp_path / "in", chunk_bytes=700) as reader:
        for batch in reader:
            for index in range(len(batch)):
                assert batch[index] == whole[position]
                position += 1
    assert reader.damage is None
    assert position == len(whole)
