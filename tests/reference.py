"""The executable specification: what becomes of every packet, in plain Python.

It formalises docs/model.md (the rules), what users rely on (verdicts, the summary), RFC 791 (IPv4 header and
fragments), RFC 9293 (TCP header and flags), RFC 768 (UDP), RFC 792 (ICMP), RFC 1624 (checksum adjustment) and
RFC 6056 (ports by hash). It shares no code with the engine: only the list of verdicts and the topology, which says
what exists. It is meant to be read, not to be fast: every rule is looked up where the rule says, and the next timer
is the smallest of all timers.

Readings chosen where the text leaves room; each is marked `Reading n` where it is used.

 1. A frame with more than two VLAN tags: the link header ends after the second; what follows is not IPv4.
 2. "A link without EtherType" is every link type but Ethernet and the two Linux cooked ones: a version nibble
    of 6 means `bypassed` there, whatever a family field or link type 228 promised. No byte is `malformed`.
 3. "The frame ends before its link header does" speaks of the bytes in the capture, not of those on the wire.
 4. `unreachable_source` looks at the network where the packet entered, which is what model.md calls P.
 5. A FIN that does not complete the closing lets the same packet still advance the handshake.
 6. "TTL one higher" of a captured reply holds under `decrement_ttl` only: else the backend sent the same TTL.
 7. A captured reply is delivered where it was captured; a provider's reply where its session was created.
 8. `advance` before the first packet does nothing: time begins with the first packet. A packet that waits has
    arrived but is not received: the clock does not begin with it, the time of the fragments does.
 9. A NAT IP without pools (no rules or no backends) has capacity 0, and 100 % of it is available.
10. Pools are listed by NAT IP, protocol (tcp, udp, icmp), backend; addresses in file order.
11. Of the drops at the provider's side only `filtered` counts for an endpoint: no other knows a session.
12. A captured reply between two endpoints belongs to the endpoint that sent it, other packets to the receiver.
13. An ICMP fragment is no ICMP error, whatever its first byte says; nor is a message without a type.
14. An echo's type and direction are looked at before its length: a short request from the provider is
    `unsupported_protocol`, and so is one with another code, if the code is there.
15. Between two endpoints an ICMP error is a captured reply when it quotes a packet of a live session of the sender,
    whose service translates errors, whether its checksums are right or not.
16. An error that quotes an echo quotes a request (type 8, code 0), or, to_service, a reply (type 0, code 0).
17. Bytes of an error's quote that are beyond its message, by length or as captured, are not translated; a quoted
    checksum of which one byte is there is left alone.
18. A forwarded error is the session's last packet, since it counts for it.
19. In closing and reset no SYN counts for the first handshake. A packet with FIN or RST is no part of a reopening,
    whatever else it carries; one with SYN and ACK may complete it, as it may complete the first handshake.
20. In reset a handshake is looked at before `until_data`: a packet that completes it makes the session established.
21. With a leaving session's port a block may become free too: the endpoint then gets the lowest free block.
22. Between two endpoints a first fragment goes by its own header if it is translated and sound, a later one as its
    first one went; else both travel to_service.
23. A fragment that contradicts its datagram condemns it even if it would have to wait when no more may wait.
24. Of several datagrams that are forgotten at once, those that began earlier come first.
25. The end of the input forgets every datagram.
26. A fragment that may not wait, or whose datagram may not begin, begins none and covers nothing.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from ipaddress import IPv4Address
from itertools import pairwise
from typing import Any

from dataplane.topology.model import (
    Event,
    LoadBalancingRule,
    PrivateEndpoint,
    PrivateLinkService,
    Topology,
    VirtualNetwork,
)
from dataplane.verdict import Verdict

TO_SERVICE, TO_CONSUMER = "to_service", "to_consumer"
ICMP, TCP, UDP = 1, 6, 17
PROTOCOL_NAMES = {TCP: "tcp", UDP: "udp", ICMP: "icmp"}
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
HALF_OPEN, ESTABLISHED, HALF_CLOSED = "half-open", "established", "half-closed"
CLOSING, RESET = "closing", "reset"
UDP_UNREPLIED, UDP_FLOW, ICMP_FLOW = "udp unreplied", "udp", "icmp"
ECHO_REPLY, ECHO_REQUEST = 0, 8
ICMP_ERRORS = (3, 4, 11, 12)  # unreachable, source quench, time exceeded, parameter problem

ETHERNET, COOKED_1, COOKED_2, BSD_NULL, BSD_LOOP = 1, 113, 276, 0, 108
RAW_IP, RAW_IPV4, RAW_IPV6 = (12, 14, 101), 228, 229
ETHERTYPE_IPV4 = 0x0800
ETHERTYPES_VLAN = (0x8100, 0x88A8, 0x9100)
FAMILY_IPV4 = 2
SECOND = 10**9
MINUTE = 60 * SECOND
FIRST_TIME, LAST_TIME = -(2**63) + MINUTE, 2**63 - 1 - MINUTE  # what a clock can say

DATAGRAM_LIFE = 30 * SECOND
MOST_DATAGRAMS = 1024
MOST_WAITING = 1024
LONGEST_PACKET = 65_535

Socket = tuple[IPv4Address, int]


# --- Reading a frame ----------------------------------------------------------------------------------------


def read_link_header(frame: bytes, link_type: int) -> tuple[int, bool]:
    """Length of the link header with its VLAN tags, as far as it is known; whether IPv4 follows."""
    if link_type == ETHERNET:
        header = 14
        tags = 0
        while len(frame) >= header:
            (ethertype,) = struct.unpack_from("!H", frame, header - 2)
            if ethertype not in ETHERTYPES_VLAN or tags == 2:  # Reading 1
                return header, ethertype == ETHERTYPE_IPV4
            header += 4
            tags += 1
        return header, False
    if link_type in (COOKED_1, COOKED_2):
        header, protocol_at = (16, 14) if link_type == COOKED_1 else (20, 0)
        if len(frame) < header:  # Reading 3
            return header, False
        return header, struct.unpack_from("!H", frame, protocol_at) == (ETHERTYPE_IPV4,)
    if link_type in (BSD_NULL, BSD_LOOP):
        if len(frame) < 4:
            return 4, False
        families = {int.from_bytes(frame[:4], "big")}
        if link_type == BSD_NULL:  # the order of the host that wrote the capture, which may be either
            families.add(int.from_bytes(frame[:4], "little"))
        return 4, FAMILY_IPV4 in families and not looks_like_ipv6(frame[4:])
    if link_type in RAW_IP or link_type == RAW_IPV4:
        return 0, not looks_like_ipv6(frame)
    return 0, False  # IPv6 only (229), or a link type that is not known


def looks_like_ipv6(packet: bytes) -> bool:
    """Reading 2: the version nibble is 6."""
    return len(packet) > 0 and packet[0] >> 4 == 6


@dataclass
class Packet:
    """An IPv4 packet whose header is sound, in its frame; of its payload what can be read.

    A packet that an ICMP error quotes is one too: it ends where the quote does.
    """

    frame: bytes
    start: int  # of the IPv4 header: the length of the link header
    transport: int  # start of the TCP, UDP or ICMP header
    end: int  # of those of its bytes that were captured
    length: int  # IPv4 total length
    ttl: int
    protocol: int
    source: IPv4Address
    destination: IPv4Address
    identification: int
    offset: int  # of a fragment, in bytes
    more_fragments: bool
    has_transport: bool = False  # ports, or an echo's identifier, are valid only if this is true
    source_port: int = 0
    destination_port: int = 0
    flags: int = 0  # of TCP
    icmp_type: int | None = None
    icmp_code: int | None = None
    quote: Packet | None = None  # what an ICMP error quotes, if it is all there
    icmp_checksum_wrong: bool = False  # of an error, or of the header that it quotes

    @property
    def payload(self) -> int:
        """Bytes after the IPv4 header."""
        return self.length - (self.transport - self.start)

    @property
    def is_fragment(self) -> bool:
        """One of several, whichever."""
        return self.more_fragments or self.offset > 0

    @property
    def is_later_fragment(self) -> bool:
        """A fragment without a transport header."""
        return self.offset > 0

    @property
    def is_malformed(self) -> bool:
        """TCP and UDP: a fragment of impossible size, or a transport header that is broken or not all there."""
        if self.is_fragment:
            if self.payload == 0 or (self.more_fragments and self.payload % 8 != 0):
                return True
            if self.offset + self.length > LONGEST_PACKET:
                return True
        return not self.is_later_fragment and not self.has_transport

    @property
    def is_syn(self) -> bool:
        """A first TCP packet: SYN set; ACK, FIN and RST not."""
        return self.protocol == TCP and self.flags & (SYN | ACK | FIN | RST) == SYN

    @property
    def is_icmp_error(self) -> bool:
        """Reading 13."""
        return self.protocol == ICMP and self.icmp_type in ICMP_ERRORS


def read_ipv4(frame: bytes, start: int, on_wire: int) -> Packet | None:
    """The IPv4 packet at `start`, None if its header is broken; `on_wire`: what follows the link header there."""
    captured = len(frame) - start
    if captured < 20:
        return None
    version, header = frame[start] >> 4, (frame[start] & 0x0F) * 4
    if version != 4 or header < 20 or header > captured:
        return None
    (total_length,) = struct.unpack_from("!H", frame, start + 2)
    length = total_length if total_length != 0 else on_wire  # 0: segmentation offload
    if length < header or length > on_wire:
        return None
    packet = read_header(frame, start, end=min(start + length, len(frame)), length=length)
    if packet.protocol == ICMP and not packet.is_fragment:
        read_icmp(packet)
    elif packet.protocol in (TCP, UDP) and not packet.is_later_fragment:
        read_ports(packet)
    return packet


def read_header(frame: bytes, start: int, end: int, length: int) -> Packet:
    """The fields of an IPv4 header (RFC 791 §3.1)."""
    identification, fragment, ttl, protocol = struct.unpack_from("!HHBB", frame, start + 4)
    return Packet(
        frame, start, start + (frame[start] & 0x0F) * 4, end, length, ttl, protocol,
        source=IPv4Address(frame[start + 12 : start + 16]),
        destination=IPv4Address(frame[start + 16 : start + 20]),
        identification=identification,
        offset=(fragment & 0x1FFF) * 8,
        more_fragments=fragment & 0x2000 != 0,
    )  # fmt: skip


def read_ports(packet: Packet) -> None:
    """Fill in ports and flags unless the TCP or UDP header is broken (RFC 9293 §3.1, RFC 768)."""
    needed = 20 if packet.protocol == TCP else 8
    frame, at = packet.frame, packet.transport
    if packet.end - at < needed:
        return
    longest = packet.payload
    if packet.protocol == TCP:
        claimed = (frame[at + 12] >> 4) * 4  # data offset
        packet.flags = frame[at + 13]
    else:
        (claimed,) = struct.unpack_from("!H", frame, at + 4)  # UDP length: of the whole datagram
        if packet.more_fragments:
            longest = LONGEST_PACKET
    if needed <= claimed <= longest:
        packet.has_transport = True
        packet.source_port, packet.destination_port = struct.unpack_from("!HH", frame, at)


def read_icmp(packet: Packet) -> None:
    """Fill in type and code, an echo's identifier, and what an error quotes, as far as they are there (RFC 792)."""
    message = packet.frame[packet.transport : packet.end]
    packet.icmp_type = message[0] if len(message) > 0 else None
    packet.icmp_code = message[1] if len(message) > 1 else None
    if packet.icmp_type in (ECHO_REQUEST, ECHO_REPLY) and len(message) >= 8:
        read_identifier(packet)
    if packet.icmp_type in ICMP_ERRORS:
        packet.quote = read_quote(packet.frame, packet.transport + 8, packet.end)
        if packet.quote is not None:
            header = packet.frame[packet.quote.start : packet.quote.transport]
            is_whole = len(message) == packet.payload
            wrong = is_whole and ones_complement_sum(words_of(message)) != 0xFFFF
            packet.icmp_checksum_wrong = wrong or ones_complement_sum(words_of(header)) != 0xFFFF


def read_identifier(packet: Packet) -> None:
    """An echo's identifier is the port of the side that asks; the other side has port 0."""
    packet.has_transport = True
    (identifier,) = struct.unpack_from("!H", packet.frame, packet.transport + 4)
    if packet.icmp_type == ECHO_REQUEST:
        packet.source_port, packet.destination_port = identifier, 0
    else:
        packet.source_port, packet.destination_port = 0, identifier


def read_quote(frame: bytes, start: int, end: int) -> Packet | None:
    """The packet that an ICMP error quotes, None unless its header and eight bytes after it are there.

    Its ports are known if it is TCP, UDP or an echo message, and not a later fragment.
    """
    if end - start < 20:
        return None
    version, header = frame[start] >> 4, (frame[start] & 0x0F) * 4
    if version != 4 or header < 20 or end - start < header + 8:
        return None
    quote = read_header(frame, start, end, length=end - start)
    if quote.is_later_fragment:
        return quote
    if quote.protocol in (TCP, UDP):
        quote.has_transport = True
        quote.source_port, quote.destination_port = struct.unpack_from("!HH", frame, quote.transport)
    elif quote.protocol == ICMP:
        quote.icmp_type, quote.icmp_code = frame[quote.transport], frame[quote.transport + 1]
        if quote.icmp_type in (ECHO_REQUEST, ECHO_REPLY) and quote.icmp_code == 0:
            read_identifier(quote)
    return quote


# --- Checksums and translation ------------------------------------------------------------------------------


def words_of(data: bytes) -> list[int]:
    """16-bit words; an odd byte at the end is the upper half of one."""
    return list(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))


def ones_complement_sum(words: list[int]) -> int:
    """Sum of 16-bit words with end-around carry."""
    total = sum(words)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def adjust_checksum(checksum: int, old: list[int], new: list[int]) -> int:
    """RFC 1624, equation 3: HC' = ~(~HC + ~m + m'), for any number of words."""
    words = [~checksum & 0xFFFF] + [~word & 0xFFFF for word in old] + new
    return ~ones_complement_sum(words) & 0xFFFF


def translate(packet: Packet, source: Socket, destination: Socket, ttl: int) -> bytes:
    """The frame with other addresses, ports and TTL, and checksums adjusted: what was wrong stays wrong."""
    frame = bytearray(packet.frame)
    rewrite(frame, packet, source, destination, ttl)
    quote = packet.quote
    if quote is not None:
        # The quoted packet went the other way: what is the error's source here was its destination.
        before = words_of(frame[quote.start : quote.end])
        rewrite(frame, quote, destination, source, quote.ttl)
        after = words_of(frame[quote.start : quote.end])
        adjust_at(frame, packet.transport + 2, before, after)
    return bytes(frame)


def rewrite(frame: bytearray, packet: Packet, source: Socket, destination: Socket, ttl: int) -> None:
    """Other addresses, TTL and ports (or identifier) in the headers of one packet, quoted or not."""
    at, transport = packet.start, packet.transport
    old_addresses = words_of(frame[at + 12 : at + 20])
    frame[at + 8] = ttl
    frame[at + 12 : at + 20] = source[0].packed + destination[0].packed
    new_addresses = words_of(frame[at + 12 : at + 20])
    old_ttl_word, new_ttl_word = packet.ttl << 8 | packet.protocol, ttl << 8 | packet.protocol
    adjust_at(frame, at + 10, [*old_addresses, old_ttl_word], [*new_addresses, new_ttl_word])

    if not packet.has_transport:
        return
    if packet.protocol == ICMP:
        old = words_of(frame[transport + 4 : transport + 6])
        new = [source[1] if packet.icmp_type == ECHO_REQUEST else destination[1]]
        struct.pack_into("!H", frame, transport + 4, *new)
        adjust_at(frame, transport + 2, old, new)
        return
    old_ports = words_of(frame[transport : transport + 4])
    new_ports = [source[1], destination[1]]
    struct.pack_into("!2H", frame, transport, *new_ports)
    checksum_at = transport + (16 if packet.protocol == TCP else 6)
    if checksum_at + 2 > packet.end:
        return  # Reading 17
    if packet.protocol == UDP and frame[checksum_at : checksum_at + 2] == b"\0\0":
        return  # no checksum: none after either
    adjust_at(frame, checksum_at, old_addresses + old_ports, new_addresses + new_ports)
    if packet.protocol == UDP and frame[checksum_at : checksum_at + 2] == b"\0\0":
        frame[checksum_at : checksum_at + 2] = b"\xff\xff"


def adjust_at(frame: bytearray, at: int, old: list[int], new: list[int]) -> None:
    """Adjust the checksum that stands there."""
    (checksum,) = struct.unpack_from("!H", frame, at)
    struct.pack_into("!H", frame, at, adjust_checksum(checksum, old, new))


# --- Hashing ------------------------------------------------------------------------------------------------

MODULO = 2**64
GOLDEN = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    """The SplitMix64 finaliser."""
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 % MODULO
    x ^= x >> 27
    x = x * 0x94D049BB133111EB % MODULO
    return x ^ x >> 31


def key64(seed: int, *parts: object) -> int:
    """A key made of content, never of order."""
    text = "\x1f".join(str(part) for part in (seed, *parts))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def pick(x: int, n: int) -> int:
    """An index below n from the upper half of x."""
    return (x >> 32) * n >> 32


def balancer_hash(distribution: str, endpoint_key: int, packet: Packet) -> int:
    """H: which sessions the load balancer treats alike."""
    word = int(packet.source) << 32
    protocol = packet.protocol
    if distribution == "five_tuple":
        word |= packet.source_port << 16 | packet.destination_port
    elif distribution == "source_ip":
        protocol = 0
    return mix((mix(word ^ endpoint_key) + protocol) % MODULO)


# --- What is kept -------------------------------------------------------------------------------------------


@dataclass
class Wish:
    """What a new session brings along when it asks for a port."""

    endpoint: str
    endpoint_key: int
    consumer: Socket
    backend_port: int


