"""Folders that are no run's: every command that writes one leaves them alone, and says so before it does anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.cli.conftest import TOPOLOGY

Invoke = Callable[..., Result]

SCENARIO = """\
topology: topology.yaml
duration: 2s
traffic:
  - {name: web, endpoint: pe-contoso, port: 443, arrivals: {pattern: constant, rate: 5}}
"""

#: Words of each command, before `-o`.
COMMANDS = {
    "replay": ["replay", "{syns}", "-q"],
    "replay of each": ["replay", "{syns}", "-q", "--each"],
    "exhaust": ["exhaust", "{scenario}", "-q"],
    "demo": ["demo", "--no-open", "-q"],
    "sweep": ["sweep", "{sweep}", "-q", "--workers", "1"],
}


@pytest.fixture
def words(request: pytest.FixtureRequest, tmp_path: Path, syns: Path, topology: Path) -> list[str]:
    """The words of a command whose inputs exist."""
    assert topology.read_text() == TOPOLOGY
    scenario, sweep = tmp_path / "scenario.yaml", tmp_path / "sweep.yaml"
    scenario.write_text(SCENARIO)
    sweep.write_text("scenario: scenario.yaml\ngrid: {nat_ips: [1]}\n")
    return [word.format(syns=syns, scenario=scenario, sweep=sweep) for word in COMMANDS[request.param]]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def place(words: list[str], folder: Path) -> Path:
    """The folder itself, of which `--each` makes one for each capture."""
    return folder / "syns" if "--each" in words else folder


every_command = pytest.mark.parametrize("words", COMMANDS, indirect=True)


@every_command
@pytest.mark.parametrize(
    "files",
    [
        {"thesis.txt": "mine"},
        {"summary.json": "{}", "topology.yaml": "mine", "results.csv": "mine"},
        {"manifest.json": json.dumps({"name": "of a browser's extension", "version": "1.0"})},
        {"cells/thesis.txt": "mine"},
        {".hidden": "mine"},
    ],
    ids=["a file", "files named as ours", "another manifest", "a folder named as ours", "a hidden file"],
)
def test_a_folder_of_the_users_is_refused_and_left_as_it_was(
    words: list[str], files: dict[str, str], tmp_path: Path, invoke: Invoke
) -> None:
    folder = place(words, tmp_path / "important")
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    result = invoke(*words, "-o", tmp_path / "important")
    assert result.exit_code == 2
    assert result.stdout == ""
    kind = "sweep" if words[0] == "sweep" else "run"
    assert result.stderr == (
        f"error: {folder}: is not empty and no {kind}'s folder; name another one, or an empty one\n"
    )
    assert contents(folder) == {name: text.encode() for name, text in files.items()}


@every_command
def test_an_empty_folder_is_filled_and_its_own_is_written_again(
    words: list[str], tmp_path: Path, invoke: Invoke
) -> None:
    folder = place(words, tmp_path / "out")
    folder.mkdir(parents=True)
    (folder / ".summary.json.partial").write_text("what a killed run left")
    assert invoke(*words, "-o", tmp_path / "out").exit_code == 0
    assert contents(folder)
    (folder / "notes.txt").write_text("mine")
    assert invoke(*words, "-o", tmp_path / "out").exit_code == 0
    assert contents(folder)["notes.txt"] == b"mine"


@every_command
def test_a_file_is_no_folder(words: list[str], tmp_path: Path, invoke: Invoke) -> None:
    file = place(words, tmp_path / "out")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine")
    result = invoke(*words, "-o", tmp_path / "out")
    assert (result.exit_code, result.stderr) == (2, f"error: {file}: is a file; name a folder\n")
    assert file.read_text() == "mine"


@pytest.mark.parametrize("words", ["sweep"], indirect=True)
def test_a_runs_folder_is_no_sweeps_and_the_other_way_round(words: list[str], tmp_path: Path, invoke: Invoke) -> None:
    run, results = tmp_path / "run", tmp_path / "results"
    assert invoke("exhaust", tmp_path / "scenario.yaml", "-o", run, "-q").exit_code == 0
    assert invoke(*words, "-o", results).exit_code == 0
    assert "no sweep's folder" in invoke(*words, "-o", run).stderr
    assert "no run's folder" in invoke("exhaust", tmp_path / "scenario.yaml", "-o", results, "-q").stderr
