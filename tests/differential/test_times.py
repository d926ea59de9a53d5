"""Times at the ends of what 64 bits of nanoseconds can say: no packet of a damaged capture may stop a run."""

from __future__ import annotations

import itertools

import pytest

from dataplane.topology.model import Topology
from tests.lockstep import Sent, arrive, assert_equal_runs
from tests.property.networks import CLIENT, ENDPOINT, network
from tests.reference import ReferenceSimulator
from tests.strategies import tcp_packet

MINUTE = 60 * 10**9
EDGES = (-(2**70), -(2**63), -(2**63) + MINUTE, -1, 0, 2**62, 2**63 - MINUTE, 2**63 - MINUTE // 30, 2**63 - 1, 2**64)


@pytest.mark.parametrize("times", list(itertools.permutations(EDGES, 2)), ids=str)
def test_any_time_is_kept_or_counted(times: tuple[int, int]) -> None:
    topology: Topology = network()
    at = topology.consumer_networks[0].name
    reference = ReferenceSimulator(topology, 0)
    story: list[Sent | int] = [
        Sent(tcp_packet(CLIENT, 5000 + number, ENDPOINT, 443), at, time, link_type=101)
        for number, time in enumerate((*times, times[0]))
    ]
    received = [one for packet in story if isinstance(packet, Sent) for one in arrive(reference, packet)]
    story.append(2**63 - 1)
    reference.advance(2**63 - 1)
    reference.check_laws()
    assert_equal_runs(topology, 0, story, reference, received)
