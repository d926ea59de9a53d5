"""Cases in `pcaps/cases/`: configuration and captures in, every file of the run compared byte by byte."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

PCAPS = Path(__file__).resolve().parents[2] / "pcaps"
CASES = sorted(path.parent for path in (PCAPS / "cases").glob("*/arguments"))


@pytest.fixture(scope="module")
def make() -> ModuleType:
    """`pcaps/make.py`, which knows how to run a case."""
    spec = importlib.util.spec_from_file_location("make", PCAPS / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_run_gives_the_expected_bytes(case: Path, make: ModuleType, tmp_path: Path) -> None:
    make.run_case(case, tmp_path / "run")
    expected = sorted(path.name for path in (case / "expected").iterdir())
    written = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert written == sorted([*expected, "manifest.json"])
    for name in expected:
        assert (tmp_path / "run" / name).read_bytes() == (case / "expected" / name).read_bytes(), name


def test_there_are_cases() -> None:
    assert len(CASES) >= 7
