"""The order of the stages, in one place.

A vector of packets is classified as a whole, then the session rows that it may need are asked for, then one loop in
packet order lets time pass, finds or opens sessions, rewrites and counts. The order matters in that loop only: a
packet may see the SYN, the FIN or the expiry of the packet before it. Vector size never shows in a result.
"""

from typing import Any

import numpy as np

from dataplane.bundle import as_table
from dataplane.forwarding.admit import admit, foresee, note_new_session
from dataplane.forwarding.classify import classify, judge, read_transport
from dataplane.forwarding.clock import is_due, keep_time, start, time_of
from dataplane.forwarding.count import count_in, count_out
from dataplane.forwarding.icmp import rewrite_error
from dataplane.forwarding.translate import rewrite, rewrite_addresses, step_ttl
from dataplane.kernel import inlined, kernel, load32, prefetch, unlikely
from dataplane.nat.fragments import OVERLAP, UNRESOLVED
from dataplane.nat.life import DONE, DRAIN_LOG, GROW_SESSIONS, only_refreshes, open_session, pass_time, reopen, see
from dataplane.nat.ports import has_port, session_at
from dataplane.nat.sessions import find, has_room, hint_of
from dataplane.nat.tcp import HANDSHAKE_REVIVES, is_first_packet
from dataplane.packets.checksum import reversed_change
from dataplane.packets.headers import ACK, DESTINATION, PROTOCOL, SOURCE, TCP_ACKNOWLEDGEMENT
from dataplane.records import (
    CAPTURED_REPLY,
    CLOSING,
    EITHER,
    FIRST_FRAGMENT,
    HELD,
    ICMP_ERROR,
    LATER_FRAGMENT,
    PLAIN,
    RESET,
    TO_CONSUMER,
    TO_SERVICE,
    UNUSED,
)
from dataplane.verdict import Verdict

_FORWARDED = int(Verdict.FORWARDED)
_BYPASSED = int(Verdict.BYPASSED)
_FILTERED = int(Verdict.FILTERED)
_NO_SESSION = int(Verdict.NO_SESSION)
_UNRESOLVED = int(Verdict.FRAGMENT_UNRESOLVED)
_OVERLAP = int(Verdict.FRAGMENT_OVERLAP)
_UNMATCHED = int(Verdict.ICMP_UNMATCHED)


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
            classify(state, frames[begin + k], data, packets[k])
        for k in range(size):
            look_ahead(state, packets[k])
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
def look_ahead(state: Any, packet: Any) -> None:
    """Find the session that a packet probably belongs to, and ask for its row; or for what opening one will need."""
    row = np.int64(-1)
    if not unlikely(packet["verdict"] != _FORWARDED or packet["kind"] != PLAIN):
        direction = packet["direction"]
        if direction == TO_CONSUMER:
            if packet["pool"] >= 0:
                row = session_at(state, np.int64(packet["pool"]), packet["flow"] & 0xFFFF)
        elif direction == TO_SERVICE or direction == CAPTURED_REPLY:
            row = hint_of(state.cells, np.int64(packet["tag"]))
            if row < 0 and direction == TO_SERVICE:
                foresee(state, packet)
    packet["session"] = row
    if row >= 0:
        prefetch(state.sessions, row)


@inlined
def forward(state: Any, frame: Any, data: Any, packet: Any, sides: Any, place: Any) -> Any:
    """One packet in its turn: all of it, or nothing but the passing of time and a status that is not DONE."""
    clock = state.clock[0]
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
    row = _session_foreseen(state, packet)
    if row >= 0:
        state.sessions[row]["last_refresh"] = now
    else:
        slot = np.int64(datagrams[place]) if len(datagrams) else np.int64(UNRESOLVED)
        status = _take_slow_path(state, frame, data, packet, slot, (now, number))
        if status != DONE:
            return status
        if packet["kind"] == PLAIN or packet["kind"] == FIRST_FRAGMENT:
            row = np.int64(packet["session"])
    if row >= 0:
        _translate(state, data, packet, row)
    verdict = np.int64(packet["verdict"])
    total = state.totals[verdict]
    total["packets"] += 1
    total["bytes"] += np.int64(packet["bytes"])
    if verdict > _BYPASSED:
        state.endpoint_drops[np.int64(packet["endpoint"]), verdict] += 1  # the last row is nobody's
    if len(outcomes):
        _tell(state, frame, packet, now, outcomes[place])
    return DONE


