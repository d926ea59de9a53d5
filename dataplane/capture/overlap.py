"""Writing behind: the system takes one piece of an output while the next is made, where a second core can do that.

Writing to a file takes the system about as long as everything else takes the engine, and both let go of Python's lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: What is smaller is written at once: it takes less time than to tell another thread.
_WORTH_IT = 1 << 16


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


class WriteBehind:
    """One piece at a time is under way; the next waits for it, whatever file it is for, so pieces keep their order."""

    def __init__(self, threads: bool) -> None:
        self._executor = ThreadPoolExecutor(1, "write-behind") if threads else None
        self._under_way: Future[Any] | None = None

    def write(self, write: Callable[[NDArray[np.uint8]], Any], piece: NDArray[np.uint8]) -> None:
        """Give a piece to `write`, after the one that is under way; the piece must not change until the next is given.

        Raises what the writing of the piece before raised.
        """
        self.wait()
        if self._executor is None or len(piece) < _WORTH_IT:
            write(piece)
        else:
            self._under_way = self._executor.submit(write, piece)

    def wait(self) -> None:
        """Wait until nothing is under way. Raises what writing raised."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def close(self) -> None:
        """Wait, and let go of the thread."""
        try:
            self.wait()
        finally:
            if self._executor is not None:
                self._executor.shutdown()
