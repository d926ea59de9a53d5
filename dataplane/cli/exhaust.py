"""`dataplane exhaust`: a NAT exhaustion experiment."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dataplane.cli.common import (
    announce_compilation,
    common_options,
    errors_as_lines,
    fail,
    fail_if_option,
    given,
    say_held,
)

if TYPE_CHECKING:
    from rich.table import Table

    from dataplane.metrics.conditions import Condition
    from dataplane.runs.exhaust import Exhausted, Progress
    from dataplane.runs.findings import Moment

#: Seconds of real time between two pictures of the live view.
_REDRAW = 0.1

#: NAT IPs in the live view.
_MOST_NAT_IPS = 12


@click.command("exhaust", epilog="Example: dataplane exhaust scenario.yaml -o run")
@click.argument("scenario", required=False, type=click.Path(path_type=Path), metavar="SCENARIO")
@click.option("--output", "-o", "folder", type=click.Path(path_type=Path), metavar="RUN", help="The run's folder.")
@click.option("--sessions", is_flag=True, help="Write every session to sessions.csv in the run's folder.")
@click.option("--capture", is_flag=True, help="Write every packet to capture.pcapng in the run's folder.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of scenario files, and do nothing else.")
@fail_if_option()
@common_options
def command(
    scenario: Path | None,
    folder: Path | None,
    sessions: bool,
    capture: bool,
    schema: bool,
    fail_if: tuple[Condition, ...],
    as_json: bool,
    quiet: bool,
    seed: int,
) -> None:
    """Send a scenario's traffic through the service and tell when NAT ports run out, who uses them, and how early the
    metric warns.

    A SCENARIO is a YAML or JSON file: a topology, traffic sources, a duration; docs/exhaust.md explains each key.
    """
    from dataplane.runs.folder import to_json

    if schema:
        from dataplane.runs.scenario_file import scenario_schema

        click.echo(to_json(scenario_schema()), nl=False)
        return
    if scenario is None:
        fail("SCENARIO is missing: name a scenario file; docs/exhaust.md has an example")
    if folder is None and (sessions or capture):
        fail(f"--{'sessions' if sessions else 'capture'} writes into the run's folder; name one with -o RUN")
    with errors_as_lines():
        from dataplane.runs.exhaust import Exhaust, exhaust
        from dataplane.runs.scenario_file import files_of, load_scenario

        job = Exhaust(
            load_scenario(scenario),
            seed=seed if given("seed") else None,  # else the scenario's own
            folder=folder,
            sessions=sessions,
            capture=capture,
            command=sys.argv[:],
            inputs=files_of(scenario),
            fail_if=fail_if,
        )
        announce_compilation(quiet)
        with _live(quiet) as progress:
            result = exhaust(job, progress)
    _tell(result, folder, as_json)
    if not quiet:
        for note in result.notes:
            click.echo(f"note: {note}", err=True)
    say_held(result.held)
    if result.interrupted:
        click.echo("interrupted: what was done until then is kept", err=True)
    sys.exit(result.exit_code)


def _tell(result: Exhausted, folder: Path | None, as_json: bool) -> None:
    try:
        if as_json:
            from dataplane.runs.folder import to_json

            click.echo(to_json(result.summary), nl=False)
        else:
            from dataplane.cli.findings import print_findings

            print_findings(result.summary)
            if folder is not None:
                click.echo(f"written to {folder}")
        sys.stdout.flush()
    except BrokenPipeError:  # the run's own message and exit code still count
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@contextmanager
def _live(quiet: bool) -> Iterator[Progress | None]:
    """What the run is doing, on standard error, if that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as view:
        begun = time.monotonic()
        drawn = 0.0

        def show(moment: Moment) -> None:
            nonlocal drawn
            now = time.monotonic()
            if now - drawn >= _REDRAW:
                drawn = now
                view.update(_picture(moment, now - begun), refresh=True)

        yield show


def _picture(moment: Moment, elapsed: float) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    speed = moment.seconds / max(elapsed, 1e-9)
    table.add_row("time", ProgressBar(moment.duration, moment.seconds, width=30), _clock(moment, speed))
    for service, nat_ip, free in moment.availability[:_MOST_NAT_IPS]:
        table.add_row(f"{service} {nat_ip}", ProgressBar(1.0, free, width=30), f"{100 * free:7.3f} % free")
    more = len(moment.availability) - _MOST_NAT_IPS
    if more > 0:
        table.add_row(f"… and {more} more", "", "")
    table.add_row("sessions", f"{moment.sessions:,}", f"{moment.failures:,} failures, {moment.packets:,} packets")
    return table


def _clock(moment: Moment, speed: float) -> str:
    return f"{moment.seconds:,.0f} of {moment.duration:,.0f} s, {speed:,.0f}x real time"

