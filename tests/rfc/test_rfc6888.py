"""RFC 6888, requirements for carrier-grade NATs: a test per requirement, on the engine.

A subscriber is a private endpoint here, an internal host is a client behind it, and the external addresses are the
service's NAT IPs. REQ-9 (PCP), REQ-10 (a MIB) and REQ-12 (logs without destinations) are not about packets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from scapy.layers.inet import IP

from dataplane import Outcome, Simulator, Verdict
from tests.property.networks import CLIENT, ENDPOINT, NAT_IPS, network
from tests.rfc.consumer import BACKEND, PROVIDER, SECOND, arrived, nat_of
from tests.strategies import icmp_echo, ipv4_packet, link_frame, tcp_packet, udp_packet

UDP_LIFE = 300 * SECOND
NAT_IP = NAT_IPS[0]
STRANGER = "10.1.0.7"
PORTS = range(2000, 2016)


def simulator_of(
    *, tenants: int = 1, nat_ips: Sequence[str] = NAT_IPS[:1], seed: int = 5, profile: str = "rfc", **nat: Any
) -> Simulator:
    """A network under a profile, with 16 NAT ports if nothing else is said."""
    nat = {"profile": profile, "nat_ports": f"{PORTS[0]}-{PORTS[-1]}", **nat}
    return Simulator(network(tenants=tenants, nat_ips=nat_ips, nat=nat), seed)


def sent(simulator: Simulator, packet: bytes, at: str, time_ns: int | None = None) -> Outcome:
    outcome = simulator.send(link_frame(packet), at=at, time_ns=time_ns)
    assert len(outcome.delivered) == (outcome.verdict == Verdict.FORWARDED), "nothing is made up in answer"
    return outcome


def asked(
    simulator: Simulator, number: int, time_ns: int | None = None, *, tenant: int = 0, source: object = CLIENT
) -> Outcome:
    """A datagram from the consumer's source port 40000 + number."""
    packet = udp_packet(source, 40_000 + number, ENDPOINT, 53)
    return sent(simulator, packet, f"tenant{tenant}", time_ns)


def answered(simulator: Simulator, outcome: Outcome, time_ns: int | None = None) -> bytes | None:
    """What the consumer gets of the backend's answer to the NAT IP and port of an outcome."""
    back = sent(simulator, udp_packet(BACKEND, 5353, *nat_of(outcome)), PROVIDER, time_ns)
    return arrived(back) if back.delivered else None


def ports_of(outcomes: Iterable[Outcome]) -> list[int]:
    """The NAT ports of sessions that all came to be."""
    return [nat_of(outcome)[1] for outcome in outcomes]


def pool(simulator: Simulator, protocol: str = "udp", nat_ip: int = 0) -> dict[str, Any]:
    pools = simulator.summary()["private_link_services"][0]["nat_ips"][nat_ip]["pools"]
    [found] = [pool for pool in pools if pool["protocol"] == protocol]
    return dict(found)


def active(simulator: Simulator) -> int:
    return int(simulator.summary()["sessions"]["active"])


# --- REQ-1 to REQ-3: transports and addresses ------------------------------------------------------------------------


FIRST_PACKETS = {
    "tcp": (tcp_packet(CLIENT, 50_000, ENDPOINT, 443), 240),  # RFC 5382 REQ-5, a transitory connection
    "udp": (udp_packet(CLIENT, 50_000, ENDPOINT, 53), 120),  # RFC 4787 REQ-5
    "icmp": (ipv4_packet(CLIENT, ENDPOINT, 1, icmp_echo(8, 77)), 60),  # RFC 5508 REQ-2
}


@pytest.mark.parametrize("protocol", FIRST_PACKETS)
def test_req_1_every_transport_meets_its_own_rfc(protocol: str) -> None:
    """In short, each is translated and outlives the least time of its RFC; the files named after them say more."""
    packet, least = FIRST_PACKETS[protocol]
    simulator = simulator_of()
    outcome = sent(simulator, packet, "tenant0", 0)
    assert outcome.verdict == Verdict.FORWARDED
    got = IP(arrived(outcome))
    assert (got.src, got.dst, got.proto) == (NAT_IP, BACKEND, packet[9])
    assert nat_of(outcome)[1] in PORTS
    assert pool(simulator, protocol)["in_use"] == active(simulator) == 1
    simulator.advance(to_ns=least * SECOND - 1)
    assert active(simulator) == 1


