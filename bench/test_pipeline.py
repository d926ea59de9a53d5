"""The engine alone: packets in memory through `Simulator.feed`, one core."""

import pytest

from bench import workloads
from dataplane.simulator import Simulator

SESSIONS = [1, 1_000, 60_000, 500_000]
#: What a capture's reader holds at a time: packets of all sizes are as near in the caches as they are in a replay.
READ_BYTES = 8 << 20


@pytest.mark.benchmark(group="pipeline")
@pytest.mark.parametrize("sessions", SESSIONS)
def test_pipeline(measure, packets, sessions):
    """64-byte requests of open sessions."""
    measure(Simulator(workloads.topology()), workloads.udp(packets, min(sessions, packets)))


@pytest.mark.benchmark(group="pipeline-both-directions")
@pytest.mark.parametrize("sessions", SESSIONS)
def test_both_directions(measure, packets, sessions):
    """64-byte packets of open sessions: a request, a reply, and so on."""
    measure(Simulator(workloads.topology()), workloads.both_directions(packets, min(sessions, packets // 2)))


@pytest.mark.benchmark(group="pipeline-sizes")
@pytest.mark.parametrize("size", [64, 590, 1500])
def test_size(measure, packets, size):
    """1,000 sessions, frames of one size, 8 MiB of them."""
    count = min(packets, READ_BYTES // size)
    measure(Simulator(workloads.topology()), workloads.udp(count, min(1_000, count), size), rounds=99)


@pytest.mark.benchmark(group="pipeline-sizes")
def test_size_imix(measure, packets):
    """1,000 sessions, frames of 64, 590 and 1,500 bytes at 7 : 4 : 1."""
    count = min(packets, READ_BYTES // 362)
    measure(Simulator(workloads.topology()), workloads.imix(count, min(1_000, count)), rounds=99)


@pytest.mark.benchmark(group="new sessions")
@pytest.mark.parametrize("live", [1_000, 60_000, 500_000])
def test_new_sessions(measure, packets, live):
    """Every packet opens a session while another one ends; so many are open at any time."""
    live = min(live, packets // 2)
    simulator = Simulator(workloads.topology(udp_timeout="1s"))
    measure(simulator, workloads.new_sessions(packets, live, timeout_ns=10**9), rounds=5)
