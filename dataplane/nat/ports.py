"""NAT ports: one pool per (NAT IP, protocol, backend), how a port is found in it, and the gauges that watch it.

A pool's ports index an array, so (pool, port) gives the session without a hash: `port_session` holds the row plus one
of the session that had a port last. Which ports are in use or held, a bitmap says (`used_ports`), and how many of
each stretch of 4,096 ports (`used_in_stretch`), so that the n-th free port is two short scans away. All of it is
zeros at first but for the end of a range that is no multiple of 64: a pool that is never used costs next to no
memory. `port_session` is not told when a port is released, since its place is seldom in the cache; so of a port that
is free it may still tell a session, which `has_port` finds out.
"""

from typing import Any

import numpy as np

from dataplane.kernel import inlined, kernel, ones, prefetch, trailing_zeros
from dataplane.nat.hashing import GOLDEN, mix, scale
from dataplane.nat.sessions import timeout_in
from dataplane.records import HELD, UNUSED

RANDOM, SEQUENTIAL, PRESERVE, HASH, HASH_BUCKETS, BLOCK = 0, 1, 2, 3, 4, 5

#: Counters of a pool under `hash_buckets` (TABLE_LENGTH of RFC 6056 algorithm 4).
BUCKETS = 64

#: What a look for a port came to.
FULL, CAPPED, NOT_FOUND, GIVES = 0, 1, 2, 3

#: Ports that are drawn and looked at, before one is drawn of those that are known to be free; that one at once, where
#: fewer ports than one of so many are free.
_TRIES = 8

#: Draws are foreseen this far; more mean that what was foreseen did not come.
_FARTHEST = 256

#: A stretch has so many ports, as a power of two; pools begin at stretches.
STRETCH_BITS = 12

_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_LOW = np.uint64(0xFFFFFFFF)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


# --- looking: nothing is changed but what a bounded search has drawn ------------------------------------------------


@inlined
def look_for_port(state: Any, packet: Any, number: Any, backend_port: Any, leaving: Any) -> Any:
    """Whether a pool has a port for a packet's endpoint, once the session in row `leaving` (or -1) has left.

    Returns (FULL, CAPPED, NOT_FOUND or GIVES, the port's offset); offset -1 leaves the choice to `take_port`.
    """
    pool = state.pools[number]
    service_row = np.int64(pool["service"])
    returned = gives_back(state, number, leaving) if leaving >= 0 else np.int64(0)
    if pool["free"] + returned == 0:
        return np.int64(FULL), np.int64(-1)
    cap = state.services[service_row]["endpoint_ports"]
    if cap > 0:
        endpoint = np.int64(packet["endpoint"])
        if state.cap_counts[cap_index(state, service_row, endpoint, number)] - returned >= cap:
            return np.int64(CAPPED), np.int64(-1)
    if state.services[service_row]["probes"] == 0 and pool["allocation"] != BLOCK:
        return np.int64(GIVES), np.int64(-1)
    return _search(state, packet, number, backend_port, leaving)


@kernel
def _search(state: Any, packet: Any, number: Any, backend_port: Any, leaving: Any) -> Any:
    """The same for a pool that has a free port, but may not find it."""
    pool = state.pools[number]
    service = state.services[pool["service"]]
    if service["probes"] > 0:
        offset = _probe(state, packet, number, backend_port, leaving)
        return np.int64(GIVES if offset >= 0 else NOT_FOUND), offset
    if gives_back(state, number, leaving) == 0:
        own, free, count = _find_blocks(state, number, np.int64(packet["endpoint"]))
        if own < 0:
            if service["endpoint_blocks"] > 0 and count >= service["endpoint_blocks"]:
                return np.int64(CAPPED), np.int64(-1)
            if free < 0:
                return np.int64(NOT_FOUND), np.int64(-1)
    return np.int64(GIVES), np.int64(-1)


