"""A summary as people read it: totals, endpoints, NAT ports, drops with the sentence that explains each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dataplane.topology import Topology
from dataplane.verdict import Verdict

if TYPE_CHECKING:
    from dataplane.runs.each import Finished

#: Rows of a table before the rest is summed up in one line.
_MOST_ROWS = 20
_ALL = "--json or summary.json lists all"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command's caller, who knows the exit code."""
        raise BrokenPipeError


def console_for_output() -> Console:
    """Standard output, 120 columns wide where it is no terminal."""
    return _Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def print_summary(summary: dict[str, Any], topology: Topology, *, inferred: bool) -> None:
    """Print what happened on standard output."""
    console = console_for_output()
    received = summary["received"]
    console.print(
        f"{received['packets']:,} packets, {received['bytes']:,} bytes in {summary['duration_seconds']:,.3f} s of "
        "capture time: "
        + ", ".join(
            f"{summary[kind]['packets']:,} {kind}" for kind in ("forwarded", "bypassed", "dropped")
        )
    )
    if inferred:
        servers = len(topology.private_endpoints)
        console.print(f"No topology was given: {servers} server(s) in the captures became private endpoints.")
    sessions = summary["sessions"]
    ended = ", ".join(f"{count:,} {how}" for how, count in sessions["ended"].items() if count) or "none"
    console.print(
        f"{sessions['created']:,} sessions: {sessions['active']:,} open at the end; ended: {ended}", end="\n\n"
    )
    _endpoints(console, summary["private_endpoints"])
    _nat_ports(console, summary["private_link_services"])
    _drops(console, summary["dropped"]["reasons"])
    first = summary["first_exhaustion"]
    if first:
        console.print(
            f"NAT ports ran out first after {first['time_seconds']:,.3f} s: {first['service']}, NAT IP "
            f"{first['nat_ip']}, {first['protocol']} toward {first['backend']}"
        )


def print_each(results: Sequence[Finished]) -> None:
    """Print one line for every capture that was replayed on its own."""
    columns = ("packets", "forwarded", "bypassed", "dropped", "sessions", "lowest free", "written to")
    captures = table("", "capture", *columns)
    for result in results:
        if result.summary is None:
            captures.add_row(escape(result.capture), *["-"] * 6, "interrupted" if result.exit_code == 130 else "failed")
            continue
        summary = result.summary
        packets = [summary[kind]["packets"] for kind in ("received", "forwarded", "bypassed", "dropped")]
        lowest = [
            nat_ip["minimum_availability_percent"]
            for service in summary["private_link_services"]
            for nat_ip in service["nat_ips"]
        ]
        captures.add_row(
            escape(result.capture),
            *(f"{count:,}" for count in packets),
            f"{summary['sessions']['created']:,}",
            f"{min(lowest):.3f} %" if lowest else "-",
            escape(result.folder or "-"),
        )
    # File names are not cut where nobody looks at the width.
    _Console(width=None if sys.stdout.isatty() else 10_000, highlight=False).print(captures)


def table(title: str, *columns: str) -> Table:
    """A table whose first column is text and the others numbers."""
    result = Table(title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        result.add_column(column, justify="left" if number == 0 else "right")
    return result


def show(console: Console, rows_of: Table, rows: Sequence[tuple[str, ...]], rest: str = _ALL) -> None:
    """Print a table with its rows, the first twenty of them; nothing when there are none."""
    if not rows:
        return
    for row in rows[:_MOST_ROWS]:
        rows_of.add_row(*row)
    console.print(rows_of)
    if len(rows) > _MOST_ROWS:
        console.print(f"… and {len(rows) - _MOST_ROWS:,} more ({rest})")
    console.print()


def _endpoints(console: Console, endpoints: list[dict[str, Any]]) -> None:
    columns = table("Private endpoints", "endpoint", "IN bytes", "OUT bytes", "packets", "sessions", "dropped")
    rows = [
        (
            endpoint["name"],
            f"{endpoint['bytes_in']:,}",
            f"{endpoint['bytes_out']:,}",
            f"{endpoint['packets_in'] + endpoint['packets_out']:,}",
            f"{endpoint['sessions']['created']:,}",
            f"{sum(endpoint['dropped'].values()):,}",
        )
        for endpoint in sorted(endpoints, key=lambda e: -e["bytes_in"] - e["bytes_out"])
    ]
    show(console, columns, rows)


def _nat_ports(console: Console, services: list[dict[str, Any]]) -> None:
    columns = table(
        "NAT ports", "service, NAT IP", "capacity", "in use", "held", "free", "available", "lowest", "failures"
    )
    rows = [
        (
            f"{service['name']} {nat_ip['ip']}",
            f"{nat_ip['capacity']:,}",
            f"{nat_ip['in_use']:,}",
            f"{nat_ip['held']:,}",
            f"{nat_ip['free']:,}",
            f"{nat_ip['availability_percent']:.3f} %",
            f"{nat_ip['minimum_availability_percent']:.3f} %",
            f"{nat_ip['allocation_failures']:,}",
        )
        for service in services
        for nat_ip in service["nat_ips"]
    ]
    rows.sort(key=lambda row: float(row[6].split()[0]))
    show(console, columns, rows)


def _drops(console: Console, reasons: dict[str, dict[str, int]]) -> None:
    columns = table("Dropped", "reason", "packets", "bytes", "what it means")
    columns.columns[3].justify = "left"
    rows = [
        (reason, f"{count['packets']:,}", f"{count['bytes']:,}", Verdict[reason.upper()].explanation)
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1]["packets"])
    ]
    show(console, columns, rows)