def test_req_1_an_established_connection_outlives_two_hours_and_four_minutes() -> None:
    simulator = simulator_of()
    outcome = sent(simulator, FIRST_PACKETS["tcp"][0], "tenant0", 0)
    sent(simulator, tcp_packet(BACKEND, 8443, *nat_of(outcome), "SA"), PROVIDER, 0)
    sent(simulator, tcp_packet(CLIENT, 50_000, ENDPOINT, 443, "A"), "tenant0", 0)
    simulator.advance(to_ns=7440 * SECOND - 1)
    assert active(simulator) == 1


def hosts(count: int) -> list[str]:
    return [f"10.0.1.{number}" for number in range(1, count + 1)]


def nat_ips_by_host(simulator: Simulator, sessions: int = 6) -> dict[str, set[str]]:
    """The NAT IPs that the sessions of some hosts got: several of UDP and of TCP each, and an echo."""
    found: dict[str, set[str]] = {}
    for host in hosts(12):
        packets = [udp_packet(host, 40_000 + number, ENDPOINT, 53) for number in range(sessions)]
        packets += [tcp_packet(host, 50_000 + number, ENDPOINT, 443) for number in range(sessions)]
        packets.append(ipv4_packet(host, ENDPOINT, 1, icmp_echo(8, 77)))
        for packet in packets:
            outcome = sent(simulator, packet, "tenant0", 0)
            found.setdefault(host, set()).add(nat_of(outcome)[0])
    return found


def test_req_2_all_sessions_of_a_host_have_the_same_nat_ip() -> None:
    simulator = simulator_of(nat_ips=NAT_IPS, nat_ports="2000-2999")
    found = nat_ips_by_host(simulator)
    assert all(len(nat_ips) == 1 for nat_ips in found.values())
    assert set().union(*found.values()) == set(NAT_IPS), "hosts are spread over the NAT IPs"


@pytest.mark.parametrize("selection", ["hash", "round_robin"])
def test_req_2_deviation_other_selections_are_not_paired(selection: str) -> None:
    found = nat_ips_by_host(simulator_of(nat_ips=NAT_IPS, nat_ports="2000-2999", nat_ip_selection=selection))
    assert all(nat_ips == set(NAT_IPS) for nat_ips in found.values())


def test_req_2_a_host_gets_another_nat_ip_only_when_its_own_has_no_port_left() -> None:
    """RFC 7857 §4: a paired NAT may fall back to another address; `spill: false` refuses instead."""
    simulator = simulator_of(nat_ips=NAT_IPS, nat_ports="2000-2003")
    outcomes = [asked(simulator, number, 0) for number in range(8)]
    found = [nat_of(outcome)[0] for outcome in outcomes]
    own = found[0]
    assert found == [own] * 4 + [({*NAT_IPS} - {own}).pop()] * 4
    assert asked(simulator, 8).verdict == Verdict.NAT_PORTS_EXHAUSTED

    simulator = simulator_of(nat_ips=NAT_IPS, nat_ports="2000-2003", spill=False)
    assert [asked(simulator, number, 0).verdict for number in range(5)] == [Verdict.FORWARDED] * 4 + [
        Verdict.NAT_PORTS_EXHAUSTED
    ]


@pytest.mark.parametrize(
    "nat_ips",
    [
        ["10.1.200.9"],
        ["10.1.0.50", "10.1.200.9", "10.1.7.1"],
        ["10.1.255.1", "10.1.9.1", "10.1.8.2", "10.1.7.3", "10.1.6.4", "10.1.5.5", "10.1.4.6", "10.1.3.7"],
    ],
    ids=len,
)
def test_req_3_nat_ips_may_be_any_and_all_of_them_are_used(nat_ips: list[str]) -> None:
    simulator = simulator_of(nat_ips=nat_ips, nat_ports="2000-2003")
    outcomes = [asked(simulator, number, 0) for number in range(4 * len(nat_ips))]
    assert {outcome.nat for outcome in outcomes} == {(ip, port) for ip in nat_ips for port in range(2000, 2004)}
    assert asked(simulator, 999).verdict == Verdict.NAT_PORTS_EXHAUSTED
    for number, outcome in enumerate(outcomes):
        back = answered(simulator, outcome)
        assert back is not None
        assert (IP(back).dst, IP(back).dport) == (str(CLIENT), 40_000 + number)


