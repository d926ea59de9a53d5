"""The demonstration: ports run out, a quiet endpoint is refused because of a noisy one, and the page tells of it."""

from __future__ import annotations

import json
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
    monkeypatch.chdir(tmp_path)
    result = invoke("demo", "-q")
    assert result.exit_code == 0, result.output
    page = tmp_path / "dataplane-demo" / "report.html"
    assert opened == [page.as_uri()]
    assert "What was found" in page.read_text()
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
    assert "exists and is no run's folder" in result.stderr
    assert [path.name for path in (tmp_path / "dataplane-demo").iterdir()] == ["thesis.txt"]
