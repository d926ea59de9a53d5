"""pcapng: writing (draft-ietf-opsawg-pcapng); little-endian, nanoseconds, the same bytes on every machine.

`put_packet` appends one Enhanced Packet Block to a buffer and is called by kernels, as are its parts, for those who
write frame and comment straight to their place; `PcapngWriter` owns the file: section header, interfaces as they turn
up, blocks of packets, at the end one Interface Statistics Block per interface. The section header names the
application alone, not machine or system.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dataplane.capture.little_endian import copy_bytes, load32_little, store32_little
from dataplane.capture.pcapng import ENHANCED
from dataplane.kernel import kernel
from dataplane.packets.batch import PacketBatch

#: What is known of the packets written for one interface.
TALLY = np.dtype([("packets", np.int64), ("first_ns", np.int64), ("last_ns", np.int64)])

#: Of an Enhanced Packet Block, up to its frame.
PACKET_HEADER = 28

_MOST_INTERFACES = 1 << 16


@kernel
def packet_block_size(captured: Any, comment_length: Any) -> Any:
    """Bytes that `put_packet` writes for so many bytes of frame and of comment."""
    size = 32 + ((captured + 3) & ~3) + 12
    if comment_length > 0:
        size += 4 + ((comment_length + 3) & ~3)
    return size


@kernel
def begin_packet(out: Any, at: Any, interface: Any, time_ns: Any, lengths: Any) -> Any:
    """Begin an Enhanced Packet Block at `out[at:]`; where its frame goes. `lengths` is (captured, original).

    After the frame comes `pad`, perhaps a comment (its letters four bytes on, `end_comment`), then `end_packet`. A
    time before 1970 cannot be written and becomes 1970.
    """
    captured, original = lengths
    ticks = max(time_ns, 0)
    store32_little(out, at, ENHANCED)
    store32_little(out, at + 8, interface)
    store32_little(out, at + 12, ticks >> 32)
    store32_little(out, at + 16, ticks)
    store32_little(out, at + 20, captured)
    store32_little(out, at + 24, original)
    return at + PACKET_HEADER


@kernel
def pad(out: Any, begin: Any, at: Any) -> Any:
    """Zeros up to 32 bits from `begin` on; the position after them. Four bytes have to be left of the block."""
    store32_little(out, at, 0)
    return begin + ((at - begin + 3) & ~3)


@kernel
def end_comment(out: Any, option: Any, at: Any) -> Any:
    """Complete the comment whose letters lie in `out[option + 4:at]`; the position after it."""
    store32_little(out, option, 1 | (at - option - 4) << 16)
    return pad(out, option, at)


@kernel
def end_packet(out: Any, begin: Any, at: Any, direction: Any) -> Any:
    """End the block that began at `begin` with direction 0, 1 (inbound) or 2 (outbound); the position after it."""
    size = at + 16 - begin
    store32_little(out, begin + 4, size)
    store32_little(out, at, 2 | 4 << 16)
    store32_little(out, at + 4, direction)
    store32_little(out, at + 8, 0)
    store32_little(out, at + 12, size)
    return at + 16


@kernel
def put_packet(
    out: Any,
    at: Any,
    interface: Any,
    time_ns: Any,
    data: Any,
    offset: Any,
    captured: Any,
    original: Any,
    direction: Any,
    comment: Any,
    comment_length: Any,
) -> Any:
    """Write an Enhanced Packet Block at `out[at:]`, `packet_block_size` bytes; the position after it.

    The frame is `data[offset:offset + captured]`, the comment `comment[:comment_length]` (UTF-8, none for 0).
    """
    begin = at
    at = begin_packet(out, begin, interface, time_ns, (captured, original))
    copy_bytes(out, at, data, offset, captured)
    at = pad(out, begin, at + captured)
    if comment_length > 0:
        copy_bytes(out, at + 4, comment, 0, comment_length)
        at = end_comment(out, at, at + 4 + comment_length)
    return end_packet(out, begin, at, direction)


@kernel
def put_batch(out: Any, data: Any, frames: Any, interfaces: Any, comments: Any, ends: Any, index: Any) -> Any:
    """Write blocks for `frames[index:]` while they fit into `out`; (next index, bytes written).

    -1 bytes: a frame lies outside `data`. The comment of frame i is `comments[ends[i]:ends[i + 1]]`.
    """
    at = 0
    while index < frames.shape[0]:
        frame = frames[index]
        captured = np.int64(frame["captured"])
        if frame["offset"] < 0 or frame["offset"] + captured > data.shape[0]:
            return index, -1
        begin, length = ends[index], ends[index + 1] - ends[index]
        if at + packet_block_size(captured, length) > out.shape[0]:
            break
        at = put_packet(
            out,
            at,
            np.int64(interfaces[index]),
            frame["time_ns"],
            data,
            frame["offset"],
            captured,
            np.int64(frame["original"]),
            np.int64(frame["direction"]),
            comments[begin:],
            length,
        )
        index += 1
    return index, at


@kernel
def count_packet(tally: Any, time_ns: Any) -> None:
    """Count a packet, of a time since 1970, for its interface's statistics."""
    if tally["packets"] == 0 or time_ns < tally["first_ns"]:
        tally["first_ns"] = time_ns
    if tally["packets"] == 0 or time_ns > tally["last_ns"]:
        tally["last_ns"] = time_ns
    tally["packets"] += 1


