"""The timer wheel against a list that is sorted each time: exact moments, ties by id, jumps of any size."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.forwarding.tables import build_state
from dataplane.kernel import COMPILED
from dataplane.nat.timers import FOREVER, TICK_BITS, arm, deadline, disarm, pop_due
from dataplane.records import CLOSING, ESTABLISHED, HALF_OPEN, RESET
from tests.property.networks import network

TOPOLOGY = network(nat={"nat_ports": "1024-1025"})
SECOND = 10**9
TICK = 1 << TICK_BITS
YEAR = 31_557_600 * SECOND
#: Timeouts of one run, the shortest last: a state change never lengthens a timer except from half-open.
SHAPES = (
    (30 * SECOND, 300 * SECOND, 65 * SECOND, 16 * SECOND),
    (1, 3, 2, 1),
    (TICK, 3 * TICK, TICK + 1, TICK - 1),
    (1024 * TICK, 1024**2 * TICK, 1025 * TICK, 5),
    (50 * YEAR, 100 * YEAR, 37 * YEAR, YEAR),
    (5, 200 * YEAR, 70_000 * SECOND, 0),
)
STATES = (HALF_OPEN, ESTABLISHED, CLOSING, RESET)


class Wheel:
    """Timers of sessions, and a plain dictionary that says when each is due."""

    def __init__(self, start: int, timeouts: tuple[int, ...] = SHAPES[0], rows: int = 64) -> None:
        self.state = build_state(TOPOLOGY, 0, logging=False, rows=rows)
        self.clock = self.state.clock[0]
        self.clock["tick"] = start >> TICK_BITS
        self.now = start
        self.timeouts = dict(zip(STATES, timeouts, strict=True))
        for number, timeout in self.timeouts.items():
            self.state.timeouts[number] = timeout
        self.due: dict[int, int] = {}  # row: moment
        self.ids: dict[int, int] = {}
        self.free = list(range(rows))

    def moment(self, kind: int) -> int:
        return min(self.now + self.timeouts[kind], FOREVER)

    def start(self, kind: int, number: int) -> None:
        """A session begins."""
        if not self.free:
            return
        row = self.free.pop(number % len(self.free))
        self.state.sessions[row]["state"] = kind
        self.state.sessions[row]["last_refresh"] = self.now
        self.state.session_ends[row]["id"] = number
        self.due[row], self.ids[row] = self.moment(kind), number
        assert deadline(self.state, row) == self.due[row]
        arm(self.state, np.int64(row), np.int64(self.due[row]))

    def stop(self, row: int) -> None:
        """It ends early."""
        disarm(self.state, np.int64(row))
        del self.due[row]
        self.free.append(row)

    def refresh(self, row: int) -> None:
        """A packet refreshes it: only the time is written down."""
        self.state.sessions[row]["last_refresh"] = self.now
        self.due[row] = self.moment(int(self.state.sessions[row]["state"]))

    def change(self, row: int, kind: int) -> None:
        """A packet changes its state: the timer moves only if it may stand too late."""
        before = int(self.state.sessions[row]["state"])
        self.state.sessions[row]["state"] = kind
        self.refresh(row)
        if self.timeouts[kind] < self.timeouts[before]:
            disarm(self.state, np.int64(row))
            arm(self.state, np.int64(row), np.int64(self.due[row]))

    def pass_time(self, until: int) -> list[int]:
        """Let time pass; returns who came due, after comparing with the list."""
        self.now = until
        wanted = sorted((moment, self.ids[row], row) for row, moment in self.due.items() if moment <= until)
        got = []
        while self.clock["next_due"] <= until:
            row = int(pop_due(self.state, np.int64(until)))
            if row < 0:
                break
            got.append((self.due.pop(row), self.ids[row], row))
            self.free.append(row)
        assert got == wanted
        self.check()
        return [row for _, _, row in got]

    def check(self) -> None:
        """No timer is due before `next_due`, and every one is in exactly one place."""
        assert self.clock["next_due"] <= min(self.due.values(), default=FOREVER)
        first, end = int(self.clock["first_due"]), int(self.clock["end_due"])
        entries = self.state.due[first:end]
        assert first == 0 or not self.clock["is_heap"]
        assert first < end or (first, end, self.clock["is_heap"]) == (0, 0, 0)
        for at in range(1, len(entries)):
            above = entries[(at - 1) // 2 if self.clock["is_heap"] else at - 1]
            assert (above["due"], above["id"]) < (entries[at]["due"], entries[at]["id"])
        rows = entries["session"].tolist()
        assert self.state.timers["next"][rows].tolist() == list(range(first, end))
        for slot in np.flatnonzero(self.state.slots):
            assert int(self.state.slot_bits[slot >> 6]) >> (int(slot) & 63) & 1
            row, previous = int(self.state.slots[slot]) - 1, -1 - int(slot)
            while row >= 0:
                assert self.state.timers[row]["previous"] == previous
                rows.append(row)
                previous, row = row, int(self.state.timers[row]["next"])
        assert sorted(rows) == sorted(self.due)
        set_bits = sum(bin(int(word)).count("1") for word in self.state.slot_bits)
        assert set_bits == np.count_nonzero(self.state.slots)


STARTS = (
    st.sampled_from([0, 1, TICK - 1, TICK, 1_700_000_000 * SECOND, -1, -TICK, -2 * YEAR, -(2**63), -(2**63) + 1])
    | st.integers(-(2**63), 2**63 - 1)
    | st.integers(2**63 - 400 * SECOND, 2**63 - 1)
    | st.integers(-400 * SECOND, 400 * SECOND)
)
JUMPS = (
    st.sampled_from([0, 1, 2, TICK - 1, TICK, TICK + 1, 1023 * TICK, 1024 * TICK, 1024**2 * TICK, 1024**3 * TICK])
    | st.integers(0, 3 * TICK)
    | st.integers(0, 400 * SECOND)
    | st.integers(0, 90 * YEAR)
)
IDS = st.integers(1, 2**62)
PLACES = st.integers(0, 63)
KINDS = st.sampled_from(STATES)
STEPS = st.lists(
    st.tuples(st.just("start"), KINDS, IDS)
    | st.tuples(st.just("start"), KINDS, IDS)
    | st.tuples(st.just("stop"), PLACES)
    | st.tuples(st.just("refresh"), PLACES)
    | st.tuples(st.just("change"), PLACES, KINDS)
    | st.tuples(st.just("wait"), JUMPS)
    | st.tuples(st.just("until next"), st.sampled_from([-1, 0, 0, 1])),
    max_size=80,
)


@given(start=STARTS, timeouts=st.sampled_from(SHAPES), steps=STEPS)
def test_timers_come_due_in_the_order_of_moment_and_id(
    start: int, timeouts: tuple[int, ...], steps: list[tuple[Any, ...]]
) -> None:
    wheel = Wheel(start, timeouts)
    used: set[int] = set()
    for what, *how in steps:
        rows = sorted(wheel.due)
        if what == "start":
            if how[1] not in used:
                used.add(how[1])
                wheel.start(*how)
        elif what == "wait":
            wheel.pass_time(min(wheel.now + how[0], FOREVER))
        elif what == "until next":
            moment = min(wheel.due.values(), default=wheel.now) + how[0]
            wheel.pass_time(max(wheel.now, min(moment, FOREVER)))
        elif rows:
            getattr(wheel, what)(rows[how[0] % len(rows)], *how[1:])
        wheel.check()
    wheel.pass_time(FOREVER)
    assert not wheel.due


@pytest.mark.parametrize("scale", [1, TICK // 7, TICK, 40 * TICK, 1024 * TICK, 1024**2 * TICK, YEAR, 30 * YEAR])
@pytest.mark.parametrize("start", [-(2**62), -5, 0, 1_700_000_000 * SECOND])
def test_a_crowd_of_timers_of_every_length_comes_due_exactly(start: int, scale: int) -> None:
    rng = random.Random(start + scale)
    count = 300 if COMPILED else 60
    wheel = Wheel(start, (3 * scale, 9 * scale, 2 * scale, scale), rows=count)
    numbers = rng.sample(range(1, 10 * count), 4 * count)
    for number in numbers:
        wheel.start(rng.choice(STATES), number)
        for _ in range(2):
            if wheel.due:
                row = rng.choice(list(wheel.due))
                rng.choice([wheel.refresh, lambda row: wheel.change(row, rng.choice(STATES))])(row)
        if rng.random() < 0.05 and wheel.due:
            wheel.stop(rng.choice(list(wheel.due)))
        if rng.random() < 0.3:
            wheel.pass_time(min(wheel.now + rng.randrange(scale), FOREVER))
    wheel.pass_time(FOREVER)
    assert not wheel.due


def test_timers_of_one_moment_come_due_by_id_whatever_their_order_of_start() -> None:
    for start in (0, 5 * TICK - 1, -TICK):
        wheel = Wheel(start)
        numbers = list(range(1, 40))
        random.Random(1).shuffle(numbers)
        for number in numbers:
            wheel.start(ESTABLISHED, number)
        wheel.pass_time(wheel.now + 300 * SECOND - 1)
        rows = wheel.pass_time(wheel.now + 1)
        assert [wheel.ids[row] for row in rows] == sorted(numbers)


def test_a_shortened_timer_comes_due_at_its_new_moment_and_not_at_its_old() -> None:
    wheel = Wheel(0)
    wheel.start(ESTABLISHED, 1)
    wheel.start(ESTABLISHED, 2)
    wheel.pass_time(10 * SECOND)
    wheel.change(next(row for row, number in wheel.ids.items() if number == 2), RESET)
    assert wheel.pass_time(26 * SECOND - 1) == []
    assert len(wheel.pass_time(26 * SECOND)) == 1
    assert wheel.pass_time(300 * SECOND - 1) == []
    assert len(wheel.pass_time(300 * SECOND)) == 1


def test_a_refreshed_timer_does_not_come_due_when_it_would_have() -> None:
    wheel = Wheel(1_700_000_000 * SECOND)
    wheel.start(ESTABLISHED, 1)
    for _ in range(50):
        assert wheel.pass_time(wheel.now + 299 * SECOND) == []
        wheel.refresh(next(iter(wheel.due)))
    assert len(wheel.pass_time(wheel.now + 300 * SECOND)) == 1


def test_a_jump_over_decades_finds_every_timer_on_its_way() -> None:
    wheel = Wheel(-(2**62), (SECOND, 80 * YEAR, 40 * YEAR, 1))
    for number, kind in enumerate([*STATES] * 10, start=1):
        wheel.start(kind, number)
    assert len(wheel.pass_time(2**62)) == 40


def test_what_is_due_beyond_the_end_of_time_saturates_there() -> None:
    wheel = Wheel(2**63 - 10 * SECOND)
    wheel.start(ESTABLISHED, 1)
    assert wheel.pass_time(FOREVER - 1) == []
    assert next(iter(wheel.due.values())) == FOREVER
