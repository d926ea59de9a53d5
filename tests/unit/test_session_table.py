"""The session table against a dictionary: insertion, deletion by shifting back, growth, rows used again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dataplane.forwarding.tables import build_state
from dataplane.nat import sessions
from dataplane.nat.hashing import flow_tag
from dataplane.nat.sessions import find, give_row, grown, has_room, hint_of, insert, reindex, remove, take_row
from dataplane.records import HALF_OPEN, HELD, State
from tests.property.networks import network

TOPOLOGY = network(tenants=2, nat={"nat_ports": "1024-1223"})
#: Tags that meet: at the table's end, at its beginning, in one cell, and in its low bits only.
TAGS = st.sampled_from([0, 1, 2, 14, 15, 16, 31, 0xFFFFFFFF, 0xFFFFFFF0, 0x8000000F, 0x10]) | st.integers(0, 2**32 - 1)


def rows_under(cells: NDArray[np.uint64], tag: int) -> list[int]:
    """The rows that a search for a tag comes by."""
    found, at = [], tag % len(cells)
    while cells[at]:
        if int(cells[at]) >> 32 == tag:
            found.append(int(cells[at]) % 2**32 - 1)
        at = (at + 1) % len(cells)
    return found


def assert_same(cells: NDArray[np.uint64], twin: dict[int, int]) -> None:
    """Every row is found under its tag, nothing else is, and the hint is the first."""
    for tag in {*twin.values(), 3, 15}:
        wanted = sorted(row for row, its_tag in twin.items() if its_tag == tag)
        found = rows_under(cells, tag)
        assert sorted(found) == wanted
        assert hint_of(cells, np.int64(tag)) == (found[0] if found else -1)
    assert np.count_nonzero(cells) == len(twin)


@given(st.lists(st.tuples(st.booleans(), TAGS, st.integers(0, 30)), max_size=80), st.sampled_from([8, 16, 64]))
def test_a_row_is_found_from_its_insertion_to_its_removal(moves: list[tuple[bool, int, int]], size: int) -> None:
    cells = np.zeros(size, np.uint64)
    twin: dict[int, int] = {}
    row = 0
    for inserting, tag, which in moves:
        if inserting and len(twin) < size // 2:
            insert(cells, np.int64(tag), np.int64(row))
            twin[row] = tag
            row += 1
        elif twin:
            gone = list(twin)[which % len(twin)]
            remove(cells, np.int64(twin.pop(gone)), np.int64(gone))
        assert_same(cells, twin)


@given(st.lists(TAGS, max_size=32))
def test_a_larger_index_holds_the_same_rows(tags: list[int]) -> None:
    old, new = np.zeros(64, np.uint64), np.zeros(128, np.uint64)
    for row, tag in enumerate(tags):
        insert(old, np.int64(tag), np.int64(row))
    reindex(old, new)
    assert_same(new, dict(enumerate(tags)))


Key = tuple[int, int, int]


def tag_for(state: State, key: Key) -> np.int64:
    flow, endpoint, protocol = key
    consumer, port = (flow >> 16) & (1 << 48) - 1, flow & 0xFFFF
    provider = int(state.endpoints[endpoint]["address"]) << 16 | port
    secret = state.points[state.endpoints[endpoint]["point"]]["key"]
    tag = flow_tag(secret, np.int64(consumer), np.int64(provider), np.int64(protocol))
    assert tag == flow_tag(secret, np.int64(provider), np.int64(consumer), np.int64(protocol))
    return tag


@pytest.mark.parametrize("step", [1 << 16, 1])
@pytest.mark.parametrize("way", [1, -1])
def test_tags_are_alike_no_oftener_than_by_chance(step: int, way: int) -> None:
    """The ends of a flow go up together, or one goes up and one down: by addresses, and by ports with addresses.

    Of 100,000 flows 1.2 pairs are alike by chance; 15 would be one time in 10^11.
    """
    key = np.uint64(0x0123456789ABCDEF)
    count = 100_000
    tags = set()
    for moved in range(0, count * step, step):
        client, endpoint = np.int64((10 << 40) + moved), np.int64((11 << 40) + way * moved)
        tags.add(int(flow_tag(key, client, endpoint, np.int64(17))))
    assert len(tags) > count - 15


def found(state: State, key: Key) -> int:
    flow, endpoint, protocol = key
    return int(find(state, tag_for(state, key), np.int64(flow), np.int64(endpoint), np.int64(protocol)))


KEYS = st.tuples(
    st.sampled_from([0, 1, 2**63 - 1, -1]) | st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 1),
    st.sampled_from([6, 17]),
)


@given(st.lists(st.tuples(st.booleans() | st.just(True), KEYS, st.integers(0, 100)), max_size=120))
def test_sessions_are_found_by_flow_endpoint_and_protocol_through_growth(moves: list[tuple[bool, Key, int]]) -> None:
    state = build_state(TOPOLOGY, 0, logging=False, rows=2)
    twin: dict[Key, int] = {}
    given_back: list[int] = []
    for opening, key, which in moves:
        if opening and key not in twin:
            if not has_room(state):
                assert not given_back
                state = grown(state)
            row = int(take_row(state))
            assert row == (given_back.pop() if given_back else len(twin)), "the row given back last, else a fresh one"
            session = state.sessions[row]
            session["flow"], session["endpoint"], session["protocol"] = key
            session["state"] = HALF_OPEN
            insert(state.cells, tag_for(state, key), np.int64(row))
            twin[key] = row
        elif twin:
            gone = list(twin)[which % len(twin)]
            row = twin.pop(gone)
            remove(state.cells, tag_for(state, gone), np.int64(row))
            give_row(state, np.int64(row))
            given_back.append(row)
            assert found(state, gone) == -1
        assert {key: found(state, key) for key in twin} == twin
        assert len(state.cells) >= 4 * len(twin), "the index is at most a quarter full"


def test_growing_moves_no_session() -> None:
    state = build_state(TOPOLOGY, 0, logging=False, rows=2)
    larger = grown(state)
    assert larger.sessions is state.sessions
    assert larger.timers is state.timers
    assert len(larger.cells) == 2 * len(state.cells)


def test_a_session_with_a_port_always_finds_a_row() -> None:
    state = build_state(TOPOLOGY, 0, logging=False, rows=2)
    assert len(state.sessions) > sum(state.pools["capacity"])


def test_sessions_that_do_not_fit_into_memory_are_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "physical", lambda: 10 * 128)
    state = build_state(TOPOLOGY, 0, logging=False, rows=2)
    assert len(state.sessions) == 10
    while has_room(state) or len(state.cells) < 4 * len(state.sessions):
        if has_room(state):
            take_row(state)
        else:
            state = grown(state)
    with pytest.raises(MemoryError, match="10 sessions are open or hold a port; no more fit into memory"):
        grown(state)


def test_the_same_flow_of_two_endpoints_or_protocols_is_two_sessions() -> None:
    state = build_state(TOPOLOGY, 0, logging=False, rows=8)
    keys = [(7, endpoint, protocol) for endpoint in (0, 1) for protocol in (6, 17)]
    for key in keys:
        row = int(take_row(state))
        session = state.sessions[row]
        session["flow"], session["endpoint"], session["protocol"] = key
        session["state"] = HALF_OPEN
        # All under one tag: what a colliding hash would do.
        insert(state.cells, np.int64(5), np.int64(row))
    for row, (flow, endpoint, protocol) in enumerate(keys):
        assert find(state, np.int64(5), np.int64(flow), np.int64(endpoint), np.int64(protocol)) == row
    assert find(state, np.int64(5), np.int64(8), np.int64(0), np.int64(6)) == -1


def test_a_session_whose_port_is_held_is_not_found() -> None:
    state = build_state(TOPOLOGY, 0, logging=False, rows=8)
    row = int(take_row(state))
    session = state.sessions[row]
    session["flow"], session["endpoint"], session["protocol"], session["state"] = 7, 0, 6, HELD
    insert(state.cells, tag_for(state, (7, 0, 6)), np.int64(row))
    assert found(state, (7, 0, 6)) == -1
