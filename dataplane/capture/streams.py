"""Bytes of an input as they are stored and, where it is compressed, as they were: plain, gzip, zstd.

Every stream has `readinto(view) -> int` (0 at the end) and raises `StreamDamage` where its bytes break.
gzip: RFC 1952, several members one after another. zstd: RFC 8878, several frames, skippable ones included.
"""

import hashlib
import zlib
from typing import Any, BinaryIO, Protocol

import zstandard

_BLOCK = 1 << 16


class StreamDamage(Exception):  # noqa: N818  (a condition that the reader reports, not an error of its own)
    """The stored bytes cannot be read or decompressed any further."""


class Stream(Protocol):
    """Where a capture's bytes come from."""

    def readinto(self, view: memoryview) -> int:
        """Fill the start of `view`; the number of bytes, 0 at the end."""


class Stored:
    """The input as it is stored: counts its bytes and, if asked, digests them."""

    def __init__(self, file: BinaryIO, digest: bool) -> None:
        self._file: Any = file
        self._readinto = getattr(file, "readinto", None)
        self.digesting = digest
        self._hash = hashlib.sha256() if digest else None
        self._ahead = b""
        self._ended = False
        self.count = 0

    def readinto(self, view: memoryview) -> int:
        """Fill the start of `view`; the number of bytes, 0 at the end."""
        if self._ahead:
            count = min(len(view), len(self._ahead))
            view[:count] = self._ahead[:count]
            self._ahead = self._ahead[count:]
            return count
        try:
            if self._readinto is not None:
                count = self._readinto(view) or 0
            else:
                block = self._file.read(len(view)) or b""
                count = len(block)
                view[:count] = block
        except OSError as error:
            self._ended = True
            raise StreamDamage(f"cannot be read: {error.strerror or error}") from error
        self.count += count
        if self._hash is not None:
            self._hash.update(view[:count])
        self._ended = count == 0
        return count

    def read(self, size: int = _BLOCK) -> bytes:
        """At most `size` bytes; empty at the end."""
        block = bytearray(size)
        return bytes(block[: self.readinto(memoryview(block))])

    def peek(self, size: int) -> bytes:
        """The next `size` bytes (fewer at the end), which stay to be read."""
        ahead = self._ahead
        self._ahead = b""
        while len(ahead) < size and (block := self.read()):
            ahead += block
        self._ahead = ahead
        return ahead[:size]

    def drain(self) -> None:
        """Read on to the end, so that the digest covers the whole input."""
        self._ahead = b""
        block = memoryview(bytearray(1 << 20))
        try:
            while not self._ended and self.readinto(block):
                pass
        except StreamDamage:
            pass

    def hexdigest(self) -> str | None:
        """SHA-256 of everything, once the end was reached."""
        return self._hash.hexdigest() if self._hash is not None and self._ended else None


class Gzip:
    """What gzip members hold, one after another."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._member: Any = zlib.decompressobj(31)
        self._pending = b""

    def readinto(self, view: memoryview) -> int:
        """Fill the start of `view`; the number of bytes, 0 at the end."""
        while True:
            if self._member is None:
                # Zero bytes after a member are tape padding (gzip's own reading).
                self._pending = self._pending.lstrip(b"\0")
                if not self._pending:
                    self._pending = self._stored.read()
                    if not self._pending:
                        return 0
                    continue
                self._member = zlib.decompressobj(31)
            try:
                block = self._member.decompress(self._pending, min(len(view), 1 << 20))
            except zlib.error as error:
                raise StreamDamage(f"the gzip data are damaged: {error}") from error
            if self._member.eof:
                self._pending = self._member.unused_data
                self._member = None
            else:
                self._pending = self._member.unconsumed_tail
            if block:
                view[: len(block)] = block
                return len(block)
            if self._member is not None and not self._pending:
                self._pending = self._stored.read()
                if not self._pending:
                    raise StreamDamage("the gzip data end too early")


class Zstd:
    """What zstd frames hold, one after another."""

    # The decompressor cannot bound its output; small steps do (a block of 4 bytes gives at most 128 KiB).
    _STEP = 4096

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._frame: Any = None
        self._pending = b""
        self._ready = memoryview(b"")

    def readinto(self, view: memoryview) -> int:
        """Fill the start of `view`; the number of bytes, 0 at the end."""
        while not self._ready:
            step = self._pending[: self._STEP] or self._stored.read(self._STEP)
            self._pending = self._pending[self._STEP :]
            if not step:
                if self._frame is not None:
                    raise StreamDamage("the zstd data end too early")
                return 0
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            try:
                self._ready = memoryview(self._frame.decompress(step))
            except zstandard.ZstdError as error:
                raise StreamDamage(f"the zstd data are damaged: {error}") from error
            if self._frame.eof:
                self._pending = self._frame.unused_data + self._pending
                self._frame = None
        count = min(len(view), len(self._ready))
        view[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def decompressed(stored: Stored) -> tuple[Stream, str]:
    """The stream of what was compressed, and the compression's name ("" for none), told by magic number."""
    name = compression(stored.peek(4))
    if name == "gzip":
        return Gzip(stored), name
    return (Zstd(stored) if name == "zstd" else stored), name


def compression(magic: bytes) -> str:
    """What the first four bytes of a file say of its compression: gzip, zstd or "" for none."""
    if magic[:2] == b"\x1f\x8b":
        return "gzip"
    if magic == b"\x28\xb5\x2f\xfd" or (magic[1:] == b"\x2a\x4d\x18" and 0x50 <= magic[0] <= 0x5F):
        return "zstd"
    return ""
