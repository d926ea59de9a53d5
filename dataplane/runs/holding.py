"""For how long a scenario's connections take NAT ports: the state in which each ends, and until when its port is taken.

What clients send, and when, is `runs/clients.py`; this is the same as a calculation, without packets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from dataplane.runs.scenario import Life, TrafficSource
from dataplane.topology.model import Topology

_SECOND = 1e9

#: A distribution of lives counts as so many lives, each as likely as the others.
_LIVES = 4096


@dataclass(frozen=True)
class Holding:
    """Connections of a source that end alike: a share of them, and how long they take a port, in seconds.

    `state` is the time-out that frees the port, `seconds` are equally likely times from the first packet on, the
    time-out and the port hold included. `broken` is the share of these that lose their session while they live.
    """

    state: str
    share: float
    seconds: NDArray[np.float64]
    broken: float = 0.0


def lives_of(life: Life) -> NDArray[np.float64]:
    """Equally likely lives in seconds, in order; their mean is that of the distribution, where it has one."""
    if life.distribution == "sample":
        return np.sort(np.array(life.values, np.float64)) / _SECOND
    scale, shape = life.scale / _SECOND, life.shape or 0.0
    if life.distribution == "fixed":
        return np.array([scale])
    at = (np.arange(_LIVES) + 0.5) / _LIVES
    if life.distribution == "exponential":
        lives, mean = -scale * np.log(1 - at), scale
    elif life.distribution == "log_normal":
        normal = np.array([NormalDist().inv_cdf(one) for one in at])
        lives, mean = scale * np.exp(shape * normal), scale * math.exp(shape * shape / 2)
    else:
        lives = scale * (1 - at) ** (-1 / shape)
        mean = scale * shape / (shape - 1) if shape > 1 else float(lives.mean())
    lives[-1] += _LIVES * (mean - lives.mean())  # what lies beyond the last one's middle
    return np.sort(lives)


def idle_timeout(topology: Topology, endpoint: str, protocol: str, port: int, *, replied: bool = True) -> int:
    """For how long a session may be silent, nanoseconds: as the load-balancing rule or else the service's NAT has it.

    The shorter of the two counts (docs/model.md, "A session's life"). TCP: an established one's.
    """
    service = topology.service(topology.endpoint(endpoint).target)
    rules = service.load_balancer.rules
    rule = next(r for r in rules if r.protocol == protocol and r.frontend_port == port)
    times = service.nat.timeouts
    value = times.tcp_established
    if protocol == "udp":
        value = times.udp if replied else times.udp_unreplied or times.udp
    return min(value, rule.idle_timeout or value)


def holdings(source: TrafficSource, topology: Topology) -> Iterator[Holding]:
    """How a source's connections take ports, as its service's NAT and load-balancing rule have it."""
    nat = topology.service(topology.endpoint(source.endpoint).target).nat
    hold = nat.port_hold / _SECOND

    def timeout(name: str) -> float:
        return float(getattr(nat.timeouts, name)) / _SECOND

    def idle(*, replied: bool = True) -> float:
        return idle_timeout(topology, source.endpoint, source.protocol, source.port, replied=replied) / _SECOND

    if source.protocol == "udp":
        yield _udp(source, idle(), idle(replied=False), hold)
        return
    if not source.answer:
        repeated = 2.0**source.retries - 1  # SYNs 1, 3, 7, … s after the first
        yield Holding("tcp_half_open", 1.0, np.array([repeated + timeout("tcp_half_open") + hold]))
        return
    round_trip = source.round_trip / _SECOND
    lives = lives_of(source.life)
    first = round_trip * (2 if source.response.count else 1)  # the handshake, and what is asked and answered
    last = _last_kept_alive(source, lives, first)
    end = np.maximum(lives, last + round_trip)
    established = idle()
    broken = _breaks(source, end, first, established)
    lost = np.full(len(lives), first + established)
    ends = source.ends
    every = ends.fin + ends.rst + ends.never
    for state, share, seconds in (
        ("tcp_closing", ends.fin, end + round_trip + timeout("tcp_closing")),
        ("tcp_reset", ends.rst, end + timeout("tcp_reset")),
        ("tcp_established", ends.never, last + established),
    ):
        if share:
            yield Holding(state, share / every, np.where(broken, lost, seconds) + hold, float(broken.mean()))


def _udp(source: TrafficSource, udp: float, unreplied: float, hold: float) -> Holding:
    replied = source.answer and source.response.count > 0
    idle = udp if replied else unreplied
    round_trip = source.round_trip / _SECOND
    lives = lives_of(source.life)
    first = round_trip if replied else 0.0
    last = _last_kept_alive(source, lives, first)
    end = np.where(lives > first, np.maximum(lives, last + round_trip), last)
    broken = _breaks(source, end, first, idle)
    # The last datagram then opens a session of its own: it counts as if it followed the first one at once.
    seconds = np.where(broken, first + idle + hold + unreplied, end + idle) + hold
    return Holding("udp" if replied else "udp_unreplied", 1.0, seconds, float(broken.mean()))


def _last_kept_alive(source: TrafficSource, lives: NDArray[np.float64], first: float) -> NDArray[np.float64]:
    """When the last packet before a connection's end goes: the first exchange, or the answer to a keep-alive."""
    if not source.keep_alive:
        return np.full(len(lives), first)
    keep_alive = source.keep_alive / _SECOND
    every = keep_alive + (source.round_trip / _SECOND if source.answer else 0.0)
    return first + every * np.maximum(0, np.ceil((lives - first - keep_alive) / every))


def _breaks(source: TrafficSource, end: NDArray[np.float64], first: float, idle: float) -> NDArray[np.bool_]:
    """Whether a connection is silent for as long as the idle time-out while it lives."""
    silence = end - first
    if source.keep_alive:
        silence = np.minimum(silence, source.keep_alive / _SECOND)
    broken: NDArray[np.bool_] = silence >= idle
    return broken
