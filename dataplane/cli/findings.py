"""The findings of an exhaustion experiment as people read them."""

from __future__ import annotations

from typing import Any

from dataplane.cli.tables import console_for_output, show, table


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
    _answers(out, found)
    out.print()
    _traffic(out, found["traffic"])
    _endpoints(out, found["private_endpoints"])
    _nat_ips(out, found["nat_ips"])


def _answers(out: Any, found: dict[str, Any]) -> None:
    failure, lowest, alert = found["first_failure"], found["lowest_availability"], found["alert"]
    if failure is None:
        out.print("NAT ports did not run out.")
    else:
        out.print(f"NAT ports ran out first after {failure['time_seconds']:,.3f} s: {_pool(failure)}")
    if lowest is not None:
        at = f"in the second from {lowest['time_seconds']:,.0f} s"
        out.print(f"Lowest availability: {lowest['percent']:.3f} % {at}: {_pool(lowest)}")
    rule = f"usage above {alert['threshold_percent']:g} %, {alert['window']} averaged"
    if alert["fired_seconds"] is None:
        though = "" if failure is None else ", though ports ran out"
        out.print(f"An alert ({rule}) would not have fired{though}.")
        return
    early = alert["seconds_before_first_failure"]
    when = "" if early is None else f", {abs(early):,.1f} s {'before' if early >= 0 else 'AFTER'} the first failure"
    out.print(f"An alert ({rule}) would have fired after {alert['fired_seconds']:,.0f} s{when}.")


def _pool(names: dict[str, Any]) -> str:
    return f"{names['service']}, NAT IP {names['nat_ip']}, {names['protocol']} toward {names['backend']}"


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
