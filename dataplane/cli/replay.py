"""`dataplane replay`: captures through the service."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from dataplane.cli.common import (
    announce_compilation,
    common_options,
    errors_as_lines,
    fail,
    fail_if_option,
    say_held,
)

if TYPE_CHECKING:
    from dataplane.metrics.conditions import Condition
    from dataplane.runs.replay import Progress, Replay, Replayed


@click.command("replay", epilog="Example: dataplane replay contoso=monday.pcapng.gz -t topology.yaml -o run")
@click.argument("captures", nargs=-1, required=True, metavar="[POINT=]CAPTURE…")
@click.option("--topology", "-t", type=click.Path(path_type=Path), help="Without it, the topology is inferred.")
@click.option("--output", "-o", "folder", type=click.Path(path_type=Path), metavar="RUN", help="The run's folder.")
@click.option("--report", is_flag=True, help="Make report.html in the run's folder, as `dataplane report` does.")
@click.option("--no-capture", is_flag=True, help="Leave capture.pcapng out of the run's folder.")
@click.option("--pcap", "pcaps", multiple=True, metavar="POINT=FILE", help="Write one point as classic pcap.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Share the work among N threads.")
@click.option("--dask", metavar="ADDRESS", help="Share it among the workers of a Dask cluster: tcp://host:8786.")
@click.option("--each", is_flag=True, help="Replay every capture on its own, into RUN/NAME; N at a time.")
@fail_if_option()
@common_options
def command(
    captures: tuple[str, ...],
    topology: Path | None,
    folder: Path | None,
    report: bool,
    no_capture: bool,
    pcaps: tuple[str, ...],
    workers: int | None,
    dask: str | None,
    each: bool,
    fail_if: tuple[Condition, ...],
    as_json: bool,
    quiet: bool,
    seed: int,
) -> None:
    """Send captures through the Private Link service and tell what became of every packet.

    A CAPTURE is a pcap or pcapng file, plain or compressed with gzip or zstd, or - for standard input. POINT names the
    network where it was taken. Packets of several captures are merged by time, unless --each. Without a topology, every
    server in the captures becomes the private endpoint of a service.
    """
    if report and (folder is None or each):
        fail("--report: the page belongs into one run's folder, named with -o RUN; after --each see dataplane report")
    with errors_as_lines():
        from dataplane.runs.replay import Replay, replay
        from dataplane.topology import load_topology

        job = Replay(
            captures=list(captures),
            topology=None if topology is None else load_topology(topology),
            topology_path=topology,
            seed=seed,
            folder=folder,
            capture=not no_capture,
            pcaps=_points(pcaps),
            command=sys.argv[:],
            workers=workers,
            dask=dask,
            fail_if=fail_if,
        )
        announce_compilation(quiet)
        if each:
            _each(job, as_json, quiet)
        with _progress(quiet) as progress:
            result = replay(job, progress)
    if report and folder is not None:
        _report(folder, result)
    try:
        if as_json:
            from dataplane.runs.folder import to_json

            click.echo(to_json(result.summary), nl=False)
        else:
            from dataplane.cli.tables import print_summary

            print_summary(result.summary, result.topology, inferred=topology is None)
            if folder is not None:
                click.echo(f"written to {folder}")
        sys.stdout.flush()
    except BrokenPipeError:  # the run's own message and exit code still count
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if not quiet:
        for warning in result.warnings:
            click.echo(f"note: {warning}", err=True)
    for line in result.damage + result.failures:
        click.echo(f"error: {line}", err=True)
    say_held(result.held)
    if result.interrupted:
        click.echo("interrupted: what was done until then is kept", err=True)
    sys.exit(result.exit_code)


def _each(job: Replay, as_json: bool, quiet: bool) -> NoReturn:
    """Replay every capture on its own and end with the gravest exit code."""
    from rich.console import Console
    from rich.progress import track

    from dataplane.cli.tables import print_each
    from dataplane.runs.each import gravest, replay_each
    from dataplane.runs.folder import to_json

    if job.pcaps:
        fail("--each: --pcap names one file, and every capture would be written to it; leave one of them out")
    hidden = quiet or not sys.stderr.isatty()
    done = track(
        replay_each(job), "replay", len(job.captures), console=Console(stderr=True), transient=True, disable=hidden
    )
    results = sorted(done, key=lambda result: result.number)
    if as_json:
        click.echo(to_json([asdict(result) for result in results]), nl=False)
    else:
        print_each(results)
    for result in results:
        for line in result.errors:
            click.echo(f"error: {line}", err=True)
        say_held(result.held)
    sys.exit(gravest([result.exit_code for result in results]))


def _report(folder: Path, result: Replayed) -> None:
    """Make the page; the run stays complete without it."""
    from dataplane.report import write_report
    from dataplane.runs.folder import RunError, restate
    from dataplane.runs.replay import MEANINGS

    try:
        write_report(folder)
    except (RunError, OSError, MemoryError) as error:
        result.failures.append(f"report.html could not be made: {error}; `dataplane report {folder}` tries again")
        with suppress(OSError, RunError):  # what kept the page from being written may do so here
            restate(folder, result.exit_code, MEANINGS[result.exit_code])


def _points(pcaps: tuple[str, ...]) -> dict[str, Path]:
    points: dict[str, Path] = {}
    for argument in pcaps:
        point, equals, path = argument.partition("=")
        if not (point and equals and path):
            fail(f"--pcap {argument}: write --pcap POINT=FILE")
        if point in points:
            fail(f"--pcap {argument}: {point} is already written to {points[point]}")
        points[point] = Path(path)
    return points


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress | None]:
    """A progress bar on standard error, if that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("replay", total=None)
        yield lambda done, size: bar.update(task, completed=done, total=size)
