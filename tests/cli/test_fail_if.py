"""`replay --fail-if`: exit code 1 when the run is done and a condition holds, and nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Invoke = Callable[..., Result]


@pytest.fixture
def eight_ports(pcaps: Path) -> list[object]:
    """Arguments of a replay that runs out of its eight NAT ports."""
    case = pcaps / "cases" / "exhaustion"
    return ["replay", case / "contoso.pcap", "-t", case / "topology.yaml"]


def test_a_run_that_a_condition_fails_is_complete_and_says_where(
    eight_ports: list[object], tmp_path: Path, invoke: Invoke
) -> None:
    plain = invoke(*eight_ports, "--json")
    result = invoke(*eight_ports, "--json", "-o", tmp_path / "run", "--fail-if", "minimum_availability_percent < 20")
    assert (plain.exit_code, result.exit_code) == (0, 1)
    assert result.stdout == plain.stdout
    assert result.stderr == (
        "failed: orders, NAT IP 192.168.50.4: minimum_availability_percent is 0, and --fail-if says < 20\n"
    )
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["exit_state"] == {"code": 1, "meaning": "done, and a condition of --fail-if holds"}


def test_conditions_that_do_not_hold_change_nothing(eight_ports: list[object], invoke: Invoke) -> None:
    result = invoke(*eight_ports, "--fail-if", "minimum_availability_percent < 0", "--fail-if", "dropped.packets > 10")
    assert (result.exit_code, result.stderr) == (0, "")


def test_one_condition_of_several_is_enough(eight_ports: list[object], invoke: Invoke) -> None:
    result = invoke(*eight_ports, "--fail-if", "dropped.packets > 10", "--fail-if", "sessions.active > 0", "-q")
    assert result.exit_code == 1
    assert result.stderr == "failed: sessions.active is 1, and --fail-if says > 0\n"


def test_an_unknown_figure_is_refused_before_the_run_begins(
    eight_ports: list[object], tmp_path: Path, invoke: Invoke
) -> None:
    result = invoke(*eight_ports, "-o", tmp_path / "run", "--fail-if", "availability < 20")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: --fail-if: there is no figure availability ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_damaged_input_comes_before_a_condition(pcaps: Path, tmp_path: Path, invoke: Invoke) -> None:
    cut = tmp_path / "cut.pcap"
    cut.write_bytes((pcaps / "https-tls12-page.pcap").read_bytes()[:100_000])
    result = invoke("replay", cut, "--fail-if", "received.packets > 0")
    assert result.exit_code == 3
    assert result.stderr.splitlines()[-1].startswith("failed: received.packets is ")


def test_a_failed_output_comes_before_a_condition(pcaps: Path, tmp_path: Path, invoke: Invoke) -> None:
    capture = pcaps / "pcapng-two-interfaces.pcapng"  # of two link types: no classic pcap holds both
    result = invoke("replay", capture, "--pcap", f"consumer={tmp_path / 'x.pcap'}", "--fail-if", "received.packets > 0")
    assert result.exit_code == 4
    assert "failed: received.packets is 159, and --fail-if says > 0\n" in result.stderr
