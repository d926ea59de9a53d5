"""What an exhaustion experiment found: when NAT ports ran out, who used them, what the metric showed, how early.

Reads the simulator once per second of simulated time. Port-seconds are exact: sums over the lives of sessions. The
lowest availability is exact, its moment known to the second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.forwarding.tables import nat_ips_of
from dataplane.metrics.series import MetricRow
from dataplane.runs.answers import FAILURES
from dataplane.runs.scenario import MINUTE, Alert
from dataplane.runs.traffic import COUNTS
from dataplane.simulator import Simulator
from dataplane.topology import Topology

_SECOND = 1_000_000_000


class PortTime:
    """How long NAT ports were in use and held, by endpoint, from the lives of sessions; exact to the nanosecond."""

    def __init__(self, topology: Topology, from_ns: int) -> None:
        holds = {service.name: service.nat.port_hold for service in topology.private_link_services}
        self._holds = np.array([holds.get(endpoint.target, 0) for endpoint in topology.private_endpoints], np.int64)
        self._from = from_ns
        # Whole seconds and nanoseconds apart: port-nanoseconds of a large service do not fit into 64 bits.
        self._seconds = np.zeros((len(self._holds), 2), np.int64)
        self._rest = np.zeros((len(self._holds), 2), np.int64)
        self._held: list[NDArray[np.int64]] = []  # sessions whose port is still held: endpoint, since, until

    def add_ended(self, rows: NDArray[Any], now_ns: int) -> None:
        """Count sessions that ended by `now_ns` (rows of ENDED), and what is held until then."""
        if not len(rows) and not self._held:
            return
        endpoints, ended = rows["endpoint"].astype(np.int64), rows["ended"]
        self._add(0, endpoints, rows["first_packet"], ended)
        holds = self._holds[endpoints]
        kept = holds > 0
        since = np.stack([endpoints[kept], ended[kept], (ended + holds)[kept]])
        held = np.concatenate([*self._held, since], axis=1)
        over = held[2] <= now_ns
        self._add(1, *held[:, over])
        self._held = [held[:, ~over]] if not over.all() else []

    def finish(self, live: NDArray[Any], now_ns: int) -> NDArray[np.float64]:
        """Count what is in use (rows of ENDED of live sessions) and held at the end; seconds, shape (endpoints, 2)."""
        endpoints = live["endpoint"].astype(np.int64)
        self._add(0, endpoints, live["first_packet"], np.full(len(live), now_ns))
        for endpoints, since, _ in self._held:
            self._add(1, endpoints, since, np.full(len(since), now_ns))
        return self._seconds + self._rest / _SECOND

    def _add(self, state: int, endpoints: Any, begin: Any, end: Any) -> None:
        lives = np.maximum(end, self._from) - np.maximum(begin, self._from)
        seconds, rest = np.divmod(lives, _SECOND)
        np.add.at(self._seconds[:, state], endpoints, seconds)
        np.add.at(self._rest[:, state], endpoints, rest)
        self._seconds += self._rest // _SECOND
        self._rest %= _SECOND


class Watch:
    """Looks at a simulator every second and keeps what is worth telling, from `from_ns` on."""

    def __init__(self, topology: Topology, origin_ns: int, from_ns: int) -> None:
        self._topology = topology
        self._origin, self._from = origin_ns, from_ns
        self._port_time = PortTime(topology, from_ns)
        self._lowest: NDArray[np.float64] | None = None  # share of free ports, by pool
        self._lowest_of_all = np.inf
        self._lowest_at = 0
        self._lowest_pool = 0
        self._first_failure: dict[str, Any] | None = None
        self._before: dict[str, dict[str, int]] = {}
        #: By (service, NAT IP): minute's start in nanoseconds since 1970 and average usage in percent.
        self._usage: dict[tuple[str, str], list[tuple[int, float]]] = {}

    def minute(self, rows: Iterable[MetricRow]) -> None:
        """Rows of metrics.csv."""
        for row in rows:
            if row.metric == "PLSNatPortsUsage":
                start = int(datetime.fromisoformat(row.time).timestamp()) * _SECOND
                self._usage.setdefault((row.resource, row.dimension), []).append((start, row.average))

    def begin(self, simulator: Simulator) -> None:
        """The warm-up is over."""
        simulator.take_extremes()
        self._before = {e["name"]: e["dropped"] for e in simulator.summary()["private_endpoints"]}

    def second(self, simulator: Simulator, ended: NDArray[Any], begin_ns: int, end_ns: int) -> None:
        """Look at the time from `begin_ns` to `end_ns`, in which these sessions ended (rows of ENDED)."""
        self._port_time.add_ended(ended, end_ns)
        if begin_ns < self._from:
            return
        lowest, first = simulator.take_extremes()
        self._first_failure = self._first_failure or first
        if not len(lowest):
            return
        shares = lowest / np.maximum(simulator.pools["capacity"], 1)
        self._lowest = shares if self._lowest is None else np.minimum(self._lowest, shares)
        least = float(shares.min())
        if least < self._lowest_of_all:
            self._lowest_of_all, self._lowest_at = least, begin_ns
            self._lowest_pool = int(shares.argmin())

    def findings(
        self, simulator: Simulator, summary: dict[str, Any], traffic: list[dict[str, Any]], alert: Alert, now_ns: int
    ) -> dict[str, Any]:
        """The object `findings` of summary.json; `summary` is the rest of it, `traffic` what `traffic_counts` says."""
        port_time = self._port_time.finish(simulator.live_sessions(), now_ns)
        return {
            "from_seconds": self._seconds(self._from),
            "to_seconds": self._seconds(now_ns),
            "first_failure": self._first_failure,
            "lowest_availability": self._lowest_availability(simulator),
            "nat_ips": self._nat_ips(simulator, summary),
            "private_endpoints": self._endpoints(summary, port_time),
            "traffic": traffic,
            "alert": self._alert(alert),
        }

    def _seconds(self, time_ns: int) -> float:
        return (time_ns - self._origin) / _SECOND

    def _lowest_availability(self, simulator: Simulator) -> dict[str, Any] | None:
        if self._lowest is None:
            return None
        return {
            "percent": 100 * self._lowest_of_all,
            "time_seconds": self._seconds(self._lowest_at),
            **simulator.pool_names(self._lowest_pool),
        }

    def _nat_ips(self, simulator: Simulator, summary: dict[str, Any]) -> list[dict[str, Any]]:
        lowest: dict[tuple[str, str], float] = {}
        for number, share in enumerate(self._lowest if self._lowest is not None else ()):
            names = simulator.pool_names(number)
            key = names["service"], names["nat_ip"]
            lowest[key] = min(lowest.get(key, np.inf), 100 * float(share))
        told = []
        for service in summary["private_link_services"]:
            for nat_ip in service["nat_ips"]:
                key = service["name"], nat_ip["ip"]
                averages = [(100 - usage, start) for start, usage in self._minutes(key)]
                average, minute = min(averages, default=(None, None))
                told.append(
                    {
                        "service": key[0],
                        "nat_ip": key[1],
                        "lowest_availability_percent": lowest.get(key),
                        "lowest_minute_average_percent": None if average is None else round(average, 6),
                        "minute_seconds": None if minute is None else self._seconds(minute),
                    }
                )
        return told

    def _endpoints(self, summary: dict[str, Any], port_time: NDArray[np.float64]) -> list[dict[str, Any]]:
        every = float(port_time.sum())
        told = []
        for endpoint, (in_use, held) in zip(summary["private_endpoints"], port_time.tolist(), strict=True):
            before = self._before.get(endpoint["name"], {})
            failures = {
                reason: count - before.get(reason, 0)
                for reason, count in endpoint["dropped"].items()
                if reason in FAILURES and count > before.get(reason, 0)
            }
            told.append(
                {
                    "name": endpoint["name"],
                    "failures": failures,
                    "port_seconds": {"in_use": in_use, "held": held},
                    "port_seconds_percent": round(100 * (in_use + held) / every, 6) if every else 0.0,
                }
            )
        return told

    def _minutes(self, nat_ip: tuple[str, str]) -> list[tuple[int, float]]:
        """The minutes that are not wholly in the warm-up."""
        return [(start, usage) for start, usage in self._usage.get(nat_ip, []) if start + MINUTE > self._from]

    def _alert(self, alert: Alert) -> dict[str, Any]:
        fired: tuple[int, tuple[str, str]] | None = None
        for key in self._usage:
            at = fires_at([(start - self._origin, usage) for start, usage in self._minutes(key)], alert)
            if at is not None and (fired is None or (at, key) < fired):
                fired = at, key
        failure = self._first_failure
        return {
            **alert.model_dump(mode="json"),
            "fired_seconds": None if fired is None else fired[0] / _SECOND,
            "service": None if fired is None else fired[1][0],
            "nat_ip": None if fired is None else fired[1][1],
            "seconds_before_first_failure": (
                None if fired is None or failure is None else failure["time_seconds"] - fired[0] / _SECOND
            ),
            "unconfirmed": ["ingestion_delay"],
        }


def fires_at(minutes: list[tuple[int, float]], alert: Alert) -> int | None:
    """When an alert first fires, in nanoseconds; None: never.

    `minutes` are (start, average usage in percent), in order. At every whole multiple of `evaluation` the alert
    averages those minutes of the last `window` that can be seen: that were over `ingestion_delay` ago. A minute without
    a value is left out of the average; without any there is nothing to compare.
    """
    if not minutes:
        return None
    values = dict(minutes)
    last = minutes[-1][0] + MINUTE + alert.window + alert.ingestion_delay
    for at in range(alert.evaluation, last + alert.evaluation, alert.evaluation):
        seen = at - alert.ingestion_delay
        newest = seen // MINUTE * MINUTE
        window = [values[m] for m in range(newest - alert.window, newest, MINUTE) if m in values]
        if window and sum(window) / len(window) > alert.threshold_percent:
            return at
    return None


def traffic_counts(names: Iterable[tuple[str, str]], now: NDArray[Any], before: NDArray[Any]) -> list[dict[str, Any]]:
    """What sources did since `before` (rows of SOURCE): `names` are those of source and endpoint."""
    return [
        {
            "name": name,
            "endpoint": endpoint,
            "connections": {count: int(row[count] - old[count]) for count in COUNTS},
        }
        for (name, endpoint), row, old in zip(names, now, before, strict=True)
    ]


@dataclass(frozen=True)
class Moment:
    """Where a run is: what a live view shows."""

    seconds: float
    duration: float
    sessions: int
    failures: int
    packets: int
    #: (service, NAT IP, share of free ports from 0 to 1), the NAT IPs in order: those that new sessions may have now.
    availability: list[tuple[str, str, float]]


def moment(topology: Topology, simulator: Simulator, origin_ns: int, duration_ns: int) -> Moment:
    """Where a run is now."""
    pools, active = simulator.pools, simulator.nat_ips["active"]
    free, capacity, failures = (pools[name].astype(np.int64) for name in ("free", "capacity", "failures"))
    availability = []
    names = [
        (service.name, str(ip)) for service in topology.private_link_services for ip in nat_ips_of(topology, service)
    ]
    for number, (name, address) in enumerate(names):
        if active[number]:
            own = pools["nat_ip"] == number
            availability.append((name, address, float(free[own].sum() / max(1, capacity[own].sum()))))
    clock = simulator.clock
    return Moment(
        (clock["now"] - origin_ns) / _SECOND,
        duration_ns / _SECOND,
        clock["live"],
        int(failures.sum()),
        clock["received"],
        availability,
    )