# --- REQ-4, REQ-5: limits --------------------------------------------------------------------------------------------


def test_req_4_an_endpoint_has_no_more_ports_than_the_cap() -> None:
    simulator = simulator_of(tenants=2, ports_per_endpoint=3)
    mine = [asked(simulator, number, 0) for number in range(3)]
    assert len(set(ports_of(mine))) == 3
    refused = asked(simulator, 3)
    assert (refused.verdict, refused.session, refused.nat) == (Verdict.ENDPOINT_PORT_LIMIT, None, None)
    assert asked(simulator, 3, source="10.0.0.99").verdict == Verdict.ENDPOINT_PORT_LIMIT, "whichever host asks"
    assert pool(simulator)["free"] == 13
    assert pool(simulator)["allocation_failures"] == 0, "the pool has not failed"
    theirs = [asked(simulator, number, tenant=1) for number in range(4)]
    assert [outcome.verdict for outcome in theirs] == [Verdict.FORWARDED] * 3 + [Verdict.ENDPOINT_PORT_LIMIT]
    assert all(answered(simulator, outcome) for outcome in mine)
    assert [asked(simulator, number).session for number in range(3)] == [outcome.session for outcome in mine]


def test_req_4_the_cap_and_an_empty_pool_have_different_reasons() -> None:
    simulator = simulator_of(tenants=2, ports_per_endpoint=3, nat_ports="2000-2003")
    ports_of([asked(simulator, number, 0) for number in range(3)] + [asked(simulator, 0, tenant=1)])
    for tenant in (0, 1):
        assert asked(simulator, 9, tenant=tenant).verdict == Verdict.NAT_PORTS_EXHAUSTED
    simulator = simulator_of(tenants=2, ports_per_endpoint=3, nat_ports="2000-2004")
    ports_of([asked(simulator, number, 0) for number in range(3)] + [asked(simulator, 0, tenant=1)])
    assert asked(simulator, 9).verdict == Verdict.ENDPOINT_PORT_LIMIT
    assert asked(simulator, 9, tenant=1).verdict == Verdict.FORWARDED


def test_req_4b_each_transport_is_capped_by_itself() -> None:
    simulator = simulator_of(ports_per_endpoint=2)
    for number in range(2):
        for packet in (
            tcp_packet(CLIENT, 50_000 + number, ENDPOINT, 443),
            udp_packet(CLIENT, 50_000 + number, ENDPOINT, 53),
            ipv4_packet(CLIENT, ENDPOINT, 1, icmp_echo(8, 50_000 + number)),
        ):
            assert sent(simulator, packet, "tenant0", 0).verdict == Verdict.FORWARDED
    for packet in (
        tcp_packet(CLIENT, 60_000, ENDPOINT, 443),
        udp_packet(CLIENT, 60_000, ENDPOINT, 53),
        ipv4_packet(CLIENT, ENDPOINT, 1, icmp_echo(8, 60_000)),
    ):
        assert sent(simulator, packet, "tenant0", 0).verdict == Verdict.ENDPOINT_PORT_LIMIT
    assert active(simulator) == 6


def test_req_4_a_port_that_ended_makes_room_and_a_held_one_does_not() -> None:
    for hold, room in ((0, UDP_LIFE), (120, UDP_LIFE + 120 * SECOND)):
        simulator = simulator_of(ports_per_endpoint=2, port_hold=f"{hold}s")
        ports_of(asked(simulator, number, 0) for number in range(2))
        assert asked(simulator, 5, room - 1).verdict == Verdict.ENDPOINT_PORT_LIMIT
        assert asked(simulator, 5, room).verdict == Verdict.FORWARDED


