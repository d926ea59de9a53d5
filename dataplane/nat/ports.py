"""NAT ports: one pool per (NAT IP, protocol, backend), exact allocation, and the gauges that watch it.

A pool's ports index an array, so (pool, port) gives the session without a hash. Its arrays start as untouched
zero pages: an entry i of the free list is stored as `port offset xor i`, so that a list of zeros is the whole
range in order and a pool that is never used costs no memory.
"""

from typing import Any

import numpy as np

from dataplane.kernel import inlined, kernel, trailing_zeros
from dataplane.nat.hashing import GOLDEN, mix, scale
from dataplane.records import HELD

RANDOM, SEQUENTIAL = 0, 1

_ONE = np.uint64(1)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@kernel
def take_port(state: Any, number: Any, row: Any) -> Any:
    """A free port of a pool that has one, as an offset from the first; it now belongs to session `row`."""
    pool = state.pools[number]
    if pool["words"] >= 0:
        offset = _lowest_after_cursor(state.used_ports, pool)
    else:
        draws = pool["draws"] + _ONE
        pool["draws"] = draws
        last = np.int64(pool["free"]) - 1
        at = scale(mix(pool["key"] + draws * GOLDEN), last + 1)
        first = pool["ports"]
        free = state.free_ports
        offset = np.int64(free[first + at]) ^ at
        free[first + at] = np.int64(free[first + last]) ^ last ^ at
    state.port_session[pool["ports"] + offset] = row + 1
    pool["free"] -= 1
    if pool["free"] < pool["minimum_free"]:
        pool["minimum_free"] = pool["free"]
    return offset


@kernel
def _lowest_after_cursor(used_ports: Any, pool: Any) -> Any:
    """The lowest free port after the last one given, wrapping at the end of the range."""
    first = pool["words"]
    words = (np.int64(pool["capacity"]) + 63) >> 6
    start = np.int64(pool["cursor"]) + 1
    if start == pool["capacity"]:
        start = np.int64(0)
    word = start >> 6
    used = used_ports[first + word] | ((_ONE << np.uint64(start & 63)) - _ONE)
    while used == _ALL:
        word = word + 1 if word + 1 < words else np.int64(0)
        used = used_ports[first + word]
    bit = trailing_zeros(used ^ _ALL)
    used_ports[first + word] |= _ONE << np.uint64(bit)
    offset = (word << 6) + bit
    pool["cursor"] = offset
    return offset


@kernel
def give_port(state: Any, number: Any, offset: Any) -> None:
    """The port is free again: it goes to the end of the free list."""
    pool = state.pools[number]
    if pool["words"] >= 0:
        state.used_ports[pool["words"] + (offset >> 6)] &= _ALL ^ (_ONE << np.uint64(offset & 63))
    else:
        at = np.int64(pool["free"])
        state.free_ports[pool["ports"] + at] = offset ^ at
    state.port_session[pool["ports"] + offset] = 0
    pool["free"] += 1


@kernel
def note_use(state: Any, number: Any, change: Any, moment: Any) -> None:
    """Keep the gauges: `change` ports of the pool went into use (or out of use and hold) at `moment`.

    Call it after the change. The integral of ports over time stays exact in integers.
    """
    pool = state.pools[number]
    used = np.int64(pool["capacity"]) - np.int64(pool["free"])
    minute_end = state.clock[0]["minute_end"]
    if pool["minute"] != minute_end:
        pool["minute"] = minute_end
        pool["minute_used_low"] = used - change
        pool["minute_used_high"] = used - change
    if used < pool["minute_used_low"]:
        pool["minute_used_low"] = used
    if used > pool["minute_used_high"]:
        pool["minute_used_high"] = used
    nat_ip = state.nat_ips[pool["nat_ip"]]
    nat_ip["port_time"] += nat_ip["used"] * (moment - nat_ip["since"])
    nat_ip["since"] = moment
    nat_ip["used"] += change
    nat_ip["events"] += 1


@inlined
def session_at(state: Any, number: Any, port: Any) -> Any:
    """The row whose session has (or holds) this port of the pool, or -1."""
    pool = state.pools[number]
    offset = port - np.int64(pool["first_port"])
    if offset < 0 or offset >= pool["capacity"]:
        return np.int64(-1)
    return np.int64(state.port_session[pool["ports"] + offset]) - 1


@kernel
def gives_back(state: Any, number: Any, leaving: Any) -> Any:
    """1 if the session in row `leaving` (or -1) would free a port of this pool by ending now, else 0."""
    if leaving < 0 or state.sessions[leaving]["pool"] != number:
        return np.int64(0)
    return np.int64(1 if state.timeouts[state.pools[number]["service"], HELD] == 0 else 0)


@kernel
def free_ports(state: Any, number: Any, leaving: Any) -> Any:
    """The free ports of a pool once the session in row `leaving` (or -1) has ended."""
    return np.int64(state.pools[number]["free"]) + gives_back(state, number, leaving)


@kernel
def cap_index(state: Any, service: Any, endpoint: Any, number: Any) -> Any:
    """Where the ports that an endpoint has in a pool are counted."""
    return (
        state.services[service]["first_cap"]
        + np.int64(state.pools[number]["number"]) * np.int64(state.services[service]["endpoints"])
        + np.int64(state.endpoints[endpoint]["number"])
    )
