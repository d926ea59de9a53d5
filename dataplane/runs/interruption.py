"""Ctrl-C and its like, held back while something is under way that has to be finished."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruption() -> Iterator[list[int]]:
    """While the body runs, a first Ctrl-C only adds to the list that is given, so that no batch is left half done.

    So do being told to end (SIGTERM) and a terminal that is closed (SIGHUP, unless it is ignored, as under nohup).
    """
    signals: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def note(number: int, _: object) -> None:
        signals.append(number)
        if number == signal.SIGHUP:  # shell and kernel may both say so, also when the files are being closed
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        elif len(signals) > 1:
            raise KeyboardInterrupt  # the user does not want to wait

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            if number not in signals or number != signal.SIGHUP:
                signal.signal(number, handler)
