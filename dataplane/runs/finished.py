"""A run's folder, read back: what `RunFolder` left there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataplane.runs.folder import SCHEMA_VERSION, RunError

#: What readers of a summary take for granted.
_READ = ("received", "dropped", "private_endpoints", "private_link_services", "sessions", "first_exhaustion")


@dataclass(frozen=True)
class FinishedRun:
    """A run's folder with its small files in memory; captures and sessions may be large and stay where they are."""

    path: Path
    manifest: dict[str, Any]
    summary: dict[str, Any]
    #: The text of `topology.yaml`.
    topology: str

    def file(self, name: str) -> Path | None:
        """The path of one of the run's files, None when the run left it out."""
        path = self.path / name
        return path if path.is_file() else None


def read_run(path: Path) -> FinishedRun:
    """Read a run's folder. Raises `RunError`, one line, when it is none."""
    if not path.is_dir():
        raise RunError(f"{path}: {'is no folder' if path.exists() else 'no such folder'}; name a run's folder")
    manifest = _object(path, "manifest.json")
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        raise RunError(f"{path / 'manifest.json'}: schema version {version}; this program reads {SCHEMA_VERSION}")
    summary = _object(path, "summary.json")
    missing = [key for key in _READ if key not in summary]
    if missing:
        raise RunError(f"{path / 'summary.json'}: has no {missing[0]}, so no run wrote it")
    return FinishedRun(path, manifest, summary, _text(path, "topology.yaml"))


def _text(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RunError(f"{folder}: is no run's folder: it has no {name}") from None
    except OSError as error:
        raise RunError(f"{folder / name}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise RunError(f"{folder / name}: is not text in UTF-8, so no run wrote it") from None


def _object(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(_text(folder, name))
    except (json.JSONDecodeError, RecursionError) as error:
        raise RunError(f"{folder / name}: is not the JSON that a run writes: {error}") from None
    if not isinstance(content, dict):
        raise RunError(f"{folder / name}: is not the JSON that a run writes: no object")
    return content
