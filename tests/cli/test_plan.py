"""How many NAT IPs a load needs: formula and simulation agree, and it is said when eight cannot do it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import Result

from dataplane.runs.models import erlang_b
from dataplane.runs.plan import Load, plan

Invoke = Callable[..., Result]


def test_a_connection_takes_a_port_until_the_time_out_of_its_end() -> None:
    assert Load(1, 20).holding == 20 + 65, "closed by FIN"
    assert Load(1, 20, ends="rst").holding == 20 + 16
    assert Load(1, 20, ends="never").holding == 20 + 300
    assert Load(1, 20, protocol="udp", port_hold=5).holding == 20 + 300 + 5
    assert Load(1, 20, timeout=7).holding == 27


def test_the_simulation_of_one_nat_ip_less_fails_as_the_formula_says() -> None:
    """100 connections/s for 6 s each are 600 erlangs: too many for 500 ports, enough for twice as many."""
    load = Load(100, 1, timeout=5, ports=500)
    result = plan(load, 1e-3)
    assert result.needed.nat_ips == 2
    fewer, enough = result.simulated
    assert (fewer.nat_ips, enough.nat_ips) == (1, 2)
    assert fewer.low <= erlang_b(600, 500) <= fewer.high
    assert fewer.share == pytest.approx(erlang_b(600, 500), rel=0.25)
    assert (enough.failures, enough.low) == (0, 0)
    assert enough.high == pytest.approx(3 / enough.connections)
    assert 40 < result.growth_percent < 66, "1,000 ports carry up to 1,000 erlangs, less the room that chance needs"


def test_a_long_connection_that_is_not_silent_keeps_its_port() -> None:
    result = plan(Load(2, 400, ports=500), 1e-3)
    fewer, enough = result.simulated
    assert result.needed.nat_ips == 2
    assert fewer.share == pytest.approx(erlang_b(930, 500), rel=0.25)
    assert enough.lowest_availability_percent < 100 * (1 - 0.8 * 930 / 1000), "and takes it in the simulation too"


def test_knobs_say_what_a_change_buys() -> None:
    knobs = {knob.change: knob for knob in plan(Load(700, 20, port_hold=15), 1e-6, simulate=False).knobs}
    assert knobs["no port hold"].erlangs == pytest.approx(700 * 85)
    assert knobs["connections end by RST"].erlangs == pytest.approx(700 * (20 + 16 + 15))
    assert knobs["one more backend"].nat_ips == 1


def test_eight_nat_ips_that_cannot_do_it_are_said_so(invoke: Invoke) -> None:
    result = invoke("plan", "--rate", 20_000, "--life", 20, "--no-simulation")
    assert result.exit_code == 0
    assert "8 NAT IPs, the most that a service may have, cannot carry it" in result.stdout
    document = json.loads(invoke("plan", "--rate", 20_000, "--life", 20, "--no-simulation", "--json").stdout)
    assert document["needed"]["nat_ips"] is None
    assert document["growth_percent"] < 0
    enough = [knob for knob in document["knobs"] if knob["nat_ips"] is not None]
    assert [knob["change"] for knob in enough] == ["4 backends"]


def test_a_plan_tells_all_of_it(invoke: Invoke) -> None:
    result = invoke("plan", "--rate", 50, "--timeout", 2, "--ports", 100, "--target", 1e-3, "--headroom", 20, "-q")
    assert result.exit_code == 0
    for words in ("NAT IPs needed: ", "Simulated with 3 seeds", "What a change buys", "one more backend"):
        assert words in result.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--rate", 5, "--target", 1], "--target 1: a share of sessions is above 0 and below 1"),
        (["--rate", 0], "Invalid value for '--rate'"),
        (["--rate", 5, "--headroom", "inf"], "Invalid value for '--headroom'"),
        (["--rate", 5, "--timeout", 1e9], "Invalid value for '--timeout'"),
        (["--rate", 5, "--profile", "cisco"], "--profile cisco: there is no such profile; there are: azure-pls"),
    ],
)
def test_what_makes_no_sense_is_said(invoke: Invoke, arguments: list[object], complaint: str) -> None:
    result = invoke("plan", *arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr
