"""How many NAT IPs a load needs: by formula (`models.py`) and by simulation (`exhaust.py`), next to each other."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from dataplane.runs.exhaust import Exhaust, exhaust
from dataplane.runs.models import NatIpsNeeded, blocking, nat_ips_needed, offered_load
from dataplane.runs.scenario import Scenario
from dataplane.topology.limits import NAT_IPS_PER_SERVICE
from dataplane.topology.model import Topology

_SECOND = 1_000_000_000

#: Connections of all simulations of a plan: more take longer than anybody waits.
MOST_CONNECTIONS = 3_000_000

#: Seeds of a simulation: the spread between them tells how far a figure can be trusted.
_SEEDS = 3

#: Means of the connections' life until nothing is left of the beginning.
_LIVES = 5

#: Ports of one client address toward one endpoint, as Linux gives them.
_CLIENT_PORTS = 28_232


@dataclass(frozen=True)
class Load:
    """A load on one private link service, of one protocol. Rates are per second, times in seconds.

    `life` is the mean time from a connection's first packet to its last, `ends` how it ends (TCP: fin, rst, never);
    while it lives it is never silent for as long as the idle time-out. The port is taken for the life, the time-out of
    the state in which it ends, and `port_hold`.
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

    def topology(self, nat_ips: int) -> Topology:
        """A service with so many NAT IPs and an endpoint, as the load says."""
        ports = f"{65_536 - self.ports}-65535"
        nat: dict[str, Any] = {"profile": self.profile, "nat_ports": ports, "spill": self.spill}
        if self.port_hold is not None:
            nat["port_hold"] = _duration(self.port_hold)
        if self.timeout is not None:
            nat["timeouts"] = {self._timeout_name: _duration(self.timeout)}
        backends = [f"10.2.{number // 250}.{number % 250 + 1}" for number in range(self.backends)]
        return Topology.model_validate(
            {
                "limits": "none",
                "virtual_networks": [
                    {"name": "consumer", "address_space": ["10.0.0.0/16"]},
                    {"name": "provider", "address_space": ["10.1.0.0/16", "10.2.0.0/16"]},
                ],
                "private_link_services": [
                    {
                        "name": "service",
                        "virtual_network": "provider",
                        "nat_ips": [f"10.1.0.{4 + number}" for number in range(nat_ips)],
                        "load_balancer": {
                            "frontend_ip": "10.1.1.4",
                            "rules": [{"protocol": self.protocol, "frontend_port": 443, "backend_port": 443}],
                            "backend_pool": backends,
                        },
                        "nat": nat,
                    }
                ],
                "private_endpoints": [
                    {"name": "endpoint", "virtual_network": "consumer", "ip": "10.0.255.4", "target": "service"}
                ],
            }
        )

    @property
    def _timeout_name(self) -> str:
        names = {"fin": "tcp_closing", "rst": "tcp_reset", "never": "tcp_established"}
        return "udp" if self.protocol == "udp" else names[self.ends]

    @property
    def idle(self) -> float:
        """Seconds of silence after which an open connection loses its session."""
        timeouts = self.topology(1).private_link_services[0].nat.timeouts
        return float(timeouts.udp if self.protocol == "udp" else timeouts.tcp_established) / _SECOND

    @property
    def tail(self) -> float:
        """Seconds from a connection's last packet until its port is free."""
        nat = self.topology(1).private_link_services[0].nat
        return float(getattr(nat.timeouts, self._timeout_name) + nat.port_hold) / _SECOND

    @property
    def holding(self) -> float:
        """Seconds for which a connection takes a port, in the mean."""
        return self.life + self.tail


@dataclass(frozen=True)
class Simulated:
    """What a simulation of a number of NAT IPs gave. `low` and `high` bound the failure share with 95 %."""

    nat_ips: int
    connections: int
    failures: int
    share: float
    low: float
    high: float
    lowest_availability_percent: float


@dataclass(frozen=True)
class Knob:
    """What a change buys: the NAT IPs that are needed then (None: 8 are not enough), and the load they would carry."""

    change: str
    nat_ips: int | None
    erlangs: float


@dataclass(frozen=True)
class Plan:
    """An answer: `needed` by formula, and what simulation says of that number and of one less."""

    load: Load
    target: float
    headroom: float
    needed: NatIpsNeeded
    erlangs: float
    growth_percent: float
    simulated: list[Simulated]
    knobs: list[Knob]
    notes: list[str]

    def document(self) -> dict[str, Any]:
        """The plan as plain data, for JSON."""
        return {**asdict(self), "holding_seconds": self.load.holding}


