"""Several captures as one."""

from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.capture import open_capture
from dataplane.capture.merge import MERGED_BYTES, merge
from dataplane.packets.batch import TIME_UNREPRESENTABLE, Interface, PacketBatch
from tests.unit.test_capture_builders import Packet, batch_of, enhanced, interface, pcap_file, section

Labelled = tuple[int, bytes]


def _reference(captures: list[list[Labelled]]) -> list[Labelled]:
    """The merge in plain words: always the earliest of the next packets, the first capture's on a tie."""
    queues = [list(capture) for capture in captures]
    merged = []
    while any(queues):
        first = min((queue for queue in queues if queue), key=lambda queue: queue[0][0])
        merged.append(first.pop(0))
    return merged


def _batches(packets: list[Labelled], size: int) -> Iterator[PacketBatch]:
    for start in range(0, len(packets), size):
        batch = batch_of([(time, frame, len(frame)) for time, frame in packets[start : start + size]])
        yield batch
        batch.data[:] = 0xEE  # as a reader would use its memory again


def _collect(batches: Iterator[PacketBatch]) -> list[Labelled]:
    merged = []
    for batch in batches:
        assert len(batch)
        merged += [(int(batch.time_ns[index]), batch[index]) for index in range(len(batch))]
    return merged


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(-5, 20), max_size=12), min_size=2, max_size=5), st.integers(1, 13))
def test_the_merge_takes_the_earliest_next_packet(times: list[list[int]], size: int) -> None:
    captures = [
        [(time, f"{number}/{position}".encode()) for position, time in enumerate(capture)]
        for number, capture in enumerate(times)
    ]
    merged = _collect(merge([_batches(capture, size) for capture in captures]))
    assert merged == _reference(captures)


def test_readers_are_merged_across_their_buffers() -> None:
    captures = [
        [(3 * index + number, bytes([number]) * (index % 70)) for index in range(2000)]
        for number in (0, 1, 2)
    ]
    files = [pcap_file([(time, frame, len(frame)) for time, frame in capture]) for capture in captures]
    readers = [open_capture(BytesIO(file), chunk_bytes=1000) for file in files]
    assert _collect(merge(readers)) == sorted(packet for capture in captures for packet in capture)


def test_every_column_survives_and_interfaces_are_numbered_anew() -> None:
    first = section() + interface(name="contoso") + enhanced(1, b"a", 9)
    first += interface(name="late", link_type=113) + enhanced(4, b"d", 8, which=1)
    second = section() + interface(name="provider", link_type=101)
    second += enhanced(2, b"b", 7, options=b"\x02\0\x04\0\x02\0\0\0") + enhanced(3, b"c", 6)
    batches = [batch.copy() for batch in merge([open_capture(BytesIO(file)) for file in (first, second)])]
    frames = np.concatenate([batch.frames for batch in batches])
    names = [Interface("contoso", 1), Interface("late", 113), Interface("provider", 101)]
    assert list(batches[-1].interfaces) == names
    assert frames["interface"].tolist() == [0, 2, 2, 1]
    assert frames["link_type"].tolist() == [1, 101, 101, 113]
    assert frames["original"].tolist() == [9, 7, 6, 8]
    assert frames["direction"].tolist() == [0, 2, 0, 0]
    assert frames["time_ns"].tolist() == [1000, 2000, 3000, 4000]


def test_each_capture_is_prepared_before_it_is_merged() -> None:
    def label(batch: PacketBatch) -> PacketBatch:
        batch.frames["point"] = 7
        return batch

    def odd(batch: PacketBatch) -> PacketBatch:
        return PacketBatch(batch.data, batch.frames[batch.time_ns % 2 == 1], batch.interfaces)

    packets: list[Packet] = [(time, bytes([time]), 1) for time in range(10)]
    captures = [(open_capture(BytesIO(pcap_file(packets))), prepare) for prepare in (label, odd)]
    points = [(int(row["time_ns"]), int(row["point"])) for batch in merge(captures) for row in batch.frames]
    expected = sorted([(time, 7) for time in range(10)] + [(time, 0xFFFF) for time in range(1, 10, 2)])
    assert points == expected


def test_a_capture_prepared_to_nothing_takes_no_part() -> None:
    def nothing(batch: PacketBatch) -> PacketBatch:
        return PacketBatch(batch.data, batch.frames[:0], batch.interfaces)

    packets = [(time, b"x") for time in range(5)]
    assert _collect(merge([(_batches(packets, 2), nothing), (_batches(packets, 2), None)])) == packets
    assert _collect(merge([(_batches(packets, 2), nothing)])) == []
    assert _collect(merge([])) == []


def test_a_single_capture_is_passed_on_without_a_copy() -> None:
    batch = batch_of([(1, b"a", 1)])
    (merged,) = merge([[batch]])
    assert merged is batch


def test_a_time_that_cannot_be_kept_does_not_wait() -> None:
    odd = batch_of([(10, b"a", 1), (0, b"b", 1), (20, b"c", 1)])
    odd.frames["flags"][1] = TIME_UNREPRESENTABLE
    plain = batch_of([(5, b"x", 1), (10, b"y", 1), (15, b"z", 1)])
    merged = _collect(merge([[plain], [odd]]))
    assert [frame for _, frame in merged] == [b"x", b"y", b"a", b"b", b"z", b"c"]


def test_merged_batches_are_bounded() -> None:
    big = bytes(MERGED_BYTES // 4 + 1)
    captures = [[batch_of([(time, big, len(big))] * 4)] for time in (0, 1)]
    batches = [(len(batch), batch.data.nbytes) for batch in merge(captures)]
    assert sum(count for count, _ in batches) == 8
    assert max(size for _, size in batches) <= MERGED_BYTES


def test_a_damaged_capture_ends_and_the_others_go_on() -> None:
    packets: list[Packet] = [(time, bytes([time]), 1) for time in range(10)]
    broken = open_capture(BytesIO(pcap_file(packets)[:-30]))
    sound = open_capture(BytesIO(pcap_file(packets)))
    assert len(_collect(merge([broken, sound]))) == 18
    assert broken.damage is not None
    assert sound.damage is None


def test_a_batch_that_lies_about_its_frames_is_refused() -> None:
    for column in ("offset", "interface"):
        batch = batch_of([(1, b"a", 1)])
        batch.frames[column] = 1
        with pytest.raises(ValueError, match="outside its batch's data"):
            list(merge([[batch], []]))
