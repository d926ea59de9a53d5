"""Packets of open sessions, told as stories: their way follows from the session that is open, not from an address.

The engine does not look up who an address is once a session tells; the reference always does. They have to agree, also
where an address is a consumer's and an endpoint's, where one network sees the endpoints of another, and where a packet
that would be the session's has something wrong with it.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import numpy as np
import pytest

from dataplane.forwarding.tables import build_state
from dataplane.nat.hashing import flow_tag
from dataplane.topology.model import Topology
from tests.lockstep import Sent, Story, arrive, assert_equal_runs
from tests.property.networks import CLIENT, ENDPOINT, network
from tests.reference import ReferenceSimulator
from tests.strategies import udp_packet

SECOND = 10**9
OTHER_ENDPOINT = "10.0.0.5"


End = tuple[object, int]


def udp(time_s: float, sender: End, receiver: End, at: str = "tenant0", **header: Any) -> Sent:
    """A datagram from one address and port to another."""
    return Sent(udp_packet(*sender, *receiver, **header), at, round(time_s * SECOND), link_type=101)


def told(topology: Topology, story: Story, workers: int) -> list[tuple[str, str, int | None]]:
    """(verdict, direction, session) of each packet; engine and reference agree on all that became of it."""
    reference = ReferenceSimulator(topology, 0)
    received = [pair for step in story if isinstance(step, Sent) for pair in arrive(reference, step)]
    # A vector of one packet each: only a session that was open before its vector is foreseen.
    assert_equal_runs(topology, 0, story, reference, received, workers=workers, burst=1)
    return [(str(one.verdict), str(one.direction), one.session) for _, one in received]


@pytest.mark.parametrize("workers", [1, 2])
def test_requests_and_captured_replies_of_one_session(workers: int) -> None:
    client, endpoint = (CLIENT, 5000), (ENDPOINT, 53)
    story = [udp(n, *((endpoint, client) if n % 2 else (client, endpoint))) for n in range(6)]
    found = told(network(), story, workers)
    assert found == [("forwarded", "to_service", 1), ("forwarded", "to_consumer", 1)] * 3


@pytest.mark.parametrize("workers", [1, 2])
def test_a_packet_of_an_open_session_whose_time_to_live_is_over(workers: int) -> None:
    client, endpoint = (CLIENT, 5000), (ENDPOINT, 53)
    story = [
        udp(0, client, endpoint),
        udp(1, client, endpoint, ttl=1),
        udp(2, endpoint, client, ttl=1),  # it was captured after the step that takes one off
        udp(3, endpoint, client, ttl=0),
        udp(4, client, endpoint, ttl=2),
    ]
    verdicts = [verdict for verdict, _, _ in told(network(), story, workers)]
    assert verdicts == ["forwarded", "ttl_expired", "forwarded", "ttl_expired", "forwarded"]
    endless = [verdict for verdict, _, _ in told(network(nat={"decrement_ttl": False}), story, workers)]
    assert endless == ["forwarded"] * 5


@pytest.mark.parametrize("workers", [1, 2])
def test_a_malformed_packet_with_the_addresses_of_an_open_session(workers: int) -> None:
    story = [udp(n, (CLIENT, 5000), (ENDPOINT, 53)) for n in range(3)]
    broken = bytearray(story[1].frame)
    broken[25] = 7  # a UDP length below that of the header
    story[1] = story[1]._replace(frame=bytes(broken))
    verdicts = [verdict for verdict, _, _ in told(network(), story, workers)]
    assert verdicts == ["forwarded", "malformed", "forwarded"]


@pytest.mark.parametrize("workers", [1, 2])
def test_tenants_with_the_same_addresses_have_sessions_of_their_own(workers: int) -> None:
    client, endpoint = (CLIENT, 5000), (ENDPOINT, 53)
    story = [udp(n, client, endpoint, at=f"tenant{n % 2}") for n in range(6)]
    story += [udp(n, endpoint, client, at=f"tenant{n % 2}") for n in range(6, 10)]
    found = told(network(tenants=2), story, workers)
    assert [session for _, _, session in found] == [1, 2] * 5


def test_networks_that_are_peered_look_for_sessions_under_the_same_tags_and_no_others() -> None:
    document = network(tenants=4).model_dump(mode="json")
    for number, peer in ((0, "hub"), (3, "hub"), (1, "provider")):
        document["virtual_networks"][number] |= {"peered_with": [peer], "address_space": [f"10.{10 + number}.0.0/16"]}
        document["private_endpoints"][number]["ip"] = f"10.{10 + number}.0.100"
    document["virtual_networks"].append({"name": "hub", "address_space": ["10.20.0.0/16"]})
    keys = build_state(Topology.model_validate(document), 0, logging=False).points["key"].tolist()
    tenants, provider, hub = keys[:4], keys[4], keys[5]
    assert tenants[0] == tenants[3] == hub
    assert tenants[1] == provider
    assert len({tenants[0], tenants[1], tenants[2]}) == 3


def test_two_flows_under_one_tag() -> None:
    """32 bits of hash: some of a hundred thousand flows share theirs."""
    topology = network()
    key = build_state(topology, 0, logging=False).points[0]["key"]
    provider = np.int64(int(ENDPOINT) << 16 | 53)
    seen: dict[int, int] = {}
    pairs = []
    for number in range(1 << 17):
        consumer = (int(CLIENT) << 16) + (number // 50_000 << 16) + 1024 + number % 50_000
        tag = int(flow_tag(key, np.int64(consumer), provider, np.int64(17)))
        if tag in seen:
            pairs.append((seen[tag], consumer))
        seen[tag] = consumer
    assert pairs
    story = []
    for pair in pairs:
        one, other = ((IPv4Address(end >> 16), end & 0xFFFF) for end in pair)
        for sender, receiver in (
            (one, (ENDPOINT, 53)),
            (other, (ENDPOINT, 53)),
            (one, (ENDPOINT, 53)),
            ((ENDPOINT, 53), other),
            ((ENDPOINT, 53), one),
        ):
            story.append(udp(len(story), sender, receiver))
    found = told(topology, story, 1)
    assert [session for _, _, session in found] == [n + k for n in range(0, len(story), 5) for k in (1, 2, 1, 2, 1)]


@pytest.mark.parametrize("workers", [1, 2])
def test_two_endpoints_that_send_to_each_other_from_the_ports_they_are_asked_at(workers: int) -> None:
    """A live session makes its reply of a packet that might open one itself; once it has ended, the packet does."""
    one, other = (ENDPOINT, 53), (OTHER_ENDPOINT, 53)
    topology = network(more_endpoints=[OTHER_ENDPOINT], nat={"timeouts": {"udp": "10s"}})
    story = [
        udp(0, one, other),
        udp(1, other, one),
        udp(2, one, other),
        udp(30, other, one),
        udp(31, one, other),
        udp(32, other, one),
    ]
    assert told(topology, story, workers) == [
        ("forwarded", "to_service", 1),
        ("forwarded", "to_consumer", 1),
        ("forwarded", "to_service", 1),
        ("forwarded", "to_service", 4),
        ("forwarded", "to_consumer", 4),
        ("forwarded", "to_service", 4),
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_session_is_one_from_whichever_network_its_packets_come(workers: int) -> None:
    document = network().model_dump(mode="json")
    document["virtual_networks"].append(
        {"name": "spoke", "address_space": ["10.2.0.0/16"], "peered_with": ["tenant0"]}
    )
    document["virtual_networks"][0]["peered_with"] = ["spoke"]
    client, endpoint = (CLIENT, 5000), (ENDPOINT, 53)
    ways = [(client, endpoint, "tenant0"), (client, endpoint, "spoke"), (endpoint, client, "spoke")]
    story = [udp(n, *ways[n % 3]) for n in range(9)]
    found = told(Topology.model_validate(document), story, workers)
    assert [(verdict, session) for verdict, _, session in found] == [("forwarded", 1)] * 9


@pytest.mark.parametrize("workers", [1, 2])
def test_a_reply_comes_first_also_where_the_session_foreseen_is_the_packets_own(workers: int) -> None:
    """Only the hub sees both endpoints. Each has opened a session with the other, where it was a client."""
    document = network().model_dump(mode="json")
    networks = {
        "east": {"address_space": ["10.2.0.0/16"], "peered_with": ["hub"], "on_premises": ["10.3.0.0/16"]},
        "west": {"address_space": ["10.3.0.0/16"], "peered_with": ["hub"]},
        "hub": {"address_space": ["10.4.0.0/16"], "peered_with": ["east", "west"]},
    }
    document["virtual_networks"] += [{"name": name, **settings} for name, settings in networks.items()]
    east, west = ("10.2.0.9", 53), ("10.3.0.9", 53)
    for name, (ip, _) in (("east", east), ("west", west)):
        document["private_endpoints"].append(
            {"name": name, "virtual_network": name, "ip": ip, "target": "service", "connection": "approved"}
        )
    story = [
        udp(0, east, west, at="hub"),
        udp(1, west, east, at="east"),
        udp(2, east, west, at="hub"),
    ]
    assert told(Topology.model_validate(document), story, workers) == [
        ("forwarded", "to_service", 1),
        ("forwarded", "to_service", 2),
        ("forwarded", "to_consumer", 2),
    ]
