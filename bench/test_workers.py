"""Two shards in two threads against one: where it pays to share the work, and where not."""

import pytest

from bench import workloads
from dataplane.simulator import Simulator


@pytest.mark.benchmark(group="workers")
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("sessions", [1_000, 500_000])
def test_open_sessions(measure, packets, sessions, workers):
    """64-byte requests of open sessions, 16 backends."""
    measure(Simulator(workloads.topology(), workers=workers), workloads.udp(packets, min(sessions, packets)))


@pytest.mark.benchmark(group="workers")
@pytest.mark.parametrize("workers", [1, 2])
def test_both_ways(measure, packets, workers):
    """A request, a reply, and so on; 60,000 sessions."""
    batch = workloads.both_directions(packets, min(60_000, packets // 2))
    measure(Simulator(workloads.topology(), workers=workers), batch)


@pytest.mark.benchmark(group="workers")
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("live", [60_000, 500_000])
def test_opening_sessions(measure, packets, live, workers):
    """Every packet opens a session while another one ends, at even gaps, so that one ends between any two packets."""
    live = min(live, packets // 2)
    simulator = Simulator(workloads.topology(udp_timeout="1s"), workers=workers)
    measure(simulator, workloads.new_sessions(packets, live, timeout_ns=10**9), rounds=5)


@pytest.mark.benchmark(group="workers")
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("live", [60_000, 500_000])
def test_opening_at_random(measure, packets, live, workers):
    """The same at exponential gaps, as users come: how many sessions end before the next packet, nobody foresees."""
    live = min(live, packets // 2)
    simulator = Simulator(workloads.topology(udp_timeout="1s"), workers=workers)
    measure(simulator, workloads.new_sessions_at_random(packets, live, timeout_ns=10**9), rounds=5)
