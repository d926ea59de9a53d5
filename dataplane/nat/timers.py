"""Timers: a hierarchical wheel whose current tick is kept in order, so that sessions end exactly in (moment, id) order.

A tick is 2^20 ns (about 1 ms); three levels of 16,384 slots (17 s, 78 h, 146 years) are enough for most timers to
be put into one or two slots on their way; what lies beyond waits in the last slot. A packet that refreshes a
session only writes `last_refresh`: the timer stays where it is and is armed anew when its slot comes due. Lists are
linked both ways, so a timer can be moved when a state change shortens its deadline.

Timers of a tick mostly come in order: then they are a sorted run, from which the first is taken by moving on. Once one
comes out of order, the run becomes a heap, until it is empty.
"""

from typing import Any

import numpy as np

from dataplane.kernel import inlined, kernel, prefetch, trailing_zeros
from dataplane.nat.sessions import prefetch_end, timeout_in

TICK_BITS = 20
SLOT_BITS = 14
SLOTS = 1 << SLOT_BITS
LEVELS = 3
WORDS = SLOTS // 64
FOREVER = 2**63 - 1

_DUE = -(2**31)
_ONE = np.uint64(1)
_ZERO = np.uint64(0)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@inlined
def deadline(state: Any, row: Any) -> Any:
    """The moment at which a session (or its hold) ends if no packet comes, saturating at the end of time."""
    session = state.sessions[row]
    moment = session["last_refresh"]
    timeout = timeout_in(state, session["timeouts"], session["state"])
    return moment + timeout if moment <= FOREVER - timeout else np.int64(FOREVER)


@kernel
def arm(state: Any, row: Any, due: Any) -> None:
    """Start a timer that is not running."""
    clock = state.clock[0]
    tick = clock["tick"]
    target = due >> TICK_BITS
    if due < clock["next_due"]:
        clock["next_due"] = due
    if target <= tick:
        _push(state, row, due)
        return
    level = 0
    while level < LEVELS - 1 and (target >> (SLOT_BITS * (level + 1))) != (tick >> (SLOT_BITS * (level + 1))):
        level += 1
    place = target >> (SLOT_BITS * level)
    farthest = (tick >> (SLOT_BITS * level)) + SLOTS - 1
    if place > farthest:
        place = farthest
    at = place & (SLOTS - 1)
    slot = level * SLOTS + at
    head = np.int64(state.slots[slot]) - 1
    timer = state.timers[row]
    timer["next"] = head
    timer["previous"] = -1 - slot
    if head >= 0:
        state.timers[head]["previous"] = row
    state.slots[slot] = row + 1
    state.slot_bits[level * WORDS + (at >> 6)] |= _ONE << np.uint64(at & 63)


@kernel
def disarm(state: Any, row: Any) -> None:
    """Stop a running timer."""
    timers = state.timers
    following = np.int64(timers[row]["next"])
    previous = np.int64(timers[row]["previous"])
    if previous == _DUE:
        _drop(state, row)
        return
    if following >= 0:
        timers[following]["previous"] = previous
    if previous >= 0:
        timers[previous]["next"] = following
    else:
        slot = -1 - previous
        state.slots[slot] = following + 1
        if following < 0:
            _clear(state.slot_bits, slot)


@kernel
def _clear(slot_bits: Any, slot: Any) -> None:
    at = slot & (SLOTS - 1)
    slot_bits[(slot >> SLOT_BITS) * WORDS + (at >> 6)] &= _ALL ^ (_ONE << np.uint64(at & 63))


# --- timers of ticks that have begun: State.due from CLOCK["first_due"] to CLOCK["end_due"] --------------------------


@kernel
def _place(state: Any, at: Any, due: Any, number: Any, row: Any) -> None:
    entry = state.due[at]
    entry["due"] = due
    entry["id"] = number
    entry["session"] = row
    timer = state.timers[row]
    timer["next"] = at
    timer["previous"] = _DUE


@inlined
def _is_before(state: Any, at: Any, due: Any, number: Any) -> Any:
    """Whether an entry comes before (due, number)."""
    entry = state.due[at]
    return entry["due"] < due or (entry["due"] == due and entry["id"] < number)


@kernel
def _push(state: Any, row: Any, due: Any) -> None:
    clock = state.clock[0]
    number = state.session_ends[row]["id"]
    end = clock["end_due"]
    if clock["is_heap"] == 0:
        in_order = end == clock["first_due"] or _is_before(state, end - 1, due, number)
        if in_order and end < len(state.due):
            _place(state, end, due, number, row)
            clock["end_due"] = end + 1
            return
        _make_heap(state)
        end = clock["end_due"]
    clock["end_due"] = end + 1
    _rise(state, end, due, number, row)


@kernel
def _make_heap(state: Any) -> None:
    """Move a sorted run to the beginning, where it is a heap."""
    clock = state.clock[0]
    first = clock["first_due"]
    count = clock["end_due"] - first
    if first > 0:
        for at in range(count):
            entry = state.due[first + at]
            _place(state, np.int64(at), entry["due"], entry["id"], entry["session"])
    clock["first_due"] = 0
    clock["end_due"] = count
    clock["is_heap"] = 1


@inlined
def _take_first(state: Any) -> None:
    """Take out the first entry."""
    clock = state.clock[0]
    if clock["is_heap"]:
        _sink(state, np.int64(0))
    else:
        clock["first_due"] += 1
    _begin_anew(clock)


@kernel
def _drop(state: Any, row: Any) -> None:
    """Take out the entry of a timer."""
    clock = state.clock[0]
    at = np.int64(state.timers[row]["next"])
    if clock["is_heap"] == 0 and at == clock["end_due"] - 1:
        clock["end_due"] = at
    else:
        if clock["is_heap"] == 0:
            _make_heap(state)
        _sink(state, np.int64(state.timers[row]["next"]))
    _begin_anew(clock)


