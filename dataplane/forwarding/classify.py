"""First stage: what a packet is, where it goes, and which session it may belong to (docs/model.md, steps 1 and 2).

Reads frames and bytes, fills one PACKET row per packet. Everything that later stages read or write in the buffer is
proved here to lie inside what was captured: 20 bytes of IPv4 header and its options, 20 of TCP, 8 of UDP.
"""

from typing import Any

import numpy as np

from dataplane.forwarding.tables import BACKENDS_OF, POINT_HAS_ENDPOINTS, POINT_HAS_NAT_IPS, look_up
from dataplane.kernel import inlined, load16, load32, prefetch
from dataplane.nat.hashing import flow_tag
from dataplane.nat.ports import session_at
from dataplane.packets.headers import (
    DESTINATION,
    DESTINATION_PORT,
    FRAGMENT,
    IPV4_LENGTH,
    PROTOCOL,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    SOURCE,
    SOURCE_PORT,
    TCP_DATA_OFFSET,
    TCP_FLAGS,
    TCP_LENGTH,
    TOTAL_LENGTH,
    TTL,
    UDP_LENGTH,
    UDP_TOTAL,
    link_header,
)
from dataplane.records import CAPTURED_REPLY, EITHER, NO_DIRECTION, TO_CONSUMER, TO_SERVICE
from dataplane.verdict import Verdict

_FORWARDED = int(Verdict.FORWARDED)
_BYPASSED = int(Verdict.BYPASSED)
_MALFORMED = int(Verdict.MALFORMED)
_TTL_EXPIRED = int(Verdict.TTL_EXPIRED)
_UNSUPPORTED = int(Verdict.UNSUPPORTED_PROTOCOL)
_FRAGMENT = int(Verdict.FRAGMENT_UNRESOLVED)


@inlined
def classify(state: Any, frame: Any, data: Any, packet: Any) -> None:
    """Fill the PACKET row of one frame."""
    packet["endpoint"] = -1
    packet["source_endpoint"] = -1
    packet["hint"] = -1
    packet["pool"] = -1
    packet["direction"] = NO_DIRECTION
    packet["fault"] = _FORWARDED
    packet["verdict"] = _FORWARDED
    packet["tcp_flags"] = 0
    start = frame["offset"]
    captured = np.int64(frame["captured"])
    original = np.int64(frame["original"])

    length = link_header(data, start, captured, np.int64(frame["link_type"]))
    if length < 0:
        packet["verdict"] = _BYPASSED
        packet["bytes"] = max(0, original + length + 1)
        return
    network = start + length
    captured -= length
    original -= length
    packet["network_header"] = network
    packet["bytes"] = max(0, original)
    if captured < IPV4_LENGTH:
        packet["verdict"] = _MALFORMED
        return
    first = np.int64(data[network])
    header = (first & 15) << 2
    total = total_length(data, network, frame)
    if first >> 4 != 4 or header < IPV4_LENGTH or header > captured or total < header or total > original:
        packet["verdict"] = _MALFORMED
        return

    source = load32(data, network + SOURCE)
    destination = load32(data, network + DESTINATION)
    direction, nat_ip, backend = _direction(state, np.int64(frame["point"]), source, destination, packet)
    packet["direction"] = direction
    if direction == NO_DIRECTION:
        packet["verdict"] = _BYPASSED
        packet["bytes"] = total
        return

    protocol = np.int64(data[network + PROTOCOL])
    transport = network + header
    fault = transport_fault(data, network, transport, total - header, captured - header)
    packet["ttl"] = data[network + TTL]
    packet["protocol"] = protocol
    packet["transport_header"] = transport
    packet["fault"] = fault
    packet["bytes"] = original if fault == _MALFORMED else total
    if fault == _FORWARDED:
        source_port = load16(data, transport + SOURCE_PORT)
        destination_port = load16(data, transport + DESTINATION_PORT)
        if protocol == PROTOCOL_TCP:
            packet["tcp_flags"] = data[transport + TCP_FLAGS]
        if direction == TO_CONSUMER:
            packet["flow"] = (source << 32) | (source_port << 16) | destination_port
            _find_port(state, packet, nat_ip, backend)
        elif direction == CAPTURED_REPLY:
            set_flow(state, packet, destination, destination_port, source_port)
        else:
            set_flow(state, packet, source, source_port, destination_port)
    if direction != EITHER:  # there, a live session decides what it is, and so its verdict
        judge(state, packet, direction, total)


