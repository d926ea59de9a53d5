"""Connections of captures and flow logs, as an experiment's traffic takes them: when they began, how long, how much."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.runs.captured import connections_of_captures
from dataplane.runs.connections import RECORDED
from dataplane.runs.flow_logs import connections_to, end_of, read_flow_logs
from dataplane.runs.folder import RunError
from dataplane.runs.scenario import TrafficSource
from dataplane.runs.scenario_values import MOST_BYTES

#: Later than any run ends, nanoseconds.
_NEVER = 2.0**62

#: A recording that comes again takes so long at least, nanoseconds.
_SHORTEST = 1_000_000

#: Bytes of IPv4 and transport header without options, which are no payload.
_HEADERS = {"tcp": 40, "udp": 28}


def recorded_connections(source: TrafficSource, endpoint: IPv4Address) -> tuple[NDArray[Any], int, list[str]]:
    """A source's given connections (rows of RECORDED), as often and as fast as it asks for; what its user should know.

    With them comes after how many nanoseconds they begin again, 0: never. Of flow logs those to the endpoint's address
    and the source's port count, of captures all of the protocol; of moments no more is known than when. Raises
    `CaptureError` and `RunError`, one line.
    """
    arrivals = source.arrivals
    again = bool(arrivals.repeat)
    if arrivals.moments is not None:
        rows = np.zeros(len(arrivals.moments), RECORDED)
        rows["time"] = arrivals.moments
        length, again = arrivals.period or 0, arrivals.period is not None
    elif arrivals.pattern == "flow_log":
        rows, length = _of_flow_logs(arrivals.paths, source.protocol, (endpoint, source.port))
    else:
        rows, length = _of_captures(arrivals.paths, source.protocol)
    notes = []
    for key in ("request", "response"):
        larger = int((rows[key] > MOST_BYTES).sum())
        if larger and getattr(source, key).bytes == "as_recorded":
            notes.append(
                f"{source.name}: {larger:,} recorded connections have a {key} of more than {MOST_BYTES:,} bytes, the "
                "most that one carries here; what is more is left out"
            )
        rows[key] = rows[key].clip(0, MOST_BYTES)
    speed = arrivals.speed or 1.0
    rows["time"] = np.minimum(rows["time"] / speed, _NEVER).astype(np.int64)
    period = round(length / speed) if again else 0
    if again and period < _SHORTEST:
        raise RunError(
            f"{source.name}: the recording is {period:,} ns long, and would come again without end; a repeated one has "
            f"at least {_SHORTEST:,} ns. Leave `repeat` out, or give moments a longer `period`"
        )
    each = 1.0 if arrivals.copies is None else arrivals.copies
    # With 1.5 copies the connections are once and twice there in turn.
    copies = np.diff(np.floor(np.arange(len(rows) + 1) * each + 1e-9)).astype(np.int64)
    return np.repeat(rows, copies), period, notes


def _of_flow_logs(paths: tuple[str, ...], protocol: str, server: tuple[IPv4Address, int]) -> tuple[NDArray[Any], int]:
    logs = read_flow_logs(paths)
    header = _HEADERS[protocol]
    rows = [
        (
            begin - logs.from_ns,
            end_of(one, logs) - begin,
            one.bytes_sent - header * one.packets_sent,
            one.bytes_received - header * one.packets_received,
        )
        for begin, one in connections_to(logs, paths, protocol, server)
    ]
    return np.array(rows, RECORDED), max(1, logs.to_ns - logs.from_ns)


def _of_captures(paths: tuple[str, ...], protocol: str) -> tuple[NDArray[Any], int]:
    sessions, origin, length = connections_of_captures(paths, protocol)
    header = _HEADERS[protocol]
    rows = np.zeros(len(sessions), RECORDED)
    rows["time"] = sessions["first_packet"] - origin
    rows["life"] = sessions["last_packet"] - sessions["first_packet"]
    rows["request"] = sessions["bytes_in"] - header * sessions["packets_in"]
    rows["response"] = sessions["bytes_out"] - header * sessions["packets_out"]
    return rows, length
