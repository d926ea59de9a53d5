"""In memory: the engine, and the limit: a loop that only touches what every NAT must touch.

The limit is not a NAT. Per packet it finds the headers where they are, computes from the sender's address and port a
row of a table with 64 bytes for each session, reads and counts in that row, and changes the addresses, ports and
checksums by a number that stands there. The row is computed by a perfect hash of these workloads' senders: a row for
each session, and no search. Rows are asked for 256 packets ahead, and one at a time, which was faster than a vector at
once. No clock, no timers, no policy, no port accounting: a NAT with a table of sessions, on this processor, compiled by
this compiler, can hardly be faster.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import numpy as np

from bench.peers.contest import CLIENT_PORTS, Arena, Contestant, check, sample
from bench.workloads import FIRST_CLIENT
from dataplane.kernel import kernel, load16, load32, prefetch, store16, store32
from dataplane.memory import zeroed
from dataplane.simulator import Simulator

#: How many packets ahead a row is asked for; a power of two.
AHEAD = 256

#: Where things are in an Ethernet frame with IPv4 and UDP.
_HEADER_CHECKSUM, _SOURCE, _DESTINATION, _PORTS, _UDP_CHECKSUM = 24, 26, 30, 34, 40

#: How a flow's number becomes a client's address and port in `bench/workloads.py`.
_FIRST_PORT, _PORT_STEP, _PORTS_EACH = CLIENT_PORTS.start, CLIENT_PORTS.step, len(CLIENT_PORTS)

#: Words of 64 bits in a row: the first counts packets, the second says by how much to change the headers.
_ROW = 8
_HUGE_PAGE = 1 << 21


def dataplane(arena: Arena, opened: ExitStack) -> Contestant:
    """`Simulator.feed` on open sessions: the uncounted first round opens them."""
    simulator = Simulator(arena.topology)
    received = 0

    def one_round() -> float:
        nonlocal received
        batch = arena.restore()
        begun = time.perf_counter()
        simulator.feed(batch)
        seconds = time.perf_counter() - begun
        received += len(batch)
        forwarded = simulator.summary()["forwarded"]["packets"]
        if forwarded != received:
            raise RuntimeError(f"dataplane forwarded {forwarded:,} of {received:,} packets")
        check(sample(batch))
        return seconds

    note = "memory; stateful: load balancer, source NAT, timers, counters, exact port accounting"
    return Contestant("dataplane, in memory", len(arena), note, one_round)


def limit(arena: Arena, opened: ExitStack) -> Contestant:
    """The loop that only touches memory."""
    # At least a huge page, so that even a small table's rows start where cache lines do.
    table = zeroed(max(arena.sessions * _ROW, _HUGE_PAGE // 8), np.int64)
    table[1::_ROW] = 1
    chosen = np.zeros(AHEAD, np.int64)
    counted = 0

    def one_round() -> float:
        nonlocal counted
        batch = arena.restore()
        begun = time.perf_counter()
        touch(batch.frames, batch.data, table, chosen)
        seconds = time.perf_counter() - begun
        counted += len(batch)
        counts = table[: arena.sessions * _ROW : _ROW]
        if counts.sum() != counted or np.any(counts == 0):
            raise RuntimeError(
                f"the limit counted {counts.sum():,} of {counted:,} packets, {(counts > 0).sum():,} rows"
            )
        return seconds

    note = "memory; no NAT: touches only the headers and one 64-byte row per session, prefetched"
    return Contestant("limit (touch only)", len(arena), note, one_round)


@kernel
def touch(frames: Any, data: Any, table: Any, chosen: Any) -> None:
    """Change each packet's headers by what its row says; `chosen` holds the rows that have been asked for."""
    count, ahead = len(frames), len(chosen)
    for i in range(count + ahead):
        k = i & (ahead - 1)
        row = chosen[k]
        if i < count:
            at = frames[i]["offset"]
            number = (load16(data, at + _PORTS) - _FIRST_PORT) // _PORT_STEP
            chosen[k] = ((load32(data, at + _SOURCE) - FIRST_CLIENT) * _PORTS_EACH + number) * _ROW
            prefetch(table, chosen[k])
        if i >= ahead:
            at = frames[i - ahead]["offset"]
            table[row] += 1
            change = table[row + 1]
            store32(data, at + _SOURCE, load32(data, at + _SOURCE) + change)
            store32(data, at + _DESTINATION, load32(data, at + _DESTINATION) + change)
            store32(data, at + _PORTS, load32(data, at + _PORTS) + change)
            store16(data, at + _HEADER_CHECKSUM, load16(data, at + _HEADER_CHECKSUM) - change)
            store16(data, at + _UDP_CHECKSUM, load16(data, at + _UDP_CHECKSUM) - change)