@inlined
def total_length(data: Any, network: Any, frame: Any) -> Any:
    """The IPv4 total length; zero (segmentation offload) counts as the frame's."""
    total = load16(data, network + TOTAL_LENGTH)
    if total == 0:
        total = np.int64(frame["original"]) - (network - frame["offset"])
    return total


@inlined
def _direction(state: Any, point: Any, source: Any, destination: Any, packet: Any) -> Any:
    """Which way a packet that enters at `point` travels, and from the provider the NAT IP's and the backend's place.

    Sets the packet's endpoints and its service.
    """
    kinds = state.points[point]
    if kinds & POINT_HAS_NAT_IPS:
        nat_ip = look_up(state.addresses, 2 * point + 1, destination)
        if nat_ip >= 0:
            service = np.int64(state.nat_ips[nat_ip]["service"])
            backend = look_up(state.addresses, BACKENDS_OF + service, source)
            if backend >= 0:
                packet["service"] = service
                return TO_CONSUMER, np.int64(state.nat_ips[nat_ip]["index"]), backend
    if kinds & POINT_HAS_ENDPOINTS:
        to = look_up(state.addresses, 2 * point, destination)
        come_from = look_up(state.addresses, 2 * point, source)
        packet["endpoint"] = to
        packet["source_endpoint"] = come_from
        if to >= 0:
            packet["service"] = state.endpoints[to]["service"]
            return (TO_SERVICE if come_from < 0 else EITHER), np.int64(-1), np.int64(-1)
        if come_from >= 0:
            packet["endpoint"] = come_from
            packet["service"] = state.endpoints[come_from]["service"]
            return CAPTURED_REPLY, np.int64(-1), np.int64(-1)
    return NO_DIRECTION, np.int64(-1), np.int64(-1)


@inlined
def transport_fault(data: Any, network: Any, transport: Any, payload: Any, captured: Any) -> Any:
    """What is wrong with a packet that is to be translated, besides its time to live."""
    protocol = data[network + PROTOCOL]
    if protocol != PROTOCOL_TCP and protocol != PROTOCOL_UDP:
        return _UNSUPPORTED
    if load16(data, network + FRAGMENT) & 0x3FFF:  # more fragments, or an offset
        return _FRAGMENT
    if protocol == PROTOCOL_TCP:
        if payload < TCP_LENGTH or captured < TCP_LENGTH:
            return _MALFORMED
        length = (np.int64(data[transport + TCP_DATA_OFFSET]) >> 4) << 2
        return _FORWARDED if TCP_LENGTH <= length <= payload else _MALFORMED
    if payload < UDP_LENGTH or captured < UDP_LENGTH:
        return _MALFORMED
    length = load16(data, transport + UDP_TOTAL)
    return _FORWARDED if UDP_LENGTH <= length <= payload else _MALFORMED


@inlined
def _find_port(state: Any, packet: Any, nat_ip: Any, backend: Any) -> None:
    """The pool that a reply from the provider names, from (NAT IP, protocol, backend), and who has the port."""
    service = state.services[packet["service"]]
    slot = np.int64(service["tcp_slot"] if packet["protocol"] == PROTOCOL_TCP else service["udp_slot"])
    if slot >= 0:
        pool = pool_number(service, nat_ip, slot, backend)
        packet["pool"] = pool
        packet["hint"] = session_at(state, pool, packet["flow"] & 0xFFFF)


@inlined
def pool_number(service: Any, nat_ip: Any, slot: Any, backend: Any) -> Any:
    """The row of a pool: pools lie in order of service, NAT IP, protocol, backend."""
    protocols = np.int64(service["protocols"])
    return service["first_pool"] + (nat_ip * protocols + slot) * np.int64(service["backends"]) + backend


@inlined
def set_flow(state: Any, packet: Any, consumer: Any, consumer_port: Any, port: Any) -> None:
    """The session's key as its consumer sees it, and the first cell where to look for it."""
    flow = (consumer << 32) | (consumer_port << 16) | port
    tag = flow_tag(flow, state.endpoints[packet["endpoint"]]["key"], np.int64(packet["protocol"]))
    packet["flow"] = flow
    packet["tag"] = tag
    prefetch(state.cells, tag & (len(state.cells) - 1))


@inlined
def judge(state: Any, packet: Any, direction: Any, total: Any) -> None:
    """Step 2: the time to live first, then what is wrong with the transport header."""
    least = 1 if direction == CAPTURED_REPLY else 2
    if packet["ttl"] < least and state.services[packet["service"]]["decrement_ttl"]:
        packet["verdict"] = _TTL_EXPIRED
        packet["bytes"] = total
    else:
        packet["verdict"] = packet["fault"]
