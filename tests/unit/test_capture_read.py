"""What the readers find in sound captures."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from dataplane.capture import CaptureWarning, open_capture, read_capture
from dataplane.packets.batch import INBOUND, NO_POINT, OUTBOUND, UNKNOWN, Interface
from tests.unit.test_capture_builders import (
    PACKETS,
    block,
    enhanced,
    interface,
    obsolete,
    option,
    pcap_file,
    pcapng_file,
    read,
    rows,
    section,
    simple,
)

BIG_LITTLE = pytest.mark.parametrize("order", ["<", ">"])


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("nano", [False, True])
@pytest.mark.parametrize("chunk_bytes", [64, 100, 1 << 20])
def test_pcap_is_read_in_both_byte_orders_and_units(big: bool, nano: bool, chunk_bytes: int) -> None:
    packets, reader = read(pcap_file(PACKETS, big=big, nano=nano), chunk_bytes=chunk_bytes)
    assert packets == PACKETS
    assert (reader.format, reader.damage, reader.interfaces) == ("pcap", None, (Interface("", 1),))


@BIG_LITTLE
@pytest.mark.parametrize("chunk_bytes", [64, 100, 1 << 20])
def test_pcapng_is_read_in_both_byte_orders(order: str, chunk_bytes: int) -> None:
    packets, reader = read(pcapng_file(PACKETS, order), chunk_bytes=chunk_bytes)
    assert packets == PACKETS
    assert (reader.format, reader.damage, reader.interfaces) == ("pcapng", None, (Interface("contoso", 1),))


@pytest.mark.parametrize("big", [False, True])
def test_kuznetzovs_longer_record_headers_are_skipped(big: bool) -> None:
    packets, reader = read(pcap_file(PACKETS, big=big, nano=False, magic=0xA1B2CD34))
    assert packets == PACKETS
    assert reader.damage is None


def test_a_fraction_beyond_its_second_carries_over() -> None:
    file = bytearray(pcap_file([(5 * 10**9, b"abcd", 4)], nano=False))
    file[28:32] = (3_500_000).to_bytes(4, "little")
    assert read(bytes(file))[0] == [(8_500_000_000, b"abcd", 4)]


def test_seconds_are_unsigned() -> None:
    time_ns = (2**32 - 1) * 10**9 + 1
    assert read(pcap_file([(time_ns, b"", 0)]))[0][0][0] == time_ns


def test_the_link_type_field_may_speak_of_the_frame_check_sequence() -> None:
    frames = rows(pcap_file(PACKETS, link_type=0x2400_0071))
    assert set(frames["link_type"]) == {113}


def test_lengths_are_kept_as_written_even_when_more_was_captured_than_sent() -> None:
    for file in (pcap_file([(0, b"abcd", 2)]), pcapng_file([(0, b"abcd", 2)])):
        assert read(file)[0] == [(0, b"abcd", 2)]


def test_old_files_may_have_the_two_lengths_swapped() -> None:
    for minor, lengths in ((2, (9, 4)), (3, (9, 4)), (3, (4, 9))):
        file = bytearray(pcap_file([(0, b"abcd", 9)], minor=minor))
        file[32:40] = np.array(lengths, "<u4").tobytes()
        assert read(bytes(file))[0] == [(0, b"abcd", 9)]


def test_every_column_is_filled() -> None:
    for file in (pcap_file(PACKETS), pcapng_file(PACKETS)):
        frames = rows(file)
        assert set(frames["point"]) == {NO_POINT}
        assert set(frames["interface"]) == {0}
        assert set(frames["direction"]) == {UNKNOWN}
        assert set(frames["flags"]) == {0}
        assert set(frames["link_type"]) == {1}


def test_a_header_without_packets_is_a_sound_capture() -> None:
    for file in (pcap_file([]), section(), section() + interface()):
        packets, reader = read(file)
        assert packets == []
        assert reader.damage is None


@BIG_LITTLE
def test_three_kinds_of_packet_blocks(order: str) -> None:
    file = section(order) + interface(order, snaplen=4)
    file += enhanced(1, b"abcd", 9, order) + obsolete(2, b"efg", 10, order)
    file += simple(b"hi", 2, order) + simple(b"jklm", 11, order)
    expected = [(1000, b"abcd", 9), (2000, b"efg", 10), (0, b"hi", 2), (0, b"jklm", 11)]
    assert read(file)[0] == expected


@BIG_LITTLE
def test_the_direction_comes_from_the_packets_flags(order: str) -> None:
    flags = [option(order, 2, np.array([bits], order + "u4").tobytes()) for bits in (1, 2, 0, 3, 0xFFFFFFFD)]
    comment = option(order, 1, b"dropped")
    file = section(order) + interface(order)
    for opts in [*flags, comment + flags[1], comment, bytes(4) + flags[1], comment + b"\0"]:
        file += enhanced(0, b"abcde", 5, order, options=opts + (b"" if len(opts) % 4 == 0 else bytes(3)))
    expected = [INBOUND, OUTBOUND, 0, 0, INBOUND, OUTBOUND, 0, 0, 0]
    assert rows(file)["direction"].tolist() == expected


def test_an_option_that_breaks_off_is_not_followed() -> None:
    file = section() + interface()
    file += enhanced(0, b"abcd", 4, options=b"\x02\x00\xff\xff\x01\x00\x00\x00")
    assert rows(file)["direction"].tolist() == [0]


def test_unknown_blocks_are_skipped() -> None:
    other = block("<", 0x0BAD, b"12345678") + block("<", 5, bytes(12)) + block("<", 4, b"") * 3
    file = section() + other + interface() + other + enhanced(1, b"abcd", 4) + other + enhanced(2, b"", 0)
    packets, reader = read(file + other, chunk_bytes=64)
    assert packets == [(1000, b"abcd", 4), (2000, b"", 0)]
    assert reader.damage is None


def test_each_section_has_its_own_byte_order_and_interfaces() -> None:
    file = section("<", "first", length=1234) + interface("<", 1, name="eth0") + enhanced(1, b"a", 1)
    file += section(">", "second") + interface(">", 101, name="tun0", resolution=3)
    file += interface(">", 113, name="any") + enhanced(2, b"b", 1, ">") + enhanced(3, b"c", 1, ">", which=1)
    with open_capture(BytesIO(file)) as reader:
        (frames,) = [batch.frames.copy() for batch in reader]
    assert reader.interfaces == (Interface("eth0", 1), Interface("tun0", 101), Interface("any", 113))
    assert reader.user_application == "first"
    assert frames["interface"].tolist() == [0, 1, 2]
    assert frames["link_type"].tolist() == [1, 101, 113]
    assert frames["time_ns"].tolist() == [1000, 2_000_000, 3000]


def test_interfaces_before_the_first_packet_are_known_at_once() -> None:
    file = section() + block("<", 0x0BAD, b"") + interface(name="contoso") + interface(name="provider")
    with open_capture(BytesIO(file + enhanced(0, b"", 0) + interface(name="late"))) as reader:
        assert [each.name for each in reader.interfaces] == ["contoso", "provider"]
        assert len(list(reader)) == 1
        assert [each.name for each in reader.interfaces] == ["contoso", "provider", "late"]


def test_our_own_captures_are_known() -> None:
    for application, ours in (("dataplane 0.1.0", True), ("dataplanes", False), ("", False)):
        with open_capture(BytesIO(section("<", application))) as reader:
            assert reader.user_application == application
            assert reader.written_by_dataplane is ours


def test_batches_are_writable_and_bounded() -> None:
    file = pcap_file([(index, b"abcd", 4) for index in range(70_000)])
    with open_capture(BytesIO(file)) as reader:
        sizes = []
        for batch in reader:
            batch.data[batch.offset[0]] = 0
            batch.frames["point"] = 3
            sizes.append(len(batch))
    assert sizes == [65_536, 4_464]


def test_a_record_larger_than_the_buffer_makes_it_grow() -> None:
    frame = bytes(range(256)) * 500
    for file in (pcap_file([(0, frame, 128_000)] * 3), pcapng_file([(0, frame, 128_000)] * 3)):
        packets, reader = read(file, chunk_bytes=64)
        assert packets == [(0, frame, 128_000)] * 3
        assert reader.damage is None


def test_a_whole_capture_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "in.pcapng"
    path.write_bytes(pcapng_file(PACKETS))
    batch = read_capture(path)
    columns = zip(batch.time_ns.tolist(), batch, batch.original_length.tolist(), strict=True)
    assert list(columns) == PACKETS
    assert batch.interfaces == (Interface("contoso", 1),)


def test_a_damaged_capture_in_memory_warns_and_keeps_what_was_read(tmp_path: Path) -> None:
    path = tmp_path / "in.pcap"
    path.write_bytes(pcap_file(PACKETS)[:-1])
    with pytest.warns(CaptureWarning, match="packet 4 at byte"):
        batch = read_capture(path)
    assert len(batch) == 3


def test_an_empty_capture_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "in.pcap"
    path.write_bytes(pcap_file([]))
    assert len(read_capture(path)) == 0
