"""What could be changed about a load or its service, and how many NAT IPs each change buys, by formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dataplane.runs.demand import Demand, PoolDemand, demand
from dataplane.runs.holding import idle_timeout
from dataplane.runs.loads import Load
from dataplane.runs.models import NatIpsNeeded, erlang_b, highest_load, nat_ips_needed, ports_for_blocking
from dataplane.runs.scenario import Ends, Life, Scenario, TrafficSource
from dataplane.runs.sweep_settings import with_nat
from dataplane.topology.limits import NAT_IPS_PER_SERVICE
from dataplane.topology.model import NatPolicy, PrivateLinkService, Timeouts

_SECOND = 1_000_000_000


@dataclass(frozen=True)
class Knob:
    """What a change buys: the NAT IPs that are needed then (None: 8 are not enough), the ports taken at a time at the
    busiest moment, how many fewer these are than without it, and the share of connections that lose their session while
    they live."""

    change: str
    nat_ips: int | None
    ports: float
    frees: float
    broken: float


@dataclass(frozen=True)
class Cap:
    """A cap on every endpoint's ports in each pool, `ports_per_endpoint`, that leaves enough for all others.

    It holds with so many NAT IPs, and refuses a share `refused` of the sessions of `endpoint`, the busiest one.
    """

    service: str
    protocol: str
    nat_ips: int
    ports_per_endpoint: int
    endpoint: str
    ports: float
    refused: float


@dataclass(frozen=True)
class Backends:
    """How many backends carry the load with so many NAT IPs."""

    nat_ips: int
    backends: int


def needed_for(pool: PoolDemand, target: float, headroom: float) -> NatIpsNeeded:
    """How many NAT IPs hold what the pools are asked for at their busiest moment."""
    nat = pool.service.nat
    return nat_ips_needed(
        pool.ports,
        1.0,  # ports at a time already
        failure_probability=target,
        backends=max(1, len(pool.service.load_balancer.backend_pool)),
        ports_per_pool=nat.nat_ports.size,
        headroom=headroom,
        spill=spills(nat),
    )


def highest_per_backend(pool: PoolDemand, nat_ips: int, target: float) -> float:
    """The most ports at a time toward one backend of which so many NAT IPs fail a share `target`."""
    ports = pool.service.nat.nat_ports.size
    if spills(pool.service.nat):
        return highest_load(nat_ips * ports, target)
    return nat_ips * highest_load(ports, target)


def spills(nat: NatPolicy) -> bool:
    """Whether the NAT IPs toward a backend are as one pool."""
    return nat.spill or nat.nat_ip_selection == "fill_first"


def knobs(load: Load, wanted: Demand, target: float, headroom: float) -> Iterator[Knob]:
    """What else could be changed, and what each change buys; `wanted` is the demand as it is."""
    before = max(pool.ports for pool in wanted.pools)
    for words, scenario, factor in _changes(load, wanted):
        changed = demand(scenario, lasting=load.lasting).times(factor)
        numbers = [needed_for(pool, target, headroom).nat_ips for pool in changed.pools]
        nat_ips = None if None in numbers else max(number for number in numbers if number is not None)
        ports = max(pool.ports for pool in changed.pools)
        yield Knob(words, nat_ips, ports, before - ports, changed.broken)


def caps(wanted: Demand, nat_ips: int, target: float, headroom: float) -> Iterator[Cap]:
    """The caps that protect the others from the busiest endpoint, with one NAT IP less and with so many.

    There is none where others would not fit by themselves, or would run into the cap too.
    """
    for pool in wanted.pools:
        if len(pool.endpoints) < 2:
            continue
        backends, nat = max(1, len(pool.service.load_balancer.backend_pool)), pool.service.nat
        loads = [ports * (1 + headroom) / backends for ports in pool.endpoints.values()]
        name, ports = next(iter(pool.endpoints.items()))
        for number in (nat_ips - 1, nat_ips):
            if number < 1:
                continue
            parts = 1 if spills(nat) else number  # each is loaded by itself
            size = number * nat.nat_ports.size // parts
            if sum(loads[1:]) / parts >= size:
                continue
            left = size - ports_for_blocking(sum(loads[1:]) / parts, target)
            cap = left * parts // number
            if cap < 1 or erlang_b(loads[1] / parts, cap * number // parts) > target:
                continue
            refused = erlang_b(loads[0] / parts, cap * number // parts)
            yield Cap(pool.service.name, pool.protocol, number, cap, name, ports, refused)


def backends_needed(wanted: Demand, target: float, headroom: float) -> Iterator[Backends]:
    """How many backends carry the load, by NAT IPs."""
    for nat_ips in (1, 2, 4, NAT_IPS_PER_SERVICE):
        shares = [pool.ports * (1 + headroom) / highest_per_backend(pool, nat_ips, target) for pool in wanted.pools]
        yield Backends(nat_ips, max(1, math.ceil(max(shares))))


def _changes(load: Load, wanted: Demand) -> Iterator[tuple[str, Scenario, float]]:
    """Changes in words, the scenario with them, and a factor on how many connections there are."""
    scenario, held = load.scenario, wanted.states
    closable = [source for source in scenario.traffic if source.protocol == "tcp" and source.answer]
    if any(source.ends.fin or source.ends.never for source in closable):
        yield "connections end by RST", _each(scenario, lambda source: _ending(source, Ends(fin=0, rst=1))), 1.0
    if any(source.ends.never for source in closable):
        closed = _each(scenario, lambda source: _ending(source, _closed(source.ends)))
        yield "none is left open: both sides close (FIN)", closed, 1.0
    for state, ports in held.items():
        if ports:
            yield *_half(load, state), 1.0
    if any(service.nat.port_hold for service in scenario.topology.private_link_services):
        yield "no port hold", _with_nat(scenario, port_hold=0), 1.0
    yield from _keep_alives(load, wanted)
    yield "one more backend", _with_services(scenario, _one_more_backend), 1.0
    yield "half as many connections, each used twice", _each(scenario, _twice), 0.5
    if any(not spills(service.nat) for service in scenario.topology.private_link_services):
        yield "spill", _with_nat(scenario, spill=True), 1.0


def _keep_alives(load: Load, wanted: Demand) -> Iterator[tuple[str, Scenario, float]]:
    """Without keep-alives idle connections lose their session after the time-out; with them they keep their port."""
    others = [source for source in load.scenario.traffic if source.name not in load.talking and source.answer]
    if any(source.keep_alive for source in others):
        yield "no keep-alives", _kept(load, lambda _: None), 1.0
    if wanted.broken > 0 and others:
        idle = {source.name: _idle(load.scenario, source) for source in others}
        every = f"{0.8 * min(idle.values()) / _SECOND:,g} s"
        yield f"a keep-alive after {every}", _kept(load, lambda source: round(0.8 * idle[source.name])), 1.0


def _kept(load: Load, keep_alive: Callable[[TrafficSource], int | None]) -> Scenario:
    return _each(
        load.scenario,
        lambda source: (
            source
            if source.name in load.talking
            else source.model_copy(update={"keep_alive": keep_alive(source)} if source.answer else {})
        ),
    )


def _idle(scenario: Scenario, source: TrafficSource) -> int:
    return idle_timeout(scenario.topology, source.endpoint, source.protocol, source.port)


def _half(load: Load, state: str) -> tuple[str, Scenario]:
    """Half of a time-out; who is never silent for so long before is not so then."""

    def halved(service: PrivateLinkService) -> PrivateLinkService:
        times = service.nat.timeouts
        half = _timeout(times, state) // 2
        nat = service.nat.model_copy(update={"timeouts": times.model_copy(update={state: half})})
        return service.model_copy(update={"nat": nat})

    scenario = _with_services(load.scenario, halved)
    talking = _each(
        scenario,
        lambda source: (
            source.model_copy(update={"keep_alive": round(0.8 * _idle(scenario, source))})
            if source.name in load.talking and (source.keep_alive or 0) >= _idle(scenario, source)
            else source
        ),
    )
    values = {_timeout(service.nat.timeouts, state) for service in load.scenario.topology.private_link_services}
    halves = ", ".join(f"{value / 2 / _SECOND:g} s" for value in sorted(values))
    return f"half the time-out {state}: {halves}", talking


def _timeout(times: Timeouts, state: str) -> int:
    value: int = getattr(times, state) or times.udp
    return value


def _ending(source: TrafficSource, ends: Ends) -> TrafficSource:
    return source.model_copy(update={"ends": ends} if source.protocol == "tcp" else {})


def _closed(ends: Ends) -> Ends:
    return Ends(fin=ends.fin + ends.never, rst=ends.rst)


def _twice(source: TrafficSource) -> TrafficSource:
    """Connections that live twice as long."""
    life: Life = source.life
    doubled = {name: 2 * value for name in ("value", "mean", "median") if (value := getattr(life, name)) is not None}
    if life.values is not None:
        doubled["values"] = tuple(2 * value for value in life.values)
    return source.model_copy(update={"life": life.model_copy(update=doubled)})


def _one_more_backend(service: PrivateLinkService) -> PrivateLinkService:
    balancer = service.load_balancer
    pool = (*balancer.backend_pool, *balancer.backend_pool[-1:])  # only how many they are counts
    return service.model_copy(update={"load_balancer": balancer.model_copy(update={"backend_pool": pool})})


def _each(scenario: Scenario, change: Callable[[TrafficSource], TrafficSource]) -> Scenario:
    return scenario.model_copy(update={"traffic": tuple(map(change, scenario.traffic))})


def _with_nat(scenario: Scenario, **values: object) -> Scenario:
    return scenario.model_copy(update={"topology": with_nat(scenario.topology, **values)})


def _with_services(scenario: Scenario, change: Callable[[PrivateLinkService], PrivateLinkService]) -> Scenario:
    topology = scenario.topology
    services = tuple(map(change, topology.private_link_services))
    return scenario.model_copy(update={"topology": topology.model_copy(update={"private_link_services": services})})
