"""The order of the stages, in one place.

A vector of packets is parsed as a whole, then the session rows that it may need are asked for, then one loop in
packet order lets time pass, finds or opens sessions, rewrites and counts. The order matters in that loop only: a
packet may see the SYN, the FIN or the expiry of the packet before it. Vector size never shows in a result.

Most packets belong to an open session which they only refresh: that is the fast path, told by one look at the session's
row. The row tells also which way the packet travels, so nobody's address has to be looked up. All others are decided
in `slow_path.py`.
"""

from typing import Any

import numpy as np

from dataplane.bundle import as_table
from dataplane.forwarding.admit import foresee
from dataplane.forwarding.classify import tell_way, turned
from dataplane.forwarding.clock import is_calm, is_due, keep_time, start, time_of
from dataplane.forwarding.parse import parse, set_tag
from dataplane.forwarding.slow_path import take_slow_path
from dataplane.forwarding.tables import POINT_HAS_ENDPOINTS, POINT_HAS_NAT_IPS
from dataplane.forwarding.translate import translate
from dataplane.kernel import inlined, kernel, prefetch, unlikely
from dataplane.nat.fragments import UNRESOLVED
from dataplane.nat.life import DONE, only_refreshes, pass_time
from dataplane.nat.ports import session_at
from dataplane.nat.sessions import hint_of, prefetch_flow
from dataplane.records import (
    BETWEEN_ENDPOINTS,
    CAPTURED_REPLY,
    FIRST_FRAGMENT,
    NO_DIRECTION,
    PLAIN,
    TO_CONSUMER,
    TO_SERVICE,
    UNTOLD,
)
from dataplane.verdict import Verdict

_FORWARDED = int(Verdict.FORWARDED)
_BYPASSED = int(Verdict.BYPASSED)


@kernel
def run(state: Any, frames: Any, data: Any, begin: Any, packets: Any, sides: Any) -> Any:
    """Send frames from `begin` on through the service; returns (status, first frame not yet done).

    `packets` is scratch, a vector long; `sides` is (datagrams, outcomes), with a row per frame or none when there are
    no translated fragments, or nobody asks for outcomes.
    Status DONE: all frames are done; another: Python has to act before the frame can be.
    """
    frames = as_table(frames)
    data = as_table(data)
    count = len(frames)
    while begin < count:
        size = min(len(packets), count - begin)
        for k in range(size):
            begin_packet(state, frames[begin + k], data, packets[k])
        for k in range(size):
            look_ahead(state, frames[begin + k], data, packets[k])
        for k in range(size):
            status = forward(state, frames[begin + k], data, packets[k], sides, begin + k)
            if status != DONE:
                return status, begin + k
        begin += size
    return DONE, begin


@kernel
def first_wrong(frames: Any, size: Any, points: Any) -> Any:
    """The first frame that lies outside `size` bytes or whose point is none of `points`, or -1."""
    for index in range(len(frames)):
        frame = frames[index]
        if frame["offset"] < 0 or frame["offset"] > size - np.int64(frame["captured"]) or frame["point"] >= points:
            return index
    return -1


@inlined
def begin_packet(state: Any, frame: Any, data: Any, packet: Any) -> None:
    """Parse a packet and ask for where its session is looked for; or say which way it travels, to know what to ask for.

    Where NAT IPs live that cannot wait: such an address may be an endpoint's too.
    """
    if parse(frame, data, packet):
        kinds = state.points[np.int64(frame["point"])]["kinds"]
        if kinds & POINT_HAS_ENDPOINTS:
            set_tag(state, frame, packet)
            prefetch_flow(state.cells, np.int64(packet["tag"]))
            if kinds & POINT_HAS_NAT_IPS == 0:
                return
    elif packet["direction"] == UNTOLD:
        set_tag(state, frame, packet)
    else:
        return
    tell_way(state, frame, data, packet)


@inlined
def look_ahead(state: Any, frame: Any, data: Any, packet: Any) -> None:
    """Find the session that a packet probably belongs to, and ask for its row; or for what opening one will need."""
    row = np.int64(-1)
    direction = packet["direction"]
    if direction == UNTOLD:
        row = hint_of(state.cells, np.int64(packet["tag"]))
        if row < 0:
            tell_way(state, frame, data, packet)
            direction = packet["direction"]
    elif not unlikely(packet["verdict"] != _FORWARDED or packet["kind"] != PLAIN):
        if direction == TO_CONSUMER:
            if packet["pool"] >= 0:
                row = session_at(state, np.int64(packet["pool"]), packet["flow"] & 0xFFFF)
        elif direction == TO_SERVICE or direction == CAPTURED_REPLY:
            row = hint_of(state.cells, np.int64(packet["tag"]))
    if row < 0 and direction == TO_SERVICE and packet["verdict"] == _FORWARDED and packet["kind"] == PLAIN:
        foresee(state, packet)
    packet["session"] = row
    if row >= 0:
        prefetch(state.sessions, row)


