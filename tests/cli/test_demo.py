"""The demonstration: ports run out, a quiet endpoint is refused because of a noisy one, and the page tells of it."""

from __future__ import annotations

import json
import re
import webbrowser
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Invoke = Callable[..., Result]


def test_a_quiet_endpoint_is_refused_because_of_a_noisy_one(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.chdir(tmp_path)
    result = invoke("demo", "-q")
    assert result.exit_code == 0, result.output
    page = tmp_path / "dataplane-demo" / "report.html"
    assert opened == [page.as_uri()]
    assert "Who used the ports: pe-fabrikam" in page.read_text()
    findings = json.loads((page.parent / "summary.json").read_text())["findings"]
    failures = {endpoint["name"]: sum(endpoint["failures"].values()) for endpoint in findings["private_endpoints"]}
    assert failures["pe-contoso"] > 0
    assert findings["first_failure"]["time_seconds"] < 360
    assert findings["alert"]["seconds_before_first_failure"] < 0, "the alert comes too late"
    assert f"The report: {page}" in result.stdout


def test_a_folder_that_is_something_else_is_not_touched(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dataplane-demo").mkdir()
    (tmp_path / "dataplane-demo" / "thesis.txt").write_text("mine")
    result = invoke("demo", "--no-open")
    assert result.exit_code == 2
    assert "dataplane-demo: is not empty and no run's folder" in result.stderr
    assert [path.name for path in (tmp_path / "dataplane-demo").iterdir()] == ["thesis.txt"]


def test_without_a_screen_no_browser_is_sought(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda _: pytest.fail("a browser of text would take the terminal"))
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    result = invoke("demo", "-q", "-o", tmp_path / "run")
    assert result.exit_code == 0
    assert f"The report: {tmp_path / 'run' / 'report.html'}" in result.stdout


def test_json_is_all_there_is_on_standard_output_and_opens_nothing(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda _: pytest.fail("a browser may write to standard output"))
    monkeypatch.setenv("DISPLAY", ":0")
    result = invoke("demo", "-q", "--json", "-o", tmp_path / "run")
    assert json.loads(result.stdout) == json.loads((tmp_path / "run" / "summary.json").read_text())


def test_a_page_that_cannot_be_made_leaves_the_run_and_is_exit_code_4(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dataplane.report.write_report", full)
    result = invoke("demo", "-q", "--no-open", "-o", tmp_path / "run")
    assert result.exit_code == 4
    assert "NAT ports ran out first" in result.stdout
    assert "report.html could not be made" in result.stderr
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["exit_state"]["code"] == 4


def test_every_chart_of_an_experiments_page_has_a_key_of_its_own(invoke: Invoke, tmp_path: Path) -> None:
    assert invoke("demo", "--no-open", "-q", "-o", tmp_path / "run").exit_code == 0
    keys = re.findall(r'"key": ?"([^"]+)"', (tmp_path / "run" / "report.html").read_text())
    assert len(keys) > 10
    assert len(set(keys)) == len(keys)
    assert invoke("report", tmp_path / "run", "--png", tmp_path / "pictures").exit_code == 0
    assert len(list((tmp_path / "pictures").iterdir())) == len(keys)
