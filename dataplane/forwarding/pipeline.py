"""The order of the stages, in one place.

A vector of packets is classified as a whole, then the session rows that it may need are asked for, then one loop in
packet order lets time pass, finds or opens sessions, rewrites and counts. The order matters in that loop only: a
packet may see the SYN, the FIN or the expiry of the packet before it. Vector size never shows in a result.
"""

from typing import Any

import numpy as np

from dataplane.forwarding.admit import admit, note_new_session
from dataplane.forwarding.classify import classify, judge, set_flow, total_length
from dataplane.forwarding.count import count_in, count_out
from dataplane.forwarding.translate import rewrite, step_ttl
from dataplane.kernel import inlined, kernel, load16, load32, prefetch
from dataplane.nat.life import DONE, DRAIN_LOG, GROW_SESSIONS, open_session, pass_time, reopen, see
from dataplane.nat.ports import session_at
from dataplane.nat.sessions import find, has_room, hint_of, is_session
from dataplane.nat.tcp import is_first_packet
from dataplane.nat.timers import FOREVER, TICK_BITS
from dataplane.packets.batch import FIRST_TIME, LAST_TIME, TIME_UNREPRESENTABLE
from dataplane.packets.checksum import reversed_change
from dataplane.packets.headers import DESTINATION, DESTINATION_PORT, SOURCE, SOURCE_PORT
from dataplane.records import CAPTURED_REPLY, CLOSING, EITHER, HELD, RESET, TO_CONSUMER, TO_SERVICE
from dataplane.verdict import Verdict

_FORWARDED = int(Verdict.FORWARDED)
_BYPASSED = int(Verdict.BYPASSED)
_FILTERED = int(Verdict.FILTERED)
_NO_SESSION = int(Verdict.NO_SESSION)

#: A minute in nanoseconds: the grain of the metrics.
MINUTE = 60_000_000_000


@kernel
def run(state: Any, frames: Any, data: Any, begin: Any, packets: Any, outcomes: Any) -> Any:
    """Send frames from `begin` on through the service; returns (status, first frame not yet done).

    `packets` is scratch, one vector long. `outcomes` has a row per frame, or none when nobody asks.
    Status DONE: all frames are done; another: Python has to act before the frame can be.
    """
    count = len(frames)
    while begin < count:
        size = min(len(packets), count - begin)
        for k in range(size):
            classify(state, frames[begin + k], data, packets[k])
        for k in range(size):
            look_ahead(state, packets[k])
        for k in range(size):
            status = forward(state, frames[begin + k], data, packets[k], outcomes, begin + k)
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
    """Find the session that a packet probably belongs to, and ask for its row."""
    if packet["direction"] == TO_SERVICE or packet["direction"] == CAPTURED_REPLY:
        if packet["verdict"] == _FORWARDED:
            packet["hint"] = hint_of(state.cells, np.int64(packet["tag"]))
    if packet["hint"] >= 0:
        prefetch(state.sessions, np.int64(packet["hint"]))


@inlined
def forward(state: Any, frame: Any, data: Any, packet: Any, outcomes: Any, place: Any) -> Any:
    """One packet in its turn: all of it, or nothing but the passing of time and a status that is not DONE."""
    clock = state.clock[0]
    now = clock["now"]
    usable = frame["flags"] & TIME_UNREPRESENTABLE == 0 and FIRST_TIME <= frame["time_ns"] <= LAST_TIME
    if usable and (frame["time_ns"] > now or clock["started"] == 0):
        now = frame["time_ns"]
    if clock["started"] == 0:
        _start(state, now)
    if now >= clock["next_due"] or now >= clock["minute_end"]:
        status = pass_time(state, now)
        if status != DONE:
            return status

    row = np.int64(-1)
    if packet["direction"] == EITHER:
        _tell_direction(state, frame, data, packet)
    direction = packet["direction"]
    verdict = np.int64(packet["verdict"])
    if verdict == _FORWARDED:
        if direction == TO_CONSUMER:
            row, verdict = _session_of_port(state, packet)
        else:
            row = _session_of_flow(state, packet)
            if direction == CAPTURED_REPLY:
                if row < 0:
                    verdict = np.int64(_NO_SESSION)
            elif row < 0 or _opens_anew(state, packet, row):
                if not has_room(state):
                    return GROW_SESSIONS
                if clock["logging"] and clock["logged"] == len(state.log):
                    return DRAIN_LOG
                point = np.int64(frame["point"])
                number = clock["received"] + 1
                row, verdict = _new_session(state, packet, point, number, now, row)
        if verdict == _FORWARDED:
            _translate(state, data, packet, direction, row, now)

    size = packet["bytes"]
    state.totals[verdict, 0] += 1
    state.totals[verdict, 1] += size
    endpoint = np.int64(packet["endpoint"])
    if verdict > _BYPASSED:
        state.endpoint_drops[endpoint, verdict] += 1  # the last row is nobody's
    if usable:
        if frame["time_ns"] < now:
            clock["backward_times"] += 1
        else:
            jump = now - clock["now"]
            if jump < 0:
                jump = np.int64(FOREVER)  # more than 292 years
            if jump > clock["largest_jump"]:
                clock["largest_jump"] = jump
    else:
        clock["unusable_times"] += 1
    clock["now"] = now
    clock["received"] += 1
    if len(outcomes):
        _tell(state, frame, packet, row, verdict, outcomes[place])
    return DONE


