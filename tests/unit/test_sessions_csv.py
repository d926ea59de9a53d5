"""`sessions.csv`: numbers, addresses, times and names as csv and numpy write them."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable

import numpy as np
import pytest

from dataplane.records import END_WORDS, ENDED, POOL
from dataplane.runs.sessions_csv import COLUMNS, SessionsFile
from dataplane.runs.text import decimals, put_address, put_number, put_time
from dataplane.topology.model import Topology

TABLE = decimals()
EDGES = [0, 1, 9, 10, 99, 100, 999, 1000, 1001, 9_999, 999_999, 1_000_000, 10**9, 10**12 - 1, 10**18, 2**63 - 1]
DAYS = ["1900-02-28", "1900-03-01", "2000-02-29", "2000-12-31", "2100-02-28", "2100-03-01"]
TIMES = [0, -1, 1, 1_700_000_000_123_456_789, -(2**63) + 1, 2**63 - 1]
TIMES += [int(np.datetime64(day, "ns").astype(np.int64)) for day in DAYS]


def written(put: Callable[..., int], value: int) -> str:
    out = np.full(64, ord("#"), np.uint8)
    return bytes(out[3 : int(put(out, 3, np.int64(value), TABLE))]).decode()


@pytest.mark.parametrize("number", EDGES)
def test_numbers_are_written_in_decimal(number: int) -> None:
    assert written(put_number, number) == str(number)


def test_addresses_are_written_with_dots() -> None:
    for octets in ([0, 0, 0, 0], [255] * 4, [10, 0, 100, 9], [192, 168, 50, 4]):
        assert written(put_address, int.from_bytes(bytes(octets), "big")) == ".".join(map(str, octets))


def test_times_are_written_as_numpy_writes_them() -> None:
    dice = random.Random(5)
    for time_ns in [*TIMES, *(dice.randrange(-(2**63) + 1, 2**63) for _ in range(2_000))]:
        expected = str(np.datetime_as_string(np.datetime64(time_ns, "ns"), timezone="UTC"))
        assert written(put_time, time_ns) == expected


def test_names_with_commas_and_quotes_survive_csv() -> None:
    topology = Topology.model_validate(
        {
            "virtual_networks": [{"name": "n", "address_space": ["10.0.0.0/8"]}],
            "private_link_services": [],
            "private_endpoints": [],
        }
    )
    endpoint = type("Endpoint", (), {"name": 'pe "one", größer', "ip": "10.0.1.5"})
    object.__setattr__(topology, "private_endpoints", [endpoint])
    rows, pools = np.zeros(5_000, ENDED), np.zeros(1, POOL)
    rows["id"], rows["protocol"], rows["how"] = np.arange(5_000), 17, 2
    file = io.BytesIO()
    sessions = SessionsFile(file, topology, pools)
    sessions.write(rows)
    sessions.write(rows[:1], ended=False)

    lines = list(csv.reader(io.StringIO(file.getvalue().decode())))
    assert lines[0] == list(COLUMNS)
    assert [line[0] for line in lines[1:-1]] == [str(number) for number in range(5_000)]
    assert {(line[1], line[2], line[18]) for line in lines[1:-1]} == {('pe "one", größer', "udp", END_WORDS[2])}
    assert lines[-1][17:] == ["", "open"]
