"""Loads as they were measured: the connections of a capture, or of virtual network flow logs, as a scenario.

What was seen is taken as a load that goes on: at the end it comes again. A connection that was there at the beginning
is then one that was open at the end, so the two count as one; one that was there all the time is there always.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from dataplane.packets.headers import PROTOCOL_TCP, PROTOCOL_UDP
from dataplane.records import CLOSED, WAS_RESET
from dataplane.runs.captured import captured_sessions
from dataplane.runs.flow_logs import FlowLogs, nat_port_use, read_flow_logs
from dataplane.runs.folder import RunError
from dataplane.runs.holding import idle_timeout
from dataplane.runs.loads import Load, connections, duration, lasting, services
from dataplane.topology.model import Topology

_SECOND = 1e9

#: A sample has so many lives at most.
_SAMPLE = 1000

#: Longer than any run, seconds.
_YEAR = 365 * 86_400.0

#: A measurement that is shorter, in seconds, is said to be short.
_SHORT = 300

#: The address range of clients where any may have been captured.
_CLIENTS = "10.0.0.0/8"


class Server(NamedTuple):
    """What a connection goes to: a private endpoint, and its port."""

    endpoint: str
    port: int


@dataclass(frozen=True)
class Seen:
    """One connection; seconds from the beginning of the measurement. `kind` as in `loads.connections`."""

    server: Server
    kind: str
    begin: float
    life: float
    before: bool = False
    open: bool = False


def capture_load(path: str, topology: Topology | None, copies: float = 1.0) -> Load:
    """The load that a capture shows, `copies` times. Raises `CaptureError` and `RunError`, one line.

    Without a topology every server in it is the private endpoint of a service of its own.
    """
    found = captured_sessions(path, topology)
    rows, length = found.rows, found.length / _SECOND
    names = [endpoint.name for endpoint in found.topology.private_endpoints]
    seen = []
    for row, began in zip(rows, found.began.tolist(), strict=True):
        kind = _kind(row, began)
        begin, last = (float(row[key] - found.origin) / _SECOND for key in ("first_packet", "last_packet"))
        tcp = row["protocol"] == PROTOCOL_TCP
        still_open = bool(tcp and kind == "never" and row["ended"] - found.origin > found.length)
        server = Server(names[row["endpoint"]], int(row["flow"] & 0xFFFF))
        seen.append(Seen(server, kind, begin, last - begin, bool(tcp and not began), still_open))
    if not seen:
        raise RunError(f"{path}: no tcp or udp connection to a private endpoint is in it; name another capture")
    notes = list(found.notes)
    if topology is None:
        served = [
            (service.name, endpoint.name, endpoint.ip, [rule.model_dump() for rule in service.load_balancer.rules])
            for service, endpoint in zip(
                found.topology.private_link_services, found.topology.private_endpoints, strict=True
            )
        ]
        topology = services(["0.0.0.0/0"], served, {})
        notes.append(
            f"without a topology each of {len(served)} server(s) in the capture is a service of its own, with the "
            "NAT of azure-pls; name one with -t"
        )
        clients: str | None = _CLIENTS
    else:
        clients = None
    most = _most_at_a_time(found.topology, rows, found)
    notes.append(f"in the capture itself, once through, at most {most:,} ports of a service were taken at a time")
    return _load(path, seen, length, topology, copies, notes, most, clients)


def flow_log_load(paths: Sequence[str | Path], topology: Topology, copies: float = 1.0) -> Load:
    """The load that flow logs show, `copies` times: by the consumer's side if they have it, else by the provider's.

    Raises `RunError`, one line.
    """
    logs = read_flow_logs(paths)
    name = ", ".join(map(str, paths))
    consumer, strange = _by_consumer(logs, topology)
    provider = _by_provider(logs, topology)
    used = {ip for service in topology.private_link_services for ip in service.nat_ips}
    ports: dict[tuple[str, Any], int] = {}
    for use in nat_port_use(logs, used):
        ports[use.protocol, use.backend] = ports.get((use.protocol, use.backend), 0) + use.ports
    notes = ["a flow that ended counts as closed by FIN on both sides: flow logs do not say how it ended"]
    if consumer:
        notes.append("the consumer's side: connections to private endpoints")
        if provider:
            notes.append(f"{len(provider):,} flows of the provider's side are left out, which may be the same")
    elif provider:
        notes.append("the provider's side: flows from NAT IPs; which endpoint each came by is not known, so all count "
                     "as their service's first one's")  # fmt: skip
    else:
        raise RunError(
            f"{name}: no flow goes to a private endpoint of the topology by one of its load-balancing rules, or comes "
            "from a NAT IP; `dataplane flows` shows what is in it"
        )
    if strange:
        notes.append(f"{strange:,} connections to private endpoints by no load-balancing rule are left out")
    most = max(ports.values()) if ports else None
    if most is not None:
        notes.append(f"the provider's side shows {most:,} NAT ports in use toward one backend within one minute")
    length = (logs.to_ns - logs.from_ns) / _SECOND
    return _load(name, consumer or provider, length, topology, copies, notes, most, None)


def _kind(row: Any, began: bool) -> str:
    """How a session ended (a row of ENDED); one that did not begin in the capture had its handshake before."""
    if row["protocol"] == PROTOCOL_UDP:
        return "udp" if row["packets_out"] else "udp_unreplied"
    if row["how"] in (CLOSED, WAS_RESET):
        return "fin" if row["how"] == CLOSED else "rst"
    return "never" if row["packets_out"] or not began else "half_open"


def _most_at_a_time(topology: Topology, rows: NDArray[Any], found: Any) -> int:
    """The most ports that one service's sessions of one protocol took at a time, hold included."""
    targets = [endpoint.target for endpoint in topology.private_endpoints]
    holds = np.array([topology.service(name).nat.port_hold for name in targets], np.int64)
    number = {name: place for place, name in enumerate(dict.fromkeys(targets))}
    services_of = np.array([number[name] for name in targets], np.int64)[rows["endpoint"]]
    most = 0
    for pool in np.unique(services_of * 256 + rows["protocol"]):
        own = rows[services_of * 256 + rows["protocol"] == pool]
        end = own["ended"] + holds[own["endpoint"]]
        end = end[end <= found.origin + found.length]
        # At one moment ports are given back before they are taken.
        times = np.concatenate((end, own["first_packet"]))
        change = np.repeat((-1, 1), (len(end), len(own)))
        most = max(most, int(np.cumsum(change[np.argsort(times, kind="stable")]).max()))
    return most


