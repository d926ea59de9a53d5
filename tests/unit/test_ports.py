"""NAT port pools against plain lists: which port is given, who owns it, how many are free."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.forwarding.tables import build_state
from dataplane.kernel import COMPILED
from dataplane.nat.ports import give_port, session_at, take_port
from dataplane.records import State
from tests.property.networks import BACKENDS, NAT_IPS, network
from tests.reference import MODULO, key64, mix, pick

SIZES = (1, 2, 63, 64, 65, 100, 127, 128, 129, 192, 200)
GOLDEN = 0x9E3779B97F4A7C15


class Twin:
    """A pool as the specification words it."""

    def __init__(self, allocation: str, size: int, key: int) -> None:
        self.allocation, self.size, self.key = allocation, size, key
        self.free = list(range(size))
        self.owner: dict[int, int] = {}
        self.draws = 0
        self.last = -1
        self.minimum = size

    def take(self, row: int) -> int:
        if self.allocation == "random":
            self.draws += 1
            at = pick(mix((self.key + self.draws * GOLDEN) % MODULO), len(self.free))
            port = self.free[at]
            self.free[at] = self.free[-1]
            self.free.pop()
        else:
            port = min([p for p in self.free if p > self.last] or self.free)
            self.free.remove(port)
        self.last = port
        self.owner[port] = row
        self.minimum = min(self.minimum, len(self.free))
        return port

    def give(self, port: int) -> None:
        del self.owner[port]
        self.free.append(port)


def pools(allocation: str, size: int, first: int = 1024, seed: int = 0) -> tuple[State, list[Twin]]:
    """Four pools of one size, side by side in memory."""
    topology = network(
        nat_ips=NAT_IPS,
        backends=BACKENDS,
        rules=(("tcp", 443, 8443),),
        nat={"nat_ports": f"{first}-{first + size - 1}", "port_allocation": allocation},
    )
    state = build_state(topology, seed, logging=False, rows=2)
    names = [(nat_ip, "tcp", backend) for nat_ip in NAT_IPS for backend in BACKENDS]
    twins = [Twin(allocation, size, key64(seed, "pool", "service", *name)) for name in names]
    return state, twins


def assert_same(state: State, twins: list[Twin], first: int) -> None:
    for number, twin in enumerate(twins):
        pool = state.pools[number]
        assert pool["free"] == len(twin.free)
        assert pool["minimum_free"] == twin.minimum
        for port in {0, twin.size - 1, *twin.owner}:
            assert session_at(state, number, np.int64(first + port)) == twin.owner.get(port, -1)
        assert session_at(state, number, np.int64(first - 1)) == -1
        assert session_at(state, number, np.int64(first + twin.size)) == -1
        owners = state.port_session[int(pool["ports"]) :][: twin.size]
        assert {int(port): int(owners[port]) - 1 for port in np.flatnonzero(owners)} == twin.owner
        if twin.allocation == "sequential":
            words = state.used_ports[int(pool["words"]) :][: (twin.size + 63) // 64]
            bits = "".join(format(int(word), "064b")[::-1] for word in words)
            assert {at for at, bit in enumerate(bits[: twin.size]) if bit == "1"} == set(twin.owner)
            assert set(bits[twin.size :]) <= {"1"}, "ports beyond the range's end are never free"


MOVES = st.lists(st.tuples(st.integers(0, 3), st.booleans() | st.just(True), st.integers(0, 10_000)), max_size=300)


@pytest.mark.parametrize("allocation", ["random", "sequential"])
@given(size=st.sampled_from(SIZES) | st.integers(1, 300), moves=MOVES, seed=st.integers(0, 5))
def test_a_pool_gives_the_ports_of_the_specification(
    allocation: str, size: int, moves: list[tuple[int, bool, int]], seed: int
) -> None:
    state, twins = pools(allocation, size, seed=seed)
    for row, (number, taking, which) in enumerate(moves):
        twin = twins[number]
        if taking and twin.free:
            assert take_port(state, number, np.int64(row)) == twin.take(row)
        elif twin.owner:
            port = list(twin.owner)[which % len(twin.owner)]
            give_port(state, number, np.int64(port))
            twin.give(port)
    assert_same(state, twins, 1024)


@pytest.mark.parametrize("allocation", ["random", "sequential"])
@pytest.mark.parametrize("size", SIZES)
def test_a_pool_gives_every_port_once_and_again_after_release(allocation: str, size: int) -> None:
    state, twins = pools(allocation, size, first=65535 - size + 1)
    for round_ in range(3):
        given_ports = [int(take_port(state, 1, np.int64(row))) for row in range(size)]
        assert given_ports == [twins[1].take(row) for row in range(size)]
        assert sorted(given_ports) == list(range(size))
        if allocation == "sequential":
            assert given_ports == list(range(size))
        assert_same(state, twins, 65535 - size + 1)
        for port in given_ports[:: 1 if round_ else -1]:
            give_port(state, 1, np.int64(port))
            twins[1].give(port)
    assert_same(state, twins, 65535 - size + 1)


@pytest.mark.parametrize("allocation", ["random", "sequential"])
def test_the_whole_range_of_ports_fits(allocation: str) -> None:
    state, twins = pools(allocation, 65_535 if COMPILED else 3000, first=1)
    size = twins[2].size
    offsets = np.array([take_port(state, 2, np.int64(row)) for row in range(size)])
    assert np.array_equal(np.sort(offsets), np.arange(size))
    assert state.pools[2]["free"] == 0
    assert session_at(state, 2, np.int64(size)) == int(np.flatnonzero(offsets == size - 1)[0])


def test_sequential_finds_the_only_free_port_wherever_it_is() -> None:
    for size in (1, 64, 65, 130):
        state, _ = pools("sequential", size)
        for row in range(size):
            take_port(state, 0, np.int64(row))
        for port in (size - 1, 0, size // 2, size // 2, 0):
            give_port(state, 0, np.int64(port))
            assert take_port(state, 0, np.int64(7)) == port


def test_two_pools_of_the_same_size_draw_different_ports() -> None:
    state, _ = pools("random", 60_000)
    drawn: list[Any] = [[int(take_port(state, number, np.int64(0))) for _ in range(5)] for number in range(4)]
    assert len({tuple(ports) for ports in drawn}) == 4
