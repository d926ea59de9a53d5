"""NAT port pools against plain lists: which port is given, who owns it, how many are free."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.forwarding.tables import build_state
from dataplane.kernel import COMPILED
from dataplane.nat.ports import FULL, GIVES, NOT_FOUND, STRETCH_BITS, give_port, look_for_port, session_at, take_port
from dataplane.records import PACKET, State
from tests.property.networks import BACKENDS, NAT_IPS, network
from tests.reference import MODULO, key64, mix, pick

SIZES = (1, 2, 63, 64, 65, 100, 127, 128, 129, 192, 200)
GOLDEN = 0x9E3779B97F4A7C15
ALLOCATIONS = ("random", "sequential", "preserve", "hash", "hash_buckets", "block")
BLOCK_SIZE = 8
BACKEND_PORT = 8443
FREE_TO_CHOOSE = np.int64(-1)


class Twin:
    """A pool as the specification words it; ports are offsets. `endpoint_key` is that of the endpoint that asks."""

    def __init__(
        self, allocation: str, size: int, key: int, endpoint_key: int, first: int = 1024, runs: tuple[int, ...] = ()
    ) -> None:
        self.allocation, self.size, self.key, self.endpoint_key = allocation, size, key, endpoint_key
        self.first, self.runs = first, runs
        self.free = set(range(size))
        self.owner: dict[int, int] = {}
        self.draws = 0
        self.last = -1
        self.minimum = size
        self.counters: Counter[int] = Counter()

    def take(self, row: int, consumer: int = 0, port: int = 0) -> int:
        """The port that this consumer's session gets; -1 if the probes find none."""
        offset = self.choose(consumer, port - self.first)
        if offset < 0:
            return -1
        self.free.remove(offset)
        self.last = offset
        self.owner[offset] = row
        self.minimum = min(self.minimum, len(self.free))
        return offset

    def choose(self, consumer: int, own: int) -> int:
        if self.allocation == "preserve" and own in self.free:
            return own
        if self.allocation in ("random", "preserve"):
            return self.probe() if self.runs else self.draw_free()
        if self.allocation == "sequential":
            return min([p for p in self.free if p > self.last] or self.free)
        if self.allocation == "block":  # there is one endpoint, and no cap: its blocks fill up from below
            return min(self.free)
        hashed = mix(mix((consumer << 32 | BACKEND_PORT) ^ self.endpoint_key) ^ self.key)
        bucket = pick(mix((hashed + GOLDEN) % MODULO), 64) if self.allocation == "hash_buckets" else 0
        for _ in range(sum(self.runs) if self.runs else self.size):
            offset = (pick(hashed, self.size) + self.counters[bucket]) % self.size
            self.counters[bucket] += 1
            if offset in self.free:
                return offset
        return -1

    def draw_free(self) -> int:
        for _ in range(0 if 8 * len(self.free) < self.size else 8):
            offset = pick(self.draw(), self.size)
            if offset in self.free:
                return offset
        return sorted(self.free)[pick(self.draw(), len(self.free))]

    def draw(self) -> int:
        self.draws += 1
        return mix((self.key + self.draws * GOLDEN) % MODULO)

    def probe(self) -> int:
        for run in self.runs:
            start = pick(self.draw(), self.size)
            for offset in (np.arange(start, start + min(run, self.size)) % self.size).tolist():
                if offset in self.free:
                    return int(offset)
            if run >= self.size:
                break
        return -1

    def give(self, port: int) -> None:
        del self.owner[port]
        self.free.add(port)