def _by_consumer(logs: FlowLogs, topology: Topology) -> tuple[list[Seen], int]:
    """Connections to private endpoints, and how many go by no rule."""
    names: dict[Any, str] = {}
    for endpoint in topology.private_endpoints:
        if endpoint.ip in names:
            raise RunError(
                f"{endpoint.ip} is the address of {names[endpoint.ip]} and of {endpoint.name}: flow logs cannot tell "
                "them apart; give a topology with one of them"
            )
        names[endpoint.ip] = endpoint.name
    found, strange = [], 0
    for one in logs.connections:
        name = names.get(one.flow.destination)
        if name is None:
            continue
        rules = topology.service(topology.endpoint(name).target).load_balancer.rules
        if any((rule.protocol, rule.frontend_port) == (one.flow.protocol, one.flow.port) for rule in rules):
            found.append(_flow(one, Server(name, one.flow.port), logs))
        else:
            strange += 1
    return found, strange


def _by_provider(logs: FlowLogs, topology: Topology) -> list[Seen]:
    """Flows from NAT IPs, by the first endpoint of their service."""
    ports: dict[tuple[Any, str, int], Server] = {}
    for service in topology.private_link_services:
        endpoint = next((e.name for e in topology.private_endpoints if e.target == service.name), None)
        if endpoint is not None:
            for rule in service.load_balancer.rules:
                for ip in service.nat_ips:
                    ports[ip, rule.protocol, rule.backend_port] = Server(endpoint, rule.frontend_port)
    flows = [(one, ports.get((one.flow.source, one.flow.protocol, one.flow.port))) for one in logs.connections]
    return [_flow(one, server, logs) for one, server in flows if server is not None]


