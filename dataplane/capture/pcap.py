"""Classic pcap: reading and writing.

A 24-byte header, then records of a 16-byte header and the captured bytes (draft-ietf-opsawg-pcap). The magic
number gives byte order and time unit: A1B2C3D4 microseconds, A1B23C4D nanoseconds, A1B2CD34 microseconds
with 8 more bytes per record header (Kuznetzov's patched libpcap). Seconds are unsigned 32 bits: 1970 to 2106.
A fraction of a second or more carries over. Of the link type field the low 16 bits count (the rest speaks of
the frame check sequence). Lengths are kept as written, even a captured length above the original one, as
libpcap and Wireshark do; files before version 2.4 may have the two swapped, as libpcap undoes.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dataplane.capture.errors import LARGEST_RECORD, USUAL_SNAPLEN, CaptureError
from dataplane.capture.little_endian import copy_bytes, load32_little, store32_little
from dataplane.kernel import kernel, load32
from dataplane.packets.batch import NO_POINT, Interface, PacketBatch

#: First four bytes -> (bytes are big-endian, nanoseconds per fraction unit, record header's length).
MAGIC = {
    bytes.fromhex("d4c3b2a1"): (False, 1000, 16),
    bytes.fromhex("a1b2c3d4"): (True, 1000, 16),
    bytes.fromhex("4d3cb2a1"): (False, 1, 16),
    bytes.fromhex("a1b23c4d"): (True, 1, 16),
    bytes.fromhex("34cdb2a1"): (False, 1000, 24),
    bytes.fromhex("a1b2cd34"): (True, 1000, 24),
}

FILE_HEADER = 24
#: Of the records that are written.
RECORD_HEADER = 16

# What a scan is told and tells, in one int64 vector.
_AT, _STOP, _STATUS, _VALUE, _BIG, _UNIT, _HEADER, _LIMIT, _LINK_TYPE, _SWAP = range(10)

_MORE, _FULL, _TOO_LONG = range(3)


@kernel
def scan_records(data: Any, frames: Any, state: Any) -> Any:
    """Fill `frames` from the whole records in `data[at:stop]`; the number of frames."""
    at, stop, header = state[_AT], state[_STOP], state[_HEADER]
    big, unit, limit = state[_BIG] != 0, state[_UNIT], state[_LIMIT]
    link_type, swap = state[_LINK_TYPE], state[_SWAP]
    count = 0
    status = _FULL
    while count < frames.shape[0]:
        if stop - at < header:
            status = _MORE
            state[_VALUE] = header
            break
        if big:
            seconds, fraction = load32(data, at), load32(data, at + 4)
            captured, original = load32(data, at + 8), load32(data, at + 12)
        else:
            seconds, fraction = load32_little(data, at), load32_little(data, at + 4)
            captured, original = load32_little(data, at + 8), load32_little(data, at + 12)
        if swap == 2 or (swap == 1 and captured > original):
            captured, original = original, captured
        if captured > limit:
            status = _TOO_LONG
            state[_VALUE] = captured
            break
        if stop - at - header < captured:
            status = _MORE
            state[_VALUE] = header + captured
            break
        frame = frames[count]
        frame["offset"] = at + header
        frame["time_ns"] = seconds * 1_000_000_000 + fraction * unit
        frame["captured"] = captured
        frame["original"] = original
        frame["link_type"] = link_type
        frame["interface"] = 0
        frame["point"] = NO_POINT
        frame["direction"] = 0
        frame["flags"] = 0
        count += 1
        at += header + captured
    state[_AT] = at
    state[_STATUS] = status
    return count


class PcapScanner:
    """Finds the packets of a classic pcap in a buffer that holds a part of the file."""

    format = "pcap"
    user_application = ""

    def __init__(self, header: bytes) -> None:
        """Read the file header; raises `CaptureError` (without the file's name)."""
        big, unit, record_header = MAGIC[header[:4]]
        if len(header) < FILE_HEADER:
            raise CaptureError(f"the pcap header is cut short: {len(header)} of {FILE_HEADER} bytes")
        order = ">" if big else "<"
        major, minor = (int(number) for number in np.frombuffer(header, order + "u2", 2, 4))
        snaplen, link = (int(number) for number in np.frombuffer(header, order + "u4", 2, 16))
        if major != 2:
            raise CaptureError(f"pcap version {major}.{minor} is not known; versions 2.0 to 2.4 are")
        self.limit = min(max(snaplen, USUAL_SNAPLEN), LARGEST_RECORD)
        self.interfaces = (Interface("", link & 0xFFFF),)
        self.spare = record_header
        self.position = FILE_HEADER
        self.need = 0
        self.damage: str | None = None
        swap = 2 if minor < 3 else 1 if minor == 3 else 0
        self._state = np.array(
            [0, 0, 0, 0, big, unit, record_header, self.limit, link & 0xFFFF, swap], np.int64
        )

    def scan(self, data: NDArray[np.uint8], frames: NDArray[Any], stop: int) -> int:
        """Fill `frames` from `data[position:stop]`; sets `position` and `need` (bytes) or `damage`."""
        state = self._state
        state[_AT], state[_STOP] = self.position, stop
        count = int(scan_records(data, frames, state))
        self.position = int(state[_AT])
        self.need = int(state[_VALUE]) if state[_STATUS] == _MORE else 0
        if state[_STATUS] == _TOO_LONG:
            self.damage = f"captured length {int(state[_VALUE])} exceeds the limit of {self.limit} bytes"
        return count

    def missing(self, have: int) -> str:
        """What to say when the file ends with `have` bytes of a record."""
        return f"the file ends within the packet, after {have} of {self.need} bytes"


@kernel
def put_record_header(out: Any, at: Any, time_ns: Any, lengths: Any) -> Any:
    """Write a record's header at `out[at:]`; where its frame goes. `lengths` is (captured, original)."""
    captured, original = lengths
    time_ns = min(max(time_ns, 0), 4_294_967_295_999_999_999)
    seconds = time_ns // 1_000_000_000
    store32_little(out, at, seconds)
    store32_little(out, at + 4, time_ns - seconds * 1_000_000_000)
    store32_little(out, at + 8, captured)
    store32_little(out, at + 12, original)
    return at + RECORD_HEADER


@kernel
def put_record(out: Any, at: Any, time_ns: Any, lengths: Any, data: Any, offset: Any) -> Any:
    """Write a record at `out[at:]`; the position after it. `lengths` is (captured, original)."""
    at = put_record_header(out, at, time_ns, lengths)
    copy_bytes(out, at, data, offset, lengths[0])
    return at + lengths[0]


@kernel
def put_records(out: Any, data: Any, frames: Any, state: Any) -> Any:
    """Write records for `frames[state[0]:]` to `out` while they fit; the bytes written.

    Moves `state[0]`. -1: a frame lies outside `data`.
    """
    index, at = state[0], np.int64(0)
    while index < frames.shape[0]:
        frame = frames[index]
        captured = np.int64(frame["captured"])
        if frame["offset"] < 0 or frame["offset"] + captured > data.shape[0]:
            state[0] = index
            return np.int64(-1)
        if at + RECORD_HEADER + captured > out.shape[0]:
            break
        at = put_record(out, at, frame["time_ns"], (captured, np.int64(frame["original"])), data, frame["offset"])
        index += 1
    state[0] = index
    return at


class PcapWriter:
    """Writes classic pcap with nanosecond times, little-endian, snap length 262144.

    A classic pcap has one link type: that of the first packet unless `link_type` is given. Times before 1970
    are written as 1970, times after 2106 as the last one that fits. Context manager; `close` flushes, and
    closes the file if it was opened here.
    """

    def __init__(self, file: str | Path | BinaryIO, link_type: int | None = None) -> None:
        self._own = isinstance(file, (str, Path))
        self._file: BinaryIO = open(file, "wb") if isinstance(file, (str, Path)) else file  # noqa: SIM115
        self._name = str(getattr(self._file, "name", "the pcap"))
        self._buffer = np.empty(1 << 20, np.uint8)
        self._closed = False
        self.link_type: int | None = None
        self.packets = 0
        if link_type is not None:
            self.start(link_type)

    def start(self, link_type: int) -> None:
        """Write the file's header, which says the link type; once, before the first packet."""
        header = np.array([0xA1B23C4D, 0x0004_0002, 0, 0, USUAL_SNAPLEN, link_type], "<u4")
        self._file.write(header.tobytes())
        self.link_type = link_type

    def write_batch(self, batch: PacketBatch) -> None:
        """Append the packets. Raises ValueError, writing nothing, for a packet of a second link type."""
        if len(batch) == 0:
            return
        links = batch.frames["link_type"]
        expected = int(links[0]) if self.link_type is None else self.link_type
        if (links != expected).any():
            other = int(links[links != expected][0])
            raise ValueError(
                f"{self._name}: a classic pcap has one link type; it has {expected}, "
                f"a packet of link type {other} does not fit (pcapng would hold both)"
            )
        if self.link_type is None:
            self.start(expected)
        frames = np.ascontiguousarray(batch.frames)
        data = np.ascontiguousarray(batch.data)
        state = np.zeros(1, np.int64)
        while state[0] < len(frames):
            used = int(put_records(self._buffer, data, frames, state))
            if used < 0:
                raise ValueError(f"packet {int(state[0]) + 1} of the batch lies outside the batch's data")
            if used == 0:
                self._buffer = np.empty(RECORD_HEADER + int(frames["captured"][int(state[0])]), np.uint8)
            self._file.write(self._buffer.data[:used])
        self.packets += len(batch)

    def write_records(self, records: NDArray[np.uint8], packets: int) -> None:
        """Append bytes that hold so many records as `put_record` makes them, of a file that was started."""
        self._file.write(records.data)
        self.packets += packets

    def close(self) -> None:
        """Finish the file; one without packets and link type says Ethernet (1)."""
        if self._closed:
            return
        self._closed = True
        if self.link_type is None:
            self.start(1)
        if self._own:
            self._file.close()
        else:
            self._file.flush()

    def __enter__(self) -> PcapWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
