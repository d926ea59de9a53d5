"""Reading ahead and writing behind, in threads of their own, where a second core can do that.

To digest and decompress what comes next, and to give the system what was made last, takes about as long as everything
else takes the engine; all of it lets go of Python's lock. Neither changes a byte or the order of anything.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataplane.capture.streams import Stream

#: Blocks that a reader ahead fills, and how many there are.
_BLOCK, _BLOCKS = 1 << 20, 4

#: What is smaller is written at once: it takes less time than to tell another thread.
_WORTH_IT = 1 << 16


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


class _Block(NamedTuple):
    """What was read: memory, how much of it is filled, and what ended the reading after that, if something did."""

    memory: memoryview
    filled: int
    error: BaseException | None


class ReadAhead:
    """A stream that reads another one some blocks ahead. It has to be stopped before anyone else reads that one."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._free: SimpleQueue[memoryview | None] = SimpleQueue()
        self._filled: SimpleQueue[_Block] = SimpleQueue()
        for _ in range(_BLOCKS):
            self._free.put(memoryview(bytearray(_BLOCK)))
        self._block = _Block(memoryview(b""), 0, None)
        self._at = 0
        self._stopping = False
        # A thread that hangs in a read must not keep the program from its end.
        self._thread = threading.Thread(target=self._read, name="read-ahead", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while (memory := self._free.get()) is not None:
            filled, error = 0, None
            try:
                while filled < len(memory) and not self._stopping:
                    count = self._stream.readinto(memory[filled:])
                    if count == 0:
                        break
                    filled += count
            except BaseException as raised:  # whatever it is, the reader's own thread is to have it
                error = raised
            self._filled.put(_Block(memory, filled, error))
            if filled < len(memory):
                return

    def readinto(self, view: memoryview) -> int:
        """Fill the start of `view`; the number of bytes, 0 at the end. Raises what reading raised, in its place."""
        block = self._block
        if self._at == block.filled:
            if block.filled == len(block.memory):
                if block.filled:
                    self._free.put(block.memory)
                block = self._block = self._filled.get()
                self._at = 0
            if self._at == block.filled:
                if block.error is not None:
                    raise block.error
                return 0
        count = min(len(view), block.filled - self._at)
        view[:count] = block.memory[self._at : self._at + count]
        self._at += count
        return count

    def stop(self) -> None:
        """Let the thread end; what it has read ahead is lost."""
        self._stopping = True
        self._free.put(None)
        self._thread.join()


class WriteBehind:
    """Up to `most` pieces are under way, one after the other whatever file they are for, so they keep their order."""

    def __init__(self, threads: bool, most: int) -> None:
        self._executor = ThreadPoolExecutor(1, "write-behind") if threads else None
        self._most = most
        self._under_way: deque[Future[Any]] = deque()
        self._failed = False

    def write(self, write: Callable[[NDArray[np.uint8]], Any], piece: NDArray[np.uint8]) -> None:
        """Give a piece to `write`, after those under way; it must not change until `most` more have been given.

        Raises what the writing of a piece before raised.
        """
        if self._executor is None or len(piece) < _WORTH_IT:
            self.wait()
            write(piece)
        else:
            self.wait(self._most - 1)
            self._under_way.append(self._executor.submit(self._write, write, piece))

    def _write(self, write: Callable[[NDArray[np.uint8]], Any], piece: NDArray[np.uint8]) -> None:
        if self._failed:  # a file must not go on behind a gap
            return
        try:
            write(piece)
        except BaseException:
            self._failed = True
            raise

    def wait(self, most: int = 0) -> None:
        """Wait until no more than so many pieces are under way. Raises what writing raised."""
        while len(self._under_way) > most:
            self._under_way.popleft().result()

    def close(self) -> None:
        """Wait, and let go of the thread."""
        try:
            self.wait()
        finally:
            if self._executor is not None:
                self._executor.shutdown()
