"""The specification itself against expectations worked out by hand, RFC vectors and scapy."""

import struct
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from scapy.layers.inet import IP

from dataplane.topology.model import Topology
from dataplane.verdict import Verdict
from tests.reference import (
    BSD_LOOP,
    BSD_NULL,
    COOKED_1,
    COOKED_2,
    ETHERNET,
    Outcome,
    ReferenceSimulator,
    adjust_checksum,
    key64,
    mix,
    pick,
)
from tests.strategies import (
    SECOND,
    internet_checksum,
    ipv4_packet,
    link_frame,
    resolve,
    tcp_packet,
    topologies,
    traces,
    udp_packet,
)

RAW = 101
CLIENT, ENDPOINT = "10.0.0.4", "10.0.1.5"
BACKEND = "192.168.61.4"


def contoso(
    *,
    nat_ips: int = 1,
    backends: tuple[str, ...] = (BACKEND,),
    service: dict[str, Any] | None = None,
    endpoint: dict[str, Any] | None = None,
    **nat: Any,
) -> ReferenceSimulator:
    """Two consumers with equal addresses, each with an endpoint of one service that hands out ports from 1024 up."""
    nat = {"nat_ports": "1024-1027", "port_allocation": "sequential", "nat_ip_selection": "fill_first", **nat}
    document = {
        "virtual_networks": [
            {"name": "contoso", "address_space": ["10.0.0.0/16"], "peered_with": ["hub"]},
            {"name": "hub", "address_space": ["10.9.0.0/16"], "on_premises": ["172.16.0.0/24"]},
            {"name": "fabrikam", "address_space": ["10.0.0.0/16"]},
            {"name": "provider", "address_space": ["192.168.0.0/16"]},
        ],
        "private_link_services": [
            {
                "name": "orders",
                "virtual_network": "provider",
                "nat_ips": [f"192.168.50.{4 + number}" for number in range(nat_ips)],
                "load_balancer": {
                    "frontend_ip": "192.168.60.10",
                    "rules": [
                        {"protocol": "tcp", "frontend_port": 443, "backend_port": 8443},
                        {"protocol": "udp", "frontend_port": 53, "backend_port": 53},
                    ],
                    "backend_pool": list(backends),
                },
                "nat": nat,
                **(service or {}),
            }
        ],
        "private_endpoints": [
            {
                "name": "pe-contoso",
                "virtual_network": "contoso",
                "ip": ENDPOINT,
                "target": "orders",
                **(endpoint or {}),
            },
            {"name": "pe-fabrikam", "virtual_network": "fabrikam", "ip": ENDPOINT, "target": "orders"},
        ],
    }
    return ReferenceSimulator(Topology.model_validate(document))


def consumer_sends(
    simulator: ReferenceSimulator,
    flags: str = "S",
    *,
    port: int = 50000,
    at: str = "contoso",
    s: float = 0,
    **header: Any,
) -> Outcome:
    packet = tcp_packet(CLIENT, port, ENDPOINT, 443, flags, **header)
    return simulator.receive(packet, at=at, time_ns=int(s * SECOND), link_type=RAW)


def backend_sends(
    simulator: ReferenceSimulator,
    flags: str = "SA",
    *,
    nat: tuple[str, int] = ("192.168.50.4", 1024),
    port: int = 8443,
    s: float = 0,
    **header: Any,
) -> Outcome:
    packet = tcp_packet(BACKEND, port, *nat, flags, **header)
    return simulator.receive(packet, at="provider", time_ns=int(s * SECOND), link_type=RAW)


def consumer_saw(
    simulator: ReferenceSimulator, flags: str = "SA", *, port: int = 50000, s: float = 0, **header: Any
) -> Outcome:
    packet = tcp_packet(ENDPOINT, 443, CLIENT, port, flags, **header)
    return simulator.receive(packet, at="contoso", time_ns=int(s * SECOND), link_type=RAW)


def close(simulator: ReferenceSimulator, s: float = 0) -> None:
    consumer_sends(simulator, "FA", s=s)
    backend_sends(simulator, "FA", s=s)


def pool_figures(simulator: ReferenceSimulator, nat_ip: int = 0, protocol: str = "tcp") -> tuple[int, int, int]:
    pools = simulator.summary()["private_link_services"][0]["nat_ips"][nat_ip]["pools"]
    pool = next(pool for pool in pools if pool["protocol"] == protocol)
    return pool["in_use"], pool["held"], pool["free"]


# --- Arithmetic ------------------------------------------------------------------------------------------------------


def test_rfc_1624_example_gives_zero_and_not_ffff() -> None:
    # RFC 1624, section 4: the field changes from 0x5555 to 0x3285 under the checksum 0xDD2F.
    assert adjust_checksum(0xDD2F, [0x5555], [0x3285]) == 0x0000


