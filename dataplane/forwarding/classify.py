"""Second stage: which way a packet travels, and which session it may belong to (docs/model.md, steps 1 and 2).

Completes the PACKET row that `parse.py` began. Only packets whose session is not known yet get here, and those at
points where NAT IPs live.
"""

from typing import Any

import numpy as np

from dataplane.forwarding.icmp import read_quoted
from dataplane.forwarding.lookup import BACKENDS_OF, look_up
from dataplane.forwarding.parse import parse, set_tag, transport_fault
from dataplane.forwarding.tables import POINT_HAS_ENDPOINTS, POINT_HAS_NAT_IPS
from dataplane.kernel import inlined, kernel, load16, load32, unlikely
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
    MORE_FRAGMENTS,
    PROTOCOL_ICMP,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    SOURCE,
    SOURCE_PORT,
    TCP_FLAGS,
    TTL,
    UDP_LENGTH,
    UDP_TOTAL,
    is_error,
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
    UNREAD,
    UNTOLD,
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
    parse(frame, data, packet)
    if packet["direction"] == UNTOLD:
        set_tag(state, frame, packet)
        tell_way(state, frame, data, packet)


@kernel
def tell_way(state: Any, frame: Any, data: Any, packet: Any) -> None:
    """Say of an UNTOLD packet which way it travels, and what is wrong with it or which session it may belong to."""
    network = packet["network_header"]
    source = load32(data, network + SOURCE)
    destination = load32(data, network + DESTINATION)
    packet["source_endpoint"] = -1
    packet["pool"] = -1
    point = np.int64(frame["point"])
    direction, nat_ip, backend = _direction(state, point, source, destination, packet)
    if unlikely(packet["protocol"] == PROTOCOL_ICMP and direction != TO_CONSUMER):
        sizes = _sizes(frame, packet)
        direction, nat_ip = _error_to_nat_ip(state, data, packet, (point, destination), sizes, direction)
    packet["direction"] = direction
    if unlikely(direction == NO_DIRECTION):
        packet["verdict"] = _BYPASSED
        return
    if unlikely(direction == EITHER):  # a live session decides what it is, and so its verdict
        return
    read_rest(state, frame, data, packet, np.int64(direction), (source, destination, nat_ip, backend))
    judge(state, frame, data, packet, np.int64(direction))


@inlined
def read_rest(state: Any, frame: Any, data: Any, packet: Any, direction: Any, route: Any) -> None:
    """What depends on the direction: the fault or the session's key. `route` as `_direction` tells it."""
    source, destination, nat_ip, backend = route
    if unlikely(packet["kind"] == UNREAD):
        packet["kind"] = PLAIN
        fault = _read_special(state, data, packet, direction, route, _sizes(frame, packet))
        packet["fault"] = fault
        if fault == _FORWARDED and packet["kind"] == FIRST_FRAGMENT:
            transport = packet["transport_header"]
            ports = (load16(data, transport + SOURCE_PORT), load16(data, transport + DESTINATION_PORT))
            if packet["protocol"] == PROTOCOL_TCP:
                packet["tcp_flags"] = data[transport + TCP_FLAGS]
            set_key(state, packet, direction, (source, ports[0], destination, ports[1]), nat_ip, backend)
    elif packet["fault"] == _FORWARDED:
        flow = packet["flow"]
        if direction == TO_CONSUMER:
            _find_port(state, packet, nat_ip, backend)
        elif direction == CAPTURED_REPLY:  # under the same tag
            packet["flow"] = turned(flow, destination)


@inlined
def turned(flow: Any, destination: Any) -> Any:
    """The flow of which a packet is the reply; `flow` is what its own would be as a request to `destination`."""
    return (destination << 32) | ((flow & 0xFFFF) << 16) | ((flow >> 16) & 0xFFFF)


@inlined
def set_key(state: Any, packet: Any, direction: Any, tuple_: Any, nat_ip: Any, backend: Any) -> None:
    """Where to look for the session of a packet with these addresses and ports."""
    source, source_port, destination, destination_port = tuple_
    if direction == TO_CONSUMER:
        packet["flow"] = (source << 32) | (source_port << 16) | destination_port
        _find_port(state, packet, nat_ip, backend)
        return
    sender, receiver = (source << 16) | source_port, (destination << 16) | destination_port
    if direction == CAPTURED_REPLY:
        packet["flow"] = (receiver << 16) | source_port
    else:
        packet["flow"] = (sender << 16) | destination_port
    key = state.points[state.endpoints[packet["endpoint"]]["point"]]["key"]
    packet["tag"] = flow_tag(key, sender, receiver, np.int64(packet["protocol"]))


@inlined
def _sizes(frame: Any, packet: Any) -> Any:
    """(payload after the IPv4 header, what of it was captured)."""
    transport = packet["transport_header"]
    payload = np.int64(packet["bytes"]) - (transport - packet["network_header"])
    return payload, np.int64(frame["captured"]) - (transport - frame["offset"])


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
    payload, captured = sizes
    fragment = load16(data, packet["network_header"] + FRAGMENT) & (MORE_FRAGMENTS | FRAGMENT_OFFSET)
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
def judge(state: Any, frame: Any, data: Any, packet: Any, direction: Any) -> None:
    """Step 2: the time to live first, then what is wrong with the transport header."""
    least = 1 if direction == CAPTURED_REPLY else 2
    if unlikely(data[packet["network_header"] + TTL] < least) and state.services[packet["service"]]["decrement_ttl"]:
        packet["verdict"] = _TTL_EXPIRED
    else:
        packet["verdict"] = packet["fault"]
        if unlikely(packet["fault"] == _MALFORMED):
            packet["bytes"] = np.int64(frame["original"]) - (packet["network_header"] - frame["offset"])
