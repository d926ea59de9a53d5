"""`dataplane flows`: what is in virtual network flow logs."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dataplane.cli.common import common_options, errors_as_lines

if TYPE_CHECKING:
    from dataplane.runs.flow_logs import Connection, FlowLogs
    from dataplane.topology import Topology
    from dataplane.topology.parts import PrivateLinkService


@click.command("flows", epilog="Example: dataplane flows PT1H.json -t topology.yaml")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--topology", "-t", type=click.Path(path_type=Path), help="Tells private endpoints and NAT IPs.")
@common_options
def command(files: tuple[Path, ...], topology: Path | None, as_json: bool, quiet: bool, seed: int) -> None:
    """Tell what is in virtual network flow logs of Azure: new connections by destination and, with a topology, which
    went to a private endpoint and how many NAT ports were in use.

    A FILE is a PT1H.json, plain or gzip. docs/flow-logs.md says what flow logs cannot tell.
    """
    with errors_as_lines():
        from dataplane.runs.flow_logs import read_flow_logs
        from dataplane.topology import load_topology

        known = load_topology(topology) if topology is not None else None
        logs = read_flow_logs(files)
    told = _document(logs, known)
    if as_json:
        from dataplane.runs.folder import to_json

        click.echo(to_json(told), nl=False)
    else:
        _tell(told)


def _document(logs: FlowLogs, topology: Topology | None) -> dict[str, Any]:
    from dataplane.runs.flow_logs import nat_port_use

    endpoints: dict[IPv4Address, list[str]] = {}
    services: dict[IPv4Address, list[PrivateLinkService]] = {}
    if topology is not None:
        for endpoint in topology.private_endpoints:
            endpoints.setdefault(endpoint.ip, []).append(endpoint.name)
        for service in topology.private_link_services:
            for ip in service.nat_ips:
                services.setdefault(ip, []).append(service)
    groups: dict[tuple[Any, ...], list[Connection]] = {}
    for one in logs.new:
        side = "consumer" if one.flow.destination in endpoints else "provider" if one.flow.source in services else None
        groups.setdefault((*one.flow[2:], side), []).append(one)
    seconds = (logs.to_ns - logs.from_ns) / 1e9
    return {
        "from": _time(logs.from_ns),
        "to": _time(logs.to_ns),
        "seconds": seconds,
        "clients": len({one.flow.source for one in logs.new}),
        "connections": len(logs.new),
        "began_before": len(logs.connections) - len(logs.new),
        "left_out": logs.left_out,
        "destinations": [
            _destination(key, found, seconds, endpoints)
            for key, found in sorted(groups.items(), key=lambda item: -len(item[1]))
        ],
        "nat_ports": [
            {
                "private_link_service": " or ".join(service.name for service in services[use.nat_ip]),
                "nat_ip": str(use.nat_ip),
                "protocol": use.protocol,
                "backend": str(use.backend),
                "highest_ports": use.ports,
                "of_ports": (ports := min(service.nat.nat_ports.size for service in services[use.nat_ip])),
                "percent": 100 * use.ports / ports,
                "minute": _time(use.minute_ns),
            }
            for use in nat_port_use(logs, set(services))
        ],
    }


def _destination(
    key: tuple[Any, ...], found: list[Connection], seconds: float, endpoints: dict[IPv4Address, list[str]]
) -> dict[str, Any]:
    from dataplane.runs.flow_logs import MINUTE

    address, port, protocol, side = key
    minute, most = Counter(one.begin_ns // MINUTE for one in found if one.begin_ns is not None).most_common(1)[0]
    return {
        "address": str(address),
        "port": port,
        "protocol": protocol,
        "side": side,
        "private_endpoint": " or ".join(endpoints.get(address, ())) or None,
        "clients": len({one.flow.source for one in found}),
        "connections": len(found),
        "per_second": len(found) / seconds if seconds else None,
        "busiest_minute": {"minute": _time(minute * MINUTE), "connections": most, "per_second": most / 60},
    }


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _tell(told: dict[str, Any]) -> None:
    from dataplane.cli.tables import console_for_output, show, table

    out = console_for_output()
    out.print(
        f"{told['connections']:,} new connections of {told['clients']:,} clients from {told['from']} to {told['to']}; "
        f"{told['began_before']:,} more began before"
    )
    left_out = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in told["left_out"].items() if count)
    if left_out:
        out.print(f"left out: {left_out}")
    out.print()
    rows = [
        (
            f"{one['protocol']} {one['address']}:{one['port']}",
            one["private_endpoint"] or ("from NAT IPs" if one["side"] == "provider" else ""),
            f"{one['clients']:,}",
            f"{one['connections']:,}",
            "" if one["per_second"] is None else f"{one['per_second']:,.3g}",
            f"{one['busiest_minute']['per_second']:,.3g}",
            one["busiest_minute"]["minute"][:16],
        )
        for one in told["destinations"]
    ]
    columns = ("which is", "clients", "connections", "per second", "in the busiest minute", "minute")
    show(out, table("Destinations", "to", *columns), rows)
    used = [
        (
            f"{one['private_link_service']} {one['nat_ip']}",
            f"{one['protocol']} {one['backend']}",
            f"{one['highest_ports']:,}",
            f"{one['percent']:.3f} % of {one['of_ports']:,}",
            one["minute"][:16],
        )
        for one in told["nat_ports"]
    ]
    if used:
        names = ("toward", "ports", "share", "minute")
        show(out, table("Most NAT ports in use within one minute", "NAT IP", *names), used)