@pytest.mark.parametrize("index", range(9))
def test_adjusting_equals_recomputing(index: int) -> None:
    words = [0x4500, 0x0073, 0x0000, 0x4000, 0x4011, 0xC0A8, 0x0001, 0xC0A8, 0x00C7]
    changed = [*words[:index], 0xBEEF, *words[index + 1 :]]
    before, after = (internet_checksum(struct.pack("!9H", *w)) for w in (words, changed))
    assert adjust_checksum(before, [words[index]], [0xBEEF]) == after


def test_mix_is_the_splitmix64_finaliser() -> None:
    # The first outputs of SplitMix64 from the seed 0.
    assert mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF
    assert mix(2 * 0x9E3779B97F4A7C15 % 2**64) == 0x6E789E6AA1B965F4


def test_pick_is_below_its_bound_at_both_ends() -> None:
    assert pick(0, 5) == 0
    assert pick(2**64 - 1, 5) == 4


def test_keys_depend_on_where_parts_begin() -> None:
    assert key64(7, "backend", "a", "b") != key64(7, "backend", "ab", "")
    assert 0 <= key64(7, "backend") < 2**64


# --- Translation -----------------------------------------------------------------------------------------------------


def recomputed(packet: bytes) -> bytes:
    """The packet with all checksums worked out anew by scapy."""
    scapy_packet = IP(packet)
    del scapy_packet.chksum
    del scapy_packet.payload.chksum
    return bytes(scapy_packet)


@pytest.mark.parametrize("payload", [b"", b"x", b"even", b"odd"])
@pytest.mark.parametrize("options", [b"", b"\x01" * 8])
def test_translated_checksums_equal_full_recomputation(payload: bytes, options: bytes) -> None:
    simulator = contoso()
    for packet in (
        tcp_packet(CLIENT, 50000, ENDPOINT, 443, "S", payload, options=options),
        udp_packet(CLIENT, 50000, ENDPOINT, 53, payload, options=options),
    ):
        there = simulator.receive(packet, at="contoso", time_ns=0, link_type=RAW).translated
        assert there == recomputed(there)
        assert IP(there).src == "192.168.50.4"
        assert IP(there).dst == BACKEND
        assert IP(there).ttl == 63
    back = backend_sends(simulator, payload=payload, options=options).translated
    assert back == recomputed(back)
    assert (IP(back).src, IP(back).sport, IP(back).dst, IP(back).dport) == (ENDPOINT, 443, CLIENT, 50000)


@pytest.mark.parametrize("field", [10, 36])  # of the IPv4 and the TCP checksum in a packet without options
def test_a_wrong_checksum_stays_wrong_by_the_same_difference(field: int) -> None:
    packet = bytearray(tcp_packet(CLIENT, 50000, ENDPOINT, 443))
    right = struct.unpack_from("!H", packet, field)[0]
    struct.pack_into("!H", packet, field, (right + 5) % 0xFFFF)
    there = contoso().receive(bytes(packet), at="contoso", time_ns=0, link_type=RAW).translated
    right_there = struct.unpack_from("!H", recomputed(there), field)[0]
    assert (struct.unpack_from("!H", there, field)[0] - right_there) % 0xFFFF == 5


def test_a_udp_checksum_of_zero_stays_zero() -> None:
    packet = bytearray(udp_packet(CLIENT, 50000, ENDPOINT, 53, b"query"))
    packet[26:28] = b"\0\0"
    there = contoso().receive(bytes(packet), at="contoso", time_ns=0, link_type=RAW).translated
    assert there[26:28] == b"\0\0"


def test_a_udp_checksum_that_becomes_zero_is_sent_as_ffff() -> None:
    simulator = contoso()

    def checksum_there(payload: bytes) -> bytes:
        packet = udp_packet(CLIENT, 50000, ENDPOINT, 53, payload)
        return simulator.receive(packet, at="contoso", time_ns=0, link_type=RAW).translated[26:28]

    # A payload that equals the checksum without it completes the sum to all ones.
    assert checksum_there(checksum_there(b"\0\0")) == b"\xff\xff"


def test_padding_tags_options_and_identification_stay() -> None:
    packet = tcp_packet(CLIENT, 50000, ENDPOINT, 443, options=b"\x01" * 4, identification=0xABCD, dscp=46)
    frame = link_frame(packet, tags=(0x88A8, 0x8100), padding=6)
    there = contoso().receive(frame, at="contoso", time_ns=0).translated
    assert there[:22] == frame[:22]
    changed = {22 + i for i in (8, 10, 11, *range(12, 20), 24, 25, 26, 27, 40, 41)}  # TTL, sums, addresses, ports
    assert {i for i in range(len(frame)) if there[i] != frame[i]} <= changed


def test_without_decrement_ttl_it_stays_both_ways() -> None:
    simulator = contoso(decrement_ttl=False)
    assert consumer_sends(simulator, ttl=0).translated[8] == 0
    assert consumer_saw(simulator, ttl=9).translated[8] == 9
    assert backend_sends(simulator, ttl=1).translated[8] == 1


# --- The reply that a consumer saw -----------------------------------------------------------------------------------


def test_a_captured_reply_becomes_what_the_backend_sent_and_that_comes_back_as_captured() -> None:
    simulator = contoso()
    consumer_sends(simulator)
    seen = consumer_saw(simulator, ttl=55)
    assert (seen.verdict, seen.direction, seen.delivered_at) == (Verdict.FORWARDED, "to_consumer", "contoso")
    sent = IP(seen.translated)
    assert (sent.src, sent.sport, sent.dst, sent.dport, sent.ttl) == (BACKEND, 8443, "192.168.50.4", 1024, 56)
    arrived = simulator.receive(seen.translated, at="provider", time_ns=0, link_type=RAW)
    assert arrived.delivered == seen.delivered == tcp_packet(ENDPOINT, 443, CLIENT, 50000, "SA", ttl=55)
    assert arrived.delivered_at == "contoso"


def test_a_captured_reply_may_have_ttl_1_but_not_0_and_is_reconstructed_with_255_at_most() -> None:
    simulator = contoso()
    consumer_sends(simulator)
    assert consumer_saw(simulator, ttl=0).verdict == Verdict.TTL_EXPIRED
    assert consumer_saw(simulator, ttl=1).translated[8] == 2
    assert consumer_saw(simulator, ttl=255).translated[8] == 255


def test_a_captured_reply_without_session_is_dropped() -> None:
    assert consumer_saw(contoso()).verdict == Verdict.NO_SESSION


def test_between_two_endpoints_a_live_reply_comes_first() -> None:
    document = contoso().topology.model_dump()
    second = {"name": "second", "virtual_network": "contoso", "ip": "10.0.1.6", "target": "orders"}
    document["private_endpoints"] += (second,)
    simulator = ReferenceSimulator(Topology.model_validate(document))
    there = tcp_packet("10.0.1.6", 443, ENDPOINT, 443)
    back = tcp_packet(ENDPOINT, 443, "10.0.1.6", 443, "SA")
    first = simulator.receive(there, at="contoso", time_ns=0, link_type=RAW)
    assert (first.direction, first.endpoint, first.verdict) == ("to_service", "pe-contoso", Verdict.FORWARDED)
    reply = simulator.receive(back, at="contoso", time_ns=1, link_type=RAW)
    assert (reply.direction, reply.endpoint, reply.session) == ("to_consumer", "pe-contoso", 1)
    simulator.advance(1000 * SECOND)
    late = simulator.receive(back, at="contoso", time_ns=1, link_type=RAW)
    assert (late.direction, late.endpoint, late.verdict) == ("to_service", "second", Verdict.NOT_FIRST_PACKET)


# --- Time ------------------------------------------------------------------------------------------------------------


def test_a_session_ends_at_its_timeout_inclusive() -> None:
    simulator = contoso()
    consumer_sends(simulator)
    simulator.advance(30 * SECOND - 1)
    assert len(simulator.sessions) == 1
    simulator.advance(30 * SECOND)
    assert simulator.sessions == []
    assert (simulator.ended_sessions[0].ended, simulator.ended_sessions[0].ended_ns) == ("idle", 30 * SECOND)
    assert backend_sends(simulator, s=30).verdict == Verdict.NO_SESSION


def test_it_ends_before_a_packet_of_that_very_moment() -> None:
    simulator = contoso()
    consumer_sends(simulator)
    assert consumer_sends(simulator, "A", s=30).verdict == Verdict.NOT_FIRST_PACKET


def test_a_session_is_established_by_the_consumers_ack_after_syn_both_ways() -> None:
    simulator = contoso()
    consumer_sends(simulator)
    consumer_sends(simulator, "A")
    backend_sends(simulator, "A")
    assert simulator.sessions[0].state == "half-open"
    backend_sends(simulator, "SA")
    assert simulator.sessions[0].state == "half-open"
    consumer_sends(simulator, "A")
    assert simulator.sessions[0].state == "established"
    assert simulator.next_due_ns() == 300 * SECOND


def test_forwarded_packets_of_either_direction_refresh() -> None:
    simulator = contoso()
    consumer_sends(simulator)
    backend_sends(simulator, s=20)
    assert simulator.next_due_ns() == 50 * SECOND


def test_a_filtered_reply_does_not_refresh() -> None:
    simulator = contoso()
    consumer_sends(simulator)
    assert backend_sends(simulator, port=8444, s=20).verdict == Verdict.FILTERED
    assert simulator.next_due_ns() == 30 * SECOND


def test_closing_is_not_refreshed_and_an_rst_does_not_shorten_it() -> None:
    simulator = contoso()
    consumer_sends(simulator)
    close(simulator, s=10)
    assert consumer_sends(simulator, "A", s=20).verdict == Verdict.FORWARDED
    assert backend_sends(simulator, "R", s=21).verdict == Verdict.FORWARDED
    assert simulator.next_due_ns() == 75 * SECOND
    simulator.advance(75 * SECOND)
    assert simulator.ended_sessions[0].ended == "closed"


