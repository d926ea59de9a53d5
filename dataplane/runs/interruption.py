"""Ctrl-C and its like, held back while something is under way that has to be finished."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interruption(tell: Callable[[], None] | None = None) -> Iterator[list[int]]:
    """While the body runs, a first Ctrl-C only adds to the list that is given, so that no batch is left half done.

    So do being told to end (SIGTERM), a terminal that is closed (SIGHUP, unless it is ignored, as under nohup), and the
    process that this one works for (SIGUSR1, `executor.tell_members`). `tell` is called at the first of them.
    """
    signals: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def note(number: int, _: object) -> None:
        signals.append(number)
        if tell is not None and len(signals) == 1:
            tell()
        if number == signal.SIGUSR1:  # who told it may have been told by the terminal, as this process was
            return
        if number == signal.SIGHUP:  # shell and kernel may both say so, also when the files are being closed
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        elif len(signals) > 1:
            raise KeyboardInterrupt  # the user does not want to wait

    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            if number not in signals or number != signal.SIGHUP:
                signal.signal(number, handler)
