"""First stage: what a packet is, whoever it may be for (docs/model.md, step 1).

Reads a frame and its bytes, begins its PACKET row. Everything that later stages read or write in the buffer is proved
here (for ICMP in `classify.py` and `icmp.py`) to lie inside what was captured: 20 bytes of IPv4 header and its options,
20 of TCP, 8 of UDP.
"""

from typing import Any

import numpy as np

from dataplane.kernel import inlined, load16, load32, unlikely
from dataplane.nat.hashing import flow_tag
from dataplane.packets.headers import (
    DESTINATION,
    FRAGMENT,
    FRAGMENT_OFFSET,
    IPV4_LENGTH,
    MORE_FRAGMENTS,
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
from dataplane.records import NO_DIRECTION, PLAIN, UNREAD, UNTOLD
from dataplane.verdict import Verdict

_FORWARDED = int(Verdict.FORWARDED)
_BYPASSED = int(Verdict.BYPASSED)
_MALFORMED = int(Verdict.MALFORMED)

#: The bits of an address and a port.
_END = (1 << 48) - 1
#: The first octet of an IPv4 header: version 4, and five to fifteen words of 32 bits.
_FIRST_LEAST, _FIRST_MOST = 0x45, 0x4F


@inlined
def parse(frame: Any, data: Any, packet: Any) -> Any:
    """Begin the PACKET row of one frame. If it is an IPv4 packet, its direction is UNTOLD; else its verdict stands.

    Whole TCP and UDP packets have a flow and a destination, unless they have a fault; anything else is of kind UNREAD.
    Returns whether nothing is wrong with such a packet, wherever it goes: it has a flow, and its time to live suffices.
    """
    start = frame["offset"]
    captured = np.int64(frame["captured"])
    original = np.int64(frame["original"])
    packet["endpoint"] = -1
    length = link_header(data, start, captured, np.int64(frame["link_type"]))
    if unlikely(length < 0):
        return _ends_here(packet, _BYPASSED, original + length + 1)
    network = start + length
    captured -= length
    original -= length
    packet["network_header"] = network
    if unlikely(captured < IPV4_LENGTH):
        return _ends_here(packet, _MALFORMED, original)
    first = np.int64(data[network])
    header = (first & 15) << 2
    total = load16(data, network + TOTAL_LENGTH)
    if unlikely(total < header):
        total = total_length(total, original)
    if unlikely(not _FIRST_LEAST <= first <= _FIRST_MOST or header > captured or total < header or total > original):
        return _ends_here(packet, _MALFORMED, original)

    protocol = np.int64(data[network + PROTOCOL])
    transport = network + header
    packet["verdict"] = _FORWARDED
    packet["direction"] = UNTOLD
    packet["protocol"] = protocol
    packet["transport_header"] = transport
    packet["bytes"] = total
    if unlikely(load16(data, network + FRAGMENT) & (MORE_FRAGMENTS | FRAGMENT_OFFSET)):
        return _begin_special(packet)
    if protocol == PROTOCOL_UDP:
        packet["tcp_flags"] = 0
        fault = _udp_fault(data, transport, total - header, captured - header)
    elif protocol == PROTOCOL_TCP:
        fault = _tcp_fault(data, transport, total - header, captured - header)
        packet["tcp_flags"] = data[transport + TCP_FLAGS] if fault == _FORWARDED else 0
    else:
        return _begin_special(packet)
    packet["kind"] = PLAIN
    packet["fault"] = fault
    if unlikely(fault != _FORWARDED):
        return False
    packet["flow"] = (load32(data, network + SOURCE) << 32) | load32(data, transport + SOURCE_PORT)
    packet["destination"] = load32(data, network + DESTINATION)
    return data[network + TTL] >= 2


@inlined
def _begin_special(packet: Any) -> Any:
    """A fragment, or neither TCP nor UDP."""
    packet["kind"] = UNREAD
    packet["fault"] = _FORWARDED
    packet["tcp_flags"] = 0
    return False


@inlined
def _ends_here(packet: Any, verdict: Any, size: Any) -> Any:
    """A frame that is no IPv4 packet, or a broken one."""
    packet["verdict"] = verdict
    packet["bytes"] = max(0, size)
    packet["direction"] = NO_DIRECTION
    packet["kind"] = PLAIN
    packet["fault"] = _FORWARDED
    packet["tcp_flags"] = 0
    return False


@inlined
def total_length(total: Any, original: Any) -> Any:
    """What an IPv4 total length says; zero (segmentation offload) counts as what there was after the link header."""
    return original if total == 0 else total


@inlined
def transport_fault(data: Any, protocol: Any, transport: Any, payload: Any, captured: Any) -> Any:
    """What is wrong with a TCP or UDP header that is not fragmented."""
    if protocol == PROTOCOL_TCP:
        return _tcp_fault(data, transport, payload, captured)
    return _udp_fault(data, transport, payload, captured)


@inlined
def _tcp_fault(data: Any, transport: Any, payload: Any, captured: Any) -> Any:
    if unlikely(captured < TCP_LENGTH):
        return _MALFORMED
    length = (np.int64(data[transport + TCP_DATA_OFFSET]) >> 4) << 2
    return _MALFORMED if unlikely(length < TCP_LENGTH or length > payload) else _FORWARDED


@inlined
def _udp_fault(data: Any, transport: Any, payload: Any, captured: Any) -> Any:
    if unlikely(captured < UDP_LENGTH):
        return _MALFORMED
    length = load16(data, transport + UDP_TOTAL)
    return _MALFORMED if unlikely(length < UDP_LENGTH or length > payload) else _FORWARDED


@inlined
def set_tag(state: Any, frame: Any, packet: Any) -> None:
    """Under which tag the session of a PLAIN packet lies, whichever of the two sent it."""
    key = state.points[np.int64(frame["point"])]["key"]
    flow = packet["flow"]
    sender = (flow >> 16) & _END
    receiver = (np.int64(packet["destination"]) << 16) | (flow & 0xFFFF)
    packet["tag"] = flow_tag(key, sender, receiver, np.int64(packet["protocol"]))