@inlined
def _session_foreseen(state: Any, packet: Any) -> Any:
    """The session of a packet, if it is the one foreseen and such a packet only refreshes it; else -1.

    So most packets of an open session take the short way: only PLAIN ones that nothing is wrong with have a session
    foreseen (`look_ahead`).
    """
    row = np.int64(packet["session"])
    if row < 0:
        return row
    session = state.sessions[row]
    flow = packet["flow"]
    if unlikely(not only_refreshes(session["state"], packet["tcp_flags"])):
        return np.int64(-1)
    if packet["direction"] == TO_CONSUMER:
        if unlikely(
            session["pool"] != packet["pool"]
            or session["nat_port"] != flow & 0xFFFF
            or session["backend_port"] != (flow >> 16) & 0xFFFF
        ):
            return np.int64(-1)
        packet["endpoint"] = session["endpoint"]
        return row
    is_another = (
        session["flow"] != flow
        or session["endpoint"] != packet["endpoint"]
        or session["protocol"] != packet["protocol"]
    )
    return np.int64(-1) if unlikely(is_another) else row


@kernel
def _take_slow_path(state: Any, frame: Any, data: Any, packet: Any, slot: Any, moment: Any) -> Any:
    """Find any packet's verdict and its session (-1: it is not forwarded), and write them into its PACKET row.

    The session sees the packet, but PLAIN ones and first fragments are yet to be translated. `moment` is (the clock at
    it, its number).
    """
    now, number = moment
    row = np.int64(-1)
    if unlikely(packet["direction"] == EITHER):
        tell_direction(state, frame, data, packet, slot)
    direction = packet["direction"]
    verdict = np.int64(packet["verdict"])
    kind = packet["kind"]
    if verdict == _FORWARDED and slot < 0 and (kind == FIRST_FRAGMENT or kind == LATER_FRAGMENT):
        verdict = np.int64(_UNRESOLVED if slot == UNRESOLVED else _OVERLAP)
    if verdict == _FORWARDED:
        if kind == LATER_FRAGMENT:
            row, verdict = _session_of_datagram(state, packet, slot)
        elif direction == TO_CONSUMER:
            row, verdict = _session_of_port(state, packet)
        else:
            row = _session_of_flow(state, packet)
            if direction == CAPTURED_REPLY or kind == ICMP_ERROR:
                if row < 0:
                    verdict = np.int64(_NO_SESSION)
            elif row < 0 or _opens_anew(state, packet, row):
                if unlikely(not has_room(state)):
                    return GROW_SESSIONS
                if state.clock[0]["logging"] and state.clock[0]["logged"] == len(state.log):
                    return DRAIN_LOG
                row, verdict = _new_session(state, packet, (np.int64(frame["point"]), now, number), row)
        if verdict == _FORWARDED:
            if kind == PLAIN or kind == FIRST_FRAGMENT:
                see(state, row, np.int64(packet["tcp_flags"]), direction == TO_SERVICE, now)
            else:
                _translate_special(state, frame, data, packet, row, now)
        elif kind == ICMP_ERROR:
            verdict = np.int64(_UNMATCHED)
            if direction == TO_CONSUMER:
                packet["endpoint"] = -1
    if kind == FIRST_FRAGMENT and slot >= 0:
        datagram = state.datagrams[slot]
        datagram["session"] = row
        datagram["direction"] = direction
        datagram["id"] = state.session_ends[row]["id"] if verdict == _FORWARDED else 0
    packet["verdict"] = verdict
    packet["session"] = row
    return DONE


