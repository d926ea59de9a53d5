"""The engine against the executable specification, on random topologies and traces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dataplane.topology.model import Topology
from tests.lockstep import Sent, assert_equal_runs
from tests.reference import Outcome, ReferenceSimulator
from tests.strategies import Step, resolve, topologies, traces


def told_by_reference(
    topology: Topology, trace: list[Step], seed: int
) -> tuple[ReferenceSimulator, list[Sent | int], list[Outcome]]:
    """Send a trace through the reference: what happened in order, and what became of every packet."""
    reference = ReferenceSimulator(topology, seed)
    story: list[Sent | int] = []
    outcomes = []
    for step in trace:
        arrival = resolve(step, reference)
        if arrival.frame is None:
            reference.advance(arrival.time_ns)
            story.append(arrival.time_ns)
            continue
        packet = Sent(arrival.frame, arrival.at, arrival.time_ns, arrival.original_length, arrival.link_type)
        story.append(packet)
        outcomes.append(
            reference.receive(
                packet.frame,
                at=packet.at,
                time_ns=packet.time_ns,
                original_length=packet.original_length,
                link_type=packet.link_type,
            )
        )
    reference.check_laws()
    return reference, story, outcomes


@given(
    topology=topologies(), trace=traces(), seed=st.integers(0, 3), burst=st.sampled_from([1, 7, 256])
)
def test_engine_and_reference_agree_on_every_packet(
    topology: Topology, trace: list[Step], seed: int, burst: int
) -> None:
    reference, story, outcomes = told_by_reference(topology, trace, seed)
    assert_equal_runs(topology, seed, story, reference, outcomes, burst=burst)
