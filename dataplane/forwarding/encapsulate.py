"""The backbone's form of a packet: IPv6 that carries the link id, in NVGRE (as DASH's Private Link pages show it).

    Ethernet, IPv4 | GRE: key present, protocol 0x6558, key = VSID 100 << 8 | inner Ethernet | IPv6 | TCP, UDP or ICMP

The consumer's IPv4 addresses lie in the low 32 bits of the IPv6 addresses, as in DASH's 4-to-6 action. Published: the
prefixes, the GRE header and the VSID. Ours, since no public document says: where the link id lies (bits 64 to 95 of
the consumer's address), and the addresses of the underlay (100.64.0.0/10, by point). IPv4 options do not cross; time to
live and ports are the consumer's; the transport checksum is moved to IPv6's pseudo-header by adding the new words. ICMP
crosses as it is (ICMP of IPv4, next header 1); a fragment gets IPv6's fragment header (RFC 8200 §4.5).
"""

from typing import Any

import numpy as np

from dataplane.kernel import kernel, load16, load32, store16, store32
from dataplane.packets.checksum import adjust, adjust_udp, fold
from dataplane.packets.headers import (
    DESTINATION,
    FRAGMENT,
    FRAGMENT_OFFSET,
    IDENTIFICATION,
    MORE_FRAGMENTS,
    PROTOCOL,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    SOURCE,
    TCP_CHECKSUM,
    TOTAL_LENGTH,
    TTL,
    UDP_CHECKSUM,
)
from dataplane.records import TO_SERVICE

OUTER = 14 + 20 + 8  # Ethernet, IPv4, GRE
INNER = 14 + 40  # Ethernet, IPv6
#: The most bytes before the transport header; a packet that is no fragment has no fragment header.
_FRAGMENT_HEADER = 8
OVERHEAD = OUTER + INNER + _FRAGMENT_HEADER

_CONSUMER_PREFIX = (0xFD40, 0x0108, 0x0020, 0x0000)
_SERVICE_PREFIX = (0x2603, 0x10E1, 0x0100, 0x0002)
_CONSUMER_UNDERLAY = 0x64400001  # 100.64.0.1 + point
_PROVIDER_UNDERLAY = 0x64600001  # 100.96.0.1 + point
_CONSUMER_MAC = 0x02000001
_PROVIDER_MAC = 0x02000002
_GRE_KEY = 100 << 8
_NEXT_FRAGMENT = 44


@kernel
def encapsulate(out: Any, data: Any, start: Any, captured: Any, original: Any, path: Any) -> Any:
    """Write the backbone's form of a consumer-side frame into `out`; returns (captured, original) lengths.

    `start` is where its IPv4 header lies in `data`, `captured` and `original` count from there. `path` is the tuple
    (direction, link id, consumer point, provider point). `out` must have room for OVERHEAD more bytes.
    """
    direction, link_id, consumer_point, provider_point = path
    header = (np.int64(data[start]) & 15) << 2
    total = load16(data, start + TOTAL_LENGTH)
    if total == 0:
        total = original
    payload = total - header
    present = min(payload, captured - header)
    to_service = direction == TO_SERVICE
    fragment = load16(data, start + FRAGMENT) & (MORE_FRAGMENTS | FRAGMENT_OFFSET)
    transport = OUTER + INNER + (_FRAGMENT_HEADER if fragment else 0)

    _put_ethernet(out, 0, to_service, consumer_point, provider_point, 0x0800)
    store32(out, 14, 0x45000000 | _length_field(payload + transport - 14))
    store32(out, 18, 0)
    store32(out, 22, 0x402F0000)  # TTL 64, GRE
    near = _CONSUMER_UNDERLAY + consumer_point
    far = _PROVIDER_UNDERLAY + provider_point
    store32(out, 26, near if to_service else far)
    store32(out, 30, far if to_service else near)
    words = np.int64(0)
    for at in range(14, 34, 2):
        words += load16(out, at)
    store16(out, 24, 0xFFFF - fold(words))
    store32(out, 34, 0x20006558)
    store32(out, 38, _GRE_KEY)

    _put_ethernet(out, OUTER, to_service, consumer_point, provider_point, 0x86DD)
    ipv6 = OUTER + 14
    protocol = np.int64(data[start + PROTOCOL])
    store32(out, ipv6, 0x60000000)
    store16(out, ipv6 + 4, _length_field(payload + transport - OUTER - INNER))
    out[ipv6 + 6] = protocol
    if fragment:
        out[ipv6 + 6] = _NEXT_FRAGMENT
        store16(out, OUTER + INNER, protocol << 8)
        offset = (fragment & FRAGMENT_OFFSET) << 3
        store16(out, OUTER + INNER + 2, offset | (1 if fragment & MORE_FRAGMENTS else 0))
        store32(out, OUTER + INNER + 4, load16(data, start + IDENTIFICATION))
    out[ipv6 + 7] = data[start + TTL]
    source = load32(data, start + SOURCE)
    destination = load32(data, start + DESTINATION)
    if to_service:
        change = _put_consumer(out, ipv6 + 8, link_id, source) + _put_service(out, ipv6 + 24, destination)
    else:
        change = _put_service(out, ipv6 + 8, source) + _put_consumer(out, ipv6 + 24, link_id, destination)
    for at in range(present):
        out[transport + at] = data[start + header + at]
    if fragment & FRAGMENT_OFFSET == 0:
        if protocol == PROTOCOL_TCP:
            adjust(out, transport + TCP_CHECKSUM, fold(change))
        elif protocol == PROTOCOL_UDP:
            adjust_udp(out, transport + UDP_CHECKSUM, fold(change))
    return transport + present, min(transport + payload, 0xFFFFFFFF)


@kernel
def _length_field(length: Any) -> Any:
    """A 16-bit length; zero for what only offload makes so long."""
    return length if length <= 0xFFFF else 0


@kernel
def _put_ethernet(out: Any, at: Any, to_service: Any, consumer: Any, provider: Any, kind: Any) -> None:
    near, far = (_CONSUMER_MAC, consumer), (_PROVIDER_MAC, provider)
    receiver, sender = (far, near) if to_service else (near, far)
    store32(out, at, receiver[0])
    store16(out, at + 4, receiver[1])
    store32(out, at + 6, sender[0])
    store16(out, at + 10, sender[1])
    store16(out, at + 12, kind)


@kernel
def _put_prefix(out: Any, at: Any, prefix: Any) -> Any:
    """Write the upper 64 bits of an IPv6 address; returns the sum of its words."""
    total = np.int64(0)
    for word in range(4):
        store16(out, at + 2 * word, prefix[word])
        total += prefix[word]
    return total


@kernel
def _put_consumer(out: Any, at: Any, link_id: Any, address: Any) -> Any:
    total = _put_prefix(out, at, _CONSUMER_PREFIX)
    store32(out, at + 8, link_id)
    store32(out, at + 12, address)
    return total + (link_id >> 16) + (link_id & 0xFFFF)


@kernel
def _put_service(out: Any, at: Any, address: Any) -> Any:
    total = _put_prefix(out, at, _SERVICE_PREFIX)
    store32(out, at + 8, 0)
    store32(out, at + 12, address)
    return total
