"""`sessions.csv`: one line per session, in order of its end, those still open last.

Times are ISO 8601 in UTC to the nanosecond; bytes are IPv4 total lengths of forwarded packets.
"""

from __future__ import annotations

import csv
import io
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dataplane.forwarding.tables import PROTOCOL_NAMES
from dataplane.kernel import kernel
from dataplane.records import END_WORDS
from dataplane.runs.text import decimals, letters, put_address, put_number, put_time, put_word
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

#: More than the numbers, addresses, times and commas of a line take.
_LINE_ROOM = 512
_COMMA, _LINE_END = ord(","), ord("\n")


@kernel
def _end_column(out: Any, at: Any) -> Any:
    out[at] = _COMMA
    return at + 1


@kernel
def put_line(out: Any, at: Any, row: Any, pool: Any, words: Any, table: Any) -> Any:
    """Write a session's line but for its last two columns; `words` is (names, addresses, protocols)."""
    names, addresses, protocols = words
    flow = row["flow"]
    at = _end_column(out, put_number(out, at, row["id"], table))
    at = _end_column(out, put_word(out, at, names, row["endpoint"]))
    at = _end_column(out, put_word(out, at, protocols, row["protocol"]))
    at = _end_column(out, put_address(out, at, flow >> 32 & 0xFFFFFFFF, table))
    at = _end_column(out, put_number(out, at, flow >> 16 & 0xFFFF, table))
    at = _end_column(out, put_word(out, at, addresses, row["endpoint"]))
    at = _end_column(out, put_number(out, at, flow & 0xFFFF, table))
    at = _end_column(out, put_address(out, at, np.int64(pool["nat_address"]), table))
    at = _end_column(out, put_number(out, at, np.int64(row["nat_port"]), table))
    at = _end_column(out, put_address(out, at, np.int64(pool["backend_address"]), table))
    at = _end_column(out, put_number(out, at, np.int64(row["backend_port"]), table))
    at = _end_column(out, put_time(out, at, row["first_packet"], table))
    at = _end_column(out, put_time(out, at, row["last_packet"], table))
    at = _end_column(out, put_number(out, at, row["packets_in"], table))
    at = _end_column(out, put_number(out, at, row["packets_out"], table))
    at = _end_column(out, put_number(out, at, row["bytes_in"], table))
    return _end_column(out, put_number(out, at, row["bytes_out"], table))


@kernel
def put_lines(out: Any, rows: Any, pools: Any, words: Any, table: Any, job: Any) -> Any:
    """Write lines of `rows[index:]` while they surely fit into `out`; (next index, bytes written).

    `words` is (names, addresses, protocols, ends); `job` is (index, the most bytes of a line, whether they ended).
    """
    index, room, ended = job
    names, addresses, protocols, ends = words
    at = 0
    while index < len(rows) and at + room <= len(out):
        row = rows[index]
        at = put_line(out, at, row, pools[row["pool"]], (names, addresses, protocols), table)
        if ended:
            at = put_time(out, at, row["ended"], table)
        at = _end_column(out, at)
        at = put_word(out, at, ends, np.int64(row["how"]) if ended else len(ends) - 1)
        out[at] = _LINE_END
        at += 1
        index += 1
    return index, at


class SessionsFile:
    """Writes rows of `dataplane.records.ENDED` as CSV; `pools` is the simulator's pool table."""

    def __init__(self, file: BinaryIO, topology: Topology, pools: NDArray[Any]) -> None:
        self._file = file
        file.write((",".join(COLUMNS) + "\n").encode())
        names = letters([_quoted(endpoint.name) for endpoint in topology.private_endpoints])
        addresses = letters([str(endpoint.ip) for endpoint in topology.private_endpoints])
        protocols = letters([PROTOCOL_NAMES.get(number, "") for number in range(max(PROTOCOL_NAMES) + 1)])
        self._words = (names, addresses, protocols, letters([*END_WORDS, "open"]))
        self._room = _LINE_ROOM + names.shape[1]
        self._table = decimals()
        self._out = np.empty(max(1 << 18, self._room), np.uint8)
        self._pools = pools

    def write(self, rows: NDArray[Any], *, ended: bool = True) -> None:
        """Append sessions that ended, or (`ended` false) that are still open."""
        index = 0
        while index < len(rows):
            job = (np.int64(index), np.int64(self._room), ended)
            index, used = put_lines(self._out, rows, self._pools, self._words, self._table, job)
            self._file.write(self._out.data[:used])


def _quoted(name: str) -> str:
    """A name as CSV has it."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([name])
    return line.getvalue()
