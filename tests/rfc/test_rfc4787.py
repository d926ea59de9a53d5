"""RFC 4787, NAT behaviour for UDP: a test per requirement, on the engine. Deviations are named in their tests."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import pytest
from scapy.layers.inet import ICMP, IP, UDP

from dataplane import Outcome, Simulator, Verdict
from dataplane.topology.model import Topology
from tests.property.networks import BACKENDS, CLIENT, ENDPOINT, NAT_IPS, network
from tests.rfc.consumer import BACKEND, DNS, DNS_BEHIND, PROVIDER, SECOND, Consumer, Nat, arrived, nat_of
from tests.strategies import fragments_of, icmp_error, ipv4_packet, piece_of, udp_packet

NEIGHBOUR = "10.0.0.5"
SECOND_ENDPOINT = "10.0.0.101"
STRANGER = "10.1.0.99"
WAIT = 30 * SECOND
"""How long a datagram's fragments are waited for."""


def opened(consumer: Consumer, ports: Sequence[int]) -> list[Nat]:
    return [nat_of(consumer.udp(port)) for port in ports]


# --- REQ-1: mapping --------------------------------------------------------------------------------------------------


def test_req_1_all_datagrams_of_one_flow_have_one_mapping() -> None:
    consumer = Consumer()
    assert len({nat_of(consumer.udp(time_ns=number * SECOND)) for number in range(5)}) == 1
    assert consumer.active == 1


def test_req_1_deviation_another_port_of_the_service_is_another_mapping() -> None:
    consumer = Consumer(rules=(("udp", 53, 5353), ("udp", 123, 5353)))
    to_dns = nat_of(consumer.udp())
    to_ntp = nat_of(consumer.send(udp_packet(CLIENT, 50_000, ENDPOINT, 123)))
    assert to_dns != to_ntp
    assert consumer.active == 2


def test_req_1_deviation_another_endpoint_is_another_mapping() -> None:
    consumer = Consumer(more_endpoints=[SECOND_ENDPOINT])
    first = nat_of(consumer.udp())
    second = nat_of(consumer.send(udp_packet(CLIENT, 50_000, SECOND_ENDPOINT, DNS)))
    assert first != second
    assert consumer.active == 2


# --- REQ-2: paired ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["rfc", "linux", "vpp", "gcp-psc"])
def test_req_2_all_mappings_of_a_host_have_one_nat_ip(profile: str) -> None:
    consumer = Consumer(profile, nat_ips=4)
    of_client = {address for address, _ in opened(consumer, range(50_000, 50_012))}
    assert len(of_client) == 1
    hosts = [f"10.0.0.{number}" for number in range(5, 25)]
    assert len({nat_of(consumer.udp(source=host))[0] for host in hosts}) > 1


@pytest.mark.parametrize("profile", ["azure-pls", "azure-natgw"])
def test_req_2_deviation_a_hash_of_the_flow_spreads_a_host_over_nat_ips(profile: str) -> None:
    consumer = Consumer(profile, nat_ips=4)
    assert len({address for address, _ in opened(consumer, range(50_000, 50_012))}) > 1


# --- REQ-3, REQ-4: ports ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["rfc", "azure-pls", "gcp-psc", "azure-natgw", "azure-slb"])
def test_req_3_no_port_has_two_mappings(profile: str) -> None:
    consumer = Consumer(profile, nat_ports="2000-2015", block_size=16)
    given = opened(consumer, range(50_000, 50_016))
    assert sorted(port for _, port in given) == list(range(2000, 2016))
    assert consumer.udp(50_016).verdict in (Verdict.NAT_PORTS_EXHAUSTED, Verdict.ENDPOINT_PORT_LIMIT)
    for port, nat in enumerate(given, 50_000):
        answer = IP(arrived(consumer.udp_back(nat)))
        assert (answer.dst, answer[UDP].dport) == (str(CLIENT), port)