def test_an_rst_from_either_side_resets() -> None:
    for sends in (consumer_sends, backend_sends, consumer_saw):
        simulator = contoso()
        consumer_sends(simulator)
        sends(simulator, "R", s=1)
        assert simulator.next_due_ns() == 17 * SECOND
        simulator.advance(17 * SECOND)
        assert simulator.ended_sessions[0].ended == "reset"


def test_any_first_packet_opens_and_a_first_rst_ends_in_reset() -> None:
    simulator = contoso(first_packet="any")
    consumer_sends(simulator, "A", port=1)
    consumer_sends(simulator, "R", port=2)
    consumer_sends(simulator, "S", port=3)
    assert [session.state for session in simulator.sessions] == ["established", "reset", "half-open"]


def test_a_syn_in_closing_opens_a_new_session_even_when_the_pool_was_full() -> None:
    simulator = contoso(nat_ports="1024-1024", ports_per_endpoint=1, sessions_per_backend=1)
    consumer_sends(simulator)
    close(simulator, s=1)
    again = consumer_sends(simulator, "S", s=2)
    assert (again.verdict, again.session, again.nat) == (Verdict.FORWARDED, 4, ("192.168.50.4", 1024))
    old = simulator.ended_sessions[0]
    assert (old.id, old.ended, old.ended_ns) == (1, "closed", 2 * SECOND)
    assert pool_figures(simulator) == (1, 0, 0)
    assert simulator.sessions[0].state == "half-open"


def test_fill_first_counts_the_port_that_a_reopened_session_gives_back() -> None:
    simulator = contoso(nat_ips=2, nat_ports="1024-1024")
    consumer_sends(simulator)
    close(simulator)
    assert consumer_sends(simulator, "S").nat == ("192.168.50.4", 1024)
    # Held, it is not given back yet.
    simulator = contoso(nat_ips=2, nat_ports="1024-1024", port_hold="1s")
    consumer_sends(simulator)
    close(simulator)
    assert consumer_sends(simulator, "S").nat == ("192.168.50.5", 1024)


def test_a_refused_reopening_leaves_the_old_session_alone() -> None:
    simulator = contoso(nat_ports="1024-1024", port_hold="1s")
    consumer_sends(simulator)
    close(simulator, s=1)
    assert consumer_sends(simulator, "S", s=2).verdict == Verdict.NAT_PORTS_EXHAUSTED
    assert (len(simulator.ended_sessions), simulator.next_due_ns()) == (0, 66 * SECOND)
    assert backend_sends(simulator, "A", s=3).verdict == Verdict.FORWARDED


def test_a_captured_syn_from_the_endpoint_does_not_reopen() -> None:
    simulator = contoso()
    consumer_sends(simulator)
    close(simulator)
    assert consumer_saw(simulator, "S").session == 1
    assert backend_sends(simulator, "S").session == 1


def test_a_port_is_held_and_then_released() -> None:
    simulator = contoso(nat_ports="1024-1024", port_hold="5s")
    consumer_sends(simulator)
    simulator.advance(30 * SECOND)
    assert pool_figures(simulator) == (0, 1, 0)
    assert backend_sends(simulator, s=34).verdict == Verdict.NO_SESSION
    assert consumer_sends(simulator, s=35 - 1e-9).verdict == Verdict.NAT_PORTS_EXHAUSTED
    assert consumer_sends(simulator, s=35).verdict == Verdict.FORWARDED


def test_one_jump_ends_in_order_of_moment_and_then_of_session() -> None:
    simulator = contoso(port_allocation="random")
    for port in (1, 2, 3):
        consumer_sends(simulator, port=port)
    consumer_sends(simulator, "A", port=1, s=1)
    simulator.advance(3600 * SECOND)
    assert [session.id for session in simulator.ended_sessions] == [2, 3, 1]
    ports = [session.nat[1] for session in simulator.ended_sessions]
    assert next(iter(simulator.pools.values())).free[1:] == ports


def test_a_time_before_the_clock_counts_as_the_clock() -> None:
    simulator = contoso()
    consumer_sends(simulator, s=10)
    consumer_sends(simulator, port=2, s=3)
    assert simulator.sessions[1].first_packet_ns == 10 * SECOND
    assert simulator.times_before_clock == 1
    assert simulator.summary()["duration_seconds"] == 0.0


def test_a_time_beyond_64_bits_counts_as_the_clock_or_as_0() -> None:
    simulator = contoso()
    packet = tcp_packet(CLIENT, 50000, ENDPOINT, 443)
    for time_ns in (2**63, -(2**63) - 1):
        simulator.receive(packet, at="contoso", time_ns=time_ns, link_type=RAW)
    assert (simulator.clock_ns, simulator.times_unusable) == (0, 2)


# --- Ports -----------------------------------------------------------------------------------------------------------


def test_two_tenants_with_the_same_addresses_get_different_ports_and_their_own_replies() -> None:
    simulator = contoso()
    ports = [consumer_sends(simulator, at=at).nat[1] for at in ("contoso", "fabrikam")]
    assert ports == [1024, 1025]
    places = [backend_sends(simulator, nat=("192.168.50.4", port)).delivered_at for port in ports]
    assert places == ["contoso", "fabrikam"]


