"""Broken packets: a verdict for each, the one of the specification, and no byte touched outside a packet."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.kernel import COMPILED
from dataplane.packets.batch import PacketBatch
from dataplane.simulator import Simulator
from dataplane.topology.model import Topology
from dataplane.verdict import Verdict
from tests.lockstep import Sent, arrive, assert_equal_outcome, assert_equal_runs, batch_of
from tests.property.networks import CLIENT, ENDPOINT, network
from tests.reference import ACK, SYN, ReferenceSimulator
from tests.strategies import LINK_TYPES, START, link_frame, tcp_packet, udp_packet

NETWORK = network(nat={"nat_ports": "1024-2047", "first_packet": "any", "profile": "azure-pls"})
OPTIONS = b"\x94\x04\x00\x00"  # router alert
PAYLOAD = b"12345"


class Link(NamedTuple):
    """How a packet is framed."""

    name: str
    link_type: int
    tags: tuple[int, ...] = ()
    header: int = 0


LINKS = (
    Link("ethernet", 1, (), 14),
    Link("vlan", 1, (0x8100,), 18),
    Link("qinq", 1, (0x88A8, 0x8100), 22),
    Link("raw", 101),
    Link("raw-ipv4", 228),
    Link("cooked", 113, (), 16),
    Link("cooked-2", 276, (), 20),
    Link("bsd-null", 0, (), 4),
    Link("bsd-loop", 108, (), 4),
)
KINDS = ("first packet", "next packet", "answer", "captured answer")


def opening(protocol: str) -> Sent:
    """The packet that opens the session which the others belong to."""
    if protocol == "tcp":
        packet = tcp_packet(CLIENT, 50000, ENDPOINT, 443, "S")
    else:
        packet = udp_packet(CLIENT, 50000, ENDPOINT, 53)
    return Sent(link_frame(packet), "tenant0", START)


def sound_packet(kind: str, protocol: str, link: Link, reference: ReferenceSimulator) -> Sent:
    """A packet without fault, to be broken; the session that `opening` opened is alive."""
    (session,) = reference.sessions
    at = "provider" if kind == "answer" else "tenant0"
    sender, receiver = {
        "first packet": ((CLIENT, 50001), session.endpoint_side),
        "next packet": (session.consumer, session.endpoint_side),
        "answer": (session.backend, session.nat),
        "captured answer": (session.endpoint_side, session.consumer),
    }[kind]
    if protocol == "tcp":
        flags = SYN if kind == "first packet" else ACK
        packet = tcp_packet(*sender, *receiver, flags, PAYLOAD, options=OPTIONS)
    else:
        packet = udp_packet(*sender, *receiver, PAYLOAD, options=OPTIONS)
    frame = link_frame(packet, link.link_type, tags=link.tags)
    return Sent(frame, at, START, len(frame), link.link_type)


def truncations(sound: Sent) -> Iterator[Sent]:
    """Cut by the snap length, and cut on the wire as well."""
    for length in range(len(sound.frame) + 1):
        cut = sound._replace(frame=sound.frame[:length])
        yield cut
        yield cut._replace(original_length=length)


def flips(sound: Sent, upto: int) -> Iterator[Sent]:
    """Every single bit of the headers turned over."""
    for bit in range(8 * upto):
        frame = bytearray(sound.frame)
        frame[bit // 8] ^= 0x80 >> bit % 8
        yield sound._replace(frame=bytes(frame))


def shaken(sound: Sent, count: int, rng: random.Random) -> Iterator[Sent]:
    """Headers in which several bytes are random, or all of them."""
    for _ in range(count):
        frame = bytearray(sound.frame)
        for _ in range(rng.choice([1, 2, 3, 8, 100])):
            telling = [0, 1, 4, 5, 0x0F, 0x45, 0x4F, 0x80, 0xFF]
            frame[rng.randrange(len(frame))] = rng.choice([*telling, rng.randrange(256)])
        cut = rng.choice([len(frame), len(frame), rng.randrange(len(frame) + 1)])
        yield sound._replace(frame=bytes(frame[:cut]), original_length=rng.choice([cut, len(frame), 60]))


def agreed(topology: Topology, story: list[Sent], reference: ReferenceSimulator) -> list[Verdict]:
    """Send the story through both, the engine in one call; the reference has received the first packet already."""
    received = [one for packet in story for one in arrive(reference, packet)]
    reference.check_laws()
    assert_equal_runs(topology, 0, story, reference, received)
    return [outcome.verdict for _, outcome in received]


def session_of(protocol: str) -> ReferenceSimulator:
    """A simulator in which the session is open, to learn its NAT port from."""
    reference = ReferenceSimulator(NETWORK)
    first = opening(protocol)
    reference.receive(first.frame, at=first.at, time_ns=first.time_ns)
    return reference


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("link", LINKS, ids=lambda link: link.name)
def test_every_cut_packet_gets_the_verdict_of_the_specification(link: Link, protocol: str) -> None:
    opened = session_of(protocol)
    story = [opening(protocol)]
    for kind in KINDS:
        story += truncations(sound_packet(kind, protocol, link, opened))
    verdicts = agreed(NETWORK, story, ReferenceSimulator(NETWORK))
    assert {Verdict.FORWARDED, Verdict.MALFORMED} <= set(verdicts)
    if link.header:
        assert Verdict.BYPASSED in verdicts


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("link", LINKS, ids=lambda link: link.name)
def test_every_flipped_header_bit_gets_the_verdict_of_the_specification(link: Link, protocol: str) -> None:
    opened = session_of(protocol)
    story = [opening(protocol)]
    for kind in KINDS:
        upto = link.header + 24 + (20 if protocol == "tcp" else 8)
        story += flips(sound_packet(kind, protocol, link, opened), upto)
    verdicts = set(agreed(NETWORK, story, ReferenceSimulator(NETWORK)))
    usual = {Verdict.FORWARDED, Verdict.BYPASSED, Verdict.MALFORMED, Verdict.UNSUPPORTED_PROTOCOL}
    assert usual | {Verdict.FRAGMENT_UNRESOLVED, Verdict.FILTERED, Verdict.NO_SESSION} <= verdicts


@pytest.mark.parametrize("link", LINKS, ids=lambda link: link.name)
def test_packets_with_random_headers_get_the_verdict_of_the_specification(link: Link) -> None:
    rng = random.Random(link.name)
    story = [opening("tcp")]
    for protocol in ("tcp", "udp"):
        opened = session_of(protocol)
        for kind in KINDS:
            story += shaken(sound_packet(kind, protocol, link, opened), 150 if COMPILED else 30, rng)
    agreed(NETWORK, story, ReferenceSimulator(NETWORK))


@given(st.lists(st.tuples(st.binary(max_size=90), st.sampled_from(LINK_TYPES), st.integers(0, 2000)), max_size=40))
def test_random_bytes_get_the_verdict_of_the_specification(frames: list[tuple[bytes, int, int]]) -> None:
    story = [opening("tcp")]
    story += [Sent(frame, "tenant0", START, original, link_type) for frame, link_type, original in frames]
    agreed(NETWORK, story, ReferenceSimulator(NETWORK))


@pytest.mark.parametrize("surroundings", [0x00, 0xFF, 0x45])
def test_bytes_outside_a_packet_neither_count_nor_change(surroundings: int) -> None:
    reference = ReferenceSimulator(NETWORK)
    story = [opening("tcp")]
    opened = session_of("tcp")
    for kind in KINDS:
        for link in LINKS:
            story += truncations(sound_packet(kind, "tcp", link, opened))
    batch = batch_of(story, NETWORK)
    gap = 80
    data = np.full(len(batch.data) + gap * (len(story) + 1), surroundings, np.uint8)
    frames = batch.frames.copy()
    outside = np.ones(len(data), bool)
    for index, row in enumerate(frames):
        row["offset"] += gap * (index + 1)
        place = slice(int(row["offset"]), int(row["offset"]) + int(row["captured"]))
        data[place] = np.frombuffer(batch[index], np.uint8)
        outside[place] = False
    simulator = Simulator(NETWORK)
    result = simulator.process(PacketBatch(data, frames))
    for index, packet in enumerate(story):
        wanted = reference.receive(
            packet.frame,
            at=packet.at,
            time_ns=packet.time_ns,
            original_length=packet.original_length,
            link_type=packet.link_type,
        )
        assert_equal_outcome(index, packet, result.outcomes[index], result.packets[index], wanted, NETWORK)
    assert np.all(result.packets.data[outside] == surroundings)


def test_a_third_vlan_tag_is_not_looked_into() -> None:
    packet = tcp_packet(CLIENT, 50000, ENDPOINT, 443)
    for tags, verdict in (
        ((0x88A8, 0x8100), Verdict.FORWARDED),
        ((0x88A8, 0x8100, 0x8100), Verdict.BYPASSED),
        ((0x8100, 0x9100, 0x88A8, 0x8100), Verdict.BYPASSED),
    ):
        frame = link_frame(packet, tags=tags)
        result = Simulator(NETWORK).process(batch_of([Sent(frame, "tenant0", START)], NETWORK))
        assert result.verdicts.tolist() == [verdict]
        assert result.bytes.tolist() == [len(frame) - 14 - 4 * min(2, len(tags))]


def test_frames_at_the_very_end_of_the_buffer_are_not_read_past() -> None:
    """Under NUMBA_BOUNDSCHECK a read past the end is an error."""
    opened = session_of("tcp")
    for kind in KINDS:
        sound = sound_packet(kind, "tcp", LINKS[0], opened)
        for length in range(len(sound.frame) + 1):
            simulator = Simulator(NETWORK)
            result = simulator.process(batch_of([sound._replace(frame=sound.frame[:length])], NETWORK))
            assert len(result.verdicts) == simulator.summary()["received"]["packets"] == 1
