"""Packets that the fast path does not take: those that open, close, reopen or miss a session, fragments, ICMP errors.

The vector loop (`pipeline.py`) calls this once for each of them; what is decided stands in its PACKET row then.
"""

from typing import Any

import numpy as np

from dataplane.forwarding.admit import admit, note_new_session
from dataplane.forwarding.classify import judge, read_rest, tell_way
from dataplane.forwarding.parse import parse, set_tag
from dataplane.forwarding.translate import translate_special
from dataplane.kernel import inlined, kernel, load32, unlikely
from dataplane.nat.fragments import OVERLAP, UNRESOLVED
from dataplane.nat.life import DONE, DRAIN_LOG, GROW_SESSIONS, open_session, reopen, see
from dataplane.nat.ports import has_port, session_at
from dataplane.nat.sessions import find, has_room
from dataplane.nat.tcp import HANDSHAKE_REVIVES, is_first_packet
from dataplane.packets.headers import DESTINATION, SOURCE
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
    UNTOLD,
    UNUSED,
)
from dataplane.verdict import Verdict

_FORWARDED = int(Verdict.FORWARDED)
_FILTERED = int(Verdict.FILTERED)
_NO_SESSION = int(Verdict.NO_SESSION)
_UNRESOLVED = int(Verdict.FRAGMENT_UNRESOLVED)
_OVERLAP = int(Verdict.FRAGMENT_OVERLAP)
_UNMATCHED = int(Verdict.ICMP_UNMATCHED)


@kernel
def take_slow_path(state: Any, frame: Any, data: Any, packet: Any, slot: Any, moment: Any) -> Any:
    """Find any packet's verdict and its session (-1: it is not forwarded), and write them into its PACKET row.

    The session sees the packet, but PLAIN ones and first fragments are yet to be translated. `moment` is (the clock at
    it, its number).
    """
    now, number = moment
    row = np.int64(-1)
    if packet["direction"] == UNTOLD:
        tell_way(state, frame, data, packet)
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
                translate_special(state, frame, data, packet, row, now)
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
        parse(frame, data, packet)
        set_tag(state, frame, packet)
        packet["direction"] = direction
        packet["endpoint"] = sender if direction == CAPTURED_REPLY else addressed
        packet["source_endpoint"] = addressed if direction == CAPTURED_REPLY else sender
        packet["service"] = state.endpoints[packet["endpoint"]]["service"]
        read_rest(state, frame, data, packet, np.int64(direction), route)
        if direction == CAPTURED_REPLY and packet["fault"] == _FORWARDED:
            if packet["kind"] == LATER_FRAGMENT:
                at = slot if slot >= 0 else OVERLAP - slot
                if slot != UNRESOLVED and state.datagrams[at]["id"] and state.datagrams[at]["direction"] == direction:
                    break
            elif _session_of_flow(state, packet) >= 0:
                break
    judge(state, frame, data, packet, np.int64(packet["direction"]))


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
