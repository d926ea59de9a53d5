"""Where a reader cuts a capture into batches shows in nothing: not in verdicts, figures, nor in what is recorded.

Fragments wait across batches, and resets of idle time-outs stand between the packets of one, so both are drawn often.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dataplane.runs.record import Recorder
from dataplane.runs.replay import send_and_record
from dataplane.simulator import Simulator
from dataplane.topology.model import Topology
from tests.differential.test_engine import told_by_reference
from tests.lockstep import Sent, batch_of
from tests.strategies import Step, topologies, traces


def recorded(
    topology: Topology, packets: Sequence[Sent], size: int, workers: int = 1
) -> tuple[bytes, dict[str, Any], list[Any]]:
    """The capture, the summary and the ended sessions of a replay that reads so many packets at a time."""
    simulator = Simulator(topology, sessions_log=True, workers=workers)
    file = io.BytesIO()
    recorder = Recorder(topology, file)
    for begin in range(0, len(packets), size):
        send_and_record(simulator, simulator.sequence(batch_of(packets[begin : begin + size], topology)), recorder)
    send_and_record(simulator, simulator.remaining(), recorder)
    recorder.close()
    return file.getvalue(), simulator.summary(), simulator.take_ended_sessions().tolist()


@given(topology=topologies(), trace=traces(), size=st.integers(1, 7), workers=st.integers(1, 3))
def test_batches_of_any_size_and_any_number_of_workers_give_the_same_bytes(
    topology: Topology, trace: list[Step], size: int, workers: int
) -> None:
    _, story, _ = told_by_reference(topology, trace, 0)
    packets = [step for step in story if isinstance(step, Sent)]
    assert recorded(topology, packets, size, workers) == recorded(topology, packets, max(1, len(packets)))