def pools(
    allocation: str, size: int, first: int = 1024, seed: int = 0, runs: tuple[int, ...] = ()
) -> tuple[State, list[Twin]]:
    """Four pools of one size, side by side in memory."""
    topology = network(
        nat_ips=NAT_IPS,
        backends=BACKENDS,
        rules=(("tcp", 443, BACKEND_PORT),),
        nat={
            "nat_ports": f"{first}-{first + size - 1}",
            "port_allocation": allocation,
            "probes": runs or None,
            "block_size": BLOCK_SIZE,
        },
    )
    state = build_state(topology, seed, logging=False, rows=2)
    names = [(nat_ip, "tcp", backend) for nat_ip in NAT_IPS for backend in BACKENDS]
    endpoint_key = key64(seed, "private_endpoint", "endpoint0")
    keys = [key64(seed, "pool", "service", *name) for name in names]
    return state, [Twin(allocation, size, key, endpoint_key, first, runs) for key in keys]


def packet_of(consumer: int = 0, port: int = 0) -> Any:
    """A packet of the one endpoint's consumer."""
    packet = np.zeros(1, PACKET)[0]
    packet["flow"] = consumer << 32 | port << 16 | 443
    return packet


def take(state: State, number: int, row: int, consumer: int = 0, port: int = 0) -> int:
    """Look for a port and take it, as the pipeline does; -1 if none is found."""
    packet = packet_of(consumer, port)
    found, offset = look_for_port(state, packet, number, np.int64(BACKEND_PORT), np.int64(-1))
    if found != GIVES:
        assert found == NOT_FOUND
        return -1
    return int(take_port(state, packet, number, np.int64(BACKEND_PORT), np.int64(row), offset))


def assert_same(state: State, twins: list[Twin], first: int) -> None:
    for number, twin in enumerate(twins):
        pool = state.pools[number]
        assert pool["free"] == len(twin.free)
        assert pool["minimum_free"] == twin.minimum
        for port, row in twin.owner.items():
            assert session_at(state, number, np.int64(first + port)) == row
        assert session_at(state, number, np.int64(first - 1)) == -1
        assert session_at(state, number, np.int64(first + twin.size)) == -1
        words = state.used_ports[int(pool["ports"]) >> 6 :][: (twin.size + 63) // 64]
        bits = "".join(format(int(word), "064b")[::-1] for word in words)
        assert {at for at, bit in enumerate(bits[: twin.size]) if bit == "1"} == set(twin.owner)
        assert set(bits[twin.size :]) <= {"1"}, "ports beyond the range's end are never free"
        counted = state.used_in_stretch[int(pool["ports"]) >> STRETCH_BITS :][: -(-twin.size >> STRETCH_BITS)]
        assert int(counted.sum()) == len(twin.owner)


MOVES = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.booleans() | st.just(True),
        st.integers(0, 10_000),
        st.sampled_from([0, 0x0A000004, 0x0A000005]),
        st.integers(1000, 1200),
    ),
    max_size=300,
)


def play(state: State, twins: list[Twin], moves: list[tuple[int, bool, int, int, int]]) -> None:
    for row, (number, taking, which, consumer, port) in enumerate(moves):
        twin = twins[number]
        if taking and twin.free:
            assert take(state, number, row, consumer, port) == twin.take(row, consumer, port)
        elif twin.owner:
            offset = list(twin.owner)[which % len(twin.owner)]
            give_port(state, number, np.int64(offset))
            twin.give(offset)
    assert_same(state, twins, 1024)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@given(size=st.sampled_from(SIZES) | st.integers(1, 300), moves=MOVES, seed=st.integers(0, 5))
def test_a_pool_gives_the_ports_of_the_specification(
    allocation: str, size: int, moves: list[tuple[int, bool, int, int, int]], seed: int
) -> None:
    play(*pools(allocation, size, seed=seed), moves)


@pytest.mark.parametrize("allocation", ["random", "preserve", "hash", "hash_buckets"])
@given(
    size=st.sampled_from(SIZES) | st.integers(1, 300),
    moves=MOVES,
    runs=st.sampled_from([(1,), (1, 1), (2, 1), (10,), (128, 64, 32, 16, 8), (500, 3)]),
)
def test_bounded_probes_look_at_the_ports_of_the_specification(
    allocation: str, size: int, moves: list[tuple[int, bool, int, int, int]], runs: tuple[int, ...]
) -> None:
    play(*pools(allocation, size, runs=runs), moves)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("size", SIZES)