def _flow(one: Any, server: Server, logs: FlowLogs) -> Seen:
    begin = logs.from_ns if one.begin_ns is None else one.begin_ns
    kind = "udp" if one.flow.protocol == "udp" else "fin" if one.over else "never"
    seconds = (begin - logs.from_ns) / _SECOND, (one.seen_ns - begin) / _SECOND
    return Seen(server, kind, *seconds, before=one.begin_ns is None, open=not one.over)


def _load(
    name: str,
    seen: list[Seen],
    length: float,
    topology: Topology,
    copies: float,
    notes: list[str],
    most: int | None,
    clients: str | None,
) -> Load:
    if topology.events:
        topology = topology.model_copy(update={"events": ()})
        notes.append("events of the topology are left out")
    period = max(length, 1.0)
    if length < _SHORT:
        notes.append(f"{length:,.3g} s were measured: too short to tell how the load changes, and what it holds later")
    came, standing = joined(seen, period)
    sources = []
    groups: dict[tuple[Server, str], list[Seen]] = {}
    for one in came:
        groups.setdefault((one.server, one.kind), []).append(one)
    for (server, kind), own in groups.items():
        own.sort(key=lambda one: one.begin)
        label = f"{server.endpoint}-{server.port}-{kind}"
        source = connections(label, server.endpoint, server.port, kind, topology, _sample([one.life for one in own]))
        moments = tuple(min(round(one.begin * _SECOND), round(period * _SECOND) - 1) for one in own)
        sources.append(source | {"arrivals": {"pattern": "moments", "moments": moments, "period": duration(period)}})
    for server in dict.fromkeys(one.server for one in standing):
        own = [one for one in standing if one.server == server]
        kind = "udp" if own[0].kind.startswith("udp") else "never"
        label = f"{server.endpoint}-{server.port}-always"
        source = connections(label, server.endpoint, server.port, kind, topology, [_YEAR])
        idle = idle_timeout(topology, server.endpoint, source["protocol"], server.port)
        source["keep_alive"] = duration(0.8 * idle / _SECOND)
        sources.append(source | {"arrivals": {"pattern": "moments", "moments": (0,) * len(own)}})
    for source in sources:
        source["arrivals"]["copies"] = copies
        if clients is not None:
            source["hosts_from"] = clients
    times = "" if copies == 1 else f"{copies:g} times "
    seconds = f"{length:,.0f}" if length >= 100 else f"{length:.3g}"
    words = f"{times}{len(seen):,} connections in {seconds} s of {name}"
    talking = frozenset(str(source["name"]) for source in sources)
    try:
        return lasting(topology, sources, words, period, notes=tuple(notes), measured=most, talking=talking)
    except ValidationError as error:  # times that span many years, a network too small for so many clients
        faults = "; ".join(str(fault["msg"]) for fault in error.errors(include_url=False, include_input=False)[:3])
        raise RunError(f"{name}: its load cannot be made a scenario: {faults}") from None


def joined(seen: Iterable[Seen], period: float) -> tuple[list[Seen], list[Seen]]:
    """The connections of a measurement that comes again after `period`: those that begin in it, those always there.

    One that was open at the end goes on as one that was there at the beginning, while there are both.
    """
    came, standing = [], []
    cut: dict[tuple[Server, bool], tuple[list[Seen], list[Seen]]] = {}
    for one in seen:
        early, late = cut.setdefault((one.server, one.kind.startswith("udp")), ([], []))
        if one.before and one.open:
            standing.append(one)
        elif one.before:
            early.append(one)
        elif one.open:
            late.append(one)
        else:
            came.append(one)
    for early, late in cut.values():
        for head, tail in zip_longest(late, early):
            if head is None or tail is None:
                came.append(head or tail)
            else:
                came.append(replace(head, life=period - head.begin + tail.begin + tail.life, kind=tail.kind))
    return came, standing


def _sample(lives: list[float]) -> list[float]:
    """These lives, or a thousand that are distributed as they are, with their mean."""
    if len(lives) <= _SAMPLE:
        return lives
    parts = np.array_split(np.sort(lives), _SAMPLE)
    return [float(part.mean()) for part in parts]
