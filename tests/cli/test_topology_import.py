"""`dataplane topology import`: Azure's JSON in, a topology out that the other commands take."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Invoke = Callable[..., Result]

AZURE = Path(__file__).resolve().parents[1] / "data" / "azure"
CLI = sorted(path for path in AZURE.glob("*.json") if path.name != "template.json")


def test_what_is_imported_is_right_and_carries_a_capture(syns: Path, tmp_path: Path, invoke: Invoke) -> None:
    imported = invoke("topology", "import", *CLI)
    assert imported.exit_code == 0
    path = tmp_path / "topology.yaml"
    path.write_text(imported.stdout)
    assert "1 private link services, 2 private endpoints" in invoke("topology", "check", path).stdout
    assert invoke("replay", f"contoso={syns}", "-t", path, "-o", tmp_path / "run", "-q").exit_code == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["forwarded"]["packets"] == 50
    assert {one["ip"] for one in summary["private_link_services"][0]["nat_ips"]} == {"10.0.50.4", "10.0.50.9"}


def test_what_is_not_in_the_files_is_a_note_a_line_unless_quiet(invoke: Invoke) -> None:
    loud, quiet = invoke("topology", "import", *CLI), invoke("topology", "import", *CLI, "--quiet")
    assert loud.stdout == quiet.stdout
    assert quiet.stderr == ""
    assert all(line.startswith("note: ") for line in loud.stderr.splitlines())
    assert "az vmss nic list" in loud.stderr


def test_json_and_a_file_hold_the_same_topology(tmp_path: Path, invoke: Invoke) -> None:
    printed = invoke("topology", "import", *CLI, "--json")
    (tmp_path / "printed.json").write_text(printed.stdout)
    written = invoke("topology", "import", *CLI, "-o", tmp_path / "written.yaml")
    assert (written.exit_code, written.stdout) == (0, "")
    shown = [invoke("topology", "show", tmp_path / name).stdout for name in ("printed.json", "written.yaml")]
    assert shown[0] == shown[1] != ""


def test_files_that_do_not_suffice_are_refused_with_all_that_is_missing(tmp_path: Path, invoke: Invoke) -> None:
    result = invoke("topology", "import", AZURE / "private-link-service.json", "-o", tmp_path / "topology.yaml")
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert all(line.startswith(f"error: {AZURE / 'private-link-service.json'}: ") for line in lines[:2])
    assert "`az network vnet list`" in result.stderr
    assert "`az network lb list`" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_input_is_not_written_over(tmp_path: Path, invoke: Invoke) -> None:
    path = tmp_path / "template.json"
    path.write_bytes((AZURE / "template.json").read_bytes())
    result = invoke("topology", "import", path, "-o", path)
    assert result.exit_code == 2
    assert "is an input" in result.stderr
    assert path.read_bytes() == (AZURE / "template.json").read_bytes()


def test_no_file_is_wrong_usage(invoke: Invoke) -> None:
    assert invoke("topology", "import").exit_code == 2


def test_it_needs_neither_numba_nor_scapy() -> None:
    script = (
        "import sys\nfrom click.testing import CliRunner\nfrom dataplane.cli import main\n"
        f"result = CliRunner().invoke(main, ['topology', 'import', *{[str(path) for path in CLI]!r}])\n"
        "assert result.exit_code == 0\n"
        "print([name for name in ('numba', 'scapy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