def test_req_5_a_full_session_table_refuses_new_sessions_and_keeps_the_old_ones() -> None:
    """The limit is of the backend's host, not of the subscriber (deviation): all endpoints share it."""
    simulator = simulator_of(tenants=2, sessions_per_backend=3)
    old = [asked(simulator, 0, 0), asked(simulator, 1, 1), asked(simulator, 0, 2, tenant=1)]
    ports_of(old)
    for tenant in (0, 1):
        refused = asked(simulator, 7, 3, tenant=tenant)
        assert (refused.verdict, refused.session) == (Verdict.SESSION_TABLE_FULL, None)
    syn = tcp_packet(CLIENT, 50_000, ENDPOINT, 443)
    assert sent(simulator, syn, "tenant0").verdict == Verdict.SESSION_TABLE_FULL, "of every transport"
    assert asked(simulator, 0, 4).session == old[0].session
    assert asked(simulator, 1, 4).session == old[1].session
    assert all(answered(simulator, outcome, 4) for outcome in old)
    assert (pool(simulator)["free"], pool(simulator)["allocation_failures"]) == (13, 0)
    assert asked(simulator, 7, 4 + UDP_LIFE - 1).verdict == Verdict.SESSION_TABLE_FULL
    assert asked(simulator, 7, 4 + UDP_LIFE).verdict == Verdict.FORWARDED


# --- REQ-6 to REQ-8: what is not translated, filtering, and the hold -------------------------------------------------


def test_req_6_what_goes_to_no_endpoint_is_not_translated() -> None:
    simulator = simulator_of()
    for destination in ("10.0.0.101", "10.1.0.4", "8.8.8.8"):
        packet = udp_packet(CLIENT, 40_000, destination, 53)
        assert sent(simulator, packet, "tenant0", 0).verdict == Verdict.BYPASSED
    assert simulator.summary()["sessions"]["created"] == 0


def test_req_7_deviation_filtering_depends_on_address_and_port() -> None:
    simulator = simulator_of()
    outcome = asked(simulator, 0, 0)
    stranger = sent(simulator, udp_packet(STRANGER, 5353, *nat_of(outcome)), PROVIDER)
    assert stranger.verdict == Verdict.BYPASSED, "no backend, so no reply"
    other_port = sent(simulator, udp_packet(BACKEND, 5354, *nat_of(outcome)), PROVIDER)
    assert other_port.verdict == Verdict.FILTERED
    assert answered(simulator, outcome)


def test_req_8_a_port_is_not_given_again_before_its_hold_is_over() -> None:
    hold = 120 * SECOND
    simulator = simulator_of(tenants=2, nat_ports="2000-2000", port_hold="120s")
    first = asked(simulator, 0, 0)
    assert ports_of([first]) == [2000]
    assert asked(simulator, 1, UDP_LIFE - 1).verdict == Verdict.NAT_PORTS_EXHAUSTED
    simulator.advance(to_ns=UDP_LIFE)
    assert active(simulator) == 0
    assert (pool(simulator)["in_use"], pool(simulator)["held"], pool(simulator)["free"]) == (0, 1, 0)
    assert answered(simulator, first) is None, "a held port carries nothing"
    for time_ns in (UDP_LIFE, UDP_LIFE + hold - 1):
        assert asked(simulator, 0, time_ns).verdict == Verdict.NAT_PORTS_EXHAUSTED, "not even for the same host"
        assert asked(simulator, 0, time_ns, tenant=1).verdict == Verdict.NAT_PORTS_EXHAUSTED
    assert ports_of([asked(simulator, 0, UDP_LIFE + hold, tenant=1)]) == [2000]


def test_req_8c_without_a_hold_a_port_is_free_the_moment_its_session_ends() -> None:
    """The default: filtering depends on the address, for which the RFC asks no hold."""
    simulator = simulator_of(tenants=2, nat_ports="2000-2000")
    asked(simulator, 0, 0)
    assert asked(simulator, 0, UDP_LIFE - 1, tenant=1).verdict == Verdict.NAT_PORTS_EXHAUSTED
    later = asked(simulator, 0, UDP_LIFE, tenant=1)
    assert ports_of([later]) == [2000]
    assert later.endpoint == "endpoint1"


