"""`dataplane demo`: a small exhaustion run with its report, from nothing."""

from __future__ import annotations

import sys
import webbrowser
from importlib import resources
from pathlib import Path

import click

from dataplane.cli.common import announce_compilation, common_options, errors_as_lines, fail, given


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
@click.option("--no-open", is_flag=True, help="Do not open the report in a browser.")
@common_options
def command(folder: Path, no_open: bool, as_json: bool, quiet: bool, seed: int) -> None:
    """Run a small NAT exhaustion experiment that comes with the program, and open its report.

    One consumer opens more and more connections and leaves them open, until another one is refused.
    """
    if not given("folder") and folder.exists() and not (folder / "manifest.json").is_file():
        fail(f"{folder}: exists and is no run's folder; name another one with -o RUN")
    with errors_as_lines():
        from dataplane.cli.findings import print_findings
        from dataplane.report import write_report
        from dataplane.runs.exhaust import Exhaust, exhaust
        from dataplane.runs.folder import to_json
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
        if not result.interrupted:
            write_report(folder)
    if as_json:
        click.echo(to_json(result.summary), nl=False)
    else:
        print_findings(result.summary)
    if result.interrupted:
        click.echo("interrupted: what was done until then is kept", err=True)
        sys.exit(result.exit_code)
    page = folder.resolve() / "report.html"
    if not as_json:
        click.echo(f"The report: {page}")
    if not no_open:
        try:
            webbrowser.open(page.as_uri())
        except webbrowser.Error:
            click.echo("note: no browser could be opened", err=True)
