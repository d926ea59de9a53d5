"""RFC 5382, NAT behaviour for TCP: a test per requirement, on the engine. Deviations are named in their tests."""

from __future__ import annotations

from itertools import combinations

import pytest
from scapy.layers.inet import ICMP, IP, TCP

from dataplane import Verdict
from tests.property.networks import BACKENDS, CLIENT, ENDPOINT, NAT_IPS
from tests.rfc.consumer import BACKEND, HTTPS, HTTPS_BEHIND, PROVIDER, SECOND, Consumer, arrived, nat_of
from tests.strategies import icmp_error, ipv4_packet, tcp_packet

NEIGHBOUR = "10.0.0.5"
SECOND_ENDPOINT = "10.0.0.101"
STRANGER = "10.1.0.99"
ESTABLISHED, TRANSITORY = 7440 * SECOND, 240 * SECOND
NO_SYN = ["A", "SA", "PA", "FA", "R", "RA", "SF", "SR", "F", ""]


# --- REQ-1: mapping --------------------------------------------------------------------------------------------------


def test_req_1_all_packets_of_one_connection_have_one_mapping() -> None:
    consumer = Consumer()
    nat = consumer.established()
    assert {nat_of(consumer.tcp(flags)) for flags in ("A", "PA", "FA")} == {nat}
    assert consumer.active == 1


def test_req_1_deviation_another_port_of_the_service_is_another_mapping() -> None:
    consumer = Consumer(rules=(("tcp", 443, 8443), ("tcp", 80, 8443)))
    assert nat_of(consumer.tcp()) != nat_of(consumer.send(tcp_packet(CLIENT, 50_000, ENDPOINT, 80)))
    assert consumer.active == 2


def test_req_1_deviation_another_endpoint_is_another_mapping() -> None:
    consumer = Consumer(more_endpoints=[SECOND_ENDPOINT])
    assert nat_of(consumer.tcp()) != nat_of(consumer.send(tcp_packet(CLIENT, 50_000, SECOND_ENDPOINT, HTTPS)))
    assert consumer.active == 2


# --- REQ-2: handshakes -----------------------------------------------------------------------------------------------


def test_req_2_the_three_way_handshake_passes_and_establishes() -> None:
    consumer = Consumer()
    syn = IP(arrived(consumer.tcp("S", time_ns=0)))
    assert (syn.src, syn.dst, syn[TCP].dport, syn[TCP].flags) == (NAT_IPS[0], BACKEND, HTTPS_BEHIND, "S")
    answer = IP(arrived(consumer.tcp_back((syn.src, syn[TCP].sport), "SA")))
    assert (answer.src, answer.dst, answer[TCP].sport, answer[TCP].dport) == (str(ENDPOINT), str(CLIENT), HTTPS, 50_000)
    assert answer[TCP].flags == "SA"
    assert consumer.tcp("A").verdict == Verdict.FORWARDED
    consumer.lives_until(ESTABLISHED)


def test_req_2_a_simultaneous_open_passes_and_establishes() -> None:
    """RFC 793, figure 8: SYN and SYN cross, then both sides send SYN and ACK."""
    consumer = Consumer()
    nat = nat_of(consumer.tcp("S", time_ns=0))
    assert consumer.tcp_back(nat, "S").verdict == Verdict.FORWARDED
    assert nat_of(consumer.tcp("SA")) == nat
    assert consumer.tcp_back(nat, "SA").verdict == Verdict.FORWARDED
    consumer.lives_until(ESTABLISHED)


def test_req_2_a_simultaneous_open_without_the_consumers_ack_stays_transitory() -> None:
    consumer = Consumer()
    nat = nat_of(consumer.tcp("S", time_ns=0))
    consumer.tcp_back(nat, "S")
    consumer.tcp_back(nat, "SA")
    consumer.lives_until(TRANSITORY)


def test_req_2_a_repeated_syn_belongs_to_its_connection() -> None:
    consumer = Consumer()
    nat = nat_of(consumer.tcp("S", time_ns=0))
    assert nat_of(consumer.tcp("S", time_ns=SECOND)) == nat
    assert consumer.active == 1


@pytest.mark.parametrize("flags", NO_SYN)
@pytest.mark.parametrize("profile", ["rfc", "azure-pls", "azure-natgw", "azure-slb", "gcp-psc", "vpp"])
def test_req_2_a_connection_begins_with_a_syn(profile: str, flags: str) -> None:
    consumer = Consumer(profile)
    outcome = consumer.tcp(flags)
    assert (outcome.verdict, outcome.delivered) == (Verdict.NOT_FIRST_PACKET, [])
    assert consumer.active == 0


