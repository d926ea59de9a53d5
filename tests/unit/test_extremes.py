"""A simulator whose time begins ahead of its packets, and that is asked for its lowest and first again and again."""

from __future__ import annotations

import pytest
from scapy.all import IP, UDP

from dataplane import Simulator
from dataplane.topology.model import Topology
from tests.traffic import topology

TEN_PORTS = Topology.model_validate(topology("1024-1033", only="udp", timeouts={"udp": "5s"}))


def send(simulator: Simulator, port: int, second: float) -> str:
    packet = IP(src="10.0.0.9", dst="10.0.1.5") / UDP(sport=port, dport=53)
    return str(simulator.send(packet, at="contoso", time=second).verdict)


def test_seconds_are_counted_from_the_start() -> None:
    simulator = Simulator(TEN_PORTS)
    simulator.start(time_ns=100_000_000_000)
    for port in range(11):
        send(simulator, 1000 + port, 103.5)
    assert simulator.summary()["first_exhaustion"]["time_seconds"] == 3.5
    simulator.advance(to=107.0)
    assert simulator.summary()["duration_seconds"] == 7.0


def test_several_workers_start_like_one() -> None:
    one, two = Simulator(TEN_PORTS), Simulator(TEN_PORTS, workers=2)
    for simulator in (one, two):
        simulator.start(time_ns=100_000_000_000)
        for port in range(12):
            send(simulator, 1000 + port, 161.0)
    assert one.summary() == two.summary()
    with pytest.raises(ValueError, match="one worker"):
        two.take_extremes()
    two.close()


def test_time_begins_once() -> None:
    simulator = Simulator(TEN_PORTS)
    send(simulator, 1000, 1.0)
    with pytest.raises(ValueError, match="time has begun"):
        simulator.start(time_ns=0)


def test_the_lowest_and_the_first_are_told_since_they_were_last_asked_for() -> None:
    simulator = Simulator(TEN_PORTS)
    for port in range(11):
        send(simulator, 1000 + port, 1.0)
    lowest, first = simulator.take_extremes()
    assert lowest.tolist() == [0]
    assert first is not None
    assert first["time_seconds"] == 0.0
    simulator.advance(to=7.0)  # all ports are free again
    assert simulator.take_extremes()[0].tolist() == [0]  # they were not at first
    for port in range(4):
        send(simulator, 2000 + port, 8.0)
    lowest, second = simulator.take_extremes()
    assert lowest.tolist() == [6]
    assert second is None
    for port in range(8):
        send(simulator, 3000 + port, 9.0)
    lowest, third = simulator.take_extremes()
    assert lowest.tolist() == [0]
    assert third == {**first, "time_seconds": 8.0}


def test_the_summary_tells_of_the_whole_time_all_the_same() -> None:
    asked, not_asked = Simulator(TEN_PORTS), Simulator(TEN_PORTS)
    for second in range(20):
        for port in range(11 if second % 6 == 0 else 1):
            for simulator in (asked, not_asked):
                send(simulator, 1000 + 20 * second + port, float(second))
        asked.take_extremes()
    assert asked.summary() == not_asked.summary()
    assert asked.summary()["first_exhaustion"]["time_seconds"] == 0.0
