"""How many NAT IPs a load needs: by formula (`demand.py`, `models.py`) and by simulation, next to each other.

By formula a session is refused with Erlang's probability for the ports that are wanted at its moment, the modified
offered load of Jagerman (1975), "Nonstationary blocking in telephone traffic"; the busiest moment decides.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from dataplane.runs.demand import Demand, PoolDemand, connections_of, demand
from dataplane.runs.exhaust import Exhaust, exhaust
from dataplane.runs.folder import RunError
from dataplane.runs.knobs import (
    Backends,
    Cap,
    Knob,
    backends_needed,
    caps,
    highest_per_backend,
    knobs,
    needed_for,
    spills,
)
from dataplane.runs.loads import Load
from dataplane.runs.models import NatIpsNeeded, blocking
from dataplane.runs.scenario import Scenario
from dataplane.runs.sweep_settings import with_settings
from dataplane.topology.limits import NAT_IPS_PER_SERVICE

#: Connections of all simulations of a plan: more take longer than anybody waits.
MOST_CONNECTIONS = 3_000_000

#: Seeds of a simulation: the spread between them tells how far a figure can be trusted.
SEEDS = 3


@dataclass(frozen=True)
class PoolPlan:
    """What one service needs for one protocol: by formula, at the busiest moment, headroom included in `needed`.

    `ports` and `endpoints` (the most first) are ports at a time without headroom, `growth_percent` by how much the load
    can grow until the NAT IPs of `needed`, or 8, fail more than the target: below 0 it must shrink; None: no load.
    """

    service: str
    protocol: str
    backends: int
    ports: float
    endpoints: dict[str, float]
    needed: NatIpsNeeded
    growth_percent: float | None


@dataclass(frozen=True)
class Simulated:
    """What a simulation of a number of NAT IPs gave. `low` and `high` bound the failure share with 95 %.

    `formula` is the share that fails by formula at the busiest moment.
    """

    nat_ips: int
    connections: int
    failures: int
    share: float
    low: float
    high: float
    lowest_availability_percent: float
    formula: float


@dataclass(frozen=True)
class Plan:
    """An answer: for every service and protocol by formula, the one that needs most first, and what simulation says.

    `nat_ips` are what all services need (None: 8 are not enough), `simulated_nat_ips` the least number whose simulation
    kept to the target (None: none did, or nothing was simulated). `holding_seconds` is how long a session takes a
    port in the mean, `broken` the share that lose their session while they live, `states` ports at a time in the mean
    by the time-out that frees them.
    """

    load: Load
    target: float
    headroom: float
    pools: list[PoolPlan]
    nat_ips: int | None
    rate: float
    holding_seconds: float
    broken: float
    states: dict[str, float]
    simulated: list[Simulated]
    simulated_nat_ips: int | None
    knobs: list[Knob]
    caps: list[Cap]
    backends: list[Backends]
    notes: list[str]

    def document(self) -> dict[str, Any]:
        """The plan as plain data, for JSON."""
        told = asdict(self)
        told["load"] = self.load.words
        told["measured_ports"] = self.load.measured
        first = told["pools"][0]
        return {**told, "needed": first["needed"], "growth_percent": first["growth_percent"]}


def plan(load: Load, target: float, headroom: float = 0.0, *, seed: int | None = None, simulate: bool = True) -> Plan:
    """How many NAT IPs hold a load such that at most a share `target` of its sessions fails, with `headroom` more.

    `seed` comes before the scenario's own. Raises ValueError with the rule that an argument breaks, and `RunError`.
    """
    wanted = demand(load.scenario, lasting=load.lasting)
    if not any(pool.ports for pool in wanted.pools):
        raise RunError(f"{load.words}: no connection begins, so there is nothing to plan for")
    pools = [pool_plan(pool, target, headroom) for pool in wanted.pools]
    pools.sort(key=lambda pool: (-(pool.needed.nat_ips or math.inf), -pool.needed.load_per_backend))
    numbers = [pool.needed.nat_ips for pool in pools]
    nat_ips = None if None in numbers else max(number for number in numbers if number is not None)
    notes = [*load.notes, *_left_out(load.scenario)]
    simulated: list[Simulated] = []
    if simulate:
        simulated, said = _simulations(load.scenario, wanted, nat_ips, target, headroom, seed)
        notes += said
    return Plan(
        load,
        target,
        headroom,
        pools,
        nat_ips,
        wanted.rate,
        wanted.holding,
        wanted.broken,
        wanted.states,
        simulated,
        next((one.nat_ips for one in simulated if one.share <= target), None),
        list(knobs(load, wanted, target, headroom)),
        list(caps(wanted, nat_ips or NAT_IPS_PER_SERVICE, target, headroom)),
        list(backends_needed(wanted, target, headroom)) if nat_ips is None else [],
        notes,
    )


def pool_plan(pool: PoolDemand, target: float, headroom: float) -> PoolPlan:
    """What a service needs for one protocol."""
    needed = needed_for(pool, target, headroom)
    carried = highest_per_backend(pool, needed.nat_ips or NAT_IPS_PER_SERVICE, target)
    growth = 100 * (carried / pool.per_backend - 1) if pool.ports else None
    backends = len(pool.service.load_balancer.backend_pool)
    return PoolPlan(pool.service.name, pool.protocol, backends, pool.ports, pool.endpoints, needed, growth)


def _failing(wanted: Demand, nat_ips: int, headroom: float) -> float:
    """The share of sessions that fails by formula with so many NAT IPs, at the busiest moment of the worst pool."""
    return max(
        blocking(
            pool.per_backend * (1 + headroom),
            pool.service.nat.nat_ports.size,
            nat_ips=nat_ips,
            spill=spills(pool.service.nat),
        )
        for pool in wanted.pools
    )


def _left_out(scenario: Scenario) -> Iterator[str]:
    """What a scenario has that the formulas do not know, in words."""
    topology = scenario.whole_topology
    found = []
    for service in topology.private_link_services:
        nat = service.nat
        found += [name for name in ("ports_per_endpoint", "sessions_per_backend", "blocks_per_endpoint", "probes")
                  if getattr(nat, name) is not None]  # fmt: skip
        if nat.nat_ip_selection == "paired":
            found.append("nat_ip_selection: paired")
        if service.load_balancer.distribution != "five_tuple":
            found.append(f"distribution: {service.load_balancer.distribution}")
    if topology.events:
        found.append("events")
    if any(source.retries and source.answer for source in scenario.traffic):
        found.append("retries of refused connections")
    if found:
        yield f"the formulas leave out {', '.join(dict.fromkeys(found))}; the simulation does not"


def _simulations(
    scenario: Scenario, wanted: Demand, nat_ips: int | None, target: float, headroom: float, seed: int | None
) -> tuple[list[Simulated], list[str]]:
    """Simulate the formula's number, then down while the target is kept or up until it is; and what has to be said."""
    each = connections_of(scenario) * (1 + headroom) * SEEDS
    answer = nat_ips or NAT_IPS_PER_SERVICE
    if 2 * each > MOST_CONNECTIONS:  # a plan has two simulations as a rule
        return [], [
            f"not simulated: {each / SEEDS:,.0f} connections, {SEEDS} times at two numbers of NAT IPs, are more than "
            f"{MOST_CONNECTIONS:,}; dataplane exhaust takes scenarios of any length"
        ]
    found: dict[int, Simulated] = {}
    number = answer
    while 1 <= number <= NAT_IPS_PER_SERVICE and number not in found and (len(found) + 1) * each <= MOST_CONNECTIONS:
        try:
            asked = with_settings(scenario, {"nat_ips": number, "load": 1 + headroom})
        except ValueError as error:
            said = [fault["msg"] for fault in error.errors()] if isinstance(error, ValidationError) else [str(error)]
            return _in_order(found), [f"not simulated with {number} NAT IPs: {'; '.join(said)}"]
        found[number] = _simulate(asked, number, seed, _failing(wanted, number, headroom))
        number += -1 if found[number].share <= target else 1
    return _in_order(found), []