@pytest.mark.parametrize("profile", ["linux", "vpp"])
def test_req_3_two_hosts_with_one_source_port_do_not_share_a_preserved_port(profile: str) -> None:
    consumer = Consumer(profile, nat_ports="1024-65535")
    mine, others = nat_of(consumer.udp()), nat_of(consumer.udp(source=NEIGHBOUR))
    assert mine[1] == 50_000 != others[1]
    assert IP(arrived(consumer.udp_back(mine))).dst == str(CLIENT)
    assert IP(arrived(consumer.udp_back(others))).dst == NEIGHBOUR


@pytest.mark.parametrize("profile", ["rfc", "azure-pls", "linux", "vpp"])
def test_req_3a_deviation_a_source_port_below_1024_is_mapped_above(profile: str) -> None:
    consumer = Consumer(profile, nat_ports="1024-65535")
    assert all(port >= 1024 for _, port in opened(consumer, [1, 53, 500, 1023]))


def test_req_4_deviation_parity_is_not_kept() -> None:
    consumer = Consumer(nat_ports="1024-65535")
    even = opened(consumer, range(50_000, 50_040, 2))
    odd = opened(consumer, range(50_001, 50_041, 2))
    assert {port % 2 for _, port in even} == {port % 2 for _, port in odd} == {0, 1}


@pytest.mark.parametrize("profile", ["linux", "vpp"])
def test_req_4_a_preserved_port_keeps_its_parity(profile: str) -> None:
    consumer = Consumer(profile, nat_ports="1024-65535")
    assert [port for _, port in opened(consumer, range(50_000, 50_010))] == list(range(50_000, 50_010))


# --- REQ-5, REQ-6: timers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "seconds"),
    [("rfc", 300), ("azure-pls", 300), ("vpp", 300), ("azure-natgw", 240), ("azure-slb", 240), ("linux", 120)],
)
def test_req_5_a_mapping_lives_for_two_minutes_or_more(profile: str, seconds: int) -> None:
    consumer = Consumer(profile)
    consumer.udp_back(nat_of(consumer.udp(time_ns=0)), time_ns=7)
    consumer.lives_until(seconds * SECOND + 7)


@pytest.mark.parametrize("profile", ["linux", "gcp-psc"])
def test_req_5_deviation_an_unanswered_mapping_lives_for_30_seconds(profile: str) -> None:
    consumer = Consumer(profile)
    consumer.udp(time_ns=7)
    consumer.lives_until(30 * SECOND + 7)


def test_req_5_deviation_gcp_psc_keeps_an_answered_mapping_for_30_seconds_as_well() -> None:
    consumer = Consumer("gcp-psc")
    consumer.udp_back(nat_of(consumer.udp(time_ns=0)), time_ns=7)
    consumer.lives_until(30 * SECOND + 7)


def test_req_5a_one_service_port_may_have_a_shorter_timer() -> None:
    document = network(rules=(("udp", 53, 5353), ("udp", 5000, 5000)), nat={"profile": "rfc"}).model_dump(mode="json")
    document["private_link_services"][0]["load_balancer"]["rules"][0]["idle_timeout"] = "4m"
    consumer = Consumer()
    consumer.simulator = Simulator(Topology.model_validate(document))
    consumer.udp(time_ns=0)
    consumer.send(udp_packet(CLIENT, 50_000, ENDPOINT, 5000), time_ns=0)
    consumer.advance(240 * SECOND - 1)
    assert consumer.active == 2
    consumer.advance(240 * SECOND)
    assert consumer.active == 1
    consumer.lives_until(300 * SECOND)


@pytest.mark.parametrize("seconds", [120, 600])
def test_req_5b_the_timer_can_be_set(seconds: int) -> None:
    consumer = Consumer(timeouts={"udp": f"{seconds}s"})
    consumer.udp(time_ns=7)
    consumer.lives_until(seconds * SECOND + 7)


def test_req_5_an_expired_mapping_carries_no_answer() -> None:
    consumer = Consumer()
    nat = nat_of(consumer.udp(time_ns=0))
    assert consumer.udp_back(nat, time_ns=300 * SECOND).verdict == Verdict.NO_SESSION


