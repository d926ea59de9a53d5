"""A session from its first packet to the release of its port. Reads and writes every table of `nat/`.

A session is live while it can be found; then its port is held, if the service says so; then both are free again.
"""

from typing import Any

import numpy as np

from dataplane.kernel import inlined, kernel
from dataplane.nat.ports import cap_index, give_port, note_use, take_port
from dataplane.nat.sessions import give_row, insert, remove, take_row, timeout_in
from dataplane.nat.tcp import CLOSING_REFRESHES, closed_after, is_first_packet, seen_after, seen_in, state_after
from dataplane.nat.timers import FOREVER, arm, deadline, disarm, pop_due
from dataplane.packets.checksum import fold_short, word_change, word_sum
from dataplane.packets.headers import FIN, PROTOCOL_ICMP, PROTOCOL_UDP, RST
from dataplane.records import (
    BETWEEN_ENDPOINTS,
    BY_PACKET,
    BY_TIME,
    CLOSED,
    CLOSING,
    ESTABLISHED,
    HALF_CLOSED,
    HALF_OPEN,
    HELD,
    ICMP_QUERY,
    IDLE,
    RESET,
    TTL_COUNTS,
    UDP_ACTIVE,
    UDP_UNREPLIED,
    WAS_RESET,
)

#: What a kernel asks Python to do before it can go on with the same packet.
DONE, END_MINUTE, GROW_SESSIONS, DRAIN_LOG, TAKE_PLACE = 0, 1, 2, 3, 4


@inlined
def open_session(state: Any, packet: Any, number: Any, now: Any, grant: Any) -> Any:
    """Make the session of a consumer's packet, the `number`th received; returns its row.

    `grant` is what it was admitted to: (pool, port offset or -1, backend port, row of timeouts).
    """
    pool_number, offset, backend_port, timeouts = grant
    row = take_row(state)
    offset = take_port(state, packet, pool_number, backend_port, row, offset)
    note_use(state, pool_number, 1, now)
    pool = state.pools[pool_number]
    endpoint_row = np.int64(packet["endpoint"])
    endpoint = state.endpoints[endpoint_row]
    service = np.int64(endpoint["service"])
    nat_port = np.int64(pool["first_port"]) + offset

    flow = packet["flow"]
    # Two address_change: consumer to NAT IP, endpoint to backend.
    addresses = 4 * 0xFFFF - word_sum((flow >> 32) & 0xFFFFFFFF) - word_sum(np.int64(endpoint["address"]))
    addresses += pool["address_sum"]
    ports = word_change((flow >> 16) & 0xFFFF, nat_port) + word_change(flow & 0xFFFF, backend_port)
    # ICMP's checksum covers no addresses.
    transport = ports if packet["protocol"] == PROTOCOL_ICMP else addresses + ports

    session = state.sessions[row]
    session["flow"] = flow
    session["endpoint"] = endpoint_row
    session["protocol"] = packet["protocol"]
    session["pool"] = pool_number
    session["nat_port"] = nat_port
    session["backend_port"] = backend_port
    session["address_delta"] = fold_short(addresses)
    session["transport_delta"] = fold_short(transport)
    session["timeouts"] = timeouts
    between = BETWEEN_ENDPOINTS if packet["source_endpoint"] >= 0 else 0
    session["marks"] = (TTL_COUNTS if state.services[service]["decrement_ttl"] else 0) | between
    session["last_refresh"] = now
    session["packets_in"] = 0
    session["packets_out"] = 0
    session["bytes_in"] = 0
    session["bytes_out"] = 0
    end = state.session_ends[row]
    end["id"] = number
    end["first_packet"] = now
    end["last_packet"] = now
    end["tag"] = packet["tag"]
    end["packets_in_high"] = 0
    end["packets_out_high"] = 0

    # The packet that opens the session is applied to it as well.
    if packet["protocol"] == PROTOCOL_UDP:
        session["seen"] = 0
        # Where the two have one time-out, nobody could tell them apart.
        one = timeout_in(state, timeouts, UDP_UNREPLIED) == timeout_in(state, timeouts, UDP_ACTIVE)
        session["state"] = UDP_ACTIVE if one else UDP_UNREPLIED
    elif packet["protocol"] == PROTOCOL_ICMP:
        session["seen"] = 0
        session["state"] = ICMP_QUERY
    else:
        flags = np.int64(packet["tcp_flags"])
        seen = seen_after(0, flags, True)
        policy = np.int64(state.services[service]["tcp_policy"])
        before = HALF_OPEN if is_first_packet(flags) else ESTABLISHED
        after = state_after(before, seen, flags, True, policy)
        session["seen"] = seen_in(after, seen_in(before, seen))
        session["state"] = after

    if state.services[service]["idle_reset"]:
        state.acks[row, 0] = 0
        state.acks[row, 1] = 0
    insert(state.cells, np.int64(packet["tag"]), row)
    arm(state, row, deadline(state, row))
    state.host_sessions[pool["host"]] += 1
    if state.services[service]["endpoint_ports"] > 0:
        state.cap_counts[cap_index(state, service, endpoint_row, pool_number)] += 1
    counter = state.counters[endpoint_row]
    counter["sessions_created"] += 1
    counter["sessions_active"] += 1
    state.clock[0]["live"] += 1
    return row


