"""Several captures as one, by the time of each one's next packet.

File order is kept within a capture, even where its times run backwards; of equal times the capture named
first comes first. A frame whose time cannot be kept (`TIME_UNREPRESENTABLE`) does not wait: it goes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.capture.errors import CaptureError
from dataplane.capture.place import place
from dataplane.kernel import kernel
from dataplane.packets.batch import FRAME, TIME_UNREPRESENTABLE, Interface, PacketBatch

#: What a caller does to each batch of a capture before it is merged: name its point, drop frames, ...
Prepare = Callable[[PacketBatch], PacketBatch]

#: A merged batch has at most so many packets, and so many bytes unless one frame alone has more.
MERGED_PACKETS = 1 << 16
MERGED_BYTES = 8 << 20

_AT_ONCE = -(2**63)


@kernel
def choose(times: Any, lengths: Any, heads: Any, stops: Any, rows: Any, chosen: Any) -> Any:
    """Merge the heads until a capture runs out of packets or the output is full; the number of packets.

    `times[k, heads[k]:stops[k]]` are those of capture k still to come. Fills `chosen` with captures and
    `rows["offset"]` with the places of their frames one after another, and moves `heads`.
    """
    count, used = 0, 0
    while count < rows.shape[0]:
        best, earliest = -1, np.int64(0)
        for capture in range(heads.shape[0]):
            if heads[capture] < stops[capture]:
                time_ns = times[capture, heads[capture]]
                if best < 0 or time_ns < earliest:
                    best, earliest = capture, time_ns
        if best < 0:
            break
        length = lengths[best, heads[best]]
        if count > 0 and used + length > MERGED_BYTES:
            break
        rows[count]["offset"] = used
        chosen[count] = best
        used += length
        count += 1
        heads[best] += 1
        if heads[best] == stops[best]:
            break
    return count


class _Capture:
    """One capture of the merge: its current batch, and what its interfaces are called in the whole."""

    def __init__(self, batches: Iterable[PacketBatch], prepare: Prepare | None) -> None:
        self._batches = iter(batches)
        self._prepare = prepare
        self.data = np.empty(0, np.uint8)
        self.frames = np.empty(0, FRAME)
        self.mapping = np.empty(0, np.int64)

    def next_batch(self) -> PacketBatch | None:
        """The next batch that has packets after it was prepared; None at the end."""
        for batch in self._batches:
            prepared = self._prepare(batch) if self._prepare is not None else batch
            if len(prepared):
                return prepared
        return None

    def load(self, batch: PacketBatch, interfaces: list[Interface]) -> None:
        """Take a batch; interfaces that are new join the whole's."""
        known = len(self.mapping)
        added = batch.interfaces[known:]
        if len(interfaces) + len(added) > 1 << 16:
            raise CaptureError("the captures have more than 65536 interfaces together")
        new = np.arange(len(interfaces), len(interfaces) + len(added))
        self.mapping = np.concatenate([self.mapping, new])
        interfaces.extend(added)
        self.data = np.ascontiguousarray(batch.data)
        self.frames = np.ascontiguousarray(batch.frames)


def merge(
    captures: Sequence[Iterable[PacketBatch] | tuple[Iterable[PacketBatch], Prepare | None]],
) -> Iterator[PacketBatch]:
    """The packets of all captures (readers or any other batches) in the order of each one's next packet.

    A capture comes alone or with a function that prepares each of its batches: relabels frames or drops some
    (returning a batch with fewer rows). Interfaces are numbered anew, the batches' `interfaces` are those of
    all captures so far. A single capture's batches are passed on as they are. Merged batches have memory of
    their own, valid until the next one is asked for. Damage stays with the readers, the others go on.
    """
    sources = [_Capture(*entry) if isinstance(entry, tuple) else _Capture(entry, None) for entry in captures]
    if len(sources) == 1:
        while (batch := sources[0].next_batch()) is not None:
            yield batch
        return
    merger = _Merger(sources)
    while (batch := merger.next_batch()) is not None:
        yield batch


class _Merger:
    """The state of a merge of several captures."""

    def __init__(self, captures: list[_Capture]) -> None:
        self._captures = captures
        count = len(captures)
        self._times = np.zeros((count, 0), np.int64)
        self._lengths = np.zeros((count, 0), np.int64)
        self._heads = np.zeros(count, np.int64)
        self._stops = np.zeros(count, np.int64)
        self._interfaces: list[Interface] = []
        self._empty = list(range(count))
        self._out = np.empty(0, np.uint8)
        self._rows = np.empty(MERGED_PACKETS, FRAME)
        self._chosen = np.empty(MERGED_PACKETS, np.int32)

    def _load(self, index: int) -> None:
        """Take the next batch of a capture, if it has one."""
        capture = self._captures[index]
        batch = capture.next_batch()
        self._heads[index] = self._stops[index] = 0
        if batch is None:
            return
        capture.load(batch, self._interfaces)
        count = len(batch)
        if count > self._times.shape[1]:
            room = ((0, 0), (0, count - self._times.shape[1]))
            self._times, self._lengths = np.pad(self._times, room), np.pad(self._lengths, room)
        frames = capture.frames
        self._times[index, :count] = frames["time_ns"]
        self._times[index, :count][(frames["flags"] & TIME_UNREPRESENTABLE) != 0] = _AT_ONCE
        self._lengths[index, :count] = frames["captured"]
        self._stops[index] = count

    def next_batch(self) -> PacketBatch | None:
        """The next merged batch; None at the end."""
        for index in self._empty:
            self._load(index)
        before: NDArray[np.int64] = self._heads.copy()
        count = int(choose(self._times, self._lengths, self._heads, self._stops, self._rows, self._chosen))
        if count == 0:
            return None
        self._empty = [
            index
            for index in range(len(self._captures))
            if before[index] < self._stops[index] == self._heads[index]
        ]
        last = int(self._chosen[count - 1])
        total = int(self._rows[count - 1]["offset"]) + int(self._lengths[last, self._heads[last] - 1])
        if total > len(self._out):
            self._out = np.empty(max(total, MERGED_BYTES), np.uint8)
        rows, chosen = self._rows[:count], self._chosen[:count]
        for index, capture in enumerate(self._captures):
            head, stop = int(before[index]), int(self._heads[index])
            if stop > head:
                frames = capture.frames[head:stop]
                if place(self._out, rows, chosen, index, capture.data, frames, capture.mapping) < 0:
                    raise ValueError("a frame lies outside its batch's data or names no interface of it")
        return PacketBatch(self._out[:total], rows, tuple(self._interfaces))
