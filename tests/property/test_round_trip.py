"""What goes to the service and back is what it was: addresses, ports, payload; checksums as right or wrong as before.

The judge of checksums is scapy, which computes them in full.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import Any, NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP

from dataplane.records import OUTCOME
from dataplane.simulator import Simulator
from dataplane.topology.model import Topology
from dataplane.verdict import Verdict
from tests.lockstep import Sent, batch_of
from tests.property.networks import CLIENT, ENDPOINT, NAT_IPS, network
from tests.strategies import internet_checksum, link_frame, pseudo_header, tcp_packet, udp_packet

LINKS: tuple[tuple[int, tuple[int, ...], int], ...] = (
    (1, (), 14),
    (1, (0x8100,), 18),
    (1, (0x88A8, 0x8100), 22),
    (101, (), 0),
    (113, (), 16),
    (276, (), 20),
    (0, (), 4),
)


class Shape(NamedTuple):
    """How a packet looks besides its addresses and ports."""

    protocol: str
    payload: bytes
    options: bytes
    ttl: int
    dscp: int
    identification: int
    header_error: int  # added to the right checksum
    transport_error: int
    no_checksum: bool
    padding: bytes

    def packet(self, sender: tuple[Any, int], receiver: tuple[Any, int], flags: str) -> bytes:
        """The IPv4 packet."""
        header = {
            "ttl": self.ttl,
            "options": self.options,
            "dscp": self.dscp,
            "identification": self.identification,
        }
        if self.protocol == "tcp":
            packet = bytearray(tcp_packet(*sender, *receiver, flags, self.payload, **header))
        else:
            packet = bytearray(udp_packet(*sender, *receiver, self.payload, **header))
        add_to(packet, 10, self.header_error)
        at = checksum_place(packet)
        if self.protocol == "udp" and self.no_checksum:
            packet[at : at + 2] = b"\0\0"
        else:
            add_to(packet, at, self.transport_error)
            if self.protocol == "udp" and packet[at : at + 2] == b"\0\0":
                packet[at : at + 2] = b"\xff\xff"
        return bytes(packet)


def add_to(packet: bytearray, at: int, error: int) -> None:
    (value,) = struct.unpack_from("!H", packet, at)
    struct.pack_into("!H", packet, at, (value + error) & 0xFFFF)


def checksum_place(packet: bytes | bytearray) -> int:
    """Where the TCP or UDP checksum of an IPv4 packet lies."""
    return (packet[0] & 15) * 4 + (16 if packet[9] == 6 else 6)


def checksums(packet: bytes) -> tuple[int, int]:
    """Of the IPv4 header, and of TCP or UDP, as they stand in the packet."""
    return struct.unpack_from("!H", packet, 10)[0], struct.unpack_from("!H", packet, checksum_place(packet))[0]


def recomputed(packet: bytes) -> bytes:
    """The packet with the checksums that scapy computes."""
    parsed = IP(packet)
    del parsed.chksum
    layer = parsed[TCP] if packet[9] == 6 else parsed[UDP]
    del layer.chksum
    return bytes(parsed)


def errors(packet: bytes) -> tuple[int, int]:
    """How wrong the two checksums are: ones-complement differences, 0 to 0xFFFE."""
    ours, right = checksums(packet), checksums(recomputed(packet))
    return (ours[0] - right[0]) % 0xFFFF, (ours[1] - right[1]) % 0xFFFF


def without_checksums(packet: bytes) -> bytes:
    blank = bytearray(packet)
    blank[10:12] = b"\0\0"
    at = checksum_place(packet)
    blank[at : at + 2] = b"\0\0"
    return bytes(blank)


def moved(packet: bytes, sender: tuple[Any, int], receiver: tuple[Any, int], ttl: int) -> bytes:
    """The packet from and to somebody else."""
    other = bytearray(packet)
    other[8] = ttl
    other[12:20] = IPv4Address(sender[0]).packed + IPv4Address(receiver[0]).packed
    transport = (packet[0] & 15) * 4
    struct.pack_into("!HH", other, transport, sender[1], receiver[1])
    return bytes(other)


ERRORS = st.sampled_from([0, 0, 0, 1, 0x8000, 0xFFFF]) | st.integers(0, 0xFFFF)


THERE_AND_BACK = st.sampled_from([3, 64, 128, 255]) | st.integers(3, 255)


def shapes(protocol: str, ttls: st.SearchStrategy[int] = THERE_AND_BACK) -> st.SearchStrategy[Shape]:
    return st.builds(
        Shape,
        st.just(protocol),
        st.binary(max_size=61),
        st.integers(0, 10).map(lambda words: b"\x01\x01\x01\x01" * words),
        ttls,
        st.integers(0, 63),
        st.integers(0, 0xFFFF),
        ERRORS,
        ERRORS,
        st.sampled_from([False, False, True]),
        st.binary(max_size=20),
    )


PAIRS = st.sampled_from(["tcp", "udp"]).flatmap(lambda protocol: st.tuples(shapes(protocol), shapes(protocol)))
NETWORKS = st.builds(
    lambda ttl, allocation, selection: network(
        nat_ips=NAT_IPS,
        backends=("10.1.0.4", "10.1.255.254"),
        rules=(("tcp", 443, 8443), ("udp", 53, 53)),
        nat={
            "decrement_ttl": ttl,
            "port_allocation": allocation,
            "nat_ip_selection": selection,
        },
    ),
    st.booleans(),
    st.sampled_from(["random", "sequential"]),
    st.sampled_from(["hash", "round_robin"]),
)


class Wire:
    """A simulator, and the link on which its packets travel."""

    def __init__(self, topology: Topology, link: tuple[int, tuple[int, ...], int], seed: int = 0) -> None:
        self.topology = topology
        self.simulator = Simulator(topology, seed, rows=2)
        self.link_type, self.tags, self.header = link

    def send(self, packet: bytes, at: str, padding: bytes = b"") -> tuple[np.void, bytes]:
        """The outcome, and the packet as it was rewritten; what surrounds it must be as it was."""
        frame = link_frame(packet, self.link_type, tags=self.tags) + padding
        result = self.simulator.process(batch_of([Sent(frame, at, 0, None, self.link_type)], self.topology))
        rewritten = result.packets[0]
        end = self.header + len(packet)
        assert rewritten[: self.header] == frame[: self.header]
        assert rewritten[end:] == padding
        outcome = result.outcomes[0]
        assert outcome.dtype == OUTCOME
        return outcome, rewritten[self.header : end]


def opened(wire: Wire, protocol: str, port: int) -> tuple[tuple[IPv4Address, int], tuple[IPv4Address, int]]:
    """Open a session; returns its NAT and its backend side."""
    packet = tcp_packet(CLIENT, port, ENDPOINT, 443) if protocol == "tcp" else udp_packet(CLIENT, port, ENDPOINT, 53)
    outcome, there = wire.send(packet, "tenant0")
    assert outcome["verdict"] == Verdict.FORWARDED
    transport = (there[0] & 15) * 4
    ports = struct.unpack_from("!HH", there, transport)
    return (IPv4Address(there[12:16]), ports[0]), (IPv4Address(there[16:20]), ports[1])


def is_checksum_less(packet: bytes) -> bool:
    return packet[9] == 17 and checksums(packet)[1] == 0


def assert_as_right_as(before: bytes, after: bytes) -> None:
    """Right checksums are those that scapy computes; wrong ones are wrong by as much; UDP without one has none."""
    assert is_checksum_less(before) == is_checksum_less(after)
    wrong_before, wrong_after = errors(before), errors(after)
    if is_checksum_less(before):
        wrong_before, wrong_after = wrong_before[:1], wrong_after[:1]
    assert wrong_before == wrong_after
    right = recomputed(after)
    if wrong_after[0] == 0:
        assert checksums(after)[0] == checksums(right)[0]
    if not is_checksum_less(after) and wrong_after[1] == 0:
        assert checksums(after)[1] == checksums(right)[1]


@given(topology=NETWORKS, link=st.sampled_from(LINKS), pair=PAIRS, port=st.sampled_from([0, 1, 50000, 65535]))
def test_a_conversation_arrives_on_both_sides_with_everything_but_addresses_ports_and_ttl(
    topology: Topology, link: tuple[int, tuple[int, ...], int], pair: tuple[Shape, Shape], port: int
) -> None:
    request, answer = pair
    step = int(topology.private_link_services[0].nat.decrement_ttl)
    wire = Wire(topology, link)
    nat, backend = opened(wire, request.protocol, port)
    consumer, service = (CLIENT, port), (ENDPOINT, 443 if request.protocol == "tcp" else 53)

    sent = request.packet(consumer, service, "A")
    outcome, arrived = wire.send(sent, "tenant0", request.padding)
    assert outcome["verdict"] == Verdict.FORWARDED
    assert without_checksums(arrived) == without_checksums(moved(sent, nat, backend, request.ttl - step))
    assert_as_right_as(sent, arrived)

    # The backend sends the very same packet back.
    echoed = moved(arrived, backend, nat, arrived[8])
    outcome, returned = wire.send(echoed, "provider", request.padding)
    assert outcome["verdict"] == Verdict.FORWARDED
    assert without_checksums(returned) == without_checksums(moved(sent, service, consumer, request.ttl - 2 * step))
    assert_as_right_as(sent, returned)

    # The backend answers with a packet of its own.
    sent = answer.packet(backend, nat, "PA")
    outcome, arrived = wire.send(sent, "provider", answer.padding)
    assert outcome["verdict"] == Verdict.FORWARDED
    assert without_checksums(arrived) == without_checksums(moved(sent, service, consumer, answer.ttl - step))
    assert_as_right_as(sent, arrived)


def canonical(packet: bytes) -> bytes:
    """With 0xFFFF written as 0 in the header's and TCP's checksums: the two are one number, and adjusting writes 0."""
    plain = bytearray(packet)
    places = [10] if packet[9] == 17 else [10, checksum_place(packet)]
    for at in places:
        if plain[at : at + 2] == b"\xff\xff":
            plain[at : at + 2] = b"\0\0"
    return bytes(plain)


TTLS = st.sampled_from([1, 2, 64, 254]) | st.integers(1, 254)
CAPTURED = st.sampled_from(["tcp", "udp"]).flatmap(lambda protocol: shapes(protocol, TTLS))


@given(topology=NETWORKS, link=st.sampled_from(LINKS), shape=CAPTURED)
def test_a_captured_reply_is_delivered_as_it_was_captured(
    topology: Topology, link: tuple[int, tuple[int, ...], int], shape: Shape
) -> None:
    """What the backend must have sent, sent by the backend, gives the captured packet."""
    wire = Wire(topology, link)
    nat, backend = opened(wire, shape.protocol, 50000)
    service = (ENDPOINT, 443 if shape.protocol == "tcp" else 53)
    captured = shape.packet(service, (CLIENT, 50000), "A")
    step = int(topology.private_link_services[0].nat.decrement_ttl)

    outcome, reconstructed = wire.send(captured, "tenant0", shape.padding)
    assert outcome["verdict"] == Verdict.FORWARDED
    assert without_checksums(reconstructed) == without_checksums(moved(captured, backend, nat, shape.ttl + step))
    assert_as_right_as(captured, reconstructed)

    outcome, delivered = wire.send(reconstructed, "provider", shape.padding)
    assert outcome["verdict"] == Verdict.FORWARDED
    assert canonical(delivered) == canonical(captured)


@given(shape=CAPTURED, ttl=st.sampled_from([1, 64, 254, 255]))
def test_a_captured_reply_shows_to_scapy_byte_for_byte(shape: Shape, ttl: int) -> None:
    topology = network()
    simulator = Simulator(topology)
    opening = udp_packet(CLIENT, 50000, ENDPOINT, 53)
    if shape.protocol == "tcp":
        opening = tcp_packet(CLIENT, 50000, ENDPOINT, 443)
    simulator.send(link_frame(opening), at="tenant0", time_ns=0)
    service = (ENDPOINT, 443 if shape.protocol == "tcp" else 53)
    frame = link_frame(shape._replace(ttl=ttl).packet(service, (CLIENT, 50000), "A")) + shape.padding
    outcome = simulator.send(frame, at="tenant0", time_ns=0)
    assert outcome.verdict == Verdict.FORWARDED
    (delivery,) = outcome.delivered
    assert delivery.point == "tenant0"
    assert bytes(delivery.packet) == frame


def with_checksum_zero(
    packet: bytes, sender: tuple[Any, int], receiver: tuple[Any, int]
) -> bytes:
    """The UDP packet with a last payload word such that its checksum between these two would compute to zero."""
    header = (packet[0] & 15) * 4
    blank = bytearray(packet)
    blank[-2:] = b"\0\0"
    there = bytearray(moved(bytes(blank), sender, receiver, 64))
    there[header + 6 : header + 8] = b"\0\0"
    datagram = bytes(there[header:])
    word = internet_checksum(pseudo_header(sender[0], receiver[0], 17, len(datagram)) + datagram)
    struct.pack_into("!H", blank, len(blank) - 2, word)
    # The packet's own checksum is right where it is sent.
    blank[header + 6 : header + 8] = b"\0\0"
    own = pseudo_header(IPv4Address(bytes(blank[12:16])), IPv4Address(bytes(blank[16:20])), 17, len(datagram))
    struct.pack_into("!H", blank, header + 6, internet_checksum(own + bytes(blank[header:])) or 0xFFFF)
    return bytes(blank)


@given(payload=st.binary(max_size=20).map(lambda data: data[: len(data) & ~1] + b"\0\0"), seed=st.integers(0, 20))
def test_a_udp_checksum_that_computes_to_zero_is_sent_as_all_ones(payload: bytes, seed: int) -> None:
    wire = Wire(network(nat={"nat_ports": "1024-65535"}), LINKS[0], seed)
    nat, backend = opened(wire, "udp", 50000)
    consumer, service = (CLIENT, 50000), (ENDPOINT, 53)
    for sender, receiver, there, at in (
        (consumer, service, (nat, backend), "tenant0"),
        (backend, nat, (service, consumer), "provider"),
        (service, consumer, (backend, nat), "tenant0"),
    ):
        packet = with_checksum_zero(udp_packet(*sender, *receiver, payload), *there)
        outcome, arrived = wire.send(packet, at)
        assert outcome["verdict"] == Verdict.FORWARDED
        assert checksums(arrived)[1] == 0xFFFF
        assert checksums(recomputed(arrived))[1] == 0xFFFF, "scapy agrees that it computes to zero"


@given(payload=st.binary(max_size=30))
def test_udp_without_a_checksum_stays_without_one_on_every_way(payload: bytes) -> None:
    wire = Wire(network(), LINKS[0])
    nat, backend = opened(wire, "udp", 50000)
    shape = Shape("udp", payload, b"", 64, 0, 0, 0, 0, True, b"")
    for sender, receiver, at in (
        ((CLIENT, 50000), (ENDPOINT, 53), "tenant0"),
        (backend, nat, "provider"),
        ((ENDPOINT, 53), (CLIENT, 50000), "tenant0"),
    ):
        outcome, arrived = wire.send(shape.packet(sender, receiver, ""), at)
        assert outcome["verdict"] == Verdict.FORWARDED
        assert checksums(arrived)[1] == 0


def test_time_to_live_ends_on_the_way_and_not_before() -> None:
    for decrement, ttl, at, expired in (
        (True, 0, "tenant0", True),
        (True, 1, "tenant0", True),
        (True, 2, "tenant0", False),
        (True, 0, "provider", True),
        (True, 1, "provider", True),
        (True, 2, "provider", False),
        (True, 0, "captured", True),
        (True, 1, "captured", False),
        (False, 0, "tenant0", False),
        (False, 0, "provider", False),
        (False, 0, "captured", False),
    ):
        wire = Wire(network(nat={"decrement_ttl": decrement}), LINKS[0])
        nat, backend = opened(wire, "tcp", 50000)
        ways = {
            "tenant0": ((CLIENT, 50000), (ENDPOINT, 443)),
            "provider": (backend, nat),
            "captured": ((ENDPOINT, 443), (CLIENT, 50000)),
        }
        packet = tcp_packet(*ways[at][0], *ways[at][1], "A", ttl=ttl)
        outcome, _ = wire.send(packet, "provider" if at == "provider" else "tenant0")
        assert outcome["verdict"] == (Verdict.TTL_EXPIRED if expired else Verdict.FORWARDED), (decrement, ttl, at)


def test_the_reconstruction_of_a_captured_reply_has_a_time_to_live_of_at_most_255() -> None:
    for ttl, reconstructed in ((253, 254), (254, 255), (255, 255)):
        wire = Wire(network(), LINKS[0])
        opened(wire, "tcp", 50000)
        captured = tcp_packet(ENDPOINT, 443, CLIENT, 50000, "A", ttl=ttl)
        outcome, sent = wire.send(captured, "tenant0")
        assert outcome["verdict"] == Verdict.FORWARDED
        assert sent[8] == reconstructed
        assert_as_right_as(captured, sent)