def test_a_pool_is_exhausted_at_its_capacity_and_says_so_once_and_for_all() -> None:
    simulator = contoso(nat_ips=2)
    verdicts = [consumer_sends(simulator, port=port, s=port).verdict for port in range(1, 11)]
    assert verdicts == [Verdict.FORWARDED] * 8 + [Verdict.NAT_PORTS_EXHAUSTED] * 2
    assert simulator.first_exhaustion == {
        "time_seconds": 8.0,
        "service": "orders",
        "nat_ip": "192.168.50.4",
        "protocol": "tcp",
        "backend": BACKEND,
    }
    first, second = simulator.summary()["private_link_services"][0]["nat_ips"]
    assert (first["allocation_failures"], second["allocation_failures"]) == (2, 0)
    assert (first["capacity"], first["in_use"], first["free"]) == (8, 4, 4)  # half of it is UDP's
    assert (first["availability_percent"], first["usage_percent"]) == (50.0, 50.0)
    assert first["worst_pool_availability_percent"] == first["minimum_availability_percent"] == 0.0
    simulator.advance(3600 * SECOND)
    first = simulator.summary()["private_link_services"][0]["nat_ips"][0]
    assert (first["worst_pool_availability_percent"], first["minimum_availability_percent"]) == (100.0, 0.0)


def test_tcp_and_udp_have_pools_of_their_own() -> None:
    simulator = contoso()
    packet = udp_packet(CLIENT, 50000, ENDPOINT, 53)
    assert simulator.receive(packet, at="contoso", time_ns=0, link_type=RAW).nat == ("192.168.50.4", 1024)
    assert consumer_sends(simulator).nat == ("192.168.50.4", 1024)
    assert pool_figures(simulator, protocol="udp") == pool_figures(simulator) == (1, 0, 3)


def test_fill_first_uses_a_nat_ip_until_it_is_full_and_returns_to_it() -> None:
    simulator = contoso(nat_ips=2, nat_ports="1024-1025")
    used = [consumer_sends(simulator, port=port).nat[0][-1] for port in (1, 2, 3)]
    assert used == ["4", "4", "5"]
    consumer_sends(simulator, "R", port=1)
    simulator.advance(16 * SECOND)
    assert consumer_sends(simulator, port=4, s=16).nat[0][-1] == "4"


def test_round_robin_steps_once_per_new_session() -> None:
    simulator = contoso(nat_ips=3, nat_ports="1024-1025", nat_ip_selection="round_robin")
    used = [consumer_sends(simulator, port=port).nat[0][-1] for port in range(1, 7)]
    assert used == ["4", "5", "6", "4", "5", "6"]
    for port in (2, 3, 4):  # frees one port of the second, the third and the first NAT IP
        consumer_sends(simulator, "R", port=port)
    simulator.advance(16 * SECOND)
    used = [consumer_sends(simulator, port=port, s=16).nat[0][-1] for port in (7, 8, 9)]
    assert used == ["4", "5", "6"]
    assert simulator.cursors["orders", IPv4Address(BACKEND)] == 9


def test_spill_goes_to_the_others_from_the_start_of_the_list() -> None:
    simulator = contoso(nat_ips=3, nat_ports="1024-1024", nat_ip_selection="round_robin", ports_per_endpoint=1)
    for at, port in (("fabrikam", 1), ("fabrikam", 2), ("contoso", 3)):
        consumer_sends(simulator, at=at, port=port)
    consumer_sends(simulator, "R", at="fabrikam", port=1)
    consumer_sends(simulator, "R", at="fabrikam", port=2)
    simulator.cursors["orders", IPv4Address(BACKEND)] = 2  # the third NAT IP, which is full
    simulator.advance(16 * SECOND)
    assert consumer_sends(simulator, port=4, s=16).nat[0][-1] == "4"


def test_without_spill_only_the_chosen_nat_ip_is_tried() -> None:
    simulator = contoso(nat_ips=2, nat_ports="1024-1024", nat_ip_selection="paired", spill=False)
    first = consumer_sends(simulator, port=1)
    assert consumer_sends(simulator, port=2).verdict == Verdict.NAT_PORTS_EXHAUSTED
    assert simulator.first_exhaustion["nat_ip"] == first.nat[0]


def test_refusals_move_no_cursor_and_draw_no_random_number() -> None:
    calm = contoso(nat_ips=2, nat_ip_selection="round_robin", port_allocation="random", ports_per_endpoint=1)
    tried = contoso(nat_ips=2, nat_ip_selection="round_robin", port_allocation="random", ports_per_endpoint=1)
    for simulator in (calm, tried):
        for port in (1, 2):
            consumer_sends(simulator, port=port)
        if simulator is tried:
            assert consumer_sends(simulator, port=3).verdict == Verdict.ENDPOINT_PORT_LIMIT
            assert consumer_sends(simulator, "A", port=4).verdict == Verdict.NOT_FIRST_PACKET
    results = [consumer_sends(simulator, at="fabrikam", port=9).nat for simulator in (calm, tried)]
    assert results[0] == results[1]


