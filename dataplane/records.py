"""Every record that kernels touch, in one place: what lies together in memory is used together.

One record is one row of a numpy structured array. Rows that the hot path reads per packet are one cache line
(64 bytes). Field access is written `rows[i]["field"]`, which works compiled and interpreted. Addresses are
unsigned 32-bit numbers in host order, times are int64 nanoseconds since 1970.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.bundle import Bundle

# --- directions of a packet --------------------------------------------------------------------------------
NO_DIRECTION = 0
TO_SERVICE = 1
TO_CONSUMER = 2  # a reply that entered at the provider
CAPTURED_REPLY = 3  # a reply that entered where the consumer saw it
EITHER = 4  # both addresses are endpoints: a live session decides
RESET_TO_CONSUMER = 5  # made here, at an idle time-out
RESET_TO_BACKEND = 6
UNTOLD = 7  # not asked yet: a session that it belongs to may tell

# --- kinds of a packet, PACKET["kind"] --------------------------------------------------------------------------
PLAIN = 0
FIRST_FRAGMENT = 1
LATER_FRAGMENT = 2
ICMP_ERROR = 3
UNREAD = 4  # a fragment, or neither TCP nor UDP: what it is depends on the service

# --- states of a session (docs/model.md, "A session's life") -------------------------------------------------
UNUSED = 0  # the row is on the free list
HALF_OPEN = 1
ESTABLISHED = 2
CLOSING = 3
RESET = 4
UDP_ACTIVE = 5
HELD = 6  # the session has ended, its port is held
HALF_CLOSED = 7
UDP_UNREPLIED = 8
ICMP_QUERY = 9
STATES = 10

# --- what a session has seen, bits of SESSION["seen"] --------------------------------------------------------
SYN_FROM_PROVIDER = 1
FIN_FROM_CONSUMER = 2
FIN_FROM_PROVIDER = 4
WAS_ESTABLISHED = 8
REOPENED_BY_CONSUMER = 16  # a SYN since the session began to close
REOPENED_BY_PROVIDER = 32

# --- SESSION["marks"] ----------------------------------------------------------------------------------------
TTL_COUNTS = 1  # the time to live goes down on each pass
BETWEEN_ENDPOINTS = 2  # its consumer is an endpoint too

# --- what is translated of ICMP, SERVICE["icmp"] ---------------------------------------------------------------
ICMP_NONE, ICMP_ERRORS, ICMP_ALL = 0, 1, 2

# --- how a session ended, index into State.ended ---------------------------------------------------------------
CLOSED, WAS_RESET, IDLE, DISCONNECTED, MOVED = 0, 1, 2, 3, 4
END_WORDS = ("closed", "reset", "idle", "disconnected", "moved")

# --- what ended a session at its moment, ENDED["cause"]: sessions end in order of (moment, cause, id) -----------------
BY_TIME = 0
BY_EVENT = 1  # plus the event's place
BY_PACKET = 1 << 32  # plus the number of the packet that opened it anew

PACKET = np.dtype(
    [
        # consumer address << 32 | consumer port << 16 | endpoint port; while UNTOLD, as if it came from a consumer
        ("flow", np.int64),
        ("network_header", np.int64),  # where the IPv4 header starts in the buffer
        ("transport_header", np.int64),
        ("endpoint", np.int32),  # the endpoint it is addressed to, or -1
        ("source_endpoint", np.int32),  # the endpoint it comes from, or -1
        ("tag", np.uint32),  # of the session's hash
        ("destination", np.uint32),  # the address, while UNTOLD
        ("session", np.int32),  # row of the one foreseen, or -1; once the packet is treated, of its own
        ("service", np.int32),
        ("pool", np.int32),  # from the provider: the pool that it names; of a new session: that it may get; or -1
        ("bytes", np.uint32),  # what the packet counts as
        ("verdict", np.uint8),
        ("direction", np.uint8),
        ("protocol", np.uint8),  # of an ICMP error: that of the packet it quotes
        ("tcp_flags", np.uint8),
        ("fault", np.uint8),  # a verdict of step 2 other than the TTL's
        ("kind", np.uint8),
    ],
    align=True,
)
assert PACKET.itemsize == 64

#: When it is a packet's turn: the clock at it, and its number among all that were received.
TURN = np.dtype([("now", np.int64), ("number", np.int64)])

SESSION = np.dtype(
    [
        ("flow", np.int64),
        ("last_refresh", np.int64),
        ("bytes_in", np.int64),
        ("bytes_out", np.int64),
        ("packets_in", np.uint32),  # the low 32 bits; SESSION_END has 16 more
        ("packets_out", np.uint32),
        ("endpoint", np.int32),
        ("pool", np.int32),
        ("nat_port", np.uint16),
        ("backend_port", np.uint16),
        ("address_delta", np.uint16),  # RFC 1624 sums, consumer form to provider form
        ("transport_delta", np.uint16),
        ("point", np.uint16),  # the consumer's network
        ("timeouts", np.uint16),  # row of State.timeouts
        ("protocol", np.uint8),
        ("state", np.uint8),
        ("seen", np.uint8),
        ("marks", np.uint8),  # TTL_COUNTS, BETWEEN_ENDPOINTS
    ],
    align=True,
)
assert SESSION.itemsize == 64

#: The part of a session that is read when it ends.
SESSION_END = np.dtype(
    [
        ("id", np.int64),
        ("first_packet", np.int64),
        ("last_packet", np.int64),  # only where it is later than last_refresh
        ("tag", np.uint32),  # under which it lies in the index
        ("packets_in_high", np.uint16),
        ("packets_out_high", np.uint16),
    ],
    align=True,
)
assert SESSION_END.itemsize == 32

#: Where a session's timer stands: in a list of the wheel, or in State.due.
TIMER = np.dtype([("next", np.int32), ("previous", np.int32)])
assert TIMER.itemsize == 8

#: A timer that comes due within the wheel's current tick, ordered by (due, id).
DUE = np.dtype([("due", np.int64), ("id", np.int64), ("session", np.int64)])

POOL = np.dtype(
    [
        ("nat_address", np.uint32),
        ("backend_address", np.uint32),
        ("address_sum", np.int64),  # of the 16-bit words of both
        ("ports", np.int64),  # where its ports start in State.port_session, and as bits in State.used_ports
        ("first_port", np.int32),
        ("capacity", np.int32),
        ("free", np.int32),
        ("held", np.int32),
        ("minimum_free", np.int32),
        ("nat_ip", np.int32),  # row of NAT_IP
        ("service", np.int32),
        ("host", np.int32),  # index into State.host_sessions
        ("key", np.uint64),  # of its random stream
        ("draws", np.uint64),
        ("counters", np.int64),  # where its counters start in State.port_counters (hash allocations)
        ("blocks", np.int64),  # where its blocks start in State.blocks (block allocation)
        ("allocation", np.int32),
        ("cursor", np.int32),  # offset of the last port given (sequential allocation)
        ("minute_used_low", np.int32),
        ("minute_used_high", np.int32),
        ("number", np.int32),  # its place among the service's pools
        ("foreseen", np.uint32),  # low bits of the last draw whose port was asked for ahead of time
        ("failures", np.int64),
        ("minute", np.int64),  # end of the minute that the two above belong to
    ],
    align=True,
)
assert POOL.itemsize == 128

NAT_IP = np.dtype(
    [
        ("service", np.int32),
        ("index", np.int32),  # its place among all that the service has in the run
        ("active", np.int64),
        ("used", np.int64),  # ports in use or held, over its pools
        ("since", np.int64),  # the time from which `used` has not been added to `port_time`
        ("port_time", np.int64),  # ports times nanoseconds since the minute began
        ("events", np.int64),  # changes and failed allocations in this minute
        ("failures", np.int64),
    ],
    align=True,
)

SERVICE = np.dtype(
    [
        ("first_pool", np.int32),
        ("nat_ips", np.int32),  # how many are active
        ("first_nat_ip", np.int32),  # into State.nat_ips and State.nat_ip_order
        ("backends", np.int32),
        ("healthy", np.int32),  # how many of them are
        ("protocols", np.int32),  # how many: pools are ordered by NAT IP, protocol, backend
        ("tcp_slot", np.int32),  # -1: no rule of this protocol
        ("udp_slot", np.int32),
        ("icmp_slot", np.int32),
        ("first_backend", np.int32),  # into State.cursors
        ("first_slot", np.int32),  # into State.backend_slots
        ("slot_shift", np.int32),  # from a hash to a slot
        ("distribution", np.int32),
        ("selection", np.int32),
        ("spill", np.int32),
        ("any_first_packet", np.int32),
        ("tcp_policy", np.int32),  # bits of nat/tcp.py
        ("icmp", np.int32),  # what is translated: ICMP_NONE, ICMP_ERRORS, ICMP_ALL
        ("fragments", np.int32),  # 1: translated
        ("idle_reset", np.int32),  # 1: both sides are told of an idle time-out
        ("timeouts", np.int32),  # row of State.timeouts for sessions whose rule has no time-out of its own
        ("probes", np.int32),  # runs of a bounded search, 0: exact
        ("first_probe", np.int32),  # into State.probe_runs
        ("block_size", np.int32),
        ("endpoint_blocks", np.int32),  # blocks_per_endpoint, 0 for no cap
        ("endpoint_ports", np.int32),  # ports_per_endpoint, 0 for no cap
        ("sessions_per_backend", np.int32),  # 0 for no limit
        ("endpoints", np.int32),
        ("decrement_ttl", np.int32),
        ("point", np.int32),
        ("first_cap", np.int64),  # into State.cap_counts
        ("nat_ip_salt", np.uint64),
    ],
    align=True,
)

#: A block of ports of one pool.
BLOCK = np.dtype([("owner", np.int32), ("used", np.int32)])  # endpoint's number plus one, or 0; ports in use or held

ENDPOINT = np.dtype(
    [
        ("key", np.uint64),
        ("address", np.uint32),
        ("service", np.int32),
        ("point", np.int32),
        ("approved", np.int32),
        ("number", np.int32),  # its place among the service's endpoints
        ("link_id", np.uint32),
    ],
    align=True,
)
assert ENDPOINT.itemsize == 32

#: Packets of one verdict.
TOTAL = np.dtype([("packets", np.int64), ("bytes", np.int64)], align=True)

#: What an endpoint counts, one line per endpoint; the byte figures are of the current minute.
ENDPOINT_COUNTER = np.dtype(
    [
        ("bytes_in", np.int64),
        ("bytes_out", np.int64),
        ("packets_in", np.int64),
        ("packets_out", np.int64),
        ("smallest_in", np.uint32),
        ("largest_in", np.uint32),
        ("smallest_out", np.uint32),
        ("largest_out", np.uint32),
        ("sessions_created", np.int64),
        ("sessions_active", np.int64),
    ],
    align=True,
)
assert ENDPOINT_COUNTER.itemsize == 64

#: A network's point: who is seen there.
POINT = np.dtype(
    [
        # Of the sessions' tags: one for networks that are peered, directly or through others, since they may see the
        # same session; another elsewhere, since tenants may have the same addresses.
        ("key", np.uint64),
        ("kinds", np.int64),  # bit 0: endpoints are visible here, bit 1: NAT IPs live here
        ("lowest", np.int64),  # of the endpoints' addresses: most sources lie outside, and are not looked up
        ("highest", np.int64),
    ],
    align=True,
)

#: A range whose hosts reach the endpoints that are seen at a point.
PREFIX = np.dtype([("point", np.int64), ("network", np.int64), ("mask", np.int64)])

#: A load-balancing rule.
RULE = np.dtype(
    [
        ("key", np.int64),  # of service, protocol and frontend port; -1: none
        ("backend_port", np.int64),
        ("timeouts", np.int64),  # row of State.timeouts
    ]
)

#: Who has an address: an endpoint seen from a point, a NAT IP at a point, a backend of a service.
ADDRESS = np.dtype([("key", np.int64), ("value", np.int64)])

CLOCK = np.dtype(
    [
        ("now", np.int64),
        ("started", np.int64),  # 1 once a packet was received
        ("origin", np.int64),  # the first packet's time
        ("received", np.int64),  # packets so far
        ("next_due", np.int64),  # no timer is due before this
        ("minute_end", np.int64),
        ("next_event", np.int64),  # its time
        ("stop", np.int64),  # the earlier of the two; before the first packet, earlier than any time
        ("events", np.int64),  # that have taken place
        ("tick", np.int64),  # the wheel's ticks up to this one have been emptied into State.due
        ("first_due", np.int64),  # where the entries of State.due begin
        ("end_due", np.int64),  # and end
        ("is_heap", np.int64),  # they are a heap, else sorted
        ("rows", np.int64),  # rows of State.sessions ever used
        ("free_row", np.int64),  # head of the free list, -1 none
        ("live", np.int64),
        ("logged", np.int64),  # rows of State.log
        ("logging", np.int64),
        ("backward_times", np.int64),
        ("unusable_times", np.int64),
        ("largest_jump", np.int64),  # forward, nanoseconds
        ("resets", np.int64),  # rows of State.resets
        ("resets_sent", np.int64),
        ("exhausted_at", np.int64),  # first time that no free port was found
        ("exhausted_by", np.int64),  # the number of the packet
        ("exhausted_pool", np.int64),  # its first choice, -1 never
        ("exhausted_verdict", np.int64),
    ]
)

#: One ended session.
ENDED = np.dtype(
    [
        ("id", np.int64),
        ("flow", np.int64),
        ("first_packet", np.int64),
        ("last_packet", np.int64),
        ("ended", np.int64),
        ("cause", np.int64),
        ("packets_in", np.int64),
        ("packets_out", np.int64),
        ("bytes_in", np.int64),
        ("bytes_out", np.int64),
        ("endpoint", np.int32),
        ("pool", np.int32),
        ("nat_port", np.uint16),
        ("backend_port", np.uint16),
        ("protocol", np.uint8),
        ("how", np.uint8),
    ],
    align=True,
)

#: An idle time-out of which both sides are told.
IDLE_RESET = np.dtype(
    [
        ("id", np.int64),
        ("flow", np.int64),
        ("moment", np.int64),
        ("received", np.int64),  # packets received before it
        ("to_consumer", np.uint32),  # sequence numbers of the two resets
        ("to_backend", np.uint32),
        ("endpoint", np.int32),
        ("pool", np.int32),
        ("nat_port", np.uint16),
        ("backend_port", np.uint16),
        ("point", np.uint16),
    ],
    align=True,
)

#: What became of one packet.
OUTCOME = np.dtype(
    [
        ("session", np.int64),  # id, or 0
        ("nat_address", np.uint32),
        ("nat_port", np.uint16),
        ("verdict", np.uint8),
        ("direction", np.uint8),
        ("endpoint", np.int32),  # or -1
        ("bytes", np.uint32),
        ("time", np.int64),  # the clock at the packet
        ("consumer_point", np.uint16),
        ("provider_point", np.uint16),
        ("network_header", np.uint16),  # from the frame's first byte
    ],
    align=True,
)
assert OUTCOME.itemsize == 40


#: A fragment as it arrives, before it is known whether it waits.
FRAGMENT_ROW = np.dtype(
    [
        ("index", np.int64),  # of its frame
        ("source", np.int64),
        ("destination", np.int64),
        ("protocol", np.int64),
        ("identification", np.int64),
        ("begin", np.int64),  # in units of 8 bytes
        ("bytes", np.int64),
        ("more", np.int64),
    ]
)

#: The session that carried a datagram's first fragment; a row per datagram that is known.
DATAGRAM = np.dtype([("id", np.int64), ("session", np.int32), ("direction", np.int32)])  # id 0: it was not forwarded


@dataclass(frozen=True, eq=False)
class State(Bundle):
    """All arrays of one simulator, as kernels take them. Tables of the topology first, then what changes."""

    # the topology
    addresses: NDArray[Any]  # ADDRESS, open addressing
    points: NDArray[Any]
    prefixes: NDArray[Any]
    endpoints: NDArray[Any]
    services: NDArray[Any]
    rules: NDArray[Any]  # open addressing
    timeouts: NDArray[np.int64]  # rows of STATES each, nanoseconds
    probe_runs: NDArray[np.int64]
    backend_slots: NDArray[np.int32]
    backend_health: NDArray[np.uint8]
    # NAT ports
    pools: NDArray[Any]
    nat_ips: NDArray[Any]
    nat_ip_order: NDArray[np.int32]  # the places of the active ones, service by service
    event_times: NDArray[np.int64]  # nanoseconds after the first packet, in order
    port_session: NDArray[np.int32]
    used_ports: NDArray[np.uint64]
    used_in_stretch: NDArray[np.uint32]
    port_counters: NDArray[np.int64]
    blocks: NDArray[Any]
    cap_counts: NDArray[np.int32]
    cursors: NDArray[np.int64]
    host_sessions: NDArray[np.int64]
    # sessions
    sessions: NDArray[Any]
    session_ends: NDArray[Any]
    timers: NDArray[Any]
    cells: NDArray[np.uint64]
    acks: NDArray[np.uint32]  # [row, side]: what consumer and backend acknowledged last; empty if no service resets
    slots: NDArray[np.int32]
    slot_bits: NDArray[np.uint64]
    due: NDArray[Any]
    datagrams: NDArray[Any]
    # counters
    clock: NDArray[Any]
    counters: NDArray[Any]
    endpoint_drops: NDArray[np.int64]
    totals: NDArray[Any]  # [verdict]
    ended: NDArray[np.int64]
    log: NDArray[Any]
    resets: NDArray[Any]
