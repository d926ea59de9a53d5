"""Sessions of two runs compared: by id or by tuple, in any order, every difference counted once in its kind."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from dataplane.runs import diff_sessions as module
from dataplane.runs.diff_sessions import ASPECTS, diff_sessions
from dataplane.runs.folder import RunError
from dataplane.runs.sessions_csv import COLUMNS

Session = dict[str, Any]


def session(number: int, **other: Any) -> Session:
    """A session of the consumer port 50,000 + number."""
    return {
        "id": number,
        "endpoint": "pe-contoso",
        "protocol": "tcp",
        "consumer_ip": "10.0.0.4",
        "consumer_port": 50_000 + number,
        "endpoint_ip": "10.0.1.5",
        "endpoint_port": 443,
        "nat_ip": "192.168.50.4",
        "nat_port": 1024 + number,
        "backend_ip": "192.168.61.4",
        "backend_port": 8443,
        "first_packet": "2026-01-01T00:00:00.000000000Z",
        "last_packet": "2026-01-01T00:00:01.000000000Z",
        "packets_in": 3,
        "packets_out": 2,
        "bytes_in": 138,
        "bytes_out": 107,
        "ended": "2026-01-01T00:05:01.000000000Z",
        "how": "idle",
        **other,
    }


def write(path: Path, sessions: list[Session]) -> Path:
    lines = [",".join(COLUMNS), *(",".join(str(row[name]) for name in COLUMNS) for row in sessions)]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def compared(tmp_path: Path, old: list[Session], new: list[Session], *, by_id: bool = True, most: int = 5) -> Any:
    return diff_sessions(write(tmp_path / "old", old), write(tmp_path / "new", new), by_id=by_id, most=most)


def counts(result: dict[str, Any]) -> dict[str, int]:
    """What differs, without the kinds of which there is none."""
    kinds = ("only_in_old", "only_in_new", *ASPECTS)
    return {kind: result[kind]["count"] for kind in kinds if result[kind]["count"]}


def test_the_order_of_rows_is_no_difference(tmp_path: Path) -> None:
    result = compared(tmp_path, [session(1), session(2)], [session(2), session(1)])
    assert counts(result) == {}
    assert (result["old"], result["new"], result["same"], result["differ"]) == (2, 2, 2, 0)


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ({"how": "reset"}, ["ended_otherwise"]),
        ({"how": "open", "ended": ""}, ["ended_otherwise", "ended_at_another_time"]),
        ({"ended": "2026-01-01T00:05:02.000000000Z"}, ["ended_at_another_time"]),
        ({"nat_port": 9}, ["other_nat_port"]),
        ({"backend_ip": "192.168.61.5"}, ["other_backend"]),
        ({"bytes_out": 108}, ["other_traffic"]),
        ({"endpoint": "pe-fabrikam"}, ["other_endpoint"]),
    ],
)
def test_a_session_that_differs_counts_in_its_kind(change: Session, kinds: list[str], tmp_path: Path) -> None:
    result = compared(tmp_path, [session(1), session(2)], [session(1), session(2, **change)])
    assert counts(result) == dict.fromkeys(kinds, 1)
    assert result["differ"] == 1
    [pair] = result[kinds[0]]["sessions"]
    assert pair["old"] == {key: str(value) for key, value in session(2).items()}
    assert pair["new"] == {key: str(value) for key, value in session(2, **change).items()}


def test_a_session_of_one_run_only_is_listed_with_its_end(tmp_path: Path) -> None:
    result = compared(tmp_path, [session(1), session(7)], [session(1), session(9, how="closed")])
    assert counts(result) == {"only_in_old": 1, "only_in_new": 1}
    assert result["only_in_old"]["sessions"][0]["id"] == "7"
    assert result["only_in_new"]["sessions"][0]["how"] == "closed"


def test_with_other_inputs_the_nth_session_of_a_tuple_is_the_nth(tmp_path: Path) -> None:
    first, second = session(1, how="closed"), session(1, id=40, how="idle")
    shifted = [{**first, "id": 101}, {**second, "id": 140, "how": "reset"}, {**second, "id": 180}]
    result = compared(tmp_path, [first, second], shifted, by_id=False)
    assert counts(result) == {"only_in_new": 1, "ended_otherwise": 1}
    assert result["same"] == 1
    [pair] = result["ended_otherwise"]["sessions"]
    assert (pair["old"]["id"], pair["new"]["id"]) == ("40", "140")
    assert result["only_in_new"]["sessions"][0]["id"] == "180"


@pytest.mark.parametrize("by_id", [True, False])
@pytest.mark.parametrize("pairs_at_a_time", [7, 1 << 17])
def test_it_counts_what_a_dictionary_of_all_rows_would(
    by_id: bool, pairs_at_a_time: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAIRS", pairs_at_a_time)
    draw = random.Random(5)
    old = {number: session(number) for number in draw.sample(range(1000), 300)}
    new = {number: session(number) for number in draw.sample(range(1000), 300)}
    expected = {"only_in_old": len(old.keys() - new.keys()), "only_in_new": len(new.keys() - old.keys())}
    for number in sorted(old.keys() & new.keys()):
        for kind, columns in ASPECTS.items():
            # A session whose endpoint differs is another one where tuples decide.
            if kind != "other_endpoint" and draw.random() < 0.3:
                new[number][columns[0]] = "other"
                expected[kind] = expected.get(kind, 0) + 1
    rows = [list(old.values()), list(new.values())]
    for run in rows:
        draw.shuffle(run)
    result = compared(tmp_path, *rows, by_id=by_id)
    assert counts(result) == expected
    assert result["same"] + result["differ"] == len(old.keys() & new.keys())
    for kind, count in expected.items():
        assert len(result[kind]["sessions"]) == min(5, count)


def test_files_without_sessions_are_the_same(tmp_path: Path) -> None:
    for by_id in (True, False):
        assert counts(compared(tmp_path, [], [], by_id=by_id)) == {}
        assert counts(compared(tmp_path, [], [session(1)], by_id=by_id)) == {"only_in_new": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "its columns are not those of a run's sessions"),
        (",".join(COLUMNS) + "\nx,y\n", "line 2: is no session"),
        (",".join(COLUMNS) + "\n1,y\n1,y\n", "two sessions have the same id"),
    ],
)
def test_what_is_no_file_of_sessions_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad").write_text(text)
    good = write(tmp_path / "good", [session(1)])
    with pytest.raises(RunError, match=message):
        diff_sessions(good, tmp_path / "bad", by_id=True, most=5)
