"""First stage: what a packet is, where it goes, and which session it may belong to (docs/model.md, steps 1 and 2).

Reads frames and bytes, fills one PACKET row per packet. Everything that later stages read or write in the buffer is
proved here (for ICMP in `icmp.py`) to lie inside what was captured: 20 bytes of IPv4 header and its options, 20 of TCP,
8 of UDP.
"""

from typing import Any

import numpy as np

from dataplane.forwarding.icmp import read_quoted
from dataplane.forwarding.lookup import BACKENDS_OF, look_up
from dataplane.forwarding.tables import POINT_HAS_ENDPOINTS, POINT_HAS_NAT_IPS
from dataplane.kernel import inlined, kernel, load16, load32, prefetch, unlikely
from dataplane.nat.hashing import flow_tag
from dataplane.nat.ports import prefetch_session
from dataplane.packets.headers import (
    DESTINATION,
    DESTINATION_PORT,
    ECHO_REPLY,
    ECHO_REQUEST,
    FRAGMENT,
    FRAGMENT_OFFSET,
    ICMP_CODE,
    ICMP_IDENTIFIER,
    ICMP_LENGTH,
    ICMP_TYPE,
    IPV4_LENGTH,
    MORE_FRAGMENTS,
    PROTOCOL,
    PROTOCOL_ICMP,
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
    is_error,
    link_header,
)
from dataplane.records import (
    CAPTURED_REPLY,
    EITHER,
    FIRST_FRAGMENT,
    ICMP_ALL,
    ICMP_ERROR,
    ICMP_NONE,
    LATER_FRAGMENT,
    NO_DIRECTION,
    PLAIN,
    TO_CONSUMER,
    TO_SERVICE,
)
from dataplane.verdict import Verdict

_FORWARDED = int(Verdict.FORWARDED)
_BYPASSED = int(Verdict.BYPASSED)
_MALFORMED = int(Verdict.MALFORMED)
_TTL_EXPIRED = int(Verdict.TTL_EXPIRED)
_UNSUPPORTED = int(Verdict.UNSUPPORTED_PROTOCOL)
_FRAGMENT = int(Verdict.FRAGMENT_UNRESOLVED)
_ICMP_UNMATCHED = int(Verdict.ICMP_UNMATCHED)


@inlined
def classify(state: Any, frame: Any, data: Any, packet: Any) -> None:
    """Fill the PACKET row of one frame, but for its session."""
    packet["endpoint"] = -1
    packet["source_endpoint"] = -1
    packet["pool"] = -1
    packet["direction"] = NO_DIRECTION
    packet["kind"] = PLAIN
    packet["fault"] = _FORWARDED
    packet["verdict"] = _FORWARDED
    packet["tcp_flags"] = 0
    start = frame["offset"]
    captured = np.int64(frame["captured"])
    original = np.int64(frame["original"])

    length = link_header(data, start, captured, np.int64(frame["link_type"]))
    if unlikely(length < 0):
        packet["verdict"] = _BYPASSED
        packet["bytes"] = max(0, original + length + 1)
        return
    network = start + length
    captured -= length
    original -= length
    packet["network_header"] = network
    packet["bytes"] = max(0, original)
    if unlikely(captured < IPV4_LENGTH):
        packet["verdict"] = _MALFORMED
        return
    first = np.int64(data[network])
    header = (first & 15) << 2
    total = total_length(data, network, frame)
    if unlikely(first >> 4 != 4 or header < IPV4_LENGTH or header > captured or total < header or total > original):
        packet["verdict"] = _MALFORMED
        return

    source = load32(data, network + SOURCE)
    destination = load32(data, network + DESTINATION)
    packet["protocol"] = data[network + PROTOCOL]
    packet["ttl"] = data[network + TTL]
    packet["transport_header"] = network + header
    packet["bytes"] = total
    point = np.int64(frame["point"])
    direction, nat_ip, backend = _direction(state, point, source, destination, packet)
    if unlikely(packet["protocol"] == PROTOCOL_ICMP and direction != TO_CONSUMER):
        sizes = (total - header, captured - header)
        direction, nat_ip = _error_to_nat_ip(state, data, packet, (point, destination), sizes, direction)
    packet["direction"] = direction
    if unlikely(direction == NO_DIRECTION):
        packet["verdict"] = _BYPASSED
        return
    if unlikely(direction == EITHER):  # a live session decides what it is, and so its verdict
        return
    read_transport(state, frame, data, packet, np.int64(direction), (source, destination, nat_ip, backend))
    judge(state, frame, packet, np.int64(direction))


