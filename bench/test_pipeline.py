"""The engine alone: packets in memory through `Simulator.feed`, one core."""

import pytest

from bench import workloads
from dataplane.simulator import Simulator

SESSIONS = [1, 1_000, 60_000, 500_000, 4_000_000]
#: What a capture's reader holds at a time: packets of all sizes are as near in the caches as they are in a replay.
READ_BYTES = 8 << 20


def _sized(packets: int, sessions: int) -> tuple[int, int]:
    """(packets, sessions) of a run: as many packets as sessions at least, but a quick check stays quick."""
    return (packets, min(sessions, packets)) if packets < 1_000_000 else (max(packets, sessions), sessions)


def _simulator(sessions: int, udp_timeout: str = "300s") -> Simulator:
    """With ports enough: 1,032,192 for each NAT IP."""
    return Simulator(workloads.topology(nat_ips=2 if sessions < 2_000_000 else 5, udp_timeout=udp_timeout))


@pytest.mark.benchmark(group="pipeline")
@pytest.mark.parametrize("sessions", SESSIONS)
def test_pipeline(measure, packets, sessions):
    """64-byte requests of open sessions."""
    packets, sessions = _sized(packets, sessions)
    measure(_simulator(sessions), workloads.udp(packets, sessions))


@pytest.mark.benchmark(group="pipeline-both-directions")
@pytest.mark.parametrize("sessions", SESSIONS[:-1])
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


@pytest.mark.benchmark(group="session creation")
@pytest.mark.parametrize("live", [1_000, 60_000, 500_000, 4_000_000])
def test_new_sessions(measure, packets, live):
    """Every packet opens a session while another one ends; so many are open at any time."""
    count, live = (packets, min(live, packets // 2)) if packets < 1_000_000 else (max(packets, live), live)
    batch = workloads.new_sessions(count, live, timeout_ns=10**9)
    measure(_simulator(live, udp_timeout="1s"), batch, rounds=5)


@pytest.mark.benchmark(group="hit ratio")
@pytest.mark.parametrize("hits", [100, 99, 90, 50])
def test_hit_ratio(measure, packets, hits):
    """60,000 open sessions; of 100 packets so many are of them, each of the others opens one and another ends."""
    live = min(60_000, packets // 2)
    batch = workloads.some_new(packets, live, hits, timeout_ns=10**9)
    measure(Simulator(workloads.topology(udp_timeout="1s")), batch, rounds=5)


@pytest.mark.benchmark(group="exhaustion")
def test_last_ports(measure, packets):
    """As above, in one pool of 64,512 ports of which 99 in 100 are in use: an exact search does not slow down."""
    live = 64_512 * 99 // 100
    simulator = Simulator(workloads.topology(backends=1, nat_ips=1, udp_timeout="1s"))
    measure(simulator, workloads.new_sessions(max(packets, 2 * live), live, timeout_ns=10**9), rounds=5)


@pytest.mark.benchmark(group="exhaustion")
def test_no_port_left(benchmark, tell, packets):
    """The same pool with no free port: every packet is refused."""
    simulator = Simulator(workloads.topology(backends=1, nat_ips=1, udp_timeout="10000s"))
    simulator.feed(workloads.new_sessions(64_512, 64_512, timeout_ns=10**9))
    batch = workloads.new_sessions(packets, 10**6, timeout_ns=10**9, first_flow=64_512)
    batch.frames["time_ns"] += 10**9
    benchmark.pedantic(simulator.feed, (batch,), rounds=5, warmup_rounds=1)
    dropped = simulator.summary()["dropped"]
    assert dropped["packets"] >= packets
    assert list(dropped["reasons"]) == ["nat_ports_exhausted"]
    tell(len(batch), simulator)
