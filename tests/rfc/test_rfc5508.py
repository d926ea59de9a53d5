"""RFC 5508, NAT behaviour for ICMP: a test per requirement, on the engine.

The consumer's side is the RFC's inside, the provider's the outside. Deviations are named in the tests that show them.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, ICMPerror, IPerror, TCPerror, UDPerror

from dataplane import Outcome, Simulator, Verdict
from tests.property.networks import CLIENT, ENDPOINT, NAT_IPS, network
from tests.rfc.consumer import BACKEND, PROVIDER, SECOND
from tests.rfc.consumer import arrived as delivered
from tests.strategies import (
    icmp_echo,
    icmp_error,
    icmp_message,
    internet_checksum,
    ipv4_packet,
    link_frame,
    tcp_packet,
    udp_packet,
)

CONSUMER, NAT_IP = "tenant0", NAT_IPS[0]
NEIGHBOUR = "10.0.0.5"
OTHER_ENDPOINT = "10.0.0.101"
ECHO_REQUEST, ECHO_REPLY = 8, 0
ERRORS = {
    "host unreachable": (3, 1, 0),
    "port unreachable": (3, 3, 0),
    "fragmentation needed": (3, 4, 1400),
    "source quench": (4, 0, 0),
    "time to live exceeded": (11, 0, 0),
    "reassembly time exceeded": (11, 1, 0),
    "parameter problem": (12, 0, 20 << 24),
}
"""Type, code, and the word before the quote (an MTU, a pointer)."""


def simulator_of(profile: str = "rfc", more_endpoints: tuple[str, ...] = (), **nat: Any) -> Simulator:
    nat = {"profile": profile, "nat_ports": "2000-2015", **nat}
    return Simulator(network(nat=nat, more_endpoints=more_endpoints), seed=5)


def sent(simulator: Simulator, packet: bytes, at: str, time_ns: int = 0) -> Outcome:
    return simulator.send(link_frame(packet), at=at, time_ns=time_ns)


def carried(simulator: Simulator, packet: bytes, at: str, time_ns: int = 0) -> bytes:
    """What arrives on the other side: forwarded, once, and every checksum right."""
    outcome = sent(simulator, packet, at, time_ns)
    got = delivered(outcome)
    assert outcome.delivered[0].point == (CONSUMER if at == PROVIDER else PROVIDER)
    assert_checksums_right(got)
    return got


def dropped(simulator: Simulator, packet: bytes, at: str, reason: Verdict, time_ns: int = 0) -> None:
    """The packet goes nowhere, for this reason, and no session begins or ends by it."""
    before = simulator.summary()["sessions"]
    outcome = sent(simulator, packet, at, time_ns)
    assert (outcome.verdict, outcome.delivered, outcome.session) == (reason, [], None)
    assert simulator.summary()["sessions"] == before


def assert_checksums_right(packet: bytes) -> None:
    """Scapy makes the same bytes when it has to find every checksum itself (of a cut quote, all but the cut one's)."""
    scapy = IP(packet)
    whole = IPerror not in scapy or len(scapy[IPerror].original) == scapy[IPerror].len
    for layer in scapy.layers() if whole else (IP, ICMP, IPerror):
        if "chksum" in scapy[layer].fields:
            del scapy[layer].chksum
    assert bytes(scapy) == packet


def echo(kind: int, source: object, destination: object, identifier: int, sequence: int = 1, **header: Any) -> bytes:
    message = icmp_echo(kind, identifier, sequence, b"are you there?")
    return ipv4_packet(source, destination, 1, message, **header)


def identifier_of(packet: bytes) -> int:
    return int(IP(packet)[ICMP].id)


def ends_of(packet: bytes) -> tuple[str, str]:
    return IP(packet).src, IP(packet).dst


def active(simulator: Simulator) -> int:
    return int(simulator.summary()["sessions"]["active"])


def opened(simulator: Simulator, time_ns: int = 0) -> tuple[bytes, bytes, int]:
    """A TCP session: the consumer's SYN, the same as it arrived at the backend, and the NAT port."""
    syn = tcp_packet(CLIENT, 50_000, ENDPOINT, 443)
    arrived = carried(simulator, syn, CONSUMER, time_ns)
    return syn, arrived, int(IP(arrived).sport)


def one_less(packet: bytes, less: int = 1) -> bytes:
    """The packet with a lower time to live, its header's checksum right."""
    header = bytearray(packet[: (packet[0] & 15) * 4])
    header[8] -= less
    header[10:12] = b"\0\0"
    header[10:12] = struct.pack("!H", internet_checksum(bytes(header)))
    return bytes(header) + packet[len(header) :]


def error_packet(
    source: object, destination: object, quoted: bytes, error: tuple[int, int, int], ttl: int = 64
) -> bytes:
    """An ICMP error about a packet."""
    kind, code, rest = error
    return ipv4_packet(source, destination, 1, icmp_error(kind, code, quoted, rest), ttl=ttl)


# --- REQ-1, REQ-2: queries -------------------------------------------------------------------------------------------


def test_req_1_an_echo_request_and_its_reply_are_translated_by_the_identifier() -> None:
    simulator = simulator_of()
    request = carried(simulator, echo(ECHO_REQUEST, CLIENT, ENDPOINT, 77, 3), CONSUMER)
    identifier = identifier_of(request)
    assert 2000 <= identifier <= 2015
    assert request == echo(ECHO_REQUEST, NAT_IP, BACKEND, identifier, 3, ttl=63)
    reply = carried(simulator, echo(ECHO_REPLY, BACKEND, NAT_IP, identifier, 3), PROVIDER)
    assert reply == echo(ECHO_REPLY, ENDPOINT, CLIENT, 77, 3, ttl=63)
    dropped(simulator, echo(ECHO_REPLY, BACKEND, NAT_IP, identifier ^ 1), PROVIDER, Verdict.NO_SESSION)


def test_req_1_one_identifier_of_one_host_is_one_mapping_whatever_the_sequence_number() -> None:
    simulator = simulator_of()
    requests = [carried(simulator, echo(ECHO_REQUEST, CLIENT, ENDPOINT, 77, n), CONSUMER) for n in range(5)]
    assert len({identifier_of(request) for request in requests}) == 1
    others = [
        carried(simulator, echo(ECHO_REQUEST, CLIENT, ENDPOINT, 78), CONSUMER),
        carried(simulator, echo(ECHO_REQUEST, NEIGHBOUR, ENDPOINT, 77), CONSUMER),
    ]
    identifiers = [identifier_of(packet) for packet in (requests[0], *others)]
    assert len(set(identifiers)) == 3
    back = [carried(simulator, echo(ECHO_REPLY, BACKEND, NAT_IP, number), PROVIDER) for number in identifiers]
    assert [(IP(packet).dst, identifier_of(packet)) for packet in back] == [
        (str(CLIENT), 77), (str(CLIENT), 78), (NEIGHBOUR, 77),
    ]  # fmt: skip
    assert active(simulator) == 3


def test_req_1_deviation_another_endpoint_is_another_mapping() -> None:
    """The RFC wants one mapping for all external hosts: the endpoint is a part of the session here."""
    simulator = simulator_of(more_endpoints=(OTHER_ENDPOINT,))
    requests = [
        carried(simulator, echo(ECHO_REQUEST, CLIENT, endpoint, 77), CONSUMER)
        for endpoint in (ENDPOINT, OTHER_ENDPOINT)
    ]
    first, second = map(identifier_of, requests)
    assert first != second
    assert ends_of(carried(simulator, echo(ECHO_REPLY, BACKEND, NAT_IP, second), PROVIDER))[0] == OTHER_ENDPOINT


def test_req_1_only_the_consumer_opens_a_mapping() -> None:
    simulator = simulator_of()
    dropped(simulator, echo(ECHO_REQUEST, BACKEND, NAT_IP, 2000), PROVIDER, Verdict.UNSUPPORTED_PROTOCOL)
    dropped(simulator, echo(ECHO_REPLY, CLIENT, ENDPOINT, 77), CONSUMER, Verdict.UNSUPPORTED_PROTOCOL)
    dropped(simulator, echo(ECHO_REPLY, BACKEND, NAT_IP, 2000), PROVIDER, Verdict.NO_SESSION)


def test_req_1_deviation_azure_private_link_carries_no_echo() -> None:
    simulator = simulator_of("azure-pls")
    dropped(simulator, echo(ECHO_REQUEST, CLIENT, ENDPOINT, 77), CONSUMER, Verdict.UNSUPPORTED_PROTOCOL)
    dropped(simulator, echo(ECHO_REPLY, BACKEND, NAT_IP, 2000), PROVIDER, Verdict.UNSUPPORTED_PROTOCOL)
    assert simulator.summary()["sessions"]["created"] == 0


def test_req_2_a_query_lives_for_60_seconds_and_no_nanosecond_more() -> None:
    assert network(nat={"profile": "rfc"}).private_link_services[0].nat.timeouts.icmp == 60 * SECOND
    for time_ns, alive in ((60 * SECOND - 1, True), (60 * SECOND, False)):
        simulator = simulator_of()
        request = carried(simulator, echo(ECHO_REQUEST, CLIENT, ENDPOINT, 77), CONSUMER, time_ns=0)
        reply = echo(ECHO_REPLY, BACKEND, NAT_IP, identifier_of(request))
        if alive:
            carried(simulator, reply, PROVIDER, time_ns)
        else:
            assert sent(simulator, reply, PROVIDER, time_ns).verdict == Verdict.NO_SESSION
        assert active(simulator) == alive


def test_req_2_request_and_reply_each_start_the_60_seconds_again() -> None:
    simulator = simulator_of()
    request = carried(simulator, echo(ECHO_REQUEST, CLIENT, ENDPOINT, 77), CONSUMER, time_ns=0)
    carried(simulator, echo(ECHO_REPLY, BACKEND, NAT_IP, identifier_of(request)), PROVIDER, 50 * SECOND)
    carried(simulator, echo(ECHO_REQUEST, CLIENT, ENDPOINT, 77, 2), CONSUMER, 100 * SECOND)
    simulator.advance(to_ns=160 * SECOND - 1)
    assert active(simulator) == 1
    simulator.advance(to_ns=160 * SECOND)
    assert active(simulator) == 0
    assert simulator.summary()["sessions"]["ended"]["idle"] == 1


# --- REQ-3: what an error has to be ----------------------------------------------------------------------------------


def damaged(packet: bytes, at: int) -> bytes:
    """One bit of it turned over."""
    return packet[:at] + bytes([packet[at] ^ 1]) + packet[at + 1 :]


@pytest.mark.parametrize("at", [20, 22, 23, 26, -1], ids=["type", "checksum", "checksum, low", "mtu", "last byte"])
def test_req_3_a_wrong_icmp_checksum_is_dropped(at: int) -> None:
    simulator = simulator_of()
    _, arrived, _ = opened(simulator)
    from_outside = error_packet(BACKEND, NAT_IP, arrived, (3, 4, 1400))
    reply = tcp_packet(ENDPOINT, 443, CLIENT, 50_000, "SA", ttl=63)
    from_inside = error_packet(CLIENT, ENDPOINT, reply, (3, 4, 1400))
    wrong = Verdict.ICMP_CHECKSUM_WRONG
    if at == 20:  # type 2: no error, so not one with a wrong checksum
        wrong = Verdict.UNSUPPORTED_PROTOCOL
    dropped(simulator, damaged(from_outside, at), PROVIDER, wrong)
    dropped(simulator, damaged(from_inside, at), CONSUMER, wrong)
    assert carried(simulator, from_outside, PROVIDER)
    assert carried(simulator, from_inside, CONSUMER)


@pytest.mark.parametrize("at", [1, 8, 10, 11], ids=["dscp", "ttl", "checksum", "checksum, low"])
def test_req_3a_a_wrong_checksum_of_the_quoted_ipv4_header_is_dropped(at: int) -> None:
    simulator = simulator_of()
    _, arrived, _ = opened(simulator)
    reply = tcp_packet(ENDPOINT, 443, CLIENT, 50_000, "SA", ttl=63)
    error = ERRORS["host unreachable"]
    wrong = Verdict.ICMP_CHECKSUM_WRONG
    dropped(simulator, error_packet(BACKEND, NAT_IP, damaged(arrived, at), error), PROVIDER, wrong)
    dropped(simulator, error_packet(CLIENT, ENDPOINT, damaged(reply, at), error), CONSUMER, wrong)
    assert carried(simulator, error_packet(BACKEND, NAT_IP, arrived, error), PROVIDER)


@pytest.mark.parametrize("length", [4, 8, 40])
def test_req_3b_options_of_the_quoted_packet_are_stepped_over(length: int) -> None:
    simulator = simulator_of()
    options = b"\x01" * (length - 1) + b"\0"
    request = tcp_packet(CLIENT, 50_000, ENDPOINT, 443, options=options)
    arrived = carried(simulator, request, CONSUMER)
    assert arrived[20 : 20 + length] == options
    error = ERRORS["port unreachable"]
    got = carried(simulator, error_packet(BACKEND, NAT_IP, arrived, error), PROVIDER)
    assert got == error_packet(ENDPOINT, CLIENT, one_less(request), error, ttl=63)
    cut = error_packet(BACKEND, NAT_IP, arrived[: 20 + length + 7], error)
    dropped(simulator, cut, PROVIDER, Verdict.MALFORMED)


def test_req_3c_the_transport_checksum_of_the_quoted_packet_is_not_judged() -> None:
    """It is often cut off: a wrong one stays as wrong as it was, and the error is right for all that."""
    simulator = simulator_of()
    syn, arrived, _ = opened(simulator)
    error = ERRORS["host unreachable"]
    wrong = damaged(arrived, 37)  # the low byte of TCP's checksum
    got = delivered(sent(simulator, error_packet(BACKEND, NAT_IP, wrong, error), PROVIDER))
    checksum = int(IP(got)[TCPerror].chksum)
    assert abs(checksum - struct.unpack("!H", syn[36:38])[0]) == 1
    quoted = one_less(syn)[:36] + struct.pack("!H", checksum) + syn[38:]
    assert got == error_packet(ENDPOINT, CLIENT, quoted, error, ttl=63)


# --- REQ-4, REQ-5: errors about sessions -----------------------------------------------------------------------------


def test_req_4a_an_error_from_outside_without_a_mapping_is_dropped_and_moves_no_timer() -> None:
    simulator = simulator_of()
    _, arrived, port = opened(simulator, time_ns=0)
    error = ERRORS["port unreachable"]
    others = {
        "another NAT port": tcp_packet(NAT_IP, port ^ 1, BACKEND, 8443),
        "another backend port": tcp_packet(NAT_IP, port, BACKEND, 8444),
        "another backend": tcp_packet(NAT_IP, port, "10.1.0.9", 8443),
        "another protocol": udp_packet(NAT_IP, port, BACKEND, 8443),
        "another sender": tcp_packet("10.1.0.51", port, BACKEND, 8443),
        "sent by the backend": tcp_packet(BACKEND, 8443, NAT_IP, port),
        "a later fragment": tcp_packet(NAT_IP, port, BACKEND, 8443, fragment=3),
        "a protocol without ports": ipv4_packet(NAT_IP, BACKEND, 47, arrived[20:]),
    }
    for quoted in others.values():
        packet = error_packet(BACKEND, NAT_IP, quoted, error)
        dropped(simulator, packet, PROVIDER, Verdict.ICMP_UNMATCHED, 239 * SECOND)
    carried(simulator, error_packet(BACKEND, NAT_IP, arrived, error), PROVIDER, 239 * SECOND)
    simulator.advance(to_ns=240 * SECOND - 1)
    assert active(simulator) == 1
    simulator.advance(to_ns=240 * SECOND)
    assert active(simulator) == 0
    dropped(simulator, error_packet(BACKEND, NAT_IP, arrived, error), PROVIDER, Verdict.ICMP_UNMATCHED)


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_req_4b_an_error_from_outside_quotes_what_the_consumer_sent(error: tuple[int, int, int]) -> None:
    """Type, code, MTU and pointer stay; both headers are those of the consumer's side."""
    simulator = simulator_of()
    syn, arrived, _ = opened(simulator)
    got = carried(simulator, error_packet(BACKEND, NAT_IP, arrived, error), PROVIDER)
    assert got == error_packet(ENDPOINT, CLIENT, one_less(syn), error, ttl=63)
    question = udp_packet(CLIENT, 40_000, ENDPOINT, 53, b"query")
    arrived = carried(simulator, question, CONSUMER)
    got = carried(simulator, error_packet(BACKEND, NAT_IP, arrived, error), PROVIDER)
    assert got == error_packet(ENDPOINT, CLIENT, one_less(question), error, ttl=63)
    scapy = IP(got)
    assert (scapy.src, scapy.dst) == (str(ENDPOINT), str(CLIENT))
    assert (scapy[IPerror].src, scapy[UDPerror].sport) == (str(CLIENT), 40_000)
    assert (scapy[IPerror].dst, scapy[UDPerror].dport) == (str(ENDPOINT), 53)


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_req_5_an_error_from_inside_quotes_what_the_backend_sent(error: tuple[int, int, int]) -> None:
    simulator = simulator_of()
    _, _, port = opened(simulator)
    answer = tcp_packet(BACKEND, 8443, NAT_IP, port, "SA")
    arrived = carried(simulator, answer, PROVIDER)
    got = carried(simulator, error_packet(CLIENT, ENDPOINT, arrived, error), CONSUMER)
    assert got == error_packet(NAT_IP, BACKEND, one_less(answer), error, ttl=63)
    scapy = IP(got)
    assert (scapy[IPerror].src, scapy[TCPerror].sport) == (BACKEND, 8443)
    assert (scapy[IPerror].dst, scapy[TCPerror].dport) == (NAT_IP, port)


def test_req_5_an_error_from_inside_without_a_mapping_is_dropped_and_moves_no_timer() -> None:
    simulator = simulator_of()
    syn, _, _ = opened(simulator, time_ns=0)
    others = {
        "another port": tcp_packet(ENDPOINT, 443, CLIENT, 50_001, "SA"),
        "another host": tcp_packet(ENDPOINT, 443, NEIGHBOUR, 50_000, "SA"),
        "another frontend port": tcp_packet(ENDPOINT, 80, CLIENT, 50_000, "SA"),
        "another protocol": udp_packet(ENDPOINT, 443, CLIENT, 50_000),
        "sent by the consumer itself": syn,
    }
    for quoted in others.values():
        packet = error_packet(CLIENT, ENDPOINT, quoted, ERRORS["port unreachable"])
        dropped(simulator, packet, CONSUMER, Verdict.ICMP_UNMATCHED, 239 * SECOND)
    simulator.advance(to_ns=240 * SECOND)
    assert active(simulator) == 0


@pytest.mark.parametrize("quoted_bytes", [8, 9, 17, 18, 19, 20])
def test_req_4_and_5_a_quoted_segment_may_be_cut_to_eight_bytes(quoted_bytes: int) -> None:
    """RFC 792 promises no more: the ports are in them, the checksum is translated as far as it is there."""
    simulator = simulator_of()
    syn, arrived, port = opened(simulator)
    answer = tcp_packet(BACKEND, 8443, NAT_IP, port, "SA")
    received = carried(simulator, answer, PROVIDER)
    end = 20 + quoted_bytes
    error = ERRORS["host unreachable"]
    outcomes = [
        (PROVIDER, error_packet(BACKEND, NAT_IP, arrived[:end], error), (ENDPOINT, CLIENT), one_less(syn)[:end]),
        (CONSUMER, error_packet(CLIENT, ENDPOINT, received[:end], error), (NAT_IP, BACKEND), one_less(answer)[:end]),
    ]
    for at, packet, ends, quoted in outcomes:
        got = delivered(sent(simulator, packet, at))
        if quoted_bytes == 17:  # one byte of the checksum: no outside judge, but the sum of the message is right
            assert internet_checksum(got[20:]) == 0
            assert (got[:22], got[24:-1]) == (
                error_packet(*ends, quoted, error, ttl=63)[:22],
                error_packet(*ends, quoted, error, ttl=63)[24:-1],
            )
        else:
            assert got == error_packet(*ends, quoted, error, ttl=63)
    for at, packet, _, _ in outcomes:
        seven = packet[: 20 + 8 + 20 + 7]
        seven = error_packet(*ends_of(packet), seven[28:], error)
        dropped(simulator, seven, at, Verdict.MALFORMED)


def test_req_4_and_5_deviation_a_router_on_the_way_becomes_the_endpoint() -> None:
    """The RFC leaves the source of an error as it is. No address of the other side exists here, so that of the
    endpoint, or the NAT IP, stands for all of them.
    """
    simulator = simulator_of()
    _, arrived, port = opened(simulator)
    received = carried(simulator, tcp_packet(BACKEND, 8443, NAT_IP, port, "SA"), PROVIDER)
    error = ERRORS["time to live exceeded"]
    for router in ("10.1.99.1", "203.0.113.1", str(CLIENT)):
        got = carried(simulator, error_packet(router, NAT_IP, arrived, error), PROVIDER)
        assert ends_of(got) == (str(ENDPOINT), str(CLIENT))
    for router in ("10.0.99.1", "203.0.113.1", NEIGHBOUR):
        got = carried(simulator, error_packet(router, ENDPOINT, received, error), CONSUMER)
        assert ends_of(got) == (NAT_IP, BACKEND)


def test_req_4_and_5_errors_about_queries_are_translated_as_well() -> None:
    simulator = simulator_of()
    request = echo(ECHO_REQUEST, CLIENT, ENDPOINT, 77)
    arrived = carried(simulator, request, CONSUMER)
    error = ERRORS["host unreachable"]
    got = carried(simulator, error_packet(BACKEND, NAT_IP, arrived, error), PROVIDER)
    assert got == error_packet(ENDPOINT, CLIENT, one_less(request), error, ttl=63)
    assert int(IP(got)[ICMPerror].id) == 77
    reply = echo(ECHO_REPLY, BACKEND, NAT_IP, identifier_of(arrived))
    received = carried(simulator, reply, PROVIDER)
    got = carried(simulator, error_packet(CLIENT, ENDPOINT, received, error), CONSUMER)
    assert got == error_packet(NAT_IP, BACKEND, one_less(reply), error, ttl=63)
    for quoted in (echo(ECHO_REQUEST, NAT_IP, BACKEND, 1999), echo(ECHO_REPLY, NAT_IP, BACKEND, 2000)):
        dropped(simulator, error_packet(BACKEND, NAT_IP, quoted, error), PROVIDER, Verdict.ICMP_UNMATCHED)


# --- REQ-6 to REQ-11 -------------------------------------------------------------------------------------------------


def first_packets() -> dict[str, tuple[bytes, int]]:
    """A first packet, and the seconds that its session lives without another."""
    return {
        "tcp": (tcp_packet(CLIENT, 50_000, ENDPOINT, 443), 240),
        "udp": (udp_packet(CLIENT, 50_000, ENDPOINT, 53), 300),
        "icmp": (echo(ECHO_REQUEST, CLIENT, ENDPOINT, 77), 60),
    }


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp"])
def test_req_6_an_error_neither_refreshes_nor_ends_a_session(protocol: str, error: tuple[int, int, int]) -> None:
    first, seconds = first_packets()[protocol]
    simulator = simulator_of()
    arrived = carried(simulator, first, CONSUMER, time_ns=0)
    packet = error_packet(BACKEND, NAT_IP, arrived, error)
    for time_ns in (1, seconds * SECOND - 1):
        carried(simulator, packet, PROVIDER, time_ns)
        assert active(simulator) == 1
    dropped_at = seconds * SECOND
    simulator.advance(to_ns=dropped_at)
    assert active(simulator) == 0
    dropped(simulator, packet, PROVIDER, Verdict.ICMP_UNMATCHED, dropped_at)


def test_req_6_an_established_connection_outlives_errors_from_both_sides() -> None:
    simulator = simulator_of()
    _, arrived, port = opened(simulator, time_ns=0)
    received = carried(simulator, tcp_packet(BACKEND, 8443, NAT_IP, port, "SA"), PROVIDER)
    carried(simulator, tcp_packet(CLIENT, 50_000, ENDPOINT, 443, "A"), CONSUMER)
    for error in ERRORS.values():
        carried(simulator, error_packet(BACKEND, NAT_IP, arrived, error), PROVIDER, 7000 * SECOND)
        carried(simulator, error_packet(CLIENT, ENDPOINT, received, error), CONSUMER, 7000 * SECOND)
    simulator.advance(to_ns=7440 * SECOND - 1)
    assert active(simulator) == 1, "established, as before the errors"
    simulator.advance(to_ns=7440 * SECOND)
    assert active(simulator) == 0, "and not refreshed by them"


def test_req_7_deviation_there_is_no_hairpin_so_no_error_about_one() -> None:
    """No packet goes from one NAT address to another, so an error that quotes one belongs to nothing."""
    simulator = simulator_of()
    _, _, port = opened(simulator)
    hairpin = tcp_packet(NAT_IP, port, NAT_IP, port)
    packet = error_packet(BACKEND, NAT_IP, hairpin, ERRORS["port unreachable"])
    dropped(simulator, packet, PROVIDER, Verdict.ICMP_UNMATCHED)
    dropped(simulator, tcp_packet(BACKEND, 8443, NAT_IP, port ^ 1), PROVIDER, Verdict.NO_SESSION)


def test_req_8_deviation_a_query_for_which_no_identifier_is_left_is_dropped_in_silence() -> None:
    """The RFC suggests an error of type 3, code 13 to the sender; nothing is made up here."""
    simulator = simulator_of(nat_ports="2000-2001")
    held = [carried(simulator, echo(ECHO_REQUEST, CLIENT, ENDPOINT, n), CONSUMER) for n in (1, 2)]
    packet = echo(ECHO_REQUEST, CLIENT, ENDPOINT, 3)
    dropped(simulator, packet, CONSUMER, Verdict.NAT_PORTS_EXHAUSTED)
    for number, request in enumerate(held, start=1):
        reply = carried(simulator, echo(ECHO_REPLY, BACKEND, NAT_IP, identifier_of(request)), PROVIDER)
        assert identifier_of(reply) == number
    opened(simulator)  # TCP has ports of its own


@pytest.mark.parametrize(
    ("policy", "errors", "queries"), [("none", False, False), ("errors", True, False), ("all", True, True)]
)
def test_req_9_a_policy_says_which_icmp_goes_through(policy: str, errors: bool, queries: bool) -> None:
    simulator = simulator_of(icmp=policy)
    _, arrived, port = opened(simulator)
    received = carried(simulator, tcp_packet(BACKEND, 8443, NAT_IP, port, "SA"), PROVIDER)
    for at, packet, translated in (
        (PROVIDER, error_packet(BACKEND, NAT_IP, arrived, ERRORS["port unreachable"]), errors),
        (CONSUMER, error_packet(CLIENT, ENDPOINT, received, ERRORS["port unreachable"]), errors),
        (CONSUMER, echo(ECHO_REQUEST, CLIENT, ENDPOINT, 77), queries),
    ):
        if translated:
            carried(simulator, packet, at)
        else:
            dropped(simulator, packet, at, Verdict.UNSUPPORTED_PROTOCOL)


@pytest.mark.parametrize("code", range(16))
def test_req_10a_every_destination_unreachable_is_supported(code: int) -> None:
    simulator = simulator_of()
    syn, arrived, _ = opened(simulator)
    got = carried(simulator, error_packet(BACKEND, NAT_IP, arrived, (3, code, 0)), PROVIDER)
    assert got == error_packet(ENDPOINT, CLIENT, one_less(syn), (3, code, 0), ttl=63)


def test_req_10a_time_exceeded_echo_and_echo_reply_are_supported() -> None:
    simulator = simulator_of()
    arrived = carried(simulator, echo(ECHO_REQUEST, CLIENT, ENDPOINT, 77), CONSUMER)
    carried(simulator, echo(ECHO_REPLY, BACKEND, NAT_IP, identifier_of(arrived)), PROVIDER)
    for code in (0, 1):
        got = carried(simulator, error_packet(BACKEND, NAT_IP, arrived, (11, code, 0)), PROVIDER)
        assert (IP(got)[ICMP].type, IP(got)[ICMP].code) == (11, code)


def test_req_10c_deviation_a_source_quench_is_still_translated() -> None:
    """Obsolete, so the RFC would rather not have it supported; one that comes is treated as any other error."""
    simulator = simulator_of()
    _, arrived, _ = opened(simulator)
    assert IP(carried(simulator, error_packet(BACKEND, NAT_IP, arrived, (4, 0, 0)), PROVIDER))[ICMP].type == 4


@pytest.mark.parametrize("kind", [1, 2, 5, 6, 7, 9, 10, 13, 14, 15, 16, 17, 18, 30, 40, 42, 43, 253, 255])
def test_req_11_any_other_message_is_dropped(kind: int) -> None:
    """Redirects, router advertisements, timestamps, information and address mask requests, and what has no meaning."""
    simulator = simulator_of()
    syn, arrived, port = opened(simulator)
    assert syn != arrived
    for at, source, destination in ((CONSUMER, CLIENT, ENDPOINT), (PROVIDER, BACKEND, NAT_IP)):
        message = icmp_message(kind, 0, struct.pack("!HH", port, 1) + arrived)
        dropped(simulator, ipv4_packet(source, destination, 1, message), at, Verdict.UNSUPPORTED_PROTOCOL)


@pytest.mark.parametrize("kind", [ECHO_REQUEST, ECHO_REPLY])
def test_req_11_an_echo_of_another_code_is_no_echo(kind: int) -> None:
    simulator = simulator_of()
    message = icmp_message(kind, 1, struct.pack("!HH", 77, 1))
    dropped(simulator, ipv4_packet(CLIENT, ENDPOINT, 1, message), CONSUMER, Verdict.UNSUPPORTED_PROTOCOL)