@inlined
def read_transport(state: Any, frame: Any, data: Any, packet: Any, direction: Any, route: Any) -> None:
    """Read what follows the IPv4 header: its fault, or the session's key. `route` as `_direction` tells it."""
    source, destination, nat_ip, backend = route
    network = packet["network_header"]
    transport = packet["transport_header"]
    payload = np.int64(packet["bytes"]) - (transport - network)
    captured = np.int64(frame["captured"]) - (transport - frame["offset"])
    fragment = load16(data, network + FRAGMENT) & (MORE_FRAGMENTS | FRAGMENT_OFFSET)
    protocol = np.int64(packet["protocol"])
    if unlikely(fragment != 0 or (protocol != PROTOCOL_TCP and protocol != PROTOCOL_UDP)):
        fault = _read_special(state, data, packet, direction, route, (fragment, payload, captured))
        packet["fault"] = fault
        if fault != _FORWARDED or packet["kind"] != FIRST_FRAGMENT:
            return
    else:
        fault = transport_fault(data, protocol, transport, payload, captured)
        packet["fault"] = fault
        if unlikely(fault != _FORWARDED):
            return
    source_port = load16(data, transport + SOURCE_PORT)
    destination_port = load16(data, transport + DESTINATION_PORT)
    if protocol == PROTOCOL_TCP:
        packet["tcp_flags"] = data[transport + TCP_FLAGS]
    set_key(state, packet, direction, (source, source_port, destination, destination_port), nat_ip, backend)


@inlined
def set_key(state: Any, packet: Any, direction: Any, tuple_: Any, nat_ip: Any, backend: Any) -> None:
    """Where to look for the session of a packet with these addresses and ports."""
    source, source_port, destination, destination_port = tuple_
    if direction == TO_CONSUMER:
        packet["flow"] = (source << 32) | (source_port << 16) | destination_port
        _find_port(state, packet, nat_ip, backend)
    elif direction == CAPTURED_REPLY:
        set_flow(state, packet, destination, destination_port, source_port)
    else:
        set_flow(state, packet, source, source_port, destination_port)


@kernel
def _error_to_nat_ip(state: Any, data: Any, packet: Any, target: Any, sizes: Any, direction: Any) -> Any:
    """(TO_CONSUMER, NAT IP) for an ICMP error that anybody sends to a NAT IP whose service translates errors.

    Of any other packet (its direction, -1). `target` is (point, destination), `sizes` (payload, captured of it).
    """
    nobody = np.int64(-1)
    row = look_up(state.addresses, 2 * target[0] + 1, target[1])
    if row < 0 or not state.nat_ips[row]["active"] or sizes[0] < 1 or sizes[1] < 1:
        return np.int64(direction), nobody
    service = np.int64(state.nat_ips[row]["service"])
    fragment = load16(data, packet["network_header"] + FRAGMENT) & (MORE_FRAGMENTS | FRAGMENT_OFFSET)
    kind = data[packet["transport_header"] + ICMP_TYPE]
    if fragment or state.services[service]["icmp"] == ICMP_NONE or not is_error(kind):
        return np.int64(direction), nobody
    packet["service"] = service
    packet["endpoint"] = -1
    packet["source_endpoint"] = -1
    return np.int64(TO_CONSUMER), np.int64(state.nat_ips[row]["index"])


