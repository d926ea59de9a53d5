"""The load that a capture or flow logs show, as a scenario that goes on."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from scapy.all import IP, TCP, Ether

from dataplane.capture import PcapWriter
from dataplane.packets.batch import PacketBatch
from dataplane.runs.demand import demand
from dataplane.runs.folder import RunError
from dataplane.runs.loads import Load
from dataplane.runs.measured import Seen, Server, capture_load, flow_log_load, joined
from dataplane.topology import Topology
from tests.traffic import TOPOLOGY

ROOT = Path(__file__).resolve().parents[2]
ORDERS = Topology.model_validate(TOPOLOGY)
SERVER = Server("pe-contoso", 443)


def seen(begin: float, life: float, kind: str = "never", *, before: bool = False, still: bool = False) -> Seen:
    return Seen(SERVER, kind, begin, life, before, still)


def capture(path: Path, *packets: tuple[float, int, str]) -> str:
    """A pcap of TCP segments to the endpoint: time in seconds, client's port, flags; capitals of the client."""
    frames = []
    for _, port, flags in packets:
        there = IP(src="10.0.2.4", dst="10.0.1.5") / TCP(sport=port, dport=443, flags=flags.upper())
        back = IP(src="10.0.1.5", dst="10.0.2.4") / TCP(sport=443, dport=port, flags=flags.upper())
        frames.append(bytes(Ether() / (there if flags.isupper() else back)))
    with PcapWriter(path) as file:
        file.write_batch(PacketBatch.from_bytes(frames, [round(time * 1e9) for time, _, _ in packets]))
    return str(path)


def opened(begin: float, port: int) -> list[tuple[float, int, str]]:
    return [(begin, port, "S"), (begin + 0.01, port, "sa"), (begin + 0.02, port, "A")]


def closed(end: float, port: int) -> list[tuple[float, int, str]]:
    return [(end - 0.01, port, "FA"), (end, port, "fa")]


def ports_of(load: Load) -> dict[str, float]:
    """Ports at a time in the mean, by the state that frees them."""
    return demand(load.scenario, lasting=True).states


# --- what goes on beyond the measurement -----------------------------------------------------------------------------


def test_what_is_always_there_is_one_connection() -> None:
    came, standing = joined([seen(0, 60, before=True, still=True), seen(10, 5, "fin")], 60)
    assert (len(came), len(standing)) == (1, 1)


def test_one_that_is_open_at_the_end_goes_on_as_one_that_was_there_at_the_beginning() -> None:
    late, early = seen(50, 10, still=True), seen(0, 8, "fin", before=True)
    assert joined([late, early], 60) == ([seen(50, 18, "fin", still=True)], [])


def test_one_more_that_is_open_at_the_end_is_left_to_its_time_out() -> None:
    late = [seen(50, 10, still=True), seen(55, 5, still=True)]
    came, _ = joined([*late, seen(0, 8, "rst", before=True)], 60)
    assert [(one.kind, one.life) for one in came] == [("rst", 18), ("never", 5)]


# --- captures --------------------------------------------------------------------------------------------------------


def test_ends_and_lives_are_those_of_the_capture(tmp_path: Path) -> None:
    """In 400 s: 20 s and closed, 30 s and reset, 40 s and then silent, and one that nobody answers."""
    path = capture(
        tmp_path / "a.pcap",
        *opened(0, 1), *closed(20, 1), *opened(21, 2), (51, 2, "R"), *opened(60, 3), (100, 3, "A"), (400, 4, "S"),
    )  # fmt: skip
    load = capture_load(path, ORDERS)
    assert ports_of(load) == {
        "tcp_closing": pytest.approx((20 + 65) / 400, rel=1e-3),
        "tcp_reset": pytest.approx((30 + 16) / 400, rel=1e-3),
        "tcp_established": pytest.approx((40 + 300) / 400, rel=0.02),
        "tcp_half_open": pytest.approx(30 / 400, rel=1e-3),
    }
    assert load.measured == 3, "after 60 s: the one that was reset frees its port after 67 s, the closed one after 85 s"


def test_copies_multiply_a_capture(tmp_path: Path) -> None:
    path = capture(tmp_path / "a.pcap", *opened(0, 1), *closed(20, 1), *opened(80, 2), *closed(100, 2))
    one, many = (ports_of(capture_load(path, ORDERS, copies))["tcp_closing"] for copies in (1, 50))
    assert one == pytest.approx(2 * 85 / 100, rel=1e-3)
    assert many == pytest.approx(50 * one)


def test_a_connection_that_was_there_before_and_after_holds_one_port(tmp_path: Path) -> None:
    """100 s of a connection that says something all along, beside one of 20 s."""
    talks = [(float(second), 9, "A") for second in range(0, 101, 10)]
    path = capture(tmp_path / "a.pcap", *sorted([*talks, *opened(31, 1), *closed(51, 1)]))
    load = capture_load(path, ORDERS)
    held = ports_of(load)
    assert held["tcp_established"] == pytest.approx(1)
    assert held["tcp_closing"] == pytest.approx(85 / 100, rel=1e-3)


def test_without_a_topology_every_server_is_a_service(tmp_path: Path) -> None:
    load = capture_load(str(ROOT / "pcaps" / "dns-udp-mixed.pcap"), None, 2)
    (pool,) = demand(load.scenario, lasting=True).pools
    assert (pool.service.name, pool.protocol) == ("service-10.0.0.138", "udp")
    assert load.measured == 107
    assert 2 * load.measured <= pool.ports, "what is held at the capture's beginning comes on top"
    assert any("without a topology" in note for note in load.notes)


