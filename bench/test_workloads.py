"""The workloads are what they say: valid packets, every session there, everything forwarded."""

import numpy as np
import pytest

from bench import workloads
from dataplane.capture import read_capture
from dataplane.packets import craft
from dataplane.simulator import Simulator


def _assert_valid(batch):
    """Scapy computes the same checksums."""
    for index in range(0, len(batch), 97):
        content = batch[index]
        packet = craft.to_packet(content, 1)
        del packet["IP"].chksum, packet["UDP"].chksum
        assert bytes(packet) == content


@pytest.mark.parametrize(
    "batch",
    [
        workloads.udp(1000, 100),
        workloads.udp(500, 1, size=590, seed=3),
        workloads.imix(1000, 10),
        workloads.new_sessions(1000, 100, 10**9),
        workloads.new_sessions_at_random(1000, 100, 10**9),
        workloads.both_directions(1001, 50),
        workloads.some_new(1000, 100, 90, 10**9),
    ],
    ids=["udp", "udp-590", "imix", "new-sessions", "new-sessions-at-random", "both-directions", "some-new"],
)
def test_every_packet_is_valid_and_forwarded(batch):
    _assert_valid(batch)
    simulator = Simulator(workloads.topology())
    simulator.feed(batch)
    summary = simulator.summary()
    assert summary["forwarded"]["packets"] == len(batch)
    _assert_valid(batch)  # translated, they are valid still


def test_every_session_is_visited_when_there_are_packets_enough():
    simulator = Simulator(workloads.topology())
    simulator.feed(workloads.udp(1000, 1000))
    assert simulator.summary()["sessions"] == {
        "created": 1000,
        "active": 1000,
        "ended": {"closed": 0, "reset": 0, "idle": 0, "disconnected": 0, "moved": 0},
        "resets_sent": 0,
    }


def test_half_of_both_directions_are_replies():
    simulator = Simulator(workloads.topology())
    simulator.feed(workloads.both_directions(1000, 50))
    endpoint = simulator.summary()["private_endpoints"][0]
    assert (endpoint["packets_in"], endpoint["packets_out"]) == (500, 500)


def test_new_sessions_end_as_fast_as_they_begin():
    simulator = Simulator(workloads.topology(udp_timeout="1s"))
    simulator.feed(workloads.new_sessions(1000, live=100, timeout_ns=10**9))
    assert simulator.summary()["sessions"]["active"] == 100
    assert simulator.summary()["sessions"]["created"] == 1000


def test_at_random_about_as_many_sessions_are_live():
    simulator = Simulator(workloads.topology(udp_timeout="1s"))
    simulator.feed(workloads.new_sessions_at_random(10_000, live=1000, timeout_ns=10**9))
    assert simulator.summary()["sessions"]["active"] == pytest.approx(1000, rel=0.2)
    assert simulator.summary()["sessions"]["created"] == 10_000


@pytest.mark.parametrize("hits", [100, 90, 50])
def test_of_a_hundred_packets_so_many_find_a_session(hits):
    simulator = Simulator(workloads.topology(udp_timeout="1s"))
    batch = workloads.some_new(10_000, 400, hits, 10**9)
    span = int(batch.time_ns[-1] - batch.time_ns[0]) + 1_000
    for _ in range(3):  # those that stay are opened in the first round
        before = simulator.summary()["sessions"]["created"]
        simulator.feed(batch.copy())
        batch.frames["time_ns"] += span
    assert simulator.summary()["sessions"]["created"] - before == pytest.approx(10_000 * (100 - hits) / 100, rel=0.1)
    assert simulator.summary()["sessions"]["active"] <= 420


@pytest.mark.parametrize("name", ["a.pcap", "a.pcapng"])
def test_a_capture_holds_the_batch(tmp_path, name):
    batch = workloads.both_directions(100, 10)
    back = read_capture(workloads.write_capture(batch, tmp_path / name))
    assert np.array_equal(back.data, batch.data)
    assert np.array_equal(back.time_ns, batch.time_ns)
    if name.endswith("ng"):
        assert np.array_equal(back.frames["interface"], batch.frames["point"])