@inlined
def _begin_anew(clock: Any) -> None:
    """If no entry is left, the next one begins a run."""
    if clock["first_due"] == clock["end_due"]:
        clock["first_due"] = 0
        clock["end_due"] = 0
        clock["is_heap"] = 0


@kernel
def _rise(state: Any, at: Any, due: Any, number: Any, row: Any) -> None:
    """Put an entry into the heap at `at` or above it."""
    while at > 0:
        above = (at - 1) >> 1
        if _is_before(state, above, due, number):
            break
        parent = state.due[above]
        _place(state, at, parent["due"], parent["id"], parent["session"])
        at = above
    _place(state, at, due, number, row)


@kernel
def _sink(state: Any, at: Any) -> None:
    """Take the entry at `at` out of the heap: the last one takes its place, and moves to where it belongs."""
    heap = state.due
    count = state.clock[0]["end_due"] - 1
    state.clock[0]["end_due"] = count
    if at == count:
        return
    due = heap[count]["due"]
    number = heap[count]["id"]
    row = heap[count]["session"]
    while True:
        below = 2 * at + 1
        if below >= count:
            break
        if below + 1 < count and _is_before(state, below + 1, heap[below]["due"], heap[below]["id"]):
            below += 1
        if not _is_before(state, below, due, number):
            break
        child = heap[below]
        _place(state, at, child["due"], child["id"], child["session"])
        at = below
    _rise(state, at, due, number, row)


@inlined
def pop_due(state: Any, until: Any) -> Any:
    """Take out the first timer whose time has come by `until`, and return its row; -1 if there is none.

    Timers come in order of (deadline, id). One that was refreshed meanwhile is armed anew and passed over.
    """
    clock = state.clock[0]
    while True:
        while clock["first_due"] < clock["end_due"] and state.due[clock["first_due"]]["due"] <= until:
            first = state.due[clock["first_due"]]
            row = first["session"]
            armed = first["due"]
            _take_first(state)
            due = deadline(state, row)
            if due == armed:
                return row
            arm(state, row, due)
        if until >> TICK_BITS <= clock["tick"] or not _open_next_slot(state, until >> TICK_BITS):
            break
    _look_ahead(state)
    return np.int64(-1)


@kernel
def _open_next_slot(state: Any, until_tick: Any) -> Any:
    """Empty the next slot that is in use and begins by `until_tick`; false if there is none."""
    begin = _next_slot(state)
    if begin > until_tick:
        clock = state.clock[0]
        if until_tick > clock["tick"]:
            clock["tick"] = until_tick
        return False
    state.clock[0]["tick"] = begin
    # All levels whose slot begins at this very tick are emptied, the highest first.
    for level in range(LEVELS - 1, -1, -1):
        if begin & ((np.int64(1) << (SLOT_BITS * level)) - 1) == 0:
            slot = level * SLOTS + ((begin >> (SLOT_BITS * level)) & (SLOTS - 1))
            row = np.int64(state.slots[slot]) - 1
            if row >= 0:
                state.slots[slot] = 0
                _clear(state.slot_bits, slot)
                _arm_all(state, _turned(state, row))
    return True


@inlined
def _turned(state: Any, row: Any) -> Any:
    """Turn a list round, so that the timer that was started first comes first; its head. Asks for all its sessions."""
    before = np.int64(-1)
    while row >= 0:
        following = np.int64(state.timers[row]["next"])
        state.timers[row]["next"] = before
        prefetch(state.sessions, row)
        prefetch(state.session_ends, row)
        before = row
        row = following
    return before


@inlined
def _arm_all(state: Any, row: Any) -> None:
    """Start the timers of a list that is in no slot, and ask for what the sessions' end will need."""
    while row >= 0:
        following = np.int64(state.timers[row]["next"])
        prefetch_end(state, row)
        arm(state, row, deadline(state, row))
        row = following


@kernel
def _next_slot(state: Any) -> Any:
    """The tick at which the next slot in use begins; FOREVER if no slot is in use."""
    tick = state.clock[0]["tick"]
    for level in range(LEVELS):
        shift = SLOT_BITS * level
        block = tick >> shift
        at = _bit_after(state.slot_bits, level * WORDS, (block & (SLOTS - 1)) + 1)
        if at >= 0:
            return ((block & ~(SLOTS - 1)) | at) << shift
        if level == LEVELS - 1:
            at = _bit_after(state.slot_bits, level * WORDS, np.int64(0))
            if at >= 0:
                return ((block & ~(SLOTS - 1)) + SLOTS + at) << shift
    return np.int64(FOREVER)


@kernel
def _bit_after(bits: Any, first: Any, start: Any) -> Any:
    """The first set bit from `start` on in a level's bitmap, or -1."""
    if start >= SLOTS:
        return np.int64(-1)
    word = start >> 6
    value = bits[first + word] & (_ALL << np.uint64(start & 63))
    while value == _ZERO:
        word += 1
        if word == WORDS:
            return np.int64(-1)
        value = bits[first + word]
    return (word << 6) + trailing_zeros(value)


@kernel
def _look_ahead(state: Any) -> None:
    """Note a time before which no timer can be due."""
    clock = state.clock[0]
    if clock["first_due"] < clock["end_due"]:
        clock["next_due"] = state.due[clock["first_due"]]["due"]
        return
    begin = _next_slot(state)
    clock["next_due"] = begin << TICK_BITS if begin < FOREVER >> TICK_BITS else FOREVER
