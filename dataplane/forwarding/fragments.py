"""The fragments of a batch, and the batch in an order in which they can be translated. Before the pipeline, per batch.

Reads frames and bytes as `classify` does; what waits and what goes on is decided in `nat/fragments.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.forwarding.classify import classify, read_rest
from dataplane.forwarding.clock import is_usable
from dataplane.forwarding.events import take_place
from dataplane.forwarding.tables import build_state, events_of
from dataplane.kernel import kernel, load16, load32
from dataplane.nat.fragments import UNRESOLVED, Extent, FragmentQueue
from dataplane.packets.batch import FIRST_TIME, LAST_TIME, TIME_UNREPRESENTABLE, WAITED, PacketBatch
from dataplane.packets.headers import (
    DESTINATION,
    FRAGMENT,
    FRAGMENT_OFFSET,
    IDENTIFICATION,
    IPV4_LENGTH,
    MORE_FRAGMENTS,
    SOURCE,
    link_header,
)
from dataplane.records import EITHER, FIRST_FRAGMENT, FRAGMENT_ROW, LATER_FRAGMENT, PACKET, TO_SERVICE
from dataplane.topology.model import Topology
from dataplane.verdict import Verdict

_FORWARDED = int(Verdict.FORWARDED)

#: A packet that waits: its FRAME row and its bytes.
Held = tuple[NDArray[Any], bytes]


@kernel
def find_fragments(state: Any, frames: Any, data: Any, begin: Any, packet: Any, found: Any) -> Any:
    """Fill FRAGMENT_ROW rows with the fragments that are to be translated, from frame `begin` on, as far as they reach.

    Returns (next frame, rows filled). `packet` is a PACKET row for scratch.
    """
    count = 0
    for index in range(begin, len(frames)):
        frame = frames[index]
        start = frame["offset"]
        captured = np.int64(frame["captured"])
        length = link_header(data, start, captured, np.int64(frame["link_type"]))
        if length < 0 or captured - length < IPV4_LENGTH:
            continue
        network = start + length
        word = load16(data, network + FRAGMENT) & (MORE_FRAGMENTS | FRAGMENT_OFFSET)
        if word == 0:
            continue
        classify(state, frame, data, packet)
        if packet["direction"] == EITHER:
            nobody = np.int64(-1)
            route = (load32(data, network + SOURCE), load32(data, network + DESTINATION), nobody, nobody)
            read_rest(state, frame, data, packet, np.int64(TO_SERVICE), route)
        if (packet["kind"] != FIRST_FRAGMENT and packet["kind"] != LATER_FRAGMENT) or packet["fault"] != _FORWARDED:
            continue
        if count == len(found):
            return index, count
        row = found[count]
        row["index"] = index
        row["source"] = load32(data, network + SOURCE)
        row["destination"] = load32(data, network + DESTINATION)
        row["protocol"] = packet["protocol"]
        row["identification"] = load16(data, network + IDENTIFICATION)
        row["begin"] = word & FRAGMENT_OFFSET
        row["bytes"] = np.int64(packet["bytes"]) - (packet["transport_header"] - network)
        row["more"] = word & MORE_FRAGMENTS != 0
        count += 1
    return len(frames), count


class Sequencer:
    """Puts the packets of batches in an order in which first fragments come first; holds what has to wait.

    It stands before the pipeline, which has not seen the batch at hand. So events take place here too, in a state of
    which only the topology counts: which fragments are to be translated depends on the NAT IPs that there are.
    """

    def __init__(self, topology: Topology, seed: int) -> None:
        self._queue: FragmentQueue[Held] = FragmentQueue()
        self._packet = np.zeros(1, PACKET)[0]
        self._topology, self._seed = topology, seed
        self._state = build_state(topology, seed, logging=False, rows=1)
        self._events = deque(events_of(topology))  # that are to come
        self._now = FIRST_TIME
        self._begun = False  # a packet has arrived: time begins with the first one
        self._origin: int | None = None  # the clock at the first packet that went on, from which events count

    @property
    def waiting(self) -> int:
        """How many packets wait."""
        return self._queue.waiting

    def sequence(self, clock: Any, batch: PacketBatch) -> PacketBatch:
        """The packets to be processed now, in order: without those that wait, with those that wait no longer.

        `clock` is the row of CLOCK of what has been received so far.
        """
        frames = batch.frames
        self._begun |= len(frames) > 0
        if clock["started"]:
            self._origin = int(clock["origin"])
            self._now = max(self._now, int(clock["now"]))
        usable = frames["flags"] & TIME_UNREPRESENTABLE == 0
        usable &= (frames["time_ns"] >= FIRST_TIME) & (frames["time_ns"] <= LAST_TIME)
        times = np.where(usable, frames["time_ns"], FIRST_TIME)
        times = np.maximum.accumulate(times)
        order = _Order(batch)
        done, count = 0, 0
        while done < len(frames):
            self._now = max(self._now, int(times[done]))
            fragments = self._find(batch, done, end := self._until_event(times, done))
            count += len(fragments)
            if self._origin is None and not len(fragments):
                self._begin(frames[done])
            for row in fragments:
                index = int(row["index"])
                order.keep(index)
                self._now = max(self._now, int(times[index]))
                held = (frames[index : index + 1].copy(), batch[index])
                going = self._arrive(row, held)
                if self._origin is None and going:
                    self._begin(going[0][0][0][0])
                order.put(going, held)
                order.skip(index)
            order.keep(end)
            done = end
        if len(frames):
            self._now = max(self._now, int(times[-1]))
        return order.batch() if count else replace(batch, datagrams=np.zeros(0, np.int32))

    def _begin(self, frame: Any) -> None:
        """The first packet goes on: the clock is its time, or 0 if it has none."""
        self._origin = int(frame["time_ns"]) if is_usable(frame) else 0
        self._now = max(self._now, self._origin)

    def _until_event(self, times: NDArray[np.int64], begin: int) -> int:
        """Let the events take place that come before frame `begin`; the first frame that another one comes before."""
        if self._origin is None:
            return begin + 1  # does it go on?
        while self._events and self._origin + self._events[0].at <= self._now:
            take_place(self._state, self._topology, self._seed, self._events.popleft())
        if not self._events or (moment := self._origin + self._events[0].at) > LAST_TIME:
            return len(times)
        return begin + int(np.searchsorted(times[begin:], moment))

    def _arrive(self, row: Any, held: Held) -> list[tuple[Held, int]]:
        """What goes on when this fragment has arrived."""
        names = ("source", "destination", "protocol", "identification")
        key = (int(held[0][0]["point"]), *(int(row[name]) for name in names))
        begin = int(row["begin"])
        extent = Extent(begin, begin + -(-int(row["bytes"]) // 8), bool(row["more"]))
        return list(self._queue.arrive(key, extent, held, self._now))  # type: ignore[arg-type]

    def forget(self, now_ns: int) -> PacketBatch:
        """Time passes: what has waited too long."""
        if not self._begun:
            return self._only(())
        self._now = max(self._now, now_ns)
        return self._only(self._queue.forget(self._now))

    def finish(self) -> PacketBatch:
        """The input ends: whatever waits."""
        return self._only(self._queue.finish())

    def _only(self, going: Iterable[tuple[Held, int]]) -> PacketBatch:
        order = _Order(PacketBatch.from_bytes([]))
        order.put(going)
        return order.batch()

    def _find(self, batch: PacketBatch, begin: int, end: int) -> NDArray[Any]:
        parts = []
        while begin < end:
            found = np.zeros(4096, FRAGMENT_ROW)
            begin, count = find_fragments(self._state, batch.frames[:end], batch.data, begin, self._packet, found)
            parts.append(found[:count])
        return np.concatenate(parts)


class _Order:
    """A batch that is put together from another one and from packets that waited."""

    def __init__(self, batch: PacketBatch) -> None:
        self._batch = batch
        self._next = 0  # the first frame that has not been looked at
        self._frames: list[NDArray[Any]] = []
        self._marks: list[NDArray[np.int32]] = []
        self._added: list[bytes] = []
        self._size = len(batch.data)

    def keep(self, until: int) -> None:
        """The frames up to this one, as they are."""
        if until > self._next:
            self._frames.append(self._batch.frames[self._next : until])
            self._marks.append(np.full(until - self._next, UNRESOLVED, np.int32))
        self._next = until

    def skip(self, index: int) -> None:
        """Frame `index` has been put, or waits."""
        self._next = index + 1

    def put(self, going: Iterable[tuple[Held, int]], arriving: Held | None = None) -> None:
        """Packets that go on now; all but the arriving one waited."""
        for held, mark in going:
            frame, content = held
            if held is not arriving:
                frame = frame.copy()
                frame["offset"] = self._size
                frame["flags"] |= WAITED
                self._added.append(content)
                self._size += len(content)
            self._frames.append(frame)
            self._marks.append(np.full(1, mark, np.int32))

    def batch(self) -> PacketBatch:
        batch = self._batch
        data = batch.data
        if self._added:
            data = np.concatenate([data, np.frombuffer(b"".join(self._added), np.uint8)])
        frames = np.concatenate(self._frames) if self._frames else batch.frames[:0]
        marks = np.concatenate(self._marks) if self._marks else np.zeros(0, np.int32)
        return PacketBatch(data, frames, batch.interfaces, marks)
