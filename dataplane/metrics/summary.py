"""The summary of a run: every counter, and every NAT pool as it stands at the clock."""

from __future__ import annotations

from typing import Any

import numpy as np

from dataplane.forwarding.tables import nat_ips_of, protocols_of
from dataplane.metrics.series import Series, nat_ip_pools
from dataplane.records import END_WORDS, State
from dataplane.topology.model import PrivateLinkService, Topology
from dataplane.verdict import Verdict


def summarise(topology: Topology, state: State, series: Series, seed: int) -> dict[str, Any]:
    """The object of `summary.json`. Bytes are IPv4 total lengths, percentages 0 to 100, times in seconds."""
    clock = state.clock[0]
    traffic = series.totals(state)
    totals = np.stack([state.totals["packets"], state.totals["bytes"]], axis=1)
    reasons = {
        str(verdict): _figures(totals[verdict])
        for verdict in Verdict
        if verdict.is_drop and totals[verdict, 0]
    }
    endpoints = []
    of_service: dict[str, list[int]] = {service.name: [0] * 4 for service in topology.private_link_services}
    for row, endpoint in enumerate(topology.private_endpoints):
        figures = [int(figure) for figure in traffic[row]]
        of_service[endpoint.target] = [
            a + b for a, b in zip(of_service[endpoint.target], figures, strict=True)
        ]
        drops = state.endpoint_drops[row]
        endpoints.append(
            {
                "name": endpoint.name,
                "virtual_network": endpoint.virtual_network,
                "target": endpoint.target,
                **_traffic(figures),
                "dropped": {str(verdict): int(drops[verdict]) for verdict in Verdict if drops[verdict]},
                "sessions": {
                    "created": int(state.counters[row]["sessions_created"]),
                    "active": int(state.counters[row]["sessions_active"]),
                },
            }
        )
    nat_rows = iter(state.nat_ips)
    services = [
        {
            "name": service.name,
            **_traffic(of_service[service.name]),
            "nat_ips": [_nat_ip(service, str(ip), state, next(nat_rows)) for ip in nat_ips_of(topology, service)],
        }
        for service in topology.private_link_services
    ]
    dropped = totals[Verdict.BYPASSED + 1 :].sum(axis=0)
    return {
        "received": _figures(totals.sum(axis=0)),
        "forwarded": _figures(totals[Verdict.FORWARDED]),
        "bypassed": _figures(totals[Verdict.BYPASSED]),
        "dropped": {**_figures(dropped), "reasons": reasons},
        "private_endpoints": endpoints,
        "private_link_services": services,
        "sessions": {
            "created": int(state.counters["sessions_created"].sum()),
            "active": int(clock["live"]),
            "ended": {word: int(count) for word, count in zip(END_WORDS, state.ended, strict=True)},
            "resets_sent": int(clock["resets_sent"]),
        },
        "first_exhaustion": first_exhaustion(topology, state),
        "times": {"backward": int(clock["backward_times"]), "unusable": int(clock["unusable_times"])},
        "duration_seconds": (int(clock["now"]) - int(clock["origin"])) / 1e9 if clock["started"] else 0.0,
        "seed": seed,
    }


def _figures(row: Any) -> dict[str, int]:
    return {"packets": int(row[0]), "bytes": int(row[1])}


def _traffic(figures: list[int]) -> dict[str, int]:
    return dict(zip(("bytes_in", "bytes_out", "packets_in", "packets_out"), figures, strict=True))


def _nat_ip(service: PrivateLinkService, address: str, state: State, nat_ip: Any) -> dict[str, Any]:
    rows = state.pools[nat_ip_pools(state, nat_ip)]
    names = [
        (protocol, str(backend))
        for protocol in protocols_of(service)
        for backend in service.load_balancer.backend_pool
    ]
    pools = [
        {
            "protocol": protocol,
            "backend": backend,
            "capacity": int(pool["capacity"]),
            "in_use": int(pool["capacity"] - pool["free"] - pool["held"]),
            "held": int(pool["held"]),
            "free": int(pool["free"]),
            "minimum_free": int(pool["minimum_free"]),
            "allocation_failures": int(pool["failures"]),
        }
        for (protocol, backend), pool in zip(names, rows, strict=True)
    ]
    size = service.nat.nat_ports.size
    capacity, free, held = size * len(pools), int(rows["free"].sum()), int(rows["held"].sum())

    return {
        "ip": address,
        "active": bool(nat_ip["active"]),
        "capacity": capacity,
        "in_use": capacity - free - held,
        "held": held,
        "free": free,
        "availability_percent": 100 * free / capacity if capacity else 100.0,
        "usage_percent": 100 * (capacity - free) / capacity if capacity else 0.0,
        "minimum_availability_percent": 100 * int(rows["minimum_free"].min(initial=size)) / size,
        "worst_pool_availability_percent": 100 * int(rows["free"].min(initial=size)) / size,
        "allocation_failures": int(nat_ip["failures"]),
        "pools": pools,
    }


def first_exhaustion(topology: Topology, state: State) -> dict[str, Any] | None:
    """The first time that a session found no free port (section `first_exhaustion`), or None."""
    clock = state.clock[0]
    if clock["exhausted_pool"] < 0:
        return None
    return {
        "time_seconds": (int(clock["exhausted_at"]) - int(clock["origin"])) / 1e9,
        **pool_names(topology, state, int(clock["exhausted_pool"])),
        "reason": str(Verdict(int(clock["exhausted_verdict"]))),
    }


def pool_names(topology: Topology, state: State, number: int) -> dict[str, str]:
    """What a row of `state.pools` is called: service, NAT IP, protocol, backend."""
    pool = state.pools[number]
    row = state.nat_ips[pool["nat_ip"]]
    service = topology.private_link_services[row["service"]]
    protocols = protocols_of(service)
    backends = service.load_balancer.backend_pool
    protocol, backend = divmod(int(pool["number"]) % (len(protocols) * len(backends)), len(backends))
    return {
        "service": service.name,
        "nat_ip": str(nat_ips_of(topology, service)[row["index"]]),
        "protocol": protocols[protocol],
        "backend": str(backends[backend]),
    }
