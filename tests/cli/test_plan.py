"""How many NAT IPs a load needs: formula and simulation agree, and it is said when eight cannot do it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from dataplane.runs.demand import demand
from dataplane.runs.loads import Load, Numbers
from dataplane.runs.models import erlang_b
from dataplane.runs.plan import Plan, plan
from tests.cli.conftest import ROOT, TOPOLOGY
from tests.traffic import TOPOLOGY as ORDERS
from tests.traffic import scenario, source, topology

EXAMPLE = ROOT / "tests" / "data" / "PT1H.json"
DNS = ROOT / "pcaps" / "dns-udp-mixed.pcap"
HTTPS = ROOT / "pcaps" / "cases" / "https-explicit" / "topology.yaml"

Invoke = Callable[..., Result]


def holding(**numbers: Any) -> float:
    return demand(Numbers(**{"rate": 1, "life": 20, **numbers}).load().scenario, lasting=True).holding


def knobs_of(result: Plan) -> dict[str, float]:
    """Ports at a time by change."""
    return {knob.change: knob.ports for knob in result.knobs}


# --- a load in numbers -----------------------------------------------------------------------------------------------


def test_a_connection_takes_a_port_until_the_time_out_of_its_end() -> None:
    assert holding() == pytest.approx(20 + 65), "closed by FIN"
    assert holding(ends="rst") == pytest.approx(20 + 16)
    assert holding(ends="never") == pytest.approx(20 + 300, rel=1e-3)
    assert holding(protocol="udp", port_hold=5) == pytest.approx(20 + 300 + 5)
    assert holding(timeout=7) == pytest.approx(27)


def test_the_simulation_of_one_nat_ip_less_fails_as_the_formula_says() -> None:
    """100 connections/s for 6 s each are 600 erlangs: too many for 500 ports, enough for twice as many."""
    result = plan(Numbers(100, 1, timeout=5, ports=500).load(), 1e-3)
    assert (result.nat_ips, result.simulated_nat_ips) == (2, 2)
    fewer, enough = result.simulated
    assert (fewer.nat_ips, enough.nat_ips) == (1, 2)
    assert fewer.formula == pytest.approx(erlang_b(600, 500), rel=1e-3)
    assert fewer.low <= fewer.formula <= fewer.high
    assert fewer.share == pytest.approx(fewer.formula, rel=0.25)
    assert (enough.failures, enough.low) == (0, 0)
    assert enough.high == pytest.approx(3 / enough.connections)
    growth = result.pools[0].growth_percent
    assert growth is not None
    assert 40 < growth < 66, "1,000 ports carry up to 1,000 erlangs, less the room that chance needs"


def test_a_long_connection_that_is_not_silent_keeps_its_port() -> None:
    result = plan(Numbers(2, 400, ports=500).load(), 1e-3)
    fewer, enough = result.simulated
    assert result.nat_ips == 2
    assert fewer.share == pytest.approx(erlang_b(930, 500), rel=0.25)
    assert enough.lowest_availability_percent < 100 * (1 - 0.8 * 930 / 1000), "and takes it in the simulation too"


def test_headroom_is_simulated_too() -> None:
    (two, three) = plan(Numbers(100, 1, timeout=5, ports=500).load(), 1e-3, headroom=1.0).simulated
    assert (two.nat_ips, three.nat_ips, three.failures) == (2, 3, 0)
    assert two.share == pytest.approx(erlang_b(1200, 1000), rel=0.25)


# --- a load in a scenario --------------------------------------------------------------------------------------------


def test_a_scenarios_bursts_are_what_is_planned_for() -> None:
    """900 in the 10 s of a burst, all of which are over when the next one comes: two NAT IPs of 500 ports."""
    burst = {"pattern": "on_off", "rate": 90, "on": "10s", "off": "80s"}
    busy = source(protocol="udp", arrivals=burst)
    given = topology("1024-1523", only="udp", timeouts={"udp": "60s"})
    result = plan(Load(scenario(busy, topology=given, duration="200s"), "bursts"), 1e-3)
    assert result.pools[0].ports == pytest.approx(900)
    assert (result.nat_ips, result.simulated_nat_ips) == (2, 2)
    one, two = result.simulated
    assert two.lowest_availability_percent == pytest.approx(10, abs=8), "900 of 1,000, as chance has it"
    assert one.share > 0.3, "and what comes beyond 500 of each burst fails"


def test_every_service_is_told_and_the_one_that_needs_most_decides() -> None:
    service, endpoint = ORDERS["private_link_services"][0], ORDERS["private_endpoints"][0]
    balancer = service["load_balancer"] | {"frontend_ip": "192.168.80.10", "backend_pool": ["192.168.81.4"]}
    second = service | {"name": "bills", "nat_ips": ["192.168.70.4"], "load_balancer": balancer}
    both = ORDERS | {
        "private_link_services": [service, second],
        "private_endpoints": [endpoint, endpoint | {"name": "pe-bills", "ip": "10.0.1.6", "target": "bills"}],
    }
    few = source("few", arrivals={"pattern": "poisson", "rate": 1})
    many = source("many", arrivals={"pattern": "poisson", "rate": 500}) | {"endpoint": "pe-bills"}
    result = plan(Load(scenario(few, many, topology=both, duration="400s"), "two"), 1e-6, simulate=False)
    assert [(pool.service, pool.needed.nat_ips) for pool in result.pools] == [("bills", 3), ("orders", 1)]
    assert result.nat_ips == 3


def test_what_the_formulas_leave_out_is_said() -> None:
    given = topology(ports_per_endpoint=9, nat_ip_selection="paired")
    result = plan(Load(scenario(topology=given), "capped"), 1e-3, simulate=False)
    assert result.notes == [
        "the formulas leave out ports_per_endpoint, nat_ip_selection: paired; the simulation does not"
    ]


def test_a_scenario_file_is_planned_for(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "topology.yaml").write_text(TOPOLOGY + "\n".join(["", "limits: none"]))
    (tmp_path / "scenario.yaml").write_text(
        "{topology: topology.yaml, duration: 80s, warm_up: 70s, seed: 3, traffic: [{name: web, endpoint: pe-contoso, "
        "port: 443, arrivals: {pattern: constant, rate: 20}, life: {value: 1s}, ends: {fin: 1, rst: 1}}]}"
    )
    result = invoke("plan", "--scenario", tmp_path / "scenario.yaml", "-q", "--json")
    told = json.loads(result.stdout)
    assert told["load"] == f"{tmp_path / 'scenario.yaml'}, from 70s to 80s"
    assert told["pools"][0]["ports"] == pytest.approx(10 * 66.01 + 10 * 17, rel=1e-3)
    assert told["simulated_nat_ips"] == told["nat_ips"] == 1
    lowest = told["simulated"][0]["lowest_availability_percent"]
    assert lowest == pytest.approx(100 * (1 - told["pools"][0]["ports"] / 64_512), abs=0.1)


def test_a_scenario_may_take_its_arrivals_from_files(invoke: Invoke, tmp_path: Path) -> None:
    """Three connections of a flow log, twice each, again after its 100 s: all of them are there in the second round."""
    (tmp_path / "topology.yaml").write_text(TOPOLOGY)
    (tmp_path / "scenario.yaml").write_text(
        "{topology: topology.yaml, duration: 150s, traffic: [{name: web, endpoint: pe-contoso, port: 443, ends: "
        f"{{never: 1}}, arrivals: {{pattern: flow_log, file: {EXAMPLE}, copies: 2, repeat: true}}}}]}}"
    )
    told = json.loads(invoke("plan", "--scenario", tmp_path / "scenario.yaml", "-q", "--json").stdout)
    assert told["pools"][0]["ports"] == pytest.approx(12)
    assert told["simulated"][0]["connections"] == 3 * 12
    assert told["simulated"][0]["lowest_availability_percent"] == pytest.approx(100 * (1 - 12 / 64_512))


# --- a load that was measured ----------------------------------------------------------------------------------------


def test_a_captures_load_is_planned_for_as_often_as_it_is_asked_for(invoke: Invoke) -> None:
    """What the formula says of the ports is what the simulation takes, since every moment is given."""
    told = json.loads(invoke("plan", "--capture", DNS, "--copies", 100, "-q", "--json").stdout)
    ports = told["pools"][0]["ports"]
    assert (told["nat_ips"], told["measured_ports"]) == (1, 107)
    assert 100 * 107 <= ports < 100 * 130
    assert told["simulated"][0]["lowest_availability_percent"] == pytest.approx(100 * (1 - ports / 64_512), abs=0.1)
    more = json.loads(invoke("plan", "--capture", DNS, "--copies", 5000, "--no-simulation", "--json").stdout)
    assert more["pools"][0]["ports"] == pytest.approx(50 * ports)
    assert more["nat_ips"] is None
    assert more["backends"][-1] == {"nat_ips": 8, "backends": 2}


def test_flow_logs_are_planned_for(invoke: Invoke, topology: Path) -> None:
    result = invoke("plan", "--flow-log", EXAMPLE, "-t", topology, "--copies", 500, "--headroom", 20, "-q")
    assert result.exit_code == 0
    for words in ("500 times 3 connections in 100 s", ", and 20 % more", "the consumer's side", "by simulation: 1;"):
        assert words in result.stdout


def test_times_that_span_too_many_years_are_said(invoke: Invoke) -> None:
    result = invoke("plan", "--capture", ROOT / "pcaps" / "pcapng-two-interfaces.pcapng", "-q")
    assert result.exit_code == 2
    assert "its load cannot be made a scenario: 1472003999360434176ns is too long" in result.stderr


# --- what else would help --------------------------------------------------------------------------------------------


def test_knobs_say_what_a_change_buys() -> None:
    result = plan(Numbers(700, 20, port_hold=15).load(), 1e-6, simulate=False)
    knobs = knobs_of(result)
    assert knobs["no port hold"] == pytest.approx(700 * 85)
    assert knobs["connections end by RST"] == pytest.approx(700 * (20 + 16 + 15), rel=1e-3)
    assert knobs["half the time-out tcp_closing: 32.5 s"] == pytest.approx(700 * (20 + 32.5 + 15))
    assert knobs["half as many connections, each used twice"] == pytest.approx(350 * (40 + 65 + 15), rel=1e-3)
    assert {knob.change: knob.nat_ips for knob in result.knobs}["one more backend"] == 1


def test_a_keep_alive_holds_a_port_that_the_time_out_would_free() -> None:
    """1,000/s that live for 600 s and say nothing: e^-0.5 of them live for longer than 300 s."""
    kept = plan(Numbers(1000, 600, idle=1.0, keep_alive=120).load(), 1e-6, simulate=False)
    without = plan(Numbers(1000, 600, idle=1.0).load(), 1e-6, simulate=False)
    assert (kept.broken, without.broken) == (0, pytest.approx(0.6065, abs=1e-3))
    # Those that live on lose their port after 300 s; the others have the rest of their life and 65 s.
    short = 600 * (1 - 1.5 * 0.6065) + 65 * (1 - 0.6065)
    assert without.pools[0].ports == pytest.approx(1000 * (short + 300 * 0.6065), rel=1e-3)
    assert knobs_of(kept)["no keep-alives"] == pytest.approx(without.pools[0].ports)
    assert knobs_of(without)["a keep-alive after 240 s"] == pytest.approx(kept.pools[0].ports, rel=1e-3)


def test_who_is_never_silent_is_not_broken_by_a_shorter_time_out() -> None:
    result = plan(Numbers(10, 2000, ends="never", protocol="udp").load(), 1e-6, simulate=False)
    (half,) = [knob for knob in result.knobs if knob.change.startswith("half the time-out")]
    assert (half.change, half.broken) == ("half the time-out udp: 150 s", 0)
    assert half.ports == pytest.approx(10 * (2000 + 150), rel=1e-3)


def test_eight_nat_ips_that_cannot_do_it_are_said_so(invoke: Invoke) -> None:
    numbers = ("--rate", 2000, "--life", 20, "--ports", 6000, "--no-simulation")
    result = invoke("plan", *numbers)
    assert result.exit_code == 0
    assert "8 NAT IPs, the most that a service may have, cannot carry it" in result.stdout
    assert "By backends" in result.stdout
    document = json.loads(invoke("plan", *numbers, "--json").stdout)
    assert document["needed"]["nat_ips"] is None
    assert document["growth_percent"] < 0
    assert [knob for knob in document["knobs"] if knob["nat_ips"] is not None] == []
    assert document["backends"][-1] == {"nat_ips": 8, "backends": 4}, "170,000 ports at a time on 48,000 of each"
    three, four = (
        plan(Numbers(2000, 20, ports=6000, backends=backends).load(), 1e-6, simulate=False) for backends in (3, 4)
    )
    assert (three.nat_ips, four.nat_ips) == (None, 8)


def test_a_plan_tells_all_of_it(invoke: Invoke) -> None:
    result = invoke("plan", "--rate", 50, "--timeout", 2, "--ports", 100, "--target", 1e-3, "--headroom", 20, "-q")
    assert result.exit_code == 0
    for words in ("needed by formula: 3", "needed by simulation: 3", "Simulated with 3 seeds", "What a change buys"):
        assert words in result.stdout


# --- what makes no sense ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "what is the load? Give one of --rate, --scenario, --capture, --flow-log"),
        (["--rate", 5, "--capture", DNS], "--rate and --capture are different loads"),
        (["--scenario", "a.yaml", "--life", 3], "--life goes with --rate, not with --scenario; leave it out"),
        (["--rate", 5, "-t", HTTPS], "--topology goes with --capture and --flow-log, not with --rate"),
        (["--rate", 5, "--copies", 2], "--copies goes with --capture and --flow-log, not with --rate"),
        (["--flow-log", EXAMPLE], "--flow-log needs the topology"),
        (["--flow-log", EXAMPLE, "-t", HTTPS], "no flow goes to a private endpoint of the topology"),
        (["--capture", DNS, "-t", HTTPS], "no tcp or udp connection to a private endpoint is in it"),
        (["--capture", "-"], "a plan reads a capture more than once"),
        (["--scenario", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--rate", 5, "--keep-alive", 9], "say with --idle how many percent are"),
        (["--rate", 5, "--target", 1], "--target 1: a share of sessions is above 0 and below 1"),
        (["--rate", 0], "Invalid value for '--rate'"),
        (["--rate", 5, "--headroom", "inf"], "Invalid value for '--headroom'"),
        (["--rate", 5, "--life", "nan"], "Invalid value for '--life': nan is no number"),
        (["--rate", 5, "--timeout", 1e9], "Invalid value for '--timeout'"),
        (["--rate", 5, "--profile", "cisco"], "--profile cisco: there is no such profile; there are: azure-pls"),
    ],
)
def test_what_makes_no_sense_is_said(invoke: Invoke, arguments: list[object], complaint: str) -> None:
    result = invoke("plan", *arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr
