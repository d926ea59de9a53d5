"""Rewriting: addresses, ports, time to live, checksums, in place (RFC 3022 §4, RFC 1624)."""

from typing import Any

import numpy as np

from dataplane.kernel import inlined, store16, store32, unlikely
from dataplane.packets.checksum import adjust, adjust_udp
from dataplane.packets.headers import (
    DESTINATION,
    DESTINATION_PORT,
    HEADER_CHECKSUM,
    ICMP_CHECKSUM,
    ICMP_IDENTIFIER,
    PROTOCOL_ICMP,
    PROTOCOL_TCP,
    SOURCE,
    SOURCE_PORT,
    TCP_CHECKSUM,
    TTL,
    UDP_CHECKSUM,
)

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
