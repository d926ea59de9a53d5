"""Memory for tables: zeros that take no room until they are touched, so a table can have all the rows it may need."""

import mmap
import os
import sys
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HUGE_PAGE = 1 << 21
_SMALL_TABLE = 64 << 20
_LINES = 128  # processors fetch cache lines in pairs
_MAP_NORESERVE = 0x4000  # of Linux; Python names it from 3.13 on


def zeroed(rows: int, dtype: Any, *, scattered: bool = False) -> NDArray[Any]:
    """Memory for a table that is read at random, in huge pages where the system has them.

    With pages of 4 KiB, half of a look-up in a large table would be the processor's search for the page. `scattered`
    says that rows here and there will be used and most never, so that a large table is better off with small pages: the
    ports of ten thousand pools are 2.7 GB, of which a service in practice uses a part. Raises MemoryError.
    """
    size = rows * np.dtype(dtype).itemsize
    if size < _HUGE_PAGE or not sys.platform.startswith("linux"):
        return np.zeros(rows, dtype)
    try:
        whole_pages = -(-size // _HUGE_PAGE) * _HUGE_PAGE  # Linux lets only such a mapping begin where a huge page can
        memory = mmap.mmap(-1, whole_pages, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    except OSError as error:
        raise MemoryError(
            f"the system has no room for a table of {size:,} bytes, of which only what is used would take memory; "
            "`ulimit -v` or vm.overcommit_memory=2 may forbid it"
        ) from error
    if hasattr(mmap, "MADV_HUGEPAGE") and not (scattered and size > _SMALL_TABLE):
        with suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype, rows)


def apart(array: NDArray[Any]) -> NDArray[Any]:
    """The same array, in cache lines of its own if it is small.

    Two cores that write to one cache line, each its own part of it, wait for each other at every write.
    """
    if not 0 < array.nbytes < _HUGE_PAGE:
        return array
    room = np.zeros(array.nbytes + 2 * _LINES, np.uint8)
    start = -room.ctypes.data % _LINES
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def physical() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