def test_a_pool_gives_every_port_once_and_again_after_release(allocation: str, size: int) -> None:
    state, twins = pools(allocation, size, first=65535 - size + 1)
    for round_ in range(3):
        given_ports = [take(state, 1, row) for row in range(size)]
        assert given_ports == [twins[1].take(row) for row in range(size)]
        assert sorted(given_ports) == list(range(size))
        if allocation in ("sequential", "block"):
            assert given_ports == list(range(size))
        assert_same(state, twins, 65535 - size + 1)
        for port in given_ports[:: 1 if round_ else -1]:
            give_port(state, 1, np.int64(port))
            twins[1].give(port)
    assert_same(state, twins, 65535 - size + 1)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_the_whole_range_of_ports_fits(allocation: str) -> None:
    state, twins = pools(allocation, 65_535 if COMPILED else 3000, first=1)
    size = twins[2].size
    packet = packet_of()
    offsets = np.array(
        [take_port(state, packet, 2, np.int64(BACKEND_PORT), np.int64(row), FREE_TO_CHOOSE) for row in range(size)]
    )
    assert np.array_equal(np.sort(offsets), np.arange(size))
    assert state.pools[2]["free"] == 0
    assert session_at(state, 2, np.int64(size)) == int(np.flatnonzero(offsets == size - 1)[0])
    found, _ = look_for_port(state, packet, 2, np.int64(BACKEND_PORT), np.int64(-1))
    assert found == FULL


def test_preserve_gives_a_consumer_its_own_port_and_nobody_elses() -> None:
    state, _ = pools("preserve", 100)
    assert take(state, 0, 1, port=1074) == 50
    assert take(state, 0, 2, port=1074) not in (-1, 50)
    give_port(state, 0, np.int64(50))
    assert take(state, 0, 3, port=1074) == 50
    assert 0 <= take(state, 0, 4, port=1023) < 100, "outside the range there is no port to keep"


@pytest.mark.parametrize("allocation", ["sequential", "hash", "hash_buckets", "preserve"])
def test_the_only_free_port_is_found_wherever_it_is(allocation: str) -> None:
    for size in (1, 64, 65, 130):
        state, _ = pools(allocation, size)
        for row in range(size):
            take(state, 0, row)
        for port in (size - 1, 0, size // 2, size // 2, 0):
            give_port(state, 0, np.int64(port))
            assert take(state, 0, 7) == port


@pytest.mark.parametrize("allocation", ["random", "preserve"])
def test_the_last_ports_of_a_large_pool_are_those_of_the_specification(allocation: str) -> None:
    """Drawn by rank, over several stretches of the bitmap."""
    state, twins = pools(allocation, 9_000)
    for row in range(9_000):
        assert take(state, 2, row) == twins[2].take(row)
    for offset in range(4_000, 4_200, 7):
        give_port(state, 2, np.int64(offset))
        twins[2].give(offset)
    for row in range(len(twins[2].free)):
        assert take(state, 2, row) == twins[2].take(row)
    assert_same(state, twins, 1024)


def test_probes_may_fail_though_ports_are_free_and_do_not_try_the_same_ports_again() -> None:
    state, _ = pools("random", 1000, runs=(1,))
    for row in range(2000):
        take(state, 0, row)
    free = int(state.pools[0]["free"])
    assert 0 < free < 400, "some found a port, some did not"
    tried = [take(state, 0, 5000 + row) for row in range(200)]
    assert -1 in tried
    assert max(tried) >= 0


def test_two_pools_of_the_same_size_draw_different_ports() -> None:
    state, _ = pools("random", 60_000)
    drawn = [[take(state, number, 0) for _ in range(5)] for number in range(4)]
    assert len({tuple(ports) for ports in drawn}) == 4
