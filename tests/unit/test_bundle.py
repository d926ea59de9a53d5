"""Bundles: compiled code sees the arrays that Python sees, whatever their kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dataplane.bundle import Bundle, as_table
from dataplane.kernel import kernel

ROW = np.dtype([("small", np.uint8), ("large", np.int64)], align=True)
TIGHT = np.dtype([("small", np.uint8), ("large", np.int64)])  # 9 bytes: rows lie at odd places


@dataclass(frozen=True, eq=False)
class Some(Bundle):
    numbers: NDArray[np.int64]
    rows: NDArray[Any]
    tight: NDArray[Any]
    grid: NDArray[np.int32]
    nothing: NDArray[np.uint64]


def some(size: int = 3) -> Some:
    rows, tight = np.zeros(size, ROW), np.zeros(size, TIGHT)
    rows["large"], tight["large"] = np.arange(size) - 1, np.arange(size) * 10
    return Some(
        np.arange(size, dtype=np.int64) - 5,
        rows,
        tight,
        np.arange(2 * size, dtype=np.int32).reshape(2, size),
        np.zeros(0, np.uint64),
    )


@kernel
def read(state: Any, index: Any) -> Any:
    """Everything at an index, and all lengths."""
    values = (state.numbers[index], state.rows[index]["large"], state.tight[index]["large"], state.grid[1, index])
    return values, (len(state.numbers), len(state.rows), len(state.tight), len(state.grid), len(state.nothing))


@kernel
def write(state: Any, index: Any) -> None:
    """A value into every array."""
    state.numbers[index] += 100
    state.rows[index]["small"] = 7
    state.tight[index]["large"] -= 1
    state.grid[0, index] = state.numbers[index]


@pytest.mark.parametrize("index", [np.int64(2), np.uint64(2), np.int32(2), np.uint8(2)])
def test_a_kernel_reads_what_python_wrote(index: Any) -> None:
    assert read(some(), index) == ((-3, 1, 20, 5), (3, 3, 3, 2, 0))


def test_an_array_with_gaps_is_read_where_its_numbers_are() -> None:
    bundle = some().replace(numbers=np.arange(6, dtype=np.int64)[::2])
    assert read(bundle, np.int64(2))[0][0] == 4


@kernel
def last(array: Any) -> Any:
    """The last of an array that no bundle has."""
    array = as_table(array)
    return array[len(array) - 1]


@pytest.mark.parametrize("step", [1, 2, -1])
def test_an_array_is_taken_as_a_table_only_if_it_has_no_gaps(step: int) -> None:
    numbers = np.arange(7, dtype=np.int64)[::step]
    assert last(numbers) == numbers[-1]


def test_python_reads_what_a_kernel_wrote() -> None:
    bundle = some()
    write(bundle, np.int64(1))
    assert bundle.numbers.tolist() == [-5, 96, -3]
    assert bundle.rows["small"].tolist() == [0, 7, 0]
    assert bundle.tight["large"].tolist() == [0, 9, 20]
    assert bundle.grid.tolist() == [[0, 96, 2], [3, 4, 5]]


def test_an_array_that_took_anothers_place_is_the_one_that_kernels_see() -> None:
    bundle = some()
    larger = bundle.replace(numbers=np.arange(50, dtype=np.int64))
    assert read(larger, np.int64(2))[0][0] == 2
    assert read(larger, np.int64(2))[1][0] == 50
    assert read(bundle, np.int64(2))[0][0] == -3, "the old bundle is as it was"
    write(larger, np.int64(0))
    assert bundle.rows["small"][0] == 7, "what was not replaced is shared"


def test_bundles_of_one_kind_share_machine_code() -> None:
    read(some(3), np.int64(0))
    before = len(getattr(read, "signatures", []))
    read(some(9), np.int64(0))
    assert len(getattr(read, "signatures", [])) == before
