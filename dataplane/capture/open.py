"""Opening captures: format and compression told by content, packets in batches, memory bounded.

The file is read into two buffers in turn, a compiled scan finds the whole records in one and says where their frames
lie; nothing is copied but the cut-off record at a buffer's end, which moves to the front of the other.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from dataplane.capture import pcap, pcapng
from dataplane.capture.errors import CaptureError, CaptureWarning
from dataplane.capture.overlap import ReadAhead
from dataplane.capture.pcap import PcapScanner
from dataplane.capture.pcapng import PcapngScanner
from dataplane.capture.place import place
from dataplane.capture.streams import Stored, Stream, StreamDamage, compression, decompressed
from dataplane.packets.batch import FRAME, Interface, PacketBatch

#: Packets of one batch at most.
BATCH_PACKETS = 1 << 16

#: A file of at most so many bytes is read without a thread: starting one takes about as long.
_WORTH_A_THREAD = 4 << 20

_ACCEPTED = "accepted are pcap and pcapng, plain or compressed with gzip or zstd"


def may_be_capture(head: bytes) -> bool:
    """Whether a file of these first bytes, four or more, may be a capture: the rest of any other need not be read."""
    return head[:4] in pcap.MAGIC or head[:4] == pcapng.MAGIC or compression(head[:4]) != ""


class CaptureReader:
    """The packets of a capture, a batch at a time. Iterator and context manager; made by `open_capture`.

    A batch's `data` and `frames` may be written to, and are valid until the next one is asked for (`data` until the
    next but one): the memory is used again. `copy()` keeps a batch. Frames are rewritten within their own bytes and
    the `spare` ones before them only, since the bytes between them hold the rest of the file.
    """

    #: What messages call the input: its path, or "standard input".
    name: str
    #: Compressed size in bytes (as `bytes_read` counts), None when it cannot be known before the end.
    size: int | None
    #: Packets delivered so far.
    packets: int
    #: What broke, with packet number, byte offset (uncompressed), value and rule; None for a sound capture.
    damage: str | None

    def __init__(
        self, file: BinaryIO, name: str, size: int | None, chunk_bytes: int, digest: bool, ahead: bool = False
    ) -> None:
        self.name = name
        self.size = size
        self.packets = 0
        self.damage = None
        self._file = file
        self._own = False
        self._stored = Stored(file, digest)
        self._buffer = np.empty(max(chunk_bytes, 64), np.uint8)
        self._other = np.empty(0, np.uint8)
        self._frames = np.empty(0, FRAME)
        self._base = 0  # the buffer's first byte is this byte of the (uncompressed) capture
        self._stop = 0  # the buffer is filled up to here
        self._at_end = False
        self._broken: str | None = None
        self._ended = False
        try:
            self._stream: Stream
            self._stream, self._compression = decompressed(self._stored)
        except StreamDamage as error:
            raise CaptureError(f"{name}: {error}") from error
        self._scanner = self._recognise()
        # Only digests and decompression are worth a thread.
        self._ahead: ReadAhead | None = None
        self._may_read_ahead = ahead and (size or 0) > _WORTH_A_THREAD and (digest or self._compression != "")

    def _recognise(self) -> PcapScanner | PcapngScanner:
        """The scanner for what the first bytes say; `CaptureError` if they say nothing known."""
        inside = f" inside {self._compression}" if self._compression else ""
        self._fill(pcap.FILE_HEADER)
        if self._broken is not None and self._stop < pcap.FILE_HEADER:
            raise CaptureError(f"{self.name}: {self._broken}")
        head = self._buffer[: min(self._stop, pcap.FILE_HEADER)].tobytes()
        if not head:
            raise CaptureError(f"{self.name}: the file is empty{inside}; {_ACCEPTED}")
        try:
            if head[:4] in pcap.MAGIC:
                return PcapScanner(head)
            if head[:4] == pcapng.MAGIC:
                scanner = PcapngScanner()
                while not scanner.open(self._buffer, self._stop):
                    if self._at_end:
                        have = f"{self._stop} of {scanner.need} bytes"
                        raise CaptureError(f"the pcapng section header is cut short: {have}")
                    self._fill(scanner.need)
                return scanner
        except CaptureError as error:
            raise CaptureError(f"{self.name}: {error}") from error
        raise CaptureError(
            f"{self.name}: no known capture format: it starts with {head[:8].hex(' ')}{inside}; {_ACCEPTED}"
        )

    @property
    def format(self) -> str:
        """`pcap` or `pcapng`."""
        return self._scanner.format

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """The interfaces declared so far, over all sections; `FRAME["interface"]` is an index into it."""
        return self._scanner.interfaces

    @property
    def user_application(self) -> str:
        """The program that wrote the capture, as a pcapng says (`shb_userappl`), else ""."""
        return self._scanner.user_application

    @property
    def written_by_dataplane(self) -> bool:
        """Whether this is a capture of our own."""
        return self.user_application.startswith("dataplane ")

    @property
    def bytes_read(self) -> int:
        """Bytes read of the input as it is stored (compressed, if it is), those read ahead included."""
        return self._stored.count

    @property
    def sha256(self) -> str | None:
        """SHA-256 (hex) of the input as it is stored; None before the end, or without `digest=True`."""
        return self._stored.hexdigest() if self._ahead is None else None

    def _fill(self, wanted: int) -> None:
        """Read until the buffer, which grows if it must, holds `wanted` bytes or the input ends."""
        if wanted > len(self._buffer):
            grown = np.empty(max(wanted, 2 * len(self._buffer)), np.uint8)
            grown[: self._stop] = self._buffer[: self._stop]
            self._buffer = grown
        view = self._buffer.data
        while self._stop < wanted and not self._at_end:
            try:
                count = self._stream.readinto(view[self._stop :])
            except StreamDamage as error:
                self._broken = str(error)
                count = 0
            self._at_end = count == 0
            self._stop += count

    def _refill(self) -> None:
        """Read as much as a buffer holds, after the cut-off record; the buffer is that of the batch but one before."""
        scanner = self._scanner
        rest = self._stop - scanner.position
        if len(self._other) < len(self._buffer):
            self._other = np.empty(len(self._buffer), np.uint8)
        self._other[:rest] = self._buffer[scanner.position : self._stop]
        self._buffer, self._other = self._other, self._buffer
        self._base += scanner.position
        scanner.position = 0
        self._stop = rest
        self._fill(max(scanner.need, len(self._buffer)))

    def __iter__(self) -> CaptureReader:
        return self

    def __next__(self) -> PacketBatch:
        """The next batch, of at least one packet."""
        if len(self._frames) == 0 and not self._ended:
            self._frames = np.empty(BATCH_PACKETS, FRAME)
            if self._may_read_ahead and not self._at_end:
                self._stream = self._ahead = ReadAhead(self._stream)
            self._fill(len(self._buffer))
        scanner = self._scanner
        while not self._ended:
            count = scanner.scan(self._buffer, self._frames, self._stop)
            if count:
                self.packets += count
                data, frames = self._buffer[: self._stop], self._frames[:count]
                return PacketBatch(data, frames, self.interfaces, spare=scanner.spare)
            if scanner.damage is not None or self._at_end:
                self._finish()
            else:
                self._refill()
        raise StopIteration

    def _finish(self) -> None:
        """Say what broke, if something did, and complete the digest."""
        self._ended = True
        scanner = self._scanner
        rest = self._stop - scanner.position
        text = scanner.damage or self._broken or (scanner.missing(rest) if rest else None)
        if text is not None:
            where = f"packet {self.packets + 1} at byte {self._base + scanner.position}"
            if self._compression:
                where += " (uncompressed)"
            self.damage = f"{self.name}: {where}: {text}"
        self._stop_reading_ahead()
        if self._stored.digesting:
            self._stored.drain()

    def _stop_reading_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None

    def close(self) -> None:
        """Stop reading; closes the file if it was opened here. Batches stay as they are."""
        self._ended = True
        self._stop_reading_ahead()
        if self._own:
            self._file.close()

    def __enter__(self) -> CaptureReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_capture(
    source: str | Path | BinaryIO, *, chunk_bytes: int = 4 << 20, digest: bool = False, ahead: bool = False
) -> CaptureReader:
    """Open a pcap or pcapng, plain or compressed with gzip or zstd, for reading in batches.

    `source` is a path, "-" for standard input, or a binary file. `chunk_bytes` is the size of the buffer;
    a record that does not fit makes it grow (to 128 MiB at most, larger records are damage). With `digest`
    the input's SHA-256 is computed on the way, and with `ahead` a file's digest and decompression are done in a thread
    of their own, some MiB ahead. Raises `CaptureError`, one line that names the file, for what
    is missing, unreadable, empty or of no known format. Later faults end the iteration and set `damage`.
    """
    if not isinstance(source, (str, Path)):
        name = getattr(source, "name", None)
        return CaptureReader(source, name if isinstance(name, str) else "stream", None, chunk_bytes, digest)
    if str(source) == "-":
        return CaptureReader(sys.stdin.buffer, "standard input", None, chunk_bytes, digest)
    try:
        file = open(source, "rb", buffering=0)  # noqa: SIM115  (the reader closes it)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CaptureError(f"{source}: cannot be opened: {reason}") from error
    try:
        status = os.fstat(file.fileno())
        size = status.st_size if os.path.isfile(file.fileno()) else None
        reader = CaptureReader(file, str(source), size, chunk_bytes, digest, ahead)
    except BaseException:
        file.close()
        raise
    reader._own = True
    return reader


def read_capture(path: str | Path | BinaryIO) -> PacketBatch:
    """The whole capture in memory, its frames one after another.

    Raises `CaptureError` as `open_capture` does. A capture that breaks later gives a `CaptureWarning` with
    the place and the rule; what came before is returned.
    """
    with open_capture(path) as reader:
        data = np.empty(reader.size or 1 << 16, np.uint8)
        used = 0
        parts = []
        for batch in reader:
            rows = np.empty(len(batch), FRAME)
            lengths = batch.frames["captured"].astype(np.int64)
            total = int(lengths.sum())
            if used + total > len(data):
                grown = np.empty(2 * (used + total), np.uint8)
                grown[:used] = data[:used]
                data = grown
            rows["offset"] = used + np.cumsum(lengths) - lengths
            same = np.arange(len(batch.interfaces))
            place(data, rows, np.zeros(len(batch), np.int32), 0, batch.data, batch.frames, same)
            used += total
            parts.append(rows)
        frames = np.concatenate(parts) if parts else np.empty(0, FRAME)
        if reader.damage is not None:
            warnings.warn(reader.damage, CaptureWarning, stacklevel=2)
        return PacketBatch(data[:used], frames, reader.interfaces)
