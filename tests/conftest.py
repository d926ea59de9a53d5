"""Fixtures that every test may use."""

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def pcaps() -> Path:
    """The folder of captures that ship with the project."""
    return ROOT / "pcaps"


def _tool(name: str, package: str) -> str:
    """The path of a program; without it the test fails in CI and is skipped elsewhere."""
    path = shutil.which(name)
    if path is None:
        message = f"{name} is not installed (Debian package: {package}); this outside judge did not judge"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def tshark() -> str:
    """Path of tshark."""
    return _tool("tshark", "tshark")


@pytest.fixture(scope="session")
def capinfos() -> str:
    """Path of capinfos."""
    return _tool("capinfos", "tshark")
