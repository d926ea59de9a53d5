"""The load balancer's slots: which backend a hash leads to (docs/model.md, "Choosing").

Filled as Maglev does (Eisenbud et al., NSDI 2016, section 3.4), so that to choose among a thousand backends is one look
into a table, every backend has its share, and a change of the backends moves few slots.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.kernel import kernel

#: So the share of a backend is off by a hundredth at most.
_SLOTS_PER_BACKEND = 128

#: The slots of a service that has no choice.
ONE_BACKEND = np.zeros(2, np.int32)


def backend_slots(keys: Sequence[Any], healthy: Sequence[int] | None = None) -> NDArray[np.int32]:
    """The place of a backend in the service's list, for every slot.

    Backends are given by their keys; `healthy` has the places of those that get slots, all by default, one at least.
    """
    if len(keys) < 2:
        return ONE_BACKEND
    slots = np.full(1 << (_SLOTS_PER_BACKEND * len(keys) - 1).bit_length(), -1, np.int32)
    places = np.arange(len(keys)) if healthy is None else np.array(healthy)
    take_slots(slots, np.array(keys, np.uint64)[places], np.zeros(len(places), np.int64))
    return places[slots].astype(np.int32)


@kernel
def take_slots(slots: Any, keys: Any, wishes: Any) -> None:
    """Let backends take slots in turns, each the next one that it likes and that is free; `wishes` begins at zero."""
    mask = len(slots) - 1
    taken = 0
    while taken < len(slots):
        for backend in range(len(keys)):
            first = np.int64(keys[backend] >> np.uint64(32))
            step = np.int64(keys[backend] & np.uint64(0xFFFFFFFF)) | 1
            slot = (first + wishes[backend] * step) & mask
            while slots[slot] >= 0:
                wishes[backend] += 1
                slot = (first + wishes[backend] * step) & mask
            slots[slot] = backend
            taken += 1
            if taken == len(slots):
                break
