"""Formulas for NAT port demand against known values, against each other, and against simulations of their own.

The simulations know nothing of formulas: ports are objects that sessions take and give back. The last is the engine.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from decimal import Decimal, localcontext

import numpy as np
import pytest

import dataplane as dp
from dataplane.kernel import COMPILED
from dataplane.packets.batch import FRAME, PacketBatch
from dataplane.runs.models import (
    blocking,
    demand_exceeds,
    erlang_b,
    highest_load,
    nat_ips_needed,
    offered_load,
    ports_for_blocking,
    ports_for_demand,
    probe_failure,
    probed_blocking,
    slicing_loss,
)
from dataplane.topology.load import parse_topology

# Known values


@pytest.mark.parametrize(("load", "expected"), [(950, 0.0036493), (1000, 0.0248119), (1100, 0.0986252)])
def test_erlang_b_of_a_thousand_ports(load: int, expected: float) -> None:
    # Its definition in 60 digits: the last term of the exponential series over all terms.
    with localcontext() as context:
        context.prec = 60
        term = total = Decimal(1)
        for n in range(1, 1001):
            term = term * load / n
            total += term
        exact = float(term / total)
    assert erlang_b(load, 1000) == pytest.approx(exact, rel=1e-12)
    assert exact == pytest.approx(expected, abs=5e-8)


@pytest.mark.parametrize(
    ("part", "expected"),
    [(0.98, 3.7e-9), (0.99, 6.3e-5), (0.995, 7.9e-4), (1.0, 3.1e-3), (1.02, 2.0e-2), (1.1, 9.1e-2), (1.5, 0.333)],
)
def test_erlang_b_of_a_whole_nat_ip(part: float, expected: float) -> None:
    assert erlang_b(part * 64_000, 64_000) == pytest.approx(expected, rel=0.02)


def test_erlang_b_at_its_edges() -> None:
    assert erlang_b(5.0, 0) == 1.0
    assert erlang_b(0.0, 5) == 0.0
    assert erlang_b(3.0, 1) == 3 / 4
    assert erlang_b(2.0, 2) == (2**2 / 2) / (1 + 2 + 2**2 / 2)
    assert erlang_b(10.0, 516_096) == 0.0  # eight NAT IPs for ten sessions: no overflow
    assert erlang_b(1e9, 1000) == pytest.approx(1 - 1000 / 1e9)


@pytest.mark.parametrize("probability", [1e-6, 1e-3, 0.01, 0.2])
@pytest.mark.parametrize("load", [0.0, 0.5, 7.0, 1000.0, 60_000.0])
def test_the_inverse_of_erlang_b_is_the_least_number_of_ports(load: float, probability: float) -> None:
    ports = ports_for_blocking(load, probability)
    assert erlang_b(load, ports) <= probability
    assert erlang_b(load, ports - 1) > probability


@pytest.mark.parametrize(("probability", "expected"), [(1e-3, 63_723), (1e-4, 63_407), (1e-6, 63_034)])
def test_the_highest_load_of_a_whole_nat_ip(probability: float, expected: float) -> None:
    assert highest_load(64_000, probability) == pytest.approx(expected, abs=1)


def poisson_above(mean: float, ports: int) -> float:
    """P(N > ports), term by term from 0 on."""
    return 1 - math.fsum(math.exp(n * math.log(mean) - mean - math.lgamma(n + 1)) for n in range(ports + 1))


@pytest.mark.parametrize(("mean", "ports"), [(0.3, 0), (4.0, 2), (4.0, 9), (100.0, 80), (100.0, 100), (100.0, 125)])
def test_the_tail_of_the_demand_is_the_sum_of_its_terms(mean: float, ports: int) -> None:
    assert demand_exceeds(mean, ports) == pytest.approx(poisson_above(mean, ports), rel=1e-9)


def test_the_tail_of_a_large_demand_is_that_of_the_normal_distribution() -> None:
    mean = 500_000.0
    for deviations in (-2.0, -1.0, 1.0, 2.0, 3.0):
        ports = round(mean + deviations * math.sqrt(mean))
        normal = math.erfc((ports + 0.5 - mean) / math.sqrt(2 * mean)) / 2
        assert demand_exceeds(mean, ports) == pytest.approx(normal, rel=0.02)


@pytest.mark.parametrize("probability", [1e-9, 1e-3, 0.5, 0.99])
@pytest.mark.parametrize("load", [0.0, 0.1, 20.0, 64_512.0, 1_000_000.0])
def test_ports_for_a_demand_are_the_least_number(load: float, probability: float) -> None:
    ports = ports_for_demand(load, probability)
    assert demand_exceeds(load, ports) <= probability < demand_exceeds(load, ports - 1)


@pytest.mark.parametrize(("hold", "rate"), [(2, 32_000), (60, 1067), (65, 985), (240, 267), (7440, 9)])
def test_rates_that_port_hold_alone_allows(hold: float, rate: float) -> None:
    assert 64_000 / offered_load(1.0, 0.0, hold) == pytest.approx(rate, rel=0.05)
    assert offered_load(10, 20, hold) == 10 * (20 + hold)


@pytest.mark.parametrize(("probes", "expected"), [(10, 0.63), (20, 0.79), (32, 0.87), (128, 0.965), (248, 0.982)])
def test_the_utilisation_at_which_one_session_in_a_hundred_finds_no_port(probes: int, expected: float) -> None:
    assert expected == pytest.approx(0.01 ** (1 / probes), abs=5e-3)
    assert probe_failure(0.01 ** (1 / probes), probes) == pytest.approx(0.01)
    # In equilibrium a little more, since the share that is taken varies, and more above its mean than less below it.
    utilisation = 0.01 ** (1 / probes)
    assert 0.01 < probed_blocking(utilisation * 64_512 / 0.99, 64_512, probes) < 0.0105


@pytest.mark.parametrize(("nat_ips", "expected"), [(1, 7.9e-4), (2, 2.3e-4), (4, 3.2e-5), (8, 9.1e-7)])
def test_nat_ips_that_share_a_load_by_spilling_gain_from_each_other(nat_ips: int, expected: float) -> None:
    load = 0.995 * 64_000 * nat_ips
    assert blocking(load, 64_000, nat_ips=nat_ips) == pytest.approx(expected, rel=0.02)
    assert blocking(load, 64_000, nat_ips=nat_ips, spill=False) == pytest.approx(7.9e-4, rel=0.02)


def test_slices_lose_against_one_pool() -> None:
    assert slicing_loss(0.98 * 64_000, 8000, 8) == pytest.approx(9.1e-4 - 3.7e-9, rel=0.01)
    assert slicing_loss(100.0, 120, 1) == 0


# Formulas against each other


@pytest.mark.parametrize("ports", [1, 10, 300])
@pytest.mark.parametrize("part", [0.3, 0.9, 1.0, 1.5])
def test_refusing_sessions_keeps_more_ports_free_than_serving_all(ports: int, part: float) -> None:
    load = part * ports
    assert erlang_b(load, ports) <= demand_exceeds(load, ports - 1)
    assert probed_blocking(load, ports, 3) >= erlang_b(load, ports)
    assert probed_blocking(load, ports, 10_000) == pytest.approx(erlang_b(load, ports), rel=1e-3)


# How many NAT IPs


def test_nat_ips_grow_with_the_load_until_eight_are_not_enough() -> None:
    found = [nat_ips_needed(rate, 300, failure_probability=1e-3).nat_ips for rate in range(100, 2000, 100)]
    assert found == [math.ceil(rate * 300 / 64_512) for rate in range(100, 1800, 100)] + [None, None]
    short = nat_ips_needed(2000, 300, failure_probability=1e-3)
    assert not short.enough
    assert short.failure_probability == pytest.approx(1 - 8 * 64_512 / 600_000, rel=0.01)
    assert short.utilisation == pytest.approx(1, abs=1e-3)


def test_backends_and_headroom_count_as_they_should() -> None:
    one = nat_ips_needed(1000, 300, failure_probability=1e-3)
    four = nat_ips_needed(4000, 300, failure_probability=1e-3, backends=4)
    assert one == four
    assert nat_ips_needed(800, 300, failure_probability=1e-3, headroom=0.25) == one
    assert one.utilisation == pytest.approx(300_000 / (5 * 64_512))


def test_a_pool_that_is_probed_needs_more_nat_ips_and_one_without_spill_no_fewer() -> None:
    def needed(**other: object) -> int:
        found = nat_ips_needed(650, 300, failure_probability=1e-3, **other)  # type: ignore[arg-type]
        assert found.nat_ips is not None
        return found.nat_ips

    assert needed() == 4
    assert needed(probes=9) == 7
    ports = 1000  # small pools vary more: at 97 % of three NAT IPs, spilling is what keeps sessions
    rate = 0.97 * 3 * ports / 300
    spilling, alone = (
        nat_ips_needed(rate, 300, failure_probability=2e-3, ports_per_pool=ports, spill=spill).nat_ips
        for spill in (True, False)
    )
    assert (spilling, alone) == (3, 4)


@pytest.mark.parametrize(
    "call",
    [
        lambda: erlang_b(-1, 5),
        lambda: erlang_b(1, -5),
        lambda: ports_for_blocking(5, 0),
        lambda: ports_for_demand(5, 1),
        lambda: probe_failure(1.1, 3),
        lambda: probe_failure(0.5, 0),
        lambda: probed_blocking(5, 0, 3),
        lambda: offered_load(-1, 5),
        lambda: blocking(5, 5, nat_ips=2, probes=3),
        lambda: nat_ips_needed(1, 1, failure_probability=0.1, backends=0),
        lambda: nat_ips_needed(1, 1, failure_probability=0.1, headroom=-0.1),
        lambda: highest_load(5, 0),
    ],
)
def test_what_cannot_be_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"is|are|there is no formula"):
        call()


# Simulations

LIFETIMES: dict[str, Callable[[random.Random], float]] = {
    "constant": lambda draw: 1.0,
    "exponential": lambda draw: draw.expovariate(1.0),
    "short and long": lambda draw: draw.expovariate(5.0 if draw.random() < 0.5 else 1 / 1.8),
}

#: Chooses a free port of `taken` ((NAT IP, port) pairs), or none.
Choose = Callable[[random.Random, set[tuple[int, int]]], tuple[int, int] | None]


def simulate(load: float, choose: Choose, lifetime: Callable[[random.Random], float], sessions: int = 200_000) -> float:
    """The share of sessions that got no port; lifetimes have mean 1, so `load` sessions come per unit of time."""
    draw = random.Random(20)
    taken: set[tuple[int, int]] = set()
    ends: list[tuple[float, tuple[int, int]]] = []
    now, refused = 0.0, 0
    settled = sessions // 10  # the first tenth only fills the pool
    for number in range(sessions + settled):
        now += draw.expovariate(load)
        while ends and ends[0][0] <= now:
            taken.discard(heapq.heappop(ends)[1])
        port = choose(draw, taken)
        if port is None:
            refused += number >= settled
        else:
            assert port not in taken
            taken.add(port)
            heapq.heappush(ends, (now + lifetime(draw), port))
    return refused / sessions


def hashed(nat_ips: int, ports: int, *, spill: bool) -> Choose:
    """A NAT IP at random, there the lowest free port; with spill the others after it."""

    def choose(draw: random.Random, taken: set[tuple[int, int]]) -> tuple[int, int] | None:
        first = draw.randrange(nat_ips)
        for nat_ip in [first, *(n for n in range(nat_ips) if n != first)] if spill else [first]:
            for port in range(ports):
                if (nat_ip, port) not in taken:
                    return nat_ip, port
        return None

    return choose


def probed(ports: int, probes: int) -> Choose:
    """The first free one of some ports drawn at random."""

    def choose(draw: random.Random, taken: set[tuple[int, int]]) -> tuple[int, int] | None:
        drawn = ((0, draw.randrange(ports)) for _ in range(probes))
        return next((port for port in drawn if port not in taken), None)

    return choose


@pytest.mark.parametrize("name", LIFETIMES)
def test_an_exact_pool_refuses_as_erlang_b_says_whatever_the_lifetimes(name: str) -> None:
    assert simulate(28, hashed(1, 30, spill=True), LIFETIMES[name]) == pytest.approx(erlang_b(28, 30), rel=0.05)


def test_nat_ips_refuse_as_one_pool_with_spill_and_as_split_pools_without() -> None:
    for spill in (True, False):
        refused = simulate(27, hashed(3, 10, spill=spill), LIFETIMES["exponential"])
        assert refused == pytest.approx(blocking(27, 10, nat_ips=3, spill=spill), rel=0.04)


@pytest.mark.parametrize("probes", [1, 3, 10])
@pytest.mark.parametrize("name", ["constant", "exponential"])
def test_a_pool_that_is_probed_refuses_as_the_birth_and_death_process_says(name: str, probes: int) -> None:
    refused = simulate(40, probed(50, probes), LIFETIMES[name])
    assert refused == pytest.approx(probed_blocking(40, 50, probes), rel=0.04)


def test_the_demand_at_a_moment_is_distributed_as_said() -> None:
    draw = random.Random(21)
    load, moments = 20.0, 40_000
    now, ends, above = 0.0, [0.0], 0
    for _ in range(moments):  # sessions find the demand as it is at any moment
        now += draw.expovariate(load)
        ends = [end for end in ends if end > now]
        above += len(ends) > 25
        ends.append(now + draw.expovariate(1.0))
    assert above / moments == pytest.approx(demand_exceeds(20.0, 25), rel=0.1)


TOPOLOGY = """\
virtual_networks:
  - {name: contoso, region: eastus, address_space: [10.0.0.0/8]}
  - {name: provider, region: westus, address_space: [192.168.0.0/16]}
