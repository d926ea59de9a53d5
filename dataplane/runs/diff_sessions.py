"""Sessions of two runs compared: which exist in one only, which ended otherwise, which were translated otherwise.

Files may have millions of rows. A first pass keeps 16 bytes of each row: who it is and a digest of the rest; rows whose
digests differ, and only they, are read again, some 100,000 at a time.

With the same inputs in both runs a session is known by its id, the number of the packet that opened it. With other
inputs ids mean nothing: the nth session of an (endpoint, protocol, consumer, endpoint address) is the nth in the other.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dataplane.runs.folder import RunError
from dataplane.runs.sessions_csv import COLUMNS

#: In what ways a session that both runs have may differ: the columns that tell.
ASPECTS = {
    "ended_otherwise": ("how",),
    "ended_at_another_time": ("ended",),
    "other_backend": ("backend_ip", "backend_port"),
    "other_nat_port": ("nat_ip", "nat_port"),
    "other_traffic": ("packets_in", "packets_out", "bytes_in", "bytes_out", "first_packet", "last_packet"),
    "other_endpoint": ("endpoint", "protocol", "consumer_ip", "consumer_port", "endpoint_ip", "endpoint_port"),
}

#: Pairs whose rows are in memory at a time.
_PAIRS = 1 << 17

#: Endpoint, protocol, and the addresses and ports on the consumer's side.
_TUPLE = slice(1, 7)
_PLACES = {aspect: [COLUMNS.index(name) for name in names] for aspect, names in ASPECTS.items()}

Rows = NDArray[np.int64]


def diff_sessions(old: Path, new: Path, *, by_id: bool, most: int) -> dict[str, Any]:
    """Compare two `sessions.csv`; at most `most` sessions of each kind are listed, all are counted.

    Returns `matched_by`, the numbers of sessions `old`, `new`, `same` and `differ` (of those in both), and
    {"count", "sessions"} for `only_in_old`, `only_in_new` and each of `ASPECTS`. Raises `RunError` for a file that no
    run wrote.
    """
    (old_keys, old_rest), (new_keys, new_rest) = _read(old, by_id), _read(new, by_id)
    in_old, in_new = _matched(old_keys, new_keys)
    differ = old_rest[in_old] != new_rest[in_new]
    result: dict[str, Any] = {
        "matched_by": "id" if by_id else "tuple",
        "old": len(old_keys),
        "new": len(new_keys),
        "same": int(len(in_old) - differ.sum()),
        "differ": int(differ.sum()),
        "only_in_old": _only(old, len(old_keys), in_old, most),
        "only_in_new": _only(new, len(new_keys), in_new, most),
        **{aspect: {"count": 0, "sessions": []} for aspect in ASPECTS},
    }
    pairs = np.stack([in_old[differ], in_new[differ]], axis=1)
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    for first in range(0, len(pairs), _PAIRS):
        _count(result, old, new, pairs[first : first + _PAIRS], most)
    return result


def _read(path: Path, by_id: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of every row, a key that is unique in the file and a digest of what the key does not say."""
    keys, rest = array("q"), array("q")
    with _open(path) as file:
        try:
            if by_id:
                for line in file:
                    number, _, other = line.partition(b",")
                    keys.append(int(number))
                    rest.append(hash(other))
            else:
                for line in file:
                    parts = line.split(b",", 7)
                    keys.append(hash(tuple(parts[_TUPLE])))
                    rest.append(hash(parts[7]))
        except (ValueError, IndexError, OverflowError):
            raise RunError(f"{path}: line {len(keys) + 2}: is no session") from None
    key_column, rest_column = _column(keys), _column(rest)
    if not by_id:
        key_column = _numbered(key_column)
    ordered = np.sort(key_column)
    if (ordered[1:] == ordered[:-1]).any():
        raise RunError(f"{path}: two sessions have the same id, so no run wrote it")
    return key_column, rest_column


def _column(values: array[int]) -> NDArray[np.int64]:
    return np.frombuffer(values, np.int64) if values else np.empty(0, np.int64)


def _matched(old_keys: NDArray[np.int64], new_keys: NDArray[np.int64]) -> tuple[Rows, Rows]:
    """The rows of the keys that both have, in both."""
    if not len(old_keys):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    order = np.argsort(old_keys)
    places = np.minimum(np.searchsorted(old_keys, new_keys, sorter=order), len(order) - 1)
    candidates = order[places]
    in_new = np.flatnonzero(old_keys[candidates] == new_keys)
    return candidates[in_new], in_new


def _numbered(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keys made unique: the nth row of a key, in file order, which for one tuple is the order of time."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(keys) else np.empty(0, np.int64)
    number = np.arange(len(keys)) - np.repeat(first, np.diff(np.r_[first, len(keys)]))
    result = np.empty(len(keys), np.uint64)
    result[order] = ordered.view(np.uint64) + number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return result.view(np.int64)


def _open(path: Path) -> BinaryIO:
    """The file after its header."""
    file = path.open("rb")
    header = file.readline(10_000)
    if header != (",".join(COLUMNS) + "\n").encode():
        file.close()
        raise RunError(f"{path}: its columns are not those of a run's sessions: {','.join(COLUMNS)}")
    return file


def _lines(path: Path, rows: Rows) -> Iterator[tuple[int, bytes]]:
    """The given rows of a file (sorted), each with its number."""
    wanted = iter(rows.tolist())
    row = next(wanted, None)
    if row is None:
        return
    with _open(path) as file:
        for number, line in enumerate(file):
            if number == row:
                if line.count(b",") != len(COLUMNS) - 1:
                    raise RunError(f"{path}: line {number + 2}: is no session")
                yield number, line
                row = next(wanted, None)
                if row is None:
                    return


def _only(path: Path, count: int, matched: Rows, most: int) -> dict[str, Any]:
    """The sessions that have no counterpart."""
    alone = np.ones(count, bool)
    alone[matched] = False
    rows = np.flatnonzero(alone)
    listed = [_session(line) for _, line in _lines(path, rows[:most])]
    return {"count": len(rows), "sessions": listed}


def _count(result: dict[str, Any], old: Path, new: Path, pairs: NDArray[np.int64], most: int) -> None:
    """Add pairs of rows that differ to the aspects in which they do."""
    before = dict(_lines(old, pairs[:, 0]))
    of_new = dict(_lines(new, np.sort(pairs[:, 1])))
    for old_row, new_row in pairs.tolist():
        was, now = _columns(before[old_row]), _columns(of_new[new_row])
        for aspect, places in _PLACES.items():
            if any(was[place] != now[place] for place in places):
                found = result[aspect]
                found["count"] += 1
                if len(found["sessions"]) < most:
                    found["sessions"].append({"old": _session(before[old_row]), "new": _session(of_new[new_row])})


def _columns(line: bytes) -> list[bytes]:
    return line.rstrip(b"\n").split(b",")


def _session(line: bytes) -> dict[str, str]:
    return dict(zip(COLUMNS, (column.decode(errors="replace") for column in _columns(line)), strict=True))
