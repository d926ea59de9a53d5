"""A grid of exhaustion experiments: each cell is computed once, kept as a file, and is a row of the results."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
import json
import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataplane.kernel import is_compiled
from dataplane.runs.executor import ENDED_FROM_OUTSIDE, executor, tell_members
from dataplane.runs.exhaust import Exhaust, exhaust
from dataplane.runs.folder import REPORT, RunError, WholeFiles, check_outputs, names_in, to_json, version_of
from dataplane.runs.interruption import interruption
from dataplane.runs.scenario import Scenario
from dataplane.runs.sweep_file import Sweep, dump_sweep, settings_text
from dataplane.runs.sweep_results import CELLS, CONFIGURATION, FIGURES, RESULTS
from dataplane.runs.sweep_settings import Settings, with_settings
from dataplane.runs.warmup import warm_up

#: Told after every cell: how many are done, of how many.
Progress = Callable[[int, int], None]


@dataclass
class SweepJob:
    """What is to be run, where to, and by whom. `inputs` are files whose place no output may take."""

    sweep: Sweep
    folder: Path
    workers: int = 1
    dask: str | None = None
    parquet: bool = False
    inputs: list[Path] = field(default_factory=list)


@dataclass
class Swept:
    """What came of it: a row for each cell in grid order, how many were computed and kept, and what failed, in lines.

    The figures of a cell that failed are None, as are those of cells that an interruption left out.
    """

    rows: list[dict[str, Any]]
    computed: int
    kept: int
    failed: list[str]
    interrupted: bool

    @property
    def exit_code(self) -> int:
        """0 done, 4 a cell failed, 130 interrupted."""
        return 130 if self.interrupted else 4 if self.failed else 0


def sweep(job: SweepJob, members: Executor | None = None, progress: Progress | None = None) -> Swept:
    """Compute the cells whose files are missing and write the results. Raises `RunError` before anything is begun.

    `members` comes before `job.workers` and `job.dask`. After an interruption (Ctrl-C) no further cell is begun, and no
    results are written; the files of finished cells stay.
    """
    if job.parquet and importlib.util.find_spec("pyarrow") is None:
        raise RunError("--parquet needs pyarrow, which is not installed: pip install 'pyarrow>=16'")
    cells = list(job.sweep.cells())
    tables = [job.folder / RESULTS, job.folder / CONFIGURATION]
    tables += [job.folder / "results.parquet"] if job.parquet else []
    check_outputs(map(str, job.inputs), None, tables)
    folder = job.folder / CELLS
    _check_folder(job.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{error.filename}: cannot be made: {error.strerror}") from error
    hashes = [cell_hash(with_settings(job.sweep.scenario, cell)) for cell in cells]
    figures = {name: found for name in hashes if (found := _read(folder / f"{name}.json")) is not None}
    missing = {name: cell for name, cell in zip(hashes, cells, strict=True) if name not in figures}
    kept = sum(name in figures for name in hashes)
    with _results(tables) as files:  # begun first, so that no other sweep works in the folder meanwhile
        failed, interrupted = _compute(job, missing, folder, figures, members, progress)
        rows = [cell | figures.get(name, dict.fromkeys(FIGURES)) for cell, name in zip(cells, hashes, strict=True)]
        if not interrupted:
            _write(files, rows)
            files[1].write(dump_sweep(job.sweep).encode())
            if not job.parquet:  # one of an earlier sweep would tell of other cells
                (job.folder / "results.parquet").unlink(missing_ok=True)
            (job.folder / REPORT).unlink(missing_ok=True)
    computed = sum(name in figures for name in hashes) - kept
    return Swept(rows, computed, kept, failed, interrupted)


def _check_folder(folder: Path) -> None:
    """Refuse a folder that holds something and is no sweep's, as a run does. Raises `RunError`."""
    names = names_in(folder)
    if not names:
        return
    cells = names_in(folder / CELLS) if (folder / CELLS).is_dir() else {"none"}
    if not all(re.fullmatch(r"[0-9a-f]{32}\.json", name) for name in cells):
        raise RunError(f"{folder}: is not empty and no sweep's folder; name another one, or an empty one")