def test_req_2_deviation_linux_picks_up_a_connection_in_its_middle() -> None:
    consumer = Consumer("linux")
    nat = nat_of(consumer.tcp("PA", time_ns=0))
    assert consumer.tcp_back(nat, "A").verdict == Verdict.FORWARDED
    consumer.lives_until(432_000 * SECOND)


def test_req_2_data_before_the_handshake_is_over_does_not_establish() -> None:
    """The backend has not agreed yet; an ACK of the consumer alone is no agreement."""
    consumer = Consumer()
    consumer.tcp("S", time_ns=0)
    consumer.tcp("PA", time_ns=0)
    consumer.lives_until(TRANSITORY)


# --- REQ-3, REQ-4: filtering -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["rfc", "azure-pls", "linux", "vpp"])
def test_req_3_deviation_filtering_depends_on_address_and_port(profile: str) -> None:
    consumer = Consumer(profile, backends=2)
    sent = consumer.tcp()
    nat, backend = nat_of(sent), IP(arrived(sent)).dst
    [other] = set(BACKENDS) - {backend}
    assert consumer.tcp_back(nat, source=backend, port=HTTPS_BEHIND + 1).verdict == Verdict.FILTERED
    assert consumer.tcp_back(nat, source=other).verdict == Verdict.NO_SESSION
    assert consumer.tcp_back(nat, source=STRANGER).verdict == Verdict.BYPASSED
    assert consumer.tcp_back(nat, source=backend).verdict == Verdict.FORWARDED


@pytest.mark.parametrize("profile", ["rfc", "azure-pls", "linux", "vpp"])
def test_req_4_an_unsolicited_syn_is_dropped_in_silence(profile: str) -> None:
    """No packet of any kind goes back, now or later, and it makes no session."""
    consumer = Consumer(profile)
    consumer.udp(time_ns=0)
    nat = (NAT_IPS[0], 2003)
    outcome = consumer.tcp_back(nat, "S", time_ns=SECOND)
    assert (outcome.verdict, outcome.delivered, outcome.session) == (Verdict.NO_SESSION, [], None)
    before = consumer.simulator.summary()["forwarded"]
    consumer.advance(20 * SECOND)
    assert consumer.simulator.summary()["forwarded"] == before
    assert consumer.simulator.take_resets() == []
    assert consumer.active == 1


def test_req_4_an_unsolicited_syn_to_a_port_in_use_is_dropped_in_silence() -> None:
    consumer = Consumer()
    nat = nat_of(consumer.tcp("S", time_ns=0))
    outcome = consumer.tcp_back(nat, "S", port=HTTPS_BEHIND + 1, time_ns=SECOND)
    assert (outcome.verdict, outcome.delivered) == (Verdict.FILTERED, [])
    consumer.lives_until(TRANSITORY)


def test_req_4_within_six_seconds_the_consumers_syn_still_opens() -> None:
    """The SYN that came too early was not answered, so its repetition completes a simultaneous open."""
    consumer = Consumer(nat_ports="2000-2000")
    nat = (NAT_IPS[0], 2000)
    assert consumer.tcp_back(nat, "S", time_ns=0).verdict == Verdict.NO_SESSION
    assert nat_of(consumer.tcp("S", time_ns=3 * SECOND)) == nat
    assert consumer.tcp_back(nat, "S", time_ns=4 * SECOND).verdict == Verdict.FORWARDED


# --- REQ-5: timers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "seconds"),
    [("rfc", 7440), ("vpp", 7440), ("linux", 432_000)],
)
def test_req_5_an_established_connection_lives_for_two_hours_and_four_minutes_or_more(
    profile: str, seconds: int
) -> None:
    consumer = Consumer(profile)
    consumer.established(time_ns=7)
    consumer.lives_until(seconds * SECOND + 7)


@pytest.mark.parametrize(
    ("profile", "seconds"),
    [("azure-pls", 300), ("azure-natgw", 240), ("azure-slb", 240), ("gcp-psc", 1200)],
)
def test_req_5_deviation_the_clouds_end_an_established_connection_earlier(profile: str, seconds: int) -> None:
    consumer = Consumer(profile)
    consumer.established(time_ns=7)
    consumer.lives_until(seconds * SECOND + 7)


@pytest.mark.parametrize(
    ("profile", "seconds"),
    [
        ("rfc", 240), ("vpp", 240), ("linux", 120),
        ("azure-pls", 30), ("azure-natgw", 30), ("azure-slb", 30), ("gcp-psc", 30),
    ],
)  # fmt: skip
def test_req_5_a_half_open_connection_lives_as_long_as_its_profile_says(profile: str, seconds: int) -> None:
    """Four minutes by the RFC; the clouds and Linux deviate."""
    consumer = Consumer(profile)
    nat = nat_of(consumer.tcp("S", time_ns=0))
    consumer.tcp_back(nat, "SA", time_ns=7)
    consumer.lives_until(seconds * SECOND + 7)


