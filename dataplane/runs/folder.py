"""A run's folder: files are written beside their place and moved there whole; a run that fails leaves none.

Everything but `manifest.json` depends on inputs, topology and seed alone, so two runs can be compared byte by byte.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TextIO

from dataplane.runs.interruption import interruption

#: Every file that a run may leave; one that a new run does not write is removed from the folder.
FILES = (
    "manifest.json",
    "topology.yaml",
    "scenario.yaml",
    "summary.json",
    "metrics.csv",
    "sessions.csv",
    "capture.pcapng",
    "report.html",
)

#: The page, which is made from the others when they are complete.
REPORT = "report.html"

SCHEMA_VERSION = 1

#: A full disk, a quota, a limit on the size of files.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RunError(ValueError):
    """A run cannot begin or go on; the message is one line for the user."""


def check_outputs(inputs: Iterable[str], folder: Path | None, others: Iterable[Path] = ()) -> None:
    """Refuse a run's folder that is someone else's, and outputs that would take the place of an input.

    A run replaces or removes all of a run's files in its `folder`; `others` are files. Raises `RunError`.
    """
    own = {os.path.realpath(folder / name) for name in FILES} if folder is not None else set()
    for path in others:
        if os.path.realpath(path) in own:
            raise RunError(f"{path}: is where the run has a file of its own; name another one")
    places = own | {os.path.realpath(path) for path in others}
    for given in inputs:
        if os.path.realpath(given) in places:
            raise RunError(f"{given}: is an input, and an output would take its place; name another output")
    if folder is not None:
        check_folder(folder)


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds something and is no run's: its files are the user's. Raises `RunError`."""
    names = names_in(folder)
    for name in names.intersection(FILES):
        if (folder / name).is_dir():
            raise RunError(f"{folder / name}: is a directory, where a run has a file")
    if names and not _is_manifest(folder / "manifest.json"):
        raise RunError(f"{folder}: is not empty and no run's folder; name another one, or an empty one")


def names_in(folder: Path) -> set[str]:
    """What a folder holds, if it exists at all, less what a killed run left half written. Raises `RunError`."""
    try:
        return {name for name in os.listdir(folder) if not re.fullmatch(r"\..+\.partial", name)}
    except FileNotFoundError:
        return set()
    except NotADirectoryError:
        raise RunError(f"{folder}: {'is a file' if folder.exists() else 'Not a directory'}; name a folder") from None
    except OSError as error:
        raise RunError(f"{folder}: cannot be read: {error.strerror}") from error


