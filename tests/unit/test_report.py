"""What a report adds up, and what it is made of."""

from __future__ import annotations

import csv
import hashlib
import json
import random
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from dataplane.report.chart import MINUTE, SECOND, Bars, HeatMap, Intervals, Series, Steps, duration_words
from dataplane.report.metrics import Minutes, lows, sums
from dataplane.report.run import Run, read_run
from dataplane.report.sessions import PORT_BANDS, SessionFigures, port_bands, read_sessions
from dataplane.runs.folder import RunError
from dataplane.runs.replay import Replay, replay
from dataplane.topology import load_topology

EXHAUSTION = Path(__file__).resolve().parents[2] / "pcaps" / "cases" / "exhaustion"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The exhaustion case: one NAT IP of eight ports, 400 s."""
    folder = tmp_path_factory.mktemp("report") / "run"
    replay(
        Replay([str(EXHAUSTION / "contoso.pcap")], topology=load_topology(EXHAUSTION / "topology.yaml"), folder=folder)
    )
    return read_run(folder)


def minutes(*rows: tuple[int, float, float, float]) -> Minutes:
    """Rows of (minute, minimum, maximum, average); the total of a row is its minute."""
    made = Minutes()
    for minute, minimum, maximum, average in rows:
        made.minute.append(minute)
        made.total.append(minute)
        made.minimum.append(minimum)
        made.maximum.append(maximum)
        made.average.append(average)
    return made


# --- time -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 999, SECOND, 59 * SECOND, 7200 * SECOND, 46 * 365 * 1440 * MINUTE])
@pytest.mark.parametrize("begin", [0, 1_700_000_000_123_456_789, -5_000_000_007])
def test_intervals_cover_a_run_of_any_length_and_are_few(begin: int, length: int) -> None:
    intervals = Intervals.over(begin, begin + length + 1, 240)
    assert intervals.start <= begin
    assert begin + length < intervals.end
    assert 1 <= intervals.count <= 240
    assert len(set(intervals.times())) == intervals.count


def test_lengths_of_time_read_as_people_say_them() -> None:
    assert [duration_words(n) for n in (SECOND, 10 * SECOND, MINUTE, 500_000_000, 1440 * MINUTE)] == [
        "second", "10 seconds", "minute", "500 milliseconds", "day",
    ]


# --- metrics.csv ----------------------------------------------------------------------------------------------


def test_a_minute_without_a_row_keeps_the_value_when_the_minute_before_stood_still() -> None:
    rows = minutes((0, 0, 100, 40), (1, 0, 0, 0), (4, 0, 100, 70), (6, 50, 100, 60))
    lowest, average = lows(rows, Intervals(0, MINUTE, 7))
    assert lowest == [0, 0, 0, 0, 0, None, 50]
    assert average == [40, 0, 0, 0, 70, None, 60]


def test_longer_intervals_show_the_lowest_of_their_minutes() -> None:
    rows = minutes((0, 30, 90, 80), (1, 10, 90, 85), (2, 60, 60, 60), (5, 1, 50, 20))
    lowest, average = lows(rows, Intervals(0, 2 * MINUTE, 3))
    assert lowest == [10, 60, 1]
    assert average == [80, 60, 20]
    assert sums(rows, Intervals(0, 2 * MINUTE, 3)).tolist() == [1, 2, 5]


# --- sessions.csv ---------------------------------------------------------------------------------------------


def test_port_bands_are_the_whole_range_once() -> None:
    for ports in (range(1024, 65536), range(1024, 1032), range(5, 6), range(1000, 1000 + PORT_BANDS + 1)):
        bands = port_bands(ports)
        assert [port for band in bands for port in band] == list(ports)
        assert all(bands)
        assert len(bands) == min(len(ports), PORT_BANDS)


def write_sessions(path: Path, rows: list[tuple[int, int, int | None]]) -> None:
    """A `sessions.csv` of sessions (NAT port, begin, end or None), nanoseconds from the epoch on."""

    def text(time: int) -> str:
        return f"{np.datetime64(time, 'ns')}Z"

    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "endpoint", "nat_ip", "nat_port", "first_packet", "ended", "how"))
        for port, begin, end in rows:
            ending = ("", "open") if end is None else (text(end), "idle")
            writer.writerow((1, "pe-contoso", "192.168.50.4", port, text(begin), *ending))


def test_use_of_ports_is_exact_in_every_interval(run: Run, tmp_path: Path) -> None:
    """A plain count, interval by interval, of sessions at random."""
    chance = random.Random(3)
    assert run.begin_ns is not None
    begin, end = run.begin_ns, run.begin_ns + 400_070_000_000
    rows: list[tuple[int, int, int | None]] = []
    for _ in range(500):
        first, last = sorted(chance.randrange(begin, end + 1) for _ in range(2))
        rows.append((chance.randrange(1024, 1032), first, None if chance.random() < 0.1 else last))
    rows.append((1024, begin, begin))
    write_sessions(tmp_path / "sessions.csv", rows)
    intervals, heat = Intervals.over(begin, end + 1, 240), Intervals.over(begin, end + 1, 96)
    figures = SessionFigures(run, intervals, heat, end)
    read_sessions(tmp_path / "sessions.csv", figures)

    def overlap(spans: Intervals, at: int, first: int, last: int | None) -> float:
        start = spans.start + at * spans.width
        return max(0, min(end if last is None else last, start + spans.width) - max(first, start)) / spans.width

    expected = [sum(overlap(intervals, at, first, last) for _, first, last in rows) for at in range(intervals.count)]
    assert figures.ports.sum(axis=0) == pytest.approx(expected)
    for band in range(8):
        of_band = [(first, last) for port, first, last in rows if port == 1024 + band]
        shares = [100 * sum(overlap(heat, at, *each) for each in of_band) for at in range(heat.count)]
        assert figures.heat[0, band] == pytest.approx(shares)
    assert not figures.heat[0, 8:].any()
    held = sum((end if last is None else last) - first for _, first, last in rows) / 1e9
    assert figures.port_seconds.tolist() == [pytest.approx(held)]
    assert figures.bands[0].sum() == pytest.approx(100 * held / (intervals.width * intervals.count / 1e9))
    assert figures.opened.sum() == figures.count == len(rows)
    assert figures.ended.sum() == sum(last is not None for *_, last in rows)


def test_it_does_not_matter_where_the_stream_of_sessions_is_cut(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run.sessions is not None
    assert run.begin_ns is not None
    spans = [Intervals.over(run.begin_ns, run.begin_ns + 400 * SECOND, most) for most in (240, 96)]
    found = []
    for rows in (1, 2, 1 << 16):
        monkeypatch.setattr("dataplane.report.sessions._ROWS", rows)
        figures = SessionFigures(run, spans[0], spans[1], run.begin_ns + 400 * SECOND)
        read_sessions(run.sessions, figures)
        found.append((figures.count, figures.ports.tolist(), figures.heat.tolist(), figures.opened.tolist()))
    assert found[0] == found[1] == found[2]
    assert found[0][0] == 9


@pytest.mark.parametrize(
    ("was", "becomes", "says"),
    [
        ("2023-11-14T22:18:20.040000000Z", "yesterday", "a time is not written as"),
        ("2023-11-14T22:18:20.040000000Z", "2023-11-14T22:13:10.040000000Z", "ends before its first packet"),
        (",1024,", ",80,", "outside of nat_ports"),
        (",1024,", ",many,", "many"),
        ("pe-contoso", "pe-fabrikam", "not in summary.json"),
        (",idle", "", "line"),
    ],
)
def test_a_damaged_session_is_named_with_its_file_and_line(
    run: Run, tmp_path: Path, was: str, becomes: str, says: str
) -> None:
    assert run.sessions is not None
    assert run.begin_ns is not None
    text = run.sessions.read_text()
    assert was in text
    damaged = tmp_path / "sessions.csv"
    damaged.write_text(text.replace(was, becomes, 1))
    spans = Intervals.over(run.begin_ns, run.begin_ns + 401 * SECOND, 100)
    with pytest.raises(RunError, match=rf"sessions.csv: is damaged at or before line \d+: .*{says}|{says}"):
        read_sessions(damaged, SessionFigures(run, spans, spans, spans.end))


# --- charts ---------------------------------------------------------------------------------------------------


def test_a_chart_tells_the_same_as_a_table_and_as_json() -> None:
    spans = Intervals(0, MINUTE, 3)
    steps = Steps("k", "t", "s", "%", "", spans, [Series("a", [1.5, None, 0])], top=100)
    assert list(steps.table()[1]) == [["1970-01-01 00:00:00", 1.5], ["1970-01-01 00:02:00", 0]]
    assert steps.as_json()["series"] == [{"name": "a", "values": [1.5, None, 0], "dashed": False}]
    counts = Steps("k", "t", "s", "sessions", "", spans, [Series("a", [1, 0, 2]), Series("b", [0, 0, 0])])
    assert [row[1:] for row in counts.table()[1]] == [[1, 0], [2, 0]]
    bars = Bars("k", "t", "s", "bytes", "", ["x", "y"], [Series("IN", [1, 2]), Series("OUT", [3, 4])])
    assert list(bars.table()[1]) == [["x", 1, 3], ["y", 2, 4]]
    heat = HeatMap("k", "t", "s", "%", "", spans, ["low", "high"], "ports", np.array([[0, 0, 7.0], [0, 0, 9.0]]), 10)
    assert heat.table()[0] == ["From (UTC)", "low", "high"]
    assert list(heat.table()[1]) == [["1970-01-01 00:02:00", 7, 9]]
    assert json.loads(json.dumps(heat.as_json()))["values"] == [[0, 0, 7], [0, 0, 9]]


# --- what it is made of ---------------------------------------------------------------------------------------


def test_the_charting_library_is_the_one_that_its_readme_names() -> None:
    vendor = files("dataplane.report").joinpath("vendor")
    script = vendor.joinpath("echarts.min.js").read_bytes()
    named = re.search(r"SHA-256 `([0-9a-f]{64})`", vendor.joinpath("README.md").read_text())
    assert named is not None
    assert hashlib.sha256(script).hexdigest() == named[1]
    assert len(script) <= 2_000_000
    assert b"</script" not in script
    assert b"<!--" not in script
    for licence in ("LICENSE", "NOTICE", "LICENSE-d3", "LICENSE-zrender", "LICENSE-tslib"):
        assert vendor.joinpath(licence).read_text().strip()


def test_a_report_needs_neither_numba_nor_scapy(run: Run) -> None:
    code = (
        "import sys; sys.modules['numba'] = sys.modules['scapy'] = sys.modules['matplotlib'] = None\n"
        "from pathlib import Path; from dataplane.cli import main\n"
        f"main(['report', {str(run.folder)!r}, '-o', {str(run.folder / 'page.html')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
