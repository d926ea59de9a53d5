"""A comparison of two runs as people read it: configuration, figures by resource, drops, sessions, packets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from dataplane.cli.tables import console_for_output, show, table

_TITLES = {
    "run": "The run",
    "dropped": "Dropped, by reason",
    "private_endpoints": "Private endpoints",
    "private_link_services": "Private Link services",
    "nat_ips": "NAT IPs",
    "pools": "NAT pools",
}

#: What a group of sessions is called.
_SESSIONS = {
    "only_in_old": "only in the old run",
    "only_in_new": "only in the new run",
    "ended_otherwise": "ended otherwise",
    "ended_at_another_time": "ended at another time",
    "other_backend": "with another backend",
    "other_nat_port": "with another NAT IP or port",
    "other_traffic": "with other packets, bytes or times",
    "other_endpoint": "with another endpoint or address",
}

_REST = "--json lists all"


def print_diff(document: dict[str, Any]) -> None:
    """Print what changed on standard output."""
    console = console_for_output()
    console.print(f"old: {escape(document['old'])}\nnew: {escape(document['new'])}\n", soft_wrap=True)
    if not any(document["differences"].values()):
        console.print("No difference in what was compared.")
    _configuration(console, document["configuration"])
    for group, title in _TITLES.items():
        rows = [
            (
                ": ".join(part for part in (row["resource"], row["figure"]) if part),
                _value(row["old"]),
                _value(row["new"]),
                _change(row["change"]),
            )
            for row in document["results"][group]
        ]
        show(console, table(title, "figure", "old", "new", "change"), rows, _REST)
    if document["sessions"] is not None:
        _sessions(console, document["sessions"])
    if document["packets"] is not None:
        _packets(console, document["packets"])


def _configuration(console: Console, configuration: dict[str, Any]) -> None:
    rows = []
    for change in configuration["topology"]:
        place = ": ".join(part for part in (change["resource"], change["key"]) if part)
        rows.append((change["change"], place, _setting(change, "old"), _setting(change, "new")))
    for name, change in (("seed", configuration["seed"]), ("exit state", configuration["exit_state"])):
        if change is not None:
            rows.append(("changed", name, _setting(change, "old"), _setting(change, "new")))
    rows += [
        ("changed", f"version of {name}", str(change["old"]), str(change["new"]))
        for name, change in configuration["versions"].items()
    ]
    inputs = configuration["inputs"]
    rows += [("removed", "input", _input(given), "") for given in inputs["only_in_old"]]
    rows += [("added", "input", "", _input(given)) for given in inputs["only_in_new"]]
    if inputs["reordered"]:
        rows.append(("reordered", "inputs", "", ""))
    columns = table("Configuration", "change", "of", "old", "new")
    for column in columns.columns[1:]:
        column.justify = "left"
    show(console, columns, [tuple(map(escape, row)) for row in rows], _REST)


def _setting(change: dict[str, Any], side: str) -> str:
    value = change.get(side)
    if side not in change:
        return ""
    if isinstance(value, dict):
        if "meaning" in value:
            return f"{value['code']} {value['meaning']}"
        return ", ".join(f"{key}: {inner}" for key, inner in value.items() if inner is not None)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "null" if value is None else str(value)


def _input(given: dict[str, Any]) -> str:
    point = f"{given['point']}=" if given["point"] else ""
    return f"{point}{given['path']} {(given['sha256'] or 'without digest')[:12]}"


def _value(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _change(value: int | float | None) -> str:
    if value is None:
        return ""
    return f"{value:+,.3f}" if isinstance(value, float) else f"{value:+,}"


def _sessions(console: Console, sessions: dict[str, Any]) -> None:
    rows = [
        (words, f"{sessions[group]['count']:,}") for group, words in _SESSIONS.items() if sessions[group]["count"]
    ]
    console.print(
        f"[bold]Sessions[/]: {sessions['old']:,} in the old run, {sessions['new']:,} in the new, "
        f"{sessions['same']:,} the same in both"
    )
    show(console, table("", "of the others", "sessions"), rows, _REST)
    for group in ("only_in_old", "only_in_new"):
        listed = [
            (_who(session), session["how"], session["ended"], f"{session['nat_ip']}:{session['nat_port']}")
            for session in sessions[group]["sessions"]
        ]
        columns = table(f"Sessions {_SESSIONS[group]}", "session", "end", "ended", "NAT IP and port")
        _listed(console, columns, listed, sessions[group]["count"])
    for group in ("ended_otherwise", "ended_at_another_time"):
        pairs = [
            (_who(pair["new"]), _end(pair["old"]), _end(pair["new"])) for pair in sessions[group]["sessions"]
        ]
        columns = table(f"Sessions that {_SESSIONS[group]}", "session", "old", "new")
        _listed(console, columns, pairs, sessions[group]["count"])


def _end(session: dict[str, str]) -> str:
    return f"{session['how']} {session['ended']}".strip()


def _who(session: dict[str, str]) -> str:
    consumer = f"{session['consumer_ip']}:{session['consumer_port']}"
    return f"{session['id']} {session['endpoint']} {session['protocol']} {consumer}"


def _listed(console: Console, columns: Any, rows: Sequence[tuple[str, ...]], count: int) -> None:
    """A table of some of `count`, all of those that were listed."""
    if not rows:
        return
    for column in columns.columns:
        column.justify = "left"
    for row in rows:
        columns.add_row(*row)
    console.print(columns)
    if count > len(rows):
        console.print(f"… and {count - len(rows):,} more (--list N lists more)")
    console.print()


def _packets(console: Console, packets: dict[str, Any]) -> None:
    console.print(
        f"[bold]Packets[/]: {packets['old']:,} in the old run, {packets['new']:,} in the new, "
        f"{packets['same']:,} with the same verdict in both"
    )
    rows = [(f"{pair['old']} → {pair['new']}", f"{pair['packets']:,}") for pair in packets["verdicts"]]
    show(console, table("", "verdict", "packets"), rows, _REST)
    listed = [
        (f"{packet['number']:,}", packet["time"], packet["old"], packet["new"],
         f"{packet['frame_in_old']:,}", f"{packet['frame_in_new']:,}")
        for packet in packets["packets"]
    ]  # fmt: skip
    columns = table(
        "Those packets, with their frames in capture.pcapng",
        "packet", "time", "old", "new", "frame in old", "frame in new",
    )  # fmt: skip
    _listed(console, columns, listed, sum(pair["packets"] for pair in packets["verdicts"]))