@dataclass
class Pool:
    """The ports of one NAT IP for one protocol toward one backend of a service.

    `back` is, in all methods, the port of a session that leaves in favour of the new one, if it is given back at
    once: it counts as free already.
    """

    service: PrivateLinkService
    nat_ip: IPv4Address
    protocol: str
    backend: IPv4Address
    key: int
    free: set[int]
    in_use: dict[int, Session] = field(default_factory=dict)
    held: dict[int, Session] = field(default_factory=dict)  # port: the session that had it
    draws: int = 0
    last_given: int | None = None
    counters: Counter[int] = field(default_factory=Counter)  # of hash (bucket 0) and hash_buckets
    minimum_free: int = 0
    failures: int = 0

    @property
    def capacity(self) -> int:
        """Ports of the range."""
        return self.service.nat.nat_ports.size

    @property
    def first_port(self) -> int:
        """The port with offset 0."""
        return self.service.nat.nat_ports.first

    def is_free(self, port: int, back: int | None = None) -> bool:
        """Whether a port may be given."""
        if port not in self.service.nat.nat_ports:
            return False
        return port == back or (port not in self.in_use and port not in self.held)

    def ports_of(self, endpoint: str) -> int:
        """In-use and held ports of one endpoint."""
        owners = [*self.in_use.values(), *self.held.values()]
        return sum(session.endpoint == endpoint for session in owners)

    def take(self, port: int) -> None:
        """The port is free no more."""
        self.free.remove(port)
        self.last_given = port
        self.minimum_free = min(self.minimum_free, len(self.free))

    # --- which port: each method finds one and takes none -------------------------------------------------------

    def find(self, wish: Wish, back: int | None) -> int | None:
        """A free port as `port_allocation` says, None if none is found though there is one."""
        nat = self.service.nat
        if nat.port_allocation == "sequential":
            return self.next_in_order(back)
        if nat.port_allocation in ("hash", "hash_buckets"):
            return self.hashed(wish, back)
        if nat.port_allocation == "block":
            return self.in_a_block(wish.endpoint, back)
        if nat.port_allocation == "preserve" and self.is_free(wish.consumer[1], back):
            return wish.consumer[1]
        return self.probed(back) if nat.probe_runs else self.drawn(back)

    def draw(self) -> int:
        """The next random number."""
        self.draws += 1
        return mix((self.key + self.draws * GOLDEN) % MODULO)

    def drawn(self, back: int | None) -> int:
        """`random`, exact."""
        free = sorted(self.free if back is None else {*self.free, back})
        for _ in range(0 if 8 * len(free) < self.capacity else 8):
            port = self.first_port + pick(self.draw(), self.capacity)
            if self.is_free(port, back):
                return port
        return free[pick(self.draw(), len(free))]

    def probed(self, back: int | None) -> int | None:
        """`random` with `probes`: runs of adjacent ports, each from a random one on."""
        n = self.capacity
        for run in self.service.nat.probe_runs:
            start = pick(self.draw(), n)
            for j in range(min(run, n)):
                port = self.first_port + (start + j) % n
                if self.is_free(port, back):
                    return port
        return None

    def next_in_order(self, back: int | None) -> int:
        """`sequential`: the lowest after the last one given, else the lowest."""
        free = self.free if back is None else {*self.free, back}
        after = [port for port in free if self.last_given is not None and port > self.last_given]
        return min(after or free)

    def hashed(self, wish: Wish, back: int | None) -> int | None:
        """`hash` and `hash_buckets`: RFC 6056 §3.3.3 and §3.3.4."""
        nat, n = self.service.nat, self.capacity
        f = mix(mix((int(wish.consumer[0]) << 32 | wish.backend_port) ^ wish.endpoint_key) ^ self.key)
        bucket = 0
        if nat.port_allocation == "hash_buckets":
            bucket = pick(mix((f + GOLDEN) % MODULO), 64)
        steps = sum(nat.probe_runs) if nat.probe_runs else n
        for _ in range(steps):
            port = self.first_port + (pick(f, n) + self.counters[bucket]) % n
            self.counters[bucket] += 1
            if self.is_free(port, back):
                return port
        return None

    # --- blocks -------------------------------------------------------------------------------------------------

    def block_of(self, port: int) -> int:
        """The number of the block in which a port lies."""
        return (port - self.first_port) // self.service.nat.block_size

    def blocks(self, back: int | None = None) -> dict[int, str]:
        """The endpoint of every block that is not free: whose ports are in use or held in it."""
        taken = {**self.in_use, **self.held}
        return {self.block_of(port): session.endpoint for port, session in taken.items() if port != back}

    def ports_of_block(self, block: int) -> range:
        """The ports of a block; the last one may be shorter."""
        size = self.service.nat.block_size
        first = self.first_port + block * size
        return range(first, min(first + size, self.first_port + self.capacity))

    def in_own_block(self, endpoint: str, back: int | None) -> int | None:
        """The lowest free port in the lowest of the endpoint's own blocks that has one."""
        own = sorted(block for block, owner in self.blocks(back).items() if owner == endpoint)
        ports = [port for block in own for port in self.ports_of_block(block) if self.is_free(port, back)]
        return ports[0] if ports else None

    def in_a_block(self, endpoint: str, back: int | None) -> int | None:
        """`block`: in an own block, else the first port of the lowest free one."""
        port = self.in_own_block(endpoint, back)
        if port is not None:
            return port
        taken = self.blocks(back)
        how_many = self.block_of(self.first_port + self.capacity - 1) + 1
        free_blocks = [block for block in range(how_many) if block not in taken]
        return self.ports_of_block(free_blocks[0])[0] if free_blocks else None

    def is_capped(self, endpoint: str, back: int | None) -> bool:
        """The endpoint may have no more ports here, or needs another block and may have no more of these."""
        nat = self.service.nat
        owned = self.ports_of(endpoint) - (back is not None)  # the leaving session is of this endpoint
        if nat.ports_per_endpoint is not None and owned >= nat.ports_per_endpoint:
            return True
        if nat.port_allocation != "block" or nat.blocks_per_endpoint is None:
            return False
        blocks = list(self.blocks(back).values()).count(endpoint)  # Reading 21
        return self.in_own_block(endpoint, back) is None and blocks >= nat.blocks_per_endpoint


@dataclass
class Session:
    """One translated conversation."""

    id: int  # number of the received packet that created it
    endpoint: str
    protocol: str
    consumer: Socket  # of icmp: address and identifier
    endpoint_side: Socket
    nat: Socket
    backend: Socket
    consumer_network: str  # where it was created
    pool: Pool
    idle_timeout: int | None  # of its load-balancing rule
    state: str
    first_packet_ns: int
    last_packet_ns: int  # the clock at the packet, like all times here
    refreshed_ns: int
    was_established: bool = False
    syn_seen: set[str] = field(default_factory=set)  # directions
    fin_seen: set[str] = field(default_factory=set)
    reopening: set[str] = field(default_factory=set)  # SYN seen in closing or reset, since the last FIN or RST
    acknowledged: dict[str, int] = field(default_factory=dict)  # by direction: the last number that travelled there
    packets: Counter[str] = field(default_factory=Counter)  # by direction
    bytes: Counter[str] = field(default_factory=Counter)
    ended: str | None = None  # closed, reset, idle, disconnected, moved; None while it lives
    ended_ns: int | None = None

    @property
    def key(self) -> tuple[str, str, IPv4Address, int, int]:
        """What finds the session from the consumer's side."""
        return (self.endpoint, self.protocol, *self.consumer, self.endpoint_side[1])

    @property
    def timeout(self) -> int:
        """Nanoseconds that the session lives after its last refresh."""
        timeouts = self.pool.service.nat.timeouts
        half_closed, unreplied = timeouts.tcp_half_closed, timeouts.udp_unreplied
        longest = {
            HALF_OPEN: timeouts.tcp_half_open,
            ESTABLISHED: timeouts.tcp_established,
            HALF_CLOSED: timeouts.tcp_established if half_closed is None else half_closed,
            CLOSING: timeouts.tcp_closing,
            RESET: timeouts.tcp_reset,
            UDP_UNREPLIED: timeouts.udp if unreplied is None else unreplied,
            UDP_FLOW: timeouts.udp,
            ICMP_FLOW: timeouts.icmp,
        }[self.state]
        if self.idle_timeout is not None and self.state in (ESTABLISHED, HALF_CLOSED, UDP_UNREPLIED, UDP_FLOW):
            return min(longest, self.idle_timeout)
        return longest

    @property
    def deadline_ns(self) -> int:
        """The moment at which it ends."""
        return self.refreshed_ns + self.timeout


@dataclass
class Way:
    """How a packet goes: to an endpoint, from the provider's side, or as a captured reply from an endpoint."""

    service: PrivateLinkService
    endpoint: PrivateEndpoint | None  # None: from the provider
    direction: str
    translates_fragments: bool

    @property
    def is_captured(self) -> bool:
        """The consumer saw it: it has been translated already."""
        return self.endpoint is not None and self.direction == TO_CONSUMER


@dataclass
class Outcome:
    """What became of one packet."""

    verdict: Verdict
    bytes: int
    direction: str | None = None  # of packets to or from an endpoint, or from the provider
    endpoint: str | None = None  # the endpoint that a drop counts for, or whose session carried the packet
    session: int | None = None
    translated: bytes | None = None  # the frame as it appears on the other side
    delivered_at: str | None = None
    delivered: bytes | None = None
    nat: tuple[str, int] | None = None
    clock_ns: int = 0  # when it was received


@dataclass
class Reset:
    """An RST that an idle time-out sent, as an IPv4 packet."""

    at: str
    time_ns: int
    session: int
    received: int  # packets received before it
    packet: bytes


@dataclass
class Entry:
    """A packet as it arrives."""

    number: int  # among all that arrived
    frame: bytes
    at: str
    time_ns: int
    original_length: int
    link_type: int
    mark: Any  # the caller's


