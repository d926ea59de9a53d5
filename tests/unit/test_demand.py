"""How many ports a scenario wants at a time: by hand, and as the simulator has it, packet by packet."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dataplane.runs.demand import connections_of, demand
from dataplane.runs.exhaust import Exhaust, exhaust
from dataplane.runs.holding import lives_of
from dataplane.runs.knobs import caps
from dataplane.runs.models import erlang_b, ports_for_blocking
from dataplane.runs.scenario import Life, Scenario
from tests.traffic import TOPOLOGY, scenario, source, topology

EVEN = {"pattern": "constant", "rate": 10}


def wanted(plan: Scenario, *, lasting: bool = False) -> float:
    """Ports at a time at the busiest moment."""
    (pool,) = demand(plan, lasting=lasting).pools
    return pool.ports


# --- by hand -----------------------------------------------------------------------------------------------------


def test_a_rate_that_lasts_holds_rate_times_life_and_time_out() -> None:
    """100/s for 20 s, a round-trip of 10 ms until the server's FIN, 65 s of closing, 5 s of hold."""
    closing = source(protocol="tcp", arrivals={"pattern": "poisson", "rate": 100}, life={"value": "20s"})
    plan = scenario(closing, topology=topology(port_hold="5s"))
    assert wanted(plan, lasting=True) == pytest.approx(100 * (20 + 0.01 + 65 + 5))
    assert demand(plan, lasting=True).holding == pytest.approx(90.01)


def test_a_scenario_holds_what_has_begun_by_then() -> None:
    """10 s of 10/s, each for 30 s and 300 s: all of them at the end."""
    assert wanted(scenario(source(arrivals=EVEN, life={"value": "30s"}))) == pytest.approx(100)
    assert wanted(scenario(source(arrivals=EVEN | {"stop": "4s"}, life={"value": "30s"}))) == pytest.approx(40)
    assert connections_of(scenario(source(arrivals=EVEN | {"start": "4s"}))) == pytest.approx(60)


def test_bursts_that_come_within_the_time_out_add_up() -> None:
    """1,000 in 10 s of each minute, for 5 s + 10 ms + 65 s: two bursts are there at the second one's end."""
    burst = {"pattern": "on_off", "rate": 100, "on": "10s", "off": "50s"}
    plan = scenario(source(protocol="tcp", arrivals=burst, life={"value": "5s"}), duration="10m")
    assert wanted(plan) == pytest.approx(2000)


@pytest.mark.parametrize(
    ("arrivals", "begun"),
    [
        ({"pattern": "ramp", "rate": 10, "to_rate": 30, "over": "40s"}, 40 * 20 + 60 * 30),
        ({"pattern": "steps", "steps": [{"at": "10s", "rate": 5}, {"at": "60s", "rate": 7}]}, 50 * 5 + 40 * 7),
        ({"pattern": "daily", "low": 4, "high": 8, "period": "50s"}, 600),
        ({"pattern": "on_off", "rate": 3, "on": "30s", "off": "10s", "off_rate": 1}, 2 * (90 + 10) + 60),
        ({"pattern": "moments", "moments": ["0s", "7s", "150s"]}, 2),
        ({"pattern": "moments", "moments": ["0s", "7s"], "period": "30s", "copies": 1.5}, 3 * 3 + 3),
    ],
)
def test_every_pattern_begins_as_many_as_its_rate_says(arrivals: dict[str, Any], begun: float) -> None:
    """Nothing is over within 100 s, since a datagram takes a port for 300 s."""
    plan = scenario(source(arrivals=arrivals), duration="100s")
    assert wanted(plan) == pytest.approx(begun)
    assert connections_of(plan) == pytest.approx(begun)


def test_moments_that_come_again_for_ever_add_up_over_the_rounds() -> None:
    """Three a round of 10 s, each for 305 s: thirty whole rounds and those of the last 5 s."""
    arrivals = {"pattern": "moments", "moments": ["0s", "1s", "2s"], "period": "10s"}
    plan = scenario(source(arrivals=arrivals, life={"value": "5s"}))
    assert wanted(plan, lasting=True) == pytest.approx(93, rel=1e-3)
    assert demand(plan, lasting=True).streams[0].ports.mean() == pytest.approx(0.3 * 305)


def test_moments_that_do_not_come_again_are_always_there() -> None:
    always = source("always", arrivals={"pattern": "moments", "moments": ["0s"] * 7})
    again = source("again", arrivals={"pattern": "moments", "moments": ["0s"], "period": "100s"})
    assert wanted(scenario(always, again), lasting=True) == pytest.approx(7 + 3)


def test_tcp_and_udp_have_pools_of_their_own() -> None:
    both = scenario(source("a", "tcp", arrivals=EVEN), source("b", "udp", arrivals={"pattern": "constant", "rate": 20}))
    assert [(pool.protocol, round(pool.ports)) for pool in demand(both).pools] == [("udp", 200), ("tcp", 100)]