private_link_services:
  - name: orders
    virtual_network: provider
    nat_ips: [192.168.50.4, 192.168.50.5]
    load_balancer:
      frontend_ip: 192.168.60.10
      rules: [{protocol: udp, frontend_port: 53, backend_port: 53}]
      backend_pool: [192.168.61.4]
    nat: {nat_ports: 1024-1123, SETTINGS, timeouts: {udp: 25s}, port_hold: 5s}
private_endpoints:
  - {name: pe-contoso, virtual_network: contoso, ip: 10.0.1.5, target: orders}
"""


def datagrams(count: int, rate_per_second: float) -> PacketBatch:
    """UDP datagrams of as many conversations to the endpoint, at the times of a Poisson process."""
    draw = np.random.default_rng(22)
    header = bytes.fromhex("4500001c0000000040110000" + "0a800000" + "0a000105" + "0400003500080000")
    data = np.tile(np.frombuffer(header, np.uint8), (count, 1))
    for byte in range(3):  # the consumer's address counts up
        data[:, 15 - byte] = np.arange(1 << 23, count + (1 << 23)) >> 8 * byte & 255
    frames = np.zeros(count, FRAME)
    frames["offset"] = np.arange(count) * len(header)
    frames["captured"] = frames["original"] = len(header)
    frames["link_type"] = 101
    frames["time_ns"] = np.cumsum(draw.exponential(1e9 / rate_per_second, count)).astype(np.int64)
    return PacketBatch(data.ravel(), frames)


@pytest.mark.skipif(not COMPILED, reason="two million datagrams take interpreted kernels hours")
@pytest.mark.parametrize(
    ("settings", "model"),
    [
        ("port_allocation: random, spill: true", {"spill": True}),
        ("port_allocation: random, spill: false", {"spill": False}),
        ("port_allocation: random, probes: 4, spill: false", {"spill": False, "probes": 4}),
    ],
)
def test_the_engine_refuses_as_the_formulas_say(settings: str, model: dict[str, int]) -> None:
    count, rate = 2_000_000, 6.5  # with so many, runs of other seeds differ by 1 % of what is refused
    simulator = dp.Simulator(parse_topology(TOPOLOGY.replace("SETTINGS", settings)), seed=3)
    simulator.process(datagrams(count, rate), at="contoso")
    summary = simulator.summary()
    refused = summary["dropped"]["packets"] / count
    assert summary["received"]["packets"] == count
    load = offered_load(rate, 25, 5)  # 195 erlangs for 200 ports
    assert refused == pytest.approx(blocking(load, 100, nat_ips=2, **model), rel=0.04)  # type: ignore[arg-type]