@dataclass
class Datagram:
    """What is known of the fragments of one packet."""

    began_ns: int
    covered: list[tuple[int, int]] = field(default_factory=list)  # first byte, byte after the last
    end: int | None = None  # known when the last fragment has arrived
    has_first: bool = False
    first: Outcome | None = None  # what became of the first fragment
    is_condemned: bool = False  # its fragments overlap, or contradict each other
    waiting: list[Entry] = field(default_factory=list)

    def contradicts(self, packet: Packet) -> bool:
        """It overlaps with an earlier fragment, ends beyond the end, or is the end while another ended beyond it."""
        start, end = packet.offset, packet.offset + packet.payload
        if any(start < other_end and other_start < end for other_start, other_end in self.covered):
            return True
        if self.end is not None and end > self.end:
            return True
        return not packet.more_fragments and any(other_end > end for _, other_end in self.covered)

    def add(self, packet: Packet) -> None:
        """One more fragment, which contradicts none."""
        self.covered.append((packet.offset, packet.offset + packet.payload))
        if not packet.more_fragments:
            self.end = packet.offset + packet.payload
        if packet.offset == 0:
            self.has_first = True

    @property
    def is_complete(self) -> bool:
        """All of it has arrived."""
        return sum(end - start for start, end in self.covered) == self.end


@dataclass
class Part:
    """What the arrival of a fragment has decided about it."""

    datagram: Datagram | None  # None: it has no part in any
    verdict: Verdict | None = None  # fragment_unresolved or fragment_overlap; None: it is judged by its session


@dataclass
class EndpointCounters:
    """What Azure counts per private endpoint."""

    packets: Counter[str] = field(default_factory=Counter)  # forwarded, by direction
    bytes: Counter[str] = field(default_factory=Counter)
    dropped: Counter[Verdict] = field(default_factory=Counter)
    created: int = 0


# --- The simulator ------------------------------------------------------------------------------------------


@cache
def _slots(keys: tuple[int, ...], backends: int) -> list[int]:
    count = 1
    while count < 128 * backends:
        count *= 2
    slots: list[int | None] = [None] * count
    wishes = [[((key >> 32) + j * (key % 2**32 | 1)) % count for j in range(count)] for key in keys]
    while True:
        for backend, wish in enumerate(wishes):
            if None not in slots:
                return [owner for owner in slots if owner is not None]
            slots[next(slot for slot in wish if slots[slot] is None)] = backend


def balancer_slots(keys: list[int], backends: int) -> list[int]:
    """Which healthy backend has which slot: in turns, each takes the one that it likes best of those that are free."""
    return _slots(tuple(keys), backends)


