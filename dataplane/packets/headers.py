"""Header offsets and lengths: link headers (pcap LINKTYPE_ numbers), IPv4 (RFC 791), TCP, UDP, ICMP.

`link_header` is the only code that knows about link types. It reads nothing beyond the captured bytes.
"""

from typing import Any

import numpy as np

from dataplane.kernel import inlined, kernel, load16, load32, unlikely

LINK_NULL = 0
LINK_ETHERNET = 1
LINK_RAW_12 = 12
LINK_RAW_14 = 14
LINK_RAW = 101
LINK_LOOP = 108
LINK_LINUX_SLL = 113
LINK_IPV4 = 228
LINK_IPV6 = 229
LINK_LINUX_SLL2 = 276

#: Link types in which IPv4 is found; packets of any other are bypassed.
KNOWN_LINK_TYPES = frozenset(
    (
        LINK_NULL,
        LINK_ETHERNET,
        LINK_RAW_12,
        LINK_RAW_14,
        LINK_RAW,
        LINK_LOOP,
        LINK_LINUX_SLL,
        LINK_IPV4,
        LINK_IPV6,
        LINK_LINUX_SLL2,
    )
)

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_VLAN = 0x8100
ETHERTYPE_SERVICE_VLAN = 0x88A8
ETHERTYPE_OLD_QINQ = 0x9100

PROTOCOL_ICMP = 1
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17

IPV4_LENGTH = 20
TCP_LENGTH = 20
UDP_LENGTH = 8
ICMP_LENGTH = 8

# IPv4 field offsets
TOTAL_LENGTH = 2
IDENTIFICATION = 4
FRAGMENT = 6
TTL = 8
PROTOCOL = 9
HEADER_CHECKSUM = 10
SOURCE = 12
DESTINATION = 16
# TCP and UDP field offsets
SOURCE_PORT = 0
DESTINATION_PORT = 2
TCP_ACKNOWLEDGEMENT = 8
TCP_DATA_OFFSET = 12
TCP_FLAGS = 13
TCP_CHECKSUM = 16
UDP_TOTAL = 4
UDP_CHECKSUM = 6
# ICMP field offsets (RFC 792)
ICMP_TYPE = 0
ICMP_CODE = 1
ICMP_CHECKSUM = 2
ICMP_IDENTIFIER = 4

ECHO_REPLY, ECHO_REQUEST = 0, 8
MORE_FRAGMENTS, FRAGMENT_OFFSET = 0x2000, 0x1FFF

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10


@inlined
def is_error(kind: Any) -> Any:
    """Whether an ICMP type is an error that quotes a packet and is translated (not a redirect, type 5)."""
    return kind == 3 or kind == 4 or kind == 11 or kind == 12


@inlined
def _is_ipv6(data: Any, start: Any, captured: Any) -> Any:
    """Whether the version nibble says so, on links that have no EtherType to say it."""
    return captured > 0 and data[start] >> 4 == 6


@inlined
def link_header(data: Any, start: Any, captured: Any, link_type: Any) -> Any:
    """Length of the link header if IPv4 follows it; else -1 minus its length, as far as it is known."""
    if unlikely(link_type != LINK_ETHERNET or captured < 14 or load16(data, start + 12) != ETHERTYPE_IPV4):
        return _other_link_header(data, start, captured, link_type)
    return np.int64(14)


@kernel
def _other_link_header(data: Any, start: Any, captured: Any, link_type: Any) -> Any:
    """The same for frames that are not plain Ethernet."""
    if link_type == LINK_ETHERNET:
        length = 14
        while True:
            if captured < length:
                return -1 - length
            kind = load16(data, start + length - 2)
            if kind == ETHERTYPE_IPV4:
                return length
            tagged = kind == ETHERTYPE_VLAN or kind == ETHERTYPE_SERVICE_VLAN or kind == ETHERTYPE_OLD_QINQ
            if not tagged or length == 22:
                return -1 - length
            length += 4
    if link_type == LINK_RAW or link_type == LINK_IPV4 or link_type == LINK_RAW_12 or link_type == LINK_RAW_14:
        return -1 if _is_ipv6(data, start, captured) else 0
    if link_type == LINK_LINUX_SLL:
        return 16 if captured >= 16 and load16(data, start + 14) == ETHERTYPE_IPV4 else -17
    if link_type == LINK_LINUX_SLL2:
        return 20 if captured >= 20 and load16(data, start) == ETHERTYPE_IPV4 else -21
    if link_type == LINK_NULL:
        if captured < 4:
            return -5
        family = load32(data, start)
        is_ipv4 = family == 2 or family == 0x02000000  # in the byte order of the host that captured
        return 4 if is_ipv4 and not _is_ipv6(data, start + 4, captured - 4) else -5
    if link_type == LINK_LOOP:
        is_ipv4 = captured >= 4 and load32(data, start) == 2
        return 4 if is_ipv4 and not _is_ipv6(data, start + 4, captured - 4) else -5
    return -1