def cell_hash(scenario: Scenario) -> str:
    """What a cell's file is called: a digest of all that decides its figures."""
    document = scenario.model_dump(mode="json")
    for source in document["traffic"]:
        arrivals = source["arrivals"]
        # What is in captures and flow logs counts, not where they lie.
        if arrivals["file"] is not None:
            arrivals["file"] = _digest(arrivals["file"])
        if arrivals["files"] is not None:
            arrivals["files"] = [_digest(path) for path in arrivals["files"]]
    text = json.dumps([version_of("dataplane"), document], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _compute(
    job: SweepJob,
    missing: dict[str, Settings],
    folder: Path,
    figures: dict[str, dict[str, Any]],
    members: Executor | None,
    progress: Progress | None,
) -> tuple[list[str], bool]:
    """Compute cells and write their files; add to `figures`. Which failed, and whether it was interrupted."""
    if not missing:
        return [], False
    if members is None and not is_compiled():
        warm_up()  # once, and not in every process
    failed: dict[str, str] = {}
    queue = deque(missing)
    # A process gets a cell when it is free: what lies ready in its queue could not be taken back at an interruption.
    room = job.workers if members is None and job.dask is None else len(missing)
    with interruption(tell_members) as interrupted:
        while queue and not interrupted:  # once, and again where a process was killed and took its fellows with it
            given = nullcontext(members) if members is not None else executor(min(job.workers, len(queue)), job.dask)
            futures: dict[Future[dict[str, Any] | None], str] = {}
            broken = False
            with given as crew:
                while futures or (queue and not interrupted and not broken):
                    while queue and len(futures) < room and not interrupted and not broken:
                        try:
                            futures[crew.submit(_cell, job.sweep.scenario, missing[queue[0]])] = queue[0]
                            queue.popleft()
                        except BrokenExecutor:
                            broken = True
                    for future in wait(futures, return_when=FIRST_COMPLETED).done:
                        name = futures.pop(future)
                        if future.cancelled():
                            continue
                        error = future.exception()
                        broken |= isinstance(error, BrokenExecutor)
                        if error is None and (found := future.result()) is not None:
                            _keep(folder / f"{name}.json", missing[name], found)
                            figures[name] = found
                        elif error is not None and not interrupted:
                            failed[name] = f"{settings_text(missing[name])}: {_words(error)}"
                        if progress is not None:
                            progress(len(missing) - len(queue) - len(futures), len(missing))
                    if interrupted:
                        for future in futures:
                            future.cancel()
            if broken and members is not None:  # there are no others
                failed |= {name: f"{settings_text(missing[name])}: {ENDED_FROM_OUTSIDE}" for name in queue}
                queue.clear()
    return [failed[name] for name in missing if name in failed], bool(interrupted)


def _words(error: BaseException) -> str:
    """Why a cell failed."""
    if isinstance(error, BrokenExecutor):
        return ENDED_FROM_OUTSIDE
    return str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"


def _cell(scenario: Scenario, settings: Settings) -> dict[str, Any] | None:
    """In another process: one cell's figures; None if it was interrupted."""
    result = exhaust(Exhaust(with_settings(scenario, settings)))
    return None if result.interrupted else figures_of(result.summary)


def figures_of(summary: dict[str, Any]) -> dict[str, Any]:
    """The columns of FIGURES, from the summary of an experiment."""
    findings = summary["findings"]
    first, lowest, alert = (findings[key] for key in ("first_failure", "lowest_availability", "alert"))
    connections = [source["connections"] for source in findings["traffic"]]
    started = sum(count["started"] for count in connections)
    return {
        "first_failure_seconds": None if first is None else first["time_seconds"],
        "lowest_availability_percent": None if lowest is None else lowest["percent"],
        "failures": sum(sum(endpoint["failures"].values()) for endpoint in findings["private_endpoints"]),
        "sessions_created": summary["sessions"]["created"],
        "failure_share": sum(count["failed"] for count in connections) / started if started else None,
        "alert_fired_seconds": alert["fired_seconds"],
        "alert_seconds_before_first_failure": alert["seconds_before_first_failure"],
    }


def _keep(path: Path, settings: Settings, figures: dict[str, Any]) -> None:
    with _results([path]) as files:
        files[0].write(to_json({"settings": settings, "figures": figures}).encode())


def _read(path: Path) -> dict[str, Any] | None:
    """The figures of a cell that is finished; what is no such file counts as missing."""
    try:
        figures: dict[str, Any] = json.loads(path.read_bytes())["figures"]
        found = {name: figures[name] for name in FIGURES}
        return found if all(one is None or type(one) in (int, float) for one in found.values()) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def _results(paths: list[Path]) -> Iterator[list[Any]]:
    """Files for bytes that appear under their names together at the end, those that were written to."""
    with WholeFiles() as whole:
        files = [whole.binary(path) for path in paths]
        yield files
        for path, file in zip(paths, files, strict=True):
            if not file.tell():
                whole.abandon(path)


def _write(files: list[Any], rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([_plain(value) for value in row.values()] for row in rows)
    files[0].write(text.getvalue().encode())
    if len(files) > 2:
        _write_parquet(files[2], rows)


def _plain(value: Any) -> Any:
    return "" if value is None else json.dumps(value) if isinstance(value, list) else value


def _write_parquet(file: Any, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    kinds = {int: pyarrow.int64(), float: pyarrow.float64()}
    columns = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if any(isinstance(value, list) for value in values):  # numbers of probes, and lists of runs of them
            values = [None if value is None else json.dumps(value) for value in values]
        columns[name] = pyarrow.array(values, kinds[FIGURES[name]] if name in FIGURES else None)
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