@inlined
def only_refreshes(session_state: Any, flags: Any) -> Any:
    """Whether a packet with these TCP flags, from either side, leaves a session in this state and refreshes it."""
    if session_state == ESTABLISHED:
        return flags & (FIN | RST) == 0
    return session_state == UDP_ACTIVE or session_state == ICMP_QUERY


@inlined
def see(state: Any, row: Any, flags: Any, from_consumer: Any, now: Any) -> None:
    """A packet of a live session was forwarded: refresh its timer and move its state, as the state allows."""
    session = state.sessions[row]
    before = session["state"]
    if before == CLOSING or before == RESET:
        _see_closed(state, row, flags, from_consumer, now)
        return
    session["last_refresh"] = now
    if only_refreshes(before, flags):
        return
    if before == UDP_UNREPLIED:
        if not from_consumer:
            _move(state, row, np.int64(UDP_ACTIVE))
        return
    policy = np.int64(state.services[state.pools[session["pool"]]["service"]]["tcp_policy"])
    seen = seen_after(np.int64(session["seen"]), flags, from_consumer)
    after = state_after(np.int64(before), seen, flags, from_consumer, policy)
    session["seen"] = seen_in(after, seen)
    if after != before:
        _move(state, row, np.int64(after))


@kernel
def _see_closed(state: Any, row: Any, flags: Any, from_consumer: Any, now: Any) -> None:
    """The same for a session that is closing or reset, which a packet prolongs or revives only by policy."""
    session = state.sessions[row]
    before = np.int64(session["state"])
    policy = np.int64(state.services[state.pools[session["pool"]]["service"]]["tcp_policy"])
    after, seen = closed_after(before, np.int64(session["seen"]), flags, from_consumer, policy)
    session["seen"] = seen
    if after != before or policy & CLOSING_REFRESHES:
        session["last_refresh"] = now
    else:
        state.session_ends[row]["last_packet"] = now
    if after != before:
        _move(state, row, after)


@kernel
def _move(state: Any, row: Any, after: Any) -> None:
    """Put a session into another state; `last_refresh` is set already."""
    session = state.sessions[row]
    before = session["state"]
    session["state"] = after
    timeouts = session["timeouts"]
    if timeout_in(state, timeouts, after) < timeout_in(state, timeouts, before):
        # The timer stands where the old state put it, which may be too late.
        disarm(state, row)
        arm(state, row, deadline(state, row))


@kernel
def how_it_ends(session_state: Any) -> Any:
    """What to say of a session that ends in this state."""
    if session_state == CLOSING:
        return CLOSED
    if session_state == RESET:
        return WAS_RESET
    return IDLE


@inlined
def end_session(state: Any, row: Any, how: Any, moment: Any, cause: Any) -> None:
    """End a live session whose timer is not running: it can no longer be found, and its port is held or free."""
    session = state.sessions[row]
    pool_number = np.int64(session["pool"])
    pool = state.pools[pool_number]
    remove(state.cells, np.int64(state.session_ends[row]["tag"]), row)
    state.host_sessions[pool["host"]] -= 1
    state.counters[session["endpoint"]]["sessions_active"] -= 1
    state.ended[how] += 1
    clock = state.clock[0]
    clock["live"] -= 1
    if clock["logging"]:
        _log(state, row, how, moment, cause)
    if timeout_in(state, session["timeouts"], HELD) > 0:
        session["state"] = HELD
        session["last_refresh"] = moment
        pool["held"] += 1
        arm(state, row, deadline(state, row))
    else:
        release(state, row, moment)


@inlined
def release(state: Any, row: Any, moment: Any) -> None:
    """The port and the row of an ended session are free again."""
    session = state.sessions[row]
    pool_number = np.int64(session["pool"])
    pool = state.pools[pool_number]
    give_port(state, pool_number, np.int64(session["nat_port"]) - np.int64(pool["first_port"]))
    note_use(state, pool_number, -1, moment)
    service = np.int64(pool["service"])
    if state.services[service]["endpoint_ports"] > 0:
        state.cap_counts[cap_index(state, service, np.int64(session["endpoint"]), pool_number)] -= 1
    give_row(state, row)


@kernel
def _log(state: Any, row: Any, how: Any, moment: Any, cause: Any) -> None:
    clock = state.clock[0]
    entry = state.log[clock["logged"]]
    fill_log_row(state, entry, row, how, moment)
    entry["cause"] = cause
    clock["logged"] += 1


