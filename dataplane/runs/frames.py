"""Packets of clients' connections: headers with right checksums, written into the buffer that the simulator rewrites.

Every packet is what the client's network carries: what a client sends, and what the endpoint answers (a captured
reply, docs/model.md). Ethernet, IPv4 without options, TCP or UDP without options. Payloads are zeros and are not
kept: a frame holds the headers, like a capture cut by a snap length, and says how long it was.
"""

from typing import Any

import numpy as np

from dataplane.kernel import inlined, kernel, store16, store32
from dataplane.packets.checksum import fold
from dataplane.packets.headers import ACK, ETHERTYPE_IPV4, FIN, PROTOCOL_TCP, PROTOCOL_UDP, RST, SYN
from dataplane.runs.clients import give_slot, plan, take_slot
from dataplane.runs.connections import (
    ANSWER,
    END,
    ENDS_FIN,
    ENDS_RST,
    FIN_REPLY,
    FIRST_EPHEMERAL,
    KEEP,
    KEEP_REPLY,
    NEVER,
    OPEN,
    RELEASE,
    RESPONSE,
)
from dataplane.runs.payload import request_of, response_of

#: Bytes from one frame to the next: a cache line holds the headers.
STRIDE = 64

#: The most packets of a request or a response, and of one step: a handshake, then a request.
MOST_PACKETS = 1000
MOST_IN_STEP = MOST_PACKETS + 2

_NETWORK, _TRANSPORT = 14, 34
_TCP_HEADERS, _UDP_HEADERS = 54, 42
_CLIENT_MAC, _GATEWAY_MAC = 0x0200_0000_0001, 0x0200_0000_0002
_DONT_FRAGMENT = 0x4000
_CLIENT_TTL, _REPLY_TTL = 64, 63
_WINDOW = 64_240


@kernel
def emit(traffic: Any, begin: Any, frames: Any, data: Any) -> Any:
    """Write the packets of the slice's steps, from step `begin` on, as far as `frames` reaches.

    Returns (the first step that is not done, packets written). A step's first packet is noted in its connection.
    """
    status = traffic.status[0]
    count = np.int64(0)
    place = begin
    while place < status["steps"] and count + MOST_IN_STEP <= len(frames):
        connection = traffic.connections[traffic.steps[place]["row"]]
        source = traffic.sources[connection["order"] >> 48]
        connection["frame"] = -1
        connection["later"] = NEVER
        if connection["slot"] < 0:
            source["started"] += 1
            connection["slot"] = take_slot(traffic, source)
        if connection["slot"] < 0:
            source["no_client_port"] += 1
        else:
            plan(traffic, source, connection)
            before = count
            if source["protocol"] == PROTOCOL_TCP:
                count = _tcp_step(traffic, connection, frames, data, count)
            else:
                count = _udp_step(traffic, connection, frames, data, count)
            if count > before:
                connection["frame"] = before
            if connection["later"] == NEVER:
                give_slot(traffic, source, np.int64(connection["slot"]))
        place += 1
    return place, count


@inlined
def _tcp_step(traffic: Any, connection: Any, frames: Any, data: Any, count: Any) -> Any:
    """The segments of a step; the number of packets after it."""
    source = traffic.sources[connection["order"] >> 48]
    step = connection["step"]
    if step == OPEN:
        if connection["tries"] > 0:  # the same SYN again
            connection["client_next"] = (np.int64(connection["client_next"]) - 1) & 0xFFFFFFFF
        count = _segment(traffic, connection, (frames, data), count, SYN, 0)
    elif step == ANSWER:
        count = _reply(traffic, connection, (frames, data), count, SYN | ACK, 0)
        count = _segment(traffic, connection, (frames, data), count, ACK, 0)
        packets, size = request_of(traffic, source, connection)
        for number in range(packets):
            count = _segment(traffic, connection, (frames, data), count, ACK, _share(size, packets, number))
    elif step == RESPONSE:
        packets, size = response_of(traffic, source, connection)
        for number in range(packets):
            count = _reply(traffic, connection, (frames, data), count, ACK, _share(size, packets, number))
    elif step == KEEP:
        count = _segment(traffic, connection, (frames, data), count, ACK, 0)
    elif step == KEEP_REPLY:
        count = _reply(traffic, connection, (frames, data), count, ACK, 0)
    elif step == END:
        if connection["ending"] == ENDS_FIN:
            count = _segment(traffic, connection, (frames, data), count, FIN | ACK, 0)
        elif connection["ending"] == ENDS_RST:
            count = _segment(traffic, connection, (frames, data), count, RST | ACK, 0)
    elif step == FIN_REPLY:
        count = _reply(traffic, connection, (frames, data), count, FIN | ACK, 0)
        count = _segment(traffic, connection, (frames, data), count, ACK, 0)
    return count


@inlined
def _udp_step(traffic: Any, connection: Any, frames: Any, data: Any, count: Any) -> Any:
    """The datagrams of a step; the number of packets after it."""
    source = traffic.sources[connection["order"] >> 48]
    step = connection["step"]
    if step == RELEASE:
        return count
    reply = step == RESPONSE or step == KEEP_REPLY
    packets, size = np.int64(1), np.int64(0)  # keep-alives and the last datagram are empty
    if step == OPEN:
        packets, size = request_of(traffic, source, connection)
    elif step == RESPONSE:
        packets, size = response_of(traffic, source, connection)
    for number in range(packets):
        count = _datagram(traffic, connection, (frames, data), count, reply, _share(size, packets, number))
    return count


