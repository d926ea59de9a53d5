"""`dataplane sweep`: a grid of experiments, who computes it, what is kept, what a user is told."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from distributed import LocalCluster

from tests.cli.conftest import TOPOLOGY
from tests.conftest import needs

Invoke = Callable[..., Result]

SCENARIO = """\
topology: topology.yaml
duration: 1s
traffic:
  - name: web
    endpoint: pe-contoso
    port: 443
    arrivals: {pattern: constant, rate: 200}
    life: {value: 20s}
"""

SWEEP = """\
scenario: scenario.yaml
grid:
  nat_ips: [1, 2]
  load: [0.25, 1]
"""

COLUMNS = [
    "nat_ips",
    "load",
    "first_failure_seconds",
    "lowest_availability_percent",
    "failures",
    "sessions_created",
    "failure_share",
    "alert_fired_seconds",
    "alert_seconds_before_first_failure",
]


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """50 ports to a NAT IP; 50 or 200 connections in the second, of which none ends."""
    small = TOPOLOGY.replace("    load_balancer:", "    nat: {nat_ports: 1024-1073}\n    load_balancer:")
    (tmp_path / "topology.yaml").write_text(small)
    (tmp_path / "scenario.yaml").write_text(SCENARIO)
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP)
    return path


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def cells_of(folder: Path) -> set[str]:
    return {path.name for path in (folder / "cells").iterdir()}


@pytest.mark.filterwarnings("default")  # what Dask's own code warns of is not ours
def test_processes_and_a_cluster_leave_the_same_bytes(
    invoke: Invoke, tmp_path: Path, plan: Path, scheduler: str
) -> None:
    runs = {"one": ["--workers", 1], "two": ["--workers", 2], "cluster": ["--dask", scheduler]}
    for name, options in runs.items():
        result = invoke("sweep", plan, "-o", tmp_path / name, *options, "--quiet")
        assert result.exit_code == 0, result.output
        assert "4 computed, 0 kept, 0 failed" in result.stdout
    expected = (tmp_path / "one" / "results.csv").read_bytes()
    for name in runs:
        assert (tmp_path / name / "results.csv").read_bytes() == expected
        assert cells_of(tmp_path / name) == cells_of(tmp_path / "one")

    rows = rows_of(tmp_path / "one")
    assert list(rows[0]) == COLUMNS
    # What fits into 50 or 100 ports, in the order of the grid.
    told = [(row["nat_ips"], row["load"], row["sessions_created"], row["failures"]) for row in rows]
    assert told == [("1", "0.25", "50", "0"), ("1", "1.0", "50", "150"), ("2", "0.25", "50", "0"),
                    ("2", "1.0", "100", "100")]  # fmt: skip
    # 200 connections a second, evenly spaced: the 51st comes after 250 ms, the 101st after 500 ms.
    assert [row["first_failure_seconds"] for row in rows] == ["", "0.25", "", "0.5"]
    assert [row["failure_share"] for row in rows] == ["0.0", "0.75", "0.0", "0.5"]


def test_only_what_is_missing_is_computed_again(invoke: Invoke, tmp_path: Path, plan: Path) -> None:
    folder = tmp_path / "out"
    assert invoke("sweep", plan, "-o", folder, "--workers", 1).exit_code == 0
    before, names = (folder / "results.csv").read_bytes(), sorted(cells_of(folder))
    assert len(names) == 4
    assert "0 computed, 4 kept" in invoke("sweep", plan, "-o", folder, "--workers", 1).stdout

    (folder / "cells" / names[0]).unlink()
    (folder / "cells" / names[1]).write_text("{")  # what is no cell's file counts as missing
    times = {name: (folder / "cells" / name).stat().st_mtime_ns for name in names[2:]}
    result = invoke("sweep", plan, "-o", folder, "--workers", 1)
    assert "2 computed, 2 kept" in result.stdout
    assert (folder / "results.csv").read_bytes() == before
    assert {name: (folder / "cells" / name).stat().st_mtime_ns for name in times} == times

    plan.write_text(SWEEP.replace("[1, 2]", "[2, 3]"))
    assert "2 computed, 2 kept" in invoke("sweep", plan, "-o", folder, "--workers", 1).stdout, "the grid has moved on"


def test_another_scenario_is_computed_anew(invoke: Invoke, tmp_path: Path, plan: Path) -> None:
    folder = tmp_path / "out"
    plan.write_text(SWEEP.replace("[1, 2]", "[1]").replace("[0.25, 1]", "[1]"))
    assert invoke("sweep", plan, "-o", folder, "--workers", 1).exit_code == 0
    for text in (SCENARIO.replace("20s", "21s"), SCENARIO + "    retries: 1\n"):
        before = cells_of(folder)
        (tmp_path / "scenario.yaml").write_text(text)
        assert "1 computed, 0 kept" in invoke("sweep", plan, "-o", folder, "--workers", 1).stdout
        assert len(cells_of(folder) - before) == 1
    before = cells_of(folder)
    assert "1 computed" in invoke("sweep", plan, "-o", folder, "--workers", 1, "--seed", 5).stdout
    assert len(cells_of(folder) - before) == 1
    (tmp_path / "scenario.yaml").write_text("# the same in other words\n" + text.replace("1s", "1000ms"))
    assert "0 computed, 1 kept" in invoke("sweep", plan, "-o", folder, "--workers", 1).stdout


def test_json_and_parquet_hold_the_same_rows(invoke: Invoke, tmp_path: Path, plan: Path) -> None:
    parquet = needs("pyarrow.parquet", "pyarrow")
    folder = tmp_path / "out"
    plan.write_text("scenario: scenario.yaml\ngrid: {probes: [null, 4, [2, 1]], timeouts.udp: [1m]}\n")
    result = invoke("sweep", plan, "-o", folder, "--workers", 1, "--parquet", "--json", "--quiet")
    rows = json.loads(result.stdout)
    assert [(row["probes"], row["timeouts.udp"]) for row in rows] == [(None, "60s"), (4, "60s"), ([2, 1], "60s")]
    assert rows[0]["failures"] == 150
    assert [row["probes"] for row in rows_of(folder)] == ["", "4", "[2, 1]"]
    table = parquet.read_table(folder / "results.parquet")
    assert table.column("failures").to_pylist() == [row["failures"] for row in rows]
    assert table.column("probes").to_pylist() == [None, "4", "[2, 1]"]
    assert str(table.schema.field("alert_fired_seconds").type) == "double", "though it never fired"
    assert invoke("sweep", plan, "-o", folder, "--workers", 1).exit_code == 0
    assert not (folder / "results.parquet").exists(), "no table of an earlier sweep stands beside the new one"


def test_parquet_without_pyarrow_names_the_extra(
    invoke: Invoke, tmp_path: Path, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = invoke("sweep", plan, "-o", tmp_path / "out", "--parquet")
    assert result.exit_code == 2
    assert "pip install 'pyarrow>=16'" in result.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_is_told_with_lines_before_anything_runs(invoke: Invoke, tmp_path: Path, plan: Path) -> None:
    plan.write_text(
        "scenario: scenario.yaml\ngrid:\n  natips: [1]\n  nat_ips: [0]\n  load: 3\n  timeouts.tcp_established:\n"
        "    - 5m\n    - 5\n  allocation: [randm]\n"
    )
    result = invoke("sweep", plan, "-o", tmp_path / "out")
    assert result.exit_code == 2
    lines = [line.removeprefix(f"error: {plan}:") for line in result.stderr.splitlines()]
    assert lines[0].startswith(
        "3: grid.natips: unknown key natips; did you mean nat_ips? Keys here: nat_ips, backends, allocation, probes"
    )
    assert lines[1:] == [
        "4: grid.nat_ips[0]: 0 is too small; the least is 1",
        "5: grid.load: is 3, but must be a list",
        "8: grid.timeouts.tcp_established[1]: 5 needs a unit: write 5s for seconds (units: ns, us, ms, s, m, h, d)",
        "9: grid.allocation[0]: randm is none of the choices: random, sequential, preserve, hash, hash_buckets, block",
    ]
    assert not (tmp_path / "out").exists()


def test_a_wrong_scenario_is_told_with_its_own_lines(invoke: Invoke, tmp_path: Path, plan: Path) -> None:
    (tmp_path / "scenario.yaml").write_text(SCENARIO.replace("port: 443", "port: 444"))
    plan.write_text(SWEEP.replace("[1, 2]", "[x]"))
    lines = invoke("sweep", plan, "-o", tmp_path / "out").stderr.splitlines()
    assert [line.split(": ")[1].removeprefix(f"{tmp_path}/") for line in lines] == ["sweep.yaml:3", "scenario.yaml:6"]


def test_seed_is_either_an_option_or_in_the_grid(invoke: Invoke, tmp_path: Path, plan: Path) -> None:
    plan.write_text("scenario: scenario.yaml\ngrid: {seed: [1, 2]}\n")
    result = invoke("sweep", plan, "-o", tmp_path / "out", "--seed", 3)
    assert result.exit_code == 2
    assert "the grid varies it" in result.stderr


def test_ctrl_c_keeps_what_is_finished_and_going_on_works(invoke: Invoke, tmp_path: Path, plan: Path) -> None:
    """As a terminal does it, the signal goes to every process of the group."""
    (tmp_path / "scenario.yaml").write_text(SCENARIO.replace("duration: 1s", "duration: 30m"))
    plan.write_text("scenario: scenario.yaml\ngrid: {seed: [" + ", ".join(map(str, range(40))) + "]}\n")
    folder = tmp_path / "out"
    command = [sys.executable, "-m", "dataplane", "sweep", plan, "-o", folder, "--workers", "1", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 100
        while not list(folder.glob("cells/*.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    finished = cells_of(folder)
    assert 1 <= len(finished) < 40
    assert errors.splitlines() == [f"interrupted: {len(finished)} of 40 cells are finished; the same command goes on"]
    assert {path.name for path in folder.iterdir()} == {"cells"}, "no half table, nothing unfinished"
    # One process takes them in order, so the first seeds are finished.
    plan.write_text("scenario: scenario.yaml\ngrid: {seed: [0, 1, 2]}\n")
    result = invoke("sweep", plan, "-o", folder, "--workers", 1)
    kept = min(len(finished), 3)
    assert f"{3 - kept} computed, {kept} kept, 0 failed" in result.stdout
    assert [row["seed"] for row in rows_of(folder)] == ["0", "1", "2"]