def _is_manifest(path: Path) -> bool:
    """Whether a run wrote this `manifest.json`: browsers' extensions and others have one, too."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"schema_version", "exit_state"} <= content.keys()


class WholeFiles:
    """Output files that appear under their names together, when all of them are complete.

    As a context manager: committed when its body ends well, else none is left.
    """

    def __init__(self) -> None:
        self._open: dict[Path, BinaryIO | TextIO] = {}

    def __enter__(self) -> WholeFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        places = self.begun
        try:
            if kind is None:
                self.commit()
        except OSError as raised:
            error = raised
            raise
        finally:
            self.discard()
            _tell_no_room(places, error)

    def binary(self, path: Path) -> BinaryIO:
        """A file for bytes that will be at `path`."""
        return self._add(path, "wb")  # type: ignore[return-value]

    def text(self, path: Path) -> TextIO:
        """A file for text (UTF-8, line ends as written) that will be at `path`."""
        return self._add(path, "w")  # type: ignore[return-value]

    def _add(self, path: Path, mode: str) -> BinaryIO | TextIO:
        # File names that are no UTF-8 are written as escapes.
        text = {"encoding": "utf-8", "newline": "", "errors": "backslashreplace"} if mode == "w" else {}
        given, path = path, Path(os.path.realpath(path))  # a link stays a link
        if path in self._open:
            raise RunError(f"{given}: two outputs go there; name two files")
        if path.is_dir():
            raise RunError(f"{given}: is a directory; name a file")
        if path.exists() and not path.is_file():
            raise RunError(f"{given}: is no plain file; outputs are moved into place whole")
        try:
            handle = _locked(_beside(path))
        except BlockingIOError:
            raise RunError(f"{given}: another run is writing it") from None
        except OSError as error:
            raise RunError(f"{given}: cannot be written: {error.strerror}") from error
        file = os.fdopen(handle, mode, **text)  # type: ignore[call-overload]
        if os.fstat(handle).st_size:  # ext4 would send an emptied file, even an empty one, to the disk at its close
            os.ftruncate(handle, 0)
        self._open[path] = file
        return file  # type: ignore[no-any-return]

    def commit(self) -> None:
        """Move every file to its place, in the order in which they were begun."""
        for file in self._open.values():
            file.flush()
        for path, file in self._open.items():
            os.replace(_beside(path), path)
            file.close()
        self._open.clear()

    @property
    def begun(self) -> list[Path]:
        """The files that are not complete yet, where they will be."""
        return list(self._open)

    def abandon(self, path: Path) -> None:
        """Leave one file out after all."""
        path = Path(os.path.realpath(path))
        self._remove(path, self._open.pop(path))

    def _remove(self, path: Path, file: BinaryIO | TextIO) -> None:
        _beside(path).unlink(missing_ok=True)
        with suppress(OSError):  # what is still buffered may not fit on the disk
            file.close()

    def discard(self) -> None:
        """Leave nothing behind."""
        for path, file in self._open.items():
            self._remove(path, file)
        self._open.clear()


class RunFolder:
    """The folder of one run, as a context manager: committed when its body ends well, else untouched."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.files = WholeFiles()
        self._written: set[str] = set()
        self._made = False

    def __enter__(self) -> RunFolder:
        if self.path is not None and not self.path.is_dir():
            try:
                self.path.mkdir(parents=True)
            except OSError as error:
                raise RunError(f"{self.path}: cannot be made: {error.strerror}") from error
            self._made = True
        return self

    def text(self, name: str) -> TextIO:
        """One of the run's text files."""
        assert self.path is not None
        self._written.add(name)
        return self.files.text(self.path / name)

    def binary(self, name: str) -> BinaryIO:
        """One of the run's binary files."""
        assert self.path is not None
        self._written.add(name)
        return self.files.binary(self.path / name)

    def write_json(self, name: str, content: Any) -> None:
        """Write an object as JSON."""
        self.text(name).write(to_json(content))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            with interruption():  # who says now that the run is to end has it: it is over, and all of its files agree
                try:
                    self.files.commit()
                except BaseException as raised:
                    self._leave_nothing(raised)
                    raise
                if self.path is not None:
                    for name in set(FILES) - self._written:
                        (self.path / name).unlink(missing_ok=True)
            return
        self._leave_nothing(error)

    def _leave_nothing(self, error: BaseException | None) -> None:
        """Take back what was begun. Raises `RunError` if the reason is that there was no room for it."""
        places = [] if self.path is None else [str(self.path)]
        places += [str(path) for path in self.files.begun if self.path is None or path.parent != self.path.resolve()]
        self.files.discard()
        if self._made and self.path is not None:
            with suppress(OSError):  # something else may have been put there meanwhile
                self.path.rmdir()
        _tell_no_room(places, error)


def _tell_no_room(places: Sequence[str | Path], error: BaseException | None) -> None:
    """Raise `RunError` if the reason why none of these were written is that there was no room."""
    if places and isinstance(error, OSError) and error.errno in _NO_ROOM:
        raise RunError(
            f"{', '.join(map(str, places))}: cannot be written: {error.strerror}; nothing of it was kept. "
            "Make room, or name a place that has it"
        ) from error


def _beside(path: Path) -> Path:
    """Where a file grows until it is complete."""
    return path.with_name(f".{path.name}.partial")


def _locked(beside: Path) -> int:
    """Open and lock such a file. What a killed run left is written over; what another run is writing is locked.

    Raises BlockingIOError if it is, and OSError.
    """
    while True:
        handle = os.open(beside, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(beside)):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # another run has moved it into its place since it was opened


def to_json(content: Any) -> str:
    """JSON as we write it everywhere: two spaces, one final line end."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def manifest(
    command: Iterable[str],
    inputs: list[dict[str, Any]],
    seed: int,
    code: int,
    meaning: str,
    first_packet: str | None = None,
) -> dict[str, Any]:
    """What `manifest.json` says: how the run came about, when in capture time (ISO 8601) it begins, how it ended."""
    names = ("dataplane", "numpy", "numba")
    versions = {name: version_of(name) for name in names}
    return {
        "schema_version": SCHEMA_VERSION,
        "command": list(command),
        "inputs": inputs,
        "seed": seed,
        "first_packet": first_packet,
        "versions": {**versions, "python": platform.python_version(), "platform": sys.platform},
        "exit_state": {"code": code, "meaning": meaning},
    }


def restate(folder: Path, code: int, meaning: str) -> None:
    """Let the manifest of a complete run say that it ended otherwise after all."""
    path = folder / "manifest.json"
    content = json.loads(path.read_bytes())
    content["exit_state"] = {"code": code, "meaning": meaning}
    with WholeFiles() as files:
        files.text(path).write(to_json(content))


def version_of(name: str) -> str:
    """The version of an installed package."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