def test_req_6_a_datagram_of_the_consumer_refreshes_the_mapping() -> None:
    consumer = Consumer()
    nat = nat_of(consumer.udp(time_ns=0))
    assert nat_of(consumer.udp(time_ns=300 * SECOND - 1)) == nat
    consumer.lives_until(600 * SECOND - 1)


def test_req_6a_a_datagram_of_the_provider_refreshes_the_mapping() -> None:
    consumer = Consumer()
    nat = nat_of(consumer.udp(time_ns=0))
    assert consumer.udp_back(nat, time_ns=300 * SECOND - 1).verdict == Verdict.FORWARDED
    consumer.lives_until(600 * SECOND - 1)


def test_req_6_a_datagram_that_is_filtered_refreshes_nothing() -> None:
    consumer = Consumer()
    nat = nat_of(consumer.udp(time_ns=0))
    assert consumer.udp_back(nat, port=DNS_BEHIND + 1, time_ns=200 * SECOND).verdict == Verdict.FILTERED
    consumer.lives_until(300 * SECOND)


# --- REQ-7, REQ-8, REQ-9, REQ-10 -------------------------------------------------------------------------------------


def test_req_7_consumers_with_the_same_address_are_told_apart() -> None:
    consumer = Consumer(tenants=3)
    given = [nat_of(consumer.udp(tenant=tenant)) for tenant in range(3)]
    assert len(set(given)) == 3
    answers = [consumer.udp_back(nat) for nat in given]
    assert [outcome.delivered[0].point for outcome in answers] == ["tenant0", "tenant1", "tenant2"]
    assert len({arrived(outcome) for outcome in answers}) == 1


def test_req_7_a_consumer_may_have_the_address_of_the_backend_or_of_the_nat() -> None:
    document = network(nat={"profile": "rfc", "nat_ports": "2000-2015"}).model_dump(mode="json")
    document["virtual_networks"][0]["address_space"] = ["10.0.0.0/16", "10.1.0.0/16"]
    consumer = Consumer()
    consumer.simulator = Simulator(Topology.model_validate(document))
    for source in (BACKEND, NAT_IPS[0]):
        outcome = consumer.udp(source=source)
        assert (outcome.delivered[0].point, IP(arrived(outcome)).src) == (PROVIDER, NAT_IPS[0])
        answer = consumer.udp_back(nat_of(outcome))
        assert answer.delivered[0].point == "tenant0"
        packet = IP(arrived(answer))
        assert (packet.src, packet.dst, packet[UDP].dport) == (str(ENDPOINT), source, 50_000)


@pytest.mark.parametrize("profile", ["rfc", "azure-pls", "linux", "vpp"])
def test_req_8_deviation_filtering_depends_on_address_and_port(profile: str) -> None:
    consumer = Consumer(profile, backends=2)
    sent = consumer.udp()
    nat, backend = nat_of(sent), IP(arrived(sent)).dst
    [other] = set(BACKENDS) - {backend}
    assert consumer.udp_back(nat, source=backend, port=DNS_BEHIND + 1).verdict == Verdict.FILTERED
    assert consumer.udp_back(nat, source=other).verdict == Verdict.NO_SESSION
    assert consumer.udp_back(nat, source=STRANGER).verdict == Verdict.BYPASSED
    assert consumer.udp_back(nat, source=backend).verdict == Verdict.FORWARDED


def test_req_8_without_a_mapping_nothing_comes_in() -> None:
    consumer = Consumer()
    assert {consumer.udp_back((NAT_IPS[0], port)).verdict for port in range(2000, 2016)} == {Verdict.NO_SESSION}


def test_req_9_deviation_there_is_no_hairpin() -> None:
    """A consumer that speaks to a NAT address speaks to a stranger; no session is made or used."""
    consumer = Consumer()
    address, port = nat_of(consumer.udp())
    outcome = consumer.send(udp_packet(NEIGHBOUR, 50_000, address, port))
    assert (outcome.verdict, outcome.session) == (Verdict.BYPASSED, None)
    assert consumer.active == 1


