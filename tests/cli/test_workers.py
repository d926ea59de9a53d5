"""Sharing the work: threads, a Dask cluster, many captures at a time. The same files come out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from distributed import LocalCluster

from tests.cli.conftest import write_syns

Invoke = Callable[..., Result]

FOUR_BACKENDS = "backend_pool: [192.168.61.4, 192.168.61.5, 192.168.61.6, 192.168.61.7]"


def bytes_of(folder: Path) -> dict[str, bytes]:
    """What a run left, but for the manifest, which names the command."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


@pytest.fixture
def spread(topology: Path) -> Path:
    """A topology with four backends."""
    topology.write_text(topology.read_text().replace("backend_pool: [192.168.61.4]", FOUR_BACKENDS))
    return topology


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


@pytest.mark.filterwarnings("default")  # what Dask's own code warns of is not ours
def test_threads_and_a_cluster_leave_the_same_files(
    invoke: Invoke, tmp_path: Path, spread: Path, scheduler: str
) -> None:
    capture = write_syns(tmp_path / "syns.pcap", 5000, ports=700, step_us=30_000)
    runs = {"one": [], "two": ["--workers", 2], "five": ["--workers", 5], "cluster": ["--dask", scheduler]}
    for name, options in runs.items():
        result = invoke("replay", capture, "-t", spread, "-o", tmp_path / name, "--seed", 3, *options)
        assert result.exit_code == 0, result.output
    expected = bytes_of(tmp_path / "one")
    assert len(expected) == 5
    for name in runs:
        assert bytes_of(tmp_path / name) == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_each_capture_is_a_run_of_its_own(invoke: Invoke, tmp_path: Path, spread: Path, workers: int) -> None:
    captures = [write_syns(tmp_path / f"{name}.pcap", count) for name, count in (("monday", 30), ("tuesday", 70))]
    options = ["--each", "--workers", workers, "-t", spread, "-q"]
    result = invoke("replay", *captures, *options, "-o", tmp_path / "runs", "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert [(one["capture"], one["summary"]["received"]["packets"]) for one in told] == [
        (str(captures[0]), 30),
        (str(captures[1]), 70),
    ]
    for capture in captures:
        assert invoke("replay", capture, "-t", spread, "-o", tmp_path / "alone").exit_code == 0
        assert bytes_of(tmp_path / "runs" / capture.stem) == bytes_of(tmp_path / "alone")


@pytest.mark.filterwarnings("default")
def test_a_cluster_replays_each_capture(invoke: Invoke, tmp_path: Path, syns: Path, scheduler: str) -> None:
    result = invoke("replay", "--each", syns, "--dask", scheduler, "-o", tmp_path / "runs")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "runs" / "syns" / "summary.json").exists()
    assert "syns.pcap" in result.stdout


def test_a_capture_that_is_broken_stops_no_other(invoke: Invoke, tmp_path: Path, syns: Path) -> None:
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(syns.read_bytes()[:-10])
    result = invoke("replay", "--each", tmp_path / "missing.pcap", cut, syns, "-o", tmp_path / "runs", "-q")
    assert result.exit_code == 2, "the gravest: one could not be opened, one was damaged"
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"cut", "syns"}
    assert [line.split(": ")[:2] for line in result.stderr.splitlines()] == [
        ["error", str(tmp_path / "missing.pcap")],
        ["error", str(cut)],
    ]
    assert invoke("replay", "--each", cut, syns, "-q").exit_code == 3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["a/x.pcap", "b/x.pcap.gz", "-o", "runs"], "a/x.pcap and b/x.pcap.gz would both be written to runs/x"),
        (["a/x.pcap", "consumer=b/x.pcap", "-o", "r"], "a/x.pcap and consumer=b/x.pcap would both be written to r/x"),
        ([".pcap", "-o", "runs"], ".pcap has nothing before its endings to name a folder by"),
        (["-", "-o", "runs"], "standard input (-) has no name for a folder"),
        (["a.pcap", "--pcap", "provider=out.pcap"], "--pcap names one file"),
    ],
)
def test_what_each_cannot_do_is_said_at_once(invoke: Invoke, arguments: list[str], complaint: str) -> None:
    result = invoke("replay", "--each", *arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr


def test_a_process_that_is_killed_fails_its_capture(
    invoke: Invoke, syns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Executor):
        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(BrokenExecutor("killed"))
            return future

    monkeypatch.setattr("dataplane.runs.each.executor", lambda *_: Killed())
    result = invoke("replay", "--each", syns, "-q")
    assert result.exit_code == 2
    assert f"{syns}: its process was ended from outside" in result.stderr


def test_no_cluster_is_one_line(invoke: Invoke, syns: Path) -> None:
    result = invoke("replay", syns, "--dask", "tcp://127.0.0.1:9", "-q")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --dask tcp://127.0.0.1:9: no Dask scheduler answers there")


def test_a_condition_is_looked_at_in_every_run(invoke: Invoke, tmp_path: Path) -> None:
    captures = [write_syns(tmp_path / f"{name}.pcap", count) for name, count in (("few", 3), ("many", 70))]
    result = invoke("replay", "--each", *captures, "-q", "--fail-if", "sessions.created > 50")
    assert result.exit_code == 1
    assert [line for line in result.stderr.splitlines() if str(captures[1]) in line]
    assert str(captures[0]) not in result.stderr