@kernel
def fill_log_row(state: Any, entry: Any, row: Any, how: Any, moment: Any) -> None:
    """Write what is to be told of a session into an ENDED row."""
    session = state.sessions[row]
    end = state.session_ends[row]
    entry["id"] = end["id"]
    entry["flow"] = session["flow"]
    entry["first_packet"] = end["first_packet"]
    entry["last_packet"] = max(end["last_packet"], session["last_refresh"])
    entry["ended"] = moment
    entry["packets_in"] = (np.int64(end["packets_in_high"]) << 32) + np.int64(session["packets_in"])
    entry["packets_out"] = (np.int64(end["packets_out_high"]) << 32) + np.int64(session["packets_out"])
    entry["bytes_in"] = session["bytes_in"]
    entry["bytes_out"] = session["bytes_out"]
    entry["endpoint"] = session["endpoint"]
    entry["pool"] = session["pool"]
    entry["nat_port"] = session["nat_port"]
    entry["backend_port"] = session["backend_port"]
    entry["protocol"] = session["protocol"]
    entry["how"] = how


@kernel
def list_live(state: Any, entries: Any, open_mark: Any) -> Any:
    """Fill ENDED rows with the sessions that are alive; returns how many there are."""
    count = 0
    for row in range(state.clock[0]["rows"]):
        kind = state.sessions[row]["state"]
        if kind != 0 and kind != HELD:
            fill_log_row(state, entries[count], row, open_mark, np.int64(0))
            count += 1
    return count


@inlined
def end_all_due(state: Any, until: Any) -> Any:
    """End and release everything whose moment has come by `until`, in order; DRAIN_LOG if a log is full."""
    clock = state.clock[0]
    while clock["next_due"] <= until:
        if clock["logged"] == len(state.log) or clock["resets"] == len(state.resets):
            return DRAIN_LOG
        row = pop_due(state, until)
        if row < 0:
            break
        session = state.sessions[row]
        moment = deadline(state, row)
        if session["state"] == HELD:
            state.pools[session["pool"]]["held"] -= 1
            release(state, row, moment)
        else:
            if session["state"] == ESTABLISHED or session["state"] == HALF_CLOSED:
                if state.services[state.pools[session["pool"]]["service"]]["idle_reset"]:
                    _note_idle_reset(state, row, moment)
            end_session(state, row, how_it_ends(session["state"]), moment, np.int64(BY_TIME))
    return DONE


@kernel
def _note_idle_reset(state: Any, row: Any, moment: Any) -> None:
    """Write down what has to be known to reset both sides of a session."""
    clock = state.clock[0]
    session = state.sessions[row]
    entry = state.resets[clock["resets"]]
    clock["resets"] += 1
    clock["resets_sent"] += 2
    entry["id"] = state.session_ends[row]["id"]
    entry["flow"] = session["flow"]
    entry["moment"] = moment
    entry["received"] = clock["received"]
    entry["to_consumer"] = state.acks[row, 0]
    entry["to_backend"] = state.acks[row, 1]
    entry["endpoint"] = session["endpoint"]
    entry["pool"] = session["pool"]
    entry["nat_port"] = session["nat_port"]
    entry["backend_port"] = session["backend_port"]
    entry["point"] = session["point"]


@kernel
def pass_time(state: Any, now: Any) -> Any:
    """Let time pass up to `now`, as far as the current minute goes, and up to the next event.

    END_MINUTE when the minute is over, TAKE_PLACE when it is an event's turn.
    """
    clock = state.clock[0]
    until = now
    reached = DONE
    if now >= clock["stop"]:
        if clock["next_event"] < clock["minute_end"]:
            until = clock["next_event"]
            reached = TAKE_PLACE
        else:
            until = clock["minute_end"] - 1
            reached = END_MINUTE
    status = end_all_due(state, until)
    return reached if status == DONE else status


@kernel
def set_stop(state: Any) -> None:
    """Note when the next event takes place, and up to which time packets need not stop."""
    clock = state.clock[0]
    clock["next_event"] = FOREVER
    if clock["events"] < len(state.event_times):
        after = state.event_times[clock["events"]]
        if clock["origin"] <= FOREVER - after:
            clock["next_event"] = clock["origin"] + after
    clock["stop"] = min(clock["minute_end"], clock["next_event"])


@kernel
def end_rows(state: Any, rows: Any, begin: Any, how: Any, moment: Any, cause: Any) -> Any:
    """End the live sessions in these rows, from place `begin` on, until the log is full; returns the next place."""
    clock = state.clock[0]
    for place in range(begin, len(rows)):
        if clock["logging"] and clock["logged"] == len(state.log):
            return place
        disarm(state, rows[place])
        end_session(state, rows[place], how, moment, cause)
    return len(rows)


@kernel
def reopen(state: Any, row: Any, moment: Any, number: Any) -> None:
    """End a closing or reset session early, since its consumer opens it anew with the `number`th packet."""
    disarm(state, row)
    end_session(state, row, how_it_ends(state.sessions[row]["state"]), moment, BY_PACKET + number)