@kernel
def _read_special(state: Any, data: Any, packet: Any, direction: Any, route: Any, sizes: Any) -> Any:
    """The fault of a fragment or of ICMP; sets the packet's kind, and the session's key of ICMP."""
    fragment, payload, captured = sizes
    protocol = np.int64(packet["protocol"])
    service = state.services[packet["service"]]
    if protocol != PROTOCOL_TCP and protocol != PROTOCOL_UDP:
        if protocol != PROTOCOL_ICMP or service["icmp"] == ICMP_NONE:
            return _UNSUPPORTED
        if fragment:
            return _FRAGMENT
        return _read_icmp(state, data, packet, direction, route, (payload, captured))
    translated = service["fragments"]
    if packet["source_endpoint"] >= 0:  # between two endpoints, both services have to
        translated &= state.services[state.endpoints[packet["source_endpoint"]]["service"]]["fragments"]
    if not translated:
        return _FRAGMENT
    end = ((fragment & FRAGMENT_OFFSET) << 3) + payload
    header = packet["transport_header"] - packet["network_header"]
    if payload == 0 or end + header > 0xFFFF or (fragment & MORE_FRAGMENTS and payload & 7):
        return _MALFORMED
    if fragment & FRAGMENT_OFFSET:
        packet["kind"] = LATER_FRAGMENT
        return _FORWARDED
    packet["kind"] = FIRST_FRAGMENT
    if protocol == PROTOCOL_UDP:  # the length is the whole datagram's
        if payload < UDP_LENGTH or captured < UDP_LENGTH:
            return _MALFORMED
        return _FORWARDED if load16(data, packet["transport_header"] + UDP_TOTAL) >= UDP_LENGTH else _MALFORMED
    return transport_fault(data, protocol, packet["transport_header"], payload, captured)


@kernel
def _read_icmp(state: Any, data: Any, packet: Any, direction: Any, route: Any, sizes: Any) -> Any:
    """The fault of an ICMP message, or the key of the session that it (or the packet it quotes) belongs to."""
    source, destination, nat_ip, backend = route
    payload, captured = sizes
    at = packet["transport_header"]
    if payload < 1 or captured < 1:
        return _MALFORMED
    kind = data[at + ICMP_TYPE]
    all_of_it = state.services[packet["service"]]["icmp"] == ICMP_ALL
    if is_error(kind):
        packet["kind"] = ICMP_ERROR
        fault, quoted = read_quoted(data, at, payload, captured)
        if fault != _FORWARDED:
            return fault
        protocol, quoted_source, source_port, quoted_destination, destination_port = quoted
        # What travelled to the provider was a request, what travelled to the consumer a reply.
        wanted = ECHO_REPLY if direction == TO_SERVICE else ECHO_REQUEST
        if protocol == PROTOCOL_ICMP:
            if not all_of_it or destination_port != wanted:
                return _ICMP_UNMATCHED
            source_port, destination_port = (
                (np.int64(0), source_port) if wanted == ECHO_REPLY else (source_port, np.int64(0))
            )
        elif protocol != PROTOCOL_TCP and protocol != PROTOCOL_UDP:
            return _ICMP_UNMATCHED
        if quoted_source != destination or (direction == CAPTURED_REPLY and quoted_destination != source):
            return _ICMP_UNMATCHED
        packet["protocol"] = protocol
        if direction == TO_CONSUMER:
            backend = look_up(state.addresses, BACKENDS_OF + np.int64(packet["service"]), quoted_destination)
            if backend < 0:
                return _ICMP_UNMATCHED
        sides = (quoted_destination, destination_port, quoted_source, source_port)
        set_key(state, packet, direction, sides, nat_ip, backend)
        return _FORWARDED
    if not all_of_it or kind != (ECHO_REQUEST if direction == TO_SERVICE else ECHO_REPLY):
        return _UNSUPPORTED
    if payload < ICMP_LENGTH or captured < ICMP_LENGTH:
        return _MALFORMED
    if data[at + ICMP_CODE] != 0:
        return _UNSUPPORTED
    identifier = load16(data, at + ICMP_IDENTIFIER)
    if direction == TO_SERVICE:
        set_key(state, packet, direction, (source, identifier, destination, np.int64(0)), nat_ip, backend)
    else:
        set_key(state, packet, direction, (source, np.int64(0), destination, identifier), nat_ip, backend)
    return _FORWARDED


