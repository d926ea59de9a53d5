"""A NAT pool to its last port: who is refused, who goes on, and what the figures say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dataplane.kernel import COMPILED
from dataplane.packets.batch import PacketBatch
from dataplane.simulator import Simulator
from dataplane.verdict import Verdict
from tests.lockstep import assert_laws
from tests.property.networks import (
    BACKENDS,
    CLIENT,
    NAT_IPS,
    answered,
    batch_of_rows,
    network,
    numbers_at,
    rows_of,
    tcp_columns,
)

# The default range has 64,512 ports; interpreted kernels get a small one.
PORTS: dict[str, Any] = {} if COMPILED else {"nat_ports": "1024-1435"}
CAPACITY = 64_512 if COMPILED else 412
TCP_ONLY = (("tcp", 443, 8443),)
SECOND = 10**9


def clients(count: int, first: int = 0, **columns: Any) -> PacketBatch:
    """SYNs of so many different sessions, one nanosecond apart if no time is given."""
    numbers = np.arange(first, first + count)
    columns = {"time_ns": numbers} | columns
    return tcp_columns(count, source=int(CLIENT) + numbers // 50_000, source_port=numbers % 50_000 + 1, **columns)


def pool(simulator: Simulator, nat_ip: int = 0) -> dict[str, Any]:
    return simulator.summary()["private_link_services"][0]["nat_ips"][nat_ip]


def exhausted(nat_ips: Sequence[str], **nat: Any) -> tuple[Simulator, NDArray[np.uint8]]:
    """A simulator whose every port is in use, and the packets as they arrived at the backend."""
    simulator = Simulator(network(nat_ips=nat_ips, rules=TCP_ONLY, nat=PORTS | nat))
    result = simulator.process(clients(len(nat_ips) * CAPACITY))
    assert np.all(result.verdicts == Verdict.FORWARDED)
    return simulator, rows_of(result.packets)


def test_session_64513_is_refused_and_all_older_ones_still_answer() -> None:
    simulator, arrived = exhausted(NAT_IPS[:1])
    assert simulator.summary()["first_exhaustion"] is None
    assert pool(simulator)["free"] == 0
    assert pool(simulator)["availability_percent"] == 0.0
    assert np.array_equal(np.sort(numbers_at(arrived, 34, 2)), np.arange(CAPACITY) + 1024), "every port once"

    one_more = simulator.process(clients(1, first=CAPACITY, time_ns=2 * SECOND))
    assert one_more.verdicts.tolist() == [Verdict.NAT_PORTS_EXHAUSTED]
    assert one_more.packets[0] == clients(1, first=CAPACITY)[0], "a refused packet stays as it is"
    figures = pool(simulator)
    assert (figures["availability_percent"], figures["usage_percent"]) == (0.0, 100.0)
    assert (figures["minimum_availability_percent"], figures["worst_pool_availability_percent"]) == (0.0, 0.0)
    assert (figures["capacity"], figures["in_use"], figures["held"], figures["free"]) == (CAPACITY, CAPACITY, 0, 0)
    assert figures["allocation_failures"] == 1
    assert simulator.summary()["first_exhaustion"] == {
        "time_seconds": 2.0,
        "service": "service",
        "nat_ip": NAT_IPS[0],
        "protocol": "tcp",
        "backend": BACKENDS[0],
        "reason": "nat_ports_exhausted",
    }

    replies = simulator.process(batch_of_rows(answered(arrived), time_ns=3 * SECOND, point=1))
    assert np.all(replies.verdicts == Verdict.FORWARDED)
    numbers = np.arange(CAPACITY)
    returned = rows_of(replies.packets)
    assert np.array_equal(numbers_at(returned, 30, 4), int(CLIENT) + numbers // 50_000)
    assert np.array_equal(numbers_at(returned, 36, 2), numbers % 50_000 + 1)
    requests = simulator.process(clients(CAPACITY, flags=0x10, time_ns=4 * SECOND))
    assert np.all(requests.verdicts == Verdict.FORWARDED)

    # Later refusals do not move the first.
    assert np.all(simulator.process(clients(9, first=CAPACITY, time_ns=5 * SECOND)).verdicts == one_more.verdicts[0])
    assert simulator.summary()["first_exhaustion"]["time_seconds"] == 2.0
    assert pool(simulator)["allocation_failures"] == 10
    assert_laws(simulator)


@pytest.mark.parametrize("selection", ["hash", "round_robin", "fill_first", "paired"])
def test_with_spill_two_nat_ips_are_full_before_anyone_is_refused(selection: str) -> None:
    simulator, arrived = exhausted(NAT_IPS, nat_ip_selection=selection, spill=True)
    tuples = numbers_at(arrived, 26, 4) << 16 | numbers_at(arrived, 34, 2)
    assert len(np.unique(tuples)) == 2 * CAPACITY
    refused = simulator.process(clients(3, first=2 * CAPACITY, time_ns=SECOND))
    assert np.all(refused.verdicts == Verdict.NAT_PORTS_EXHAUSTED)
    for nat_ip in range(2):
        assert pool(simulator, nat_ip)["availability_percent"] == 0.0
    assert sum(pool(simulator, nat_ip)["allocation_failures"] for nat_ip in range(2)) == 3
    replies = simulator.process(batch_of_rows(answered(arrived), time_ns=2 * SECOND, point=1))
    assert np.all(replies.verdicts == Verdict.FORWARDED)


def test_without_spill_a_full_nat_ip_refuses_while_the_other_has_ports() -> None:
    simulator = Simulator(network(nat_ips=NAT_IPS, rules=TCP_ONLY, nat={"nat_ports": "2000-2099", "spill": False}))
    verdicts = simulator.process(clients(400)).verdicts
    assert np.count_nonzero(verdicts == Verdict.FORWARDED) == 200
    first_refused = int(np.flatnonzero(verdicts == Verdict.NAT_PORTS_EXHAUSTED)[0])
    assert 100 <= first_refused < 200, "the first refusal comes before both pools are full"
    assert sum(pool(simulator, nat_ip)["allocation_failures"] for nat_ip in range(2)) == 200


@pytest.mark.parametrize("allocation", ["random", "sequential"])
def test_ports_come_back_when_sessions_time_out(allocation: str) -> None:
    simulator, _ = exhausted(NAT_IPS[:1], port_allocation=allocation)
    simulator.advance(to_ns=30 * SECOND - 1)
    assert pool(simulator)["free"] == 0
    simulator.advance(to_ns=30 * SECOND + 99)
    assert pool(simulator)["free"] == 100, "one port per nanosecond, as the sessions had begun"
    result = simulator.process(clients(101, first=CAPACITY, time_ns=30 * SECOND + 99))
    assert np.all(result.verdicts[:100] == Verdict.FORWARDED)
    assert result.verdicts[100] == Verdict.NAT_PORTS_EXHAUSTED
    simulator.advance(to_ns=100 * SECOND)
    assert pool(simulator)["free"] == CAPACITY
    assert pool(simulator)["availability_percent"] == 100.0
    assert pool(simulator)["minimum_availability_percent"] == 0.0
    again = simulator.process(clients(CAPACITY, time_ns=100 * SECOND))
    assert np.all(again.verdicts == Verdict.FORWARDED)
    assert_laws(simulator)


def test_a_held_port_is_not_given_before_its_hold_is_over() -> None:
    simulator, _ = exhausted(NAT_IPS[:1], port_hold="4s")
    simulator.advance(to_ns=33 * SECOND)
    figures = pool(simulator)
    assert (figures["in_use"], figures["held"], figures["free"]) == (0, CAPACITY, 0)
    refused = simulator.process(clients(1, first=CAPACITY, time_ns=34 * SECOND - 1))
    assert refused.verdicts.tolist() == [Verdict.NAT_PORTS_EXHAUSTED]
    given = simulator.process(clients(2, first=CAPACITY, time_ns=34 * SECOND))
    assert given.verdicts.tolist() == [Verdict.FORWARDED, Verdict.NAT_PORTS_EXHAUSTED]


def test_sequential_gives_the_lowest_free_port_after_the_last_one_and_wraps() -> None:
    simulator = Simulator(network(rules=TCP_ONLY, nat={"nat_ports": "65300-65535", "port_allocation": "sequential"}))
    ports = numbers_at(rows_of(simulator.process(clients(236)).packets), 34, 2)
    assert ports.tolist() == list(range(65300, 65536))
    # Refresh the sessions with odd ports: those with even ports end.
    odd = np.flatnonzero(ports % 2)
    refreshing = tcp_columns(len(odd), source=int(CLIENT), source_port=odd + 1, flags=0x10, time_ns=20 * SECOND)
    assert np.all(simulator.process(refreshing).verdicts == Verdict.FORWARDED)
    given = rows_of(simulator.process(clients(119, first=1000, time_ns=40 * SECOND)).packets)
    even = list(range(65300, 65536, 2))
    assert numbers_at(given, 34, 2)[:118].tolist() == even, "from the start of the range, since the last was its end"
    assert numbers_at(given, 36, 2)[118] == 443, "the last one found none and was not translated"
    # The odd ones end at 50 s; the last one given was 65534.
    given = rows_of(simulator.process(clients(3, first=2000, time_ns=50 * SECOND)).packets)
    assert numbers_at(given, 34, 2).tolist() == [65535, 65301, 65303]


@pytest.mark.parametrize(("flags", "seconds", "how"), [((0x14,), 16, "reset"), ((0x11, 0x11), 65, "closed")])
def test_the_port_of_a_finished_session_comes_back_long_before_that_of_an_idle_one(
    flags: tuple[int, ...], seconds: int, how: str
) -> None:
    simulator = Simulator(network(rules=TCP_ONLY, nat={"nat_ports": "2000-2009"}))
    arrived = rows_of(simulator.process(clients(10)).packets)
    simulator.process(batch_of_rows(answered(arrived), point=1, time_ns=SECOND))
    simulator.process(clients(10, flags=0x10, time_ns=SECOND))
    at = SECOND + 7
    simulator.process(clients(4, flags=flags[0], time_ns=at))
    if len(flags) == 2:
        simulator.process(batch_of_rows(answered(arrived[:4], flags[1]), point=1, time_ns=at))
    simulator.advance(to_ns=at + seconds * SECOND - 1)
    assert pool(simulator)["free"] == 0
    simulator.advance(to_ns=at + seconds * SECOND)
    assert pool(simulator)["free"] == 4
    assert simulator.summary()["sessions"]["ended"][how] == 4
    simulator.advance(to_ns=301 * SECOND - 1)
    assert pool(simulator)["free"] == 4
    simulator.advance(to_ns=301 * SECOND)
    assert pool(simulator)["free"] == 10


def test_a_cap_per_endpoint_refuses_one_tenant_and_leaves_ports_to_the_other() -> None:
    topology = network(tenants=2, rules=TCP_ONLY, nat={"nat_ports": "2000-2099", "ports_per_endpoint": 60})
    simulator = Simulator(topology)
    greedy = simulator.process(clients(100, point=0)).verdicts
    assert np.count_nonzero(greedy == Verdict.FORWARDED) == 60
    assert np.all(greedy[60:] == Verdict.ENDPOINT_PORT_LIMIT)
    modest = simulator.process(clients(50, point=1)).verdicts
    assert np.all(modest[:40] == Verdict.FORWARDED)
    assert np.all(modest[40:] == Verdict.NAT_PORTS_EXHAUSTED)
