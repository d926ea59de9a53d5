"""Exhaustion experiments whose findings arithmetic foretells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dataplane.kernel import COMPILED
from dataplane.runs.exhaust import Exhaust, Exhausted, exhaust
from dataplane.runs.findings import Moment, fires_at
from dataplane.runs.scenario import MINUTE, Alert
from tests.traffic import scenario, source, topology

#: 600 ports.
SMALL = "1024-1623"


def run(*sources: dict[str, Any], **settings: Any) -> Exhausted:
    return exhaust(Exhaust(scenario(*sources, **settings)))


def steady(**settings: Any) -> dict[str, Any]:
    """100 TCP connections a second, which hold their ports 16 s after the RST at the end of their life."""
    arrivals = {"pattern": "constant", "rate": 100}
    return source(protocol="tcp", arrivals=arrivals, ends={"rst": 1}, **settings)


def test_600_ports_last_6_seconds_at_100_a_second_if_none_comes_back() -> None:
    result = run(steady(life={"value": "20s"}), topology=topology(SMALL), duration="12s")
    failure = result.findings["first_failure"]
    assert failure == {
        "time_seconds": 6.0,
        "service": "orders",
        "nat_ip": "192.168.50.4",
        "protocol": "tcp",
        "backend": "192.168.61.4",
        "reason": "nat_ports_exhausted",
    }
    assert result.summary["first_exhaustion"] == failure
    assert result.findings["private_endpoints"][0]["failures"] == {"nat_ports_exhausted": 600}
    connections = result.findings["traffic"][0]["connections"]
    assert (connections["started"], connections["opened"], connections["failed"]) == (1200, 600, 600)
    lowest = result.findings["lowest_availability"]
    assert (lowest["percent"], lowest["time_seconds"]) == (0.0, 5.0)


@pytest.mark.parametrize(("ports", "fails"), [("1024-2655", False), ("1024-2616", True)])
def test_ports_suffice_if_there_are_as_many_as_rate_times_holding_time(ports: str, fails: bool) -> None:
    """A connection holds its port for its life of 20 ms (a round-trip to shake hands, one to close) and 16 s."""
    result = run(steady(life={"value": "20ms"}), topology=topology(ports), duration="40s")
    assert (result.findings["first_failure"] is not None) == fails
    if fails:
        assert result.findings["first_failure"]["time_seconds"] == pytest.approx(15.93)
    else:  # 1602 or 1603 in use, of 1632
        assert round(16.32 * result.findings["lowest_availability"]["percent"]) in (29, 30)


def test_port_seconds_are_the_lives_of_sessions() -> None:
    arrivals = {"pattern": "constant", "rate": 10, "stop": "2s"}
    result = run(
        source(arrivals=arrivals, life={"value": "1s"}),
        topology=topology(SMALL, port_hold="4s", timeouts={"udp": "3s"}),
        duration="20s",
    )
    # 20 sessions: 1 s from the first to the last datagram, 3 s of time-out, 4 s of hold.
    assert result.findings["private_endpoints"][0]["port_seconds"] == {"in_use": 80.0, "held": 80.0}


def test_port_seconds_stop_at_the_end_of_the_run_and_begin_after_the_warm_up() -> None:
    arrivals = {"pattern": "constant", "rate": 1, "stop": "1s"}
    settings = {"topology": topology(SMALL, port_hold="10s", timeouts={"udp": "6s"}), "duration": "9s"}
    assert port_seconds(run(source(arrivals=arrivals), **settings)) == (6.0, 3.0)
    assert port_seconds(run(source(arrivals=arrivals), warm_up="2500ms", **settings)) == (3.5, 3.0)
    assert port_seconds(run(source(arrivals=arrivals), warm_up="7s", **settings)) == (0.0, 2.0)
    assert port_seconds(run(source(arrivals=arrivals), **{**settings, "duration": "4s"})) == (4.0, 0.0)


def port_seconds(result: Exhausted) -> tuple[float, float]:
    told = result.findings["private_endpoints"][0]["port_seconds"]
    return told["in_use"], told["held"]


def test_the_warm_up_is_left_out_of_the_findings() -> None:
    arrivals = {"pattern": "steps", "steps": [{"at": "0s", "rate": 200}, {"at": "5s", "rate": 10}]}
    burst = source(arrivals={**arrivals, "spacing": "even"})
    settings = {"topology": topology(SMALL, timeouts={"udp": "2s"}), "duration": "20s"}
    short = source(arrivals={**arrivals, "spacing": "even"})
    whole = run(burst, **{**settings, "topology": topology("1024-1123", timeouts={"udp": "2s"})})
    assert whole.findings["first_failure"]["time_seconds"] == 0.5
    part = run(short, warm_up="8s", **{**settings, "topology": topology("1024-1123", timeouts={"udp": "2s"})})
    assert part.findings["first_failure"] is None
    assert part.findings["lowest_availability"]["percent"] == 80.0  # 10 a second, 2 s each, of 100
    assert part.findings["private_endpoints"][0]["failures"] == {}
    assert part.findings["traffic"][0]["connections"]["started"] == 120
    assert part.summary == {**whole.summary, "findings": part.findings}  # which tells of the whole run


def test_the_average_of_a_minute_hides_what_lies_between() -> None:
    """A burst of 3 s takes all ports; over its minute the metric shows that a twelfth was in use."""
    arrivals = {"pattern": "constant", "rate": 1000, "start": "90s", "stop": "93s"}
    result = run(
        source(arrivals=arrivals), topology=topology("1024-2023", only="udp", timeouts={"udp": "5s"}), duration="4m"
    )
    told = result.findings["nat_ips"][0]
    assert told["lowest_availability_percent"] == 0.0
    # Ports 0 to 999 are taken from 90 s to 91 s, and each is free again 5 s later.
    assert told["lowest_minute_average_percent"] == pytest.approx(100 * (1 - 5 / 60), abs=0.01)
    assert told["minute_seconds"] == 60
    assert result.findings["first_failure"]["time_seconds"] == 91.0
    assert result.findings["alert"]["fired_seconds"] is None


def test_an_alert_warns_as_early_as_the_metric_rises() -> None:
    """1 of 600 ports a second: 80 % after 480 s. Minute 8 averages 85 %, is over at 540 s, and seen 2 minutes later."""
    arrivals = {"pattern": "constant", "rate": 1}
    result = run(source(arrivals=arrivals, life={"value": "1h"}, keep_alive="200s"),
                 topology=topology(SMALL, only="udp"), duration="15m")  # fmt: skip
    alert = result.findings["alert"]
    assert result.findings["first_failure"]["time_seconds"] == 600
    assert alert["fired_seconds"] == 660
    assert alert["seconds_before_first_failure"] == -60
    assert (alert["service"], alert["nat_ip"]) == ("orders", "192.168.50.4")
    assert alert["unconfirmed"] == ["ingestion_delay"]


def minutes(*usages: float | None) -> list[tuple[int, float]]:
    return [(number * MINUTE, usage) for number, usage in enumerate(usages) if usage is not None]


@pytest.mark.parametrize(
    ("usages", "settings", "fires"),
    [
        ((10, 81, 90), {}, 4),  # minute 1 is over at 2, seen at 4
        ((10, 80, 80), {}, None),  # greater than, not equal
        ((10, 81, 90), {"ingestion_delay": "0s"}, 2),
        ((10, 81, 90), {"ingestion_delay": "90s"}, 4),  # at 3 minutes, minute 1 has been over for 60 s only
        ((81,), {}, 3),
        ((10, 81, 90, 95), {"window": "3m"}, 6),  # 10, 81, 90 average 60.3; 81, 90, 95 average 88.7
        ((10, 81, 90, 95), {"window": "3m", "threshold_percent": 60}, 5),
        ((10, 10, 10, 10, 99), {"evaluation": "5m"}, None),  # minute 4 is seen from 7 to 8 only
        ((10, 10, 10, 10, 10, 10, 10, 99), {"evaluation": "5m"}, 10),
        ((10, None, 99), {"window": "2m", "threshold_percent": 90}, 5),  # a minute without value is left out
        ((), {}, None),
    ],
)
def test_an_alert_compares_averages_that_can_be_seen(
    usages: tuple[float | None, ...], settings: dict[str, Any], fires: int | None
) -> None:
    at = fires_at(minutes(*usages), Alert.model_validate(settings))
    assert at == (None if fires is None else fires * MINUTE)


def test_what_is_received_is_forwarded_or_dropped_and_every_refusal_is_a_connections() -> None:
    sources = [
        source("web", "tcp", life={"distribution": "exponential", "mean": "2s"}, retries=2, request={"bytes": 100}),
        source("names", response={"bytes": 50}),
        source("flood", "tcp", answer=False),
    ]
    result = run(*sources, topology=topology("1024-1323"), duration="20s" if COMPILED else "5s")
    summary = result.summary
    assert summary["received"]["packets"] == sum(summary[k]["packets"] for k in ("forwarded", "bypassed", "dropped"))
    assert summary["bypassed"]["packets"] == 0
    counts = [told["connections"] for told in result.findings["traffic"]]
    assert summary["dropped"]["reasons"].keys() == {"nat_ports_exhausted"}
    assert sum(c["refused"] for c in counts) == summary["dropped"]["packets"]
    assert sum(c["opened"] for c in counts) == summary["sessions"]["created"]


def test_the_same_seed_gives_the_same_findings_whatever_the_slice() -> None:
    plan = scenario(source("web", "tcp", life={"distribution": "pareto", "median": "1s", "shape": 1.5}),
                    topology=topology(SMALL), duration="10s" if COMPILED else "3s", seed=5)  # fmt: skip
    one, two = exhaust(Exhaust(plan)), exhaust(Exhaust(plan, slice_ns=2_000_000))
    assert one.summary == two.summary
    assert exhaust(Exhaust(plan, seed=6)).summary != one.summary
    assert one.summary["seed"] == 5


def test_half_open_connections_hold_ports_for_their_time_out() -> None:
    result = run(steady(answer=False), topology=topology("1024-5023"), duration="60s" if COMPILED else "31s")
    lowest = result.findings["lowest_availability"]["percent"]
    assert lowest == pytest.approx(100 * (4000 - 3000) / 4000, abs=0.03)  # 100 a second, 30 s each


def test_notes_say_what_clients_could_not_do() -> None:
    if not COMPILED:
        pytest.skip("many packets")
    arrivals = {"pattern": "constant", "rate": 20_000}
    result = run(source(arrivals=arrivals, hosts=1), duration="2s")
    assert any("took no port of their own; write more hosts" in note for note in result.notes)
    result = run(source(arrivals=arrivals, hosts=1, life={"value": "1h"}), duration="2s")
    assert any("11,768 connections were not made" in note for note in result.notes)


def test_progress_is_told_every_second() -> None:
    told: list[Moment] = []
    exhaust(Exhaust(scenario(source(arrivals={"pattern": "constant", "rate": 10}), duration="2500ms")), told.append)
    assert [moment.seconds for moment in told] == [1.0, 2.0, 2.5]
    assert [moment.sessions for moment in told] == [10, 20, 25]
    assert told[-1].availability[0][:2] == ("orders", "192.168.50.4")


def test_progress_shows_the_nat_ips_that_there_are_at_the_time() -> None:
    """An added one from its moment on, a removed one no longer."""
    events = [
        {"at": "1s", "add_nat_ip": "orders", "address": "192.168.50.5"},
        {"at": "2s", "remove_nat_ip": "orders", "address": "192.168.50.4"},
    ]
    told: list[Moment] = []
    clients = source(arrivals={"pattern": "constant", "rate": 10})
    exhaust(Exhaust(scenario(clients, events=events, duration="3s")), told.append)
    shown = [[address for _, address, _ in moment.availability] for moment in told]
    assert shown == [["192.168.50.4", "192.168.50.5"], ["192.168.50.5"], ["192.168.50.5"]]
    assert told[-1].availability[0][2] < 1.0, "the share is that of the NAT IP named"


@pytest.mark.parametrize("profile", ["azure-pls", "azure-natgw", "azure-slb", "gcp-psc", "rfc", "linux", "vpp"])
def test_every_profile_can_be_exhausted(profile: str) -> None:
    """Also those that translate fragments, for which packets take another way in."""
    arrivals = {"pattern": "constant", "rate": 100}
    clients = source(protocol="tcp", arrivals=arrivals, life={"value": "10s"}, request={"bytes": 100})
    nat = {"profile": profile, "block_size": 100}
    result = run(clients, topology=topology("1024-1123", only="tcp", **nat), duration="3s")
    assert result.findings["first_failure"] is not None or profile == "azure-slb"  # which has its cap of one block
    failures = result.findings["private_endpoints"][0]["failures"]
    connections = result.findings["traffic"][0]["connections"]
    assert connections["opened"] == result.summary["sessions"]["created"] <= 100
    assert sum(failures.values()) == connections["failed"] >= 200


def test_connections_idle_for_too_long_are_broken_and_resets_are_counted() -> None:
    clients = source(protocol="tcp", arrivals={"pattern": "constant", "rate": 10, "stop": "2s"}, life={"value": "9s"})
    nat = {"idle_reset": True, "timeouts": {"tcp_established": "4s"}}
    result = run(clients, topology=topology(SMALL, **nat), duration="20s")
    assert result.summary["sessions"]["resets_sent"] == 2 * 20
    assert result.findings["traffic"][0]["connections"]["broken"] == 20
    kept = run({**clients, "keep_alive": "3s"}, topology=topology(SMALL, **nat), duration="20s")
    assert kept.summary["sessions"]["resets_sent"] == 0
    assert kept.findings["traffic"][0]["connections"]["completed"] == 20


def test_the_capture_has_the_resets_that_come_after_the_last_packet(tmp_path: Path) -> None:
    clients = source(protocol="tcp", arrivals={"pattern": "constant", "rate": 10, "stop": "2s"}, life={"value": "9s"})
    nat = {"idle_reset": True, "timeouts": {"tcp_established": "4s"}}
    load = scenario(clients | {"ends": {"never": 1}}, topology=topology(SMALL, **nat), duration="20s")
    result = exhaust(Exhaust(load, folder=tmp_path / "run", capture=True))
    assert result.summary["sessions"]["resets_sent"] == 2 * 20
    # One is seen in the consumer's network; the other on the backbone and in the provider's.
    assert (tmp_path / "run" / "capture.pcapng").read_bytes().count(b" idle_reset") == 3 * 20


def test_events_of_the_scenario_take_place_in_the_run() -> None:
    """A second NAT IP after 2 s, and the end of the connection after 8 s."""
    arrivals = {"pattern": "constant", "rate": 100}
    clients = source(arrivals=arrivals)
    events = [
        {"at": "2s", "add_nat_ip": "orders", "address": "192.168.50.5"},
        {"at": "8s", "disconnect": "pe-contoso"},
    ]
    settings = {"topology": topology("1024-1423", only="udp", timeouts={"udp": "60s"}), "duration": "10s"}
    result = run(clients, events=events, **settings)
    assert result.findings["first_failure"] is None
    assert [nat_ip["nat_ip"] for nat_ip in result.findings["nat_ips"]] == ["192.168.50.4", "192.168.50.5"]
    connections = result.findings["traffic"][0]["connections"]
    assert connections["opened"] == 800  # 100 a second until the end of the connection: two pools' ports
    assert result.summary["dropped"]["reasons"].keys() == {"connection_not_approved"}
    assert run(clients, **settings).findings["first_failure"]["time_seconds"] == 4.0
    # The ports of 4 and 4 seconds, until the connection ended.
    assert port_seconds(result)[0] == pytest.approx(sum(8 - k / 100 for k in range(800)))
