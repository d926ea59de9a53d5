"""RFC 7857, updates to the NAT behavioural requirements: a test per section, on the engine.

Deviations are named in the tests that show them.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from scapy.layers.inet import ICMP, IP

from dataplane import Verdict
from tests.property.networks import BACKENDS, CLIENT, ENDPOINT, NAT_IPS
from tests.rfc.consumer import DNS, PROVIDER, SECOND, Consumer, Nat, arrived, nat_of
from tests.strategies import icmp_echo, icmp_error, ipv4_packet, udp_packet

ESTABLISHED, TRANSITORY = 7440 * SECOND, 240 * SECOND
OWN_TIMERS = {
    "tcp_established": "1000s",
    "tcp_half_open": "100s",
    "tcp_half_closed": "500s",
    "tcp_closing": "50s",
    "tcp_reset": "20s",
}


def closed(consumer: Consumer, time_ns: int = 0) -> Nat:
    """A connection that both sides have ended."""
    nat = consumer.established(time_ns=time_ns)
    assert consumer.tcp("FA").verdict == Verdict.FORWARDED
    assert consumer.tcp_back(nat, "FA").verdict == Verdict.FORWARDED
    return nat


def was_reset(consumer: Consumer, time_ns: int = 0) -> Nat:
    """A connection that the consumer has reset."""
    nat = consumer.established(time_ns=time_ns)
    assert consumer.tcp("R").verdict == Verdict.FORWARDED
    return nat


def echo_request(consumer: Consumer, identifier: int = 77, time_ns: int | None = None) -> int:
    """An echo request of the consumer: its identifier as the backend sees it."""
    packet = ipv4_packet(CLIENT, ENDPOINT, 1, icmp_echo(8, identifier))
    return int(IP(arrived(consumer.send(packet, time_ns=time_ns)))[ICMP].id)


# --- §2.1: timers per phase ------------------------------------------------------------------------------------------


def test_section_2_1_each_phase_has_its_own_timer() -> None:
    half_open, established, half_closed, closing, reset = (Consumer(timeouts=OWN_TIMERS) for _ in range(5))
    half_open.tcp("S", time_ns=0)
    half_open.lives_until(100 * SECOND)
    established.established(time_ns=0)
    established.lives_until(1000 * SECOND)
    half_closed.established(time_ns=0)
    half_closed.tcp("FA")
    half_closed.lives_until(500 * SECOND)
    closed(closing)
    closing.lives_until(50 * SECOND)
    was_reset(reset)
    reset.lives_until(20 * SECOND)


@pytest.mark.parametrize("profile", ["rfc", "vpp"])
def test_section_2_1_half_open_and_closing_last_four_minutes(profile: str) -> None:
    half_open, closing = Consumer(profile), Consumer(profile)
    half_open.tcp("S", time_ns=0)
    half_open.lives_until(TRANSITORY)
    closed(closing)
    closing.lives_until(TRANSITORY)


@pytest.mark.parametrize(
    ("profile", "half_open_seconds", "closing_seconds"),
    [("azure-pls", 30, 65), ("azure-natgw", 30, 65), ("azure-slb", 30, 240), ("gcp-psc", 30, 120), ("linux", 120, 120)],
)
def test_section_2_1_deviation_clouds_and_linux_are_shorter(
    profile: str, half_open_seconds: int, closing_seconds: int
) -> None:
    half_open, closing = Consumer(profile), Consumer(profile)
    half_open.tcp("S", time_ns=0)
    half_open.lives_until(half_open_seconds * SECOND)
    closed(closing)
    closing.lives_until(closing_seconds * SECOND)


def test_section_2_1_one_side_may_go_on_after_the_other_ones_fin() -> None:
    consumer = Consumer()
    nat = consumer.established(time_ns=0)
    consumer.tcp("FA")
    assert consumer.tcp_back(nat, "PA", time_ns=ESTABLISHED - 1).verdict == Verdict.FORWARDED
    consumer.lives_until(2 * ESTABLISHED - 1)


@pytest.mark.parametrize(
    ("profile", "refreshed"), [("rfc", False), ("azure-pls", False), ("linux", True), ("vpp", True)]
)
def test_section_2_1_a_late_packet_prolongs_a_closed_connection_only_where_the_engine_says_so(
    profile: str, refreshed: bool
) -> None:
    consumer = Consumer(profile, timeouts={"tcp_closing": "240s"})
    nat = closed(consumer)
    assert nat_of(consumer.tcp("A", time_ns=100 * SECOND)) == nat
    consumer.lives_until(TRANSITORY + (100 * SECOND if refreshed else 0))


def test_section_2_1_a_new_syn_opens_a_new_connection_on_a_closed_one() -> None:
    consumer = Consumer()
    closed(consumer)
    again = consumer.tcp("S", time_ns=SECOND)
    assert (again.verdict, again.session, consumer.active) == (Verdict.FORWARDED, 6, 1)
    ended = consumer.simulator.summary()["sessions"]["ended"]
    assert ended["closed"] == 1
    consumer.lives_until(SECOND + TRANSITORY)


def test_section_2_1_deviation_under_vpp_a_closed_connection_keeps_its_session_and_half_a_reopening_is_none() -> None:
    consumer = Consumer("vpp")
    nat = closed(consumer)
    assert consumer.tcp("S", time_ns=SECOND).session == 1
    assert consumer.tcp("A", time_ns=2 * SECOND).session == 1
    assert consumer.tcp_back(nat, "A", time_ns=3 * SECOND).session == 1
    consumer.lives_until(3 * SECOND + TRANSITORY)


def test_section_2_1_deviation_under_vpp_a_whole_handshake_revives_a_closed_session() -> None:
    consumer = Consumer("vpp")
    nat = closed(consumer)
    consumer.tcp("S", time_ns=SECOND)
    consumer.tcp_back(nat, "SA", time_ns=SECOND)
    assert consumer.tcp("A", time_ns=SECOND).session == 1
    consumer.lives_until(SECOND + ESTABLISHED)


# --- §2.2: RST -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["consumer", "provider"])
@pytest.mark.parametrize("flags", ["A", "PA"])
def test_section_2_2_data_after_a_reset_brings_the_connection_back(side: str, flags: str) -> None:
    consumer = Consumer()
    nat = was_reset(consumer)
    at = TRANSITORY - 1
    outcome = consumer.tcp(flags, time_ns=at) if side == "consumer" else consumer.tcp_back(nat, flags, time_ns=at)
    assert outcome.verdict == Verdict.FORWARDED
    consumer.lives_until(at + ESTABLISHED)


def test_section_2_2_without_data_a_reset_connection_is_over_after_four_minutes() -> None:
    consumer = Consumer()
    was_reset(consumer)
    consumer.lives_until(TRANSITORY)
    assert consumer.simulator.summary()["sessions"]["ended"]["reset"] == 1


def test_section_2_2_a_further_reset_brings_nothing_back_and_prolongs_nothing() -> None:
    consumer = Consumer()
    nat = was_reset(consumer)
    assert consumer.tcp("R", time_ns=100 * SECOND).verdict == Verdict.FORWARDED
    assert consumer.tcp_back(nat, "RA", time_ns=101 * SECOND).verdict == Verdict.FORWARDED
    consumer.lives_until(TRANSITORY)


@pytest.mark.parametrize("flags", ["S", "SA"])
def test_section_2_2_a_syn_of_the_provider_is_no_data(flags: str) -> None:
    consumer = Consumer()
    nat = was_reset(consumer)
    assert consumer.tcp_back(nat, flags, time_ns=100 * SECOND).verdict == Verdict.FORWARDED
    consumer.lives_until(TRANSITORY)


def test_section_2_2_a_reset_half_open_connection_comes_back_half_open() -> None:
    """Data proves that the reset was not the end, but no more than that."""
    consumer = Consumer()
    nat = nat_of(consumer.tcp("S", time_ns=0))
    consumer.tcp_back(nat, "RA")
    assert consumer.tcp("PA", time_ns=100 * SECOND).verdict == Verdict.FORWARDED
    consumer.lives_until(100 * SECOND + TRANSITORY)
    assert consumer.simulator.summary()["sessions"]["ended"]["idle"] == 1


def test_section_2_2_a_connection_that_came_back_forgets_its_fins() -> None:
    consumer = Consumer()
    nat = consumer.established(time_ns=0)
    consumer.tcp("FA")
    consumer.tcp_back(nat, "R")
    consumer.tcp("PA", time_ns=SECOND)
    consumer.tcp_back(nat, "FA", time_ns=SECOND)
    consumer.lives_until(SECOND + ESTABLISHED)


def test_section_2_2_deviation_under_vpp_data_after_a_reset_does_not_bring_the_connection_back() -> None:
    """The packet is translated and heard, but the session stays closing."""
    consumer = Consumer("vpp")
    nat = was_reset(consumer)
    assert consumer.tcp_back(nat, "PA", time_ns=100 * SECOND).verdict == Verdict.FORWARDED
    consumer.lives_until(100 * SECOND + TRANSITORY)
    assert consumer.simulator.summary()["sessions"]["ended"]["reset"] == 1


@pytest.mark.parametrize(
    ("profile", "seconds"), [("azure-pls", 16), ("azure-natgw", 16), ("azure-slb", 15), ("gcp-psc", 120)]
)
def test_section_2_2_deviation_in_the_clouds_a_reset_is_final(profile: str, seconds: int) -> None:
    consumer = Consumer(profile)
    nat = was_reset(consumer)
    assert consumer.tcp_back(nat, "PA", time_ns=5 * SECOND).verdict == Verdict.FORWARDED
    consumer.lives_until(seconds * SECOND)


def test_section_2_2_deviation_under_linux_data_only_delays_the_end() -> None:
    consumer = Consumer("linux")
    nat = was_reset(consumer)
    assert consumer.tcp_back(nat, "PA", time_ns=5 * SECOND).verdict == Verdict.FORWARDED
    consumer.lives_until(15 * SECOND)
    assert consumer.simulator.summary()["sessions"]["ended"]["reset"] == 1


# --- §3: overlapping ports -------------------------------------------------------------------------------------------


def test_section_3_one_nat_port_serves_sessions_to_different_backends() -> None:
    """The whole tuple is looked up, so nothing is ambiguous."""
    consumer = Consumer(backends=2, nat_ports="2000-2000")
    by_backend = {}
    for port in range(50_000, 50_020):
        outcome = consumer.tcp(port=port)
        if outcome.verdict == Verdict.FORWARDED:
            assert outcome.nat == (NAT_IPS[0], 2000)
            by_backend[IP(arrived(outcome)).dst] = port
        else:
            assert outcome.verdict == Verdict.NAT_PORTS_EXHAUSTED
    assert sorted(by_backend) == sorted(BACKENDS)
    for backend, port in by_backend.items():
        assert IP(arrived(consumer.tcp_back((NAT_IPS[0], 2000), source=backend))).dport == port


# --- §4: paired ------------------------------------------------------------------------------------------------------


def test_section_4_the_pair_of_host_and_nat_ip_holds_for_all_protocols() -> None:
    consumer = Consumer(nat_ips=4)
    addresses = {nat_of(consumer.tcp(port=port))[0] for port in range(50_000, 50_006)}
    addresses |= {nat_of(consumer.udp(port))[0] for port in range(50_000, 50_006)}
    echo = ipv4_packet(CLIENT, ENDPOINT, 1, icmp_echo(8, 77))
    addresses |= {nat_of(consumer.send(echo))[0]}
    assert len(addresses) == 1


def test_section_4_soft_pairing_gives_another_nat_ip_only_when_the_own_one_is_out() -> None:
    consumer = Consumer(nat_ips=2, spill=True)
    given = [nat_of(consumer.tcp(port=port)) for port in range(50_000, 50_017)]
    paired = given[0][0]
    assert [address == paired for address, _ in given] == [True] * 16 + [False]


def test_section_4_a_host_comes_back_to_its_own_nat_ip() -> None:
    consumer = Consumer(nat_ips=2, spill=True)
    paired, _ = nat_of(consumer.tcp(port=50_000, time_ns=0))
    spilled = [nat_of(consumer.tcp(port=port, time_ns=SECOND))[0] for port in range(50_001, 50_017)]
    assert spilled[-1] != paired
    assert nat_of(consumer.tcp(port=50_017, time_ns=TRANSITORY))[0] == paired


@pytest.mark.parametrize("profile", ["rfc", "linux", "vpp", "gcp-psc"])
def test_section_4_hard_pairing_refuses_when_the_own_nat_ip_is_out(profile: str) -> None:
    consumer = Consumer(profile, nat_ips=2, spill=False, probes=None)
    given = [nat_of(consumer.tcp(port=port)) for port in range(50_000, 50_016)]
    [paired] = {address for address, _ in given}
    assert consumer.tcp(port=50_016).verdict == Verdict.NAT_PORTS_EXHAUSTED
    others = [consumer.tcp(source=f"10.0.0.{host}") for host in range(5, 20)]
    assert {outcome.verdict for outcome in others} == {Verdict.FORWARDED, Verdict.NAT_PORTS_EXHAUSTED}
    assert paired not in {outcome.nat[0] for outcome in others if outcome.nat}


@pytest.mark.parametrize(("profile", "soft"), [("rfc", True), ("gcp-psc", False)])
def test_section_4_the_profile_says_whether_pairing_is_soft(profile: str, soft: bool) -> None:
    consumer = Consumer(profile, nat_ips=2)
    for port in range(50_000, 50_016):
        assert consumer.tcp(port=port).verdict == Verdict.FORWARDED
    refused = consumer.tcp(port=50_016).verdict
    assert refused == (Verdict.FORWARDED if soft else Verdict.NAT_PORTS_EXHAUSTED)


# --- §5, §6: one protocol at a time ----------------------------------------------------------------------------------


def test_section_5_mappings_of_tcp_and_udp_are_separate() -> None:
    consumer = Consumer(nat_ports="2000-2000")
    assert nat_of(consumer.tcp()) == nat_of(consumer.udp()) == (NAT_IPS[0], 2000)
    assert echo_request(consumer, 50_000) == 2000
    assert consumer.active == 3


def test_section_5_a_full_pool_of_one_protocol_leaves_the_others_alone() -> None:
    consumer = Consumer(nat_ports="2000-2000")
    assert consumer.tcp().verdict == Verdict.FORWARDED
    assert consumer.tcp(port=50_001).verdict == Verdict.NAT_PORTS_EXHAUSTED
    assert consumer.udp(50_001).verdict == Verdict.FORWARDED


def test_section_6_a_mapping_lets_only_its_own_protocol_in() -> None:
    rules = (("tcp", 443, 7000), ("udp", 53, 7000))
    with_tcp, with_udp = Consumer(rules=rules), Consumer(rules=rules)
    of_tcp, of_udp = nat_of(with_tcp.tcp()), nat_of(with_udp.udp())
    assert with_tcp.udp_back(of_tcp, port=7000).verdict == Verdict.NO_SESSION
    assert with_tcp.tcp_back(of_tcp, port=7000).verdict == Verdict.FORWARDED
    assert with_udp.tcp_back(of_udp, "S", port=7000).verdict == Verdict.NO_SESSION
    assert with_udp.udp_back(of_udp, port=7000).verdict == Verdict.FORWARDED


# --- §7: refresh -----------------------------------------------------------------------------------------------------


def test_section_7_what_the_filter_lets_in_refreshes_and_what_it_drops_does_not() -> None:
    """A deviation in part: filters are not endpoint-independent, and inbound refresh cannot be switched off."""
    consumer = Consumer()
    nat = nat_of(consumer.udp(time_ns=0))
    assert consumer.udp_back(nat, time_ns=100 * SECOND).verdict == Verdict.FORWARDED
    assert consumer.udp_back(nat, port=9, time_ns=200 * SECOND).verdict == Verdict.FILTERED
    consumer.lives_until(400 * SECOND)


def test_section_7_1_an_outbound_icmp_error_does_not_refresh() -> None:
    consumer = Consumer()
    answer = arrived(consumer.udp_back(nat_of(consumer.udp(time_ns=0)), time_ns=0))
    error = ipv4_packet(CLIENT, ENDPOINT, 1, icmp_error(3, 3, answer))
    outcome = consumer.send(error, time_ns=200 * SECOND)
    assert (outcome.verdict, outcome.delivered[0].point) == (Verdict.FORWARDED, PROVIDER)
    consumer.lives_until(300 * SECOND)


def test_section_7_1_an_outbound_reset_does_not_refresh() -> None:
    """It leaves an established connection four minutes instead of two hours, and a closed one no more than it had."""
    consumer, ended = Consumer(), Consumer()
    consumer.established(time_ns=0)
    assert consumer.tcp("R", time_ns=SECOND).verdict == Verdict.FORWARDED
    consumer.lives_until(SECOND + TRANSITORY)
    closed(ended)
    assert ended.tcp("R", time_ns=100 * SECOND).verdict == Verdict.FORWARDED
    ended.lives_until(TRANSITORY)


def test_section_7_1_deviation_a_reset_gives_a_half_open_connection_four_minutes_from_then() -> None:
    """The time of §2.2, which begins with the RST whoever sent it and whatever for."""
    consumer = Consumer()
    consumer.tcp("S", time_ns=0)
    assert consumer.tcp("R", time_ns=100 * SECOND).verdict == Verdict.FORWARDED
    consumer.lives_until(100 * SECOND + TRANSITORY)


@pytest.mark.parametrize("profile", ["linux", "vpp"])
def test_section_7_1_deviation_under_linux_and_vpp_a_reset_prolongs_a_closed_connection(profile: str) -> None:
    consumer = Consumer(profile, timeouts={"tcp_closing": "240s"})
    closed(consumer)
    assert consumer.tcp("R", time_ns=100 * SECOND).verdict == Verdict.FORWARDED
    consumer.lives_until(100 * SECOND + TRANSITORY)


def test_section_7_1_an_outbound_reset_without_a_session_opens_none() -> None:
    consumer = Consumer()
    assert consumer.tcp("R").verdict == Verdict.NOT_FIRST_PACKET
    assert consumer.active == 0


# --- §8 to §12 -------------------------------------------------------------------------------------------------------


def test_section_8_parity_is_not_kept() -> None:
    consumer = Consumer(nat_ports="1024-65535")
    assert {nat_of(consumer.udp(port))[1] % 2 for port in range(50_000, 50_040, 2)} == {0, 1}


def test_section_9_ports_are_random() -> None:
    consumer = Consumer(nat_ports="1024-65535")
    given = [nat_of(consumer.tcp(port=port))[1] for port in range(50_000, 50_040)]
    steps = {later - earlier for earlier, later in pairwise(given)}
    assert len(steps) > 30
    assert max(given) - min(given) > 32_000


@pytest.mark.parametrize("profile", ["linux", "vpp"])
def test_section_9_a_port_that_cannot_be_preserved_is_a_random_one(profile: str) -> None:
    consumer = Consumer(profile, nat_ports="1024-65535")
    hosts = [f"10.0.0.{number}" for number in range(10, 40)]
    given = [nat_of(consumer.tcp(source=host))[1] for host in hosts]
    assert given[0] == 50_000
    assert max(given[1:]) - min(given[1:]) > 32_000


@pytest.mark.parametrize("fragment", [0, 0x4000])
def test_section_10_deviation_the_identification_is_kept(fragment: int) -> None:
    """Two hosts may send the same one without DF; none is rewritten."""
    consumer = Consumer()
    for source in ("10.0.0.4", "10.0.0.5"):
        packet = udp_packet(source, 50_000, ENDPOINT, DNS, identification=4711, fragment=fragment)
        assert IP(arrived(consumer.send(packet))).id == 4711


@pytest.mark.parametrize(("profile", "seconds"), [("rfc", 60), ("vpp", 60), ("linux", 30)])
def test_section_11_an_icmp_query_lives_for_60_seconds_but_under_linux(profile: str, seconds: int) -> None:
    consumer = Consumer(profile)
    echo_request(consumer, time_ns=7)
    consumer.lives_until(seconds * SECOND + 7)


def test_section_11_the_icmp_timer_can_be_set() -> None:
    consumer = Consumer(timeouts={"icmp": "90s"})
    echo_request(consumer, time_ns=7)
    consumer.lives_until(90 * SECOND + 7)


def test_section_12_deviation_there_is_no_hairpin_for_queries() -> None:
    consumer = Consumer()
    echo_request(consumer)
    outcome = consumer.send(ipv4_packet("10.0.0.5", NAT_IPS[0], 1, icmp_echo(8, 77)))
    assert (outcome.verdict, outcome.session, consumer.active) == (Verdict.BYPASSED, None, 1)
