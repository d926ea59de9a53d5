"""What several shards have counted, as one state: sums, extremes, and every pool from the shard whose it is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.records import State
from dataplane.shards.shard import Figures


def merged(front: State, figures: list[Figures]) -> State:
    """The counters of all shards in a copy of `front`, whose clock is that of all.

    There, a pool's host is the shard that has it. All arithmetic is in integers, so the order of shards never shows.
    """
    pools = front.pools.copy()
    owners = front.pools["host"]
    for shard, part in enumerate(figures):
        pools[owners == shard] = part.pools[owners == shard]
    totals = front.totals.copy()
    for name in ("packets", "bytes"):
        totals[name] = sum(part.totals[name] for part in figures)
    return front.replace(
        clock=_clock(front.clock, [part.clock[0] for part in figures]),
        pools=pools,
        nat_ips=_nat_ips(front.nat_ips, [part.nat_ips for part in figures]),
        counters=_counters([part.counters for part in figures]),
        endpoint_drops=sum(part.endpoint_drops for part in figures),
        totals=totals,
        ended=sum(part.ended for part in figures),
    )


def _clock(own: NDArray[Any], clocks: list[Any]) -> NDArray[Any]:
    merged_clock = own.copy()
    row = merged_clock[0]
    for name in ("live", "resets_sent"):
        row[name] = sum(clock[name] for clock in clocks)
    row["next_due"] = min(clock["next_due"] for clock in clocks)
    exhausted = [clock for clock in clocks if clock["exhausted_pool"] >= 0]
    if exhausted:
        first = min(exhausted, key=lambda clock: int(clock["exhausted_by"]))
        for name in ("exhausted_at", "exhausted_by", "exhausted_pool", "exhausted_verdict"):
            row[name] = first[name]
    return merged_clock


def _nat_ips(own: NDArray[Any], parts: list[NDArray[Any]]) -> NDArray[Any]:
    rows = own.copy()
    rows["since"] = np.max([part["since"] for part in parts], axis=0)
    rows["port_time"] = sum(part["port_time"] + part["used"] * (rows["since"] - part["since"]) for part in parts)
    for name in ("used", "events", "failures"):
        rows[name] = sum(part[name] for part in parts)
    return rows


def _counters(parts: list[NDArray[Any]]) -> NDArray[Any]:
    rows = parts[0].copy()
    for part in parts[1:]:
        for way in ("in", "out"):
            count, smallest, largest = f"packets_{way}", f"smallest_{way}", f"largest_{way}"
            # Extremes count only where there were packets.
            new, had = part[count] > 0, rows[count] > 0
            rows[smallest] = np.where(new & had, np.minimum(rows[smallest], part[smallest]), rows[smallest])
            rows[smallest] = np.where(new & ~had, part[smallest], rows[smallest])
            rows[largest] = np.where(new & had, np.maximum(rows[largest], part[largest]), rows[largest])
            rows[largest] = np.where(new & ~had, part[largest], rows[largest])
            rows[count] += part[count]
            rows[f"bytes_{way}"] += part[f"bytes_{way}"]
        rows["sessions_created"] += part["sessions_created"]
        rows["sessions_active"] += part["sessions_active"]
    return rows
