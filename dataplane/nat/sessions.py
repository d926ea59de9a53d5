"""The session table: rows, and an open-addressing index of 8-byte cells from a flow to its row.

A cell holds a 32-bit tag of the flow's hash above the row's index plus one; zero is an empty cell. Probing is
linear, deletion shifts the following cells back, so there are no tombstones and no clean-up. Only live sessions
are in the index. The other direction needs none: (pool, port) gives the session (`nat/ports.py`).
"""

from typing import Any

import numpy as np

from dataplane.kernel import inlined, kernel, prefetch
from dataplane.memory import physical, zeroed
from dataplane.records import DUE, HELD, SESSION, SESSION_END, STATES, TIMER, UNUSED, State

_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_EMPTY = np.uint64(0)

#: Cells and ports hold a row plus one in 31 bits.
_LARGEST = (1 << 31) - 2


@inlined
def hint_of(cells: Any, tag: Any) -> Any:
    """The row of the first cell with this tag, or -1. It may be another flow's: check before use."""
    mask = len(cells) - 1
    at = tag & mask
    cell = cells[at]
    while cell != _EMPTY:
        if np.int64(cell >> _32) == tag:
            return np.int64(cell & _LOW) - 1
        at = (at + 1) & mask
        cell = cells[at]
    return -1


@inlined
def prefetch_flow(cells: Any, tag: Any) -> None:
    """Ask for the cell where the search for a tag begins."""
    prefetch(cells, tag & (len(cells) - 1))


@inlined
def is_session(session: Any, flow: Any, endpoint: Any, protocol: Any) -> Any:
    """Whether a row is the live session of this flow."""
    return (
        session["flow"] == flow
        and session["endpoint"] == endpoint
        and session["protocol"] == protocol
        and session["state"] != UNUSED
        and session["state"] != HELD
    )


@inlined
def timeout_in(state: Any, timeouts: Any, session_state: Any) -> Any:
    """How long a session stays in a state without a packet, nanoseconds; `timeouts` is SESSION's."""
    return state.timeouts[np.int64(timeouts) * STATES + session_state]


@kernel
def find(state: Any, tag: Any, flow: Any, endpoint: Any, protocol: Any) -> Any:
    """The row of a live session, or -1."""
    cells = state.cells
    sessions = state.sessions
    mask = len(cells) - 1
    at = tag & mask
    cell = cells[at]
    while cell != _EMPTY:
        if np.int64(cell >> _32) == tag:
            row = np.int64(cell & _LOW) - 1
            if is_session(sessions[row], flow, endpoint, protocol):
                return row
        at = (at + 1) & mask
        cell = cells[at]
    return -1


@kernel
def insert(cells: Any, tag: Any, row: Any) -> None:
    """Put a row into the index. The caller keeps the index at most a quarter full."""
    mask = len(cells) - 1
    at = tag & mask
    while cells[at] != _EMPTY:
        at = (at + 1) & mask
    cells[at] = (np.uint64(tag) << _32) | np.uint64(row + 1)


@kernel
def remove(cells: Any, tag: Any, row: Any) -> None:
    """Take a row out of the index and move the cells behind it back to where they are found first."""
    mask = len(cells) - 1
    at = tag & mask
    while np.int64(cells[at] & _LOW) - 1 != row:
        at = (at + 1) & mask
    gap = at
    while True:
        at = (at + 1) & mask
        cell = cells[at]
        if cell == _EMPTY:
            break
        home = np.int64(cell >> _32) & mask
        # The cell may fill the gap if its home does not lie between the gap and it.
        if ((at - home) & mask) >= ((at - gap) & mask):
            cells[gap] = cell
            gap = at
    cells[gap] = _EMPTY


@kernel
def reindex(old: Any, new: Any) -> None:
    """Fill a larger index from a smaller one."""
    for at in range(len(old)):
        if old[at] != _EMPTY:
            insert(new, np.int64(old[at] >> _32), np.int64(old[at] & _LOW) - 1)


@inlined
def prefetch_end(state: Any, row: Any) -> None:
    """Ask for what the end of a session writes to: its cell in the index, and its port's bit."""
    prefetch_flow(state.cells, np.int64(state.session_ends[row]["tag"]))
    pool = state.pools[state.sessions[row]["pool"]]
    offset = np.int64(state.sessions[row]["nat_port"]) - np.int64(pool["first_port"])
    prefetch(state.used_ports, (pool["ports"] + offset) >> 6)


@inlined
def has_room(state: Any) -> Any:
    """Whether a row can be taken without growing.

    The index is at most a quarter full: then most first cells decide, and the processor foresees how a search ends.
    """
    clock = state.clock[0]
    return clock["free_row"] >= 0 or clock["rows"] < min(len(state.cells) >> 2, len(state.sessions))


@kernel
def take_row(state: Any) -> Any:
    """A free row: the last one given back, else the next never used, so that untouched memory stays untouched."""
    clock = state.clock[0]
    row = clock["free_row"]
    if row >= 0:
        clock["free_row"] = np.int64(state.timers[row]["next"])
    else:
        row = clock["rows"]
        clock["rows"] = row + 1
    return row


@kernel
def give_row(state: Any, row: Any) -> None:
    """Back to the free list."""
    clock = state.clock[0]
    state.sessions[row]["state"] = UNUSED
    state.timers[row]["next"] = np.int32(clock["free_row"])
    clock["free_row"] = row


def most_sessions(ports: int, rows: int) -> int:
    """How many rows a session table has: more than there are ports, so that a session with a port always finds one.

    But no more than fit into memory, and `rows` at least. Rows that are never used cost nothing
    (`dataplane/memory.py`), so a table is never moved to grow.
    """
    row = sum(kind.itemsize for kind in (SESSION, SESSION_END, TIMER, DUE))
    return max(rows, min(ports + 1, physical() // row, _LARGEST))


def grown(state: State) -> State:
    """The same state with an index for twice as many sessions. Raises MemoryError if there can be no more of them."""
    if state.clock[0]["rows"] == len(state.sessions):
        raise MemoryError(f"{len(state.sessions):,} sessions are open or hold a port; no more fit into memory")
    cells = zeroed(2 * len(state.cells), np.uint64)
    reindex(state.cells, cells)
    return state.replace(cells=cells)
