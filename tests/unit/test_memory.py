"""Tables take memory only where they are touched, and say so when there can be no such table."""

from __future__ import annotations

import numpy as np
import pytest

from dataplane.memory import zeroed


@pytest.mark.parametrize("scattered", [False, True])
def test_a_large_table_is_zeros_that_can_be_written_to(scattered: bool) -> None:
    table = zeroed(1 << 36, np.uint8, scattered=scattered)  # 64 GiB, of which two pages are touched
    table[[5, -5]] = 7
    assert table[[4, 5, -5, -4]].tolist() == [0, 7, 7, 0]


def test_a_table_that_the_system_refuses_is_an_error_that_says_why() -> None:
    with pytest.raises(MemoryError, match=r"no room for a table of 1,152,921,504,606,846,976 bytes.*ulimit -v"):
        zeroed(1 << 60, np.uint8)
