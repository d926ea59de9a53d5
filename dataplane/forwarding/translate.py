"""Rewriting: addresses, ports, time to live, checksums, in place (RFC 3022 §4, RFC 1624).

First what works on bytes, then what a packet of a session gets.
"""

from typing import Any

import numpy as np

from dataplane.forwarding.count import count
from dataplane.forwarding.icmp import rewrite_error
from dataplane.kernel import inlined, kernel, load32, store16, store32, unlikely
from dataplane.nat.life import see
from dataplane.packets.checksum import adjust, adjust_udp, reversed_change
from dataplane.packets.headers import (
    ACK,
    DESTINATION,
    DESTINATION_PORT,
    HEADER_CHECKSUM,
    ICMP_CHECKSUM,
    ICMP_IDENTIFIER,
    PROTOCOL_ICMP,
    PROTOCOL_TCP,
    SOURCE,
    SOURCE_PORT,
    TCP_ACKNOWLEDGEMENT,
    TCP_CHECKSUM,
    TTL,
    UDP_CHECKSUM,
)
from dataplane.records import CAPTURED_REPLY, ICMP_ERROR, TO_CONSUMER, TO_SERVICE, TTL_COUNTS

#: `~m + m'` of the word (TTL << 8 | protocol) when the TTL goes down, or up, by one.
TTL_DOWN = 0xFEFF
TTL_UP = 0x100FF


@inlined
def step_ttl(data: Any, network: Any, step: Any) -> Any:
    """Move the time to live by `step` (-1, 0, 1; at most 255); returns what it adds to the header's delta."""
    ttl = np.int64(data[network + TTL])
    if step < 0:
        data[network + TTL] = ttl - 1
        return np.int64(TTL_DOWN)
    if step > 0 and ttl < 255:
        data[network + TTL] = ttl + 1
        return np.int64(TTL_UP)
    return np.int64(0)


@inlined
def rewrite_addresses(data: Any, network: Any, sender: Any, receiver: Any, header_delta: Any) -> None:
    """Write the addresses of `sender` and `receiver`, (address, port) each, and adjust the IPv4 checksum."""
    store32(data, network + SOURCE, sender[0])
    store32(data, network + DESTINATION, receiver[0])
    adjust(data, network + HEADER_CHECKSUM, header_delta)


@inlined
def rewrite(data: Any, packet: Any, sender: Any, receiver: Any, header_delta: Any, transport_delta: Any) -> None:
    """Write addresses and ports of `sender` and `receiver`, adjust checksums; echo has one identifier."""
    transport = packet["transport_header"]
    rewrite_addresses(data, packet["network_header"], sender, receiver, header_delta)
    if unlikely(packet["protocol"] == PROTOCOL_ICMP):
        store16(data, transport + ICMP_IDENTIFIER, sender[1] | receiver[1])  # the other side's port is zero
        adjust(data, transport + ICMP_CHECKSUM, transport_delta)
        return
    store16(data, transport + SOURCE_PORT, sender[1])
    store16(data, transport + DESTINATION_PORT, receiver[1])
    if packet["protocol"] == PROTOCOL_TCP:
        adjust(data, transport + TCP_CHECKSUM, transport_delta)
    else:
        adjust_udp(data, transport + UDP_CHECKSUM, transport_delta)


@inlined
def translate(state: Any, data: Any, packet: Any, row: Any, direction: Any) -> None:
    """Rewrite a packet of a live session, and count it."""
    session = state.sessions[row]
    pool = state.pools[session["pool"]]
    header_delta = np.int64(session["address_delta"])
    transport_delta = np.int64(session["transport_delta"])
    if direction == TO_CONSUMER:
        header_delta = reversed_change(header_delta)
        transport_delta = reversed_change(transport_delta)
    header_delta += _step_ttl(session, data, packet, direction)
    sender, receiver = _ends(session, pool, state.endpoints, direction)
    rewrite(data, packet, sender, receiver, header_delta, transport_delta)
    if unlikely(len(state.acks) > 0) and packet["tcp_flags"] & ACK:
        if state.services[pool["service"]]["idle_reset"]:
            _note_acknowledgement(state.acks, data, packet, row, direction)
    count(session, state.session_ends[row], state.counters, packet, direction)


@kernel
def _note_acknowledgement(acks: Any, data: Any, packet: Any, row: Any, direction: Any) -> None:
    """Keep what the sender expects next, for a reset at an idle time-out."""
    side = 0 if direction == TO_SERVICE else 1
    acks[row, side] = load32(data, packet["transport_header"] + TCP_ACKNOWLEDGEMENT)


@kernel
def translate_special(state: Any, frame: Any, data: Any, packet: Any, row: Any, now: Any) -> None:
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
    count(session, state.session_ends[row], state.counters, packet, direction)


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
def _step_ttl(session: Any, data: Any, packet: Any, direction: Any) -> Any:
    """Move the time to live on; returns what that adds to the header's delta."""
    decrement = np.int64(session["marks"] & TTL_COUNTS)
    return step_ttl(data, packet["network_header"], decrement if direction == CAPTURED_REPLY else -decrement)
