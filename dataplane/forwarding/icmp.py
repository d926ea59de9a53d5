"""ICMP errors (RFC 5508 §4): reading the packet that an error quotes, and rewriting both.

    IPv4 | ICMP type, code, checksum, rest | quoted IPv4 | at least 8 bytes of the quoted TCP, UDP or ICMP

An error belongs to the session of the packet that it quotes. It is rewritten as if the quoted packet had been: what the
receiver gets quotes what the receiver sent. It never changes the session's state or timer (RFC 5508 REQ-6).
"""

from typing import Any

import numpy as np

from dataplane.kernel import inlined, kernel, load16, load32, store16, store32
from dataplane.packets.checksum import address_change, adjust, adjust_udp, fold, word_change
from dataplane.packets.headers import (
    DESTINATION,
    DESTINATION_PORT,
    FRAGMENT,
    FRAGMENT_OFFSET,
    HEADER_CHECKSUM,
    ICMP_CHECKSUM,
    ICMP_CODE,
    ICMP_IDENTIFIER,
    ICMP_LENGTH,
    ICMP_TYPE,
    IPV4_LENGTH,
    PROTOCOL,
    PROTOCOL_ICMP,
    PROTOCOL_TCP,
    SOURCE,
    SOURCE_PORT,
    TCP_CHECKSUM,
    UDP_CHECKSUM,
)
from dataplane.verdict import Verdict

_FORWARDED = int(Verdict.FORWARDED)
_MALFORMED = int(Verdict.MALFORMED)
_CHECKSUM_WRONG = int(Verdict.ICMP_CHECKSUM_WRONG)
_UNMATCHED = int(Verdict.ICMP_UNMATCHED)

#: What RFC 792 promises of the quoted packet's payload.
_QUOTED = 8

_NOTHING = (np.int64(-1), np.int64(0), np.int64(0), np.int64(0), np.int64(0))


@kernel
def read_quoted(data: Any, at: Any, payload: Any, captured: Any) -> Any:
    """(fault, what the error at `at` quotes): (protocol, source, source port, destination, destination port).

    Of a quoted echo message the ports are (identifier, type). After this, the quoted header with 8 bytes more lies
    inside what was captured.
    """
    size = min(payload, captured)
    if size < ICMP_LENGTH + IPV4_LENGTH + _QUOTED:
        return _MALFORMED, _NOTHING
    quoted = at + ICMP_LENGTH
    first = np.int64(data[quoted])
    header = (first & 15) << 2
    if first >> 4 != 4 or header < IPV4_LENGTH or size < ICMP_LENGTH + header + _QUOTED:
        return _MALFORMED, _NOTHING
    if captured >= payload and _sum(data, at, payload) != 0xFFFF:
        return _CHECKSUM_WRONG, _NOTHING
    if _sum(data, quoted, header) != 0xFFFF:
        return _CHECKSUM_WRONG, _NOTHING
    if load16(data, quoted + FRAGMENT) & FRAGMENT_OFFSET:
        return _UNMATCHED, _NOTHING
    protocol = np.int64(data[quoted + PROTOCOL])
    transport = quoted + header
    if protocol == PROTOCOL_ICMP:
        if data[transport + ICMP_CODE] != 0:
            return _UNMATCHED, _NOTHING
        source_port = load16(data, transport + ICMP_IDENTIFIER)
        destination_port = np.int64(data[transport + ICMP_TYPE])
    else:
        source_port = load16(data, transport + SOURCE_PORT)
        destination_port = load16(data, transport + DESTINATION_PORT)
    source = load32(data, quoted + SOURCE)
    destination = load32(data, quoted + DESTINATION)
    return _FORWARDED, (protocol, source, source_port, destination, destination_port)


@kernel
def _sum(data: Any, at: Any, size: Any) -> Any:
    """The ones-complement sum of `size` bytes; 0xFFFF where a checksum is right."""
    total = np.int64(0)
    for word in range(size >> 1):
        total += load16(data, at + 2 * word)
    if size & 1:
        total += np.int64(data[at + size - 1]) << 8
    return fold(total)


@kernel
def rewrite_error(data: Any, network: Any, size: Any, header_delta: Any, sender: Any, receiver: Any) -> None:
    """Give an error and the packet that it quotes other addresses and ports; adjust all checksums.

    The error goes from `sender` to `receiver`, each (address, port); the quoted packet went the other way. `size` is
    how much of the packet at `network` is there, `header_delta` what has changed in the outer header already.
    """
    icmp = network + ((np.int64(data[network]) & 15) << 2)
    quoted = icmp + ICMP_LENGTH
    header_delta += _put_addresses(data, network, sender[0], receiver[0])
    adjust(data, network + HEADER_CHECKSUM, header_delta)

    addresses = _put_addresses(data, quoted, receiver[0], sender[0])
    before = load16(data, quoted + HEADER_CHECKSUM)
    adjust(data, quoted + HEADER_CHECKSUM, addresses)
    total = addresses + word_change(before, load16(data, quoted + HEADER_CHECKSUM))

    transport = quoted + ((np.int64(data[quoted]) & 15) << 2)
    protocol = data[quoted + PROTOCOL]
    if protocol == PROTOCOL_ICMP:
        ports = _put_word(data, transport + ICMP_IDENTIFIER, receiver[1] | sender[1])  # one of them is zero
        before = load16(data, transport + ICMP_CHECKSUM)
        adjust(data, transport + ICMP_CHECKSUM, ports)
        total += ports + word_change(before, load16(data, transport + ICMP_CHECKSUM))
    else:
        ports = _put_word(data, transport + SOURCE_PORT, receiver[1])
        ports += _put_word(data, transport + DESTINATION_PORT, sender[1])
        total += ports
        at = transport + (TCP_CHECKSUM if protocol == PROTOCOL_TCP else UDP_CHECKSUM)
        if at + 2 <= network + size:  # RFC 792 promises TCP's first 8 bytes only
            before = load16(data, at)
            if protocol == PROTOCOL_TCP:
                adjust(data, at, addresses + ports)
            else:
                adjust_udp(data, at, addresses + ports)
            total += word_change(before, load16(data, at))
    adjust(data, icmp + ICMP_CHECKSUM, total)


@inlined
def _put_word(data: Any, at: Any, value: Any) -> Any:
    """Write a 16-bit word; returns what that changes in a checksum."""
    change = word_change(load16(data, at), value)
    store16(data, at, value)
    return change


@inlined
def _put_addresses(data: Any, network: Any, source: Any, destination: Any) -> Any:
    """Write the addresses of an IPv4 header; returns what that changes in a checksum."""
    change = address_change(load32(data, network + SOURCE), source)
    change += address_change(load32(data, network + DESTINATION), destination)
    store32(data, network + SOURCE, source)
    store32(data, network + DESTINATION, destination)
    return change