@kernel
def tally_blocks(blocks: Any, tallies: Any) -> Any:
    """Count the Enhanced Packet Blocks in `blocks` per interface; the number of bytes that are whole."""
    at = 0
    while blocks.shape[0] - at >= 32:
        size = load32_little(blocks, at + 4)
        which = load32_little(blocks, at + 8)
        if load32_little(blocks, at) != ENHANCED or size < 32 or size > blocks.shape[0] - at:
            break
        if which >= tallies.shape[0]:
            break
        time_ns = (load32_little(blocks, at + 12) << 32) | load32_little(blocks, at + 16)
        count_packet(tallies[which], time_ns)
        at += size
    return at


def _option(code: int, value: bytes) -> bytes:
    header = np.array([code, len(value)], "<u2").tobytes()
    return header + value + bytes(-len(value) % 4)


def _text(code: int, text: str) -> bytes:
    """A text option, cut (between characters) to the 65535 bytes that one may have; nothing for ""."""
    value = text.encode()[:65_535].decode("utf-8", "ignore").encode()
    return _option(code, value) if value else b""


def _block(kind: int, body: bytes) -> bytes:
    length = len(body) + 12
    return np.array([kind, length], "<u4").tobytes() + body + np.array([length], "<u4").tobytes()


#: What our captures say wrote them; without a version, so that outputs of equal runs are equal bytes.
APPLICATION = "dataplane simulator"


