"""The command line: one file per command, nothing but arguments and printing.

Commands are imported when they are used, so `dataplane --help` needs neither numba nor scapy.

Exit codes: 0 done; 1 ran, but failed a condition that the user set (`--fail-if`); 2 wrong usage or configuration; 3 an
input was damaged, what was readable is kept; 4 complete, but an exporter failed; 130 interrupted, outputs closed
properly.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from importlib import import_module
from typing import Any

import click

from dataplane.cli.signals import heed_signals

_COMMANDS = {
    "replay": "Send captures through the Private Link service.",
    "diff": "Tell what changed between two runs.",
    "report": "Make one offline HTML page of a run.",
    "exhaust": "Run a NAT exhaustion experiment.",
    "plan": "Tell how many NAT IPs a load needs.",
    "demo": "Run a small experiment and open its report.",
    "sweep": "Run a grid of NAT exhaustion experiments.",
    "flows": "Tell what is in virtual network flow logs.",
    "topology": "Check, show, infer and import topologies.",
    "warmup": "Compile the kernels for this processor, once.",
}


class _LazyGroup(click.Group):
    """A group whose commands live in files of the same name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"dataplane.cli.{name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what stops it from outside becomes a line and an exit code."""
        # Imports make some 200,000 objects that stay. Looking for garbage among them, while they are made and once
        # more when the process ends, took a quarter of a short run's time or more.
        gc.set_threshold(250_000)
        atexit.register(gc.freeze)
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # closed by whoever started us
                setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (for the life of the process)
        try:
            heed_signals()
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(130)
        except BrokenPipeError:  # whoever reads our output has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(0)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            click.echo(f"error: {place}{error.strerror or error}", err=True)
            sys.exit(2)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: dataplane replay capture.pcap -o run",
)
@click.version_option(package_name="dataplane")
def main() -> None:
    """Simulate the data plane of Azure Private Link, packet by packet.

    Exit codes: 0 done, 1 a condition that you set (--fail-if) failed it, 2 wrong usage or configuration, 3 an input was
    damaged (what was readable is kept), 4 an exporter failed, 130 interrupted.
    """
