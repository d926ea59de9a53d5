"""How many NAT ports a load needs, by formula: what a plan starts from, before packets are simulated.

Loads are in erlangs: sessions that would hold a port at the same time if there were ports for all. Every formula takes
sessions to arrive as a Poisson process, independent of each other; how long they hold a port may be distributed in any
way, only the mean counts. docs/models.md says when each formula applies, and what they leave out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dataplane.topology.limits import NAT_IPS_PER_SERVICE

#: Ports 1024 to 65535, what a pool has by default.
PORTS = 64_512


def offered_load(rate_per_second: float, lifetime_seconds: float, port_hold_seconds: float = 0.0) -> float:
    """The load in erlangs of `rate_per_second` new sessions a second: rate x (lifetime + port hold), in seconds.

    It is also the mean number of ports in use and held while none is missing. The lifetime is from the first packet to
    the release of the port: with an idle time-out, the conversation's own length and the time-out after it.
    Source: Little (1961), "A proof for the queuing formula L = λW".
    """
    _check(rate_per_second >= 0, "a rate is 0 or more")
    _check(lifetime_seconds >= 0 and port_hold_seconds >= 0, "times are 0 or more")
    return rate_per_second * (lifetime_seconds + port_hold_seconds)


def demand_exceeds(load: float, ports: int) -> float:
    """The probability that more than `ports` ports are wanted at a moment, were there ports for all.

    P(N > ports) with N distributed as Poisson(load), the number of sessions in M/G/∞; `load` in erlangs. A session
    that arrives finds N as it is at any moment, so it finds `ports` taken with probability
    `demand_exceeds(load, ports - 1)`; Erlang B is never above that. Source: Takács (1962), "Introduction to the theory
    of queues", on M/G/∞.
    """
    _check(load >= 0, "a load is 0 erlangs or more")
    _check(ports >= -1, "ports are -1 (always exceeded) or more")
    if load == 0 or ports < 0:
        return 1.0 if ports < 0 else 0.0
    if ports >= load:  # terms fall from the first on
        return _poisson(load, ports + 1) * _falling_sum(load, ports + 1, up=True)
    return 1.0 - _poisson(load, ports) * _falling_sum(load, ports, up=False)


def ports_for_demand(load: float, probability: float) -> int:
    """The least number of ports that the demand exceeds at a moment with at most `probability`.

    The smallest n with P(Poisson(load) > n) <= probability; `load` in erlangs. Source: as `demand_exceeds`.
    """
    _check(0 < probability < 1, "a probability is above 0 and below 1")
    low, high = -1, 1
    while demand_exceeds(load, high) > probability:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if demand_exceeds(load, middle) > probability:
            low = middle
        else:
            high = middle
    return high


def erlang_b(load: float, ports: int) -> float:
    """The probability that a session finds no free port in an exact pool of `ports`, offered `load` erlangs.

    B(n) = a B(n-1) / (n + a B(n-1)), B(0) = 1: all terms are positive and at most 1, so nothing cancels or overflows
    for any n; it takes n steps. For M/G/n/n: refused sessions do not come back. Sources: Erlang (1917); the recursion
    and that only the mean holding time counts in Iversen, "Teletraffic engineering and network planning", Erlang's
    B-formula.
    """
    _check(load >= 0, "a load is 0 erlangs or more")
    _check(ports >= 0, "ports are 0 or more")
    blocking = 1.0
    for n in range(1, ports + 1):
        blocking = load * blocking / (n + load * blocking)
    return blocking


def ports_for_blocking(load: float, probability: float) -> int:
    """The least number of ports of an exact pool that refuses at most a share `probability` of `load` erlangs.

    The same recursion as `erlang_b`, followed until it is low enough: about `load` steps.
    """
    _check(load >= 0, "a load is 0 erlangs or more")
    _check(0 < probability < 1, "a probability is above 0 and below 1")
    blocking, n = 1.0, 0
    while blocking > probability:
        n += 1
        blocking = load * blocking / (n + load * blocking)
    return n


def probe_failure(utilisation: float, probes: int) -> float:
    """The probability that none of `probes` random ports is free when a share `utilisation` (0 to 1) is taken.

    u^k for probes drawn independently, as by `probes: k` with `random`. A run of r neighbouring ports counts as less
    than r probes when taken ports lie together. Source: elementary.
    """
    _check(0 <= utilisation <= 1, "a utilisation is 0 to 1")
    _check(probes >= 1, "probes are 1 or more")
    return utilisation**probes


def probed_blocking(load: float, ports: int, probes: int) -> float:
    """The share of sessions refused by a pool of `ports`, offered `load` erlangs, that looks at `probes` random ports.

    While n ports are taken a session is refused with (n/N)^k. The number of ports taken is then a birth and death
    process with births a(1 - (n/N)^k) and deaths n; the result is the mean of (n/N)^k over its equilibrium. With many
    probes it tends to Erlang B. Source: Kelly, "Reversibility and stochastic networks" (1979), loss systems whose
    arrivals depend on the state; only the mean holding time counts.
    """
    _check(load >= 0, "a load is 0 erlangs or more")
    _check(ports >= 1, "ports are 1 or more")
    weight = total = 1.0  # of the state with n = 0, relative to the largest so far
    refused = 0.0
    for n in range(1, ports + 1):
        weight *= load * (1.0 - probe_failure((n - 1) / ports, probes)) / n
        total += weight
        refused += weight * probe_failure(n / ports, probes)
        if weight > 1e200:  # keep the sums in range; only their ratio counts
            weight, total, refused = weight * 1e-200, total * 1e-200, refused * 1e-200
    return refused / total


def blocking(load: float, ports: int, *, nat_ips: int = 1, spill: bool = True, probes: int | None = None) -> float:
    """The share of sessions toward one backend that find no port, with `ports` on each of `nat_ips` NAT IPs.

    With `spill` a session is refused only when every NAT IP is full, so all of them are one pool of nat_ips x ports.
    Without, selection by hash splits the load at random: each NAT IP is offered load / nat_ips, and refuses while
    others have ports. `load` in erlangs, of one protocol. With `probes`, pools are searched as `probed_blocking` says,
    only without spill or with one NAT IP. Source: Kingman, "Poisson processes" (1993), on random splitting.
    """
    _check(nat_ips >= 1, "NAT IPs are 1 or more")
    if probes is not None:
        _check(nat_ips == 1 or not spill, "with probes and spill there is no formula; simulate it")
        return probed_blocking(load / nat_ips, ports, probes)
    return erlang_b(load, nat_ips * ports) if spill else erlang_b(load / nat_ips, ports)


def slicing_loss(load: float, ports: int, nat_ips: int) -> float:
    """What splitting at random costs: the share of sessions that is refused without spill and would not be with it.

    B(load / k, ports) - B(load, k ports) for k = `nat_ips` (or any slices of a pool, such as workers with ports of
    their own); `load` in erlangs, `ports` in each slice. Source: as `blocking`.
    """
    return blocking(load, ports, nat_ips=nat_ips, spill=False) - blocking(load, ports, nat_ips=nat_ips)


@dataclass(frozen=True)
class NatIpsNeeded:
    """What `nat_ips_needed` found; loads in erlangs, probabilities 0 to 1."""

    #: The number of NAT IPs, None when as many as a service may have (8) are not enough.
    nat_ips: int | None
    #: The load toward one backend that was planned for, headroom included.
    load_per_backend: float
    #: The share of sessions refused with that many NAT IPs, or with 8 when they are not enough.
    failure_probability: float
    #: Mean share of the ports that are in use or held, with that many NAT IPs or with 8: 1 at most.
    utilisation: float

    @property
    def enough(self) -> bool:
        """Whether a service can carry the load at all."""
        return self.nat_ips is not None


def nat_ips_needed(
    rate_per_second: float,
    holding_seconds: float,
    *,
    failure_probability: float,
    backends: int = 1,
    ports_per_pool: int = PORTS,
    headroom: float = 0.0,
    spill: bool = True,
    probes: int | None = None,
) -> NatIpsNeeded:
    """How many NAT IPs hold a load of one protocol, such that at most `failure_probability` of sessions are refused.

    `rate_per_second` new sessions a second, evenly spread over `backends` (Private Link NATs at the backend's host, so
    backends share no ports), hold a port for `holding_seconds` in the mean, port hold included. `headroom` 0.25 plans
    for a rate that is a quarter higher. `spill` and `probes` as in `blocking`; with both, what spilling gains is left
    out. `nat_ips` is None when 8, Azure's limit, are not enough. Formulas: `offered_load`, `blocking`.
    """
    _check(backends >= 1, "backends are 1 or more")
    _check(ports_per_pool >= 1, "ports are 1 or more")
    _check(headroom >= 0, "headroom is 0 or more, 0.25 for a quarter")
    _check(0 < failure_probability < 1, "a probability is above 0 and below 1")
    load = offered_load(rate_per_second, holding_seconds) * (1 + headroom) / backends
    # What is carried fits into the ports, so fewer than load x (1 - probability) cannot do.
    fewest = math.ceil(load * (1 - failure_probability) / ports_per_pool)
    for nat_ips in range(min(max(fewest, 1), NAT_IPS_PER_SERVICE), NAT_IPS_PER_SERVICE + 1):
        failing = blocking(
            load, ports_per_pool, nat_ips=nat_ips, spill=spill and probes is None, probes=probes
        )
        if failing <= failure_probability:
            break
    enough = failing <= failure_probability
    carried = load * (1 - failing)
    return NatIpsNeeded(nat_ips if enough else None, load, failing, carried / (nat_ips * ports_per_pool))


def highest_load(ports: int, probability: float) -> float:
    """The load in erlangs of which an exact pool of `ports` refuses a share `probability`; within 1 in a million.

    The inverse of `erlang_b` in the load, by bisection. Divided by the holding time it is a rate per second.
    """
    _check(ports >= 1, "ports are 1 or more")
    _check(0 < probability < 1, "a probability is above 0 and below 1")
    low, high = 0.0, float(ports)
    while erlang_b(high, ports) < probability:
        low, high = high, 2 * high
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        if erlang_b(middle, ports) < probability:
            low = middle
        else:
            high = middle
    return low


def _poisson(mean: float, n: int) -> float:
    return math.exp(n * math.log(mean) - mean - math.lgamma(n + 1))


def _falling_sum(mean: float, n: int, *, up: bool) -> float:
    """Poisson probabilities from n on (or down from n), relative to that of n."""
    term = total = 1.0
    while term > 1e-17 * total and n >= 0:
        if up:
            n += 1
            term *= mean / n
        else:
            term *= n / mean
            n -= 1
        total += term
    return total


def _check(holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(rule)