@inlined
def _is_used(state: Any, pool: Any, offset: Any) -> Any:
    """Whether a port is in use or held."""
    return (state.used_ports[(pool["ports"] + offset) >> 6] >> np.uint64(offset & 63)) & _ONE != _ZERO


@kernel
def _is_free(state: Any, pool: Any, offset: Any, leaving: Any) -> Any:
    """Whether a port is free; `leaving` is a row whose port counts as free, or -1."""
    return not _is_used(state, pool, offset) or np.int64(state.port_session[pool["ports"] + offset]) == leaving + 1


@kernel
def _own_port(packet: Any, pool: Any) -> Any:
    """The offset of the consumer's own port in the pool's range, or -1."""
    offset = ((packet["flow"] >> 16) & 0xFFFF) - np.int64(pool["first_port"])
    return offset if 0 <= offset < pool["capacity"] else np.int64(-1)


@kernel
def _probe(state: Any, packet: Any, number: Any, backend_port: Any, leaving: Any) -> Any:
    """A free port by a bounded search, or -1."""
    pool = state.pools[number]
    if gives_back(state, number, leaving) == 0:
        leaving = np.int64(-1)
    service = state.services[pool["service"]]
    size = np.int64(pool["capacity"])
    first = np.int64(service["first_probe"])
    if pool["allocation"] == HASH or pool["allocation"] == HASH_BUCKETS:
        counter, start = _hash_start(state, packet, number, backend_port)
        steps = np.int64(0)
        for run in range(service["probes"]):
            steps += state.probe_runs[first + run]
        for step in range(steps):
            state.port_counters[counter] += 1
            offset = (start + step) % size
            if _is_free(state, pool, offset, leaving):
                return offset
        return np.int64(-1)
    if pool["allocation"] == PRESERVE:
        offset = _own_port(packet, pool)
        if offset >= 0 and _is_free(state, pool, offset, leaving):
            return offset
    for run in range(service["probes"]):
        start = scale(_draw(pool), size)
        length = state.probe_runs[first + run]
        for step in range(min(length, size)):
            offset = (start + step) % size
            if _is_free(state, pool, offset, leaving):
                return offset
        if length >= size:
            break
    return np.int64(-1)


@inlined
def _draw(pool: Any) -> Any:
    """The next number of the pool's random stream."""
    draws = pool["draws"] + _ONE
    pool["draws"] = draws
    return mix(pool["key"] + draws * GOLDEN)


@inlined
def _draw_free(state: Any, pool: Any) -> Any:
    """A free port at random, each as likely as any other; there is one."""
    size = np.int64(pool["capacity"])
    free = np.int64(pool["free"])
    if _TRIES * free >= size:
        for _ in range(_TRIES):
            offset = scale(_draw(pool), size)
            if not _is_used(state, pool, offset):
                return offset
    return _nth_free(state, pool, scale(_draw(pool), free))


@kernel
def _nth_free(state: Any, pool: Any, n: Any) -> Any:
    """The free port that has `n` free ones below it; there is one."""
    stretch = pool["ports"] >> STRETCH_BITS
    free = (1 << STRETCH_BITS) - np.int64(state.used_in_stretch[stretch])
    while n >= free:
        n -= free
        stretch += 1
        free = (1 << STRETCH_BITS) - np.int64(state.used_in_stretch[stretch])
    word = stretch << (STRETCH_BITS - 6)
    unused = state.used_ports[word] ^ _ALL
    free = ones(unused)
    while n >= free:
        n -= free
        word += 1
        unused = state.used_ports[word] ^ _ALL
        free = ones(unused)
    for _ in range(n):
        unused &= unused - _ONE
    return (word << 6) + trailing_zeros(unused) - pool["ports"]


