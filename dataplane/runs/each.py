"""Many captures, each replayed on its own: by processes of this machine or by the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataplane.capture import CaptureError
from dataplane.kernel import is_compiled
from dataplane.runs.executor import ENDED_FROM_OUTSIDE, executor, tell_members
from dataplane.runs.folder import RunError, check_folder
from dataplane.runs.interruption import interruption
from dataplane.runs.replay import Replay, networks_of
from dataplane.runs.replay import replay as replay_one
from dataplane.runs.sources import split_point
from dataplane.runs.warmup import warm_up
from dataplane.topology import TopologyError

#: Exit codes, the gravest first.
_GRAVITY = (130, 2, 3, 4, 1, 0)

#: In a process that replays: the captures at which it was interrupted.
_interrupted: list[int] = []


@dataclass(frozen=True)
class Finished:
    """What became of one capture: plain data, as it comes back from another process.

    `number` is its place in the command line; `summary` is None if it could not be replayed at all.
    """

    number: int
    capture: str
    folder: str | None
    exit_code: int
    errors: list[str]
    held: list[str]
    summary: dict[str, Any] | None


def replay_each(job: Replay) -> Iterator[Finished]:
    """Replay every capture of a job into a folder of its name, `job.workers` at a time; tell of each when it is done.

    With `job.dask` the cluster's workers read the captures and write the folders, so they have to see the same files.
    Raises `RunError` before anything is begun. A capture that cannot be replayed is told of and stops no other.
    """
    jobs = [
        replace(job, captures=[capture], folder=folder, workers=1, dask=None)
        for capture, folder in zip(job.captures, _folders(job), strict=True)
    ]
    if not is_compiled():
        warm_up()  # once, and not in every process
    with executor(job.workers or 1, job.dask) as members, interruption(tell_members) as interrupted:
        futures = {members.submit(_replay, number, one): number for number, one in enumerate(jobs)}
        for future in as_completed(futures):
            if interrupted:
                for other in futures:
                    other.cancel()
            number = futures[future]
            broken = not future.cancelled() and isinstance(future.exception(), BrokenExecutor)
            if future.cancelled() or (broken and interrupted):
                yield Finished(number, job.captures[number], None, 130, [], [], None)
            elif broken:
                words = f"{job.captures[number]}: {ENDED_FROM_OUTSIDE}"
                yield Finished(number, job.captures[number], None, 2, [words], [], None)
            else:
                yield future.result()


def gravest(codes: list[int]) -> int:
    """The exit code of several runs: interrupted, wrong usage, damaged input, failed exporter, condition, done."""
    return next(code for code in _GRAVITY if code in codes)


def _folders(job: Replay) -> list[Path | None]:
    """A folder for each capture, named as its file is without its endings."""
    if job.folder is None:
        return [None] * len(job.captures)
    folders: dict[Path, str] = {}
    for capture in job.captures:
        if capture == "-" or capture.endswith("=-"):
            raise RunError("--each: standard input (-) has no name for a folder; give files")
        name = Path(split_point(capture, networks_of(job))[1]).name.split(".", 1)[0]
        if not name:
            raise RunError(f"--each: {capture} has nothing before its endings to name a folder by; rename it")
        folder = job.folder / name
        if folder in folders:
            raise RunError(f"--each: {folders[folder]} and {capture} would both be written to {folder}; rename one")
        check_folder(folder)
        folders[folder] = capture
    return list(folders)


def _replay(number: int, job: Replay) -> Finished:
    """In another process: one capture; after an interruption, none."""
    if _interrupted:
        return Finished(number, job.captures[0], None, 130, [], [], None)
    folder = None if job.folder is None else str(job.folder)
    try:
        result = replay_one(job)
    except (CaptureError, RunError, TopologyError, OSError, MemoryError) as error:
        return Finished(number, job.captures[0], None, 2, [str(error) or "not enough memory"], [], None)
    if result.exit_code == 130:
        _interrupted.append(number)
    errors = [*result.damage, *result.failures]
    held = [f"{job.captures[0]}: {line}" for line in result.held]
    return Finished(number, job.captures[0], folder, result.exit_code, errors, held, result.summary)