@inlined
def total_length(data: Any, network: Any, frame: Any) -> Any:
    """The IPv4 total length; zero (segmentation offload) counts as the frame's."""
    total = load16(data, network + TOTAL_LENGTH)
    if unlikely(total == 0):
        total = np.int64(frame["original"]) - (network - frame["offset"])
    return total


@inlined
def _direction(state: Any, point: Any, source: Any, destination: Any, packet: Any) -> Any:
    """Which way a packet that enters at `point` travels, and from the provider the NAT IP's and the backend's place.

    Sets the packet's endpoints and its service.
    """
    kinds = state.points[point]["kinds"]
    if kinds & POINT_HAS_NAT_IPS:
        nat_ip = look_up(state.addresses, 2 * point + 1, destination)
        if nat_ip >= 0 and state.nat_ips[nat_ip]["active"]:
            service = np.int64(state.nat_ips[nat_ip]["service"])
            backend = look_up(state.addresses, BACKENDS_OF + service, source)
            if backend >= 0:
                packet["service"] = service
                return TO_CONSUMER, np.int64(state.nat_ips[nat_ip]["index"]), backend
    if kinds & POINT_HAS_ENDPOINTS:
        to = look_up(state.addresses, 2 * point, destination)
        come_from = np.int64(-1)
        if state.points[point]["lowest"] <= source <= state.points[point]["highest"]:
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
def transport_fault(data: Any, protocol: Any, transport: Any, payload: Any, captured: Any) -> Any:
    """What is wrong with a TCP or UDP header that is not fragmented."""
    if protocol == PROTOCOL_TCP:
        if unlikely(payload < TCP_LENGTH or captured < TCP_LENGTH):
            return _MALFORMED
        length = (np.int64(data[transport + TCP_DATA_OFFSET]) >> 4) << 2
        return _MALFORMED if unlikely(length < TCP_LENGTH or length > payload) else _FORWARDED
    if unlikely(payload < UDP_LENGTH or captured < UDP_LENGTH):
        return _MALFORMED
    length = load16(data, transport + UDP_TOTAL)
    return _MALFORMED if unlikely(length < UDP_LENGTH or length > payload) else _FORWARDED


@inlined
def _find_port(state: Any, packet: Any, nat_ip: Any, backend: Any) -> None:
    """The pool that a reply from the provider names, from (NAT IP, protocol, backend); ask for who has the port."""
    service = state.services[packet["service"]]
    slot = slot_of_protocol(service, np.int64(packet["protocol"]))
    if slot >= 0:
        pool = pool_number(service, nat_ip, slot, backend)
        packet["pool"] = pool
        prefetch_session(state, pool, packet["flow"] & 0xFFFF)


@inlined
def slot_of_protocol(service: Any, protocol: Any) -> Any:
    """The place of a protocol among those of a service's pools, or -1."""
    if protocol == PROTOCOL_TCP:
        return np.int64(service["tcp_slot"])
    return np.int64(service["udp_slot"] if protocol == PROTOCOL_UDP else service["icmp_slot"])


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
def judge(state: Any, frame: Any, packet: Any, direction: Any) -> None:
    """Step 2: the time to live first, then what is wrong with the transport header."""
    least = 1 if direction == CAPTURED_REPLY else 2
    if unlikely(packet["ttl"] < least) and state.services[packet["service"]]["decrement_ttl"]:
        packet["verdict"] = _TTL_EXPIRED
    else:
        packet["verdict"] = packet["fault"]
        if unlikely(packet["fault"] == _MALFORMED):
            packet["bytes"] = np.int64(frame["original"]) - (packet["network_header"] - frame["offset"])
