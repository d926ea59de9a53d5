"""Virtual network flow logs of Azure (PT1H.json, version 4): who connected where and when, and NAT ports in use.

Flow logs are recorded at hosts, never at a private endpoint. At a consumer's host the destination is the endpoint's
address; at a provider's backend the source is a NAT IP. docs/flow-logs.md explains each field.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from dataplane.packets.batch import LAST_TIME
from dataplane.runs.folder import RunError

PROTOCOLS = {"6": "tcp", "17": "udp"}

_MS = 1_000_000
_SECOND = 1_000_000_000
MINUTE = 60 * _SECOND

#: A flow that goes on is reported this often: without news for so long, it is taken as over.
_REPORTED_EVERY = 5 * MINUTE

#: How much of a file is read at a time; a longer record is read on, twice as much each time.
_CHUNK = 1 << 20

_HEAD = re.compile(r'\ufeff?\s*\{\s*"records"\s*:\s*\[')
_SPACE = re.compile(r"[\s,]*")


class _Flow(NamedTuple):
    """What makes two tuples speak of the same flow."""

    source: IPv4Address
    source_port: int
    destination: IPv4Address
    port: int
    protocol: str


class _Tuple(NamedTuple):
    """One flow tuple that counts; tuples are sorted by time, and then B before C before E."""

    time_ns: int
    state: str
    flow: _Flow
    direction: str
    counts: tuple[int, int, int, int]  # packets and bytes sent, packets and bytes received


@dataclass
class Connection:
    """One connection. `begin_ns` is None if it began before the logs, `life_ns` if its end is not in them."""

    flow: _Flow
    direction: str
    begin_ns: int | None
    seen_ns: int
    life_ns: int | None = None
    packets_sent: int = 0
    bytes_sent: int = 0
    packets_received: int = 0
    bytes_received: int = 0
    over: bool = False


@dataclass
class FlowLogs:
    """What is in one or more files: connections in order of time, the time that they span, and what was left out."""

    connections: list[Connection]
    from_ns: int
    to_ns: int
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def new(self) -> list[Connection]:
        """The connections whose beginning is in the logs."""
        return [one for one in self.connections if one.begin_ns is not None]


class PortUse(NamedTuple):
    """The most NAT ports that were in use toward a backend within one minute."""

    nat_ip: IPv4Address
    protocol: str
    backend: IPv4Address
    ports: int
    minute_ns: int


def read_flow_logs(paths: Sequence[str | Path]) -> FlowLogs:
    """Read files, also gzip, in any order. Raises RunError that names file, record and value."""
    left_out = {"denied": 0, "ipv6": 0, "other_protocols": 0, "recorded_twice": 0}
    tuples: list[_Tuple] = []
    for path in {os.path.realpath(path): path for path in paths}.values():  # one that is named twice is read once
        for number, record in enumerate(_records(Path(path)), 1):
            tuples += _tuples(record, f"{path}: record {number}", left_out)
    if not tuples:
        counted = ", ".join(f"{count} {what}" for what, count in left_out.items() if count) or "no flow at all"
        raise RunError(
            f"{_named(paths)}: no allowed IPv4 flow of tcp or udp in it ({counted}); name another hour's file"
        )
    tuples.sort(key=lambda one: one[:2])
    return FlowLogs(_connections(tuples, left_out), tuples[0].time_ns, tuples[-1].time_ns, left_out)


def connections_to(
    logs: FlowLogs, paths: Sequence[str | Path], protocol: str, server: tuple[IPv4Address, int]
) -> list[tuple[int, Connection]]:
    """The new connections to a server (address, port), each with its beginning; there is one at least, or RunError."""
    wanted = (*server, protocol)
    found = [(one.begin_ns, one) for one in logs.new if one.flow[2:] == wanted and one.begin_ns is not None]
    if not found:
        there = sorted({f"{one.flow.protocol} {one.flow.destination}:{one.flow.port}" for one in logs.new})
        more = f" and {len(there) - 5} more" if len(there) > 5 else ""
        raise RunError(
            f"{_named(paths)}: no {protocol} connection to {server[0]}:{server[1]} begins in it; name a flow log of "
            f"clients of this private endpoint. There are: {', '.join(there[:5]) or 'none'}{more}"
        )
    return found


def end_of(one: Connection, logs: FlowLogs) -> int:
    """When a connection was over; one whose end was not logged, five minutes after its last tuple if the logs reach."""
    return one.seen_ns if one.over else min(one.seen_ns + _REPORTED_EVERY, logs.to_ns)


def _named(paths: Sequence[str | Path]) -> str:
    """Files, in a message: a month has hundreds."""
    names = ", ".join(map(str, paths[:3]))
    return names + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def nat_port_use(logs: FlowLogs, nat_ips: set[IPv4Address]) -> list[PortUse]:
    """Per NAT IP, protocol and backend the minute in which the most different NAT ports were in use.

    A flow that is not seen to end counts until five minutes after its last tuple, one that began before the logs from
    their beginning. Azure holds a port for longer than its flow: that is not in flow logs.
    """
    changes: dict[tuple[IPv4Address, str, IPv4Address], dict[int, int]] = {}
    counted: dict[tuple[Any, ...], int] = {}
    for one in sorted(logs.connections, key=lambda one: one.begin_ns or logs.from_ns):
        flow = one.flow
        if flow.source not in nat_ips:
            continue
        begin = logs.from_ns if one.begin_ns is None else one.begin_ns
        end = end_of(one, logs)
        pool = (flow.source, flow.protocol, flow.destination)
        port = (*pool, flow.source_port)
        first, last = max(begin // MINUTE, counted.get(port, -1) + 1), end // MINUTE
        if first <= last:  # else the port has been counted in these minutes
            counted[port] = last
            by_minute = changes.setdefault(pool, {})
            by_minute[first] = by_minute.get(first, 0) + 1
            by_minute[last + 1] = by_minute.get(last + 1, 0) - 1
    result = []
    for pool in sorted(changes):
        ports = most = when = 0
        for minute in sorted(changes[pool]):
            ports += changes[pool][minute]
            if ports > most:
                most, when = ports, minute
        result.append(PortUse(*pool, most, when * MINUTE))
    return result


def _records(path: Path) -> Iterator[Any]:
    """The records of a file, one at a time."""
    try:
        with path.open("rb") as raw:  # once: it may be a pipe
            binary = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw
            with io.TextIOWrapper(binary, encoding="utf-8") as file:
                yield from _decoded(file, path)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise RunError(f"{path}: the gzip data are damaged or cut short; fetch the file again") from None
    except UnicodeDecodeError:
        raise RunError(f"{path}: is not UTF-8 text; name a PT1H.json of a virtual network flow log") from None
    except OSError as error:
        raise RunError(f"{path}: {error.strerror or error}; name a PT1H.json") from None


def _decoded(file: TextIO, path: Path) -> Iterator[Any]:
    text, number, size = file.read(_CHUNK), 1, _CHUNK
    head = _HEAD.match(text)
    if head is None:
        what = "is empty" if not text.strip() else f"begins with {text[:30]!r}"
        raise RunError(f'{path}: {what}, but a flow log begins with {{"records": [; name a PT1H.json')
    place, decoder = head.end(), json.JSONDecoder()
    while True:
        place = _SPACE.match(text, place).end()  # type: ignore[union-attr]
        if text.startswith("]", place):
            rest = (text[place + 1 :] + file.read(_CHUNK)).strip()
            if rest == "}":
                return
            if not rest:
                raise RunError(f"{path}: the file is cut short after record {number - 1}; fetch it again")
            raise RunError(
                f"{path}: after record {number - 1}, the last one, comes {rest[:30]!r} in place of the end of the "
                "file; name each PT1H.json by itself"
            )
        try:
            record, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            more = file.read(size)
            if not more:
                if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
                    raise RunError(f"{path}: record {number}: the file is cut short; fetch it again") from None
                raise RunError(f"{path}: record {number} is no JSON: {error.msg}; fetch the file again") from None
            text, place, size = text[place:] + more, 0, 2 * size
            continue
        except (RecursionError, ValueError) as error:  # nested too deep, a number of thousands of digits
            raise RunError(f"{path}: record {number} is no flow record: {error}; fetch the file again") from None
        yield record
        number += 1


def _tuples(record: Any, where: str, left_out: dict[str, int]) -> Iterator[_Tuple]:
    version = record.get("flowLogVersion") if isinstance(record, dict) else None
    if version != 4:
        raise RunError(
            f"{where}: flowLogVersion is {version!r}, but must be 4; name a virtual network flow log (those of network "
            "security groups have version 1 or 2)"
        )
    for flows in _list(_child(record, "flowRecords", where), "flows", where):
        for group in _list(flows, "flowGroups", where):
            for text in _list(group, "flowTuples", where):
                one = _parsed(text, where, left_out)
                if one is not None:
                    yield one


def _child(parent: Any, key: str, where: str) -> Any:
    if not isinstance(parent, dict) or key not in parent:
        raise RunError(f"{where}: {key} is missing; fetch the file again")
    return parent[key]


def _list(parent: Any, key: str, where: str) -> list[Any]:
    value = _child(parent, key, where)
    if not isinstance(value, list):
        raise RunError(f"{where}: {key} is {value!r:.60}, but must be a list; fetch the file again")
    return value


def _parsed(text: Any, where: str, left_out: dict[str, int]) -> _Tuple | None:
    """A tuple that counts; None for one that is left out, and counted."""
    fields = text.split(",") if isinstance(text, str) else []
    if len(fields) < 13:
        raise RunError(f"{where}: flow tuple {text!r:.120} has {len(fields)} fields, but must have 13")
    time, source, destination, source_port, port, protocol, direction, state = fields[:8]
    try:
        if state not in "BCED" or len(state) != 1:
            raise ValueError(f"state {state!r}, which is none of B, C, E, D")
        if direction not in ("I", "O"):
            raise ValueError(f"direction {direction!r}, which is neither I nor O")
        if ":" in source or ":" in destination:
            IPv6Address(source), IPv6Address(destination)
            left_out["ipv6"] += 1
            return None
        addresses = IPv4Address(source), IPv4Address(destination)
        if protocol not in PROTOCOLS:
            _number(protocol, 255)
            left_out["other_protocols"] += 1
            return None
        flow = _Flow(addresses[0], _number(source_port, 65535), addresses[1], _number(port, 65535), PROTOCOLS[protocol])
        # Version 4 writes milliseconds; Microsoft's examples also have seconds.
        time_ns = _number(time, 10**15) * (_MS if len(time) > 11 else _SECOND)
        if time_ns > LAST_TIME:
            raise ValueError(f"the time {time} is after the year 2262, where a clock of nanoseconds ends")
        counts = tuple(_number(text or "0", 10**15) for text in fields[9:13])
    except (AddressValueError, ValueError) as error:
        raise RunError(f"{where}: flow tuple {text!r:.120}: {error}") from None
    if state == "D":
        left_out["denied"] += 1
        return None
    return _Tuple(time_ns, state, flow, direction, counts)  # type: ignore[arg-type]


def _number(text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > most:
        raise ValueError(f"{text!r} is no whole number from 0 to {most}")
    return int(text)


def _connections(tuples: list[_Tuple], left_out: dict[str, int]) -> list[Connection]:
    """Put tuples in order of time together to connections. Where both hosts are logged, the first one's word counts."""
    result: list[Connection] = []
    last: dict[_Flow, Connection] = {}
    told: dict[_Flow, tuple[Any, ...]] = {}
    for time_ns, state, flow, direction, counts in tuples:
        one = last.get(flow)
        if one is not None and one.direction != direction and time_ns - one.seen_ns < MINUTE and state == "B":
            left_out["recorded_twice"] += 1
            continue
        if told.get(flow) == (time_ns, state, direction, counts):
            left_out["recorded_twice"] += 1  # in a copy of the same file
            continue
        if one is not None and state != "B" and (one.over or one.direction != direction):
            continue  # the other host's account
        if one is None or state == "B":
            if one is not None and not one.over:
                one.over, one.seen_ns = True, time_ns  # its end was not logged, but the port is another's now
            one = last[flow] = Connection(flow, direction, time_ns if state == "B" else None, time_ns)
            result.append(one)
        told[flow] = (time_ns, state, direction, counts)
        one.seen_ns = time_ns
        one.packets_sent += counts[0]
        one.bytes_sent += counts[1]
        one.packets_received += counts[2]
        one.bytes_received += counts[3]
        if state == "E":
            one.over = True
            one.life_ns = None if one.begin_ns is None else time_ns - one.begin_ns
    return result
