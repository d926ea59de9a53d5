"""Every packet at every point, as `capture.pcapng`, and one point as classic pcap.

Reads a batch as it came in, the same batch as it was rewritten, and what became of each packet. A packet appears at
most three times, in the order in which it travels: where it came in, on the backbone, where it was delivered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dataplane.capture.little_endian import copy_bytes, store32_little
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
from dataplane.forwarding.encapsulate import OVERHEAD, encapsulate
from dataplane.kernel import kernel
from dataplane.packets.batch import INBOUND, OUTBOUND, TIME_UNREPRESENTABLE, PacketBatch
from dataplane.packets.headers import LINK_ETHERNET
from dataplane.records import RESET_TO_BACKEND, RESET_TO_CONSUMER, TO_CONSUMER, TO_SERVICE
from dataplane.runs.text import decimals, letters, put_address, put_number, put_word
from dataplane.topology.model import Topology
from dataplane.verdict import Verdict

#: The encapsulated hop between the networks, as a point.
BACKBONE = "backbone"

_FORWARDED = int(Verdict.FORWARDED)
_BYPASSED = int(Verdict.BYPASSED)

#: Where a packet's bytes are taken from.
_AS_IT_CAME, _REWRITTEN, _ENCAPSULATED = 0, 1, 2

#: More than a packet block takes beyond its frame: the backbone's headers, and the block's own parts with a comment.
_BLOCK_ROOM = OVERHEAD + 192
#: Written in one piece: small enough to stay in the second-level cache.
_OUT_BYTES = 1 << 20

_WRITTEN, _BUFFER_FULL, _NEW_INTERFACE, _OTHER_LINK_TYPE = 0, 1, 2, 3

_SESSION_FIRST, _SESSION_LAST, _NAT = (int.from_bytes(text, "little") for text in (b"sess", b"ion=", b" nat"))
_EQUALS, _COLON = ord("="), ord(":")


@kernel
def appearance(outcome: Any, place: Any, backbone: Any) -> Any:
    """The `place`th appearance (0 to 2) of a packet: (point, where its bytes are, direction); point -1 for none."""
    direction = outcome["direction"]
    consumer = np.int64(outcome["consumer_point"])
    provider = np.int64(outcome["provider_point"])
    if outcome["verdict"] != _FORWARDED:
        return (consumer if place == 0 else -1), _AS_IT_CAME, INBOUND
    if place == 1:
        return (-1 if direction == RESET_TO_BACKEND else backbone), _ENCAPSULATED, OUTBOUND
    if direction == RESET_TO_CONSUMER or direction == RESET_TO_BACKEND:  # it was made here and came in nowhere
        if place == 0:
            return -1, _AS_IT_CAME, OUTBOUND
        return (consumer if direction == RESET_TO_CONSUMER else provider), _AS_IT_CAME, OUTBOUND
    if direction == TO_SERVICE:
        if place == 0:
            return consumer, _AS_IT_CAME, INBOUND
        return provider, _REWRITTEN, OUTBOUND
    if direction == TO_CONSUMER:
        if place == 0:
            return provider, _AS_IT_CAME, INBOUND
        return consumer, _REWRITTEN, OUTBOUND
    if place == 0:
        return provider, _REWRITTEN, OUTBOUND
    return consumer, _AS_IT_CAME, INBOUND


@kernel
def put_bytes(out: Any, at: Any, source: Any, frame: Any, outcome: Any, buffers: Any, link_ids: Any) -> Any:
    """Write the bytes of an appearance at `out[at:]`; returns (captured, original) lengths.

    `buffers` is (as it came, rewritten). There has to be room for OVERHEAD bytes more than the frame has.
    """
    came, rewritten = buffers
    offset = np.int64(frame["offset"])
    captured = np.int64(frame["captured"])
    original = np.int64(frame["original"])
    if source != _ENCAPSULATED:
        data = came if source == _AS_IT_CAME else rewritten
        copy_bytes(out, at, data, offset, captured)
        return captured, original
    network = np.int64(outcome["network_header"])
    path = (
        np.int64(outcome["direction"]),
        np.int64(link_ids[outcome["endpoint"]]),
        np.int64(outcome["consumer_point"]),
        np.int64(outcome["provider_point"]),
    )
    consumer_form = rewritten if outcome["direction"] == TO_CONSUMER else came
    captured, original = encapsulate(
        out[at:], consumer_form, offset + network, captured - network, original - network, path
    )
    return np.int64(captured), np.int64(original)


@kernel
def link_type_of(source: Any, frame: Any) -> Any:
    """The link type of an appearance: the backbone is Ethernet."""
    return np.int64(LINK_ETHERNET) if source == _ENCAPSULATED else np.int64(frame["link_type"])


@kernel
def put_comment(out: Any, at: Any, outcome: Any, at_provider: Any, texts: Any) -> Any:
    """Write the comment of an appearance at `out[at:]`; the position after it. `texts` is (words, decimals).

    Rows of the words: the verdicts, then `verdict=`, ` idle_reset`.
    """
    words, table = texts
    if outcome["verdict"] != _FORWARDED:
        at = put_word(out, at, words, len(words) - 2)
        return put_word(out, at, words, np.int64(outcome["verdict"]))
    store32_little(out, at, _SESSION_FIRST)
    store32_little(out, at + 4, _SESSION_LAST)
    at = put_number(out, at + 8, outcome["session"], table)
    if at_provider:
        store32_little(out, at, _NAT)
        out[at + 4] = _EQUALS
        at = put_address(out, at + 5, np.int64(outcome["nat_address"]), table)
        out[at] = _COLON
        at = put_number(out, at + 1, np.int64(outcome["nat_port"]), table)
    if outcome["direction"] == RESET_TO_CONSUMER or outcome["direction"] == RESET_TO_BACKEND:
        at = put_word(out, at, words, len(words) - 1)
    return at


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


class Recorder:
    """Writes what was seen where, batch by batch: all points into one pcapng file, single points into pcap files.

    `pcapng` and the values of `pcaps` (by point) are binary files that the caller closes after `close`.
    """

    def __init__(
        self, topology: Topology, pcapng: BinaryIO | None, pcaps: Mapping[str, BinaryIO] | None = None
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
        self._out = np.empty(_OUT_BYTES, np.uint8)

    @property
    def active(self) -> bool:
        """Whether anything is written at all."""
        return self._writer is not None or bool(self._pcaps)

    def wants_original(self, frames: NDArray[Any]) -> bool:
        """Whether `record` will need these packets as they came: for a point where they came in, and the backbone."""
        points = {point for point, _ in self._pcaps}
        return (
            self._writer is not None
            or len(self._points) - 1 in points
            or any((frames["point"] == point).any() for point in points)
        )

    def record(self, came: NDArray[np.uint8] | None, batch: PacketBatch, outcomes: NDArray[Any]) -> None:
        """Write a batch: the bytes as they came, the batch as it was rewritten in place, and its OUTCOME rows.

        `came` may be left out where `wants_original` said so.
        """
        if not len(batch):
            return
        largest = int(batch.frames["captured"].max()) + _BLOCK_ROOM
        if len(self._out) < 2 * largest:  # a packet may appear twice at one point
            self._out = np.empty(4 * largest, np.uint8)
        buffers = (batch.data if came is None else came, batch.data)
        backbone = len(self._points) - 1
        for point, writer in self._pcaps:
            if self._points[point] in self.failures:
                continue
            self._write_pcap(point, writer, buffers, batch.frames, outcomes)
        if self._writer is None:
            return
        index = place = 0
        while True:
            counts = (self._writer.tallies, self._drops, self._recent)
            job = (buffers, self._link_ids, self._texts, self._interfaces, counts, np.int64(backbone))
            status, index, place, used = write_points(job, batch.frames, outcomes, index, place, self._out)
            self._writer.write_counted(self._out[:used])
            if status == _WRITTEN:
                return
            if status == _NEW_INTERFACE:
                self._add_interface(batch.frames[index], outcomes[index], int(place), backbone)

    def _add_interface(self, frame: Any, outcome: Any, place: int, backbone: int) -> None:
        assert self._writer is not None
        point, source, _ = appearance(outcome, place, backbone)
        link_type = LINK_ETHERNET if source == _ENCAPSULATED else int(frame["link_type"])
        self._writer.add_interface(self._points[int(point)], link_type)
        self._interfaces = np.vstack([self._interfaces, np.array([[point, link_type]], np.int64)])
        self._drops = np.append(self._drops, 0)

    def _write_pcap(
        self, point: int, writer: PcapWriter, buffers: Any, frames: NDArray[Any], outcomes: NDArray[Any]
    ) -> None:
        index = 0
        while index < len(frames):
            link_type = -1 if writer.link_type is None else writer.link_type
            job = (buffers, self._link_ids, np.int64(point), np.int64(len(self._points) - 1), np.int64(link_type))
            status, index, count, used, links = write_point(job, frames, outcomes, index, self._out)
            if status == _OTHER_LINK_TYPE:
                self.failures[self._points[point]] = (
                    f"--pcap {self._points[point]}=…: not written: a classic pcap has one link type, and packets of "
                    f"link types {', '.join(str(link) for link in sorted(links))} were seen there; capture.pcapng can "
                    "hold them all"
                )
                return
            if count:
                writer.write_records(self._out[:used], int(count), int(links[0]))

    def close(self) -> None:
        """Complete the files: interface statistics, headers of files with no packet."""
        if self._writer is not None:
            for number, dropped in enumerate(self._drops):
                self._writer.set_dropped(number, int(dropped))
            self._writer.close()
        for _, writer in self._pcaps:
            writer.close()