def test_the_cap_counts_in_use_and_held_ports_of_one_endpoint() -> None:
    simulator = contoso(ports_per_endpoint=1, port_hold="5s")
    consumer_sends(simulator, port=1)
    assert consumer_sends(simulator, port=2).verdict == Verdict.ENDPOINT_PORT_LIMIT
    assert consumer_sends(simulator, port=2, at="fabrikam").verdict == Verdict.FORWARDED
    simulator.advance(30 * SECOND)
    assert consumer_sends(simulator, port=2, s=34).verdict == Verdict.ENDPOINT_PORT_LIMIT
    assert consumer_sends(simulator, port=2, s=35).verdict == Verdict.FORWARDED
    assert simulator.first_exhaustion is None


def test_sequential_goes_on_after_the_last_port_and_wraps() -> None:
    simulator = contoso()
    assert [consumer_sends(simulator, port=port).nat[1] for port in (1, 2)] == [1024, 1025]
    consumer_sends(simulator, "R", port=1)
    simulator.advance(16 * SECOND)
    later = [consumer_sends(simulator, port=port, s=16).nat[1] for port in (3, 4, 5)]
    assert later == [1026, 1027, 1024]


def test_random_draws_follow_the_formula() -> None:
    simulator = contoso(port_allocation="random")
    key = key64(0, "pool", "orders", "192.168.50.4", "tcp", BACKEND)
    free, expected = [1024, 1025, 1026, 1027], []
    for draw in (1, 2, 3, 4):
        index = (mix((key + draw * 0x9E3779B97F4A7C15) % 2**64) >> 32) * len(free) >> 32
        expected.append(free[index])
        free[index] = free[-1]
        free.pop()
    assert [consumer_sends(simulator, port=port).nat[1] for port in (1, 2, 3, 4)] == expected


def test_the_limit_of_a_host_counts_live_sessions_of_every_protocol_and_endpoint() -> None:
    simulator = contoso(sessions_per_backend=2)
    consumer_sends(simulator, port=1)
    simulator.receive(udp_packet(CLIENT, 2, ENDPOINT, 53), at="fabrikam", time_ns=0, link_type=RAW)
    assert consumer_sends(simulator, port=3).verdict == Verdict.SESSION_TABLE_FULL
    assert consumer_sends(simulator, port=1).verdict == Verdict.FORWARDED


def test_the_backend_of_source_ip_does_not_depend_on_ports() -> None:
    backends = (BACKEND, "192.168.61.5", "192.168.61.6")
    simulator = contoso(backends=backends, nat_ports="1024-2000")
    for port in range(1, 60):
        consumer_sends(simulator, port=port)
    assert {str(session.backend[0]) for session in simulator.sessions} == set(backends)
    balancer = simulator.services["orders"].load_balancer.model_copy(update={"distribution": "source_ip"})
    service = simulator.services["orders"].model_copy(update={"load_balancer": balancer})
    one = ReferenceSimulator(simulator.topology.model_copy(update={"private_link_services": (service,)}))
    for port in range(1, 60):
        consumer_sends(one, port=port)
    assert len({session.backend for session in one.sessions}) == 1


# --- Verdicts --------------------------------------------------------------------------------------------------------


def test_replies_from_the_provider_are_forwarded_filtered_or_without_session() -> None:
    simulator = contoso()
    consumer_sends(simulator)
    assert backend_sends(simulator).verdict == Verdict.FORWARDED
    assert backend_sends(simulator, port=1).verdict == Verdict.FILTERED
    assert backend_sends(simulator, nat=("192.168.50.4", 1025)).verdict == Verdict.NO_SESSION
    assert backend_sends(simulator, nat=("192.168.50.4", 99)).verdict == Verdict.NO_SESSION
    assert backend_sends(simulator, nat=("192.168.50.99", 1024)).verdict == Verdict.BYPASSED
    endpoint = simulator.summary()["private_endpoints"][0]
    assert endpoint["dropped"] == {"filtered": 1}


def faulty(offset: int, value: bytes, packet: bytes | None = None) -> bytes:
    packet = packet or tcp_packet(CLIENT, 50000, ENDPOINT, 443, payload=b"data")
    return packet[:offset] + value + packet[offset + len(value) :]


DATAGRAM = udp_packet(CLIENT, 50000, ENDPOINT, 53, b"data")


