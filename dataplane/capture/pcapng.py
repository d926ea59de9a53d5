"""pcapng: reading (draft-ietf-opsawg-pcapng; the writing side is in `pcapng_writer.py`).

A file is a row of blocks: type, total length, body padded to 32 bits, total length again. A Section Header
Block sets the byte order and forgets the interfaces; Interface Description Blocks declare them; packets come
as Enhanced, Simple or (obsolete) Packet Blocks; everything else is skipped. The section's own length is not
needed and not used. Packets and skipped blocks are the compiled scan's, the two rare blocks Python's.

A Simple Packet Block has no time: it takes 0 and belongs to the section's first interface. Lengths are kept
as written. Options of packets are read for `epb_flags` only; options that break off are not followed further.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.capture.errors import LARGEST_RECORD, CaptureError
from dataplane.capture.little_endian import load16_little, load32_little
from dataplane.capture.pcapng_time import CLOCK, clock, nanoseconds
from dataplane.kernel import kernel, load16, load32
from dataplane.packets.batch import FRAME, NO_POINT, TIME_UNREPRESENTABLE, Interface

MAGIC = bytes.fromhex("0a0d0d0a")

SECTION, INTERFACE, PACKET, SIMPLE, ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6

#: FRAME["interface"] has 16 bits.
_MOST_INTERFACES = 1 << 16

# What a scan is told and tells, in one int64 vector.
_AT, _STOP, _STATUS, _VALUE, _RULE, _BIG = range(6)

_FULL, _MORE, _RARE, _LENGTH, _TOO_LARGE, _TRAILER, _SHORT, _NO_INTERFACE, _CAPTURED = range(9)


@kernel
def _load16(data: Any, at: Any, big: Any) -> Any:
    """A 16-bit number in the section's byte order."""
    return load16(data, at) if big else load16_little(data, at)


@kernel
def _load32(data: Any, at: Any, big: Any) -> Any:
    """A 32-bit number in the section's byte order."""
    return load32(data, at) if big else load32_little(data, at)


@kernel
def _direction(data: Any, at: Any, stop: Any, big: Any) -> Any:
    """Bits 0-1 of the first flags option (code 2) between `at` and `stop`; 0 without one."""
    while stop - at >= 4:
        code, length = _load16(data, at, big), _load16(data, at + 2, big)
        if code == 0 or length > stop - at - 4:
            break
        if code == 2 and length == 4:
            direction = _load32(data, at + 4, big) & 3
            return direction if direction != 3 else 0
        at += 4 + ((length + 3) & ~3)
    return 0


@kernel
def scan_blocks(data: Any, frames: Any, clocks: Any, state: Any) -> Any:
    """Fill `frames` from the whole blocks in `data[at:stop]`, up to the next rare block; how many."""
    at, stop, big = state[_AT], state[_STOP], state[_BIG] != 0
    count = 0
    status = _FULL
    while True:
        if stop - at < 12:
            status = _MORE
            state[_VALUE] = 12
            break
        kind, length = _load32(data, at, big), _load32(data, at + 4, big)
        if kind == SECTION:  # in which byte order its length is, only Python knows
            status = _RARE
            break
        state[_VALUE] = length
        if length < 12 or length & 3:
            status = _LENGTH
            break
        if length > LARGEST_RECORD:
            status = _TOO_LARGE
            break
        if stop - at < length:
            status = _MORE
            break
        if _load32(data, at + length - 4, big) != length:
            state[_RULE] = _load32(data, at + length - 4, big)
            status = _TRAILER
            break
        if kind == INTERFACE:
            status = _RARE
            break
        if kind in (ENHANCED, PACKET):
            if length < 32:
                state[_RULE] = 32
                status = _SHORT
                break
            if kind == ENHANCED:
                which = _load32(data, at + 8, big)
            else:
                which = _load16(data, at + 8, big)
            captured, original = _load32(data, at + 20, big), _load32(data, at + 24, big)
            begin, room = at + 28, length - 32
        elif kind == SIMPLE:
            if length < 16:
                state[_RULE] = 16
                status = _SHORT
                break
            which = np.int64(0)
            original = _load32(data, at + 8, big)
            captured = original
            begin, room = at + 12, length - 16
        else:
            at += length
            continue
        if count == frames.shape[0]:
            break
        if which >= clocks.shape[0]:
            state[_VALUE], state[_RULE] = which, clocks.shape[0]
            status = _NO_INTERFACE
            break
        if kind == SIMPLE and clocks[which]["snaplen"] != 0:
            captured = min(captured, clocks[which]["snaplen"])
        if captured > room:
            state[_VALUE], state[_RULE] = captured, room
            status = _CAPTURED
            break
        frame = frames[count]
        if kind == SIMPLE:
            frame["time_ns"] = 0
            frame["direction"] = 0
            frame["flags"] = TIME_UNREPRESENTABLE  # it has none
        else:
            time_ns, fits = nanoseconds(
                clocks, which, _load32(data, at + 12, big), _load32(data, at + 16, big)
            )
            frame["time_ns"] = time_ns
            frame["flags"] = 0 if fits else TIME_UNREPRESENTABLE
            frame["direction"] = _direction(data, begin + ((captured + 3) & ~3), at + length - 4, big)
        frame["offset"] = begin
        frame["captured"] = captured
        frame["original"] = original
        frame["link_type"] = clocks[which]["link_type"]
        frame["interface"] = clocks[which]["index"]
        frame["point"] = NO_POINT
        count += 1
        at += length
    state[_AT] = at
    state[_STATUS] = status
    return count