@inlined
def _share(size: Any, packets: Any, number: Any) -> Any:
    """How many of `size` bytes the `number`th of so many packets carries."""
    return size * (number + 1) // packets - size * number // packets


@inlined
def _segment(traffic: Any, connection: Any, out: Any, count: Any, flags: Any, payload: Any) -> Any:
    """A segment of the client."""
    sequence = np.int64(connection["client_next"])
    acknowledged = np.int64(connection["server_next"]) if flags & ACK else np.int64(0)
    connection["client_next"] = (sequence + payload + (1 if flags & (SYN | FIN) else 0)) & 0xFFFFFFFF
    _tcp(traffic, connection, out, count, (False, flags, payload, sequence, acknowledged))
    return count + 1


@inlined
def _reply(traffic: Any, connection: Any, out: Any, count: Any, flags: Any, payload: Any) -> Any:
    """A segment of the server."""
    sequence = np.int64(connection["server_next"])
    connection["server_next"] = (sequence + payload + (1 if flags & (SYN | FIN) else 0)) & 0xFFFFFFFF
    _tcp(traffic, connection, out, count, (True, flags, payload, sequence, np.int64(connection["client_next"])))
    return count + 1


@inlined
def _tcp(traffic: Any, connection: Any, out: Any, count: Any, segment: Any) -> None:
    reply, flags, payload, sequence, acknowledged = segment
    frames, data = out
    length = payload + _TCP_HEADERS - _TRANSPORT
    ports, total = _network(traffic, connection, out, count, (reply, PROTOCOL_TCP, length))
    at = count * STRIDE + _TRANSPORT
    store32(data, at, ports)
    store32(data, at + 4, sequence)
    store32(data, at + 8, acknowledged)
    control = (5 << 12) | flags
    store32(data, at + 12, (control << 16) | _WINDOW)
    total += (sequence >> 16) + (sequence & 0xFFFF) + (acknowledged >> 16) + (acknowledged & 0xFFFF) + control + _WINDOW
    store32(data, at + 16, (0xFFFF - fold(total)) << 16)
    frames[count]["captured"] = _TCP_HEADERS


@inlined
def _datagram(traffic: Any, connection: Any, out: Any, count: Any, reply: Any, payload: Any) -> Any:
    frames, data = out
    length = payload + _UDP_HEADERS - _TRANSPORT
    ports, total = _network(traffic, connection, out, count, (reply, PROTOCOL_UDP, length))
    at = count * STRIDE + _TRANSPORT
    store32(data, at, ports)
    checksum = 0xFFFF - fold(total + length)
    store32(data, at + 4, (length << 16) | (checksum if checksum != 0 else 0xFFFF))
    frames[count]["captured"] = _UDP_HEADERS
    return count + 1


@inlined
def _network(traffic: Any, connection: Any, out: Any, count: Any, datagram: Any) -> Any:
    """Link and IPv4 header, and the frame's row. Returns the ports and the checksum's sum so far of the transport."""
    reply, protocol, length = datagram
    frames, data = out
    source = traffic.sources[connection["order"] >> 48]
    slot = np.int64(connection["slot"])
    port = slot // source["hosts"]
    client = traffic.hosts[source["first_host"] + slot - port * source["hosts"]]
    client_port, server, server_port = FIRST_EPHEMERAL + port, source["address"], source["port"]
    at = count * STRIDE
    sender, receiver = np.int64(_CLIENT_MAC), np.int64(_GATEWAY_MAC)
    from_address, to_address, ports = client, server, (client_port << 16) | server_port
    ttl = np.int64(_CLIENT_TTL)
    if reply:
        sender, receiver = receiver, sender
        from_address, to_address, ports = server, client, (server_port << 16) | client_port
        ttl = np.int64(_REPLY_TTL)
    store32(data, at, receiver >> 16)
    store32(data, at + 4, ((receiver & 0xFFFF) << 16) | (sender >> 32))
    store32(data, at + 8, sender & 0xFFFFFFFF)
    store16(data, at + 12, ETHERTYPE_IPV4)
    size = length + _TRANSPORT - _NETWORK
    addresses = (client >> 16) + (client & 0xFFFF) + (server >> 16) + (server & 0xFFFF)
    life = (ttl << 8) | protocol
    store32(data, at + 14, (0x4500 << 16) | size)
    store32(data, at + 18, _DONT_FRAGMENT)
    store32(data, at + 22, (life << 16) | (0xFFFF - fold(0x4500 + size + _DONT_FRAGMENT + life + addresses)))
    store32(data, at + 26, from_address)
    store32(data, at + 30, to_address)
    frame = frames[count]
    frame["offset"] = at
    frame["time_ns"] = connection["time"]
    frame["original"] = _NETWORK + size
    frame["point"] = source["point"]
    return ports, addresses + protocol + length + client_port + server_port