class ReferenceSimulator:
    """Receives packets one by one and says what becomes of each."""

    def __init__(self, topology: Topology, seed: int = 0) -> None:
        self.topology = topology
        self.seed = seed
        self.networks = {network.name: network for network in topology.virtual_networks}
        self.services = {service.name: service for service in topology.private_link_services}
        self.clock_ns: int | None = None  # None: no packet yet
        self.first_packet_ns = 0
        self.arrived = 0  # packets so far, with those that wait
        self.received = 0  # packets so far; the number of the latest one
        self.times_before_clock = 0
        self.times_unusable = 0

        self.sessions: list[Session] = []  # live, in order of id
        self.ended_sessions: list[Session] = []  # in order of their end
        self.by_consumer: dict[tuple[str, str, IPv4Address, int, int], Session] = {}
        self.releases: list[tuple[int, Session]] = []  # held ports: when they become free
        self.resets: list[Reset] = []
        self.pools = {
            (service.name, nat_ip, protocol, backend): self._new_pool(service, nat_ip, protocol, backend)
            for service in topology.private_link_services
            for nat_ip in self._all_nat_ips(service)
            for protocol in protocols_of(service)
            for backend in service.load_balancer.backend_pool
        }
        self.cursors: Counter[tuple[str, IPv4Address]] = Counter()  # of round_robin, by service and backend
        self.events = sorted(topology.events, key=lambda event: event.at)  # those that have not taken place
        self.approved = {e.name for e in topology.private_endpoints if topology.connection_of(e) == "approved"}
        self.down: set[tuple[str, IPv4Address]] = set()  # service and backend
        self.nat_ips = {service.name: list(service.nat_ips) for service in topology.private_link_services}

        self.stage_ns: int | None = None  # the largest time of all that has arrived: when datagrams are forgotten
        self.datagrams: dict[tuple[str, IPv4Address, IPv4Address, int, int], Datagram] = {}  # as they began

        self.outcomes: list[Outcome] = []  # of all packets received, in order
        self.packets: Counter[Verdict] = Counter()
        self.bytes: Counter[Verdict] = Counter()
        self.endpoints = {endpoint.name: EndpointCounters() for endpoint in topology.private_endpoints}
        self.first_exhaustion: dict[str, Any] | None = None
        self.failures: list[tuple[str, IPv4Address, int]] = []  # of allocations: service, NAT IP, moment

    def _all_nat_ips(self, service: PrivateLinkService) -> list[IPv4Address]:
        """The NAT IPs of a service, then those that it is going to have, each once."""
        added = [event.address for event in self.topology.events if event.add_nat_ip == service.name]
        return list(dict.fromkeys([*service.nat_ips, *added]))

    def _new_pool(self, service: PrivateLinkService, nat_ip: IPv4Address, protocol: str, backend: IPv4Address) -> Pool:
        ports = service.nat.nat_ports
        key = key64(self.seed, "pool", service.name, nat_ip, protocol, backend)
        free = set(range(ports.first, ports.last + 1))
        return Pool(service, nat_ip, protocol, backend, key, free, minimum_free=len(free))

    # --- arrival: fragments wait for the first of their datagram ----------------------------------------------

    def arrive(
        self,
        frame: bytes,
        *,
        at: str,
        time_ns: int,
        original_length: int | None = None,
        link_type: int = ETHERNET,
        mark: Any = None,
    ) -> list[tuple[Any, Outcome]]:
        """A packet arrives at the network `at`: the packets that are received because of it, in order, with marks.

        `original_length` is that on the wire, if the capture cut it. Nothing is received if the packet waits.
        """
        self.arrived += 1
        original = len(frame) if original_length is None else original_length
        entry = Entry(self.arrived, bytes(frame), at, time_ns, original, link_type, mark)
        self.stage_ns = usable(time_ns, self.stage_ns)
        fragment = self._tracked_fragment(entry)
        if fragment is None:
            return [self._receive(entry)]

        let_go = self._let_go(self._forget(), Verdict.FRAGMENT_UNRESOLVED)
        key = (at, fragment.source, fragment.destination, fragment.protocol, fragment.identification)
        datagram = self.datagrams.get(key)
        if datagram is not None and not datagram.is_condemned:
            datagram.is_condemned = datagram.contradicts(fragment)  # Reading 23
        if datagram is not None and datagram.is_condemned:
            part = Part(datagram, Verdict.FRAGMENT_OVERLAP)
            return [*let_go, self._receive(entry, part), *self._let_go([datagram], Verdict.FRAGMENT_OVERLAP)]

        must_wait = fragment.is_later_fragment and (datagram is None or not datagram.has_first)
        one_too_many = datagram is None and len(self.datagrams) == MOST_DATAGRAMS
        if one_too_many or (must_wait and len(self._waiting()) == MOST_WAITING):  # Reading 26
            return [*let_go, self._receive(entry, Part(None, Verdict.FRAGMENT_UNRESOLVED))]
        if datagram is None:
            datagram = self.datagrams[key] = Datagram(self.stage_ns)
        datagram.add(fragment)
        if datagram.is_complete:
            del self.datagrams[key]
        if must_wait:
            datagram.waiting.append(entry)
            return let_go
        received = self._receive(entry, Part(datagram))
        if not fragment.is_later_fragment:
            datagram.first = received[1]
        return [*let_go, received, *self._let_go([datagram], None)]

    def receive(
        self,
        frame: bytes,
        *,
        at: str,
        time_ns: int,
        original_length: int | None = None,
        link_type: int = ETHERNET,
    ) -> Outcome:
        """A packet arrives: what becomes of it alone."""
        this = object()
        received = self.arrive(
            frame, at=at, time_ns=time_ns, original_length=original_length, link_type=link_type, mark=this
        )
        return next((outcome for mark, outcome in received if mark is this), Outcome(Verdict.FRAGMENT_HELD, 0))

    def finish(self) -> list[tuple[Any, Outcome]]:
        """The input ends: what still waits is received."""
        datagrams = list(self.datagrams.values())
        self.datagrams.clear()  # Reading 25
        return self._let_go(datagrams, Verdict.FRAGMENT_UNRESOLVED)

    def _tracked_fragment(self, entry: Entry) -> Packet | None:
        """The packet of an entry if it is a fragment that its datagram knows of: translated, and not malformed."""
        point = self.networks[entry.at]
        start, is_ipv4 = read_link_header(entry.frame, entry.link_type)
        packet = read_ipv4(entry.frame, start, max(0, entry.original_length - start)) if is_ipv4 else None
        if packet is None or not packet.is_fragment or packet.protocol not in (TCP, UDP) or packet.is_malformed:
            return None
        way = self._way_of(packet, point, None)
        return packet if way is not None and way.translates_fragments else None

    def _waiting(self) -> list[Entry]:
        """What has arrived but is not received."""
        return [entry for datagram in self.datagrams.values() for entry in datagram.waiting]

    def _forget(self) -> list[Datagram]:
        """Take out the datagrams whose time is over."""
        over = [key for key, one in self.datagrams.items() if one.began_ns + DATAGRAM_LIFE <= self.stage_ns]
        return [self.datagrams.pop(key) for key in over]

    def _let_go(self, datagrams: list[Datagram], verdict: Verdict | None) -> list[tuple[Any, Outcome]]:
        """Receive what waits in these: datagram by datagram as they began, each in the order of arrival."""
        waiting = [(datagram, entry) for datagram in datagrams for entry in datagram.waiting]
        for datagram in datagrams:
            datagram.waiting = []
        return [self._receive(entry, Part(datagram, verdict), has_waited=True) for datagram, entry in waiting]

    # --- one packet -----------------------------------------------------------------------------------------

    def _receive(self, entry: Entry, part: Part | None = None, has_waited: bool = False) -> tuple[Any, Outcome]:
        """One packet enters; `part`: of a fragment that takes part in a datagram."""
        self._set_clock(entry.time_ns, has_waited)
        self._pass_time()
        self.received += 1
        outcome = self._judge(entry, part)
        outcome.clock_ns = self.clock_ns
        self.outcomes.append(outcome)
        self._count(outcome)
        return entry.mark, outcome

    def _judge(self, entry: Entry, part: Part | None) -> Outcome:
        """Steps 1 to 4 of the table of verdicts; the first that holds."""
        start, is_ipv4 = read_link_header(entry.frame, entry.link_type)
        on_wire = max(0, entry.original_length - start)
        if not is_ipv4:
            return Outcome(Verdict.BYPASSED, bytes=on_wire)
        packet = read_ipv4(entry.frame, start, on_wire)
        if packet is None:
            return Outcome(Verdict.MALFORMED, bytes=on_wire)
        point = self.networks[entry.at]
        way = self._way_of(packet, point, part)
        if way is None:
            return Outcome(Verdict.BYPASSED, bytes=packet.length)
        fault = self._fault(packet, way, part)
        if fault is not None:
            return dropped(fault, packet, way, on_wire)
        if packet.is_icmp_error:
            return self._icmp_error(packet, way, point)
        if packet.is_later_fragment:
            return self._later_fragment(packet, way, point, part.datagram)
        if way.endpoint is None:
            return self._from_provider(packet, way, point)
        if way.is_captured:
            return self._captured_reply(packet, way, point)
        return self._to_service(packet, way, point)

    def _way_of(self, packet: Packet, point: VirtualNetwork, part: Part | None) -> Way | None:
        """Step 1: from the provider, or to or from a visible endpoint; None: neither."""
        service = self._service_answering(packet, point)
        if service is not None:
            return Way(service, None, TO_CONSUMER, service.nat.fragments == "translate")
        visible = {
            endpoint.ip: endpoint
            for endpoint in self.topology.private_endpoints
            if endpoint.virtual_network == point.name
            or point.name in self.networks[endpoint.virtual_network].peered_with
        }
        sender, receiver = visible.get(packet.source), visible.get(packet.destination)
        concerned = [self.services[endpoint.target] for endpoint in (sender, receiver) if endpoint is not None]
        if not concerned:
            return None
        translates = all(service.nat.fragments == "translate" for service in concerned)
        is_reply = receiver is None
        if sender is not None and receiver is not None:  # Reading 12
            is_reply = self._is_reply_between_endpoints(packet, sender, translates, part)
        endpoint = sender if is_reply else receiver
        return Way(self.services[endpoint.target], endpoint, TO_CONSUMER if is_reply else TO_SERVICE, translates)

    def _service_answering(self, packet: Packet, point: VirtualNetwork) -> PrivateLinkService | None:
        """The service at whose NAT IP this packet arrives, from one of its backends or as a translated ICMP error."""
        for service in self.topology.private_link_services:
            if service.virtual_network == point.name and packet.destination in self.nat_ips[service.name]:
                is_error = packet.is_icmp_error and service.nat.icmp != "none"
                if is_error or packet.source in service.load_balancer.backend_pool:
                    return service
        return None

    def _is_reply_between_endpoints(
        self, packet: Packet, sender: PrivateEndpoint, translates_fragments: bool, part: Part | None
    ) -> bool:
        """Both addresses are endpoints: whether a live session of that reply exists."""
        service = self.services[sender.target]
        if packet.is_icmp_error:  # Reading 15
            if packet.quote is None or service.nat.icmp == "none":
                return False
            return self._session_of_error(packet, Way(service, sender, TO_CONSUMER, False)) is not None
        if packet.is_fragment and (not translates_fragments or packet.is_malformed):  # Reading 22
            return False
        if packet.is_later_fragment:
            first = part.datagram.first if part is not None and part.datagram is not None else None
            return first is not None and first.verdict == Verdict.FORWARDED and first.direction == TO_CONSUMER
        return self._session_of_reply(packet, sender) is not None

    def _fault(self, packet: Packet, way: Way, part: Part | None) -> Verdict | None:
        """Step 2."""
        nat = way.service.nat
        if nat.decrement_ttl and packet.ttl < (1 if way.is_captured else 2):
            return Verdict.TTL_EXPIRED
        if packet.protocol == ICMP:
            return icmp_fault(packet, nat.icmp, way.direction)
        if packet.protocol not in (TCP, UDP):
            return Verdict.UNSUPPORTED_PROTOCOL
        if packet.is_fragment and not way.translates_fragments:
            return Verdict.FRAGMENT_UNRESOLVED
        if packet.is_malformed:
            return Verdict.MALFORMED
        return part.verdict if part is not None else None

    def _count(self, outcome: Outcome) -> None:
        self.packets[outcome.verdict] += 1
        self.bytes[outcome.verdict] += outcome.bytes
        if outcome.endpoint is None:
            return
        counters = self.endpoints[outcome.endpoint]
        if outcome.verdict == Verdict.FORWARDED:
            counters.packets[outcome.direction] += 1
            counters.bytes[outcome.direction] += outcome.bytes
        else:
            counters.dropped[outcome.verdict] += 1

    # --- step 3: packets of a live session ------------------------------------------------------------------

    def _session_of_reply(self, packet: Packet, sender: PrivateEndpoint) -> Session | None:
        """The live session whose reply a consumer saw, if the transport header can be read."""
        if not packet.has_transport or packet.icmp_type == ECHO_REQUEST:
            return None
        if packet.icmp_code not in (0, None):
            return None
        protocol = PROTOCOL_NAMES[packet.protocol]
        key = (sender.name, protocol, packet.destination, packet.destination_port, packet.source_port)
        return self.by_consumer.get(key)

    def _captured_reply(self, packet: Packet, way: Way, point: VirtualNetwork) -> Outcome:
        """A reply as the consumer saw it."""
        session = self._session_of_reply(packet, way.endpoint)
        if session is None:
            return refused(Verdict.NO_SESSION, packet, way)
        self._apply(session, packet, TO_CONSUMER)
        return forwarded(session, packet, way, point)

    def _from_provider(self, packet: Packet, way: Way, point: VirtualNetwork) -> Outcome:
        """A backend answers to a NAT IP."""
        protocol = PROTOCOL_NAMES[packet.protocol]
        pool = self.pools.get((way.service.name, packet.destination, protocol, packet.source))
        session = pool.in_use.get(packet.destination_port) if pool is not None else None
        if session is None:
            return refused(Verdict.NO_SESSION, packet, way)
        if packet.source_port != session.backend[1]:
            return Outcome(Verdict.FILTERED, packet.length, TO_CONSUMER, session.endpoint)
        self._apply(session, packet, TO_CONSUMER)
        return forwarded(session, packet, way, point)

    def _to_service(self, packet: Packet, way: Way, point: VirtualNetwork) -> Outcome:
        """A consumer's packet to an endpoint: of a live session, or the first of a new one."""
        protocol = PROTOCOL_NAMES[packet.protocol]
        key = (way.endpoint.name, protocol, packet.source, packet.source_port, packet.destination_port)
        session = self.by_consumer.get(key)
        may_reopen = session is not None and session.state in (CLOSING, RESET) and packet.is_syn
        reopens = may_reopen and way.service.nat.tcp.reopen == "new_session"
        if session is None or reopens:
            refusal, session = self._new_session(packet, way.endpoint, point, leaving=session)
            if refusal is not None:
                return refused(refusal, packet, way)
        self._apply(session, packet, TO_SERVICE)
        return forwarded(session, packet, way, point)

    def _later_fragment(self, packet: Packet, way: Way, point: VirtualNetwork, datagram: Datagram) -> Outcome:
        """A fragment without a header follows the first of its datagram, while its session lives."""
        first = datagram.first
        if first is None or first.verdict != Verdict.FORWARDED:
            return refused(Verdict.FRAGMENT_UNRESOLVED, packet, way)
        session = next((session for session in self.sessions if session.id == first.session), None)
        if session is None:
            return refused(Verdict.FRAGMENT_UNRESOLVED, packet, way)
        self._apply(session, packet, way.direction)
        return forwarded(session, packet, way, point)

    def _icmp_error(self, packet: Packet, way: Way, point: VirtualNetwork) -> Outcome:
        """An ICMP error about a packet of a live session; it changes neither the session's state nor its timer."""
        session = self._session_of_error(packet, way)
        if session is None:
            return refused(Verdict.ICMP_UNMATCHED, packet, way)
        self._count_for(session, packet, way.direction)
        return forwarded(session, packet, way, point)

    def _session_of_error(self, packet: Packet, way: Way) -> Session | None:
        """The live session that carried the quoted packet, which the receiver of the error sent."""
        quote = packet.quote
        if not quote.has_transport or quote.source != packet.destination:
            return None
        if quote.protocol == ICMP:  # Reading 16
            if quote.icmp_type != (ECHO_REPLY if way.direction == TO_SERVICE else ECHO_REQUEST):
                return None
        protocol = PROTOCOL_NAMES[quote.protocol]
        if way.endpoint is None:  # NAT IP to backend
            pool = self.pools.get((way.service.name, quote.source, protocol, quote.destination))
            session = pool.in_use.get(quote.source_port) if pool is not None else None
            is_toward = session is not None and session.backend[1] == quote.destination_port
            return session if is_toward else None
        if way.direction == TO_SERVICE:  # a reply: endpoint to consumer
            consumer, endpoint_port = (quote.destination, quote.destination_port), quote.source_port
        elif quote.destination == packet.source:  # consumer to endpoint
            consumer, endpoint_port = (quote.source, quote.source_port), quote.destination_port
        else:
            return None
        return self.by_consumer.get((way.endpoint.name, protocol, *consumer, endpoint_port))

    # --- step 4: a new session ------------------------------------------------------------------------------

    def _new_session(
        self, packet: Packet, endpoint: PrivateEndpoint, point: VirtualNetwork, leaving: Session | None
    ) -> tuple[Verdict | None, Session | None]:
        """Judge as if `leaving` had already ended; end it only if the new session is admitted."""
        service = self.services[endpoint.target]
        nat = service.nat
        protocol = PROTOCOL_NAMES[packet.protocol]

        if endpoint.name not in self.approved:
            return Verdict.CONNECTION_NOT_APPROVED, None
        if not self._is_reachable(packet.source, point):
            return Verdict.UNREACHABLE_SOURCE, None
        rule = rule_for(service, protocol, packet.destination_port)
        if rule is None and packet.protocol != ICMP:  # an echo needs none
            return Verdict.NO_LOAD_BALANCING_RULE, None
        if packet.protocol == TCP and nat.first_packet == "syn" and not packet.is_syn:
            return Verdict.NOT_FIRST_PACKET, None
        if not self._healthy(service):
            return Verdict.NO_HEALTHY_BACKEND, None
        backend = self._choose_backend(service, endpoint, packet)
        if nat.sessions_per_backend is not None:
            if self._live_at_host(service.virtual_network, backend, leaving) >= nat.sessions_per_backend:
                return Verdict.SESSION_TABLE_FULL, None
        backend_socket = (backend, 0 if rule is None else rule.backend_port)
        refusal, given = self._choose_port(service, endpoint, packet, backend_socket, leaving)
        if refusal is not None:
            return refusal, None

        # Admitted: from here on things change.
        if leaving is not None:
            self._end(leaving)
        pool, port = given
        pool.take(port)
        session = Session(
            id=self.received,
            endpoint=endpoint.name,
            protocol=protocol,
            consumer=(packet.source, packet.source_port),
            endpoint_side=(packet.destination, packet.destination_port),
            nat=(pool.nat_ip, port),
            backend=backend_socket,
            consumer_network=point.name,
            pool=pool,
            idle_timeout=None if rule is None else rule.idle_timeout,
            state=first_state(packet),
            first_packet_ns=self.clock_ns,
            last_packet_ns=self.clock_ns,
            refreshed_ns=self.clock_ns,
        )
        session.was_established = session.state == ESTABLISHED
        self.cursors[service.name, backend] += 1
        pool.in_use[port] = session
        self.by_consumer[session.key] = session
        self.sessions.append(session)
        self.endpoints[endpoint.name].created += 1
        return None, session

    def _is_reachable(self, source: IPv4Address, point: VirtualNetwork) -> bool:
        """Reading 4: the sender is in the network where the packet entered, or in one that this one lists."""
        reaching = [point, *(self.networks[name] for name in point.peered_with)]
        prefixes = [p for network in reaching for p in network.address_space + network.on_premises]
        return any(source in prefix for prefix in prefixes)

    def _live_at_host(self, network: str, backend: IPv4Address, leaving: Session | None) -> int:
        """Live sessions at one backend's host, of all services."""
        return sum(
            session.backend[0] == backend and session.pool.service.virtual_network == network
            for session in self.sessions
            if session is not leaving
        )

    def _choose_backend(self, service: PrivateLinkService, endpoint: PrivateEndpoint, packet: Packet) -> IPv4Address:
        """The backend that has the slot to which the hash leads."""
        backends = self._healthy(service)
        keys = [key64(self.seed, "backend", service.name, backend) for backend in backends]
        slots = balancer_slots(keys, len(service.load_balancer.backend_pool))
        h = self._hash(service.load_balancer.distribution, endpoint, packet)
        return backends[slots[h * len(slots) >> 64]]

    def _healthy(self, service: PrivateLinkService) -> list[IPv4Address]:
        return [backend for backend in service.load_balancer.backend_pool if (service.name, backend) not in self.down]

    def _hash(self, distribution: str, endpoint: PrivateEndpoint, packet: Packet) -> int:
        return balancer_hash(distribution, self._endpoint_key(endpoint), packet)

    def _endpoint_key(self, endpoint: PrivateEndpoint) -> int:
        return key64(self.seed, "private_endpoint", endpoint.name)

    def _choose_port(
        self,
        service: PrivateLinkService,
        endpoint: PrivateEndpoint,
        packet: Packet,
        backend: Socket,
        leaving: Session | None,
    ) -> tuple[Verdict | None, tuple[Pool, int] | None]:
        """The first pool, in the order of trying, that gives a port, and the port; it is not taken yet."""
        nat = service.nat
        protocol = PROTOCOL_NAMES[packet.protocol]
        pools = [self.pools[service.name, nat_ip, protocol, backend[0]] for nat_ip in self.nat_ips[service.name]]
        consumer = (packet.source, packet.source_port)
        wish = Wish(endpoint.name, self._endpoint_key(endpoint), consumer, backend[1])

        def back(pool: Pool) -> int | None:
            """The port that the leaving session gives back to this pool at once."""
            is_given_back = leaving is not None and leaving.pool is pool and nat.port_hold == 0
            return leaving.nat[1] if is_given_back else None

        def has_free(pool: Pool) -> bool:
            return len(pool.free) > 0 or back(pool) is not None

        if nat.nat_ip_selection == "round_robin":
            first = self.cursors[service.name, backend[0]] % len(pools)
        elif nat.nat_ip_selection == "fill_first":
            first = next((index for index, pool in enumerate(pools) if has_free(pool)), 0)
        else:
            paired = nat.nat_ip_selection == "paired"
            distribution = "source_ip" if paired else service.load_balancer.distribution
            h = self._hash(distribution, endpoint, packet)
            first = pick(mix(h ^ key64(self.seed, "nat_ip", service.name)), len(pools))

        tried = [pools[first]]
        if nat.spill:
            tried += [pool for pool in pools if pool is not pools[first]]
        is_capped = was_not_found = False
        for pool in tried:
            if not has_free(pool):
                continue
            if pool.is_capped(endpoint.name, back(pool)):
                is_capped = True
                continue
            port = pool.find(wish, back(pool))  # what it draws stays drawn
            if port is not None:
                return None, (pool, port)
            was_not_found = True
        if is_capped:
            return Verdict.ENDPOINT_PORT_LIMIT, None
        refusal = Verdict.NAT_PORT_NOT_FOUND if was_not_found else Verdict.NAT_PORTS_EXHAUSTED
        self._failed(pools[first], refusal)
        return refusal, None

    def _failed(self, pool: Pool, refusal: Verdict) -> None:
        pool.failures += 1
        self.failures.append((pool.service.name, pool.nat_ip, self.clock_ns))
        if self.first_exhaustion is None:
            self.first_exhaustion = {
                "time_seconds": (self.clock_ns - self.first_packet_ns) / 1e9,
                "service": pool.service.name,
                "nat_ip": str(pool.nat_ip),
                "protocol": pool.protocol,
                "backend": str(pool.backend),
                "reason": str(refusal),
            }

    # --- a session's life -----------------------------------------------------------------------------------

    def _count_for(self, session: Session, packet: Packet, direction: str) -> None:
        """A forwarded packet in the session's figures."""
        session.packets[direction] += 1
        session.bytes[direction] += packet.length
        session.last_packet_ns = self.clock_ns  # Reading 18

    def _apply(self, session: Session, packet: Packet, direction: str) -> None:
        """A forwarded packet of the session: figures, state, timer."""
        self._count_for(session, packet, direction)
        if session.protocol == "tcp" and packet.flags & ACK:
            (session.acknowledged[direction],) = struct.unpack_from("!I", packet.frame, packet.transport + 8)
        if session.state in (CLOSING, RESET):
            self._apply_after_the_end(session, packet, direction)
            return
        session.refreshed_ns = self.clock_ns
        if session.protocol == "tcp":
            self._apply_flags(session, packet, direction)
        elif session.protocol == "udp" and direction == TO_CONSUMER:
            session.state = UDP_FLOW

    def _apply_flags(self, session: Session, packet: Packet, direction: str) -> None:
        """The state of TCP that has not ended: RST before FIN, FIN before the handshake."""
        policy = session.pool.service.nat.tcp
        if packet.flags & SYN:
            session.syn_seen.add(direction)
        if packet.flags & RST:
            self._enter(session, RESET)
            return
        if packet.flags & FIN:
            session.fin_seen.add(direction)
            if policy.closing == "first_fin" or len(session.fin_seen) == 2:
                self._enter(session, CLOSING)
                return
        # Reading 5: a first FIN goes on to the handshake.
        if session.state == HALF_OPEN and completes_handshake(session.syn_seen, packet, direction):
            self._establish(session)
        if session.state == ESTABLISHED and session.fin_seen:
            session.state = HALF_CLOSED

    def _enter(self, session: Session, state: str) -> None:
        """Closing or reset begins."""
        session.state = state
        session.reopening.clear()

    def _establish(self, session: Session) -> None:
        session.state = ESTABLISHED
        session.was_established = True

    def _apply_after_the_end(self, session: Session, packet: Packet, direction: str) -> None:
        """A packet in closing or reset, which it may lead out of as `tcp` says."""
        policy = session.pool.service.nat.tcp
        if policy.closing_refresh:
            session.refreshed_ns = self.clock_ns
        if packet.flags & (FIN | RST):
            session.reopening.clear()  # Reading 19
        elif policy.reopen == "handshake":
            if packet.flags & SYN:
                session.reopening.add(direction)
            if completes_handshake(session.reopening, packet, direction):
                session.fin_seen.clear()
                session.refreshed_ns = self.clock_ns
                self._establish(session)  # Reading 20
                return
        if session.state == RESET and policy.reset == "until_data" and not packet.flags & (RST | SYN):
            session.state = ESTABLISHED if session.was_established else HALF_OPEN
            session.fin_seen.clear()
            session.refreshed_ns = self.clock_ns
            self._apply_flags(session, packet, direction)

    def _set_clock(self, time_ns: int, has_waited: bool) -> None:
        """The clock is the largest time seen; the time of a packet that waited does not run backward."""
        if not is_usable(time_ns):
            self.times_unusable += 1
        elif self.clock_ns is not None and time_ns < self.clock_ns and not has_waited:
            self.times_before_clock += 1
        if self.clock_ns is None:
            self.clock_ns = self.first_packet_ns = usable(time_ns, None)
        else:
            self.clock_ns = usable(time_ns, self.clock_ns)

    def advance(self, to_ns: int) -> list[tuple[Any, Outcome]]:
        """Let time pass; then the fragments are received that have waited too long."""
        if self.clock_ns is not None:  # Reading 8
            self.clock_ns = min(max(self.clock_ns, to_ns), LAST_TIME)
            self._pass_time()
        if self.stage_ns is None:
            return []
        self.stage_ns = min(max(self.stage_ns, to_ns), LAST_TIME)
        return self._let_go(self._forget(), Verdict.FRAGMENT_UNRESOLVED)

    def next_due_ns(self) -> int | None:
        """The next moment at which a session ends or a held port is released."""
        moments = [session.deadline_ns for session in self.sessions] + [moment for moment, _ in self.releases]
        moments += [self.first_packet_ns + event.at for event in self.events[:1]]
        return min(moments, default=None)

    def _pass_time(self) -> None:
        """All ends and releases that are due, in order of (moment, session id); events after those of their moment."""
        while True:
            ends = [(session.deadline_ns, 0, session.id, session) for session in self.sessions]
            releases = [(moment, 0, session.id, session) for moment, session in self.releases]
            events = [(self.first_packet_ns + event.at, 1, 0, event) for event in self.events[:1]]
            moment, _, _, due = min(ends + releases + events, key=lambda one: one[:3], default=(None, 0, 0, None))
            if moment is None or moment > self.clock_ns:
                return
            if isinstance(due, Event):
                self.events.remove(due)
                self._take_place(due, moment)
            elif due.ended is None:
                self._end(due, moment)
            else:
                self.releases.remove((moment, due))
                self._release(due)

    def _take_place(self, event: Event, moment: int) -> None:
        """An event: what it changes, and which sessions it ends."""
        name, address = event.subject, event.address
        nat_ips = self.nat_ips.get(name, [])
        if event.action == "approve":
            self.approved.add(name)
        elif event.action in ("reject", "disconnect"):
            self.approved.discard(name)
            self._end_those(lambda session: session.endpoint == name, "disconnected", moment)
        elif event.action == "backend_down" and (name, address) not in self.down:
            self.down.add((name, address))

            def can_move(session: Session) -> bool:
                at_backend = session.pool.service.name == name and session.backend[0] == address
                return at_backend and session.protocol != "tcp"

            self._end_those(can_move, "moved", moment)
        elif event.action == "backend_up":
            self.down.discard((name, address))
        elif event.action == "add_nat_ip" and address not in nat_ips:
            nat_ips.append(address)
        elif event.action == "remove_nat_ip" and address in nat_ips:
            nat_ips.remove(address)
            self._end_those(
                lambda session: session.pool.service.name == name and session.nat[0] == address, "disconnected", moment
            )

    def _end_those(self, concerned: Callable[[Session], bool], how: str, moment: int) -> None:
        for session in [session for session in self.sessions if concerned(session)]:
            self._end(session, moment, how)

    def _end(self, session: Session, moment: int | None = None, how: str | None = None) -> None:
        """End a session (now, unless a moment is given); its port is held, or free at once."""
        session.ended_ns = self.clock_ns if moment is None else moment
        session.ended = how or {CLOSING: "closed", RESET: "reset"}.get(session.state, "idle")
        self.sessions.remove(session)
        self.ended_sessions.append(session)
        del self.by_consumer[session.key]
        del session.pool.in_use[session.nat[1]]
        session.pool.held[session.nat[1]] = session
        hold = session.pool.service.nat.port_hold
        if hold > 0:
            self.releases.append((session.ended_ns + hold, session))
        else:
            self._release(session)
        if moment is not None and how is None and session.state in (ESTABLISHED, HALF_CLOSED):
            self._send_resets(session, moment)

    def _send_resets(self, session: Session, moment: int) -> None:
        """Tell both sides of an idle time-out; each by the number that it expects next."""
        if not session.pool.service.nat.idle_reset:
            return
        for at, sender, receiver, acknowledged_by in (
            (session.consumer_network, session.endpoint_side, session.consumer, TO_SERVICE),
            (session.pool.service.virtual_network, session.nat, session.backend, TO_CONSUMER),
        ):
            packet = reset_packet(sender, receiver, session.acknowledged.get(acknowledged_by, 0))
            self.resets.append(Reset(at, moment, session.id, self.received, packet))

    def _release(self, session: Session) -> None:
        del session.pool.held[session.nat[1]]
        session.pool.free.add(session.nat[1])

    # --- figures --------------------------------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """The object of summary.json, as of the clock."""

        def figures(*verdicts: Verdict) -> dict[str, int]:
            return {
                "packets": sum(self.packets[verdict] for verdict in verdicts),
                "bytes": sum(self.bytes[verdict] for verdict in verdicts),
            }

        drops = [verdict for verdict in Verdict if verdict.is_drop and self.packets[verdict]]
        ended = Counter(session.ended for session in self.ended_sessions)
        clock_ns = self.first_packet_ns if self.clock_ns is None else self.clock_ns
        return {
            "received": figures(*Verdict),
            "forwarded": figures(Verdict.FORWARDED),
            "bypassed": figures(Verdict.BYPASSED),
            "dropped": {**figures(*drops), "reasons": {str(verdict): figures(verdict) for verdict in drops}},
            "private_endpoints": [self._endpoint_figures(e) for e in self.topology.private_endpoints],
            "private_link_services": [self._service_figures(s) for s in self.topology.private_link_services],
            "sessions": {
                "created": sum(counters.created for counters in self.endpoints.values()),
                "active": len(self.sessions),
                "ended": {how: ended[how] for how in ("closed", "reset", "idle", "disconnected", "moved")},
                "resets_sent": len(self.resets),
            },
            "first_exhaustion": self.first_exhaustion,
            "times": {"backward": self.times_before_clock, "unusable": self.times_unusable},
            "duration_seconds": (clock_ns - self.first_packet_ns) / 1e9,
            "seed": self.seed,
        }

    def _traffic(self, endpoints: list[str]) -> dict[str, int]:
        counters = [self.endpoints[name] for name in endpoints]
        return {
            "bytes_in": sum(one.bytes[TO_SERVICE] for one in counters),
            "bytes_out": sum(one.bytes[TO_CONSUMER] for one in counters),
            "packets_in": sum(one.packets[TO_SERVICE] for one in counters),
            "packets_out": sum(one.packets[TO_CONSUMER] for one in counters),
        }

    def _endpoint_figures(self, endpoint: PrivateEndpoint) -> dict[str, Any]:
        counters = self.endpoints[endpoint.name]
        return {
            "name": endpoint.name,
            "virtual_network": endpoint.virtual_network,
            "target": endpoint.target,
            **self._traffic([endpoint.name]),
            "dropped": {str(v): counters.dropped[v] for v in Verdict if counters.dropped[v]},
            "sessions": {
                "created": counters.created,
                "active": sum(session.endpoint == endpoint.name for session in self.sessions),
            },
        }

    def _service_figures(self, service: PrivateLinkService) -> dict[str, Any]:
        endpoints = [e.name for e in self.topology.private_endpoints if e.target == service.name]
        return {
            "name": service.name,
            **self._traffic(endpoints),
            "nat_ips": [self._nat_ip_figures(service, nat_ip) for nat_ip in self._all_nat_ips(service)],
        }

    def _nat_ip_figures(self, service: PrivateLinkService, nat_ip: IPv4Address) -> dict[str, Any]:
        pools = [pool for key, pool in self.pools.items() if key[:2] == (service.name, nat_ip)]  # Reading 10
        capacity = sum(pool.capacity for pool in pools)
        free = sum(len(pool.free) for pool in pools)
        # Reading 9: where there are no ports, none is taken.
        lowest = min((100 * pool.minimum_free / pool.capacity for pool in pools), default=100.0)
        worst_now = min((100 * len(pool.free) / pool.capacity for pool in pools), default=100.0)
        return {
            "ip": str(nat_ip),
            "active": nat_ip in self.nat_ips[service.name],
            "capacity": capacity,
            "in_use": sum(len(pool.in_use) for pool in pools),
            "held": sum(len(pool.held) for pool in pools),
            "free": free,
            "availability_percent": 100 * free / capacity if capacity else 100.0,
            "usage_percent": 100 * (capacity - free) / capacity if capacity else 0.0,
            "minimum_availability_percent": lowest,
            "worst_pool_availability_percent": worst_now,
            "allocation_failures": sum(pool.failures for pool in pools),
            "pools": [
                {
                    "protocol": pool.protocol,
                    "backend": str(pool.backend),
                    "capacity": pool.capacity,
                    "in_use": len(pool.in_use),
                    "held": len(pool.held),
                    "free": len(pool.free),
                    "minimum_free": pool.minimum_free,
                    "allocation_failures": pool.failures,
                }
                for pool in pools
            ],
        }

    # --- laws -----------------------------------------------------------------------------------------------

    def check_laws(self) -> None:
        """What must hold at any time, whatever was received."""
        summary = self.summary()
        for figure in ("packets", "bytes"):
            parts = [summary[part][figure] for part in ("forwarded", "bypassed", "dropped")]
            assert summary["received"][figure] == sum(parts)
        assert summary["received"]["packets"] == self.received
        assert summary["sessions"]["created"] == len(self.sessions) + len(self.ended_sessions)

        for pool in self.pools.values():
            ports = pool.service.nat.nat_ports
            every_port = list(range(ports.first, ports.last + 1))
            assert sorted([*pool.in_use, *pool.held, *pool.free]) == every_port, "a port is lost or in two places"
            assert 0 <= pool.minimum_free <= len(pool.free)
            if pool.service.nat.port_allocation == "block":
                self._check_blocks(pool)

        owners = [(id(session.pool), session.nat[1]) for session in self.sessions]
        assert len(set(owners)) == len(owners), "a port has two owners"
        assert len(self.by_consumer) == len(self.sessions)
        assert sum(len(pool.in_use) for pool in self.pools.values()) == len(self.sessions)
        for session in self.sessions:
            assert self.by_consumer[session.key] is session
            assert session.pool.in_use[session.nat[1]] is session
            assert session.ended is None
            assert session.deadline_ns > self.clock_ns
            self._check_state(session)
        assert [session.id for session in self.sessions] == sorted(session.id for session in self.sessions)

        assert self.arrived == self.received + len(self._waiting())
        assert len(self.datagrams) <= MOST_DATAGRAMS
        assert len(self._waiting()) <= MOST_WAITING
        for datagram in self.datagrams.values():
            assert all(end <= start for (_, end), (start, _) in pairwise(sorted(datagram.covered)))
            assert not datagram.is_complete
            assert not (datagram.waiting and (datagram.has_first or datagram.is_condemned))
            assert datagram.began_ns <= self.stage_ns
        assert self.clock_ns is None or self.clock_ns <= self.stage_ns

    def _check_blocks(self, pool: Pool) -> None:
        """No block has two owners; nobody has more than he may."""
        owners: dict[int, set[str]] = {}
        for port, session in [*pool.in_use.items(), *pool.held.items()]:
            assert port in pool.ports_of_block(pool.block_of(port))
            owners.setdefault(pool.block_of(port), set()).add(session.endpoint)
        assert all(len(names) == 1 for names in owners.values()), "a block has two owners"
        most = pool.service.nat.blocks_per_endpoint
        counts = Counter(name for names in owners.values() for name in names)
        assert most is None or all(count <= most for count in counts.values())

    def _check_state(self, session: Session) -> None:
        """States that contradict what was seen."""
        policy = session.pool.service.nat.tcp
        states = {
            "tcp": (HALF_OPEN, ESTABLISHED, HALF_CLOSED, CLOSING, RESET),
            "udp": (UDP_UNREPLIED, UDP_FLOW),
            "icmp": (ICMP_FLOW,),
        }
        assert session.state in states[session.protocol]
        if session.state in (ESTABLISHED, HALF_CLOSED):
            assert session.was_established
            assert len(session.fin_seen) == (session.state == HALF_CLOSED)
        if session.state == HALF_CLOSED:
            assert policy.closing == "both_fins"
        if session.state not in (CLOSING, RESET):
            assert len(session.fin_seen) < 2
        if session.state == UDP_FLOW:
            assert session.packets[TO_CONSUMER] > 0


