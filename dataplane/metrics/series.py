"""One-minute series of the metrics, with Azure's names where Azure has one.

`PEBytesIn`, `PEBytesOut`, `PLSBytesIn`, `PLSBytesOut` (unit Count, aggregation Total) and `PLSNatPortsUsage` (Percent,
Average, one series per NAT IP) are Azure Monitor's; `NatPortAvailability` is ours: the share of free ports.
Kernels count within the minute; at its end this module adds the minute to the run's totals and tells the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.forwarding.tables import nat_ips_of
from dataplane.records import State
from dataplane.topology.model import Topology

MINUTE_NS = 60_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LEAST = np.iinfo(np.int64).max


@dataclass(frozen=True)
class MetricRow:
    """One line of `metrics.csv`: a minute of one metric of one resource.

    Byte metrics have one sample per forwarded packet (unit bytes). The gauges of a NAT IP are percentages: the average
    of the sum over its pools, weighted by time; minimum and maximum are the lowest and highest of any of its pools.
    """

    time: str
    resource: str
    metric: str
    dimension: str
    total: float
    count: int
    minimum: float
    maximum: float
    average: float


Sink = Callable[[list[MetricRow]], None]


class Series:
    """The totals of a run, and the minute that is being counted."""

    def __init__(self, topology: Topology, sink: Sink | None = None) -> None:
        self._topology = topology
        self._sink = sink
        endpoints = topology.private_endpoints
        rows = {service.name: number for number, service in enumerate(topology.private_link_services)}
        self._service_of = np.array([rows[endpoint.target] for endpoint in endpoints], np.int64)
        #: Of the minutes that are over: columns bytes in, bytes out, packets in, packets out per endpoint.
        self.past = np.zeros((len(endpoints), 4), np.int64)

    def totals(self, state: State) -> NDArray[np.int64]:
        """Bytes in, bytes out, packets in, packets out of every endpoint so far, shape (endpoints, 4)."""
        return self.past + _minute(state)

    def end_minute(self, state: State, until_ns: int) -> int:
        """Tell the minute's rows and add it to the totals; what comes next comes by `until_ns`.

        Returns the start of the minute that is to begin (`begin_minute`): those in which nothing can happen are passed
        over.
        """
        clock = state.clock[0]
        end = int(clock["minute_end"])
        if self._sink is not None and (rows := self._rows(state, end, until_ns)):
            self._sink(rows)
        self.past += _minute(state)
        following = max(end, min(int(clock["next_due"]), int(clock["next_event"]), until_ns))
        return following // MINUTE_NS * MINUTE_NS

    def _rows(self, state: State, end: int, until_ns: int) -> list[MetricRow]:
        clock = state.clock[0]
        start = max(end - MINUTE_NS, int(clock["origin"]))
        time = minute_text(end - MINUTE_NS)
        rows = []
        traffic = np.zeros((len(self._topology.private_link_services), 2, 4), np.int64)
        traffic[:, :, 2] = _LEAST
        counters = state.counters
        for row in np.flatnonzero(counters["packets_in"] + counters["packets_out"]):
            counter = counters[row]
            name = self._topology.private_endpoints[row].name
            of_service = traffic[self._service_of[row]]
            for way, word in enumerate(("in", "out")):
                count = int(counter[f"packets_{word}"])
                if count:
                    total = int(counter[f"bytes_{word}"])
                    least, most = int(counter[f"smallest_{word}"]), int(counter[f"largest_{word}"])
                    rows.append(_byte_row(time, name, f"PEBytes{word.title()}", total, count, least, most))
                    of_service[way] += (total, count, 0, 0)
                    of_service[way, 2] = min(of_service[way, 2], least)
                    of_service[way, 3] = max(of_service[way, 3], most)
        for number, service in enumerate(self._topology.private_link_services):
            for way, word in enumerate(("In", "Out")):
                total, count, least, most = (int(figure) for figure in traffic[number, way])
                if count:
                    rows.append(_byte_row(time, service.name, f"PLSBytes{word}", total, count, least, most))
        # The minute that the run ends in is as long as the run was in it.
        until = max(start, min(end, until_ns))
        rows += self._gauge_rows(state, time, start, until, end, traffic[:, :, 1].sum(axis=1))
        return rows

    def _gauge_rows(
        self, state: State, time: str, start: int, until: int, end: int, forwarded: NDArray[np.int64]
    ) -> list[MetricRow]:
        rows = []
        pools = state.pools
        used = pools["capacity"] - pools["free"]
        touched = pools["minute"] == end
        low = np.where(touched, pools["minute_used_low"], used)
        high = np.where(touched, pools["minute_used_high"], used)
        for nat_ip in state.nat_ips:
            if not nat_ip["events"] and not (nat_ip["active"] and forwarded[nat_ip["service"]]):
                continue
            service = self._topology.private_link_services[nat_ip["service"]]
            own = nat_ip_pools(state, nat_ip)
            if own.start == own.stop:
                continue
            size = service.nat.nat_ports.size
            capacity = size * (own.stop - own.start)
            port_time = int(nat_ip["port_time"]) + int(nat_ip["used"]) * (until - int(nat_ip["since"]))
            mean = port_time / (until - start) if until > start else float(nat_ip["used"])
            average = round(100 * mean / capacity, 6)
            least = round(100 * int(low[own].min()) / size, 6)
            most = round(100 * int(high[own].max()) / size, 6)
            address = str(nat_ips_of(self._topology, service)[nat_ip["index"]])
            rows.append(
                MetricRow(time, service.name, "PLSNatPortsUsage", address, average, 1, least, most, average)
            )
            least, most, average = (round(100 - x, 6) for x in (most, least, average))
            rows.append(
                MetricRow(time, service.name, "NatPortAvailability", address, average, 1, least, most, average)
            )
        return rows


def begin_minute(state: State, start_ns: int) -> None:
    """Count from zero what is counted by the minute."""
    state.clock[0]["minute_end"] = start_ns + MINUTE_NS
    for name in ("bytes_in", "bytes_out", "packets_in", "packets_out"):
        state.counters[name] = 0
    state.nat_ips["since"] = start_ns
    state.nat_ips["port_time"] = 0
    state.nat_ips["events"] = 0


def nat_ip_pools(state: State, nat_ip: Any) -> slice:
    """Which rows of `state.pools` belong to a NAT IP (a row of `state.nat_ips`)."""
    service = state.services[nat_ip["service"]]
    count = int(service["protocols"]) * int(service["backends"])
    first = int(service["first_pool"]) + int(nat_ip["index"]) * count
    return slice(first, first + count)


def minute_text(start_ns: int) -> str:
    """ISO 8601 in UTC of a minute's start."""
    return (_EPOCH + timedelta(seconds=start_ns // 1_000_000_000)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _minute(state: State) -> NDArray[np.int64]:
    counters = state.counters
    return np.stack([counters[name] for name in ("bytes_in", "bytes_out", "packets_in", "packets_out")], axis=1)


def _byte_row(
    time: str, resource: str, metric: str, total: int, count: int, least: int, most: int
) -> MetricRow:
    return MetricRow(time, resource, metric, "", total, count, least, most, round(total / count, 6))
