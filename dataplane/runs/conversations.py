"""Conversations in captured packets: a compiled walk over frames, and the table that remembers.

A conversation is what two addresses exchange over one protocol and one pair of ports. What is not a well-formed TCP
or UDP packet between two hosts is nobody's conversation.
"""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.forwarding.parse import total_length, transport_fault
from dataplane.kernel import inlined, kernel, load16, load32, prefetch
from dataplane.nat.hashing import mix
from dataplane.packets.batch import PacketBatch
from dataplane.packets.headers import (
    ACK,
    DESTINATION,
    DESTINATION_PORT,
    FRAGMENT,
    FRAGMENT_OFFSET,
    IPV4_LENGTH,
    LINK_ETHERNET,
    LINK_LINUX_SLL,
    LINK_LINUX_SLL2,
    MORE_FRAGMENTS,
    PROTOCOL,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    SOURCE,
    SOURCE_PORT,
    SYN,
    TCP_FLAGS,
    TCP_LENGTH,
    TOTAL_LENGTH,
    UDP_LENGTH,
    link_header,
)
from dataplane.verdict import Verdict

_FORWARDED = int(Verdict.FORWARDED)

#: A side of a conversation is address << 16 | port. Above these 48 bits lies what else is known.
SIDE = (1 << 48) - 1
# Of CONVERSATION["low"]: the protocol, which also tells a row in use.
TCP, UDP = 1 << 48, 2 << 48
# Of CONVERSATION["high"]: where the first packet and the first SYN went.
FIRST_TO_HIGH, SYN_SEEN, SYN_TO_HIGH = 1 << 48, 2 << 48, 4 << 48

#: One conversation, four to a cache line: its two sides in numerical order. A row of zeros is free.
CONVERSATION = np.dtype([("low", np.int64), ("high", np.int64)])

#: What one packet says, between the stages of `walk`; `low` is 0 if it says nothing.
_FOUND = np.dtype([("low", np.int64), ("high", np.int64), ("hash", np.int64), ("marks", np.int64)])

#: Packets of a vector: while one is looked up, the rows of those behind it come from memory.
_VECTOR = 64


class Conversations:
    """The conversations of packets added batch by batch. Memory grows with conversations, not with packets."""

    def __init__(self) -> None:
        self._table = np.zeros(1 << 12, CONVERSATION)
        self._count = np.zeros(1, np.int64)
        self._prefixes = np.zeros(1 << 16, np.uint8)
        self._scratch = np.zeros(_VECTOR, _FOUND)
        # Nobody can make up captures whose conversations collide. Only the order of rows depends on it.
        self._key = np.uint64(secrets.randbits(64))

    def __len__(self) -> int:
        return int(self._count[0])

    def add(self, batch: PacketBatch) -> None:
        """Note the conversations of these packets. The batch is only read, and not kept."""
        begin = 0
        while True:
            begin = walk(
                batch.frames,
                batch.data,
                begin,
                self._table,
                self._count,
                self._prefixes,
                self._scratch,
                self._key,
            )
            if begin == len(batch):
                return
            grown = np.zeros(2 * len(self._table), CONVERSATION)
            move(self._table, grown, self._key)
            self._table = grown

    def rows(self) -> NDArray[Any]:
        """The conversations, in no particular order."""
        rows: NDArray[Any] = self._table[self._table["low"] != 0]
        return rows

    def prefixes(self) -> NDArray[np.int64]:
        """The upper 16 bits, ascending, of every address that an IPv4 header names, conversation or not."""
        return np.flatnonzero(self._prefixes)


@kernel
def walk(frames: Any, data: Any, begin: Any, table: Any, count: Any, prefixes: Any, scratch: Any, key: Any) -> Any:
    """Note the conversations of the frames from `begin` on; the first frame not yet done.

    It is not the end when the table is to grow first. `prefixes` gets a 1 for every 16-bit prefix of an address.
    """
    total = len(frames)
    most = len(table) >> 1
    while begin < total:
        size = min(len(scratch), total - begin)
        for k in range(size):
            found = scratch[k]
            found["low"] = 0
            _read(frames[begin + k], data, prefixes, found)
            if found["low"] != 0:
                found["hash"] = _hash(found["low"], found["high"], key)
                prefetch(table, found["hash"] & (len(table) - 1))
        for k in range(size):
            found = scratch[k]
            if found["low"] == 0:
                continue
            row = table[_find(table, found["low"], found["high"], found["hash"])]
            if row["low"] == 0:
                if count[0] >= most:
                    return begin + k
                count[0] += 1
                row["low"] = found["low"]
                row["high"] = found["high"] | found["marks"]
            elif found["marks"] & SYN_SEEN and row["high"] & SYN_SEEN == 0:
                row["high"] = row["high"] | (found["marks"] & (SYN_SEEN | SYN_TO_HIGH))
        begin += size
    return begin