def test_req_10_addresses_in_a_payload_are_left_alone() -> None:
    """No gateway for any application: a SIP message keeps its private address."""
    consumer = Consumer(rules=(("udp", 5060, 5060),))
    message = b"INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.4:5060\r\nContact: <sip:c@10.0.0.4:5060>\r\n\r\n"
    outcome = consumer.send(udp_packet(CLIENT, 5060, ENDPOINT, 5060, message))
    assert arrived(outcome)[28:] == message


# --- REQ-11: determinism ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["rfc", "azure-pls", "linux", "vpp"])
def test_req_11_the_same_datagrams_get_the_same_ports(profile: str) -> None:
    first, second = Consumer(profile), Consumer(profile)
    given = [first.udp(port).nat for port in range(50_000, 50_020)]
    assert [second.udp(port).nat for port in range(50_000, 50_020)] == given
    assert len(set(given)) > 1


@pytest.mark.parametrize("others", [0, 14])
def test_req_11_mapping_and_filtering_are_the_same_in_an_empty_and_in_a_nearly_full_pool(others: int) -> None:
    consumer = Consumer()
    opened(consumer, range(40_000, 40_000 + others))
    nat = nat_of(consumer.udp(time_ns=SECOND))
    assert nat_of(consumer.udp()) == nat
    another = consumer.udp(50_001)
    assert another.verdict == Verdict.FORWARDED
    assert another.nat != nat
    assert consumer.udp_back(nat, port=DNS_BEHIND + 1).verdict == Verdict.FILTERED
    assert consumer.udp_back(nat, time_ns=2 * SECOND).verdict == Verdict.FORWARDED
    consumer.advance(302 * SECOND - 1)
    assert consumer.active == 1


def test_req_11_a_full_pool_refuses_and_changes_nothing_for_those_who_have_a_port() -> None:
    consumer = Consumer()
    given = opened(consumer, range(50_000, 50_016))
    assert consumer.udp(50_016).verdict == Verdict.NAT_PORTS_EXHAUSTED
    assert opened(consumer, range(50_000, 50_016)) == given
    assert {consumer.udp_back(nat).verdict for nat in given} == {Verdict.FORWARDED}


# --- REQ-12, REQ-13: ICMP --------------------------------------------------------------------------------------------

ERRORS = [(3, 0), (3, 1), (3, 2), (3, 3), (3, 4), (3, 13), (4, 0), (11, 0), (11, 1), (12, 0)]


@pytest.mark.parametrize(("kind", "code"), ERRORS)
def test_req_12_an_icmp_error_does_not_end_a_mapping(kind: int, code: int) -> None:
    consumer = Consumer()
    sent = consumer.udp(time_ns=0)
    nat = nat_of(sent)
    error = ipv4_packet(BACKEND, nat[0], 1, icmp_error(kind, code, arrived(sent)))
    assert consumer.send(error, PROVIDER, time_ns=100 * SECOND).verdict == Verdict.FORWARDED
    consumer.lives_until(300 * SECOND)


def test_req_12_a_consumer_s_icmp_error_does_not_end_a_mapping_either() -> None:
    consumer = Consumer()
    answer = arrived(consumer.udp_back(nat_of(consumer.udp(time_ns=0)), time_ns=0))
    error = ipv4_packet(CLIENT, ENDPOINT, 1, icmp_error(3, 3, answer))
    assert consumer.send(error, time_ns=100 * SECOND).verdict == Verdict.FORWARDED
    consumer.lives_until(300 * SECOND)


@pytest.mark.parametrize("profile", ["azure-natgw", "azure-slb"])
def test_req_12_deviation_engines_without_icmp_translate_no_error_and_keep_the_mapping(profile: str) -> None:
    consumer = Consumer(profile)
    sent = consumer.udp(time_ns=0)
    error = ipv4_packet(BACKEND, NAT_IPS[0], 1, icmp_error(3, 3, arrived(sent)))
    outcome = consumer.send(error, PROVIDER)
    assert (outcome.verdict, outcome.delivered) == (Verdict.UNSUPPORTED_PROTOCOL, [])
    consumer.lives_until(240 * SECOND)