def _in_order(found: dict[int, Simulated]) -> list[Simulated]:
    return [found[number] for number in sorted(found)]


def _simulate(scenario: Scenario, nat_ips: int, seed: int | None, formula: float) -> Simulated:
    """Send the scenario as packets, with several seeds."""
    shares, connections, failures, lowest = [], 0, 0, 100.0
    for number in range(SEEDS):
        found = exhaust(Exhaust(scenario, seed=(scenario.seed if seed is None else seed) + number)).findings
        counts = [source["connections"] for source in found["traffic"]]
        started = sum(count["started"] for count in counts)
        failed = sum(count["failed"] for count in counts)
        shares.append(failed / max(1, started))
        connections += started
        failures += failed
        if found["lowest_availability"] is not None:
            lowest = min(lowest, found["lowest_availability"]["percent"])
    share = failures / max(1, connections)
    if failures == 0:
        return Simulated(nat_ips, connections, 0, 0.0, 0.0, min(1.0, 3 / max(1, connections)), lowest, formula)
    # Failures come together, so the spread between seeds is the measure: Student's t, 95 %, 2 degrees of freedom.
    spread = 4.303 * statistics.stdev(shares) / math.sqrt(SEEDS)
    low, high = max(0.0, share - spread), min(1.0, share + spread)
    return Simulated(nat_ips, connections, failures, share, low, high, lowest, formula)
