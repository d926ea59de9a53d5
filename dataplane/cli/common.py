"""What commands share: options, errors as one line and an exit code, the note that kernels are being compiled."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from dataplane.metrics.conditions import Condition

C = TypeVar("C", bound=Callable[..., Any])

#: Exit codes of the commands.
CONDITION, USAGE, EXPORT = 1, 2, 4


def _seed(_: click.Context, __: click.Parameter, seed: int) -> int:
    """Refuse a seed that a scenario's file could not hold."""
    if not -(2**63) <= seed < 2**63:
        raise click.BadParameter(f"{seed} does not fit into 64 bits")
    return seed


def common_options(command: C) -> C:
    """`--json`, `--quiet` and `--seed`, as every command has them."""
    for option in (
        click.option(
            "--seed", type=int, default=0, show_default=True, callback=_seed, help="Decides every random choice."
        ),
        click.option("--quiet", "-q", is_flag=True, help="No progress bar, no notes."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else."),
    ):
        command = option(command)
    return command


def fail_if_option(*, of_two_runs: bool = False) -> Callable[[C], C]:
    """`--fail-if CONDITION`, any number of times: the command's `fail_if` is a tuple of `Condition`s."""

    def parse(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> tuple[Condition, ...]:
        from dataplane.metrics.conditions import ConditionError, parse_condition

        try:
            return tuple(parse_condition(text, of_two_runs=of_two_runs) for text in texts)
        except ConditionError as error:  # before anything runs
            fail(f"--fail-if: {error}")

    two = (
        "The figures are the new run's; change. before one means new less old; differences.configuration, .results, "
        ".sessions and .packets count what differs. "
    )
    return click.option(
        "--fail-if",
        multiple=True,
        callback=parse,
        metavar="CONDITION",
        help="Exit with 1 when CONDITION holds at the end: FIGURE < NUMBER, or <=, >, >=, ==, !=. FIGURE is a path in "
        "summary.json (dropped.packets, dropped.reasons.nat_ports_exhausted.packets) or one key of it "
        "(minimum_availability_percent), which means every place that has it; one place is enough. "
        + (two if of_two_runs else "")
        + "May be given several times.",
    )


def say_held(lines: list[str]) -> None:
    """Name on standard error where a condition held."""
    for line in lines:
        click.echo(f"failed: {line}", err=True)


def given(option: str) -> bool:
    """Whether the user wrote an option, in place of which its default would stand."""
    source = click.get_current_context().get_parameter_source(option)
    return source is not click.core.ParameterSource.DEFAULT


def fail(message: str, code: int = USAGE) -> NoReturn:
    """End with an error: every line on standard error, and the exit code."""
    for line in message.splitlines():
        click.echo(f"error: {line}", err=True)
    sys.exit(code)


@contextmanager
def errors_as_lines() -> Iterator[None]:
    """Turn what can be wrong with a user's files, or too large for the machine, into lines and exit code 2."""
    from dataplane.capture import CaptureError
    from dataplane.runs.folder import RunError
    from dataplane.topology import TopologyError

    try:
        yield
    except (CaptureError, RunError, TopologyError) as error:
        fail(str(error))
    except MemoryError as error:
        fail(str(error) or "the machine has not enough memory for this")


def announce_compilation(quiet: bool) -> None:
    """Say once that the first use compiles, since it takes a minute."""
    from dataplane.kernel import is_compiled

    if not quiet and not is_compiled():
        click.echo("compiling the kernels for this processor, once (about a minute)…", err=True)
