"""`sessions.csv`: one line per session, in order of its end, those still open last.

Times are ISO 8601 in UTC to the nanosecond; bytes are IPv4 total lengths of forwarded packets.
"""

from __future__ import annotations

import csv
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from dataplane.forwarding.tables import PROTOCOL_NAMES
from dataplane.packets.craft import dotted
from dataplane.records import END_WORDS
from dataplane.topology.model import Topology

COLUMNS = (
    "id",
    "endpoint",
    "protocol",
    "consumer_ip",
    "consumer_port",
    "endpoint_ip",
    "endpoint_port",
    "nat_ip",
    "nat_port",
    "backend_ip",
    "backend_port",
    "first_packet",
    "last_packet",
    "packets_in",
    "packets_out",
    "bytes_in",
    "bytes_out",
    "ended",
    "how",
)


class SessionsFile:
    """Writes rows of `dataplane.records.ENDED` as CSV; `pools` is the simulator's pool table."""

    def __init__(self, file: TextIO, topology: Topology, pools: NDArray[Any]) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(COLUMNS)
        self._names = np.array([e.name for e in topology.private_endpoints], object)
        self._addresses = np.array([str(e.ip) for e in topology.private_endpoints], object)
        self._pools = pools

    def write(self, rows: NDArray[Any], *, ended: bool = True) -> None:
        """Append sessions that ended, or (`ended` false) that are still open."""
        if not len(rows):
            return
        flow, pools = rows["flow"], self._pools[rows["pool"]]
        how = np.array(END_WORDS, object)[rows["how"]] if ended else np.full(len(rows), "open", object)
        columns = (
            rows["id"].tolist(),
            self._names[rows["endpoint"]],
            [PROTOCOL_NAMES[protocol] for protocol in rows["protocol"].tolist()],
            _dotted(flow >> 32 & 0xFFFFFFFF),
            (flow >> 16 & 0xFFFF).tolist(),
            self._addresses[rows["endpoint"]],
            (flow & 0xFFFF).tolist(),
            _dotted(pools["nat_address"]),
            rows["nat_port"].tolist(),
            _dotted(pools["backend_address"]),
            rows["backend_port"].tolist(),
            _times(rows["first_packet"]),
            _times(rows["last_packet"]),
            rows["packets_in"].tolist(),
            rows["packets_out"].tolist(),
            rows["bytes_in"].tolist(),
            rows["bytes_out"].tolist(),
            _times(rows["ended"]) if ended else [""] * len(rows),
            how,
        )
        self._writer.writerows(zip(*columns, strict=True))


def _dotted(addresses: NDArray[Any]) -> Any:
    """Addresses as text; each different one is written out once."""
    unique, places = np.unique(addresses, return_inverse=True)
    return np.array([dotted(int(address)) for address in unique], object)[places]


def _times(times_ns: NDArray[Any]) -> list[str]:
    text: list[str] = np.datetime_as_string(times_ns.astype("datetime64[ns]"), timezone="UTC").tolist()
    return text