def test_req_13_fragmentation_needed_reaches_the_consumer_with_its_mtu() -> None:
    """A router beyond the NAT says it; the consumer sees its own packet quoted."""
    consumer = Consumer()
    query = udp_packet(CLIENT, 50_000, ENDPOINT, DNS, bytes(1400), fragment=0x4000)
    sent = consumer.send(query)
    error = ipv4_packet(STRANGER, nat_of(sent)[0], 1, icmp_error(3, 4, arrived(sent)[:28], 1280))
    packet = IP(arrived(consumer.send(error, PROVIDER)))
    assert (packet.src, packet.dst) == (str(ENDPOINT), str(CLIENT))
    assert (packet[ICMP].type, packet[ICMP].code, packet[ICMP].nexthopmtu) == (3, 4, 1280)
    assert bytes(packet[ICMP].payload)[12:24] == query[12:24]


def test_req_13_deviation_no_link_has_an_mtu_so_a_large_datagram_passes() -> None:
    consumer = Consumer()
    query = udp_packet(CLIENT, 50_000, ENDPOINT, DNS, bytes(9000), fragment=0x4000)
    assert len(arrived(consumer.send(query))) == len(query)


# --- REQ-14: fragments -----------------------------------------------------------------------------------------------


def answer_in_fragments(nat: Nat, identification: int = 1) -> list[bytes]:
    """A datagram of the backend in three fragments."""
    packet = udp_packet(BACKEND, DNS_BEHIND, *nat, bytes(range(40)), identification=identification)
    return fragments_of(packet, [16, 16])


def query_in_fragments(port: int = 50_000, identification: int = 1) -> list[bytes]:
    """A datagram of the consumer in three fragments."""
    packet = udp_packet(CLIENT, port, ENDPOINT, DNS, bytes(range(40)), identification=identification)
    return fragments_of(packet, [16, 16])


def payloads(outcomes: Sequence[Outcome]) -> dict[int, bytes]:
    """What was delivered, by fragment offset; each with the addresses of the first one and a right header."""
    found = {}
    ends = set()
    for outcome in outcomes:
        for delivery in outcome.delivered:
            packet = IP(bytes(delivery.packet)[14:])
            ends.add((packet.src, packet.dst))
            checksum = packet.chksum
            del packet.chksum
            assert IP(bytes(packet)).chksum == checksum
            found[packet.frag * 8] = bytes(packet)[20:]
    assert len(ends) <= 1
    return found


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_req_14_fragments_of_an_answer_arrive_whatever_their_order(order: tuple[int, ...]) -> None:
    consumer = Consumer()
    pieces = answer_in_fragments(nat_of(consumer.udp()))
    found = payloads([consumer.send(pieces[number], PROVIDER) for number in order])
    assert sorted(found) == [0, 16, 32]
    whole = b"".join(found[offset] for offset in sorted(found))
    expected = udp_packet(ENDPOINT, DNS, CLIENT, 50_000, bytes(range(40)))[20:]
    assert whole == expected


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_req_14a_fragments_of_a_query_arrive_whatever_their_order(order: tuple[int, ...]) -> None:
    consumer = Consumer()
    pieces = query_in_fragments()
    outcomes = [consumer.send(pieces[number]) for number in order]
    [nat] = {outcome.nat for outcome in outcomes if outcome.nat}
    found = payloads(outcomes)
    whole = b"".join(found[offset] for offset in sorted(found))
    assert whole == udp_packet(nat[0], nat[1], BACKEND, DNS_BEHIND, bytes(range(40)))[20:]
    assert consumer.active == 1


def test_req_14_a_fragment_before_the_first_one_waits_and_creates_nothing() -> None:
    consumer = Consumer()
    _, middle, last = query_in_fragments()
    outcomes = [consumer.send(middle), consumer.send(last)]
    assert [(outcome.verdict, outcome.delivered) for outcome in outcomes] == [(Verdict.FRAGMENT_HELD, [])] * 2
    assert (consumer.active, consumer.simulator.waiting) == (0, 2)