def plan(load: Load, target: float, headroom: float = 0.0, *, seed: int = 0, simulate: bool = True) -> Plan:
    """How many NAT IPs hold a load such that at most a share `target` of its sessions fails, with `headroom` more.

    Raises ValueError with the rule that an argument breaks.
    """
    needed = _needed(load, target, headroom)
    notes = []
    simulated: list[Simulated] = []
    if simulate:
        asked = replace(load, rate=load.rate * (1 + headroom))
        answer = needed.nat_ips or NAT_IPS_PER_SERVICE
        for nat_ips in sorted({max(1, answer - 1), answer}):
            found = _simulate(asked, nat_ips, seed)
            if found is None:
                notes.append(
                    f"not simulated: {asked.rate:,.0f} connections/s over {load.holding:,.0f} s of holding are more "
                    f"than {MOST_CONNECTIONS:,} connections; dataplane exhaust takes scenarios of any length"
                )
                break
            simulated.append(found)
    return Plan(
        load,
        target,
        headroom,
        needed,
        offered_load(load.rate, load.holding),
        _growth(load, needed.nat_ips or NAT_IPS_PER_SERVICE, target),
        simulated,
        list(_knobs(load, target, headroom)),
        notes,
    )


def _duration(seconds: float) -> str:
    return f"{round(seconds * _SECOND)}ns"


def _needed(load: Load, target: float, headroom: float) -> NatIpsNeeded:
    return nat_ips_needed(
        load.rate,
        load.holding,
        failure_probability=target,
        backends=load.backends,
        ports_per_pool=load.ports,
        headroom=headroom,
        spill=load.spill,
    )


def _growth(load: Load, nat_ips: int, target: float) -> float:
    """By how many percent the load can grow (below 0: must shrink) until so many NAT IPs fail more than `target`."""
    erlangs = offered_load(load.rate, load.holding) / load.backends
    low, high = 0.0, 4.0 * nat_ips * load.ports
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        if blocking(middle, load.ports, nat_ips=nat_ips, spill=load.spill) <= target:
            low = middle
        else:
            high = middle
    return 100 * (low / erlangs - 1)


def _knobs(load: Load, target: float, headroom: float) -> Iterator[Knob]:
    """What else could be changed, and what each change buys."""
    changes: list[tuple[str, Load]] = []
    if load.protocol == "tcp" and load.timeout is None:
        if load.ends != "rst":
            changes.append(("connections end by RST", replace(load, ends="rst")))
        if load.ends == "never":
            changes.append(("both sides close (FIN)", replace(load, ends="fin")))
    hold = load.topology(1).private_link_services[0].nat.port_hold / _SECOND
    if hold:
        changes.append(("no port hold", replace(load, port_hold=0.0)))
    changes.append(("half the time-out", replace(load, timeout=(load.tail - hold) / 2)))
    changes.append(("one more backend", replace(load, backends=load.backends + 1)))
    if not _needed(load, target, headroom).enough:
        carried = 1 + _growth(load, NAT_IPS_PER_SERVICE, target) / 100
        backends = math.ceil(load.backends * (1 + headroom) / carried)
        changes.append((f"{backends:,} backends", replace(load, backends=backends)))
    changes.append(("half as many connections, each used twice", replace(load, rate=load.rate / 2, life=load.life * 2)))
    if not load.spill:
        changes.append(("spill", replace(load, spill=True)))
    for words, other in changes:
        yield Knob(words, _needed(other, target, headroom).nat_ips, offered_load(other.rate, other.holding))


def _simulate(load: Load, nat_ips: int, seed: int) -> Simulated | None:
    """Send the load as packets; None if that would be too many."""
    warm_up = math.ceil(load.tail + _LIVES * load.life)
    measured = max(10, math.ceil(load.holding / 2))
    if load.rate * (warm_up + measured) * _SEEDS > MOST_CONNECTIONS / 2:  # a plan has two simulations
        return None
    topology = load.topology(nat_ips)
    hosts = min(10_000, max(10, math.ceil(2 * load.rate * (load.holding + 60) / _CLIENT_PORTS)))
    scenario = Scenario.model_validate(
        {
            "topology": topology,
            "duration": f"{warm_up + measured}s",
            "warm_up": f"{warm_up}s",
            "traffic": [
                {
                    "name": "load",
                    "endpoint": "endpoint",
                    "protocol": load.protocol,
                    "port": 443,
                    "hosts": hosts,
                    "arrivals": {"pattern": "poisson", "rate": load.rate},
                    "life": {"distribution": "exponential", "mean": _duration(max(load.life, 0.001))},
                    "keep_alive": _duration(max(0.011, 0.8 * load.idle)),
                    **({"ends": {load.ends: 1}} if load.protocol == "tcp" else {}),
                }
            ],
        }
    )
    shares, connections, failures, lowest = [], 0, 0, 100.0
    for number in range(_SEEDS):
        found = exhaust(Exhaust(scenario, seed=seed + number)).findings
        counts = found["traffic"][0]["connections"]
        failed = sum(found["private_endpoints"][0]["failures"].values())
        shares.append(failed / max(1, counts["started"]))
        connections += counts["started"]
        failures += failed
        if found["lowest_availability"] is not None:
            lowest = min(lowest, found["lowest_availability"]["percent"])
    share = failures / max(1, connections)
    if failures == 0:
        return Simulated(nat_ips, connections, 0, 0.0, 0.0, min(1.0, 3 / max(1, connections)), lowest)
    # Failures come together, so the spread between seeds is the measure: Student's t, 95 %, 2 degrees of freedom.
    spread = 4.303 * statistics.stdev(shares) / math.sqrt(_SEEDS)
    return Simulated(nat_ips, connections, failures, share, max(0.0, share - spread), min(1.0, share + spread), lowest)