@kernel
def tell_direction(state: Any, frame: Any, data: Any, packet: Any, slot: Any) -> None:
    """Between two endpoints: a live reply comes first, else the packet travels to_service.

    A later fragment travels as the first of its datagram did.
    """
    network = packet["network_header"]
    nobody = np.int64(-1)
    route = (load32(data, network + SOURCE), load32(data, network + DESTINATION), nobody, nobody)
    addressed, sender = packet["endpoint"], packet["source_endpoint"]
    for direction in (CAPTURED_REPLY, TO_SERVICE):
        packet["direction"] = direction
        packet["endpoint"] = sender if direction == CAPTURED_REPLY else addressed
        packet["source_endpoint"] = addressed if direction == CAPTURED_REPLY else sender
        packet["service"] = state.endpoints[packet["endpoint"]]["service"]
        packet["protocol"] = data[network + PROTOCOL]
        packet["kind"] = PLAIN
        read_transport(state, frame, data, packet, np.int64(direction), route)
        if direction == CAPTURED_REPLY and packet["fault"] == _FORWARDED:
            if packet["kind"] == LATER_FRAGMENT:
                at = slot if slot >= 0 else OVERLAP - slot
                if slot != UNRESOLVED and state.datagrams[at]["id"] and state.datagrams[at]["direction"] == direction:
                    break
            elif _session_of_flow(state, packet) >= 0:
                break
    judge(state, frame, packet, np.int64(packet["direction"]))


@inlined
def _session_of_flow(state: Any, packet: Any) -> Any:
    """The live session of a consumer's packet or of a captured reply, or -1."""
    return find(state, np.int64(packet["tag"]), packet["flow"], packet["endpoint"], packet["protocol"])


@inlined
def _session_of_port(state: Any, packet: Any) -> Any:
    """The live session that has the NAT port of a provider's packet, and the verdict."""
    if packet["pool"] < 0:
        return np.int64(-1), np.int64(_NO_SESSION)
    row = session_at(state, np.int64(packet["pool"]), packet["flow"] & 0xFFFF)
    if row < 0 or not has_port(state.sessions[row], packet["pool"], packet["flow"] & 0xFFFF):
        return np.int64(-1), np.int64(_NO_SESSION)
    if state.sessions[row]["state"] == HELD:
        return np.int64(-1), np.int64(_NO_SESSION)
    packet["endpoint"] = state.sessions[row]["endpoint"]
    if (packet["flow"] >> 16) & 0xFFFF != state.sessions[row]["backend_port"]:
        return np.int64(-1), np.int64(_FILTERED)
    return row, np.int64(_FORWARDED)


@kernel
def _session_of_datagram(state: Any, packet: Any, slot: Any) -> Any:
    """The live session that carried the first fragment of a datagram, and the verdict."""
    datagram = state.datagrams[slot]
    row = np.int64(datagram["session"])
    if datagram["id"] == 0 or state.session_ends[row]["id"] != datagram["id"]:
        return np.int64(-1), np.int64(_UNRESOLVED)
    kind = state.sessions[row]["state"]
    if kind == UNUSED or kind == HELD:
        return np.int64(-1), np.int64(_UNRESOLVED)
    packet["endpoint"] = state.sessions[row]["endpoint"]
    return row, np.int64(_FORWARDED)


@inlined
def _opens_anew(state: Any, packet: Any, row: Any) -> Any:
    """Whether a consumer's packet is a SYN for a session that is closing or reset."""
    kind = state.sessions[row]["state"]
    if (kind != CLOSING and kind != RESET) or not is_first_packet(packet["tcp_flags"]):
        return False
    return state.services[packet["service"]]["tcp_policy"] & HANDSHAKE_REVIVES == 0


@inlined
def _new_session(state: Any, packet: Any, arrival: Any, leaving: Any) -> Any:
    """Open a session, if it may be, after ending the one that it follows; returns its row and the verdict.

    `arrival` is (point, the clock, the packet's number).
    """
    point, now, number = arrival
    verdict, grant = admit(state, packet, arrival, leaving)
    if verdict != _FORWARDED:
        return np.int64(-1), verdict
    if leaving >= 0:
        reopen(state, leaving, now, number)
    note_new_session(state, packet, grant[0])
    row = open_session(state, packet, number, now, grant)
    state.sessions[row]["point"] = point
    return row, verdict


