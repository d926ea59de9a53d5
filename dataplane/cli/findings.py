"""The findings of an exhaustion experiment as people read them."""

from __future__ import annotations

from typing import Any

from dataplane.cli.tables import console_for_output, show, table
from dataplane.runs.answers import answers


def print_findings(summary: dict[str, Any]) -> None:
    """Print what an experiment found on standard output."""
    out = console_for_output()
    found = summary["findings"]
    received, dropped = summary["received"]["packets"], summary["dropped"]["packets"]
    sessions = summary["sessions"]
    out.print(
        f"{summary['duration_seconds']:,.3f} s: {received:,} packets, {dropped:,} dropped; {sessions['created']:,} "
        f"sessions, {sessions['active']:,} open at the end"
    )
    if found["from_seconds"]:
        out.print(f"Findings leave out the first {found['from_seconds']:,.3f} s (warm-up).")
    out.print()
    for answer in answers(found):
        out.print(answer)
    out.print()
    _traffic(out, found["traffic"])
    _endpoints(out, found["private_endpoints"])
    _nat_ips(out, found["nat_ips"])


def _traffic(out: Any, traffic: list[dict[str, Any]]) -> None:
    columns = ("connections", "opened", "refused SYNs or datagrams", "failed", "broken", "completed")
    shown = table("Traffic", "source, endpoint", *columns)
    rows = [
        (
            f"{source['name']} {source['endpoint']}",
            *(
                f"{source['connections'][count]:,}"
                for count in ("started", "opened", "refused", "failed", "broken", "completed")
            ),
        )
        for source in traffic
    ]
    show(out, shown, rows)


def _endpoints(out: Any, endpoints: list[dict[str, Any]]) -> None:
    shown = table("NAT ports by endpoint", "endpoint", "in use, port-seconds", "held", "share", "failures")
    rows = [
        (
            endpoint["name"],
            f"{endpoint['port_seconds']['in_use']:,.3f}",
            f"{endpoint['port_seconds']['held']:,.3f}",
            f"{endpoint['port_seconds_percent']:.3f} %",
            f"{sum(endpoint['failures'].values()):,}",
        )
        for endpoint in sorted(endpoints, key=lambda e: -e["port_seconds_percent"])
    ]
    show(out, shown, rows)


def _nat_ips(out: Any, nat_ips: list[dict[str, Any]]) -> None:
    columns = ("lowest", "lowest minute, as the metric shows it", "minute")
    shown = table("Availability by NAT IP", "service, NAT IP", *columns)
    rows = [
        (
            f"{nat_ip['service']} {nat_ip['nat_ip']}",
            _percent(nat_ip["lowest_availability_percent"]),
            _percent(nat_ip["lowest_minute_average_percent"]),
            "-" if nat_ip["minute_seconds"] is None else f"{nat_ip['minute_seconds'] / 60:,.0f}",
        )
        for nat_ip in nat_ips
    ]
    show(out, shown, rows)


def _percent(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.3f} %"