def test_req_8_the_hold_of_a_tcp_port_begins_when_the_closed_session_ends() -> None:
    simulator = simulator_of(nat_ports="2000-2000", port_hold="120s", tcp={"reset": "final"})
    packet = tcp_packet(CLIENT, 50_000, ENDPOINT, 443)
    outcome = sent(simulator, packet, "tenant0", 0)
    sent(simulator, tcp_packet(BACKEND, 8443, *nat_of(outcome), "R"), PROVIDER, SECOND)
    other = tcp_packet(CLIENT, 50_001, ENDPOINT, 443)
    free_at = SECOND + 240 * SECOND + 120 * SECOND  # the reset, its session's rest, the hold
    assert sent(simulator, other, "tenant0", free_at - 1).verdict == Verdict.NAT_PORTS_EXHAUSTED
    assert sent(simulator, other, "tenant0", free_at).nat == outcome.nat


# --- REQ-11: no resource ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allocation", ["random", "sequential", "preserve", "hash", "hash_buckets", "block"])
def test_req_11_without_a_port_the_packet_is_dropped_and_no_live_mapping_is(allocation: str) -> None:
    """(A) drop; (B) deviation: no ICMP error of type 3, code 1; (C) it is counted; (D) nothing makes room."""
    simulator = simulator_of(tenants=2, port_allocation=allocation, block_size=16)
    old = [asked(simulator, number, number) for number in range(16)]
    assert sorted(ports_of(old)) == list(PORTS)
    before = simulator.summary()["sessions"]
    for number in range(16, 26):
        refused = asked(simulator, number, SECOND, tenant=number % 2)
        assert (refused.verdict, refused.session, refused.nat) == (Verdict.NAT_PORTS_EXHAUSTED, None, None)
    assert simulator.summary()["sessions"] == before
    assert before["active"] == 16
    for number, outcome in enumerate(old):
        back = answered(simulator, outcome, 2 * SECOND)
        assert back is not None
        assert (IP(back).dst, IP(back).dport) == (str(CLIENT), 40_000 + number)
        assert asked(simulator, number, 2 * SECOND).session == outcome.session
    summary = simulator.summary()
    assert summary["dropped"]["reasons"]["nat_ports_exhausted"]["packets"] == summary["dropped"]["packets"] == 10
    assert pool(simulator)["allocation_failures"] == 10
    assert summary["first_exhaustion"]["reason"] == "nat_ports_exhausted"


def test_req_11_a_refused_packet_leaves_no_trace_in_what_comes_later() -> None:
    """The next session gets the port that it would have got without the refusals."""
    seen = []
    for refusals in (0, 7):
        simulator = simulator_of()
        for number in range(16):
            asked(simulator, number, number)
        for number in range(refusals):
            assert asked(simulator, 100 + number, SECOND).verdict == Verdict.NAT_PORTS_EXHAUSTED
        seen.append(ports_of(asked(simulator, 200 + number, UDP_LIFE + 15) for number in range(16)))
    assert seen[0] == seen[1]


# --- REQ-13, REQ-14: use of ports, and blocks ------------------------------------------------------------------------


@pytest.mark.parametrize("allocation", ["random", "sequential", "preserve", "hash", "hash_buckets"])
def test_req_13_every_port_is_given_before_anyone_is_refused(allocation: str) -> None:
    simulator = simulator_of(tenants=3, nat_ips=NAT_IPS, port_allocation=allocation)
    outcomes = [asked(simulator, number, 0, tenant=number % 3) for number in range(32)]
    assert {outcome.nat for outcome in outcomes} == {(ip, port) for ip in NAT_IPS for port in PORTS}
    assert asked(simulator, 32).verdict == Verdict.NAT_PORTS_EXHAUSTED


def blocks(**nat: Any) -> Simulator:
    """Three tenants, 16 ports in blocks of four."""
    return simulator_of(tenants=3, port_allocation="block", **{"block_size": 4, **nat})


