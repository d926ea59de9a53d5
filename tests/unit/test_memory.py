"""Memory for tables, and where machine code is kept."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from dataplane import kernel
from dataplane.kernel import COMPILED, cache_folder
from dataplane.memory import zeroed


@pytest.mark.parametrize("scattered", [False, True])
def test_a_large_table_is_zeros_that_can_be_written_to(scattered: bool) -> None:
    table = zeroed(1 << 36, np.uint8, scattered=scattered)  # 64 GiB, of which two pages are touched
    table[[5, -5]] = 7
    assert table[[4, 5, -5, -4]].tolist() == [0, 7, 7, 0]


def test_a_table_that_the_system_refuses_is_an_error_that_says_why() -> None:
    with pytest.raises(MemoryError, match=r"no room for a table of 1,152,921,504,606,846,976 bytes.*ulimit -v"):
        zeroed(1 << 60, np.uint8)


def test_machine_code_of_somebody_else_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the user's cache cannot be written, a folder below the shared temporary one must be the user's alone."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shared = tmp_path / f"cache-{os.getuid()}"
    assert cache_folder().is_relative_to(shared)
    assert shared.stat().st_mode & 0o777 == 0o700
    shared.chmod(0o777)
    assert not cache_folder().is_relative_to(shared)


@pytest.mark.skipif(not COMPILED, reason="nothing is compiled")
def test_a_few_kernels_are_not_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernel.is_compiled(), "the fixture of all tests has compiled everything"
    monkeypatch.setattr(kernel, "CACHE_FOLDER", tmp_path)
    (tmp_path / "parse.classify-1.py311.1.nbc").touch()
    assert not kernel.is_compiled()
    (tmp_path / "pipeline.run-1.py311.1.nbc").touch()
    assert kernel.is_compiled()
