"""How many NAT ports a scenario wants at a time, by formula: M/G/∞ with the rates and lives of its sources.

Sessions begin as a Poisson process with the rate λ(t) and take a port for a time H that nothing else decides; were
there ports for all, the number taken at t is Poisson with the mean m(t) = ∫ λ(t - u) P(H > u) du. Source: Eick, Massey
and Whitt (1993), "The physics of the M_t/G/∞ queue". For a lasting rate that is Little's rate × mean of H.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dataplane.runs.holding import Holding, holdings
from dataplane.runs.recorded import recorded_connections
from dataplane.runs.scenario import Arrivals, Scenario, TrafficSource
from dataplane.runs.traffic import pieces_of
from dataplane.topology.model import PrivateLinkService, Topology

_SECOND = 1e9

#: The time that is looked at is cut into so many steps.
STEPS = 3600


@dataclass(frozen=True)
class Stream:
    """Sessions of one source that end in the same state; `ports` at a time toward all backends, at the step's ends."""

    source: str
    service: str
    endpoint: str
    protocol: str
    holding: Holding
    rate: float  # sessions per second in the mean
    ports: NDArray[np.float64]


@dataclass(frozen=True)
class PoolDemand:
    """What one service's pools of one protocol are asked for at their busiest moment, toward all backends."""

    service: PrivateLinkService
    protocol: str
    ports: float
    #: By endpoint, the most first.
    endpoints: dict[str, float]

    @property
    def per_backend(self) -> float:
        """Ports at a time toward each backend: Private Link NATs at the backend's host."""
        return self.ports / max(1, len(self.service.load_balancer.backend_pool))


@dataclass(frozen=True)
class Demand:
    """The streams of a scenario, at the ends of steps of `step` seconds."""

    topology: Topology
    streams: list[Stream]
    step: float

    def times(self, factor: float) -> Demand:
        """The demand of so many times as many connections."""
        streams = [replace(one, rate=factor * one.rate, ports=factor * one.ports) for one in self.streams]
        return replace(self, streams=streams)

    @cached_property
    def pools(self) -> list[PoolDemand]:
        """The demand of each service and protocol at its busiest moment, the most ports per backend first."""
        found = []
        for name, protocol in dict.fromkeys((one.service, one.protocol) for one in self.streams):
            own = [one for one in self.streams if (one.service, one.protocol) == (name, protocol)]
            busiest = int(np.argmax(sum(one.ports for one in own)))
            endpoints: dict[str, float] = {}
            for one in own:
                endpoints[one.endpoint] = endpoints.get(one.endpoint, 0.0) + float(one.ports[busiest])
            endpoints = dict(sorted(endpoints.items(), key=lambda item: -item[1]))
            found.append(PoolDemand(self.topology.service(name), protocol, sum(endpoints.values()), endpoints))
        return sorted(found, key=lambda pool: -pool.per_backend)

    @property
    def states(self) -> dict[str, float]:
        """Ports at a time in the mean, by the time-out that frees them; the most first."""
        found: dict[str, float] = {}
        for one in self.streams:
            found[one.holding.state] = found.get(one.holding.state, 0.0) + float(one.ports.mean())
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def rate(self) -> float:
        """Sessions per second in the mean, of all streams."""
        return sum(one.rate for one in self.streams)

    @property
    def holding(self) -> float:
        """Seconds for which a session takes a port, in the mean."""
        seconds = sum(one.rate * float(one.holding.seconds.mean()) for one in self.streams)
        return seconds / self.rate if self.rate else 0.0

    @property
    def broken(self) -> float:
        """The share of connections that lose their session while they live."""
        broken = sum(one.rate * one.holding.broken for one in self.streams)
        return broken / self.rate if self.rate else 0.0