def test_req_14_an_endpoint_gets_its_ports_a_block_at_a_time() -> None:
    """One line of a log per block would do: every port of a block is of one endpoint."""
    simulator = blocks()
    mine = ports_of([asked(simulator, 0, 0)])
    theirs = ports_of(asked(simulator, number, tenant=1) for number in range(5))
    mine += ports_of(asked(simulator, number) for number in range(1, 6))
    assert mine == [2000, 2001, 2002, 2003, 2012, 2013]
    assert theirs == [2004, 2005, 2006, 2007, 2008]


def test_req_14_more_than_its_blocks_an_endpoint_does_not_get() -> None:
    simulator = blocks(blocks_per_endpoint=2)
    assert ports_of(asked(simulator, number, 0) for number in range(8)) == list(range(2000, 2008))
    assert asked(simulator, 8).verdict == Verdict.ENDPOINT_PORT_LIMIT
    assert asked(simulator, 8, tenant=1).verdict == Verdict.FORWARDED
    assert asked(simulator, 0).verdict == Verdict.FORWARDED, "old sessions go on"


def test_req_13_when_all_blocks_are_taken_free_ports_help_only_their_owners() -> None:
    """What blocks cost: ports stay unused, and the reason says that none is missing."""
    simulator = blocks(nat_ports="2000-2007")
    ports_of([asked(simulator, 0, 0), asked(simulator, 0, tenant=1)])
    refused = asked(simulator, 0, tenant=2)
    assert refused.verdict == Verdict.NAT_PORT_NOT_FOUND
    assert (pool(simulator)["in_use"], pool(simulator)["free"]) == (2, 6)
    assert ports_of(asked(simulator, number) for number in range(1, 4)) == [2001, 2002, 2003]
    assert asked(simulator, 4).verdict == Verdict.NAT_PORT_NOT_FOUND
    ports_of(asked(simulator, number, tenant=1) for number in range(1, 4))
    for tenant in range(3):
        assert asked(simulator, 9, tenant=tenant).verdict == Verdict.NAT_PORTS_EXHAUSTED


@pytest.mark.parametrize("hold", [0, 120])
def test_req_14_a_block_is_free_again_when_its_last_port_is(hold: int) -> None:
    simulator = blocks(nat_ports="2000-2007", port_hold=f"{hold}s")
    ports_of(asked(simulator, number, number) for number in range(4))  # they end a nanosecond apart
    ports_of(asked(simulator, number, UDP_LIFE - 1, tenant=1) for number in range(4))
    free_at = UDP_LIFE + hold * SECOND
    assert asked(simulator, 0, free_at - 1, tenant=2).verdict == Verdict.NAT_PORTS_EXHAUSTED
    for number in range(3):
        assert asked(simulator, 0, free_at + number, tenant=2).verdict == Verdict.NAT_PORT_NOT_FOUND
        assert pool(simulator)["free"] == number + 1
    assert ports_of([asked(simulator, 0, free_at + 3, tenant=2)]) == [2000]
    assert asked(simulator, 9).verdict == Verdict.NAT_PORT_NOT_FOUND, "its old owner has lost it"


# --- REQ-15: guessing ------------------------------------------------------------------------------------------------


def test_req_15_another_seed_gives_other_ports() -> None:
    def ports(seed: int) -> list[int]:
        simulator = simulator_of(seed=seed, nat_ports="1024-65535")
        return ports_of(asked(simulator, number, 0) for number in range(40))

    assert ports(1) == ports(1)
    assert len(set(ports(1)) & set(ports(2))) < 5


def test_req_15_ports_tell_nothing_of_the_next_one() -> None:
    simulator = simulator_of(nat_ports="1024-65535")
    ports = ports_of(asked(simulator, number, 0) for number in range(200))
    steps = [(after - before) % 64_512 for before, after in pairwise(ports)]
    assert len(set(steps)) > 190, "no step is the rule"
    assert ports != sorted(ports)
    for low in range(1024, 65_536, 16_128):
        assert 25 <= sum(low <= port < low + 16_128 for port in ports) <= 75, "all quarters of the range are used"