def test_a_load_balancing_rule_may_shorten_the_time_out() -> None:
    given = topology(only="udp")
    given["private_link_services"][0]["load_balancer"]["rules"][0] = {
        "protocol": "udp", "frontend_port": 53, "backend_port": 53, "idle_timeout": "20s",
    }  # fmt: skip
    assert wanted(scenario(source(arrivals=EVEN), topology=given), lasting=True) == pytest.approx(200)


@pytest.mark.parametrize(
    "life",
    [
        {"distribution": "exponential", "mean": "8s"},
        {"distribution": "log_normal", "mean": "8s", "shape": 1.5},
        {"distribution": "pareto", "mean": "8s", "shape": 1.2},
        {"distribution": "sample", "values": ["1s", "15s", "8s"]},
        {"value": "8s"},
    ],
)
def test_lives_have_the_mean_of_their_distribution(life: dict[str, Any]) -> None:
    lives = lives_of(Life.model_validate(life))
    assert lives.mean() == pytest.approx(8)
    assert (np.diff(lives) >= 0).all()


def test_exponential_lives_are_distributed_so() -> None:
    lives = lives_of(Life.model_validate({"distribution": "exponential", "mean": "10s"}))
    assert (lives > 20).mean() == pytest.approx(math.exp(-2), abs=1e-3)


# --- as the simulator has it ---------------------------------------------------------------------------------------

_ASKED = {"response": {"bytes": 100}}


@pytest.mark.parametrize(
    ("protocol", "settings"),
    [
        ("tcp", {"life": {"value": "7s"}}),
        ("tcp", {"life": {"value": "0s"}, **_ASKED}),
        ("tcp", {"life": {"value": "7s"}, "ends": {"rst": 1}}),
        ("tcp", {"life": {"value": "7s"}, "ends": {"never": 1}, **_ASKED}),
        ("tcp", {"life": {"value": "47s"}, "ends": {"never": 1}, "keep_alive": "10s"}),
        ("tcp", {"life": {"value": "47s"}, "ends": {"fin": 1, "rst": 2, "never": 1}, "keep_alive": "10s"}),
        ("tcp", {"life": {"value": "47s"}}),
        ("tcp", {"life": {"value": "47s"}, "keep_alive": "35s"}),
        ("tcp", {"life": {"distribution": "sample", "values": ["1s", "20s", "60s"]}, "keep_alive": "12s"}),
        ("tcp", {"answer": False}),
        ("tcp", {"answer": False, "retries": 3}),
        ("udp", {"life": {"value": "7s"}}),
        ("udp", {"life": {"value": "7s"}, **_ASKED}),
        ("udp", {"life": {"value": "0s"}, **_ASKED}),
        ("udp", {"life": {"value": "47s"}, "keep_alive": "10s", **_ASKED}),
        ("udp", {"life": {"value": "47s"}, **_ASKED}),
    ],
)
def test_the_formula_holds_what_the_simulator_holds(protocol: str, settings: dict[str, Any]) -> None:
    """Evenly spaced connections leave nothing to chance but lives of a sample: ports in the mean of a minute."""
    times = {"tcp_established": "30s", "tcp_half_open": "12s", "tcp_closing": "9s", "tcp_reset": "4s", "udp": "20s",
             "udp_unreplied": "6s"}  # fmt: skip
    plan = scenario(
        source("one", protocol, arrivals=EVEN, **settings),
        topology=topology(only=protocol, port_hold="3s", timeouts=times),
        duration="210s",
        warm_up="150s",
    )
    (endpoint,) = exhaust(Exhaust(plan)).findings["private_endpoints"]
    held = sum(endpoint["port_seconds"].values()) / 60
    (stream, *more) = [one.ports for one in demand(plan).streams]
    assert sum((ports.mean() for ports in more), stream.mean()) == pytest.approx(held, rel=0.02)


# --- a cap per endpoint ----------------------------------------------------------------------------------------------


def test_a_cap_leaves_the_others_what_they_need() -> None:
    """400 and 900 erlangs on two NAT IPs of 500 ports: the busy one may take what the other does not need."""
    endpoints = [*TOPOLOGY["private_endpoints"], {**TOPOLOGY["private_endpoints"][0], "name": "busy", "ip": "10.0.1.6"}]
    given = {**topology("1024-1523", only="udp", timeouts={"udp": "10s"}), "private_endpoints": endpoints}
    quiet = source("quiet", arrivals={"pattern": "poisson", "rate": 40})
    busy = source("loud", arrivals={"pattern": "poisson", "rate": 90}) | {"endpoint": "busy"}
    plan = demand(scenario(quiet, busy, topology=given), lasting=True)
    fewer, enough = caps(plan, 3, 1e-3, 0.0)
    assert (fewer.nat_ips, fewer.endpoint, fewer.ports) == (2, "busy", pytest.approx(900))
    assert fewer.ports_per_endpoint == (1000 - ports_for_blocking(400, 1e-3)) // 2
    assert fewer.refused == pytest.approx(erlang_b(900, 2 * fewer.ports_per_endpoint))
    assert enough.refused < 1e-3, "three NAT IPs have room for both"