class _Damaged(Exception):  # noqa: N818  (caught in this file, becomes the scanner's `damage`)
    """A rare block breaks a rule; the text says which."""


class PcapngScanner:
    """Finds the packets of a pcapng in a buffer that holds a part of the file."""

    format = "pcapng"
    spare = 0

    def __init__(self) -> None:
        self.user_application = ""
        self.position = 0
        self.need = 0
        self.damage: str | None = None
        self._sections = 0
        self._interfaces: list[Interface] = []
        self._tuple: tuple[Interface, ...] = ()
        self._clocks = np.zeros(0, CLOCK)
        self._state = np.zeros(6, np.int64)

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """Every interface so far, of all sections."""
        if len(self._tuple) != len(self._interfaces):
            self._tuple = tuple(self._interfaces)
        return self._tuple

    @property
    def _order(self) -> str:
        return ">" if self._state[_BIG] else "<"

    def open(self, data: NDArray[np.uint8], stop: int) -> bool:
        """Read the first section header and the interfaces right after it; false: more bytes are needed.

        Raises `CaptureError` (without the file's name) if the section header is unusable.
        """
        try:
            if not self._section(data, self.position, stop):
                return False
        except _Damaged as error:
            raise CaptureError(str(error)) from error
        self.scan(data, np.empty(0, FRAME), stop)
        return True

    def scan(self, data: NDArray[np.uint8], frames: NDArray[Any], stop: int) -> int:
        """Fill `frames` from `data[position:stop]`; sets `position` and `need` (bytes) or `damage`."""
        state = self._state
        count = 0
        self.need = 0
        while True:
            state[_AT], state[_STOP] = self.position, stop
            count += int(scan_blocks(data, frames[count:], self._clocks, state))
            self.position = int(state[_AT])
            status = int(state[_STATUS])
            if status != _RARE:
                break
            try:
                if data[self.position] == 0x0A:
                    if not self._section(data, self.position, stop):
                        return count
                else:
                    self._interface(data, self.position, int(state[_VALUE]))
            except _Damaged as error:
                self.damage = str(error)
                return count
        if status == _MORE:
            self.need = int(state[_VALUE])
        elif status != _FULL:
            self.damage = self._message(status, int(state[_VALUE]), int(state[_RULE]))
        return count

    @staticmethod
    def _message(status: int, value: int, rule: int) -> str:
        return {
            _LENGTH: f"block length {value} is not a multiple of 4 of at least 12",
            _TOO_LARGE: f"block length {value} exceeds the limit of {LARGEST_RECORD} bytes",
            _TRAILER: f"block length {value} at its start and {rule} at its end differ",
            _SHORT: f"block length {value} is below the {rule} bytes that a packet block needs",
            _NO_INTERFACE: f"interface {value} was not declared; the section has {rule} so far",
            _CAPTURED: f"captured length {value} exceeds the {rule} bytes that the block holds",
        }[status]

    def missing(self, have: int) -> str:
        """What to say when the file ends with `have` bytes of a block."""
        return f"the file ends within the block, after {have} of {self.need} bytes"

    def _section(self, data: NDArray[np.uint8], at: int, stop: int) -> bool:
        """Take the Section Header Block at `at`; false (and `need` set) if it is not all there."""
        self.need = 28
        if stop - at < 28:
            return False
        magic = data[at + 8 : at + 12].tobytes()
        if magic not in (b"\x1a\x2b\x3c\x4d", b"\x4d\x3c\x2b\x1a"):
            raise _Damaged(f"section header's byte-order magic is {magic.hex()}, not 1a2b3c4d either way")
        big = magic[0] == 0x1A
        order = ">" if big else "<"
        length = int(np.frombuffer(data, order + "u4", 1, at + 4)[0])
        if length < 28 or length & 3:
            raise _Damaged(f"section header's length {length} is not a multiple of 4 of at least 28")
        if length > LARGEST_RECORD:
            raise _Damaged(f"section header's length {length} exceeds the limit of {LARGEST_RECORD} bytes")
        major, minor = (int(number) for number in np.frombuffer(data, order + "u2", 2, at + 12))
        if major != 1:
            raise _Damaged(f"pcapng version {major}.{minor} is not known; version 1 is")
        self.need = length
        if stop - at < length:
            return False
        end = int(np.frombuffer(data, order + "u4", 1, at + length - 4)[0])
        if end != length:
            raise _Damaged(f"section header's length {length} at its start and {end} at its end differ")
        self._state[_BIG] = big
        options = self._options(data[at + 24 : at + length - 4].tobytes())
        if self._sections == 0:
            self.user_application = options.get(4, b"").decode("utf-8", "replace")
        self._sections += 1
        self._clocks = np.zeros(0, CLOCK)
        self.position = at + length
        self.need = 0
        return True

    def _interface(self, data: NDArray[np.uint8], at: int, length: int) -> None:
        """Take the whole Interface Description Block at `at`."""
        if length < 20:
            raise _Damaged(f"interface description's length {length} is below 20 bytes")
        if len(self._interfaces) == _MOST_INTERFACES:
            raise _Damaged(f"more than {_MOST_INTERFACES} interfaces")
        link_type = int(np.frombuffer(data, self._order + "u2", 1, at + 8)[0])
        snaplen = int(np.frombuffer(data, self._order + "u4", 1, at + 12)[0])
        options = self._options(data[at + 16 : at + length - 4].tobytes())
        resolution = options.get(9, b"\x06")
        offset = options.get(14, bytes(8))
        if len(resolution) != 1 or len(offset) != 8:
            raise _Damaged(
                f"if_tsresol has {len(resolution)} bytes, if_tsoffset {len(offset)}; the rule is 1 and 8"
            )
        seconds = int(np.frombuffer(offset, self._order + "i8")[0])
        row = clock(link_type, len(self._interfaces), snaplen, resolution[0], seconds)
        self._clocks = np.concatenate([self._clocks, row])
        name = options.get(2, b"").rstrip(b"\0").decode("utf-8", "replace")
        self._interfaces.append(Interface(name, link_type))
        self.position = at + length

    def _options(self, block: bytes) -> dict[int, bytes]:
        """Options of a rare block, the first of each code."""
        options: dict[int, bytes] = {}
        at = 0
        while at < len(block):
            code, length = (int(number) for number in np.frombuffer(block, self._order + "u2", 2, at))
            if code == 0:
                break
            if length > len(block) - at - 4:
                raise _Damaged(f"option {code} of {length} bytes runs beyond its block")
            options.setdefault(code, block[at + 4 : at + 4 + length])
            at += 4 + ((length + 3) & ~3)
        return options