@kernel
def _start(state: Any, now: Any) -> None:
    """The first packet sets the clock, the wheel and the minute."""
    clock = state.clock[0]
    clock["started"] = 1
    clock["now"] = now
    clock["origin"] = now
    clock["tick"] = now >> TICK_BITS
    clock["minute_end"] = (now // MINUTE + 1) * MINUTE
    for nat_ip in range(len(state.nat_ips)):
        state.nat_ips[nat_ip]["since"] = now


@kernel
def _tell_direction(state: Any, frame: Any, data: Any, packet: Any) -> None:
    """Between two endpoints: a live reply comes first, else the packet travels to_service."""
    direction = TO_SERVICE
    network = packet["network_header"]
    if packet["fault"] == _FORWARDED:
        transport = packet["transport_header"]
        source = load32(data, network + SOURCE)
        destination = load32(data, network + DESTINATION)
        source_port = load16(data, transport + SOURCE_PORT)
        destination_port = load16(data, transport + DESTINATION_PORT)
        addressed = packet["endpoint"]
        packet["endpoint"] = packet["source_endpoint"]
        set_flow(state, packet, destination, destination_port, source_port)
        if _session_of_flow(state, packet) >= 0:
            direction = CAPTURED_REPLY
        else:
            packet["endpoint"] = addressed
            set_flow(state, packet, source, source_port, destination_port)
    packet["direction"] = direction
    packet["service"] = state.endpoints[packet["endpoint"]]["service"]
    judge(state, packet, direction, total_length(data, network, frame))


@inlined
def _session_of_flow(state: Any, packet: Any) -> Any:
    """The live session of a consumer's packet or of a captured reply, or -1."""
    hint = np.int64(packet["hint"])
    endpoint = packet["endpoint"]
    protocol = packet["protocol"]
    if hint >= 0 and is_session(state.sessions[hint], packet["flow"], endpoint, protocol):
        return hint
    return find(state, np.int64(packet["tag"]), packet["flow"], endpoint, protocol)


@inlined
def _session_of_port(state: Any, packet: Any) -> Any:
    """The live session that has the NAT port of a provider's packet, and the verdict."""
    if packet["pool"] < 0:
        return np.int64(-1), np.int64(_NO_SESSION)
    row = session_at(state, np.int64(packet["pool"]), packet["flow"] & 0xFFFF)
    if row < 0 or state.sessions[row]["state"] == HELD:
        return np.int64(-1), np.int64(_NO_SESSION)
    packet["endpoint"] = state.sessions[row]["endpoint"]
    if (packet["flow"] >> 16) & 0xFFFF != state.sessions[row]["backend_port"]:
        return np.int64(-1), np.int64(_FILTERED)
    return row, np.int64(_FORWARDED)


@inlined
def _opens_anew(state: Any, packet: Any, row: Any) -> Any:
    """Whether a consumer's packet is a SYN for a session that is closing or reset."""
    kind = state.sessions[row]["state"]
    return (kind == CLOSING or kind == RESET) and is_first_packet(packet["tcp_flags"])


@kernel
def _new_session(state: Any, packet: Any, point: Any, number: Any, now: Any, leaving: Any) -> Any:
    """Open a session, if it may be, after ending the one that it follows; returns its row and the verdict."""
    verdict, pool, backend_port = admit(state, packet, point, now, leaving)
    if verdict != _FORWARDED:
        return np.int64(-1), verdict
    if leaving >= 0:
        reopen(state, leaving, now)
    note_new_session(state, packet, pool)
    row = open_session(state, packet, number, now, pool, backend_port)
    state.sessions[row]["point"] = point
    return row, verdict


@inlined
def _translate(state: Any, data: Any, packet: Any, direction: Any, row: Any, now: Any) -> None:
    """Rewrite a packet of a live session, let the session see it, and count it."""
    session = state.sessions[row]
    end = state.session_ends[row]
    endpoint = np.int64(session["endpoint"])
    counter = state.counters[endpoint]
    size = packet["bytes"]
    pool = state.pools[session["pool"]]
    decrement = np.int64(state.services[pool["service"]]["decrement_ttl"])
    header_delta = np.int64(session["address_delta"])
    transport_delta = np.int64(session["transport_delta"])
    nat = np.int64(pool["nat_address"])
    backend = np.int64(pool["backend_address"])
    nat_port = np.int64(session["nat_port"])
    backend_port = np.int64(session["backend_port"])
    network = packet["network_header"]
    if direction == TO_SERVICE:
        header_delta += step_ttl(data, network, -decrement)
        addresses = (nat << 32) | backend
        ports = (nat_port << 16) | backend_port
    elif direction == TO_CONSUMER:
        header_delta = reversed_change(header_delta) + step_ttl(data, network, -decrement)
        transport_delta = reversed_change(transport_delta)
        flow = session["flow"]
        addresses = (np.int64(state.endpoints[endpoint]["address"]) << 32) | ((flow >> 32) & 0xFFFFFFFF)
        ports = ((flow & 0xFFFF) << 16) | ((flow >> 16) & 0xFFFF)
    else:
        header_delta += step_ttl(data, network, decrement)
        addresses = (backend << 32) | nat
        ports = (backend_port << 16) | nat_port
    rewrite(data, packet, addresses, ports, header_delta, transport_delta)
    see(state, row, np.int64(packet["tcp_flags"]), direction == TO_SERVICE, now)
    if direction == TO_SERVICE:
        count_in(session, end, counter, size)
    else:
        count_out(session, end, counter, size)


@inlined
def _tell(state: Any, frame: Any, packet: Any, row: Any, verdict: Any, outcome: Any) -> None:
    """Write down what became of a packet."""
    outcome["verdict"] = verdict
    outcome["direction"] = packet["direction"]
    outcome["endpoint"] = packet["endpoint"]
    outcome["bytes"] = packet["bytes"]
    outcome["time"] = state.clock[0]["now"]
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