def reset_packet(sender: Socket, receiver: Socket, sequence: int) -> bytes:
    """An IPv4 packet with an RST (RFC 9293 §3.10.7): TTL 64, not to be fragmented, no window, no payload."""
    addresses = sender[0].packed + receiver[0].packed
    ip = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0x4000, 64, TCP, 0) + addresses)
    struct.pack_into("!H", ip, 10, ~ones_complement_sum(words_of(bytes(ip))) & 0xFFFF)
    tcp = bytearray(struct.pack("!HHIIBBHHH", sender[1], receiver[1], sequence, 0, 5 << 4, RST, 0, 0, 0))
    pseudo_header = addresses + struct.pack("!HH", TCP, len(tcp))
    struct.pack_into("!H", tcp, 16, ~ones_complement_sum(words_of(pseudo_header + bytes(tcp))) & 0xFFFF)
    return bytes(ip + tcp)


def is_usable(time_ns: int) -> bool:
    """Whether a clock can say this time."""
    return FIRST_TIME <= time_ns <= LAST_TIME


def usable(time_ns: int, now_ns: int | None) -> int:
    """The clock after a packet of that time; 0 before any other packet if the time cannot be used."""
    if now_ns is None:
        return time_ns if is_usable(time_ns) else 0
    return max(time_ns, now_ns) if is_usable(time_ns) else now_ns


