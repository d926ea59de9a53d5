"""The command as a process: start-up, help, interruption, being killed, a reader that goes away, memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from dataplane.kernel import COMPILED

Invoke = Callable[..., Result]
Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., "subprocess.Popen[str]"]

RUN_FILES = ["capture.pcapng", "manifest.json", "metrics.csv", "sessions.csv", "summary.json", "topology.yaml"]
ROOT = Path(__file__).resolve().parents[2]

needs_compiled = pytest.mark.skipif(not COMPILED, reason="millions of packets need compiled kernels")

COMMANDS = [
    [], ["replay"], ["warmup"], ["topology"],
    ["topology", "check"], ["topology", "show"], ["topology", "schema"], ["topology", "infer"],
    ["topology", "import"],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_has_an_example_that_names_the_command(command: list[str], invoke: Invoke) -> None:
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    assert result.stderr == ""
    example = result.stdout.partition("Example: ")[2]
    assert example.startswith(" ".join(["dataplane", *command]))
    if command not in ([], ["topology"]):
        for option in ("--json", "--quiet", "--seed"):
            assert option in result.stdout


def test_help_loads_neither_numba_nor_scapy() -> None:
    script = (
        "import sys\nfrom click.testing import CliRunner\nfrom dataplane.cli import main\n"
        f"for command in {COMMANDS!r}:\n"
        "    assert CliRunner().invoke(main, [*command, '--help']).exit_code == 0, command\n"
        "print([name for name in ('numba', 'scapy', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_replay_loads_neither_scapy_nor_what_other_commands_need(syns: Path, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom click.testing import CliRunner\nfrom dataplane.cli import main\n"
        f"arguments = ['replay', {str(syns)!r}, '-o', {str(tmp_path / 'run')!r}]\n"
        "assert CliRunner().invoke(main, arguments).exit_code == 0\n"
        "others = 'scapy', 'distributed', 'rich.progress', 'dataplane.runs.diff', 'dataplane.runs.each'\n"
        "print([name for name in others if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["replay"], ["replay", "--nonsense", "x.pcap"], ["replay", "x.pcap", "--seed", "many"],
     ["topology"], ["topology", "nonsense"], ["topology", "check"], ["topology", "infer"]],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_is_exit_code_2_and_says_so_on_standard_error(arguments: list[str], invoke: Invoke) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage: " in result.stderr


def test_python_m_dataplane_is_the_command(run: Run, syns: Path) -> None:
    done = run("replay", syns, "--json", "--quiet")
    assert done.returncode == 0
    assert done.stderr == ""
    assert json.loads(done.stdout)["forwarded"]["packets"] == 50


@pytest.mark.parametrize("what", ["show", "schema", "replay", "replay --json", "infer"])
def test_a_reader_that_goes_away_is_no_traceback(what: str, run: Run, syns: Path, topology: Path) -> None:
    arguments = {
        "show": ["topology", "show", topology],
        "schema": ["topology", "schema"],
        "replay": ["replay", syns],
        "replay --json": ["replay", syns, "--json"],
        "infer": ["topology", "infer", syns],
    }[what]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run(*arguments, "--quiet", stdout=writing)
    finally:
        os.close(writing)
    assert done.stderr == ""


def wait_for_packets(folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a run has written the first packets of its capture."""
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 1_000_000 for path in folder.glob(".capture.pcapng*")):
        assert process.poll() is None, "the run ended before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.005)


@needs_compiled
def test_ctrl_c_ends_a_replay_with_whole_files(
    make_syns: Callable[..., Path], topology: Path, tmp_path: Path, start: Start, capinfos: str, tshark: str
) -> None:
    capture, folder = make_syns(tmp_path / "large.pcap", 1_000_000), tmp_path / "run"
    process = start("replay", capture, "-t", topology, "-o", folder, "--json")
    wait_for_packets(folder, process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    assert sorted(path.name for path in folder.iterdir()) == RUN_FILES
    summary = json.loads(stdout)
    assert stdout == (folder / "summary.json").read_text()
    received = summary["received"]["packets"]
    assert 0 < received < 1_000_000
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["exit_state"] == {"code": 130, "meaning": "interrupted"}
    command = [capinfos, "-M", "-c", str(folder / "capture.pcapng")]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    points = received + 2 * summary["forwarded"]["packets"]
    assert text.split()[-1] == str(points)
    first = subprocess.run(
        [tshark, "-r", str(folder / "capture.pcapng"), "-c", "3", "-T", "fields", "-e", "frame.interface_name"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert first.stdout.split() == ["contoso", "backbone", "provider"]


@needs_compiled
def test_a_killed_run_leaves_nothing_under_a_final_name(
    make_syns: Callable[..., Path], topology: Path, tmp_path: Path, start: Start
) -> None:
    capture, folder = make_syns(tmp_path / "large.pcap", 600_000), tmp_path / "run"
    process = start("replay", capture, "-t", topology, "-o", folder)
    wait_for_packets(folder, process)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not {path.name for path in folder.iterdir()} & set(RUN_FILES)


#: Runs the command and tells its largest resident memory in KiB; the kernel's figure for a child counts its parent's.
TELL_PEAK = """
import atexit, re, sys
from dataplane.cli import main
status = open("/proc/self/status")
atexit.register(lambda: print(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1], file=sys.stderr))
main()
"""


@needs_compiled
def test_memory_does_not_grow_with_the_capture(
    make_syns: Callable[..., Path], topology: Path, tmp_path: Path
) -> None:
    """Ten times the packets, inferred and given, take no more memory (20 MB are the noise of two processes)."""
    peak = {}
    for count in (200_000, 2_000_000):
        capture = make_syns(tmp_path / f"{count}.pcap", count)
        for name, arguments in (("inferred", []), ("given", ["-t", topology])):
            folder = tmp_path / f"{name}{count}"
            words = ["replay", capture, *arguments, "-o", folder, "--no-capture", "--quiet"]
            run = subprocess.run([sys.executable, "-c", TELL_PEAK, *map(str, words)], capture_output=True, text=True)
            assert run.returncode == 0, run.stderr
            received = json.loads((folder / "summary.json").read_text())["received"]
            assert received == {"packets": count, "bytes": 40 * count}
            peak[name, count] = int(run.stderr.split()[-1]) * 1024
        capture.unlink()
    for name in ("inferred", "given"):
        assert peak[name, 2_000_000] < peak[name, 200_000] + 20_000_000
        assert peak[name, 2_000_000] < 400_000_000
