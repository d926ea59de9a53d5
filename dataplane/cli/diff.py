"""`dataplane diff`: what changed between two runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dataplane.cli.common import CONDITION, common_options, errors_as_lines, fail_if_option, say_held

if TYPE_CHECKING:
    from dataplane.metrics.conditions import Condition


@click.command("diff", epilog="Example: dataplane diff before after --fail-if 'change.dropped.packets > 0'")
@click.argument("old", type=click.Path(path_type=Path), metavar="OLD")
@click.argument("new", type=click.Path(path_type=Path), metavar="NEW")
@click.option(
    "--list",
    "most",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    metavar="N",
    help="List at most N sessions and packets of each kind; all are counted.",
)
@fail_if_option(of_two_runs=True)
@common_options
def command(
    old: Path, new: Path, most: int, fail_if: tuple[Condition, ...], as_json: bool, quiet: bool, seed: int
) -> None:
    """Tell what changed between two runs, given the folders of both.

    Compared are the configuration (topology by resource and key, seed, inputs by digest), every figure of
    summary.json, the sessions, and of runs with the same inputs the verdict on every packet. The exit code is 0
    whether or not they differ, unless a --fail-if condition holds.
    """
    with errors_as_lines():
        from dataplane.metrics.conditions import held_conditions
        from dataplane.runs.diff import compare, diff_figures
        from dataplane.runs.finished import read_run

        runs = read_run(old), read_run(new)
        document = compare(*runs, most)
    held = held_conditions(fail_if, diff_figures(*runs, document))
    try:
        if as_json:
            from dataplane.runs.folder import to_json

            click.echo(to_json(document), nl=False)
        else:
            from dataplane.cli.diff_tables import print_diff

            print_diff(document)
        sys.stdout.flush()
    except BrokenPipeError:  # the exit code still counts
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if not quiet:
        for note in document["notes"]:
            click.echo(f"note: {note}", err=True)
    say_held(held)
    sys.exit(CONDITION if held else 0)