def protocols_of(service: PrivateLinkService) -> list[str]:
    """The protocols of a service's rules, each once, tcp before udp; then icmp, if echo is translated."""
    protocols = sorted({rule.protocol for rule in service.load_balancer.rules})
    return [*protocols, "icmp"] if service.nat.icmp == "all" else protocols


def rule_for(service: PrivateLinkService, protocol: str, port: int) -> LoadBalancingRule | None:
    """The rule for what arrives at the frontend port."""
    for rule in service.load_balancer.rules:
        if (rule.protocol, rule.frontend_port) == (protocol, port):
            return rule
    return None


def first_state(packet: Packet) -> str:
    """The state that a session begins in, before its first packet is applied."""
    if packet.protocol == ICMP:
        return ICMP_FLOW
    if packet.protocol == UDP:
        return UDP_UNREPLIED
    return HALF_OPEN if packet.is_syn else ESTABLISHED


def completes_handshake(syn_seen: set[str], packet: Packet, direction: str) -> bool:
    """SYN was seen both ways, and this is a packet with ACK from the consumer."""
    return len(syn_seen) == 2 and direction == TO_SERVICE and packet.flags & ACK != 0


def icmp_fault(packet: Packet, translated: str, direction: str) -> Verdict | None:
    """Step 2 of ICMP; `translated`: none, errors or all."""
    if translated == "none":
        return Verdict.UNSUPPORTED_PROTOCOL
    if packet.is_fragment:
        return Verdict.FRAGMENT_UNRESOLVED
    if packet.icmp_type is None:
        return Verdict.MALFORMED
    if packet.is_icmp_error:
        if packet.quote is None:
            return Verdict.MALFORMED
        return Verdict.ICMP_CHECKSUM_WRONG if packet.icmp_checksum_wrong else None
    is_echo = packet.icmp_type == (ECHO_REQUEST if direction == TO_SERVICE else ECHO_REPLY)
    if translated != "all" or not is_echo or packet.icmp_code not in (0, None):  # Reading 14
        return Verdict.UNSUPPORTED_PROTOCOL
    return None if packet.has_transport else Verdict.MALFORMED


