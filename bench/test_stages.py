"""The stages of the pipeline on their own, each over a whole batch: what one costs before the next is added."""

from typing import Any

import numpy as np
import pytest

from bench import workloads
from dataplane.forwarding.pipeline import begin_packet, look_ahead
from dataplane.forwarding.translate import rewrite
from dataplane.kernel import kernel
from dataplane.records import PACKET
from dataplane.simulator import Simulator

SESSIONS = [1, 1_000, 60_000, 500_000]
VECTOR = 64


@kernel
def _parse(state: Any, frames: Any, data: Any, packets: Any) -> None:
    for index in range(len(frames)):
        begin_packet(state, frames[index], data, packets[index])


@kernel
def _look_up(state: Any, frames: Any, data: Any, packets: Any) -> Any:
    """As the pipeline does it: a vector's rows are asked for before the first of them is compared."""
    found = 0
    begin = 0
    while begin < len(packets):
        end = min(begin + VECTOR, len(packets))
        for index in range(begin, end):
            look_ahead(state, frames[index], data, packets[index])
        for index in range(begin, end):
            packet = packets[index]
            row = np.int64(packet["session"])
            if row >= 0 and state.sessions[row]["flow"] == packet["flow"]:
                found += 1
        begin = end
    return found


@kernel
def _rewrite(data: Any, packets: Any, sender: Any, receiver: Any) -> None:
    for index in range(len(packets)):
        rewrite(data, packets[index], sender, receiver, np.int64(0x1234), np.int64(0x4321))


@pytest.fixture
def parsed():
    """A simulator with open sessions, a batch of their packets, and the batch's PACKET rows."""

    def make(packets, sessions, size=64):
        simulator = Simulator(workloads.topology())
        batch = workloads.udp(packets, sessions, size)
        simulator.feed(batch.copy())
        rows = np.zeros(len(batch), PACKET)
        _parse(simulator._core.state, batch.frames, batch.data, rows)
        return simulator, batch, rows

    return make


@pytest.mark.benchmark(group="parsing")
@pytest.mark.parametrize("size", [64, 1500])
def test_parsing(benchmark, tell, packets, parsed, size):
    """Link, IPv4 and UDP headers, the session's key; 8 MiB of packets at a time."""
    count = min(packets, (8 << 20) // size)
    simulator, batch, rows = parsed(count, min(1_000, count), size)
    benchmark.pedantic(_parse, (simulator._core.state, batch.frames, batch.data, rows), rounds=20, warmup_rounds=1)
    assert (rows["verdict"] == 0).all()
    tell(count)


@pytest.mark.benchmark(group="lookup")
@pytest.mark.parametrize("sessions", SESSIONS)
def test_lookup(benchmark, tell, packets, parsed, sessions):
    """From the key to the session's row."""
    simulator, batch, rows = parsed(packets, min(sessions, packets))
    given = (simulator._core.state, batch.frames, batch.data, rows)
    found = benchmark.pedantic(_look_up, given, rounds=9, warmup_rounds=1)
    # Of half a million tags of 32 bits some thirty are alike; the pipeline then searches on.
    assert found > 0.999 * len(batch)
    tell(len(batch))


@pytest.mark.benchmark(group="translation")
@pytest.mark.parametrize("size", [64, 1500])
def test_translation(benchmark, tell, packets, parsed, size):
    """Addresses, ports and both checksums rewritten in place; 8 MiB of packets at a time."""
    count = min(packets, (8 << 20) // size)
    _, batch, rows = parsed(count, min(1_000, count), size)
    sender, receiver = (np.int64(0xC0A83204), np.int64(40_000)), (np.int64(0xC0A83D04), np.int64(8053))
    benchmark.pedantic(_rewrite, (batch.data, rows, sender, receiver), rounds=20, warmup_rounds=1)
    tell(count)
