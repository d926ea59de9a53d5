"""Fixtures that every test may use."""

import importlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from dataplane.kernel import COMPILED
from dataplane.runs.warmup import warm_up


def pytest_addoption(parser: pytest.Parser) -> None:
    """For machines on which no network namespaces can be made."""
    parser.addoption(
        "--without-linux", action="store_true", help="skip what only the Linux kernel's own NAT can judge"
    )


ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def kernels() -> None:
    """Compile once before the first test, so that no test measures or sees it."""
    if COMPILED:
        warm_up()


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


def needs(module: str, package: str) -> Any:
    """An optional module; without it the test fails in CI and is skipped elsewhere."""
    if os.environ.get("CI"):
        return importlib.import_module(module)
    return pytest.importorskip(module, reason=f"{module} is not installed (pip install {package})")


@pytest.fixture(scope="session")
def tshark() -> str:
    """Path of tshark."""
    return _tool("tshark", "tshark")


@pytest.fixture(scope="session")
def capinfos() -> str:
    """Path of capinfos."""
    return _tool("capinfos", "tshark")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of Chromium."""
    return _tool("chromium", "chromium")


settings.register_profile("default", max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile("small", parent=settings.get_profile("default"), max_examples=40)
# Interpreted kernels are some 300 times slower.
settings.register_profile("interpreted", parent=settings.get_profile("default"), max_examples=15)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