@inlined
def forward(state: Any, frame: Any, data: Any, packet: Any, sides: Any, place: Any) -> Any:
    """One packet in its turn: all of it, or nothing but the passing of time and a status that is not DONE."""
    clock = state.clock[0]
    now, is_ahead = frame["time_ns"], True
    if not is_calm(clock, frame):
        now, is_ahead = time_of(clock, frame)
        if is_due(state, now):
            if unlikely(clock["started"] == 0):
                start(state, now)
            status = pass_time(state, now)
            if status != DONE:
                return status
    status = treat(state, frame, data, packet, sides, (place, now, clock["received"] + 1))
    if status == DONE:
        keep_time(clock, frame, now, is_ahead)
    return status


@inlined
def treat(state: Any, frame: Any, data: Any, packet: Any, sides: Any, turn: Any) -> Any:
    """What becomes of a packet, once time has passed up to it; a status other than DONE if Python has to act.

    `turn` is (its place in the batch, the clock at it, its number among the packets received).
    """
    place, now, number = turn
    datagrams, outcomes = sides
    row = np.int64(packet["session"])
    direction = np.int64(NO_DIRECTION)
    if row >= 0:
        direction = _way_foreseen(state, frame, data, packet, row)
    if direction != NO_DIRECTION:
        state.sessions[row]["last_refresh"] = now
        translate(state, data, packet, row, direction)
        _count_total(state, packet, _FORWARDED)
        if len(outcomes):
            packet["direction"] = direction
            packet["endpoint"] = state.sessions[row]["endpoint"]
    else:
        slot = np.int64(datagrams[place]) if len(datagrams) else np.int64(UNRESOLVED)
        status = take_slow_path(state, frame, data, packet, slot, (now, number))
        if status != DONE:
            return status
        row = np.int64(packet["session"])
        if row >= 0 and (packet["kind"] == PLAIN or packet["kind"] == FIRST_FRAGMENT):
            translate(state, data, packet, row, np.int64(packet["direction"]))
        verdict = np.int64(packet["verdict"])
        _count_total(state, packet, verdict)
        if verdict > _BYPASSED:
            state.endpoint_drops[np.int64(packet["endpoint"]), verdict] += 1  # the last row is nobody's
    if len(outcomes):
        _tell(state, frame, packet, now, outcomes[place])
    return DONE


@inlined
def _count_total(state: Any, packet: Any, verdict: Any) -> None:
    total = state.totals[verdict]
    total["packets"] += 1
    total["bytes"] += np.int64(packet["bytes"])


@inlined
def _way_foreseen(state: Any, frame: Any, data: Any, packet: Any, row: Any) -> Any:
    """Which way a packet travels, if it is of the session foreseen and such a packet only refreshes it.

    Else NO_DIRECTION. So most packets of an open session take the short way: only PLAIN ones that nothing is wrong with
    have a session foreseen (`look_ahead`).
    """
    nowhere = np.int64(NO_DIRECTION)
    session = state.sessions[row]
    direction = np.int64(packet["direction"])
    flow = packet["flow"]
    if unlikely(not only_refreshes(session["state"], packet["tcp_flags"])):
        return nowhere
    if direction == TO_CONSUMER:
        if unlikely(
            session["pool"] != packet["pool"]
            or session["nat_port"] != flow & 0xFFFF
            or session["backend_port"] != (flow >> 16) & 0xFFFF
        ):
            return nowhere
        return direction
    if unlikely(session["protocol"] != packet["protocol"]):
        return nowhere
    if direction != UNTOLD:
        if unlikely(session["flow"] != flow or session["endpoint"] != packet["endpoint"]):
            return nowhere
        return direction
    # The packet that opened the session came in here, with these addresses, and was told which way it travels.
    if unlikely(session["point"] != frame["point"] or session["marks"] & BETWEEN_ENDPOINTS):
        return nowhere
    endpoint = np.int64(state.endpoints[session["endpoint"]]["address"])
    destination = np.int64(packet["destination"])
    if session["flow"] == flow and endpoint == destination:
        direction = np.int64(TO_SERVICE)
    elif session["flow"] == turned(flow, destination) and endpoint == (flow >> 32) & 0xFFFFFFFF:
        direction = np.int64(CAPTURED_REPLY)
    else:
        return nowhere
    return direction


@inlined
def _tell(state: Any, frame: Any, packet: Any, now: Any, outcome: Any) -> None:
    """Write down what became of a packet when the clock said `now`."""
    row = np.int64(packet["session"])
    verdict = packet["verdict"]
    outcome["verdict"] = verdict
    outcome["direction"] = packet["direction"]
    outcome["endpoint"] = packet["endpoint"]
    outcome["bytes"] = packet["bytes"]
    outcome["time"] = now
    outcome["session"] = 0
    outcome["nat_address"] = 0
    outcome["nat_port"] = 0
    outcome["consumer_point"] = frame["point"]
    outcome["provider_point"] = frame["point"]
    outcome["network_header"] = 0
    if verdict == _FORWARDED:
        session = state.sessions[row]
        outcome["session"] = state.session_ends[row]["id"]
        outcome["nat_address"] = state.pools[session["pool"]]["nat_address"]
        outcome["nat_port"] = session["nat_port"]
        if packet["direction"] == TO_CONSUMER:
            outcome["consumer_point"] = session["point"]
        else:
            outcome["provider_point"] = state.services[state.pools[session["pool"]]["service"]]["point"]
        outcome["network_header"] = packet["network_header"] - frame["offset"]
