"""A terminal that is closed under a command: what was done is kept, as at Ctrl-C; nohup means to go on."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dataplane.kernel import COMPILED
from tests.cli.conftest import COMMAND, ENVIRONMENT, TOPOLOGY

SCENARIO = """\
topology: topology.yaml
duration: {duration}
traffic:
  - {{name: web, endpoint: pe-contoso, port: 443, arrivals: {{pattern: constant, rate: 100}}, life: {{value: 1s}}}}
"""

SWEEP = "scenario: scenario.yaml\ngrid: {nat_ips: [1, 2]}\n"

pytestmark = pytest.mark.skipif(not COMPILED, reason="runs of seconds")


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    """Three hundred days: a run that is interrupted before its end."""
    (tmp_path / "topology.yaml").write_text(TOPOLOGY)
    path = tmp_path / "scenario.yaml"
    path.write_text(SCENARIO.format(duration="300d"))
    return path


def heed_hangups() -> None:
    """As in a terminal, also where the tests run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def in_a_terminal(
    command: list[str], prepare: Callable[[], None] = lambda: None
) -> tuple[subprocess.Popen[bytes], int]:
    """A command that has a terminal of its own, and the terminal's other end; closed there, the window is gone."""
    ours, its = os.openpty()

    def take() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        heed_hangups()
        prepare()

    process = subprocess.Popen(
        command, stdin=its, stdout=its, stderr=its, env=ENVIRONMENT, start_new_session=True, preexec_fn=take
    )
    os.close(its)
    return process, ours


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_gone(group: int) -> bool:
    """Whether no process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("quiet", [[], ["-q"]], ids=["with the live view", "quiet"])
def test_a_run_whose_terminal_is_closed_is_kept(quiet: list[str], scenario: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process, terminal = in_a_terminal([*COMMAND, "exhaust", str(scenario), "-o", str(run), *quiet])
    wait_for((run / ".metrics.csv.partial").exists)
    time.sleep(1.0)
    os.close(terminal)
    assert process.wait(timeout=60) == 130
    assert json.loads((run / "manifest.json").read_text())["exit_state"]["code"] == 130
    assert 0 < json.loads((run / "summary.json").read_text())["duration_seconds"] < 300 * 86_400
    assert not list(run.glob(".*"))


def test_a_second_hangup_does_not_stop_files_from_being_closed(scenario: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [*COMMAND, "exhaust", str(scenario), "-o", str(run), "-q"]
    process = subprocess.Popen(command, env=ENVIRONMENT, start_new_session=True, preexec_fn=heed_hangups)
    wait_for((run / ".metrics.csv.partial").exists)
    time.sleep(1.0)
    for _ in range(50):
        process.send_signal(signal.SIGHUP)
        time.sleep(0.002)
    assert process.wait(timeout=60) == 130
    assert (run / "manifest.json").exists()


def test_under_nohup_a_run_goes_on(scenario: Path, tmp_path: Path) -> None:
    scenario.write_text(SCENARIO.format(duration="1h"))
    run = tmp_path / "run"
    command = [*COMMAND, "exhaust", str(scenario), "-o", str(run)]

    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process, terminal = in_a_terminal(command, ignore)
    wait_for((run / ".metrics.csv.partial").exists)
    os.close(terminal)
    assert process.wait(timeout=60) == 0
    assert json.loads((run / "summary.json").read_text())["duration_seconds"] == 3600.0


def test_a_sweep_whose_terminal_is_closed_ends_with_its_processes(scenario: Path, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    out = tmp_path / "out"
    command = [*COMMAND, "sweep", str(tmp_path / "sweep.yaml"), "-o", str(out), "--workers", "1"]
    process, terminal = in_a_terminal(command)
    wait_for((out / ".results.csv.partial").exists)
    time.sleep(4.0)  # the process of the first cell has begun, or is about to
    os.killpg(process.pid, signal.SIGHUP)  # as the shell does for its jobs
    os.close(terminal)
    assert process.wait(timeout=60) == 130
    assert [path.name for path in out.iterdir()] == ["cells"]
    wait_for(lambda: is_gone(process.pid))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 130), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_sweep_that_alone_is_told_to_end_takes_its_processes_along(
    scenario: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    out = tmp_path / "out"
    command = [*COMMAND, "sweep", str(tmp_path / "sweep.yaml"), "-o", str(out), "--workers", "1", "-q"]
    process = subprocess.Popen(command, env=ENVIRONMENT, start_new_session=True, stderr=subprocess.DEVNULL)
    wait_for((out / ".results.csv.partial").exists)
    time.sleep(4.0)
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    wait_for(lambda: is_gone(process.pid))