@pytest.mark.parametrize("late", [0, 1])
def test_req_14_a_datagram_is_waited_for_30_seconds(late: int) -> None:
    consumer = Consumer()
    first, middle, last = query_in_fragments()
    consumer.send(middle, time_ns=0)
    outcome = consumer.send(first, time_ns=WAIT - 1 + late)
    assert outcome.verdict == Verdict.FORWARDED
    assert len(outcome.delivered) == 2 - late
    assert consumer.dropped(Verdict.FRAGMENT_UNRESOLVED) == late
    assert consumer.simulator.waiting == 0
    assert consumer.send(last).verdict == Verdict.FORWARDED


def test_req_14_a_lost_first_fragment_leaves_nothing_behind() -> None:
    consumer = Consumer()
    _, middle, last = query_in_fragments()
    consumer.send(middle, time_ns=0)
    consumer.send(last, time_ns=0)
    consumer.advance(WAIT - 1)
    assert consumer.simulator.waiting == 2
    consumer.advance(WAIT)
    assert (consumer.simulator.waiting, consumer.active) == (0, 0)
    assert consumer.dropped(Verdict.FRAGMENT_UNRESOLVED) == 2
    [nat_ip] = consumer.simulator.summary()["private_link_services"][0]["nat_ips"]
    assert nat_ip["availability_percent"] == 100.0


def test_req_14_no_more_than_1024_fragments_wait() -> None:
    consumer = Consumer()
    datagram = udp_packet(CLIENT, 50_000, ENDPOINT, DNS, bytes(8 * 1100), identification=1)
    for number in range(1, 1025):
        held = consumer.send(piece_of(datagram, 8 * number, 8 * number + 8, True))
        assert held.verdict == Verdict.FRAGMENT_HELD
    one_more = consumer.send(piece_of(datagram, 8 * 1025, 8 * 1026, True))
    assert one_more.verdict == Verdict.FRAGMENT_UNRESOLVED
    assert consumer.simulator.waiting == 1024
    assert len(consumer.send(piece_of(datagram, 0, 8, True)).delivered) == 1025
    assert consumer.simulator.waiting == 0


def test_req_14_no_more_than_1024_datagrams_are_known() -> None:
    """Their number is bounded even if none waits: one more is not translated, until one is forgotten."""
    consumer = Consumer()
    for number in range(1024):
        assert consumer.send(query_in_fragments(identification=number)[0], time_ns=0).verdict == Verdict.FORWARDED
    first, middle, last = query_in_fragments(identification=1024)
    assert consumer.send(first).verdict == Verdict.FRAGMENT_UNRESOLVED
    for piece in query_in_fragments(identification=0)[1:]:
        assert consumer.send(piece).verdict == Verdict.FORWARDED
    assert [consumer.send(piece).verdict for piece in (first, middle, last)] == [Verdict.FORWARDED] * 3


def test_req_14_an_overlapping_fragment_drops_the_rest_of_its_datagram() -> None:
    consumer = Consumer()
    first, middle, last = query_in_fragments()
    assert consumer.send(first).verdict == Verdict.FORWARDED
    assert consumer.send(middle).verdict == Verdict.FORWARDED
    assert consumer.send(middle).verdict == Verdict.FRAGMENT_OVERLAP
    assert consumer.send(last).verdict == Verdict.FRAGMENT_OVERLAP
    others = [consumer.send(piece) for piece in query_in_fragments(identification=2)]
    assert {outcome.verdict for outcome in others} == {Verdict.FORWARDED}


@pytest.mark.parametrize("profile", ["azure-pls", "azure-natgw", "azure-slb", "gcp-psc"])
def test_req_14_deviation_the_clouds_drop_fragments(profile: str) -> None:
    consumer = Consumer(profile)
    verdicts = {consumer.send(piece).verdict for piece in query_in_fragments()}
    assert verdicts == {Verdict.FRAGMENT_UNRESOLVED}
    assert consumer.active == 0