def dropped(verdict: Verdict, packet: Packet, way: Way, on_wire: int) -> Outcome:
    """A packet refused at step 2. A malformed one counts with the frame's length, others with their own."""
    outcome = refused(verdict, packet, way)
    if verdict == Verdict.MALFORMED:
        outcome.bytes = on_wire
    return outcome


def refused(verdict: Verdict, packet: Packet, way: Way) -> Outcome:
    """A packet that no session carries."""
    endpoint = None if way.endpoint is None else way.endpoint.name  # Reading 11
    return Outcome(verdict, packet.length, way.direction, endpoint)


def forwarded(session: Session, packet: Packet, way: Way, point: VirtualNetwork) -> Outcome:
    """A packet that its session carries to the other side; of a captured reply, what the backend must have sent."""
    service = session.pool.service
    ttl = packet.ttl
    if service.nat.decrement_ttl:  # Reading 6
        ttl = min(packet.ttl + 1, 255) if way.is_captured else packet.ttl - 1
    if way.direction == TO_SERVICE:
        translated = delivered = translate(packet, session.nat, session.backend, ttl)
        delivered_at = service.virtual_network
    elif way.is_captured:
        translated, delivered = translate(packet, session.backend, session.nat, ttl), packet.frame
        delivered_at = point.name  # Reading 7
    else:
        translated = delivered = translate(packet, session.endpoint_side, session.consumer, ttl)
        delivered_at = session.consumer_network
    nat = (str(session.nat[0]), session.nat[1])
    return Outcome(
        Verdict.FORWARDED, packet.length, way.direction, session.endpoint, session.id,
        translated, delivered_at, delivered, nat,
    )  # fmt: skip
