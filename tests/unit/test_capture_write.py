"""What the writers write: read back by our readers and by tshark."""

import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.capture import PcapngWriter, PcapWriter, open_capture
from dataplane.capture.pcapng_writer import packet_block_size, put_packet
from dataplane.packets.batch import PacketBatch
from tests.unit.test_capture_builders import PACKETS, Packet, batch_of, read, rows

packets_strategy = st.lists(
    st.tuples(st.integers(0, (2**32 - 1) * 10**9), st.binary(max_size=100), st.integers(0, 2**32 - 1)),
    max_size=30,
)


def _fields(tshark: str, path: Path, *names: str) -> list[list[str]]:
    command = [tshark, "-r", str(path), "-T", "fields", *(part for name in names for part in ("-e", name))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "damaged" not in done.stderr
    assert "cut short" not in done.stderr
    return [line.split("\t") for line in done.stdout.split("\n")[:-1]]


def _pcap(packets: list[Packet]) -> bytes:
    out = BytesIO()
    with PcapWriter(out) as writer:
        writer.write_batch(batch_of(packets))
    return out.getvalue()


def _pcapng(packets: list[Packet], comments: list[str | None] | None = None) -> bytes:
    out = BytesIO()
    with PcapngWriter(out, application="dataplane test") as writer:
        writer.write_batch(batch_of(packets), writer.add_interface("contoso", 1), comments)
    return out.getvalue()


@settings(deadline=None)
@given(packets_strategy)
def test_pcap_written_is_pcap_read(packets: list[Packet]) -> None:
    content = _pcap(packets)
    assert read(content)[0] == packets
    assert _pcap(read(content)[0]) == content


@settings(deadline=None)
@given(packets_strategy, st.data())
def test_pcapng_written_is_pcapng_read(packets: list[Packet], data: st.DataObject) -> None:
    comment = st.one_of(st.none(), st.text(max_size=20))
    comments = data.draw(st.lists(comment, min_size=len(packets), max_size=len(packets)))
    content = _pcapng(packets, comments)
    found, reader = read(content)
    assert found == packets
    assert reader.damage is None
    assert reader.written_by_dataplane


def test_frames_larger_than_the_writers_buffer() -> None:
    packets = [(1, b"a", 1), (2, bytes(3_000_000), 3_000_000), (3, b"b", 1)]
    out = BytesIO()
    with PcapngWriter(out) as writer:
        writer.write_batch(batch_of(packets), writer.add_interface("", 1))
    assert read(out.getvalue())[0] == packets
    out = BytesIO()
    with PcapWriter(out) as pcap:
        pcap.write_batch(batch_of(packets[:1]))
        pcap.write_batch(batch_of(packets[1:]))
    # A classic pcap of ours says snap length 262144, so that a larger frame in it is a fault.
    assert read(out.getvalue())[0] == packets[:1]


def test_many_packets_take_several_buffers() -> None:
    packets = [(index, bytes(1000), 1000) for index in range(3000)]
    assert read(_pcap(packets))[0] == packets
    assert read(_pcapng(packets))[0] == packets


def test_a_second_link_type_is_refused_and_nothing_of_it_written() -> None:
    out = BytesIO()
    with PcapWriter(out) as writer:
        writer.write_batch(batch_of(PACKETS))
        mixed = batch_of(PACKETS)
        mixed.frames["link_type"][2] = 101
        for other in (mixed, batch_of(PACKETS, 101)):
            with pytest.raises(ValueError, match="has 1, a packet of link type 101 does not fit"):
                writer.write_batch(other)
        assert writer.packets == len(PACKETS)
    assert out.getvalue() == _pcap(PACKETS)


def test_a_pcap_without_packets_is_a_sound_file(tmp_path: Path) -> None:
    for link_type in (None, 101):
        with PcapWriter(tmp_path / "out.pcap", link_type) as writer:
            pass
        with open_capture(tmp_path / "out.pcap") as reader:
            assert list(reader) == []
            assert reader.interfaces[0].link_type == writer.link_type == (link_type or 1)


def test_times_that_a_format_cannot_hold_are_clamped() -> None:
    packets = [(-1, b"", 0), (2**63 - 1, b"", 0)]
    assert [time for time, _, _ in read(_pcap(packets))[0]] == [0, (2**32 - 1) * 10**9 + 999_999_999]
    assert [time for time, _, _ in read(_pcapng(packets))[0]] == [0, 2**63 - 1]


@pytest.mark.parametrize("offset", [-1, 1, 2**40])
def test_a_frame_outside_the_data_is_refused(offset: int) -> None:
    batch = batch_of([(0, b"abcd", 4)])
    batch.frames["offset"] = offset
    with pytest.raises(ValueError, match="packet 1 of the batch lies outside"):
        PcapWriter(BytesIO()).write_batch(batch)
    writer = PcapngWriter(BytesIO())
    writer.add_interface("", 1)
    with pytest.raises(ValueError, match="packet 1 of the batch lies outside"):
        writer.write_batch(batch, 0)


def test_directions_and_interfaces_survive() -> None:
    batch = batch_of(PACKETS)
    batch.frames["direction"] = [0, 1, 2, 1]
    out = BytesIO()
    with PcapngWriter(out) as writer:
        writer.add_interface("contoso", 1)
        writer.write_batch(PacketBatch(batch.data, batch.frames[:1]), 0)
        writer.add_interface("backbone", 101)  # turns up after the first packet
        writer.write_batch(PacketBatch(batch.data, batch.frames[1:]), np.array([1, 0, 1]))
        assert writer.packets == [2, 2]
    frames = rows(out.getvalue())
    assert frames["interface"].tolist() == [0, 1, 0, 1]
    assert frames["link_type"].tolist() == [1, 101, 1, 101]
    assert frames["direction"].tolist() == [0, 1, 2, 1]


def test_blocks_made_by_kernels_are_appended_as_they_are() -> None:
    frame = np.frombuffer(bytearray(b"abcde"), np.uint8)
    comment = np.frombuffer(bytearray(b"verdict=malformed, and more"), np.uint8)
    out, at = np.full(1000, 0xEE, np.uint8), 0
    for captured, length in ((5, 17), (4, 0), (0, 16), (1, 1)):
        size = packet_block_size(captured, length)
        end = put_packet(out, at, 0, 7, frame, 0, captured, 9, 1, comment, length)
        assert end - at == size
        at = int(end)
    assert out[at] == 0xEE
    file = BytesIO()
    with PcapngWriter(file) as writer:
        with pytest.raises(ValueError, match="no packet block of one of 0 interfaces at byte 0"):
            writer.write_blocks(out[:at])
        writer.add_interface("", 1)
        writer.write_blocks(out[:at])
        with pytest.raises(ValueError, match="of one of 1 interfaces at byte 124"):
            writer.write_blocks(out[: at - 60])
    found, reader = read(file.getvalue())
    assert found[:4] == [(7, b"abcde", 9), (7, b"abcd", 9), (7, b"", 9), (7, b"a", 9)]
    assert reader.damage is None


def test_comments_must_be_as_many_as_packets() -> None:
    with pytest.raises(ValueError, match="1 comments for 4 packets"):
        _pcapng(PACKETS, ["only one"])


def test_output_does_not_depend_on_how_packets_are_batched() -> None:
    out = BytesIO()
    with PcapngWriter(out, application="dataplane test") as writer:
        writer.add_interface("contoso", 1)
        for packet in PACKETS:
            writer.write_batch(batch_of([packet]), 0)
    assert out.getvalue() == _pcapng(PACKETS)


def test_tshark_reads_what_we_write(tshark: str, tmp_path: Path) -> None:
    comments = ["session=1 nat=192.168.50.4:1024", None, "verdict=malformed", "größer"]
    (tmp_path / "out.pcapng").write_bytes(_pcapng(PACKETS, comments))
    (tmp_path / "out.pcap").write_bytes(_pcap(PACKETS))
    expected = [
        [f"{time // 10**9}.{time % 10**9:09}", str(len(frame)), str(original)]
        for time, frame, original in PACKETS
    ]
    names = ("frame.time_epoch", "frame.cap_len", "frame.len")
    assert _fields(tshark, tmp_path / "out.pcap", *names) == expected
    found = _fields(tshark, tmp_path / "out.pcapng", *names, "frame.comment", "frame.interface_name")
    ours = [[*row, text or "", "contoso"] for row, text in zip(expected, comments, strict=True)]
    assert found == ours


def test_tshark_sees_direction(tshark: str, tmp_path: Path) -> None:
    batch = batch_of(PACKETS)
    batch.frames["direction"] = [0, 1, 2, 1]
    with PcapngWriter(tmp_path / "out.pcapng") as writer:
        writer.write_batch(batch, writer.add_interface("contoso", 1, "a network", 65535))
    found = _fields(tshark, tmp_path / "out.pcapng", "frame.packet_flags_direction", "frame.interface_name")
    assert [int(row[0], 16) for row in found] == [0, 1, 2, 1]


def test_capinfos_sees_statistics(capinfos: str, tmp_path: Path) -> None:
    path = tmp_path / "out.pcapng"
    with PcapngWriter(path, application="dataplane test") as writer:
        writer.write_batch(batch_of(PACKETS), writer.add_interface("contoso", 1))
        writer.add_interface("backbone", 101)
        writer.set_statistics(1, 40, 2, 5, 9)
        with pytest.raises(ValueError, match="interface 2 was not added"):
            writer.set_statistics(2, 0, 0, None, None)
    text = subprocess.run([capinfos, str(path)], capture_output=True, text=True, check=True).stdout
    assert "Capture application: dataplane test" in text
    assert text.count("Number of stat entries = 1") == 2
    assert "Name = contoso" in text
    assert "Number of interfaces in file: 2" in text
    content = path.read_bytes()
    assert content.count((5).to_bytes(4, "little") + (76).to_bytes(4, "little")) == 2  # two statistics blocks
    assert (
        b"\x04\0\x08\0" + (40).to_bytes(8, "little") + b"\x05\0\x08\0" + (2).to_bytes(8, "little") in content
    )