@inlined
def _ends(session: Any, pool: Any, endpoints: Any, direction: Any) -> Any:
    """What a packet of a session gets: ((sender's address, port), (receiver's address, port))."""
    nat = np.int64(pool["nat_address"]), np.int64(session["nat_port"])
    backend = np.int64(pool["backend_address"]), np.int64(session["backend_port"])
    if direction == TO_SERVICE:
        return nat, backend
    if direction == CAPTURED_REPLY:
        return backend, nat
    flow = session["flow"]
    endpoint = np.int64(endpoints[session["endpoint"]]["address"])
    return (endpoint, flow & 0xFFFF), ((flow >> 32) & 0xFFFFFFFF, (flow >> 16) & 0xFFFF)


@inlined
def _translate(state: Any, data: Any, packet: Any, row: Any) -> None:
    """Rewrite a packet of a live session, and count it."""
    session = state.sessions[row]
    pool = state.pools[session["pool"]]
    direction = packet["direction"]
    header_delta = np.int64(session["address_delta"])
    transport_delta = np.int64(session["transport_delta"])
    if direction == TO_CONSUMER:
        header_delta = reversed_change(header_delta)
        transport_delta = reversed_change(transport_delta)
    header_delta += _step_ttl(session, data, packet, direction)
    sender, receiver = _ends(session, pool, state.endpoints, direction)
    rewrite(data, packet, sender, receiver, header_delta, transport_delta)
    if unlikely(len(state.acks) > 0) and packet["tcp_flags"] & ACK:
        _note_acknowledgement(state.services, state.acks, data, packet, row)
    _count(session, state.session_ends[row], state.counters, packet, direction)


@kernel
def _note_acknowledgement(services: Any, acks: Any, data: Any, packet: Any, row: Any) -> None:
    """Keep what the sender expects next, for a reset at an idle time-out."""
    if services[packet["service"]]["idle_reset"]:
        side = 0 if packet["direction"] == TO_SERVICE else 1
        acks[row, side] = load32(data, packet["transport_header"] + TCP_ACKNOWLEDGEMENT)


@kernel
def _translate_special(state: Any, frame: Any, data: Any, packet: Any, row: Any, now: Any) -> None:
    """Rewrite and count a later fragment (no transport header; the session sees it) or an ICMP error (it does not)."""
    direction = packet["direction"]
    network = packet["network_header"]
    session = state.sessions[row]
    pool = state.pools[session["pool"]]
    sender, receiver = _ends(session, pool, state.endpoints, direction)
    header_delta = _step_ttl(session, data, packet, direction)
    if packet["kind"] == ICMP_ERROR:
        there = np.int64(frame["captured"]) - (network - frame["offset"])
        rewrite_error(data, network, min(there, np.int64(packet["bytes"])), header_delta, sender, receiver)
        state.session_ends[row]["last_packet"] = now
    else:
        address_delta = np.int64(session["address_delta"])
        header_delta += reversed_change(address_delta) if direction == TO_CONSUMER else address_delta
        rewrite_addresses(data, network, sender, receiver, header_delta)
        see(state, row, np.int64(0), direction == TO_SERVICE, now)
    _count(session, state.session_ends[row], state.counters, packet, direction)


@inlined
def _step_ttl(session: Any, data: Any, packet: Any, direction: Any) -> Any:
    """Move the time to live on; returns what that adds to the header's delta."""
    decrement = np.int64(session["decrement_ttl"])
    return step_ttl(data, packet["network_header"], decrement if direction == CAPTURED_REPLY else -decrement)


@inlined
def _count(session: Any, end: Any, counters: Any, packet: Any, direction: Any) -> None:
    """Count a forwarded packet for its session and its endpoint."""
    counter = counters[session["endpoint"]]
    if direction == TO_SERVICE:
        count_in(session, end, counter, np.int64(packet["bytes"]))
    else:
        count_out(session, end, counter, np.int64(packet["bytes"]))


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
            outcome["provider_point"] = state.services[packet["service"]]["point"]
        outcome["network_header"] = packet["network_header"] - frame["offset"]