@pytest.mark.parametrize(
    ("packet", "verdict"),
    [
        (faulty(0, b"\x55"), Verdict.MALFORMED),  # version 5
        (faulty(0, b"\x65"), Verdict.BYPASSED),  # version 6 where nothing else says what it is
        (faulty(0, b"\x44"), Verdict.MALFORMED),  # header of 16 bytes
        (faulty(0, b"\x4f")[:59], Verdict.MALFORMED),  # header of 60 bytes, 59 captured
        (faulty(2, b"\x00\x13"), Verdict.MALFORMED),  # total length 19
        (faulty(2, b"\x00\x2d"), Verdict.MALFORMED),  # total length 45 of 44
        (faulty(2, b"\x00\x00"), Verdict.FORWARDED),  # total length unknown: offload
        (faulty(2, b"\x00\x27"), Verdict.MALFORMED),  # 19 bytes of TCP
        (faulty(2, b"\x00\x28"), Verdict.FORWARDED),  # 20 bytes of TCP and four of padding
        (faulty(32, b"\x40"), Verdict.MALFORMED),  # data offset 16
        (faulty(32, b"\x60"), Verdict.FORWARDED),  # data offset 24: all there is
        (faulty(32, b"\x70"), Verdict.MALFORMED),  # data offset 28
        (faulty(9, b"\x01"), Verdict.UNSUPPORTED_PROTOCOL),
        (faulty(6, b"\x20\x00"), Verdict.FRAGMENT_UNRESOLVED),
        (faulty(6, b"\x00\x01"), Verdict.FRAGMENT_UNRESOLVED),
        (faulty(6, b"\xc0\x00"), Verdict.FORWARDED),  # reserved bit and don't-fragment
        (faulty(8, b"\x01", faulty(9, b"\x01")), Verdict.TTL_EXPIRED),  # before the protocol
        (faulty(8, b"\x02"), Verdict.FORWARDED),
        (faulty(24, b"\x00\x07", DATAGRAM), Verdict.MALFORMED),
        (faulty(24, b"\x00\x08", DATAGRAM), Verdict.FORWARDED),
        (faulty(24, b"\x00\x0d", DATAGRAM), Verdict.MALFORMED),
        (faulty(16, IPv4Address("10.0.1.6").packed), Verdict.BYPASSED),
        (b"", Verdict.MALFORMED),
    ],
)
def test_broken_and_odd_packets(packet: bytes, verdict: Verdict) -> None:
    assert contoso().receive(packet, at="contoso", time_ns=0, link_type=RAW).verdict == verdict


def test_a_payload_cut_by_the_snap_length_is_well_formed_but_a_cut_header_is_not() -> None:
    packet = tcp_packet(CLIENT, 50000, ENDPOINT, 443, payload=bytes(1000))
    for captured, verdict in ((40, Verdict.FORWARDED), (39, Verdict.MALFORMED), (19, Verdict.MALFORMED)):
        outcome = contoso().receive(
            packet[:captured], at="contoso", time_ns=0, original_length=len(packet), link_type=RAW
        )
        assert (outcome.verdict, outcome.bytes) == (verdict, 1040)


def test_new_sessions_are_judged_in_order() -> None:
    def verdict(simulator: ReferenceSimulator, source: str, port: int, flags: str, at: str = "contoso") -> Verdict:
        packet = tcp_packet(source, 1, ENDPOINT, port, flags)
        return simulator.receive(packet, at=at, time_ns=0, link_type=RAW).verdict

    pending = contoso(endpoint={"connection": "pending"})
    assert verdict(pending, "203.0.113.9", 1, "A") == Verdict.CONNECTION_NOT_APPROVED
    assert verdict(contoso(), "203.0.113.9", 1, "A") == Verdict.UNREACHABLE_SOURCE
    assert verdict(contoso(), CLIENT, 1, "A") == Verdict.NO_LOAD_BALANCING_RULE
    assert verdict(contoso(backends=()), CLIENT, 443, "A") == Verdict.NOT_FIRST_PACKET
    assert verdict(contoso(backends=()), CLIENT, 443, "S") == Verdict.NO_HEALTHY_BACKEND
    # The hub's hosts and what reaches the hub may use the endpoint, seen here or there.
    for source in ("10.9.0.4", "172.16.0.4"):
        for at in ("contoso", "hub"):
            assert verdict(contoso(), source, 443, "S", at) == Verdict.FORWARDED


def test_a_reply_is_delivered_where_its_session_was_created() -> None:
    simulator = contoso()
    packet = tcp_packet("10.9.0.4", 1, ENDPOINT, 443)
    simulator.receive(packet, at="hub", time_ns=0, link_type=RAW)
    assert backend_sends(simulator).delivered_at == "hub"


@pytest.mark.parametrize("link_type", [ETHERNET, COOKED_1, COOKED_2, BSD_NULL, BSD_LOOP, 12, 14, 101, 228])
def test_every_link_header_is_found_and_kept(link_type: int) -> None:
    packet = tcp_packet(CLIENT, 50000, ENDPOINT, 443)
    frame = link_frame(packet, link_type)
    outcome = contoso().receive(frame, at="contoso", time_ns=0, link_type=link_type)
    header = len(frame) - len(packet)
    assert (outcome.verdict, outcome.bytes) == (Verdict.FORWARDED, 40)
    assert outcome.translated[:header] == frame[:header]
    assert IP(outcome.translated[header:]).dst == BACKEND


