"""Loads that a plan can be for: each is a scenario, whatever it was told by: numbers, a scenario file, measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np

from dataplane.runs.connections import EPHEMERAL_PORTS
from dataplane.runs.demand import demand
from dataplane.runs.holding import idle_timeout
from dataplane.runs.recorded import recorded_connections
from dataplane.runs.scenario import MOST_HOSTS, Payload, Scenario, TrafficSource
from dataplane.runs.scenario_file import load_scenario
from dataplane.topology.limits import NAT_IPS_PER_SERVICE
from dataplane.topology.model import Topology
from dataplane.topology.values import format_duration

_SECOND = 1_000_000_000

#: The beginning is over when so many of its connections have given back their port.
_GONE = 0.995

#: A client's ports are busy after a connection, TIME_WAIT included, for so many seconds.
_TIME_WAIT = 60

#: The provider's first address.
_PROVIDER = IPv4Address("100.64.0.4")

#: From a client's packet to the answer, seconds: what a scenario has by default.
ROUND_TRIP = 0.010


@dataclass(frozen=True)
class Load:
    """A load that a plan is for: `words` say what it is, `notes` what a reader should know of how it was told.

    `lasting`: it goes on as the scenario has it for ever. The keep-alives of the sources named in `talking` stand for
    what these connections say, so no change to keep-alives concerns them. `measured` are the most ports at a time that
    a measurement shows by itself.
    """

    scenario: Scenario
    words: str
    lasting: bool = False
    talking: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    measured: int | None = None


@dataclass(frozen=True)
class Numbers:
    """A load on one private link service, of one protocol. Rates are per second, times in seconds.

    `life` is the mean time from a connection's first packet to its last, `ends` how it ends (TCP: fin, rst, never).
    While it lives it is never silent for as long as the idle time-out; but a share `idle` of all say nothing after
    their beginning, and send a keep-alive after every `keep_alive` (None: none). `timeout` is that of the state in
    which a connection ends.
    """

    rate: float
    life: float
    protocol: str = "tcp"
    ends: str = "fin"
    profile: str = "azure-pls"
    port_hold: float | None = None
    timeout: float | None = None
    backends: int = 1
    ports: int = 64_512
    spill: bool = True
    idle: float = 0.0
    keep_alive: float | None = None

    def load(self) -> Load:
        """The load, lasting, as a scenario of a service with one NAT IP. Raises ValueError with the rule it breaks."""
        nat: dict[str, Any] = {
            "profile": self.profile,
            "nat_ports": f"{65_536 - self.ports}-65535",
            "spill": self.spill,
        }
        if self.port_hold is not None:
            nat["port_hold"] = duration(self.port_hold)
        if self.timeout is not None:
            names = {"fin": "tcp_closing", "rst": "tcp_reset", "never": "tcp_established"}
            name = "udp" if self.protocol == "udp" else names[self.ends]
            nat["timeouts"] = {name: duration(self.timeout)}
        rule = {"protocol": self.protocol, "frontend_port": 443, "backend_port": 443}
        topology = services(["10.0.0.0/16"], [("service", "endpoint", IPv4Address("10.0.255.4"), [rule])], nat,
                            self.backends)  # fmt: skip
        sources = []
        kind = "udp" if self.protocol == "udp" else self.ends
        for name, share, keep_alive in (("busy", 1 - self.idle, None), ("idle", self.idle, self.keep_alive or 0.0)):
            if share:
                source = connections(name, "endpoint", 443, kind, topology, [self.life], "exponential", keep_alive)
                sources.append(source | {"arrivals": {"pattern": "poisson", "rate": self.rate * share}})
        words = f"{self.rate:,g} {self.protocol} connections/s of {self.life:,g} s"
        return lasting(topology, sources, words, talking=frozenset({"busy"}))


def scenario_load(path: str | Path) -> Load:
    """The load of a scenario file, from the end of its warm-up to its end; files that it names are read once.

    Raises ScenarioError with every fault found, and `CaptureError` and `RunError` for what it names.
    """
    scenario = load_scenario(path)
    traffic = tuple(_with_moments(source, scenario.topology) for source in scenario.traffic)
    begin, end = (format_duration(time) for time in (scenario.warm_up, scenario.duration))
    return Load(scenario.model_copy(update={"traffic": traffic}), f"{path}, from {begin} to {end}")


def _with_moments(source: TrafficSource, topology: Topology) -> TrafficSource:
    """The same source, with what the files that it names say in their place.

    Recorded lives become a sample, recorded bytes their mean: how much is sent decides nothing about ports.
    """
    arrivals = source.arrivals
    if not arrivals.paths:
        return source
    once = source.model_copy(update={"arrivals": arrivals.model_copy(update={"copies": None, "speed": None})})
    rows, length, _ = recorded_connections(once, topology.endpoint(source.endpoint).ip)
    times = np.minimum(rows["time"], length - 1) if length else rows["time"]  # what begins at the very end
    moments = {"pattern": "moments", "file": None, "files": None, "repeat": None, "moments": tuple(times.tolist())}
    update: dict[str, Any] = {"arrivals": arrivals.model_copy(update=moments | {"period": length or None})}
    if source.life.distribution == "as_recorded":
        sample = {"distribution": "sample", "values": tuple(rows["life"].tolist())}
        update["life"] = source.life.model_copy(update=sample)
    for key in ("request", "response"):
        if getattr(source, key).bytes == "as_recorded":
            update[key] = Payload(bytes=math.ceil(rows[key].mean()))
    return source.model_copy(update=update)


def lasting(topology: Topology, sources: list[dict[str, Any]], words: str, period: float = 0.0, **told: Any) -> Load:
    """A load of these sources that goes on for ever: what is simulated of it begins when the beginning is over.

    `period` seconds after which given moments come again; then whole ones are simulated.
    """
    document = {"topology": topology, "duration": "1s", "traffic": sources}
    wanted = demand(Scenario.model_validate(document), lasting=True)
    holding = [one.holding.seconds for one in wanted.streams]
    warm_up: float = math.ceil(max((np.quantile(seconds, _GONE) for seconds in holding), default=1.0))
    measured: float = max(10, math.ceil(max((seconds.mean() for seconds in holding), default=0.0) / 2))
    if period:
        warm_up, measured = (math.ceil(seconds / period) * period for seconds in (warm_up, measured))
    for source in sources:
        own = [one for one in wanted.streams if one.source == source["name"]]
        in_use = sum(float(one.ports.max()) + one.rate * _TIME_WAIT for one in own)
        source["hosts"] = min(MOST_HOSTS, max(1, math.ceil(2 * in_use / EPHEMERAL_PORTS)))
    scenario = {**document, "duration": duration(warm_up + measured), "warm_up": duration(warm_up)}
    return Load(Scenario.model_validate(scenario), words, lasting=True, **told)


def connections(
    name: str,
    endpoint: str,
    port: int,
    kind: str,
    topology: Topology,
    lives: Sequence[float],
    distribution: str = "sample",
    keep_alive: float | None = None,
) -> dict[str, Any]:
    """A source of connections, but for its arrivals, that take their last packet after `lives` (seconds).

    `kind` is how they end (fin, rst, never), half_open, udp or udp_unreplied. `keep_alive` None: they are never silent
    for as long as the idle time-out; 0: nothing is said between the beginning and the end.
    """
    protocol = "udp" if kind.startswith("udp") else "tcp"
    mean = sum(lives) / len(lives)
    idle = idle_timeout(topology, endpoint, protocol, port) / _SECOND
    shift = 0.0
    if kind == "fin":
        shift = -ROUND_TRIP  # the server's FIN follows the client's
    if keep_alive is None:
        keep_alive = 0.8 * idle
        if kind == "never":  # the last keep-alive is the last packet: in the mean half of one before life's end
            keep_alive = min(keep_alive, max(mean / 10, 2 * ROUND_TRIP))
            shift = keep_alive / 2
    lives = [max(one + shift, 1e-9) for one in lives]
    source: dict[str, Any] = {
        "name": name,
        "endpoint": endpoint,
        "protocol": protocol,
        "port": port,
        "hosts": 1,
        "round_trip": duration(ROUND_TRIP),
        "life": {"distribution": "sample", "values": list(map(duration, lives))}
        if distribution == "sample"
        else {"distribution": distribution, "mean": duration(lives[0])},
    }
    if keep_alive:
        source["keep_alive"] = duration(max(keep_alive, 1.1 * ROUND_TRIP))
    if kind in ("fin", "rst", "never"):
        source["ends"] = {kind: 1}
    if kind == "half_open":
        source |= {"answer": False, "retries": min(6, round(math.log2(1 + mean)))}
    if kind == "udp":
        source["response"] = {"packets": 1}
    return source


def services(
    consumer: list[str],
    served: Sequence[tuple[str, str, IPv4Address, list[dict[str, Any]]]],
    nat: dict[str, Any],
    backends: int = 1,
) -> Topology:
    """A topology of services (name, its endpoint, that one's address, rules) with one NAT IP each and room for 8."""
    room = NAT_IPS_PER_SERVICE + 1 + backends
    found, endpoints = [], []
    for number, (name, endpoint, address, rules) in enumerate(served):
        first = _PROVIDER + room * number
        frontend = first + NAT_IPS_PER_SERVICE
        found.append(
            {
                "name": name,
                "virtual_network": "provider",
                "nat_ips": [first],
                "load_balancer": {
                    "frontend_ip": frontend,
                    "rules": rules,
                    "backend_pool": [frontend + 1 + backend for backend in range(backends)],
                },
                "nat": nat,
            }
        )
        endpoints.append({"name": endpoint, "virtual_network": "consumer", "ip": address, "target": name})
    return Topology.model_validate(
        {
            "limits": "none",
            "virtual_networks": [
                {"name": "consumer", "address_space": consumer},
                {"name": "provider", "address_space": ["100.64.0.0/10"]},
            ],
            "private_link_services": found,
            "private_endpoints": endpoints,
        }
    )


def duration(seconds: float) -> str:
    """Seconds as a scenario writes them."""
    return f"{max(0, round(seconds * _SECOND))}ns"