@pytest.mark.parametrize(
    ("profile", "seconds"),
    [
        ("rfc", 240), ("vpp", 240), ("linux", 120),
        ("azure-pls", 65), ("azure-natgw", 65), ("azure-slb", 240), ("gcp-psc", 120),
    ],
)  # fmt: skip
def test_req_5_a_connection_closed_by_both_sides_lives_as_long_as_its_profile_says(profile: str, seconds: int) -> None:
    """Four minutes by the RFC; most of the clouds and Linux deviate."""
    consumer = Consumer(profile)
    nat = consumer.established(time_ns=0)
    consumer.tcp("FA")
    consumer.tcp_back(nat, "FA", time_ns=7)
    consumer.lives_until(seconds * SECOND + 7)


@pytest.mark.parametrize("side", ["consumer", "provider"])
@pytest.mark.parametrize(
    ("profile", "seconds"),
    [
        ("rfc", 240), ("vpp", 240), ("linux", 10),
        ("azure-pls", 16), ("azure-natgw", 16), ("azure-slb", 15), ("gcp-psc", 120),
    ],
)  # fmt: skip
def test_req_5_a_connection_that_was_reset_lives_as_long_as_its_profile_says(
    profile: str, seconds: int, side: str
) -> None:
    consumer = Consumer(profile)
    nat = consumer.established(time_ns=0)
    outcome = consumer.tcp("R", time_ns=7) if side == "consumer" else consumer.tcp_back(nat, "R", time_ns=7)
    assert outcome.verdict == Verdict.FORWARDED
    consumer.lives_until(seconds * SECOND + 7)


def test_req_5_one_fin_leaves_the_connection_established() -> None:
    consumer = Consumer()
    consumer.established(time_ns=0)
    consumer.tcp("FA", time_ns=7)
    consumer.lives_until(ESTABLISHED + 7)


def test_req_5_deviation_vpp_closes_at_the_first_fin() -> None:
    consumer = Consumer("vpp")
    consumer.established(time_ns=0)
    consumer.tcp("FA", time_ns=7)
    consumer.lives_until(TRANSITORY + 7)


def test_req_5_packets_of_both_sides_keep_a_connection_alive() -> None:
    consumer = Consumer()
    nat = consumer.established(time_ns=0)
    assert consumer.tcp("A", time_ns=ESTABLISHED - 1).verdict == Verdict.FORWARDED
    assert consumer.tcp_back(nat, "A", time_ns=2 * ESTABLISHED - 2).verdict == Verdict.FORWARDED
    consumer.lives_until(3 * ESTABLISHED - 2)


def test_req_5_at_its_end_a_connection_is_over_for_the_packet_of_that_moment() -> None:
    consumer = Consumer()
    nat = consumer.established(time_ns=0)
    assert consumer.tcp_back(nat, "A", time_ns=ESTABLISHED).verdict == Verdict.NO_SESSION
    assert consumer.tcp("A", time_ns=ESTABLISHED).verdict == Verdict.NOT_FIRST_PACKET


def test_req_5_a_session_that_timed_out_ends_in_silence_unless_resets_are_asked_for() -> None:
    quiet, loud = Consumer(), Consumer(idle_reset=True)
    for consumer in (quiet, loud):
        consumer.established(time_ns=0)
        consumer.advance(ESTABLISHED)
        assert consumer.active == 0
    assert quiet.simulator.take_resets() == []
    assert [reset.packet[TCP].flags for reset in loud.simulator.take_resets()] == ["R", "R"]


@pytest.mark.parametrize("key", ["tcp_established", "tcp_half_open", "tcp_closing", "tcp_reset"])
def test_req_5_each_timer_can_be_set(key: str) -> None:
    consumer = Consumer(timeouts={key: "500s"})
    nat = nat_of(consumer.tcp("S", time_ns=0))
    if key != "tcp_half_open":
        consumer.tcp_back(nat, "SA")
        consumer.tcp("A")
    if key == "tcp_closing":
        consumer.tcp("FA")
        consumer.tcp_back(nat, "FA")
    if key == "tcp_reset":
        consumer.tcp("R")
    consumer.lives_until(500 * SECOND)


# --- REQ-6, REQ-7, REQ-8 ---------------------------------------------------------------------------------------------


def test_req_6_addresses_in_a_payload_are_left_alone() -> None:
    """No gateway for any application, FTP included."""
    consumer = Consumer(rules=(("tcp", 443, 8443), ("tcp", 21, 21)))
    command = b"PORT 10,0,0,4,195,80\r\n"
    assert consumer.send(tcp_packet(CLIENT, 50_000, ENDPOINT, 21)).verdict == Verdict.FORWARDED
    assert arrived(consumer.send(tcp_packet(CLIENT, 50_000, ENDPOINT, 21, "PA", command)))[40:] == command


