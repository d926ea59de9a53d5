"""`dataplane demo`: a small exhaustion run with its report, from nothing."""

from __future__ import annotations

import os
import sys
import webbrowser
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dataplane.cli.common import EXPORT, announce_compilation, common_options, errors_as_lines, fail, given

if TYPE_CHECKING:
    from dataplane.runs.exhaust import Exhausted


@click.command("demo", epilog="Example: dataplane demo")
@click.option(
    "--output",
    "-o",
    "folder",
    type=click.Path(path_type=Path),
    default="dataplane-demo",
    show_default=True,
    metavar="RUN",
    help="The run's folder.",
)
@click.option("--no-open", is_flag=True, help="Do not open the report in a browser; nor does --json.")
@common_options
def command(folder: Path, no_open: bool, as_json: bool, quiet: bool, seed: int) -> None:
    """Run a small NAT exhaustion experiment that comes with the program, and open its report.

    One consumer opens more and more connections and leaves them open, until another one is refused.
    """
    with errors_as_lines():
        from dataplane.runs.exhaust import Exhaust, exhaust
        from dataplane.runs.scenario_file import load_scenario

        announce_compilation(quiet)
        with resources.as_file(resources.files("dataplane.demo") / "scenario.yaml") as path:
            job = Exhaust(
                load_scenario(path),
                seed=seed if given("seed") else None,
                folder=folder,
                sessions=True,
                command=sys.argv[:],
                inputs=[path],
            )
            result = exhaust(job)
    _tell(result, as_json)
    if result.interrupted:
        click.echo("interrupted: what was done until then is kept", err=True)
        sys.exit(result.exit_code)
    page = _report(folder)
    if not as_json:
        click.echo(f"The report: {page}")
    if not (no_open or as_json):  # a browser may write to standard output, where only JSON belongs
        _open(page)


def _tell(result: Exhausted, as_json: bool) -> None:
    from dataplane.cli.findings import print_findings
    from dataplane.runs.folder import to_json

    if as_json:
        click.echo(to_json(result.summary), nl=False)
    else:
        print_findings(result.summary)


def _report(folder: Path) -> Path:
    """Make the page; the run stays complete without it, and ends with exit code 4."""
    from dataplane.report import write_report
    from dataplane.runs.folder import RunError, restate
    from dataplane.runs.replay import MEANINGS

    try:
        return write_report(folder).page.resolve()
    except (RunError, OSError, MemoryError) as error:
        with suppress(OSError, RunError):  # what kept the page from being written may do so here
            restate(folder, EXPORT, MEANINGS[EXPORT])
        fail(f"report.html could not be made: {error}; `dataplane report {folder}` tries again", EXPORT)


def _open(page: Path) -> None:
    """Open the page where there is a screen: without one, the browser would be one of text, in this terminal."""
    if sys.platform == "linux" and not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")):
        return
    with suppress(webbrowser.Error, OSError):  # it is said where the page is
        webbrowser.open(page.as_uri())
