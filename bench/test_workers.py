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
@pytest.mark.parametrize("gaps", ["even", "random"])
def test_opening_sessions(measure, packets, live, workers, gaps):
    """Every packet opens a session while another one ends.

    At even gaps exactly one ends between two packets; at random ones, as users come, nobody foresees how many.
    """
    make = workloads.new_sessions if gaps == "even" else workloads.new_sessions_at_random
    simulator = Simulator(workloads.topology(udp_timeout="1s"), workers=workers)
    measure(simulator, make(packets, min(live, packets // 2), timeout_ns=10**9), rounds=5)
