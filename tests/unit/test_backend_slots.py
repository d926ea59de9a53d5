"""The load balancer's slots: equal shares, and a backend that leaves moves few slots of the others."""

from __future__ import annotations

import numpy as np
import pytest

from dataplane.forwarding.slots import backend_slots
from dataplane.nat.hashing import key64


def keys(count: int, without: int | None = None) -> list[np.uint64]:
    return [key64(0, "backend", "orders", str(number)) for number in range(count) if number != without]


@pytest.mark.parametrize("backends", [2, 3, 16, 1000])
def test_every_backend_has_the_same_share_give_or_take_one_slot(backends: int) -> None:
    slots = backend_slots(keys(backends))
    shares = np.bincount(slots, minlength=backends)
    assert shares.sum() == len(slots) >= 128 * backends
    assert shares.max() - shares.min() <= 1


@pytest.mark.parametrize("backends", [16, 100, 1000])
def test_a_backend_that_leaves_moves_few_slots_of_the_others(backends: int) -> None:
    before = backend_slots(keys(backends))
    after = backend_slots(keys(backends, without=backends - 1))
    assert len(after) == len(before), "the number of slots does not change here"
    stayed = before != backends - 1
    moved = np.count_nonzero(before[stayed] != after[stayed]) / np.count_nonzero(stayed)
    assert moved < 0.05, "with a remainder of the hash nearly all would move"


def test_one_backend_needs_no_table_of_its_own() -> None:
    assert backend_slots(keys(1)) is backend_slots(keys(1))