@pytest.mark.parametrize("profile", ["rfc", "azure-pls", "gcp-psc", "azure-natgw"])
def test_req_7_no_port_has_two_mappings(profile: str) -> None:
    consumer = Consumer(profile)
    given = [nat_of(consumer.tcp(port=port)) for port in range(50_000, 50_016)]
    assert all(one != other for one, other in combinations(given, 2))
    assert consumer.tcp(port=50_016).verdict == Verdict.NAT_PORTS_EXHAUSTED
    for port, nat in enumerate(given, 50_000):
        assert IP(arrived(consumer.tcp_back(nat)))[TCP].dport == port


@pytest.mark.parametrize("profile", ["linux", "vpp"])
def test_req_7_two_hosts_with_one_source_port_do_not_share_a_preserved_port(profile: str) -> None:
    consumer = Consumer(profile, nat_ports="1024-65535")
    mine, others = nat_of(consumer.tcp()), nat_of(consumer.tcp(source=NEIGHBOUR))
    assert mine[1] == 50_000 != others[1]
    assert IP(arrived(consumer.tcp_back(mine))).dst == str(CLIENT)
    assert IP(arrived(consumer.tcp_back(others))).dst == NEIGHBOUR


def test_req_8_deviation_there_is_no_hairpin() -> None:
    consumer = Consumer()
    nat = nat_of(consumer.tcp())
    outcome = consumer.send(tcp_packet(NEIGHBOUR, 50_000, *nat))
    assert (outcome.verdict, outcome.session) == (Verdict.BYPASSED, None)
    assert consumer.active == 1


# --- REQ-9, REQ-10: ICMP ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", range(16))
@pytest.mark.parametrize("profile", ["rfc", "azure-pls", "gcp-psc", "linux", "vpp"])
def test_req_9_destination_unreachable_is_translated(profile: str, code: int) -> None:
    consumer = Consumer(profile)
    syn = tcp_packet(CLIENT, 50_000, ENDPOINT, HTTPS)
    sent = consumer.send(syn)
    error = ipv4_packet(BACKEND, NAT_IPS[0], 1, icmp_error(3, code, arrived(sent)))
    packet = IP(arrived(consumer.send(error, PROVIDER)))
    assert (packet.src, packet.dst, packet[ICMP].type, packet[ICMP].code) == (str(ENDPOINT), str(CLIENT), 3, code)
    quoted = bytes(packet[ICMP].payload)
    assert quoted[12:] == syn[12:]


@pytest.mark.parametrize("profile", ["azure-natgw", "azure-slb"])
def test_req_9_deviation_engines_without_icmp_translate_none(profile: str) -> None:
    consumer = Consumer(profile)
    sent = consumer.tcp()
    nat = nat_of(sent)
    outcome = consumer.send(ipv4_packet(BACKEND, nat[0], 1, icmp_error(3, 3, arrived(sent))), PROVIDER)
    assert (outcome.verdict, outcome.delivered) == (Verdict.UNSUPPORTED_PROTOCOL, [])
    outcome = consumer.send(ipv4_packet(CLIENT, ENDPOINT, 1, icmp_error(3, 3, arrived(consumer.tcp_back(nat)))))
    assert (outcome.verdict, outcome.delivered) == (Verdict.UNSUPPORTED_PROTOCOL, [])


@pytest.mark.parametrize(("kind", "code"), [(3, 0), (3, 1), (3, 2), (3, 3), (3, 4), (4, 0), (11, 0), (11, 1), (12, 0)])
def test_req_10_an_icmp_error_ends_no_connection_and_moves_no_timer(kind: int, code: int) -> None:
    consumer = Consumer()
    nat = consumer.established(time_ns=0)
    segment = arrived(consumer.tcp("PA", payload=b"GET /"))
    error = ipv4_packet(BACKEND, nat[0], 1, icmp_error(kind, code, segment))
    assert consumer.send(error, PROVIDER, time_ns=SECOND).verdict == Verdict.FORWARDED
    consumer.lives_until(ESTABLISHED)


@pytest.mark.parametrize(("kind", "code"), [(3, 1), (3, 3), (11, 0)])
def test_req_10_an_icmp_error_does_not_end_a_half_open_connection(kind: int, code: int) -> None:
    consumer = Consumer()
    sent = consumer.tcp("S", time_ns=0)
    error = ipv4_packet(BACKEND, NAT_IPS[0], 1, icmp_error(kind, code, arrived(sent)))
    assert consumer.send(error, PROVIDER, time_ns=SECOND).verdict == Verdict.FORWARDED
    consumer.lives_until(TRANSITORY)
