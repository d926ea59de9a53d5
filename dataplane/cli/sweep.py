"""`dataplane sweep`: a grid of NAT exhaustion experiments."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dataplane.cli.common import EXPORT, announce_compilation, common_options, errors_as_lines, fail, given

if TYPE_CHECKING:
    from dataplane.runs.sweep import Progress, Swept


@click.command("sweep", epilog="Example: dataplane sweep sweep.yaml -o results")
@click.argument("file", type=click.Path(path_type=Path), metavar="SWEEP")
@click.option(
    "--output", "-o", "folder", required=True, type=click.Path(path_type=Path), metavar="FOLDER",
    help="Where results.csv and the finished cells are; what is finished there is not computed again.",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 256), help="Processes; the processors, if left out.")
@click.option("--dask", metavar="ADDRESS", help="Let the workers of the Dask cluster at ADDRESS compute the cells.")
@click.option("--parquet", is_flag=True, help="Write results.parquet too: pip install 'pyarrow>=16'.")
@click.option("--report", is_flag=True, help="Make report.html in FOLDER, as `dataplane report` does.")
@common_options
def command(
    file: Path,
    folder: Path,
    workers: int | None,
    dask: str | None,
    parquet: bool,
    report: bool,
    as_json: bool,
    quiet: bool,
    seed: int,
) -> None:
    """Run a scenario once for every combination of settings, and tabulate when NAT ports run out.

    A SWEEP is a YAML or JSON file: a scenario and a grid of settings; docs/sweep.md explains each. --seed comes before
    the scenario's own. What is finished is kept in FOLDER: after an interruption the same command goes on.
    """
    if workers is not None and dask is not None:
        fail("--workers are processes of this machine, and --dask has workers of its own; leave one of them out")
    with errors_as_lines():
        from dataplane.runs.sweep import SweepJob, sweep
        from dataplane.runs.sweep_file import files_of_sweep, load_sweep

        plan = load_sweep(file)
        if given("seed"):
            if "seed" in plan.values:
                fail("--seed comes before the scenario's own seed, but the grid varies it; leave one of them out")
            scenario = plan.scenario.model_copy(update={"seed": seed})
            plan = plan.model_copy(update={"scenario": scenario})
        announce_compilation(quiet)
        processes = workers or len(os.sched_getaffinity(0))
        job = SweepJob(plan, folder, processes, dask, parquet, inputs=files_of_sweep(file))
        with _bar(quiet) as progress:
            result = sweep(job, progress=progress)
    _tell(result, list(plan.values), folder, as_json)
    code = result.exit_code
    if report and not result.interrupted:
        code = _report(folder) or code
    for line in result.failed:
        click.echo(f"error: {line}", err=True)
    if result.interrupted:
        done = result.computed + result.kept
        click.echo(f"interrupted: {done} of {len(result.rows)} cells are finished; the same command goes on", err=True)
    sys.exit(code)


def _report(folder: Path) -> int:
    """Make the page; the results stay without it. The exit code if it could not be made, else 0."""
    from dataplane.report import write_report
    from dataplane.runs.folder import RunError

    try:
        write_report(folder)
    except (RunError, OSError, MemoryError) as error:
        click.echo(f"error: report.html could not be made: {error}; `dataplane report {folder}` tries again", err=True)
        return EXPORT
    return 0


def _tell(result: Swept, settings: list[str], folder: Path, as_json: bool) -> None:
    try:
        if as_json:
            from dataplane.runs.folder import to_json

            click.echo(to_json(result.rows), nl=False)
        else:
            _print(result, settings)
            click.echo(f"{result.computed} computed, {result.kept} kept, {len(result.failed)} failed")
            if not result.interrupted:
                click.echo(f"written to {folder}")
        sys.stdout.flush()
    except BrokenPipeError:  # the sweep's own messages and exit code still count
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _print(result: Swept, settings: list[str]) -> None:
    from dataplane.cli.tables import console_for_output, show, table
    from dataplane.runs.sweep_file import value_text

    def number(value: float | None, form: str, unit: str) -> str:
        return "-" if value is None else f"{value:{form}}{unit}"

    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        share = row["failure_share"]
        return (
            *(value_text(row[name]) for name in settings),
            number(row["first_failure_seconds"], ",.3f", " s"),
            number(row["lowest_availability_percent"], ".3f", " %"),
            number(row["failures"], ",", ""),
            number(row["sessions_created"], ",", ""),
            number(None if share is None else 100 * share, ".3f", " %"),
            number(row["alert_fired_seconds"], ",g", " s"),
            number(row["alert_seconds_before_first_failure"], ",.1f", " s"),
        )

    figures = ("first failure", "lowest", "failures", "sessions", "failed", "alert", "before failure")
    rows = [cells(row) for row in result.rows]
    show(console_for_output(), table("", *settings, *figures), rows, "--json or results.csv lists all")


@contextmanager
def _bar(quiet: bool) -> Iterator[Progress | None]:
    """How many cells are done, on standard error, if that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sweep", total=None)
        yield lambda done, cells: bar.update(task, completed=done, total=cells)
