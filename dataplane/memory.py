"""Memory for large tables: zeros that take no room until they are touched."""

import mmap
import sys
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HUGE_PAGE = 1 << 21
_MAP_NORESERVE = 0x4000  # of Linux; Python names it from 3.13 on


def zeroed(rows: int, dtype: Any) -> NDArray[Any]:
    """Memory for a table that is read at random, in huge pages where the system has them.

    With pages of 4 KiB, half of a look-up in a large table would be the
    processor's search for the page.
    """
    size = rows * np.dtype(dtype).itemsize
    if size < _HUGE_PAGE or not sys.platform.startswith("linux"):
        return np.zeros(rows, dtype)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype)


def sparse(rows: int, dtype: Any) -> NDArray[Any]:
    """Memory of which most is never touched, so that the system need not have it.

    The ports of ten thousand pools are 4 GB, of which a service in practice uses a few pages.
    """
    size = rows * np.dtype(dtype).itemsize
    if size < _HUGE_PAGE or not sys.platform.startswith("linux"):
        return np.zeros(rows, dtype)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    return np.frombuffer(mmap.mmap(-1, size, flags=flags), dtype)
