"""`dataplane exhaust`: what a user sees, writes and reads."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from dataplane.kernel import COMPILED
from tests.cli.conftest import TOPOLOGY

SCENARIO = """\
topology: topology.yaml
duration: 30s
traffic:
  - name: web
    endpoint: pe-contoso
    port: 443
    arrivals: {pattern: constant, rate: 20}
    life: {value: 20s}
    ends: {rst: 1}
    retries: 1
"""

Invoke = Callable[..., Result]


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    """100 ports for 20 connections a second: they run out after 5 s."""
    small = TOPOLOGY.replace("    load_balancer:", "    nat: {nat_ports: 1024-1123}\n    load_balancer:")
    (tmp_path / "topology.yaml").write_text(small)
    path = tmp_path / "scenario.yaml"
    path.write_text(SCENARIO)
    return path


def test_the_terminal_answers_the_question(invoke: Invoke, scenario: Path) -> None:
    result = invoke("exhaust", scenario, "--quiet")
    assert result.exit_code == 0
    for line in (
        "NAT ports ran out first after 5.000 s: orders, NAT IP 192.168.50.4, tcp toward 192.168.61.4",
        "Lowest availability: 0.000 % in the second from 4 s: orders, NAT IP 192.168.50.4, tcp toward 192.168.61.4",
        "An alert (usage above 80 %, 60s averaged) would have fired after 180 s, 175.0 s AFTER the first failure.",
    ):
        assert line in result.stdout
    assert result.stderr == ""


def test_json_is_the_summary_with_findings(invoke: Invoke, scenario: Path) -> None:
    summary = json.loads(invoke("exhaust", scenario, "--json").stdout)
    assert summary["findings"]["first_failure"] == summary["first_exhaustion"]
    assert summary["findings"]["traffic"][0]["connections"]["opened"] == 100
    # 500 connections found no port; each SYN is sent again once, if a second of the run is left.
    assert summary["dropped"]["reasons"]["nat_ports_exhausted"]["packets"] == 500 + 480


def test_a_runs_folder_holds_what_was_asked_for(invoke: Invoke, scenario: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert invoke("exhaust", scenario, "-o", run).exit_code == 0
    plain = {"manifest.json", "topology.yaml", "scenario.yaml", "summary.json", "metrics.csv"}
    assert {path.name for path in run.iterdir()} == plain
    manifest = json.loads((run / "manifest.json").read_text())
    assert [Path(i["path"]).name for i in manifest["inputs"]] == ["scenario.yaml", "topology.yaml"]
    assert manifest["exit_state"] == {"code": 0, "meaning": "done"}
    with (run / "metrics.csv").open() as file:
        usage = [row for row in csv.DictReader(file) if row["metric"] == "PLSNatPortsUsage"]
    # 100 ports fill up evenly in 5 s and stay in use.
    assert [float(row["average"]) for row in usage] == [pytest.approx(100 * (1 - 2.5 / 30), abs=0.2)]

    assert invoke("exhaust", scenario, "-o", run, "--sessions", "--capture").exit_code == 0
    assert {path.name for path in run.iterdir()} == plain | {"sessions.csv", "capture.pcapng"}
    assert len((run / "sessions.csv").read_text().splitlines()) == 1 + 100


def test_the_scenario_as_used_gives_the_same_run(invoke: Invoke, scenario: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert invoke("exhaust", scenario, "-o", one, "--seed", 7, "--sessions", "--capture").exit_code == 0
    assert invoke("exhaust", one / "scenario.yaml", "-o", two, "--sessions", "--capture").exit_code == 0
    for path in one.iterdir():
        if path.name != "manifest.json":
            assert path.read_bytes() == (two / path.name).read_bytes(), path.name


def test_the_capture_replays_to_the_same_figures(invoke: Invoke, scenario: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    exhausted = json.loads(invoke("exhaust", scenario, "-o", run, "--capture", "--json").stdout)
    arguments = ("replay", run / "capture.pcapng", "-t", run / "topology.yaml", "--json")
    replayed = json.loads(invoke(*arguments).stdout)
    for key in ("received", "forwarded", "dropped"):
        assert replayed[key] == exhausted[key]
    # The capture says nothing of the time after its last packet, nor of that before the first.
    assert replayed["sessions"]["created"] == exhausted["sessions"]["created"]


def test_no_checksum_of_a_capture_is_wrong(invoke: Invoke, scenario: Path, tmp_path: Path, tshark: str) -> None:
    run = tmp_path / "run"
    assert invoke("exhaust", scenario, "-o", run, "--capture").exit_code == 0
    command = [tshark, "-r", run / "capture.pcapng", "-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE",
               "-T", "fields", "-e", "ip.checksum.status", "-e", "tcp.checksum.status"]  # fmt: skip
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert len(told) > 1000
    assert set(",".join(told).split(",")) == {"1"}  # good


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("rate: 20", "rate: fast"), "scenario.yaml:7: traffic[0].arrivals.rate: is fast, but must be a number"),
        (("duration: 30s", "duraton: 30s"), "scenario.yaml:2: duraton: unknown key duraton; did you mean duration?"),
        (("topology.yaml", "nowhere.yaml"), "nowhere.yaml: no such file"),
    ],
)
def test_a_wrong_scenario_is_exit_code_2_with_its_line(
    invoke: Invoke, scenario: Path, change: tuple[str, str], line: str
) -> None:
    scenario.write_text(SCENARIO.replace(*change))
    result = invoke("exhaust", scenario)
    assert result.exit_code == 2
    assert line in result.stderr
    assert result.stdout == ""


def test_wrong_usage_is_exit_code_2(invoke: Invoke, scenario: Path, tmp_path: Path) -> None:
    assert "SCENARIO is missing" in invoke("exhaust").stderr
    assert "--capture writes into the run's folder" in invoke("exhaust", scenario, "--capture").stderr
    result = invoke("exhaust", scenario, "-o", tmp_path)
    assert result.exit_code == 2
    assert "is an input, and an output would take its place" in result.stderr
    assert scenario.read_text() == SCENARIO


def test_the_schema_is_printed(invoke: Invoke) -> None:
    schema = json.loads(invoke("exhaust", "--schema").stdout)
    assert schema["properties"].keys() >= {"topology", "duration", "traffic", "alert"}


@pytest.mark.skipif(not COMPILED, reason="a run of seconds")
def test_an_interrupted_run_keeps_what_was_done(
    start: Callable[..., subprocess.Popen[str]], scenario: Path, tmp_path: Path
) -> None:
    scenario.write_text(SCENARIO.replace("duration: 30s", "duration: 300d"))
    run = tmp_path / "run"
    process = start("exhaust", scenario, "-o", run)
    deadline = time.monotonic() + 60
    while not (run / ".metrics.csv.partial").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: what was done until then is kept" in stderr
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    assert 0 < summary["duration_seconds"] == summary["findings"]["to_seconds"] < 300 * 86_400
    assert json.loads((run / "manifest.json").read_text())["exit_state"]["code"] == 130
    assert not list(run.glob(".*"))


def test_a_report_can_be_made_of_an_experiment(invoke: Invoke, scenario: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert invoke("exhaust", scenario, "-o", run).exit_code == 0
    assert invoke("report", run).exit_code == 0
    page = (run / "report.html").read_text()
    assert "scenario.yaml" in page
    assert "NAT ports ran out first after 5.000 s" in page


def test_a_condition_on_the_summary_fails_the_run(invoke: Invoke, scenario: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = invoke("exhaust", scenario, "-o", run, "--fail-if", "minimum_availability_percent < 20")
    assert result.exit_code == 1
    assert "failed: " in result.stderr
    assert json.loads((run / "manifest.json").read_text())["exit_state"]["code"] == 1
    assert invoke("exhaust", scenario, "--fail-if", "received.packets < 20").exit_code == 0
    assert invoke("exhaust", scenario, "--fail-if", "recieved.packets < 20").exit_code == 2