class PcapngWriter:
    """Writes one pcapng section. Context manager; `close` adds the statistics.

    `file` is a path, or a binary file that is left open. `application` becomes `shb_userappl`; readers know
    our own captures by its start, `dataplane `. Times before 1970 are written as 1970 (times are unsigned).
    """

    def __init__(self, file: str | Path | BinaryIO, application: str = APPLICATION) -> None:
        self._own = isinstance(file, (str, Path))
        self._file: BinaryIO = open(file, "wb") if isinstance(file, (str, Path)) else file  # noqa: SIM115
        self._closed = False
        self._tallies = np.zeros(0, TALLY)
        self._given: dict[int, tuple[int, int, int, int]] = {}
        self._buffer = np.empty(0, np.uint8)
        body = np.array([0x1A2B3C4D, 0x0000_0001, 0xFFFFFFFF, 0xFFFFFFFF], "<u4").tobytes()
        options = _text(4, application)
        self._file.write(_block(0x0A0D0D0A, body + (options + bytes(4) if options else b"")))

    @property
    def packets(self) -> list[int]:
        """Packets written so far, by interface."""
        return [int(count) for count in self._tallies["packets"]]

    def add_interface(self, name: str, link_type: int, description: str = "", snaplen: int = 0) -> int:
        """Declare an interface, at any time before its first packet; its index. `snaplen` 0: no limit."""
        index = len(self._tallies)
        if index == _MOST_INTERFACES:
            raise ValueError(f"more than {_MOST_INTERFACES} interfaces")
        body = np.array([link_type, 0], "<u2").tobytes() + np.array([snaplen], "<u4").tobytes()
        body += _text(2, name) + _text(3, description) + _option(9, b"\x09") + bytes(4)
        self._file.write(_block(1, body))
        self._tallies = np.concatenate([self._tallies, np.zeros(1, TALLY)])
        return index

    def write_blocks(self, blocks: NDArray[np.uint8]) -> None:
        """Append blocks made by `put_packet`, of declared interfaces.

        Raises ValueError at the first that is broken or of another interface; those before it are written.
        """
        whole = int(tally_blocks(blocks, self._tallies))
        self._file.write(blocks.data[:whole])
        if whole != len(blocks):
            raise ValueError(f"no packet block of one of {len(self._tallies)} interfaces at byte {whole}")

    @property
    def tallies(self) -> NDArray[Any]:
        """What was written, a row of `TALLY` per interface declared so far; `count_packet` counts."""
        return self._tallies

    def write_counted(self, blocks: NDArray[np.uint8]) -> None:
        """Append whole blocks of declared interfaces that are in `tallies` already."""
        self._file.write(blocks.data)

    def write_batch(
        self,
        batch: PacketBatch,
        interface: int | NDArray[Any],
        comments: Sequence[str | None] | None = None,
    ) -> None:
        """Append the packets of a batch, on one interface or on one each, with a comment each if given."""
        frames = np.ascontiguousarray(batch.frames)
        data = np.ascontiguousarray(batch.data)
        interfaces = np.ascontiguousarray(np.broadcast_to(interface, len(frames)), np.int64)
        texts = [(text or "").encode()[:65_535] for text in comments or ()]
        if comments is not None and len(texts) != len(frames):
            raise ValueError(f"{len(texts)} comments for {len(frames)} packets")
        ends = np.zeros(len(frames) + 1, np.int64)
        if texts:
            np.cumsum([len(text) for text in texts], out=ends[1:])
        joined = np.frombuffer(bytearray(b"".join(texts)), np.uint8)
        if len(self._buffer) == 0:
            self._buffer = np.empty(1 << 20, np.uint8)
        index = 0
        while index < len(frames):
            done, used = put_batch(self._buffer, data, frames, interfaces, joined, ends, index)
            if used < 0:
                raise ValueError(f"packet {int(done) + 1} of the batch lies outside the batch's data")
            if used == 0:
                size = packet_block_size(int(frames["captured"][index]), int(ends[index + 1] - ends[index]))
                self._buffer = np.empty(size, np.uint8)
            self.write_blocks(self._buffer[: int(used)])
            index = int(done)

    def set_statistics(
        self, index: int, received: int, dropped: int, first_ns: int | None, last_ns: int | None
    ) -> None:
        """Say what the interface's statistics shall be, instead of what was written to it (none dropped)."""
        if not 0 <= index < len(self._tallies):
            raise ValueError(f"interface {index} was not added; there are {len(self._tallies)}")
        self._given[index] = (
            received,
            dropped,
            -1 if first_ns is None else max(first_ns, 0),
            -1 if last_ns is None else max(last_ns, 0),
        )

    def set_dropped(self, index: int, dropped: int) -> None:
        """Say how many of the interface's packets were dropped; the other statistics are those of what was written."""
        tally = self._tallies[index]
        times = (int(tally["first_ns"]), int(tally["last_ns"])) if tally["packets"] else (None, None)
        self.set_statistics(index, int(tally["packets"]), dropped, *times)

    def _statistics(self, index: int) -> bytes:
        """The Interface Statistics Block; times are nanoseconds, high word first."""
        tally = self._tallies[index]
        count = int(tally["packets"])
        seen = (count, 0, int(tally["first_ns"]) if count else -1, int(tally["last_ns"]) if count else -1)
        received, dropped, first, last = self._given.get(index, seen)
        times = [
            np.array([time >> 32, time & 0xFFFFFFFF], "<u4").tobytes() for time in (first, last) if time >= 0
        ]
        body = np.array([index], "<u4").tobytes() + (times[-1] if times else bytes(8))
        if first >= 0:
            body += _option(2, times[0])
        if last >= 0:
            body += _option(3, times[-1])
        body += _option(4, received.to_bytes(8, "little")) + _option(5, dropped.to_bytes(8, "little"))
        return _block(5, body + bytes(4))

    def close(self) -> None:
        """Write the statistics and flush; closes the file if it was opened here."""
        if self._closed:
            return
        self._closed = True
        for index in range(len(self._tallies)):
            self._file.write(self._statistics(index))
        if self._own:
            self._file.close()
        else:
            self._file.flush()

    def __enter__(self) -> PcapngWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
