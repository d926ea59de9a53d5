"""Records of clients' connections, as the kernels of the generator see them.

Time is cut into slices, no longer than a round-trip: the least time between two steps of a connection. A slice goes
through three kernels: `prepare` in `runs/calendar.py` (which connections begin, which have a step due, in order of
time), `emit` in `runs/frames.py` (the packets of these steps), and, when the simulator has said what became of them,
`follow` in `runs/clients.py` (when the next steps are). Every random number depends on the source's key and the
connection's number alone, and a client's port becomes free in a step of its own, so the slice never shows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.bundle import Bundle

#: Later than anything.
NEVER = 2**62

#: The ephemeral ports of a Linux client: 32768 to 60999.
FIRST_EPHEMERAL, EPHEMERAL_PORTS = 32_768, 28_232

#: The calendar's buckets; a step that is further away lies in a bucket that comes up more than once.
BUCKETS = 1 << 16

# --- steps: what a connection does at one moment ----------------------------------------------------------------
OPEN = 0  # SYN; the request's datagrams
ANSWER = 1  # SYN-ACK, ACK, the request's segments
RESPONSE = 2  # the response's packets
KEEP = 3  # a keep-alive of the client
KEEP_REPLY = 4
END = 5  # FIN or RST; the last datagram
FIN_REPLY = 6  # FIN of the server, ACK of the client
RELEASE = 7  # the client's port is free again

# --- how a connection ends ----------------------------------------------------------------------------------------
ENDS_FIN, ENDS_RST, ENDS_NEVER = 0, 1, 2

# --- lives ----------------------------------------------------------------------------------------------------------
FIXED, EXPONENTIAL, LOG_NORMAL, PARETO, SAMPLE, AS_RECORDED = 0, 1, 2, 3, 4, 5

#: One traffic source: its settings, then where it stands, then what it has counted.
SOURCE = np.dtype(
    [
        ("key", np.uint64),
        ("address", np.int64),  # of the endpoint
        ("port", np.int64),
        ("protocol", np.int64),
        ("point", np.int64),
        ("first_host", np.int64),  # into Traffic.hosts
        ("hosts", np.int64),
        ("first_word", np.int64),  # into Traffic.busy: a bit per (port, host)
        ("first_segment", np.int64),  # into Traffic.segments
        ("segments", np.int64),
        ("period", np.int64),  # after which the segments come again; 0: never
        ("even", np.int64),  # arrivals are evenly spaced
        ("first_recorded", np.int64),  # into Traffic.recorded
        ("recorded", np.int64),  # how many connections are given; 0: the segments say when
        ("until", np.int64),  # no arrival at or after
        ("round_trip", np.int64),
        ("answer", np.int64),
        ("retries", np.int64),
        ("keep_alive", np.int64),  # the idle time after which one is sent, 0: none
        ("life", np.int64),
        ("scale", np.float64),  # of the distribution, nanoseconds
        ("shape", np.float64),
        ("first_life", np.int64),  # into Traffic.lives, of a sample
        ("lives", np.int64),
        ("fin", np.float64),  # shares of connections
        ("fin_or_rst", np.float64),
        ("request_packets", np.int64),
        ("request_bytes", np.int64),  # -1: each as recorded, and in as few packets as carry it
        ("response_packets", np.int64),
        ("response_bytes", np.int64),  # the same
        # where it stands
        ("next_time", np.int64),
        ("number", np.int64),  # of the next connection, from 0
        ("segment", np.int64),  # or the next of the given connections
        ("cycle", np.int64),  # when the current round of segments, or of given connections, began
        ("passed", np.float64),  # connections expected since the segment began
        ("cursor", np.int64),  # the client tuple to be tried next
        ("busy", np.int64),  # client tuples in use
        # counts
        ("started", np.int64),
        ("opened", np.int64),  # by a session of their own
        ("reused", np.int64),  # their first packet went to a session that was still alive
        ("refused", np.int64),  # first packets that were dropped
        ("retried", np.int64),
        ("failed", np.int64),  # connections whose every first packet was dropped
        ("broken", np.int64),  # a later packet was dropped
        ("completed", np.int64),
        ("no_client_port", np.int64),
    ]
)

#: One connection: a cache line.
CONNECTION = np.dtype(
    [
        ("time", np.int64),  # of its step
        ("later", np.int64),  # of the step after that, if all goes well; NEVER: there is none
        ("begin", np.int64),  # its first packet; once it is open, the one that was let through
        ("life", np.int64),
        ("order", np.int64),  # source << 48 | number
        ("client_next", np.uint32),  # TCP sequence numbers
        ("server_next", np.uint32),
        ("slot", np.int32),  # its client's address and port; -1 before it has one
        ("next", np.int32),  # in its bucket, or among the rows that are free
        ("frame", np.int32),  # the first packet of its step among those just made, -1: it has none
        ("step", np.uint8),
        ("later_step", np.uint8),
        ("ending", np.uint8),
        ("tries", np.uint8),
    ],
    align=True,
)
assert CONNECTION.itemsize == 64

#: A step of the slice at hand.
STEP = np.dtype([("time", np.int64), ("order", np.int64), ("row", np.int64)])

#: A stretch of time in which the rate changes evenly, times in nanoseconds, rates per second.
SEGMENT = np.dtype([("begin", np.int64), ("length", np.int64), ("rate", np.float64), ("last_rate", np.float64)])

#: A connection of a capture or flow log: when it began (nanoseconds from the beginning of a round), how long it lived,
#: bytes of payload that its client and its server sent.
RECORDED = np.dtype([("time", np.int64), ("life", np.int64), ("request", np.int64), ("response", np.int64)])

#: The table's and the calendar's state.
STATUS = np.dtype(
    [
        ("rows", np.int64),  # rows of the table ever used
        ("free", np.int64),  # the first row that is free again, -1: none
        ("origin", np.int64),  # when the run begins
        ("length", np.int64),  # of a slice, nanoseconds
        ("stop", np.int64),  # no packet at or after
        ("slice", np.int64),  # the number of the slice at hand
        ("steps", np.int64),  # in it
        ("received", np.int64),  # packets sent so far
    ]
)

#: What `prepare` asks for: steps are ready, there are none before the end, the table has to grow.
READY, NOTHING, GROW = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Traffic(Bundle):
    """All arrays of the generator."""

    status: NDArray[Any]
    sources: NDArray[Any]
    segments: NDArray[Any]
    recorded: NDArray[Any]  # rows of RECORDED, in order of time in each source
    lives: NDArray[np.int64]  # of samples
    hosts: NDArray[np.int64]
    busy: NDArray[np.uint64]
    connections: NDArray[Any]
    buckets: NDArray[np.int32]
    steps: NDArray[Any]
    spare: NDArray[Any]  # for sorting, as long as steps
