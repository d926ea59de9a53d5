"""Every packet at every point, as `capture.pcapng`, and one point as classic pcap.

Reads a batch as it came in, the same batch as it was rewritten, and what became of each packet. A packet appears at
most three times, in the order in which it travels: where it came in, on the backbone, where it was delivered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dataplane.capture.overlap import WriteBehind
from dataplane.capture.pcap import RECORD_HEADER, PcapWriter, put_record_header
from dataplane.capture.pcapng_writer import (
    PACKET_HEADER,
    PcapngWriter,
    begin_packet,
    count_packet,
    end_comment,
    end_packet,
    pad,
)
from dataplane.forwarding.encapsulate import OVERHEAD
from dataplane.kernel import kernel
from dataplane.packets.batch import TIME_UNREPRESENTABLE, PacketBatch
from dataplane.records import OUTCOME, RESET_TO_BACKEND, TO_SERVICE
from dataplane.runs.appearance import ENCAPSULATED, appearance, link_type_of, put_bytes, put_comment
from dataplane.runs.text import decimals, letters
from dataplane.topology.model import Topology
from dataplane.verdict import Verdict

#: The encapsulated hop between the networks, as a point.
BACKBONE = "backbone"

_BYPASSED = int(Verdict.BYPASSED)

#: More than a packet block takes beyond its frame: the backbone's headers, and the block's own parts with a comment.
_BLOCK_ROOM = OVERHEAD + 192
#: Written in one piece: small enough to stay in the second-level cache.
_OUT_BYTES = 1 << 20
#: Pieces that may be on their way to files, so that whoever writes them has work while the next packets are treated.
_UNDER_WAY = 2

_WRITTEN, _BUFFER_FULL, _NEW_INTERFACE, _OTHER_LINK_TYPE = 0, 1, 2, 3


@kernel
def write_points(job: Any, frames: Any, outcomes: Any, index: Any, place: Any, out: Any) -> Any:
    """Write packet blocks from appearance `place` of packet `index` on, as far as they surely fit into `out`.

    Returns (status, index, place, bytes written); the status says what is needed to go on. `job` is (buffers, link ids,
    texts, interfaces, counts, backbone point): `interfaces` has rows (point, link type), `counts` is (what was written
    by interface, what of it was dropped, the interface that was last used by place).
    """
    buffers, link_ids, texts, interfaces, counts, backbone = job
    tallies, drops, recent = counts
    used = 0
    while index < len(frames):
        frame = frames[index]
        outcome = outcomes[index]
        time_ns = outcome["time"] if frame["flags"] & TIME_UNREPRESENTABLE else frame["time_ns"]
        room = np.int64(frame["captured"]) + _BLOCK_ROOM
        goes_there = outcome["direction"] == TO_SERVICE or outcome["direction"] == RESET_TO_BACKEND
        while place < 3:
            point, source, direction = appearance(outcome, place, backbone)
            if point >= 0:
                link_type = link_type_of(source, frame)
                which = recent[place]
                if (
                    which >= len(interfaces)
                    or interfaces[which, 0] != point
                    or interfaces[which, 1] != link_type
                ):
                    which = 0
                    while which < len(interfaces) and (
                        interfaces[which, 0] != point or interfaces[which, 1] != link_type
                    ):
                        which += 1
                    if which == len(interfaces):
                        return _NEW_INTERFACE, index, place, used
                    recent[place] = which
                if used + room > len(out):
                    return _BUFFER_FULL, index, place, used
                begin = used
                lengths = put_bytes(out, begin + PACKET_HEADER, source, frame, outcome, buffers, link_ids)
                begin_packet(out, begin, which, time_ns, lengths)
                comment = pad(out, begin, begin + PACKET_HEADER + lengths[0])
                at_provider = (place == 2) == goes_there and place != 1
                end = put_comment(out, comment + 4, outcome, at_provider, texts)
                used = end_packet(out, begin, end_comment(out, comment, end), direction)
                count_packet(tallies[which], max(time_ns, 0))
                if outcome["verdict"] > _BYPASSED:
                    drops[which] += 1
            place += 1
        place = 0
        index += 1
    return _WRITTEN, index, place, used


@kernel
def write_point(job: Any, frames: Any, outcomes: Any, index: Any, out: Any) -> Any:
    """Write the packets of one point as records of a classic pcap, from packet `index` on, as far as `out` reaches.

    Returns (status, index, packets written, bytes written, (the file's link type, the packet's link type)). `job` is
    (buffers, link ids, point, backbone point, the file's link type or -1); a packet of another link type than the
    file's ends it with _OTHER_LINK_TYPE.
    """
    buffers, link_ids, wanted, backbone, file_link_type = job
    used = count = 0
    link_type = file_link_type
    while index < len(frames):
        frame = frames[index]
        outcome = outcomes[index]
        count_before, used_before = count, used
        for place in range(3):
            point, source, _ = appearance(outcome, place, backbone)
            if point == wanted:
                link_type = link_type_of(source, frame)
                if file_link_type >= 0 and link_type != file_link_type:
                    return _OTHER_LINK_TYPE, index, count_before, used_before, (file_link_type, link_type)
                file_link_type = link_type
                if used + RECORD_HEADER + np.int64(frame["captured"]) + OVERHEAD > len(out):
                    # The packet comes again, from its first appearance.
                    return _BUFFER_FULL, index, count_before, used_before, (file_link_type, link_type)
                lengths = put_bytes(out, used + RECORD_HEADER, source, frame, outcome, buffers, link_ids)
                time_ns = outcome["time"] if frame["flags"] & TIME_UNREPRESENTABLE else frame["time_ns"]
                used = put_record_header(out, used, time_ns, lengths) + lengths[0]
                count += 1
        index += 1
    return _WRITTEN, index, count, used, (file_link_type, link_type)


@kernel
def head_records(job: Any, frames: Any, outcomes: Any) -> Any:
    """Write record headers into the bytes between frames, if these are then the very records of one point.

    So it is if every packet appears there once, with bytes of the same one of the two buffers, of the file's link type
    and right after the packet before. Returns (the buffer's number or -1, link type); in -1's case some bytes between
    frames have changed, and no frame. `job` is as for `write_point`.
    """
    buffers, _, wanted, backbone, file_link_type = job
    alike = -1
    end = frames[0]["offset"] - RECORD_HEADER
    for index in range(len(frames)):
        frame = frames[index]
        outcome = outcomes[index]
        found = -1
        for place in range(3):
            point, source, _ = appearance(outcome, place, backbone)
            if point == wanted:
                found = source if found < 0 else ENCAPSULATED  # twice is as bad
        if index == 0:
            alike = found
            if file_link_type < 0:
                file_link_type = np.int64(frame["link_type"])
        if found < 0 or found == ENCAPSULATED or found != alike or frame["link_type"] != file_link_type:
            return -1, file_link_type
        if end < 0 or frame["offset"] != end + RECORD_HEADER:
            return -1, file_link_type
        time_ns = outcome["time"] if frame["flags"] & TIME_UNREPRESENTABLE else frame["time_ns"]
        captured = np.int64(frame["captured"])
        put_record_header(buffers[found], end, time_ns, (captured, np.int64(frame["original"])))
        end += RECORD_HEADER + captured
    return alike, file_link_type


class Recorder:
    """Writes what was seen where, batch by batch: all points into one pcapng file, single points into pcap files.

    `pcapng` and the values of `pcaps` (by point) are binary files that the caller closes after `close`. With `behind`,
    the last two pieces of a batch may still be on their way to their file when `record` is done.
    """

    def __init__(
        self,
        topology: Topology,
        pcapng: BinaryIO | None,
        pcaps: Mapping[str, BinaryIO] | None = None,
        *,
        behind: bool = False,
    ) -> None:
        self._points = [network.name for network in topology.virtual_networks] + [BACKBONE]
        ids = topology.link_ids()
        self._link_ids = np.array([ids[e.name] for e in topology.private_endpoints] or [0], np.int64)
        self._texts = (letters([*(str(v) for v in Verdict), "verdict=", " idle_reset"]), decimals())
        #: By point: why its pcap file could not be made.
        self.failures: dict[str, str] = {}
        self._writer = PcapngWriter(pcapng) if pcapng is not None else None
        self._interfaces = np.zeros((0, 2), np.int64)
        self._drops = np.zeros(0, np.int64)
        self._recent = np.zeros(3, np.int64)
        self._pcaps = [
            (self._points.index(point), PcapWriter(file)) for point, file in (pcaps or {}).items()
        ]
        self._behind = WriteBehind(behind, _UNDER_WAY)
        # One more than may be on their way to a file: it is filled meanwhile.
        self._outs = deque(np.empty(_OUT_BYTES, np.uint8) for _ in range(_UNDER_WAY + 1 if behind else 1))
        # Of the memory of batches there are two: what is of the batch before is written when `record` is done.
        self._originals = [np.empty(0, np.uint8), np.empty(0, np.uint8)]
        self._outcomes = np.empty(0, OUTCOME)
        self._pieces = 0  # that were given to the system

    @property
    def active(self) -> bool:
        """Whether anything is written at all."""
        return self._writer is not None or bool(self._pcaps)

    def prepare(self, batch: PacketBatch) -> tuple[NDArray[np.uint8] | None, NDArray[Any]]:
        """What `record` will want of a batch that is about to be sent: its bytes as they came, and room for outcomes.

        The bytes are left out (None) if none are wanted as they came. Both are valid until the next call.
        """
        if len(self._outcomes) < len(batch):
            self._outcomes = np.empty(len(batch), OUTCOME)
        outcomes = self._outcomes[: len(batch)]
        if not self._wants_original(batch.frames):
            return None, outcomes
        size = len(batch.data)
        if len(self._originals[0]) < size:
            self._originals[0] = np.empty(size, np.uint8)
        came = self._originals[0][:size]
        self._originals.reverse()
        np.copyto(came, batch.data)
        return came, outcomes

    def _wants_original(self, frames: NDArray[Any]) -> bool:
        """Whether packets are wanted as they came: for a point where they came in, and the backbone."""
        points = {point for point, _ in self._pcaps}
        return (
            self._writer is not None
            or len(self._points) - 1 in points
            or any((frames["point"] == point).any() for point in points)
        )

    def record(self, came: NDArray[np.uint8] | None, batch: PacketBatch, outcomes: NDArray[Any]) -> None:
        """Write a batch: the bytes as they came, the batch as it was rewritten in place, and its OUTCOME rows.

        `came` may be left out where `prepare` did.
        """
        if not len(batch):
            self._behind.wait()
            return
        largest = int(batch.frames["captured"].max()) + _BLOCK_ROOM
        for number, out in enumerate(self._outs):
            if len(out) < 2 * largest:  # a packet may appear twice at one point
                self._outs[number] = np.empty(4 * largest, np.uint8)
        buffers = (batch.data if came is None else came, batch.data)
        earlier = self._pieces
        for point, writer in self._pcaps:
            if self._points[point] not in self.failures:
                self._write_pcap(point, writer, buffers, batch, outcomes)
        if self._writer is not None:
            self._write_pcapng(self._writer, buffers, batch.frames, outcomes)
        self._behind.wait(self._pieces - earlier)  # the memory of an earlier batch is about to be used again

    def _write(self, write: Callable[[NDArray[np.uint8]], None], piece: NDArray[np.uint8]) -> None:
        self._pieces += 1
        self._behind.write(write, piece)

    def _write_pcapng(
        self, writer: PcapngWriter, buffers: Any, frames: NDArray[Any], outcomes: NDArray[Any]
    ) -> None:
        index = place = 0
        backbone = np.int64(len(self._points) - 1)
        status = _BUFFER_FULL
        while status != _WRITTEN:
            out = self._outs[0]
            counts = (writer.tallies, self._drops, self._recent)
            job = (buffers, self._link_ids, self._texts, self._interfaces, counts, backbone)
            status, index, place, used = write_points(job, frames, outcomes, index, place, out)
            self._write(writer.write_counted, out[:used])
            self._outs.rotate(-1)
            if status == _NEW_INTERFACE:
                self._behind.wait()
                point, source, _ = appearance(outcomes[index], int(place), int(backbone))
                link_type = int(link_type_of(source, frames[index]))
                writer.add_interface(self._points[int(point)], link_type)
                self._interfaces = np.vstack([self._interfaces, np.array([[point, link_type]], np.int64)])
                self._drops = np.append(self._drops, 0)

    def _write_pcap(
        self, point: int, writer: PcapWriter, buffers: Any, batch: PacketBatch, outcomes: NDArray[Any]
    ) -> None:
        frames = batch.frames
        backbone = np.int64(len(self._points) - 1)

        def job() -> Any:
            link_type = -1 if writer.link_type is None else writer.link_type
            return buffers, self._link_ids, np.int64(point), backbone, np.int64(link_type)

        def write(records: NDArray[np.uint8], packets: int, link_type: int) -> None:
            if writer.link_type is None:
                writer.start(link_type)
            self._write(partial(writer.write_records, packets=packets), records)

        if batch.spare == RECORD_HEADER:
            which, link_type = head_records(job(), frames, outcomes)
            if which >= 0:
                begin = int(frames["offset"][0]) - RECORD_HEADER
                end = int(frames["offset"][-1]) + int(frames["captured"][-1])
                write(buffers[which][begin:end], len(frames), int(link_type))
                return
        index = 0
        while index < len(frames):
            out = self._outs[0]
            status, index, count, used, links = write_point(job(), frames, outcomes, index, out)
            if status == _OTHER_LINK_TYPE:
                self.failures[self._points[point]] = (
                    f"--pcap {self._points[point]}=…: not written: a classic pcap has one link type, and packets of "
                    f"link types {', '.join(str(link) for link in sorted(links))} were seen there; capture.pcapng can "
                    "hold them all"
                )
                return
            if count:
                write(out[:used], int(count), int(links[0]))
                self._outs.rotate(-1)

    def close(self) -> None:
        """Complete the files: interface statistics, headers of files with no packet."""
        self._behind.close()
        if self._writer is not None:
            for number, dropped in enumerate(self._drops):
                self._writer.set_dropped(number, int(dropped))
            self._writer.close()
        for _, writer in self._pcaps:
            writer.close()