@kernel
def move(table: Any, grown: Any, key: Any) -> None:
    """Copy every conversation to a larger table."""
    for index in range(len(table)):
        row = table[index]
        if row["low"] != 0:
            high = row["high"] & SIDE
            place = grown[_find(grown, row["low"], high, _hash(row["low"], high, key))]
            place["low"] = row["low"]
            place["high"] = row["high"]


@inlined
def _hash(low: Any, high: Any, key: Any) -> Any:
    """63 bits for a conversation."""
    return np.int64(mix(mix(np.uint64(low) ^ key) + np.uint64(high)) >> np.uint64(1))


@inlined
def _find(table: Any, low: Any, high: Any, hashed: Any) -> Any:
    """The row of a conversation, or the free row where it belongs."""
    mask = len(table) - 1
    cell = hashed & mask
    while table[cell]["low"] != 0 and (table[cell]["low"] != low or table[cell]["high"] & SIDE != high):
        cell = (cell + 1) & mask
    return cell


@inlined
def _read(frame: Any, data: Any, prefixes: Any, found: Any) -> None:
    """Fill `found` if the frame is part of a conversation; the checks are those of `forwarding/parse.py`."""
    start = frame["offset"]
    captured = np.int64(frame["captured"])
    link_type = np.int64(frame["link_type"])
    length = link_header(data, start, captured, link_type)
    if length < 0 or captured - length < IPV4_LENGTH:
        return
    network = start + length
    captured -= length
    first = np.int64(data[network])
    header = (first & 15) << 2
    original = np.int64(frame["original"]) - length
    total = total_length(load16(data, network + TOTAL_LENGTH), original)
    if first >> 4 != 4 or header < IPV4_LENGTH or header > captured or total < header or total > original:
        return
    source = load32(data, network + SOURCE)
    destination = load32(data, network + DESTINATION)
    prefixes[source >> 16] = 1
    prefixes[destination >> 16] = 1
    if not _is_host(source) or not _is_host(destination) or _is_to_group(data, start, link_type):
        return
    transport = network + header
    protocol = np.int64(data[network + PROTOCOL])
    if protocol != PROTOCOL_TCP and protocol != PROTOCOL_UDP:
        return
    payload, there = total - header, captured - header
    fragment = load16(data, network + FRAGMENT)
    if fragment & FRAGMENT_OFFSET:
        return
    if fragment & MORE_FRAGMENTS:
        # A first fragment names its ports; that the datagram goes on is no fault here.
        least = np.int64(TCP_LENGTH if protocol == PROTOCOL_TCP else UDP_LENGTH)
        if payload < least or there < least:
            return
    elif transport_fault(data, protocol, transport, payload, there) != _FORWARDED:
        return
    sender = (source << 16) | load16(data, transport + SOURCE_PORT)
    receiver = (destination << 16) | load16(data, transport + DESTINATION_PORT)
    marks = np.int64(0)
    if receiver > sender:
        marks = np.int64(FIRST_TO_HIGH)
    if protocol == PROTOCOL_TCP:
        found["low"] = min(sender, receiver) | TCP
        if np.int64(data[transport + TCP_FLAGS]) & (SYN | ACK) == SYN:
            marks |= SYN_SEEN
            if receiver > sender:
                marks |= SYN_TO_HIGH
    else:
        found["low"] = min(sender, receiver) | UDP
    found["high"] = max(sender, receiver)
    found["marks"] = marks


@inlined
def _is_host(address: Any) -> Any:
    """False for 0.0.0.0, multicast and limited broadcast addresses."""
    return address != 0 and address >> 28 != 14 and address != 0xFFFFFFFF


@inlined
def _is_to_group(data: Any, start: Any, link_type: Any) -> Any:
    """Whether the link header says that a frame went to more than one station."""
    if link_type == LINK_ETHERNET:
        return data[start] & 1 != 0
    kind = np.int64(0)  # of Linux cooked captures: 1 broadcast, 2 multicast
    if link_type == LINK_LINUX_SLL:
        kind = load16(data, start)
    elif link_type == LINK_LINUX_SLL2:
        kind = np.int64(data[start + 10])
    return kind == 1 or kind == 2
