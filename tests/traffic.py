"""Scenarios in a few words, and a service that lets everything through, for tests of generated traffic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.packets.batch import PacketBatch
from dataplane.records import OUTCOME
from dataplane.runs.exhaust import ORIGIN_NS
from dataplane.runs.frames import STRIDE
from dataplane.runs.scenario import Scenario
from dataplane.runs.traffic import Generator
from dataplane.verdict import Verdict

#: One consumer, one endpoint; rules for TCP 443 and UDP 53.
TOPOLOGY: dict[str, Any] = {
    "virtual_networks": [
        {"name": "contoso", "address_space": ["10.0.0.0/16"], "peered_with": ["hub"]},
        {"name": "hub", "address_space": ["10.9.0.0/16"]},
        {"name": "provider", "address_space": ["192.168.0.0/16"]},
    ],
    "private_link_services": [
        {
            "name": "orders",
            "virtual_network": "provider",
            "nat_ips": ["192.168.50.4"],
            "load_balancer": {
                "frontend_ip": "192.168.60.10",
                "rules": [
                    {"protocol": "tcp", "frontend_port": 443, "backend_port": 8443},
                    {"protocol": "udp", "frontend_port": 53, "backend_port": 53},
                ],
                "backend_pool": ["192.168.61.4"],
            },
        }
    ],
    "private_endpoints": [
        {"name": "pe-contoso", "virtual_network": "contoso", "ip": "10.0.1.5", "target": "orders"}
    ],
}

#: A packet as a test sees it: the first 54 bytes, and the row of its frame.
SEEN = np.dtype(
    [
        ("time", np.int64),  # since the beginning
        ("original", np.int64),
        ("captured", np.int64),
        ("point", np.int64),
        ("source", ">u4"),
        ("destination", ">u4"),
        ("source_port", ">u2"),
        ("destination_port", ">u2"),
        ("protocol", np.uint8),
        ("flags", np.uint8),
        ("bytes", "u1", STRIDE),
    ]
)


def topology(ports: str = "1024-65535", *, only: str | None = None, **nat: Any) -> dict[str, Any]:
    """The topology with so many NAT ports, and rules (so, pools) for one protocol only if it is named."""
    service = {**TOPOLOGY["private_link_services"][0], "nat": {"nat_ports": ports, **nat}}
    balancer = service["load_balancer"]
    rules = [rule for rule in balancer["rules"] if only in (None, rule["protocol"])]
    return {**TOPOLOGY, "private_link_services": [{**service, "load_balancer": {**balancer, "rules": rules}}]}


def source(name: str = "clients", protocol: str = "udp", **settings: Any) -> dict[str, Any]:
    """A traffic source to the endpoint."""
    port = 53 if protocol == "udp" else 443
    settings.setdefault("arrivals", {"pattern": "poisson", "rate": 100})
    return {"name": name, "endpoint": "pe-contoso", "protocol": protocol, "port": port, **settings}


def scenario(*sources: dict[str, Any], duration: str = "10s", **settings: Any) -> Scenario:
    """A scenario of these sources."""
    settings.setdefault("topology", TOPOLOGY)
    return Scenario.model_validate({"duration": duration, "traffic": sources or (source(),), **settings})


#: Given what was sent, which packets are dropped.
Drops = Callable[[NDArray[Any]], NDArray[np.bool_]]


class Service:
    """Takes batches as a simulator does; drops what `drops` says, and calls every packet's session its own."""

    def __init__(self, drops: Drops | None = None) -> None:
        self._drops = drops
        self._seen: list[NDArray[Any]] = []
        self.received = 0

    def __call__(self, batch: PacketBatch, outcomes: NDArray[Any]) -> None:
        assert outcomes.dtype == OUTCOME
        count = len(batch)
        seen = np.zeros(count, SEEN)
        rows = batch.data[: count * STRIDE].reshape(-1, STRIDE).copy()
        assert (batch.frames["offset"] == np.arange(count) * STRIDE).all()
        seen["bytes"] = np.where(np.arange(STRIDE) < batch.frames["captured"][:, None], rows, 0)
        seen["time"] = batch.frames["time_ns"] - ORIGIN_NS
        for name in ("original", "captured", "point"):
            seen[name] = batch.frames[name]
        places = (("source", 26, 4), ("destination", 30, 4), ("source_port", 34, 2), ("destination_port", 36, 2))
        for name, at, size in places:
            seen[name] = np.ascontiguousarray(rows[:, at : at + size]).view(SEEN[name])[:, 0]
        seen["protocol"], seen["flags"] = rows[:, 23], np.where(rows[:, 23] == 6, rows[:, 47], 0)
        self._seen.append(seen)
        outcomes["verdict"] = Verdict.FORWARDED
        outcomes["session"] = self.received + 1 + np.arange(count)
        if self._drops is not None:
            dropped = self._drops(seen)
            outcomes["verdict"][dropped] = Verdict.NAT_PORTS_EXHAUSTED
            outcomes["session"][dropped] = 0
        self.received += count

    @property
    def packets(self) -> NDArray[Any]:
        """All packets so far, in order (rows of SEEN)."""
        return np.concatenate(self._seen) if self._seen else np.zeros(0, SEEN)


def generate(
    plan: Scenario, *, seed: int = 0, slice_ns: int | None = None, drops: Drops | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The packets of a whole scenario (rows of SEEN) and the sources' counts (rows of SOURCE)."""
    service = Service(drops)
    generator = Generator(plan, seed, ORIGIN_NS, slice_ns)
    generator.run(ORIGIN_NS + plan.duration, service)
    return service.packets, generator.sources