@pytest.mark.parametrize(
    ("frame", "link_type", "counted"),
    [
        (link_frame(b"x" * 28, ethertype=0x0806), ETHERNET, 28),
        (link_frame(b"x" * 28, tags=(0x8100,), ethertype=0x0806), ETHERNET, 28),
        (link_frame(b"x" * 28, tags=(0x8100,) * 3), ETHERNET, 32),
        (bytes(13), ETHERNET, 0),
        (link_frame(b"", tags=(0x8100,))[:17], ETHERNET, 0),
        (link_frame(b"x" * 28, COOKED_1, ethertype=0x8100), COOKED_1, 28),
        (bytes(15), COOKED_1, 0),
        (bytes(19), COOKED_2, 0),
        (b"\x00\x00\x00\x02" + ipv4_packet(CLIENT, "10.0.1.9", 6), BSD_NULL, 20),
        (b"\x02\x00\x00\x00" + ipv4_packet(CLIENT, "10.0.1.9", 6), BSD_LOOP, 20),
        (b"\x00\x00\x00\x1c" + bytes(40), BSD_LOOP, 40),
        (b"\x60" + bytes(39), 229, 40),
        (bytes(50), 147, 50),
    ],
)
def test_what_is_bypassed_counts_without_its_link_header(frame: bytes, link_type: int, counted: int) -> None:
    outcome = contoso().receive(frame, at="contoso", time_ns=0, link_type=link_type)
    assert (outcome.verdict, outcome.bytes) == (Verdict.BYPASSED, counted)


@pytest.mark.parametrize(
    ("captured", "link_type", "counted"),
    [(10, ETHERNET, 86), (17, ETHERNET, 82), (15, COOKED_1, 84), (19, COOKED_2, 80), (3, BSD_NULL, 96)],
)
def test_a_link_header_that_is_cut_off_counts_as_far_as_it_is_known(
    captured: int, link_type: int, counted: int
) -> None:
    frame = link_frame(bytes(100), link_type, tags=(0x8100,))[:captured]
    outcome = contoso().receive(frame, at="contoso", time_ns=0, original_length=100, link_type=link_type)
    assert (outcome.verdict, outcome.bytes) == (Verdict.BYPASSED, counted)


# --- Figures ---------------------------------------------------------------------------------------------------------


def test_the_summary_of_nothing() -> None:
    summary = contoso(backends=()).summary()
    assert summary["received"] == {"packets": 0, "bytes": 0}
    assert summary["dropped"] == {"packets": 0, "bytes": 0, "reasons": {}}
    assert summary["sessions"]["ended"] == {"closed": 0, "reset": 0, "idle": 0, "disconnected": 0}
    assert (summary["duration_seconds"], summary["first_exhaustion"]) == (0.0, None)
    nat_ip = summary["private_link_services"][0]["nat_ips"][0]
    assert (nat_ip["capacity"], nat_ip["availability_percent"], nat_ip["pools"]) == (0, 100.0, [])


def test_the_summary_of_a_short_conversation() -> None:
    simulator = contoso()
    consumer_sends(simulator, payload=b"12345")
    backend_sends(simulator, s=1)
    consumer_sends(simulator, "A", port=7, s=2)
    simulator.receive(b"\x00", at="contoso", time_ns=0, link_type=RAW)
    summary = simulator.summary()
    assert summary["received"] == {"packets": 4, "bytes": 45 + 40 + 40 + 1}
    assert summary["forwarded"] == {"packets": 2, "bytes": 85}
    assert summary["dropped"]["reasons"] == {
        "malformed": {"packets": 1, "bytes": 1},
        "not_first_packet": {"packets": 1, "bytes": 40},
    }
    endpoint = summary["private_endpoints"][0]
    assert [endpoint[name] for name in ("bytes_in", "bytes_out", "packets_in", "packets_out")] == [45, 40, 1, 1]
    assert endpoint["dropped"] == {"not_first_packet": 1}
    assert endpoint["sessions"] == {"created": 1, "active": 1}
    assert summary["private_link_services"][0]["bytes_in"] == 45
    assert summary["duration_seconds"] == 2.0


# --- Traces ----------------------------------------------------------------------------------------------------------


def test_the_builders_agree_with_scapy() -> None:
    for packet in (
        tcp_packet(CLIENT, 1, ENDPOINT, 2, "SA", b"odd", options=b"\x01" * 4),
        udp_packet(CLIENT, 1, ENDPOINT, 2, b"odd"),
    ):
        assert recomputed(packet) == packet


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(topologies(), traces())
def test_the_laws_hold_after_every_step(topology: Topology, steps: list[Any]) -> None:
    simulator = ReferenceSimulator(topology, seed=3)
    for step in steps:
        arrival = resolve(step, simulator)
        if arrival.frame is None:
            simulator.advance(arrival.time_ns)
        else:
            outcome = simulator.receive(**arrival.arguments())
            assert (outcome.verdict == Verdict.FORWARDED) == (outcome.translated is not None)
        simulator.check_laws()