def test_a_capture_without_connections_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has no packets"):
        capture_load(capture(tmp_path / "a.pcap"), ORDERS)
    stranger = bytes(Ether() / IP(src="10.0.2.4", dst="10.0.7.7") / TCP(dport=443))
    with PcapWriter(tmp_path / "b.pcap") as file:
        file.write_batch(PacketBatch.from_bytes([stranger]))
    with pytest.raises(RunError, match="no tcp or udp connection to a private endpoint"):
        capture_load(str(tmp_path / "b.pcap"), ORDERS)


# --- flow logs -------------------------------------------------------------------------------------------------------


def log(path: Path, *flows: str) -> Path:
    """A flow log of tuples `milliseconds,source,destination,source port,port,protocol,direction,state`."""
    tuples = [f"{1_767_225_600_000 + int(one.split(',')[0])},{one.split(',', 1)[1]},NX,0,0,0,0" for one in flows]
    groups: Any = [{"rule": "r", "flowTuples": tuples}]
    record = {"flowLogVersion": 4, "flowRecords": {"flows": [{"flowGroups": groups}]}}
    path.write_text(json.dumps({"records": [record]}))
    return path


CLIENT = "10.0.2.4,10.0.1.5,{},443,6,O,{}"
NAT = "192.168.50.4,192.168.61.4,{},8443,6,I,{}"


def test_the_consumers_side_gives_arrivals_and_lives(tmp_path: Path) -> None:
    """In 100 s: 30 s and over, and one that begins after 40 s and is not over."""
    path = log(
        tmp_path / "a.json", "0," + CLIENT.format(1, "B"), "30000," + CLIENT.format(1, "E"),
        "40000," + CLIENT.format(2, "B"), "100000," + CLIENT.format(2, "C"),
    )  # fmt: skip
    load = flow_log_load([path], ORDERS)
    assert ports_of(load) == {
        "tcp_established": pytest.approx((60 + 300) / 100, rel=0.02),
        "tcp_closing": pytest.approx((30 + 65) / 100, rel=1e-3),
    }
    assert "the consumer's side: connections to private endpoints" in load.notes


def test_a_flow_that_began_before_and_goes_on_is_always_there(tmp_path: Path) -> None:
    path = log(
        tmp_path / "a.json", "0," + CLIENT.format(1, "C"), "50000," + CLIENT.format(2, "B"),
        "60000," + CLIENT.format(2, "E"), "100000," + CLIENT.format(1, "C"),
    )  # fmt: skip
    assert ports_of(flow_log_load([path], ORDERS)) == {
        "tcp_established": pytest.approx(1),
        "tcp_closing": pytest.approx((10 + 65) / 100, rel=1e-3),
    }


def test_what_is_said_comes_within_the_idle_timeout_of_the_rule(tmp_path: Path) -> None:
    """As `topology import` has it: a rule may let sessions end earlier than the service's NAT would."""
    path = log(
        tmp_path / "a.json", "0," + CLIENT.format(1, "C"), "0," + CLIENT.format(2, "B"),
        "600000," + CLIENT.format(2, "E"), "1000000," + CLIENT.format(1, "C"),
    )  # fmt: skip
    document: Any = deepcopy(TOPOLOGY)
    document["private_link_services"][0]["load_balancer"]["rules"][0]["idle_timeout"] = "2m"
    load = flow_log_load([path], Topology.model_validate(document))
    assert demand(load.scenario, lasting=True).broken == 0
    assert ports_of(load) == {
        "tcp_established": pytest.approx(1),
        "tcp_closing": pytest.approx((600 + 65) / 1000, rel=1e-3),
    }


def test_the_providers_side_gives_port_use(tmp_path: Path) -> None:
    path = log(
        tmp_path / "a.json", "0," + NAT.format(1024, "B"), "10000," + NAT.format(1025, "B"),
        "20000," + NAT.format(1024, "E"), "50000," + NAT.format(1025, "E"),
    )  # fmt: skip
    load = flow_log_load([path], ORDERS)
    assert load.measured == 2
    assert ports_of(load) == {"tcp_closing": pytest.approx((20 + 65 + 40 + 65) / 50, rel=1e-3)}
    assert any(note.startswith("the provider's side: flows from NAT IPs") for note in load.notes)


def test_both_sides_of_the_same_flows_count_once() -> None:
    load = flow_log_load([ROOT / "tests" / "data" / "PT1H.json"], ORDERS)
    assert load.words.startswith("3 connections in 100 s")
    assert "3 flows of the provider's side are left out, which may be the same" in load.notes


def test_flows_that_concern_no_service_are_refused(tmp_path: Path) -> None:
    path = log(tmp_path / "a.json", "0,10.0.2.4,10.0.9.9,1,53,17,O,B")
    with pytest.raises(RunError, match="no flow goes to a private endpoint of the topology"):
        flow_log_load([path], ORDERS)


def test_endpoints_of_the_same_address_cannot_be_told_apart(tmp_path: Path) -> None:
    twin = {**TOPOLOGY["private_endpoints"][0], "name": "pe-twin", "virtual_network": "twin"}
    networks = [*TOPOLOGY["virtual_networks"], {"name": "twin", "address_space": ["10.0.0.0/16"]}]
    both = {**TOPOLOGY, "virtual_networks": networks, "private_endpoints": [*TOPOLOGY["private_endpoints"], twin]}
    path = log(tmp_path / "a.json", "0," + CLIENT.format(1, "B"))
    with pytest.raises(RunError, match="is the address of pe-contoso and of pe-twin"):
        flow_log_load([path], Topology.model_validate(both))