def demand(scenario: Scenario, *, lasting: bool = False) -> Demand:
    """What a scenario's connections want, from the end of its warm-up to its end.

    `lasting`: the load goes on like this for ever, as rates that do not change or given moments that come again; those
    that do not come again stand for connections that are always there. Raises `RunError` for a file that is no use.
    """
    period = _period(scenario) if lasting else None
    length = (period or scenario.duration) / _SECOND
    steps = 1 if lasting and period is None else STEPS
    step = length / steps
    edges = np.linspace(0, length, steps + 1)
    first = 0 if lasting else int(np.searchsorted(edges[1:], scenario.warm_up / _SECOND))
    streams = []
    for source in scenario.traffic:
        begun, standing = _begun(source, scenario, edges, lasting)
        for held in holdings(source, scenario.topology):
            if standing:
                ports, rate = np.full(steps, begun.sum() * held.share), 0.0
            else:
                ports = held.share * _ports(begun, held.seconds, step, circular=lasting)
                rate = held.share * float(begun[first:].mean()) / step
            target = scenario.topology.endpoint(source.endpoint).target
            streams.append(Stream(source.name, target, source.endpoint, source.protocol, held, rate, ports[first:]))
    return Demand(scenario.topology, streams, step)


def connections_of(scenario: Scenario) -> float:
    """How many connections begin in a scenario, in the mean."""
    edges = np.array([0.0, scenario.duration / _SECOND])
    return float(sum(_begun(source, scenario, edges, lasting=False)[0].sum() for source in scenario.traffic))


def _period(scenario: Scenario) -> int | None:
    """After how long a lasting load's given moments come again."""
    return max((source.arrivals.period or 0 for source in scenario.traffic), default=0) or None


def _begun(
    source: TrafficSource, scenario: Scenario, edges: NDArray[np.float64], lasting: bool
) -> tuple[NDArray[np.float64], bool]:
    """How many connections begin in each step, in the mean; whether they are always there instead."""
    arrivals = source.arrivals
    stop = edges[-1] if lasting else (arrivals.stop or scenario.duration) / _SECOND
    start = arrivals.start / _SECOND
    seen = np.clip(edges, start, stop) - start
    if not arrivals.is_given:
        return np.diff(_expected(arrivals, seen)), False
    given, period, _ = recorded_connections(source, scenario.topology.endpoint(source.endpoint).ip)
    times = given["time"] / _SECOND
    if not period:
        return np.diff(np.searchsorted(times, seen)).astype(np.float64), lasting
    rounds, rest = np.divmod(seen, period / _SECOND)
    return np.diff(rounds * len(times) + np.searchsorted(times, rest)), False


def _expected(arrivals: Arrivals, at: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many connections begin until these seconds from the source's start, in the mean: the rate's integral."""
    pieces, period = pieces_of(arrivals)
    begin, length, rate, last = (np.array(column, np.float64) for column in zip(*pieces, strict=True))
    begin, length = begin / _SECOND, length / _SECOND
    until = np.concatenate(([0.0], np.cumsum(length * (rate + last) / 2)))
    rounds, rest = np.divmod(at, period / _SECOND) if period else (np.zeros(len(at)), at)
    piece = np.searchsorted(begin, rest, side="right") - 1
    into = rest - begin[piece]
    here = into * (rate[piece] + (last - rate)[piece] * into / length[piece] / 2)
    return np.where(rounds > 0, rounds * until[-1], 0.0) + until[piece] + here


def _ports(
    begun: NDArray[np.float64], seconds: NDArray[np.float64], step: float, *, circular: bool
) -> NDArray[np.float64]:
    """Ports taken at the end of each step, when so many begin evenly in each and hold for one of these times.

    `circular`: what is begun comes again at its end, and has done so for ever.
    """
    steps = len(begun)
    whole = np.zeros(len(seconds))
    if circular:
        whole, seconds = np.divmod(seconds, steps * step)
    seconds = np.sort(seconds)
    edges = step * np.arange(steps + 1)
    below = np.searchsorted(seconds, edges)
    shortest = np.concatenate(([0.0], np.cumsum(seconds)))[below] + edges * (len(seconds) - below)
    kernel = np.diff(shortest) / (len(seconds) * step) + whole.mean()  # P(H > u), the mean of each step
    every = np.convolve(begun, kernel)
    ports = every[:steps].copy()
    if circular:
        ports[: steps - 1] += every[steps:]
    return ports