@kernel
def _hash_start(state: Any, packet: Any, number: Any, backend_port: Any) -> Any:
    """Where RFC 6056 algorithm 3 or 4 begins to look: (index of its counter, offset)."""
    pool = state.pools[number]
    source = (np.uint64(packet["flow"]) & np.uint64(0xFFFFFFFF00000000)) | np.uint64(backend_port)
    hashed = mix(mix(source ^ state.endpoints[packet["endpoint"]]["key"]) ^ pool["key"])
    counter = np.int64(pool["counters"])
    if pool["allocation"] == HASH_BUCKETS:
        counter += scale(mix(hashed + GOLDEN), np.int64(BUCKETS))
    size = np.int64(pool["capacity"])
    return counter, (scale(hashed, size) + state.port_counters[counter]) % size


@kernel
def _find_blocks(state: Any, number: Any, endpoint: Any) -> Any:
    """(the lowest own block with a free port or -1, the lowest free block or -1, how many blocks are own)."""
    pool = state.pools[number]
    owner = np.int64(state.endpoints[endpoint]["number"]) + 1
    size = np.int64(state.services[pool["service"]]["block_size"])
    capacity = np.int64(pool["capacity"])
    own, free, count = np.int64(-1), np.int64(-1), np.int64(0)
    for at in range((capacity + size - 1) // size):
        block = state.blocks[pool["blocks"] + at]
        if block["owner"] == owner:
            count += 1
            if own < 0 and block["used"] < min(size, capacity - at * size):
                own = np.int64(at)
        elif block["owner"] == 0 and free < 0:
            free = np.int64(at)
    return own, free, count


# --- taking and giving back ---------------------------------------------------------------------------------------


@inlined
def take_port(state: Any, packet: Any, number: Any, backend_port: Any, row: Any, offset: Any) -> Any:
    """Take a port of a pool that gives one, as an offset from the first; it now belongs to session `row`.

    `offset` is what `look_for_port` found, or -1.
    """
    pool = state.pools[number]
    if offset < 0:
        if pool["allocation"] == RANDOM:
            offset = _draw_free(state, pool)
        else:
            offset = _choose_port(state, packet, number, backend_port)
    at = pool["ports"] + offset
    state.used_ports[at >> 6] |= _ONE << np.uint64(offset & 63)
    state.used_in_stretch[at >> STRETCH_BITS] += np.uint32(1)
    state.port_session[at] = row + 1
    pool["free"] -= 1
    if pool["free"] < pool["minimum_free"]:
        pool["minimum_free"] = pool["free"]
    return offset


@kernel
def _choose_port(state: Any, packet: Any, number: Any, backend_port: Any) -> Any:
    """The free port that a pool gives next, where it is not drawn at random."""
    pool = state.pools[number]
    allocation = pool["allocation"]
    if allocation == PRESERVE:
        own = _own_port(packet, pool)
        return own if own >= 0 and not _is_used(state, pool, own) else _draw_free(state, pool)
    if allocation == SEQUENTIAL:
        start = np.int64(pool["cursor"]) + 1
        offset = _next_free(state, pool, start if start < pool["capacity"] else np.int64(0))
        pool["cursor"] = offset
    elif allocation == BLOCK:
        offset = _next_free(state, pool, _claim_block(state, number, np.int64(packet["endpoint"])))
        state.blocks[pool["blocks"] + offset // state.services[pool["service"]]["block_size"]]["used"] += 1
    else:
        counter, start = _hash_start(state, packet, number, backend_port)
        offset = _next_free(state, pool, start)
        state.port_counters[counter] += (offset - start) % np.int64(pool["capacity"]) + 1
    return offset


@inlined
def foresee_port(state: Any, number: Any) -> None:
    """Ask for the place of the port that a pool will probably give next, after those asked for already."""
    pool = state.pools[number]
    size = np.int64(pool["capacity"])
    if pool["allocation"] != RANDOM or pool["free"] < size >> 2:  # in a full pool, most draws lead nowhere
        return
    ahead = (np.int64(pool["foreseen"]) - np.int64(pool["draws"])) & 0xFFFFFFFF
    draw = pool["draws"] + np.uint64(ahead if ahead < _FARTHEST else 0)
    draw += _ONE
    offset = scale(mix(pool["key"] + draw * GOLDEN), size)
    if pool["free"] < size - (size >> 2):  # else the first draw will probably do, and nothing has to be waited for
        tries = 1
        while tries < _TRIES and _is_used(state, pool, offset):
            draw += _ONE
            offset = scale(mix(pool["key"] + draw * GOLDEN), size)
            tries += 1
    pool["foreseen"] = np.uint32(draw & _LOW)
    prefetch_port(state, pool["ports"] + offset)


@kernel
def _claim_block(state: Any, number: Any, endpoint: Any) -> Any:
    """The first port of the block from which the endpoint gets its next port; the block is its own."""
    pool = state.pools[number]
    own, free, _ = _find_blocks(state, number, endpoint)
    if own < 0:
        own = free
        state.blocks[pool["blocks"] + own]["owner"] = np.int64(state.endpoints[endpoint]["number"]) + 1
    return own * np.int64(state.services[pool["service"]]["block_size"])


@kernel
def _next_free(state: Any, pool: Any, start: Any) -> Any:
    """The lowest free port from `start` on, wrapping at the end of the range; there is one."""
    first = pool["ports"] >> 6
    words = (np.int64(pool["capacity"]) + 63) >> 6
    word = start >> 6
    used = state.used_ports[first + word] | ((_ONE << np.uint64(start & 63)) - _ONE)
    while used == _ALL:
        word = word + 1 if word + 1 < words else np.int64(0)
        used = state.used_ports[first + word]
    return (word << 6) + trailing_zeros(used ^ _ALL)


@inlined
def give_port(state: Any, number: Any, offset: Any) -> None:
    """The port is free again."""
    pool = state.pools[number]
    at = pool["ports"] + offset
    state.used_ports[at >> 6] &= _ALL ^ (_ONE << np.uint64(offset & 63))
    state.used_in_stretch[at >> STRETCH_BITS] -= np.uint32(1)
    if pool["allocation"] == BLOCK:
        block = state.blocks[pool["blocks"] + offset // state.services[pool["service"]]["block_size"]]
        block["used"] -= 1
        if block["used"] == 0:
            block["owner"] = 0
    pool["free"] += 1


@inlined
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
def prefetch_port(state: Any, at: Any) -> None:
    """Ask for what is known of a port, given where it is in State.port_session."""
    prefetch(state.port_session, at)
    prefetch(state.used_ports, at >> 6)


@inlined
def prefetch_session(state: Any, number: Any, port: Any) -> None:
    """Ask for who has a port of the pool."""
    pool = state.pools[number]
    offset = port - np.int64(pool["first_port"])
    if 0 <= offset < pool["capacity"]:
        prefetch(state.port_session, pool["ports"] + offset)


@inlined
def session_at(state: Any, number: Any, port: Any) -> Any:
    """The row whose session had this port of the pool last (`has_port` says if it still has); -1: none ever had."""
    pool = state.pools[number]
    offset = port - np.int64(pool["first_port"])
    if offset < 0 or offset >= pool["capacity"]:
        return np.int64(-1)
    return np.int64(state.port_session[pool["ports"] + offset]) - 1


@inlined
def has_port(session: Any, number: Any, port: Any) -> Any:
    """Whether a session has, or holds, this port of a pool."""
    return session["pool"] == number and session["nat_port"] == port and session["state"] != UNUSED


@kernel
def gives_back(state: Any, number: Any, leaving: Any) -> Any:
    """1 if the session in row `leaving` (or -1) would free a port of this pool by ending now, else 0."""
    if leaving < 0 or state.sessions[leaving]["pool"] != number:
        return np.int64(0)
    return np.int64(1 if timeout_in(state, state.sessions[leaving]["timeouts"], HELD) == 0 else 0)


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
