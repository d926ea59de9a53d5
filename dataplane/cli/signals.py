"""What ends a command from outside: Ctrl-C, being told to end, and the loss of its terminal."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from typing import Any


def heed_signals() -> None:
    """Let a command that is told to end, or whose terminal is closed, tidy up as one that the user interrupts."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under nohup, which means to go on
        signal.signal(signal.SIGHUP, _hung_up)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and stream.isatty():
            stream.flush()
            setattr(sys, name, _outliving(stream, descriptor))


def _hung_up(number: int, frame: Any) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # shell and kernel may both say so, and files are being closed
    signal.default_int_handler(number, frame)


def _outliving(stream: io.TextIOWrapper, descriptor: int) -> io.TextIOWrapper:
    """The same terminal, as a stream that what is written to it after its end does not stop."""
    return io.TextIOWrapper(
        io.BufferedWriter(_Terminal(descriptor, "wb", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=True,
    )


class _Terminal(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EIO or os.isatty(self.fileno()):
                raise
            return memoryview(data).nbytes
