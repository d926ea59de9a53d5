"""The specification itself against expectations worked out by hand, RFC vectors and scapy."""

import struct
from ipaddress import IPv4Address
from typing import Any, NamedTuple

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
    Pool,
    ReferenceSimulator,
    adjust_checksum,
    key64,
    mix,
    pick,
)
from tests.strategies import (
    SECOND,
    fragments_of,
    icmp_echo,
    icmp_error,
    icmp_message,
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
    """The packet with all checksums worked out anew by scapy, also those of a packet that it quotes."""
    scapy_packet = layer = IP(packet)
    while hasattr(layer, "chksum"):
        del layer.chksum
        layer = layer.payload
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


def established(**nat: Any) -> ReferenceSimulator:
    """A network in which session 1 has just been established, at 0 s."""
    simulator = contoso(**nat)
    consumer_sends(simulator)
    backend_sends(simulator)
    consumer_sends(simulator, "A")
    return simulator


def state(simulator: ReferenceSimulator) -> tuple[str, float]:
    """State of the one live session, and the second at which it ends."""
    (session,) = simulator.sessions
    return session.state, session.deadline_ns / SECOND


@pytest.mark.parametrize("sends", [consumer_sends, backend_sends, consumer_saw])
def test_one_fin_half_closes_an_established_session(sends: Any) -> None:
    for half_closed, end in (("7s", 17), (None, 310)):
        simulator = established(timeouts={"tcp_half_closed": half_closed})
        sends(simulator, "FA", s=10)
        assert state(simulator) == ("half-closed", end)
        # Data in either direction refreshes it; a second FIN of the same side changes nothing else.
        consumer_sends(simulator, "A", s=11)
        backend_sends(simulator, "A", s=12)
        sends(simulator, "FA", s=13)
        assert state(simulator) == ("half-closed", end + 3)
        simulator.advance(400 * SECOND)
        assert simulator.ended_sessions[0].ended == "idle"


def test_a_fin_before_the_handshake_is_complete_half_closes_with_its_completion() -> None:
    simulator = contoso(timeouts={"tcp_half_closed": "7s"})
    consumer_sends(simulator)
    backend_sends(simulator, "SA")
    backend_sends(simulator, "F")
    assert state(simulator) == ("half-open", 30)
    consumer_sends(simulator, "A", s=1)
    assert state(simulator) == ("half-closed", 8)
    # One packet may do both.
    simulator = contoso(timeouts={"tcp_half_closed": "7s"})
    consumer_sends(simulator)
    backend_sends(simulator, "SA")
    consumer_sends(simulator, "FA")
    assert state(simulator) == ("half-closed", 7)


def test_any_first_packet_with_fin_half_closes_or_closes() -> None:
    for closing, expected in (("both_fins", ("half-closed", 300)), ("first_fin", ("closing", 65))):
        simulator = contoso(first_packet="any", tcp={"closing": closing})
        consumer_sends(simulator, "FA")
        assert state(simulator) == expected


def test_under_first_fin_one_fin_closes_in_any_state() -> None:
    for simulator in (established(tcp={"closing": "first_fin"}), contoso(tcp={"closing": "first_fin"})):
        if not simulator.sessions:
            consumer_sends(simulator)
        backend_sends(simulator, "FA", s=1)
        assert state(simulator) == ("closing", 66)
        consumer_sends(simulator, "FA", s=2)
        assert state(simulator) == ("closing", 66)
        simulator.advance(66 * SECOND)
        assert simulator.ended_sessions[0].ended == "closed"


def test_closing_refresh_lets_every_packet_refresh_and_none_change_the_state() -> None:
    simulator = established(tcp={"closing_refresh": True})
    close(simulator, s=1)
    backend_sends(simulator, "A", s=10)
    assert state(simulator) == ("closing", 75)
    consumer_sends(simulator, "R", s=20)
    assert state(simulator) == ("closing", 85)
    simulator = established(tcp={"closing_refresh": True})
    backend_sends(simulator, "R", s=1)
    consumer_sends(simulator, "A", s=10)
    assert state(simulator) == ("reset", 26)


HANDSHAKE = {"reopen": "handshake"}


def test_under_handshake_a_syn_opens_no_new_session_and_half_a_reopening_revives_none() -> None:
    simulator = established(tcp=HANDSHAKE)
    close(simulator, s=1)
    assert consumer_sends(simulator, "S", s=2).session == 1
    assert state(simulator) == ("closing", 66)
    consumer_sends(simulator, "A", s=3)
    assert state(simulator) == ("closing", 66)
    assert consumer_saw(simulator, "SA", s=4).session == 1
    assert state(simulator) == ("closing", 66)
    consumer_sends(simulator, "A", s=5)
    assert state(simulator) == ("established", 305)
    assert simulator.sessions[0].nat == (IPv4Address("192.168.50.4"), 1024)
    # It has seen no FIN: one is needed from each side again.
    consumer_sends(simulator, "FA", s=6)
    assert state(simulator) == ("half-closed", 306)
    backend_sends(simulator, "FA", s=7)
    assert state(simulator) == ("closing", 72)
    # And another whole handshake to come back once more.
    consumer_sends(simulator, "A", s=8)
    assert state(simulator) == ("closing", 72)


@pytest.mark.parametrize("end", ["F", "R", "FA", "RA", "FS"])
@pytest.mark.parametrize("sends", [consumer_sends, backend_sends])
def test_a_fin_or_rst_in_between_makes_the_reopening_begin_again(sends: Any, end: str) -> None:
    for place in (1, 2):
        simulator = established(tcp=HANDSHAKE)
        backend_sends(simulator, "R", s=1)
        for number, step in enumerate([consumer_sends, backend_sends, consumer_sends]):
            if number == place:
                sends(simulator, end, s=2)
            step(simulator, ("S", "SA", "A")[number], s=2)
        assert state(simulator) == ("reset", 17)
        backend_sends(simulator, "SA", s=3)
        consumer_sends(simulator, "S", s=3)
        backend_sends(simulator, "A", s=3)
        assert state(simulator) == ("reset", 17)
        consumer_sends(simulator, "A", s=4)
        assert state(simulator) == ("established", 304)


def test_a_reopening_after_the_first_fin_is_established_anew_under_first_fin() -> None:
    simulator = established(tcp={**HANDSHAKE, "closing": "first_fin", "closing_refresh": True})
    consumer_sends(simulator, "FA", s=1)
    consumer_sends(simulator, "S", s=2)
    backend_sends(simulator, "SA", s=3)
    assert state(simulator) == ("closing", 68)
    consumer_sends(simulator, "A", s=4)
    assert state(simulator) == ("established", 304)


@pytest.mark.parametrize("sends", [consumer_sends, backend_sends, consumer_saw])
def test_under_until_data_a_packet_after_rst_revives(sends: Any) -> None:
    simulator = established(tcp={"reset": "until_data"})
    consumer_sends(simulator, "FA", s=1)
    backend_sends(simulator, "R", s=2)
    sends(simulator, "RA", s=3)
    backend_sends(simulator, "SA", s=3)
    assert state(simulator) == ("reset", 18), "neither RST nor SYN is data"
    sends(simulator, "A", s=4)
    assert state(simulator) == ("established", 304), "the FIN from before is forgotten"
    backend_sends(simulator, "FA", s=5)
    assert state(simulator) == ("half-closed", 305)


def test_under_until_data_the_packet_itself_is_applied() -> None:
    simulator = established(tcp={"reset": "until_data"})
    backend_sends(simulator, "R", s=1)
    backend_sends(simulator, "F", s=2)
    assert state(simulator) == ("half-closed", 302)
    simulator = established(tcp={"reset": "until_data", "closing": "first_fin"})
    backend_sends(simulator, "R", s=1)
    backend_sends(simulator, "F", s=2)
    assert state(simulator) == ("closing", 67)
    backend_sends(simulator, "A", s=3)
    assert state(simulator) == ("closing", 67), "closing is not reset"


def test_until_data_revives_to_half_open_what_never_was_established() -> None:
    simulator = contoso(tcp={"reset": "until_data"})
    consumer_sends(simulator)
    backend_sends(simulator, "R", s=1)
    backend_sends(simulator, "A", s=2)
    assert state(simulator) == ("half-open", 32)
    # With SYN seen both ways, a consumer's ACK is the end of the handshake.
    simulator = contoso(tcp={"reset": "until_data"})
    consumer_sends(simulator)
    backend_sends(simulator)
    backend_sends(simulator, "R", s=1)
    consumer_sends(simulator, "A", s=2)
    assert state(simulator) == ("established", 302)


def test_under_until_data_a_consumers_syn_still_opens_a_new_session() -> None:
    simulator = established(tcp={"reset": "until_data"})
    backend_sends(simulator, "R", s=1)
    assert consumer_sends(simulator, "S", s=2).session == 5
    assert simulator.ended_sessions[0].ended == "reset"


def udp_sends(simulator: ReferenceSimulator, *, port: int = 50000, s: float = 0, payload: bytes = b"") -> Outcome:
    packet = udp_packet(CLIENT, port, ENDPOINT, 53, payload)
    return simulator.receive(packet, at="contoso", time_ns=int(s * SECOND), link_type=RAW)


def test_udp_is_unreplied_until_the_provider_sends() -> None:
    reply = udp_packet(BACKEND, 53, "192.168.50.4", 1024)
    seen = udp_packet(ENDPOINT, 53, CLIENT, 50000)
    for answer, at in ((reply, "provider"), (seen, "contoso")):
        simulator = contoso(timeouts={"udp": "100s", "udp_unreplied": "10s"})
        udp_sends(simulator)
        udp_sends(simulator, s=5)
        assert state(simulator) == ("udp unreplied", 15)
        simulator.receive(answer, at=at, time_ns=6 * SECOND, link_type=RAW)
        assert state(simulator) == ("udp", 106)
        udp_sends(simulator, s=7)
        assert state(simulator) == ("udp", 107)
    simulator = contoso(timeouts={"udp": "100s", "udp_unreplied": None})
    udp_sends(simulator)
    assert state(simulator) == ("udp unreplied", 100)


def test_a_rules_idle_timeout_shortens_what_is_longer_and_nothing_else() -> None:
    def with_rule(idle_timeout: str) -> ReferenceSimulator:
        rules = [
            {"protocol": "tcp", "frontend_port": 443, "backend_port": 8443, "idle_timeout": idle_timeout},
            {"protocol": "udp", "frontend_port": 53, "backend_port": 53, "idle_timeout": idle_timeout},
        ]
        balancer = {"frontend_ip": "192.168.60.10", "rules": rules, "backend_pool": [BACKEND]}
        return contoso(service={"load_balancer": balancer}, timeouts={"tcp_half_closed": "8s", "udp_unreplied": "20s"})

    def timeouts(simulator: ReferenceSimulator) -> list[float]:
        found = []
        for sends, flags in (
            (consumer_sends, "S"), (backend_sends, "SA"), (consumer_sends, "A"), (backend_sends, "FA"),
            (consumer_sends, "FA"),
        ):  # fmt: skip
            sends(simulator, flags)
            found.append(state(simulator)[1])
        simulator.advance(100 * SECOND)
        udp_sends(simulator, s=100)
        found.append(state(simulator)[1] - 100)
        reply = udp_packet(BACKEND, 53, "192.168.50.4", 1024)
        simulator.receive(reply, at="provider", time_ns=100 * SECOND, link_type=RAW)
        found.append(state(simulator)[1] - 100)
        return found

    # half-open, half-open, established, half-closed, closing; udp unreplied, udp
    without = contoso(timeouts={"tcp_half_closed": "8s", "udp_unreplied": "20s"})
    assert timeouts(without) == [30, 30, 300, 8, 65, 20, 300]
    assert timeouts(with_rule("10s")) == [30, 30, 10, 8, 65, 10, 10]
    assert timeouts(with_rule("5s")) == [30, 30, 5, 5, 65, 5, 5]
    assert timeouts(with_rule("1h")) == [30, 30, 300, 8, 65, 20, 300]


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
        "reason": "nat_ports_exhausted",
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
    draws = (mix((key + draw * 0x9E3779B97F4A7C15) % 2**64) >> 32 for draw in range(1, 100))
    expected: list[int] = []
    for _ in range(4):
        expected.append(next(port for x in draws if (port := 1024 + (x * 4 >> 32)) not in expected))
    assert [consumer_sends(simulator, port=port).nat[1] for port in (1, 2, 3, 4)] == expected


def test_after_eight_ports_in_use_one_of_the_free_ones_is_drawn() -> None:
    simulator = contoso(port_allocation="random", nat_ports="1024-1123")
    pool = tcp_pool(simulator)
    drawn_by_rank = 0
    for port in range(1, 101):
        free, before = sorted(pool.free), pool.draws
        looked_at = [1024 + offset for offset in numbers_drawn(before + 8, 100)[before:]]
        is_crowded = 8 * len(free) < 100
        expected = None if is_crowded else next((port for port in looked_at if port in free), None)
        if expected is None:
            expected = free[numbers_drawn(before + (1 if is_crowded else 9), len(free))[-1]]
            drawn_by_rank += not is_crowded
        assert consumer_sends(simulator, port=port).nat[1] == expected
    assert drawn_by_rank > 0


GOLDEN = 0x9E3779B97F4A7C15


def tcp_pool(simulator: ReferenceSimulator, nat_ip: str = "192.168.50.4") -> Pool:
    return simulator.pools["orders", IPv4Address(nat_ip), "tcp", IPv4Address(BACKEND)]


def numbers_drawn(count: int, n: int) -> list[int]:
    """The first offsets below n that the pool of 192.168.50.4 draws."""
    key = key64(0, "pool", "orders", "192.168.50.4", "tcp", BACKEND)
    return [(mix((key + draw * GOLDEN) % 2**64) >> 32) * n >> 32 for draw in range(1, count + 1)]


def test_preserve_gives_the_consumers_own_port_else_a_random_one() -> None:
    simulator = contoso(nat_ports="1024-1027", port_allocation="preserve")
    assert consumer_sends(simulator, port=1025).nat[1] == 1025
    assert tcp_pool(simulator).draws == 0
    drawn = [1024 + offset for offset in numbers_drawn(8, 4)]
    taken = next(port for port in drawn if port != 1025)
    assert consumer_sends(simulator, port=1025, at="fabrikam").nat[1] == taken
    draws = drawn.index(taken) + 1
    assert tcp_pool(simulator).draws == draws
    # A port outside of the range cannot be kept.
    assert consumer_sends(simulator, port=1028).nat[1] in {1024, 1026, 1027} - {taken}
    assert tcp_pool(simulator).draws > draws


def hash_of_rfc_6056(simulator: ReferenceSimulator, endpoint: str, consumer: str = CLIENT, port: int = 8443) -> int:
    """F of a consumer and a backend port."""
    word = int(IPv4Address(consumer)) << 32 | port
    return mix(mix(word ^ key64(simulator.seed, "private_endpoint", endpoint)) ^ tcp_pool(simulator).key)


def test_hash_gives_one_consumer_one_port_after_the_other() -> None:
    """RFC 6056, algorithm 3: a fixed offset for each consumer, and one counter for all."""
    simulator = contoso(nat_ports="2000-2999", port_allocation="hash")
    offset = (hash_of_rfc_6056(simulator, "pe-contoso") >> 32) * 1000 >> 32
    other = (hash_of_rfc_6056(simulator, "pe-fabrikam") >> 32) * 1000 >> 32
    given = [consumer_sends(simulator, port=port, at=at).nat[1] for port, at in
             ((1, "contoso"), (2, "contoso"), (3, "fabrikam"), (4, "contoso"))]  # fmt: skip
    places = enumerate((offset, offset, other, offset))
    assert [port - 2000 for port in given] == [(place + counter) % 1000 for counter, place in places]


def test_hash_steps_over_ports_that_are_taken_and_wraps() -> None:
    simulator = contoso(nat_ports="1024-1027", port_allocation="hash")
    offset = (hash_of_rfc_6056(simulator, "pe-contoso") >> 32) * 4 >> 32
    order = [1024 + (offset + step) % 4 for step in range(4)]
    assert [consumer_sends(simulator, port=port).nat[1] for port in (1, 2, 3, 4)] == order
    assert tcp_pool(simulator).counters[0] == 4
    consumer_sends(simulator, "R", port=3)
    simulator.advance(16 * SECOND)
    assert consumer_sends(simulator, port=5, s=16).nat[1] == order[2]
    assert tcp_pool(simulator).counters[0] == 4 + 3, "two steps over taken ports and one to the free one"


def test_hash_buckets_have_counters_of_their_own() -> None:
    """RFC 6056, algorithm 4."""
    simulator = contoso(nat_ports="2000-2999", port_allocation="hash_buckets")
    counters: dict[int, int] = {}
    for number in range(40):
        consumer = f"10.0.0.{10 + number % 8}"
        f = hash_of_rfc_6056(simulator, "pe-contoso", consumer)
        bucket = (mix((f + GOLDEN) % 2**64) >> 32) * 64 >> 32
        packet = tcp_packet(consumer, 50000 + number, ENDPOINT, 443)
        got = simulator.receive(packet, at="contoso", time_ns=0, link_type=RAW).nat[1]
        assert got == 2000 + (((f >> 32) * 1000 >> 32) + counters.get(bucket, 0)) % 1000
        counters[bucket] = counters.get(bucket, 0) + 1
    assert len(counters) > 1


def test_blocks_are_an_endpoints_own() -> None:
    simulator = contoso(nat_ports="1024-1030", port_allocation="block", block_size=3)
    steps = [(1, "contoso"), (2, "fabrikam"), (3, "contoso"), (4, "contoso"), (5, "contoso"), (6, "fabrikam")]
    given = [consumer_sends(simulator, port=port, at=at).nat[1] for port, at in steps]
    assert given == [1024, 1027, 1025, 1026, 1030, 1028], "the last block has one port"
    # Ports 1029 is free, but in the other's block.
    assert consumer_sends(simulator, port=7).verdict == Verdict.NAT_PORT_NOT_FOUND
    assert consumer_sends(simulator, port=8, at="fabrikam").nat[1] == 1029
    assert consumer_sends(simulator, port=9, at="fabrikam").verdict == Verdict.NAT_PORTS_EXHAUSTED
    assert simulator.first_exhaustion["reason"] == "nat_port_not_found"
    assert tcp_pool(simulator).failures == 2


def test_a_block_is_free_again_when_none_of_its_ports_is_in_use_or_held() -> None:
    simulator = contoso(nat_ports="1024-1027", port_allocation="block", block_size=2, port_hold="4s")
    for port in (1, 2, 3):
        consumer_sends(simulator, port=port)
    assert [session.nat[1] for session in simulator.sessions] == [1024, 1025, 1026]
    consumer_sends(simulator, "R", port=1)
    consumer_sends(simulator, "R", port=2)
    consumer_sends(simulator, "A", port=3, s=15)
    assert consumer_sends(simulator, port=9, at="fabrikam", s=19).verdict == Verdict.NAT_PORT_NOT_FOUND
    assert consumer_sends(simulator, port=9, at="fabrikam", s=20).nat[1] == 1024
    assert consumer_sends(simulator, port=4, s=20).nat[1] == 1027, "the other port of the first block is no longer ours"


def test_a_cap_on_blocks_holds_only_when_another_block_is_needed() -> None:
    simulator = contoso(nat_ports="1024-1027", port_allocation="block", block_size=2, blocks_per_endpoint=1)
    assert [consumer_sends(simulator, port=port).nat[1] for port in (1, 2)] == [1024, 1025]
    assert consumer_sends(simulator, port=3).verdict == Verdict.ENDPOINT_PORT_LIMIT
    assert consumer_sends(simulator, port=3, at="fabrikam").nat[1] == 1026
    consumer_sends(simulator, "R", port=1)
    simulator.advance(16 * SECOND)
    assert consumer_sends(simulator, port=4, s=16).nat[1] == 1024
    assert simulator.first_exhaustion is None


def test_a_reopened_session_gives_back_its_port_and_its_block() -> None:
    for allocation in ({"port_allocation": "hash"}, {"port_allocation": "preserve"}, {"port_allocation": "random"},
                       {"port_allocation": "random", "probes": [4]}, {"port_allocation": "block", "block_size": 1,
                        "blocks_per_endpoint": 1}, {"port_allocation": "sequential"}):  # fmt: skip
        simulator = contoso(nat_ports="1024-1024", **allocation)
        consumer_sends(simulator)
        close(simulator, s=1)
        assert consumer_sends(simulator, "S", s=2).nat[1] == 1024
        simulator.check_laws()


def test_a_block_that_a_reopened_session_leaves_is_free_like_any_other() -> None:
    simulator = contoso(nat_ports="1024-1027", port_allocation="block", block_size=2)
    consumer_sends(simulator, at="fabrikam")
    assert consumer_sends(simulator).nat[1] == 1026
    close(simulator, s=1)
    backend_sends(simulator, "FA", nat=("192.168.50.4", 1026), s=1)
    simulator.advance(31 * SECOND)  # fabrikam's session is over
    assert consumer_sends(simulator, "S", s=32).nat[1] == 1024, "the lowest free block"
    assert [session.nat[1] for session in simulator.ended_sessions] == [1024, 1026]


def test_probes_look_at_so_many_ports_and_no_more() -> None:
    """Two probes: of each pair of draws the first that is free; the second is drawn only if the first is taken."""
    simulator = contoso(nat_ports="2000-2009", port_allocation="random", probes=2)
    draws = iter(numbers_drawn(100, 10))
    free = set(range(10))
    verdicts = []
    while len(free) > 1:
        wanted = next((offset for offset in (next(draws), None) if offset in free), None)
        if wanted is None:
            wanted = next((offset for offset in (next(draws), None) if offset in free), None)
        got = consumer_sends(simulator, port=100 + len(verdicts))
        verdicts.append(got.verdict)
        assert (got.nat is None) == (wanted is None)
        if wanted is not None:
            assert got.nat[1] == 2000 + wanted
            free.remove(wanted)
    assert set(verdicts) == {Verdict.FORWARDED, Verdict.NAT_PORT_NOT_FOUND}


def test_what_a_failed_probe_has_drawn_stays_drawn() -> None:
    simulator = contoso(nat_ports="1024-1025", port_allocation="random", probes=1)
    first, *others = [1024 + offset for offset in numbers_drawn(20, 2)]
    assert consumer_sends(simulator, port=1).nat[1] == first
    misses = next(index for index, port in enumerate(others) if port != first)
    verdicts = [consumer_sends(simulator, port=port, s=port).verdict for port in range(2, 2 + misses)]
    assert verdicts == [Verdict.NAT_PORT_NOT_FOUND] * misses
    assert consumer_sends(simulator, port=60, s=60).nat is not None or misses == 0
    assert tcp_pool(simulator).draws == 2 + misses


def test_runs_look_at_adjacent_ports_and_wrap() -> None:
    simulator = contoso(nat_ports="1024-1027", port_allocation="random", probes=[2, 1])
    a, *_ = numbers_drawn(1, 4)
    assert consumer_sends(simulator, port=1).nat[1] == 1024 + a
    pool = tcp_pool(simulator)
    free = {0, 1, 2, 3} - {a}
    draws = numbers_drawn(30, 4)[1:]
    for port in range(2, 6):
        looked_at = [draws[0], (draws[0] + 1) % 4, draws[1]]
        wanted = next((offset for offset in looked_at if offset in free), None)
        got = consumer_sends(simulator, port=port)
        if not free:
            assert got.verdict == Verdict.NAT_PORTS_EXHAUSTED, "in a full pool nothing is looked at"
            continue
        if wanted is None:
            assert got.verdict == Verdict.NAT_PORT_NOT_FOUND
        else:
            assert got.nat[1] == 1024 + wanted
            free.discard(wanted)
        draws = draws[1:] if wanted in looked_at[:2] else draws[2:]
    assert len(pool.free) == len(free)


def test_a_run_over_the_whole_range_never_fails_while_a_port_is_free() -> None:
    simulator = contoso(nat_ports="1024-1031", port_allocation="random", probes=[100])
    assert {consumer_sends(simulator, port=port).nat[1] for port in range(1, 9)} == set(range(1024, 1032))
    assert tcp_pool(simulator).draws == 8


def test_preserve_with_probes_keeps_the_port_without_a_probe() -> None:
    simulator = contoso(nat_ports="1024-1027", port_allocation="preserve", probes=1)
    for port in (1024, 1025, 1026):
        assert consumer_sends(simulator, port=port).nat[1] == port
    verdicts = [consumer_sends(simulator, port=1024, at="fabrikam").verdict for _ in range(30)]
    assert Verdict.FORWARDED in verdicts
    hits = [offset == 3 for offset in numbers_drawn(30, 4)]
    assert verdicts.index(Verdict.FORWARDED) == hits.index(True)


def test_hash_with_probes_gives_up_after_so_many_steps_and_goes_on_behind_them() -> None:
    for probes in (2, [1, 1]):
        simulator = contoso(nat_ports="1024-1031", port_allocation="hash", probes=probes)
        offset = (hash_of_rfc_6056(simulator, "pe-contoso") >> 32) * 8 >> 32
        pool = tcp_pool(simulator)
        for step in range(4):
            assert consumer_sends(simulator, port=step).nat[1] == 1024 + (offset + step) % 8
        pool.counters[0] = 0  # the ports ahead are taken now
        assert consumer_sends(simulator, port=10).verdict == Verdict.NAT_PORT_NOT_FOUND
        assert pool.counters[0] == 2
        assert consumer_sends(simulator, port=10).verdict == Verdict.NAT_PORT_NOT_FOUND
        assert consumer_sends(simulator, port=10).nat[1] == 1024 + (offset + 4) % 8
        assert pool.counters[0] == 5
        assert pool.failures == 2


def test_of_several_reasons_the_cap_comes_first_then_the_port_that_was_not_found() -> None:
    # NAT IP 4 is full, of NAT IP 5 one block is the other endpoint's and one free.
    simulator = contoso(nat_ips=2, nat_ports="1024-1025", port_allocation="block", block_size=2, blocks_per_endpoint=1)
    for port in (1, 2):
        consumer_sends(simulator, port=port, at="fabrikam")
    assert consumer_sends(simulator, port=3, at="fabrikam").nat == ("192.168.50.5", 1024)
    # fill_first chooses NAT IP 5, which has a free port in fabrikam's block; NAT IP 4 is full.
    assert consumer_sends(simulator, port=4).verdict == Verdict.NAT_PORT_NOT_FOUND
    figures = simulator.summary()["private_link_services"][0]["nat_ips"]
    assert [one["allocation_failures"] for one in figures] == [0, 1]
    assert simulator.first_exhaustion == {
        "time_seconds": 0.0,
        "service": "orders",
        "nat_ip": "192.168.50.5",
        "protocol": "tcp",
        "backend": BACKEND,
        "reason": "nat_port_not_found",
    }
    assert list(simulator.first_exhaustion)[-1] == "reason"
    capped = contoso(nat_ips=2, nat_ports="1024-1027", port_allocation="block", block_size=2, ports_per_endpoint=1)
    assert [consumer_sends(capped, port=port).nat[0][-1] for port in (1, 2)] == ["4", "5"]
    assert consumer_sends(capped, port=3).verdict == Verdict.ENDPOINT_PORT_LIMIT
    assert tcp_pool(capped).failures == 0


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


# --- ICMP errors -----------------------------------------------------------------------------------------------------

NAT_IP = "192.168.50.4"
ROUTER = "198.51.100.1"


def icmp_packet(source: str, destination: str, message: bytes, **header: Any) -> bytes:
    return ipv4_packet(source, destination, 1, message, **header)


class Side(NamedTuple):
    """Where errors about a session's packets enter: who sends the quoted packet, to whom, and what it becomes."""

    at: str
    quoted: tuple[str, int, str, int]
    becomes: tuple[str, int, str, int]
    direction: str


def sides(consumer_port: int, frontend: int, backend: int) -> dict[str, Side]:
    request = (CLIENT, consumer_port, ENDPOINT, frontend)
    translated = (NAT_IP, 1024, BACKEND, backend)
    return {
        # The consumer tells the backend about a reply.
        "to_service": Side("contoso", (*request[2:], *request[:2]), (*translated[2:], *translated[:2]), "to_service"),
        # The backend tells the consumer about a request.
        "from the provider": Side("provider", translated, request, "to_consumer"),
        # The same, as the consumer saw it.
        "captured": Side("contoso", request, translated, "to_consumer"),
    }


SIDES = ("to_service", "from the provider", "captured")
MAKERS = {
    "tcp": lambda source, one, destination, two, **header: tcp_packet(
        source, one, destination, two, "A", b"odd", **header
    ),
    "udp": lambda source, one, destination, two, **header: udp_packet(source, one, destination, two, b"odd", **header),
}


def with_session(protocol: str, **nat: Any) -> tuple[ReferenceSimulator, dict[str, Side]]:
    simulator = contoso(**nat)
    if protocol == "tcp":
        consumer_sends(simulator)
        return simulator, sides(50000, 443, 8443)
    udp_sends(simulator)
    return simulator, sides(50000, 53, 53)


def send_error(
    simulator: ReferenceSimulator, side: Side, quoted: bytes, *, source: str | None = None, s: float = 0, ttl: int = 64
) -> Outcome:
    """An error about a packet, to its sender, from its receiver if from nobody else."""
    packet = icmp_packet(source or side.quoted[2], side.quoted[0], icmp_error(3, 4, quoted, rest=1400), ttl=ttl)
    return simulator.receive(packet, at=side.at, time_ns=int(s * SECOND), link_type=RAW)


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("options", [b"", b"\x01" * 8])
def test_an_error_becomes_one_about_the_packet_as_it_was_on_the_other_side(
    name: str, protocol: str, options: bytes
) -> None:
    simulator, ways = with_session(protocol)
    side = ways[name]
    got = send_error(simulator, side, MAKERS[protocol](*side.quoted, options=options, ttl=1))
    expected_ttl = 65 if name == "captured" else 63
    quoted = MAKERS[protocol](*side.becomes, options=options, ttl=1)
    expected = icmp_packet(side.becomes[2], side.becomes[0], icmp_error(3, 4, quoted, rest=1400), ttl=expected_ttl)
    assert (got.verdict, got.direction, got.session) == (Verdict.FORWARDED, side.direction, 1)
    assert got.translated == expected == recomputed(expected)
    assert got.delivered_at == {"to_service": "provider"}.get(name, "contoso")
    assert (got.delivered == got.translated) == (name != "captured")


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("kept", [8, 9, 16, 17, 18, 19])
def test_of_a_quote_that_is_cut_the_checksum_is_translated_as_far_as_it_is_there(
    name: str, protocol: str, kept: int
) -> None:
    simulator, ways = with_session(protocol)
    side = ways[name]
    got = send_error(simulator, side, MAKERS[protocol](*side.quoted)[: 20 + kept])
    whole = MAKERS[protocol](*side.becomes)
    quoted = bytearray(whole[: 20 + kept])
    if protocol == "tcp" and kept == 17:  # one byte of the checksum is no checksum
        quoted[36] = MAKERS[protocol](*side.quoted)[36]
    expected_ttl = 65 if name == "captured" else 63
    message = icmp_error(3, 4, bytes(quoted), rest=1400)
    assert got.translated == icmp_packet(side.becomes[2], side.becomes[0], message, ttl=expected_ttl)


def test_what_the_snap_length_cut_off_is_left_alone_and_not_verified() -> None:
    simulator, ways = with_session("tcp")
    side = ways["from the provider"]
    message = bytearray(icmp_error(3, 4, MAKERS["tcp"](*side.quoted)))
    message[2:4] = b"\xab\xcd"  # a checksum that nobody can verify
    packet = icmp_packet(BACKEND, NAT_IP, bytes(message))
    captured = packet[: 20 + 8 + 20 + 12]
    got = simulator.receive(captured, at="provider", time_ns=0, original_length=len(packet), link_type=RAW)
    assert got.verdict == Verdict.FORWARDED
    assert len(got.translated) == len(captured)
    assert got.translated[28 + 20 + 4 :] == captured[28 + 20 + 4 :], "all after the ports"
    whole = simulator.receive(packet, at="provider", time_ns=0, link_type=RAW)
    assert whole.verdict == Verdict.ICMP_CHECKSUM_WRONG


def test_bytes_after_the_message_are_no_part_of_the_quote() -> None:
    simulator, ways = with_session("tcp")
    side = ways["from the provider"]
    message = icmp_error(3, 1, MAKERS["tcp"](*side.quoted)[:28])
    frame = link_frame(icmp_packet(BACKEND, NAT_IP, message), padding=40)
    got = simulator.receive(frame, at="provider", time_ns=0)
    assert got.verdict == Verdict.FORWARDED
    assert got.translated[-40:] == bytes(40)


def test_a_quoted_udp_datagram_without_checksum_has_none_after_either() -> None:
    simulator, ways = with_session("udp")
    side = ways["from the provider"]
    quoted, expected = (bytearray(MAKERS["udp"](*way)) for way in (side.quoted, side.becomes))
    quoted[26:28] = expected[26:28] = b"\0\0"
    got = send_error(simulator, side, bytes(quoted))
    assert got.translated == icmp_packet(ENDPOINT, CLIENT, icmp_error(3, 4, bytes(expected), rest=1400), ttl=63)


@pytest.mark.parametrize("name", SIDES)
def test_a_router_on_the_way_becomes_the_endpoint_or_the_nat_ip(name: str) -> None:
    simulator, ways = with_session("tcp")
    side = ways[name]
    got = send_error(simulator, side, MAKERS["tcp"](*side.quoted), source=ROUTER)
    if name == "captured":
        assert got.verdict == Verdict.BYPASSED, "not from an endpoint, and to none"
        return
    assert got.verdict == Verdict.FORWARDED
    assert IP(got.translated).src == side.becomes[2]


@pytest.mark.parametrize("name", SIDES)
def test_an_error_counts_for_its_session_but_changes_neither_state_nor_timer(name: str) -> None:
    for protocol in ("tcp", "udp"):
        simulator, ways = with_session(protocol)
        (session,) = simulator.sessions
        before = (session.state, session.deadline_ns, session.packets.total())
        send_error(simulator, ways[name], MAKERS[protocol](*ways[name].quoted), s=5)
        assert (session.state, session.deadline_ns, session.packets.total()) == (*before[:2], before[2] + 1)
        assert session.last_packet_ns == 5 * SECOND
        endpoint = simulator.summary()["private_endpoints"][0]
        assert endpoint["packets_in"] + endpoint["packets_out"] == 2


@pytest.mark.parametrize("name", SIDES)
def test_what_an_error_quotes_must_be_a_packet_of_a_live_session(name: str) -> None:
    simulator, ways = with_session("tcp")
    side = ways[name]
    one, port, other, other_port = side.quoted
    wrong = {
        "another port": tcp_packet(one, port + 1, other, other_port, "A"),
        "the other's port": tcp_packet(one, port, other, other_port + 1, "A"),
        "another receiver": tcp_packet(one, port, "10.0.0.77", other_port, "A"),
        "another sender": tcp_packet("10.0.0.77", port, other, other_port, "A"),
        "the other direction": tcp_packet(other, other_port, one, port, "A"),
        "another protocol": udp_packet(one, port, other, other_port, b"12345678"),
        "no ports": ipv4_packet(one, other, 47, bytes(20)),
        "a later fragment": tcp_packet(one, port, other, other_port, "A", fragment=0x2001),
    }
    for what, quoted in wrong.items():
        assert send_error(simulator, side, quoted).verdict == Verdict.ICMP_UNMATCHED, what
    first = tcp_packet(one, port, other, other_port, "A", fragment=0x2000)
    assert send_error(simulator, side, first).verdict == Verdict.FORWARDED, "a first fragment has ports"
    dropped = simulator.summary()["private_endpoints"][0]["dropped"]
    assert dropped == ({} if name == "from the provider" else {"icmp_unmatched": len(wrong)})
    simulator.advance(400 * SECOND)
    assert send_error(simulator, side, MAKERS["tcp"](*side.quoted), s=400).verdict == Verdict.ICMP_UNMATCHED


@pytest.mark.parametrize("name", SIDES)
def test_wrong_checksums_and_messages_that_end_early(name: str) -> None:
    simulator, ways = with_session("tcp")
    side = ways[name]
    quoted = tcp_packet(*side.quoted, "A", options=b"\x01" * 4)
    whole = icmp_error(11, 0, quoted)

    def verdict(message: bytes, on_wire: int | None = None, **header: Any) -> Verdict:
        packet = icmp_packet(side.quoted[2], side.quoted[0], message, **header)
        length = len(packet) if on_wire is None else 20 + on_wire
        packet = packet[:2] + struct.pack("!H", length) + packet[4:]
        return simulator.receive(
            packet, at=side.at, time_ns=0, original_length=max(length, len(packet)), link_type=RAW
        ).verdict

    assert verdict(whole) == Verdict.FORWARDED
    assert verdict(whole[:2] + b"\0\0" + whole[4:]) == Verdict.ICMP_CHECKSUM_WRONG
    bad_header = quoted[:10] + b"\0\0" + quoted[12:]
    assert verdict(icmp_error(11, 0, bad_header)) == Verdict.ICMP_CHECKSUM_WRONG
    # The quoted header is verified even if the message was not captured whole.
    assert verdict(icmp_error(11, 0, bad_header)[:50], on_wire=len(whole)) == Verdict.ICMP_CHECKSUM_WRONG
    for end in range(1, 8 + 24 + 8):
        assert verdict(icmp_error(11, 0, quoted)[:end]) == Verdict.MALFORMED, "short by its length"
        assert verdict(whole[:end], on_wire=len(whole)) == Verdict.MALFORMED, "short as captured"
    assert verdict(icmp_error(11, 0, quoted[:32])) == Verdict.FORWARDED
    assert verdict(icmp_error(11, 0, b"\x66" + quoted[1:])) == Verdict.MALFORMED, "version 6"
    assert verdict(icmp_error(11, 0, b"\x44" + quoted[1:])) == Verdict.MALFORMED, "header of 16 bytes"
    assert verdict(whole, ttl=0) == Verdict.TTL_EXPIRED
    assert verdict(whole, ttl=1) == (Verdict.FORWARDED if name == "captured" else Verdict.TTL_EXPIRED)


def test_which_types_of_icmp_are_translated() -> None:
    simulator, ways = with_session("tcp")
    side = ways["to_service"]
    quoted = MAKERS["tcp"](*side.quoted)
    for type_ in range(256):
        packet = icmp_packet(CLIENT, ENDPOINT, icmp_error(type_, 0, quoted))
        got = simulator.receive(packet, at="contoso", time_ns=0, link_type=RAW).verdict
        assert got == (Verdict.FORWARDED if type_ in (3, 4, 11, 12) else Verdict.UNSUPPORTED_PROTOCOL)
    nothing = icmp_packet(CLIENT, ENDPOINT, b"")
    assert simulator.receive(nothing, at="contoso", time_ns=0, link_type=RAW).verdict == Verdict.MALFORMED
    fragment = icmp_packet(CLIENT, ENDPOINT, icmp_error(3, 0, quoted), fragment=0x2000)
    for policy in ("drop", "translate"):
        simulator, _ = with_session("tcp", fragments=policy)
        got = simulator.receive(fragment, at="contoso", time_ns=0, link_type=RAW)
        assert got.verdict == Verdict.FRAGMENT_UNRESOLVED


def test_without_icmp_every_message_is_unsupported_and_a_routers_none_of_ours() -> None:
    simulator, ways = with_session("tcp", icmp="none")
    for side in ways.values():
        assert send_error(simulator, side, MAKERS["tcp"](*side.quoted)).verdict == Verdict.UNSUPPORTED_PROTOCOL
    side = ways["from the provider"]
    got = send_error(simulator, side, MAKERS["tcp"](*side.quoted), source=ROUTER)
    assert got.verdict == Verdict.BYPASSED
    nothing = icmp_packet(CLIENT, ENDPOINT, b"")
    assert simulator.receive(nothing, at="contoso", time_ns=0, link_type=RAW).verdict == Verdict.UNSUPPORTED_PROTOCOL


def two_endpoints(**nat: Any) -> ReferenceSimulator:
    """A second endpoint in contoso, 10.0.1.6, whose host may use the first one as well."""
    document = contoso(**nat).topology.model_dump()
    second = {"name": "second", "virtual_network": "contoso", "ip": "10.0.1.6", "target": "orders"}
    document["private_endpoints"] += (second,)
    return ReferenceSimulator(Topology.model_validate(document))


def test_between_two_endpoints_an_error_about_a_live_session_of_the_sender_comes_first() -> None:
    simulator = two_endpoints()
    request = tcp_packet("10.0.1.6", 443, ENDPOINT, 443)
    simulator.receive(request, at="contoso", time_ns=0, link_type=RAW)
    error = icmp_packet(ENDPOINT, "10.0.1.6", icmp_error(3, 1, request))
    got = simulator.receive(error, at="contoso", time_ns=0, link_type=RAW)
    assert (got.verdict, got.direction, got.endpoint) == (Verdict.FORWARDED, "to_consumer", "pe-contoso")
    broken = error[:22] + b"\0\0" + error[24:]
    got = simulator.receive(broken, at="contoso", time_ns=0, link_type=RAW)
    assert (got.verdict, got.direction, got.endpoint) == (Verdict.ICMP_CHECKSUM_WRONG, "to_consumer", "pe-contoso")
    simulator.advance(400 * SECOND)
    got = simulator.receive(error, at="contoso", time_ns=0, link_type=RAW)
    assert (got.verdict, got.direction, got.endpoint) == (Verdict.ICMP_UNMATCHED, "to_service", "second")


def test_between_two_endpoints_a_service_without_icmp_has_no_captured_errors() -> None:
    document = two_endpoints(icmp="none").topology.model_dump()
    (orders,) = document["private_link_services"]
    other = {**orders, "name": "other", "nat_ips": ("192.168.50.9",), "nat": {"icmp": "errors"}}
    document["private_link_services"] = (orders, other)
    document["private_endpoints"][-1]["target"] = "other"
    simulator = ReferenceSimulator(Topology.model_validate(document))
    request = tcp_packet("10.0.1.6", 443, ENDPOINT, 443)
    simulator.receive(request, at="contoso", time_ns=0, link_type=RAW)
    error = icmp_packet(ENDPOINT, "10.0.1.6", icmp_error(3, 1, request))
    got = simulator.receive(error, at="contoso", time_ns=0, link_type=RAW)
    assert (got.verdict, got.direction, got.endpoint) == (Verdict.ICMP_UNMATCHED, "to_service", "second")


# --- Echo ------------------------------------------------------------------------------------------------------------


def ping(simulator: ReferenceSimulator, identifier: int = 77, *, at: str = "contoso", s: float = 0) -> Outcome:
    packet = icmp_packet(CLIENT, ENDPOINT, icmp_echo(8, identifier, 5, b"odd"))
    return simulator.receive(packet, at=at, time_ns=int(s * SECOND), link_type=RAW)


def pong(simulator: ReferenceSimulator, identifier: int = 1024, *, s: float = 0) -> Outcome:
    packet = icmp_packet(BACKEND, NAT_IP, icmp_echo(0, identifier, 5, b"odd"))
    return simulator.receive(packet, at="provider", time_ns=int(s * SECOND), link_type=RAW)


def test_an_echo_goes_there_and_back_with_another_identifier() -> None:
    simulator = contoso(icmp="all")
    there = ping(simulator)
    assert there.translated == icmp_packet(NAT_IP, BACKEND, icmp_echo(8, 1024, 5, b"odd"), ttl=63)
    assert there.translated == recomputed(there.translated)
    assert (there.nat, there.session) == ((NAT_IP, 1024), 1)
    back = pong(simulator)
    assert back.translated == icmp_packet(ENDPOINT, CLIENT, icmp_echo(0, 77, 5, b"odd"), ttl=63)
    seen = icmp_packet(ENDPOINT, CLIENT, icmp_echo(0, 77, 5, b"odd"))
    captured = simulator.receive(seen, at="contoso", time_ns=0, link_type=RAW)
    assert captured.translated == icmp_packet(BACKEND, NAT_IP, icmp_echo(0, 1024, 5, b"odd"), ttl=65)
    assert captured.delivered == seen
    (session,) = simulator.sessions
    assert (session.protocol, session.state) == ("icmp", "icmp")
    sockets = (session.consumer, session.endpoint_side, session.nat, session.backend)
    numbers = [(CLIENT, 77), (ENDPOINT, 0), (NAT_IP, 1024), (BACKEND, 0)]
    assert [(str(ip), port) for ip, port in sockets] == numbers


def test_a_wrong_checksum_of_an_echo_stays_wrong_by_the_same_difference() -> None:
    message = bytearray(icmp_echo(8, 77))
    message[3] ^= 1
    simulator = contoso(icmp="all")
    got = simulator.receive(icmp_packet(CLIENT, ENDPOINT, bytes(message)), at="contoso", time_ns=0, link_type=RAW)
    right = struct.unpack_from("!H", recomputed(got.translated), 22)[0]
    wrong = struct.unpack_from("!H", got.translated, 22)[0]
    before = struct.unpack_from("!H", icmp_echo(8, 77), 2)[0]
    assert (wrong - right) % 0xFFFF == (struct.unpack_from("!H", message, 2)[0] - before) % 0xFFFF


def test_echo_has_pools_of_its_own_and_needs_no_rule() -> None:
    rules = [{"protocol": "udp", "frontend_port": 53, "backend_port": 53}]
    balancer = {"frontend_ip": "192.168.60.10", "rules": rules, "backend_pool": [BACKEND]}
    simulator = contoso(icmp="all", service={"load_balancer": balancer}, nat_ports="1024-1025")
    udp_sends(simulator)
    assert [ping(simulator, identifier).nat[1] for identifier in (1, 2)] == [1024, 1025]
    assert ping(simulator, 3).verdict == Verdict.NAT_PORTS_EXHAUSTED
    assert (ping(simulator, 1).session, ping(simulator, 2).session) == (2, 3)
    assert ping(simulator, 1, at="fabrikam").verdict == Verdict.NAT_PORTS_EXHAUSTED
    nat_ip = simulator.summary()["private_link_services"][0]["nat_ips"][0]
    assert [pool["protocol"] for pool in nat_ip["pools"]] == ["udp", "icmp"]
    assert nat_ip["capacity"] == 4
    assert simulator.first_exhaustion["protocol"] == "icmp"


def test_an_echo_session_lives_as_long_as_its_timeout_and_every_packet_refreshes_it() -> None:
    simulator = contoso(icmp="all", timeouts={"icmp": "10s"})
    ping(simulator)
    pong(simulator, s=5)
    assert state(simulator) == ("icmp", 15)
    ping(simulator, s=6)
    assert state(simulator) == ("icmp", 16)
    assert pong(simulator, s=16).verdict == Verdict.NO_SESSION
    assert simulator.ended_sessions[0].ended == "idle"


def test_which_echoes_are_none() -> None:
    def verdict(source: str, destination: str, message: bytes, at: str, **nat: Any) -> Verdict:
        simulator = contoso(**{"icmp": "all", **nat})
        if nat.get("icmp") != "errors":
            ping(simulator)
        return simulator.receive(icmp_packet(source, destination, message), at=at, time_ns=0, link_type=RAW).verdict

    unsupported = Verdict.UNSUPPORTED_PROTOCOL
    assert verdict(CLIENT, ENDPOINT, icmp_echo(0, 77), "contoso") == unsupported
    assert verdict(ENDPOINT, CLIENT, icmp_echo(8, 77), "contoso") == unsupported
    assert verdict(BACKEND, NAT_IP, icmp_echo(8, 1024), "provider") == unsupported
    assert verdict(CLIENT, ENDPOINT, icmp_message(8, 1, bytes(4)), "contoso") == unsupported
    assert verdict(CLIENT, ENDPOINT, icmp_message(13, 0, bytes(4)), "contoso") == unsupported
    assert verdict(CLIENT, ENDPOINT, icmp_echo(8, 77), "contoso", icmp="errors") == unsupported
    assert verdict(CLIENT, ENDPOINT, icmp_echo(8, 77)[:7], "contoso") == Verdict.MALFORMED
    assert verdict(CLIENT, ENDPOINT, icmp_echo(8, 77)[:1], "contoso") == Verdict.MALFORMED
    assert verdict(BACKEND, NAT_IP, icmp_echo(0, 1024)[:7], "provider") == Verdict.MALFORMED
    assert verdict(ENDPOINT, CLIENT, icmp_echo(0, 78), "contoso") == Verdict.NO_SESSION
    assert verdict(BACKEND, NAT_IP, icmp_echo(0, 1025), "provider") == Verdict.NO_SESSION
    assert verdict(ROUTER, NAT_IP, icmp_echo(0, 1024), "provider") == Verdict.BYPASSED


@pytest.mark.parametrize("name", SIDES)
def test_an_error_about_an_echo_is_translated_with_its_identifier(name: str) -> None:
    simulator = contoso(icmp="all")
    ping(simulator)
    side = sides(77, 0, 0)[name]
    kind = 0 if name == "to_service" else 8
    one, port, other, other_port = side.quoted
    quoted = icmp_packet(one, other, icmp_echo(kind, port or other_port, 5, b"odd"))
    got = send_error(simulator, side, quoted)
    one, port, other, other_port = side.becomes
    expected = icmp_packet(one, other, icmp_echo(kind, port or other_port, 5, b"odd"))
    assert got.translated == icmp_packet(
        other, one, icmp_error(3, 4, expected, rest=1400), ttl=65 if name == "captured" else 63
    )
    assert got.translated == recomputed(got.translated)
    # Another code is no echo, nor is an error about an error.
    for wrong in (icmp_message(kind, 1, struct.pack("!HH", 77, 5)), icmp_error(3, 1, quoted)):
        again = icmp_packet(side.quoted[0], side.quoted[2], wrong)
        assert send_error(simulator, side, again).verdict == Verdict.ICMP_UNMATCHED


@pytest.mark.parametrize("name", ["to_service", "captured"])
def test_an_error_quotes_what_its_receiver_sent_a_request_or_a_reply(name: str) -> None:
    """Identifier 0 and the endpoint's port 0 are the same number."""
    simulator = contoso(icmp="all")
    ping(simulator, 0)
    side = sides(0, 0, 0)[name]
    verdicts = {
        kind: send_error(simulator, side, icmp_packet(side.quoted[0], side.quoted[2], icmp_echo(kind, 0))).verdict
        for kind in (8, 0)
    }
    sent = 0 if name == "to_service" else 8
    assert verdicts == {sent: Verdict.FORWARDED, 8 - sent: Verdict.ICMP_UNMATCHED}


# --- Fragments -------------------------------------------------------------------------------------------------------

BIG = tcp_packet(CLIENT, 50000, ENDPOINT, 443, "S", bytes(range(60)))  # 80 bytes of TCP
BIG_REPLY = tcp_packet(BACKEND, 8443, NAT_IP, 1024, "SA", bytes(range(60)))


def told(received: list[tuple[Any, Outcome]]) -> list[tuple[Any, str]]:
    return [(mark, str(outcome.verdict)) for mark, outcome in received]


def arrive(
    simulator: ReferenceSimulator, packet: bytes, mark: Any = None, *, at: str = "contoso", s: float = 0
) -> list[tuple[Any, str]]:
    """A packet arrives: marks and verdicts of what is received because of it."""
    return told(simulator.arrive(packet, at=at, time_ns=int(s * SECOND), link_type=RAW, mark=mark))


def translating(**nat: Any) -> ReferenceSimulator:
    return contoso(fragments="translate", **nat)


def test_the_builder_cuts_as_scapy_does() -> None:
    by_scapy = [bytes(piece) for piece in IP(BIG).fragment(fragsize=32)]
    assert fragments_of(BIG, [32, 32]) == by_scapy


@pytest.mark.parametrize("reply", [False, True])
def test_fragments_in_order_follow_the_first_and_make_up_the_translated_packet(reply: bool) -> None:
    simulator = translating()
    if reply:
        consumer_sends(simulator)
    packet, at = (BIG_REPLY, "provider") if reply else (BIG, "contoso")
    whole = translating()
    if reply:
        consumer_sends(whole)
    expected = whole.receive(packet, at=at, time_ns=0, link_type=RAW).translated
    got = [simulator.receive(piece, at=at, time_ns=0, link_type=RAW) for piece in fragments_of(packet, [24, 8, 40])]
    assert [outcome.verdict for outcome in got] == [Verdict.FORWARDED] * 4
    assert [outcome.translated for outcome in got] == fragments_of(expected, [24, 8, 40])
    assert len({(outcome.session, outcome.nat, outcome.delivered_at) for outcome in got}) == 1
    assert simulator.datagrams == {}, "forgotten when all of it has passed"
    assert got[0].bytes + got[3].bytes == 20 + 24 + 20 + 8


def test_a_captured_reply_in_fragments_is_reconstructed() -> None:
    simulator = translating()
    consumer_sends(simulator)
    seen = tcp_packet(ENDPOINT, 443, CLIENT, 50000, "SA", bytes(30))
    expected = consumer_saw(translating_with_session(), payload=bytes(30)).translated
    got = [simulator.receive(piece, at="contoso", time_ns=0, link_type=RAW) for piece in fragments_of(seen, [32])]
    assert [outcome.translated for outcome in got] == fragments_of(expected, [32])
    assert [outcome.delivered for outcome in got] == fragments_of(seen, [32])
    assert [outcome.direction for outcome in got] == ["to_consumer"] * 2


def translating_with_session() -> ReferenceSimulator:
    simulator = translating()
    consumer_sends(simulator)
    return simulator


def test_later_fragments_wait_for_the_first_and_are_received_right_after_it_in_order_of_arrival() -> None:
    simulator = translating()
    first, second, third = fragments_of(BIG, [24, 24])
    assert arrive(simulator, third, "third", s=1) == []
    assert arrive(simulator, second, "second", s=2) == []
    assert simulator.summary()["received"] == {"packets": 0, "bytes": 0}
    simulator.check_laws()
    assert arrive(simulator, first, "first", s=3) == [
        ("first", "forwarded"), ("third", "forwarded"), ("second", "forwarded")
    ]  # fmt: skip
    assert simulator.sessions[0].id == 1
    assert simulator.sessions[0].packets["to_service"] == 3
    assert simulator.first_packet_ns == 3 * SECOND, "the clock begins with the first that is received"
    assert simulator.times_before_clock == 0, "one that waited does not run backward"
    assert simulator.finish() == []


def test_receive_says_that_a_fragment_waits() -> None:
    simulator = translating()
    got = simulator.receive(fragments_of(BIG, [24])[1], at="contoso", time_ns=0, link_type=RAW)
    assert got == Outcome(Verdict.FRAGMENT_HELD, 0)
    assert not got.verdict.is_drop


def test_a_packet_that_waits_moves_the_clock_only_when_it_is_received() -> None:
    simulator = translating()
    consumer_sends(simulator, port=1)  # ends at 30 s
    first, second = fragments_of(BIG, [24])
    assert arrive(simulator, second, s=29) == []
    assert simulator.clock_ns == 0
    assert arrive(simulator, first, s=1) == [(None, "forwarded")] * 2
    assert simulator.clock_ns == 29 * SECOND
    assert simulator.times_before_clock == 0
    assert [session.refreshed_ns // SECOND for session in simulator.sessions] == [0, 29]


def test_one_that_never_meets_its_first_is_unresolved_after_30_seconds() -> None:
    _, second, third = fragments_of(BIG, [24, 24])
    other = fragments_of(tcp_packet(CLIENT, 1, ENDPOINT, 443, "S", bytes(60), identification=7), [24])[1]
    simulator = translating()
    arrive(simulator, second, "second", s=10)
    arrive(simulator, third, "third", s=20)
    consumer_sends(simulator, s=100)
    assert simulator.received == 1, "looked at only when a fragment arrives, or at advance"
    assert arrive(simulator, other, "other", s=0) == [
        ("second", "fragment_unresolved"),
        ("third", "fragment_unresolved"),
    ]
    assert told(simulator.advance(130 * SECOND - 1)) == []
    assert told(simulator.advance(130 * SECOND)) == [("other", "fragment_unresolved")]
    assert simulator.times_before_clock == 0


def test_30_seconds_are_inclusive_and_counted_from_the_clock_at_the_first_arrival() -> None:
    first, second = fragments_of(BIG, [24])
    for late, verdicts in ((40 - 1e-9, ["forwarded"] * 2), (40, ["fragment_unresolved", "forwarded"])):
        simulator = translating()
        consumer_sends(simulator, port=1, s=10)
        assert arrive(simulator, second, s=3) == []  # counts as 10 s
        assert [verdict for _, verdict in arrive(simulator, first, s=late)] == verdicts
        assert len(simulator.datagrams) == len(set(verdicts)) - 1, "the first begins a datagram anew"


def test_the_end_of_the_input_lets_go_of_all_that_waits_datagram_by_datagram() -> None:
    simulator = translating()
    one = fragments_of(BIG, [24, 24])
    two = fragments_of(tcp_packet(CLIENT, 1, ENDPOINT, 443, "S", bytes(60), identification=7), [24, 24])
    arrive(simulator, one[1], "one, second", s=1)
    arrive(simulator, two[1], "two, second", s=1)
    arrive(simulator, one[2], "one, third", s=2)
    arrive(simulator, two[2], "two, third", s=0)
    names = ["one, second", "one, third", "two, second", "two, third"]
    assert told(simulator.finish()) == [(name, "fragment_unresolved") for name in names]
    assert simulator.summary()["dropped"]["reasons"]["fragment_unresolved"]["packets"] == 4
    simulator.check_laws()


@pytest.mark.parametrize("cause", ["no rule", "ttl", "ended"])
def test_later_fragments_are_unresolved_if_the_first_was_refused_or_the_session_is_over(cause: str) -> None:
    simulator = translating()
    port, ttl = (444 if cause == "no rule" else 443), (1 if cause == "ttl" else 64)
    packet = tcp_packet(CLIENT, 50000, ENDPOINT, port, "S", bytes(60), ttl=ttl)
    first, second, third = fragments_of(packet, [24, 24])
    arrive(simulator, second, "second")
    refusal = {"no rule": "no_load_balancing_rule", "ttl": "ttl_expired", "ended": "forwarded"}[cause]
    waited = {"no rule": "fragment_unresolved", "ttl": "ttl_expired", "ended": "forwarded"}[cause]
    assert arrive(simulator, first, "first") == [("first", refusal), ("second", waited)]
    if cause == "ended":
        consumer_sends(simulator, "R")
        simulator.advance(16 * SECOND)
    later = piece_with_ttl(third, 64)
    assert arrive(simulator, later, "third", s=16) == [("third", "fragment_unresolved")]
    assert simulator.datagrams == {}, "all of it has passed, whatever became of it"


def piece_with_ttl(packet: bytes, ttl: int) -> bytes:
    changed = IP(packet)
    changed.ttl = ttl
    del changed.chksum
    return bytes(changed)


def test_a_later_fragment_refreshes_its_session_and_has_no_flags() -> None:
    simulator = translating(tcp={"reset": "until_data"})
    first, second = fragments_of(BIG, [24])
    arrive(simulator, first)
    arrive(simulator, second, s=9)
    assert state(simulator) == ("half-open", 39)
    # As data it revives a session in reset.
    packet = tcp_packet(CLIENT, 50000, ENDPOINT, 443, "R", bytes(60))
    first, second = fragments_of(packet, [24])
    arrive(simulator, first, s=10)
    assert state(simulator) == ("reset", 26)
    arrive(simulator, second, s=11)
    assert state(simulator) == ("half-open", 41)


def test_an_overlap_condemns_what_waits_and_what_follows_but_not_what_has_passed() -> None:
    first, second, third = fragments_of(BIG, [24, 24])
    simulator = translating()
    arrive(simulator, first, "first")
    assert arrive(simulator, second, "second") == [("second", "forwarded")]
    assert arrive(simulator, second, "again") == [("again", "fragment_overlap")]
    assert arrive(simulator, third, "third") == [("third", "fragment_overlap")]
    assert arrive(simulator, first, "first", s=29) == [("first", "fragment_overlap")]
    # Forgotten after its 30 s, it may begin again.
    assert arrive(simulator, first, "first", s=30) == [("first", "forwarded")]

    simulator = translating()
    arrive(simulator, second, "second")
    arrive(simulator, third, "third")
    overlapping = fragments_of(BIG, [32])[0]
    assert arrive(simulator, overlapping, "first") == [
        ("first", "fragment_overlap"), ("second", "fragment_overlap"), ("third", "fragment_overlap")
    ]  # fmt: skip
    assert simulator.sessions == []
    assert arrive(simulator, first, "first") == [("first", "fragment_overlap")]
    simulator.check_laws()


def test_an_end_that_contradicts_condemns() -> None:
    first, second, third, fourth = fragments_of(BIG, [24, 24, 24])
    early_end = fragments_of(BIG[:-8], [24, 24])[2]  # ends where the third ends
    beyond = fragments_of(BIG + bytes(8), [24, 24, 32])[3]
    for pieces, verdicts in (
        ((first, fourth, beyond), ["forwarded", "forwarded", "fragment_overlap"]),
        ((first, fourth, early_end), ["forwarded", "forwarded", "fragment_overlap"]),
        ((first, early_end, fourth), ["forwarded", "forwarded", "fragment_overlap"]),
        ((first, second, third, fourth), ["forwarded"] * 4),
    ):
        simulator = translating()
        got = [verdict for piece in pieces for _, verdict in arrive(simulator, piece)]
        assert got == verdicts


def test_what_is_malformed_has_no_part() -> None:
    def verdict(packet: bytes, simulator: ReferenceSimulator | None = None) -> list[str]:
        return [verdict for _, verdict in arrive(simulator or translating(), packet)]

    malformed, waits = ["malformed"], []
    payload = bytes(8)
    for fragment, data, expected in (
        (0x0001, b"", malformed),
        (0x2001, b"", malformed),
        (0x2001, bytes(7), malformed),
        (0x0001, bytes(7), waits),
        (0x2001, payload, waits),
        (0x1FFF, payload, malformed),  # 65,528 + 8 + 20
        (0x1FFC, bytes(11), waits),  # 65,504 + 11 + 20 = 65,535
        (0x1FFC, bytes(12), malformed),
        (0x2000, bytes(16), malformed),  # 16 bytes of TCP
        (0x2000, bytes(24), malformed),  # data offset 0
    ):
        assert verdict(ipv4_packet(CLIENT, ENDPOINT, 6, data, fragment=fragment)) == expected, (fragment, data)
    # An odd piece in between condemns nothing.
    simulator = translating()
    first, second, third = fragments_of(BIG, [24, 24])
    odd = ipv4_packet(CLIENT, ENDPOINT, 6, bytes(25), fragment=0x2003)
    got = [verdict(piece, simulator) for piece in (first, odd, second, third)]
    assert got == [["forwarded"], ["malformed"], ["forwarded"], ["forwarded"]]


def test_a_first_fragments_udp_length_may_be_that_of_the_whole_datagram() -> None:
    packet = udp_packet(CLIENT, 50000, ENDPOINT, 53, bytes(100))
    simulator = translating()
    got = [verdict for piece in fragments_of(packet, [8, 48]) for _, verdict in arrive(simulator, piece)]
    assert got == ["forwarded"] * 3
    short = packet[:24] + b"\0\x07" + packet[26:]
    assert arrive(translating(), fragments_of(short, [48])[0]) == [(None, "malformed")]


def test_fragments_of_what_is_not_translated_are_unresolved_or_unsupported() -> None:
    first, second = fragments_of(BIG, [24])
    simulator = contoso(fragments="drop")
    assert [arrive(simulator, piece)[0][1] for piece in (second, first)] == ["fragment_unresolved"] * 2
    assert simulator.datagrams == {}
    other = ipv4_packet(CLIENT, ENDPOINT, 47, bytes(8), fragment=0x2000)
    assert arrive(translating(), other) == [(None, "unsupported_protocol")]
    bypassed = ipv4_packet(CLIENT, "10.0.0.9", 6, bytes(8), fragment=0x0001)
    assert arrive(translating(), bypassed) == [(None, "bypassed")]


def test_datagrams_differ_by_point_addresses_protocol_and_identification() -> None:
    simulator = translating()
    first, second = fragments_of(BIG, [24])
    arrive(simulator, second)
    udp = ipv4_packet(CLIENT, ENDPOINT, 17, bytes(8), fragment=0x0003)
    numbered = second[:5] + b"\x99" + second[6:]
    others = [(second, "fabrikam"), (udp, "contoso"), (numbered, "contoso")]
    assert [arrive(simulator, packet, at=at) for packet, at in others] == [[], [], []]
    assert len(simulator.datagrams) == 4
    assert len(arrive(simulator, first)) == 2


def lone(number: int, first: bool = False) -> bytes:
    """A fragment of a datagram of its own."""
    source = IPv4Address("10.0.2.0") + number
    packet = tcp_packet(source, 1, ENDPOINT, 443, "S", bytes(60))
    return fragments_of(packet, [24])[0 if first else 1]


def test_1024_datagrams_are_known_and_no_more() -> None:
    simulator = translating(nat_ports="1024-65535")
    for number in range(1024):
        assert arrive(simulator, lone(number, first=True)) == [(None, "forwarded")]
    assert arrive(simulator, lone(1024, first=True)) == [(None, "fragment_unresolved")]
    assert arrive(simulator, lone(1024)) == [(None, "fragment_unresolved")]
    assert arrive(simulator, lone(0)) == [(None, "forwarded")]
    assert arrive(simulator, lone(1024, first=True)) == [(None, "forwarded")], (
        "the first one is complete: there is room"
    )
    assert len(simulator.datagrams) == 1024
    assert arrive(simulator, lone(2000, first=True), s=30) == [(None, "forwarded")]
    assert len(simulator.datagrams) == 1


def test_1024_fragments_wait_and_no_more() -> None:
    simulator = translating()
    pieces = fragments_of(tcp_packet(CLIENT, 50000, ENDPOINT, 443, "S", bytes(1025 * 8)), [24, *[8] * 1024])
    for piece in pieces[1:1025]:
        assert arrive(simulator, piece) == []
    assert arrive(simulator, pieces[1025], "one more") == [("one more", "fragment_unresolved")]
    assert arrive(simulator, lone(1), "another") == [("another", "fragment_unresolved")]
    assert len(simulator.datagrams) == 1, "what may not wait begins nothing"
    simulator.check_laws()
    assert [verdict for _, verdict in arrive(simulator, pieces[0])] == ["forwarded"] * 1025
    assert arrive(simulator, pieces[1025], "one more") == [("one more", "forwarded")], "it had no part before"
    assert simulator.datagrams == {}


def test_between_two_endpoints_a_later_fragment_travels_as_its_first_did() -> None:
    simulator = two_endpoints(fragments="translate")
    simulator.receive(tcp_packet("10.0.1.6", 443, ENDPOINT, 443), at="contoso", time_ns=0, link_type=RAW)
    reply = tcp_packet(ENDPOINT, 443, "10.0.1.6", 443, "SA", bytes(60), ttl=1)
    first, second, third = fragments_of(reply, [24, 24])
    assert arrive(simulator, second) == []
    assert arrive(simulator, first) == [(None, "forwarded")] * 2, "a reply may have TTL 1"
    got = simulator.receive(third, at="contoso", time_ns=0, link_type=RAW)
    assert (got.verdict, got.direction, got.endpoint) == (Verdict.FORWARDED, "to_consumer", "pe-contoso")
    # Without a session they travel to_service, where TTL 1 expires.
    simulator = two_endpoints(fragments="translate")
    assert arrive(simulator, second) == []
    assert [verdict for _, verdict in arrive(simulator, first)] == ["ttl_expired"] * 2


def test_between_two_endpoints_both_services_must_translate_fragments() -> None:
    document = two_endpoints(fragments="translate").topology.model_dump()
    (orders,) = document["private_link_services"]
    other = {**orders, "name": "other", "nat_ips": ("192.168.50.9",), "nat": {"fragments": "drop"}}
    document["private_link_services"] = (orders, other)
    document["private_endpoints"][-1]["target"] = "other"
    simulator = ReferenceSimulator(Topology.model_validate(document))
    packet = tcp_packet("10.0.1.6", 443, ENDPOINT, 443, "S", bytes(60))
    assert arrive(simulator, fragments_of(packet, [24])[0]) == [(None, "fragment_unresolved")]


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
    assert summary["sessions"]["ended"] == {"closed": 0, "reset": 0, "idle": 0, "disconnected": 0, "moved": 0}
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
            received = simulator.advance(arrival.time_ns)
        else:
            received = simulator.arrive(**arrival.arguments())
        for _, outcome in received:
            assert (outcome.verdict == Verdict.FORWARDED) == (outcome.translated is not None)
        simulator.check_laws()
    for _, outcome in simulator.finish():
        assert outcome.verdict in (Verdict.FRAGMENT_UNRESOLVED, Verdict.TTL_EXPIRED)
    simulator.check_laws()
