"""The executable specification: what becomes of every packet, in plain Python.

It formalises docs/model.md (the rules), what users rely on (verdicts, the summary), RFC 791 (IPv4 header),
RFC 9293 (TCP header and flags), RFC 768 (UDP) and RFC 1624 (checksum adjustment). It shares no code with the
engine: only the list of verdicts and the topology, which says what exists. It is meant to be read, not to be
fast: every rule is looked up where the rule says, and the next timer is the smallest of all timers.

Readings chosen where the text leaves room; each is marked `Reading n` where it is used.

 1. A frame with more than two VLAN tags: the link header ends after the second; what follows is not IPv4.
 2. "A link without EtherType" is every link type but Ethernet and the two Linux cooked ones: a version nibble
    of 6 means `bypassed` there, whatever a family field or link type 228 promised. No byte is `malformed`.
 3. "The frame ends before its link header does" speaks of the bytes in the capture, not of those on the wire.
 4. `unreachable_source` looks at the network where the packet entered, which is what model.md calls P.
 5. A FIN that does not complete the closing lets the same packet still advance the handshake.
 6. "TTL one higher" of a captured reply holds under `decrement_ttl` only: else the backend sent the same TTL.
 7. A captured reply is delivered where it was captured; a provider's reply where its session was created.
 8. `advance` before the first packet does nothing: time begins with the first packet.
 9. A NAT IP without pools (no rules or no backends) has capacity 0, and 100 % of it is available.
10. Pools are listed by NAT IP, protocol (tcp before udp), backend; addresses in file order.
11. Of the drops at the provider's side only `filtered` counts for an endpoint: no other knows a session.
12. A captured reply between two endpoints belongs to the endpoint that sent it, other packets to the receiver.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from ipaddress import IPv4Address
from typing import Any

from dataplane.topology.model import PrivateEndpoint, PrivateLinkService, Topology, VirtualNetwork
from dataplane.verdict import Verdict

TO_SERVICE, TO_CONSUMER = "to_service", "to_consumer"
TCP, UDP = 6, 17
PROTOCOL_NAMES = {TCP: "tcp", UDP: "udp"}
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
HALF_OPEN, ESTABLISHED, CLOSING, RESET, UDP_FLOW = "half-open", "established", "closing", "reset", "udp"

ETHERNET, COOKED_1, COOKED_2, BSD_NULL, BSD_LOOP = 1, 113, 276, 0, 108
RAW_IP, RAW_IPV4, RAW_IPV6 = (12, 14, 101), 228, 229
ETHERTYPE_IPV4 = 0x0800
ETHERTYPES_VLAN = (0x8100, 0x88A8, 0x9100)
FAMILY_IPV4 = 2
MINUTE = 60 * 10**9

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
    """An IPv4 packet whose header is sound, in its frame; its transport header if that is sound too."""

    frame: bytes
    start: int  # of the IPv4 header: the length of the link header
    transport: int  # start of the TCP or UDP header
    length: int  # IPv4 total length
    ttl: int
    protocol: int
    source: IPv4Address
    destination: IPv4Address
    is_fragment: bool
    has_transport: bool = False  # below are valid only if this is true
    source_port: int = 0
    destination_port: int = 0
    flags: int = 0  # of TCP

    @property
    def is_syn(self) -> bool:
        """A first TCP packet: SYN set; ACK, FIN and RST not."""
        return self.protocol == TCP and self.flags & (SYN | ACK | FIN | RST) == SYN


def read_ipv4(frame: bytes, start: int, on_wire: int) -> Packet | None:
    """The IPv4 packet at `start`, None if its header is broken; `on_wire`: what follows the link header there."""
    captured = len(frame) - start
    if captured < 20:
        return None
    version, header = frame[start] >> 4, (frame[start] & 0x0F) * 4
    if version != 4 or header < 20 or header > captured:
        return None
    total_length, _, fragment, ttl, protocol = struct.unpack_from("!HHHBB", frame, start + 2)
    length = total_length if total_length != 0 else on_wire  # 0: segmentation offload
    if length < header or length > on_wire:
        return None
    packet = Packet(
        frame, start, start + header, length, ttl, protocol,
        source=IPv4Address(frame[start + 12 : start + 16]),
        destination=IPv4Address(frame[start + 16 : start + 20]),
        is_fragment=fragment & 0x3FFF != 0,  # more-fragments, or an offset
    )  # fmt: skip
    if not packet.is_fragment:
        read_transport(packet, payload=length - header, captured=captured - header)
    return packet


def read_transport(packet: Packet, payload: int, captured: int) -> None:
    """Fill in ports and flags unless the TCP or UDP header is broken (RFC 9293 §3.1, RFC 768)."""
    needed = {TCP: 20, UDP: 8}.get(packet.protocol)
    if needed is None or payload < needed or captured < needed:
        return
    frame, at = packet.frame, packet.transport
    if packet.protocol == TCP:
        claimed = (frame[at + 12] >> 4) * 4  # data offset
        packet.flags = frame[at + 13]
    else:
        (claimed,) = struct.unpack_from("!H", frame, at + 4)  # UDP length
    if needed <= claimed <= payload:
        packet.has_transport = True
        packet.source_port, packet.destination_port = struct.unpack_from("!HH", frame, at)


# --- Checksums and translation ------------------------------------------------------------------------------


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
    at, transport = packet.start, packet.transport
    old_addresses = list(struct.unpack_from("!4H", frame, at + 12))
    old_ports = list(struct.unpack_from("!2H", frame, transport))
    old_ttl_word = packet.ttl << 8 | packet.protocol

    new_ports = [source[1], destination[1]]
    frame[at + 8] = ttl
    frame[at + 12 : at + 20] = source[0].packed + destination[0].packed
    struct.pack_into("!2H", frame, transport, *new_ports)
    new_addresses = list(struct.unpack_from("!4H", frame, at + 12))
    new_ttl_word = ttl << 8 | packet.protocol

    (checksum,) = struct.unpack_from("!H", frame, at + 10)
    checksum = adjust_checksum(checksum, [*old_addresses, old_ttl_word], [*new_addresses, new_ttl_word])
    struct.pack_into("!H", frame, at + 10, checksum)

    checksum_at = transport + (16 if packet.protocol == TCP else 6)
    (checksum,) = struct.unpack_from("!H", frame, checksum_at)
    if packet.protocol == UDP and checksum == 0:
        return bytes(frame)  # no checksum: none after either
    checksum = adjust_checksum(checksum, old_addresses + old_ports, new_addresses + new_ports)
    if packet.protocol == UDP and checksum == 0:
        checksum = 0xFFFF
    struct.pack_into("!H", frame, checksum_at, checksum)
    return bytes(frame)


# --- Hashing ------------------------------------------------------------------------------------------------

MODULO = 2**64


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
class Pool:
    """The ports of one NAT IP for one protocol toward one backend of a service."""

    service: PrivateLinkService
    nat_ip: IPv4Address
    protocol: str
    backend: IPv4Address
    key: int
    free: list[int]  # the array of free ports, in the order that releases left
    in_use: dict[int, Session] = field(default_factory=dict)
    held: dict[int, Session] = field(default_factory=dict)  # port: the session that had it
    draws: int = 0
    last_given: int | None = None
    minimum_free: int = 0
    failures: int = 0

    @property
    def capacity(self) -> int:
        """Ports of the range."""
        return self.service.nat.nat_ports.size

    def ports_of(self, endpoint: str) -> int:
        """In-use and held ports of one endpoint."""
        owners = [*self.in_use.values(), *self.held.values()]
        return sum(session.endpoint == endpoint for session in owners)

    def take_port(self) -> int:
        """Take a free port, as `port_allocation` says."""
        if self.service.nat.port_allocation == "random":
            self.draws += 1
            x = mix((self.key + self.draws * 0x9E3779B97F4A7C15) % MODULO)
            index = pick(x, len(self.free))
            port = self.free[index]
            self.free[index] = self.free[-1]
            self.free.pop()
        else:  # sequential
            after = [port for port in self.free if self.last_given is not None and port > self.last_given]
            port = min(after or self.free)
            self.free.remove(port)
        self.last_given = port
        self.minimum_free = min(self.minimum_free, len(self.free))
        return port


@dataclass
class Session:
    """One translated conversation."""

    id: int  # number of the received packet that created it
    endpoint: str
    protocol: str
    consumer: Socket
    endpoint_side: Socket
    nat: Socket
    backend: Socket
    consumer_network: str  # where it was created
    pool: Pool
    state: str
    first_packet_ns: int
    last_packet_ns: int  # the clock at the packet, like all times here
    refreshed_ns: int
    syn_seen: set[str] = field(default_factory=set)  # directions
    fin_seen: set[str] = field(default_factory=set)
    packets: Counter[str] = field(default_factory=Counter)  # by direction
    bytes: Counter[str] = field(default_factory=Counter)
    ended: str | None = None  # closed, reset or idle; None while it lives
    ended_ns: int | None = None

    @property
    def key(self) -> tuple[str, str, IPv4Address, int, int]:
        """What finds the session from the consumer's side."""
        return (self.endpoint, self.protocol, *self.consumer, self.endpoint_side[1])

    @property
    def timeout(self) -> int:
        """Nanoseconds that the session lives after its last refresh."""
        timeouts = self.pool.service.nat.timeouts
        return {
            HALF_OPEN: timeouts.tcp_half_open,
            ESTABLISHED: timeouts.tcp_established,
            CLOSING: timeouts.tcp_closing,
            RESET: timeouts.tcp_reset,
            UDP_FLOW: timeouts.udp,
        }[self.state]

    @property
    def deadline_ns(self) -> int:
        """The moment at which it ends."""
        return self.refreshed_ns + self.timeout


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


@dataclass
class EndpointCounters:
    """What Azure counts per private endpoint."""

    packets: Counter[str] = field(default_factory=Counter)  # forwarded, by direction
    bytes: Counter[str] = field(default_factory=Counter)
    dropped: Counter[Verdict] = field(default_factory=Counter)
    created: int = 0


# --- The simulator ------------------------------------------------------------------------------------------


class ReferenceSimulator:
    """Receives packets one by one and says what becomes of each."""

    def __init__(self, topology: Topology, seed: int = 0) -> None:
        self.topology = topology
        self.seed = seed
        self.networks = {network.name: network for network in topology.virtual_networks}
        self.services = {service.name: service for service in topology.private_link_services}
        self.clock_ns: int | None = None  # None: no packet yet
        self.first_packet_ns = 0
        self.received = 0  # packets so far; the number of the latest one
        self.times_before_clock = 0
        self.times_unusable = 0

        self.sessions: list[Session] = []  # live, in order of id
        self.ended_sessions: list[Session] = []  # in order of their end
        self.by_consumer: dict[tuple[str, str, IPv4Address, int, int], Session] = {}
        self.releases: list[tuple[int, Session]] = []  # held ports: when they become free
        self.pools = {
            (service.name, nat_ip, protocol, backend): self._new_pool(service, nat_ip, protocol, backend)
            for service in topology.private_link_services
            for nat_ip in service.nat_ips
            for protocol in protocols_of(service)
            for backend in service.load_balancer.backend_pool
        }
        self.cursors: Counter[tuple[str, IPv4Address]] = Counter()  # of round_robin, by service and backend

        self.packets: Counter[Verdict] = Counter()
        self.bytes: Counter[Verdict] = Counter()
        self.endpoints = {endpoint.name: EndpointCounters() for endpoint in topology.private_endpoints}
        self.first_exhaustion: dict[str, Any] | None = None

    def _new_pool(self, service: PrivateLinkService, nat_ip: IPv4Address, protocol: str, backend: IPv4Address) -> Pool:
        ports = service.nat.nat_ports
        key = key64(self.seed, "pool", service.name, nat_ip, protocol, backend)
        free = list(range(ports.first, ports.last + 1))
        return Pool(service, nat_ip, protocol, backend, key, free, minimum_free=len(free))

    # --- one packet -----------------------------------------------------------------------------------------

    def receive(
        self,
        frame: bytes,
        *,
        at: str,
        time_ns: int,
        original_length: int | None = None,
        link_type: int = ETHERNET,
    ) -> Outcome:
        """One packet enters at the network `at`; `original_length` is that on the wire, if the capture cut it."""
        self.received += 1
        self._set_clock(time_ns)
        self._pass_time()
        original = len(frame) if original_length is None else original_length
        outcome = self._judge(bytes(frame), self.networks[at], original, link_type)
        self._count(outcome)
        return outcome

    def _judge(self, frame: bytes, point: VirtualNetwork, original: int, link_type: int) -> Outcome:
        """Steps 1 to 4 of the table of verdicts; the first that holds."""
        start, is_ipv4 = read_link_header(frame, link_type)
        on_wire = max(0, original - start)
        if not is_ipv4:
            return Outcome(Verdict.BYPASSED, bytes=on_wire)
        packet = read_ipv4(frame, start, on_wire)
        if packet is None:
            return Outcome(Verdict.MALFORMED, bytes=on_wire)

        service = self._service_answering(packet, point)
        if service is not None:
            fault = self._transport_fault(packet, self._ttl_expired(service, packet, least=2))
            if fault is not None:
                return dropped(fault, packet, on_wire, TO_CONSUMER)
            return self._from_provider(packet, service)

        endpoint, is_reply = self._endpoint_of(packet, point)
        if endpoint is None:
            return Outcome(Verdict.BYPASSED, bytes=packet.length)
        direction = TO_CONSUMER if is_reply else TO_SERVICE
        expired = self._ttl_expired(self.services[endpoint.target], packet, least=1 if is_reply else 2)
        fault = self._transport_fault(packet, expired)
        if fault is not None:
            return dropped(fault, packet, on_wire, direction, endpoint.name)
        if is_reply:
            return self._captured_reply(packet, endpoint, point)
        return self._to_service(packet, endpoint, point)

    def _service_answering(self, packet: Packet, point: VirtualNetwork) -> PrivateLinkService | None:
        """The service of which a backend sends this packet to a NAT IP, at the provider's network."""
        for service in self.topology.private_link_services:
            is_nat_ip = service.virtual_network == point.name and packet.destination in service.nat_ips
            if is_nat_ip and packet.source in service.load_balancer.backend_pool:
                return service
        return None

    def _endpoint_of(self, packet: Packet, point: VirtualNetwork) -> tuple[PrivateEndpoint | None, bool]:
        """The visible endpoint that the packet is to or from, and whether it is a captured reply."""
        visible = {
            endpoint.ip: endpoint
            for endpoint in self.topology.private_endpoints
            if endpoint.virtual_network == point.name
            or point.name in self.networks[endpoint.virtual_network].peered_with
        }
        sender, receiver = visible.get(packet.source), visible.get(packet.destination)
        if sender is not None and (receiver is None or self._session_of_reply(packet, sender) is not None):
            return sender, True  # Reading 12
        return receiver, False

    def _ttl_expired(self, service: PrivateLinkService, packet: Packet, least: int) -> bool:
        return service.nat.decrement_ttl and packet.ttl < least

    def _transport_fault(self, packet: Packet, ttl_expired: bool) -> Verdict | None:
        """Step 2."""
        if ttl_expired:
            return Verdict.TTL_EXPIRED
        if packet.protocol not in PROTOCOL_NAMES:
            return Verdict.UNSUPPORTED_PROTOCOL
        if packet.is_fragment:
            return Verdict.FRAGMENT_UNRESOLVED
        if not packet.has_transport:
            return Verdict.MALFORMED
        return None

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
        if not packet.has_transport:
            return None
        protocol = PROTOCOL_NAMES[packet.protocol]
        key = (sender.name, protocol, packet.destination, packet.destination_port, packet.source_port)
        return self.by_consumer.get(key)

    def _captured_reply(self, packet: Packet, endpoint: PrivateEndpoint, point: VirtualNetwork) -> Outcome:
        """A reply as the consumer saw it: reconstruct what the backend must have sent."""
        session = self._session_of_reply(packet, endpoint)
        if session is None:
            return Outcome(Verdict.NO_SESSION, packet.length, TO_CONSUMER, endpoint.name)
        self._apply(session, packet, TO_CONSUMER)
        ttl = packet.ttl
        if session.pool.service.nat.decrement_ttl:  # Reading 6
            ttl = min(packet.ttl + 1, 255)
        sent = translate(packet, session.backend, session.nat, ttl)
        return forwarded(session, packet, TO_CONSUMER, sent, point.name, packet.frame)  # Reading 7

    def _from_provider(self, packet: Packet, service: PrivateLinkService) -> Outcome:
        """A backend answers to a NAT IP."""
        protocol = PROTOCOL_NAMES[packet.protocol]
        pool = self.pools.get((service.name, packet.destination, protocol, packet.source))
        session = pool.in_use.get(packet.destination_port) if pool is not None else None
        if session is None:
            return Outcome(Verdict.NO_SESSION, packet.length, TO_CONSUMER)
        if packet.source_port != session.backend[1]:
            return Outcome(Verdict.FILTERED, packet.length, TO_CONSUMER, session.endpoint)
        self._apply(session, packet, TO_CONSUMER)
        ttl = packet.ttl - 1 if service.nat.decrement_ttl else packet.ttl
        arrived = translate(packet, session.endpoint_side, session.consumer, ttl)
        return forwarded(session, packet, TO_CONSUMER, arrived, session.consumer_network, arrived)

    def _to_service(self, packet: Packet, endpoint: PrivateEndpoint, point: VirtualNetwork) -> Outcome:
        """A consumer's packet to an endpoint: of a live session, or the first of a new one."""
        protocol = PROTOCOL_NAMES[packet.protocol]
        key = (endpoint.name, protocol, packet.source, packet.source_port, packet.destination_port)
        session = self.by_consumer.get(key)
        reopens = session is not None and session.state in (CLOSING, RESET) and packet.is_syn
        if session is None or reopens:
            refusal, session = self._new_session(packet, endpoint, point, leaving=session)
            if refusal is not None:
                return Outcome(refusal, packet.length, TO_SERVICE, endpoint.name)
        service = session.pool.service
        self._apply(session, packet, TO_SERVICE)
        ttl = packet.ttl - 1 if service.nat.decrement_ttl else packet.ttl
        arrived = translate(packet, session.nat, session.backend, ttl)
        return forwarded(session, packet, TO_SERVICE, arrived, service.virtual_network, arrived)

    # --- step 4: a new session ------------------------------------------------------------------------------

    def _new_session(
        self, packet: Packet, endpoint: PrivateEndpoint, point: VirtualNetwork, leaving: Session | None
    ) -> tuple[Verdict | None, Session | None]:
        """Judge as if `leaving` had already ended; end it only if the new session is admitted."""
        service = self.services[endpoint.target]
        balancer, nat = service.load_balancer, service.nat
        protocol = PROTOCOL_NAMES[packet.protocol]

        if self.topology.connection_of(endpoint) != "approved":
            return Verdict.CONNECTION_NOT_APPROVED, None
        if not self._is_reachable(packet.source, point):
            return Verdict.UNREACHABLE_SOURCE, None
        wanted = (protocol, packet.destination_port)
        rule = next((rule for rule in balancer.rules if (rule.protocol, rule.frontend_port) == wanted), None)
        if rule is None:
            return Verdict.NO_LOAD_BALANCING_RULE, None
        if packet.protocol == TCP and nat.first_packet == "syn" and not packet.is_syn:
            return Verdict.NOT_FIRST_PACKET, None
        if not balancer.backend_pool:
            return Verdict.NO_HEALTHY_BACKEND, None
        backend = self._choose_backend(service, endpoint, packet)
        if nat.sessions_per_backend is not None:
            if self._live_at_host(service.virtual_network, backend, leaving) >= nat.sessions_per_backend:
                return Verdict.SESSION_TABLE_FULL, None
        refusal, pool = self._choose_pool(service, endpoint, packet, backend, leaving)
        if refusal is not None:
            return refusal, None

        # Admitted: from here on things change.
        if leaving is not None:
            self._end(leaving)
        session = Session(
            id=self.received,
            endpoint=endpoint.name,
            protocol=protocol,
            consumer=(packet.source, packet.source_port),
            endpoint_side=(packet.destination, packet.destination_port),
            nat=(pool.nat_ip, pool.take_port()),
            backend=(backend, rule.backend_port),
            consumer_network=point.name,
            pool=pool,
            state=UDP_FLOW if packet.protocol == UDP else HALF_OPEN if packet.is_syn else ESTABLISHED,
            first_packet_ns=self.clock_ns,
            last_packet_ns=self.clock_ns,
            refreshed_ns=self.clock_ns,
        )
        self.cursors[service.name, backend] += 1
        pool.in_use[session.nat[1]] = session
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
        """Rendezvous hashing; `max` keeps the first of equals."""
        h = self._hash(service.load_balancer.distribution, endpoint, packet)
        return max(
            service.load_balancer.backend_pool,
            key=lambda backend: mix(h ^ key64(self.seed, "backend", service.name, backend)),
        )

    def _hash(self, distribution: str, endpoint: PrivateEndpoint, packet: Packet) -> int:
        return balancer_hash(distribution, key64(self.seed, "private_endpoint", endpoint.name), packet)

    def _choose_pool(
        self,
        service: PrivateLinkService,
        endpoint: PrivateEndpoint,
        packet: Packet,
        backend: IPv4Address,
        leaving: Session | None,
    ) -> tuple[Verdict | None, Pool | None]:
        """The first pool, in the order of trying, that can give a port."""
        nat = service.nat
        protocol = PROTOCOL_NAMES[packet.protocol]
        pools = [self.pools[service.name, nat_ip, protocol, backend] for nat_ip in service.nat_ips]

        def returned(pool: Pool) -> int:
            """Ports that the leaving session gives back to this pool at once."""
            return int(leaving is not None and leaving.pool is pool and nat.port_hold == 0)

        def has_free(pool: Pool) -> bool:
            return len(pool.free) + returned(pool) > 0

        def below_cap(pool: Pool) -> bool:
            owned = pool.ports_of(endpoint.name) - returned(pool)  # the leaving session is of this endpoint
            return nat.ports_per_endpoint is None or owned < nat.ports_per_endpoint

        if nat.nat_ip_selection == "round_robin":
            first = self.cursors[service.name, backend] % len(pools)
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
        for pool in tried:
            if has_free(pool) and below_cap(pool):
                return None, pool
        if any(has_free(pool) for pool in tried):
            return Verdict.ENDPOINT_PORT_LIMIT, None
        self._exhausted(pools[first])
        return Verdict.NAT_PORTS_EXHAUSTED, None

    def _exhausted(self, pool: Pool) -> None:
        pool.failures += 1
        if self.first_exhaustion is None:
            self.first_exhaustion = {
                "time_seconds": (self.clock_ns - self.first_packet_ns) / 1e9,
                "service": pool.service.name,
                "nat_ip": str(pool.nat_ip),
                "protocol": pool.protocol,
                "backend": str(pool.backend),
            }

    # --- a session's life -----------------------------------------------------------------------------------

    def _apply(self, session: Session, packet: Packet, direction: str) -> None:
        """A forwarded packet of the session: figures, state, timer."""
        session.packets[direction] += 1
        session.bytes[direction] += packet.length
        session.last_packet_ns = self.clock_ns
        if session.state in (CLOSING, RESET):
            return  # left only by time, or by a consumer's SYN
        session.refreshed_ns = self.clock_ns
        if session.protocol == "udp":
            return
        if packet.flags & SYN:
            session.syn_seen.add(direction)
        if packet.flags & RST:
            session.state = RESET
            return
        if packet.flags & FIN:
            session.fin_seen.add(direction)
            if len(session.fin_seen) == 2:
                session.state = CLOSING
                return
        # Reading 5: a first FIN goes on to the handshake.
        if session.state == HALF_OPEN and len(session.syn_seen) == 2:
            if direction == TO_SERVICE and packet.flags & ACK:
                session.state = ESTABLISHED

    def _set_clock(self, time_ns: int) -> None:
        """The clock is the largest time seen."""
        if not -(2**63) + MINUTE <= time_ns < 2**63 - MINUTE:
            self.times_unusable += 1
            time_ns = 0 if self.clock_ns is None else self.clock_ns
        if self.clock_ns is None:
            self.clock_ns = self.first_packet_ns = time_ns
        elif time_ns < self.clock_ns:
            self.times_before_clock += 1
        else:
            self.clock_ns = time_ns

    def advance(self, to_ns: int) -> None:
        """Let time pass."""
        if self.clock_ns is not None:  # Reading 8
            self.clock_ns = min(max(self.clock_ns, to_ns), 2**63 - 1 - MINUTE)
            self._pass_time()

    def next_due_ns(self) -> int | None:
        """The next moment at which a session ends or a held port is released."""
        moments = [session.deadline_ns for session in self.sessions] + [moment for moment, _ in self.releases]
        return min(moments, default=None)

    def _pass_time(self) -> None:
        """All ends and releases that are due, in order of (moment, session id)."""
        while True:
            ends = [(session.deadline_ns, session.id, session) for session in self.sessions]
            releases = [(moment, session.id, session) for moment, session in self.releases]
            moment, _, session = min(ends + releases, default=(self.clock_ns + 1, 0, None))
            if moment > self.clock_ns:
                return
            if session.ended is None:
                self._end(session, moment)
            else:
                self.releases.remove((moment, session))
                self._release(session)

    def _end(self, session: Session, moment: int | None = None) -> None:
        """End a session (now, unless a moment is given); its port is held, or free at once."""
        session.ended_ns = self.clock_ns if moment is None else moment
        session.ended = {CLOSING: "closed", RESET: "reset"}.get(session.state, "idle")
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

    def _release(self, session: Session) -> None:
        del session.pool.held[session.nat[1]]
        session.pool.free.append(session.nat[1])

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
                "ended": {how: ended[how] for how in ("closed", "reset", "idle", "disconnected")},
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
            "nat_ips": [self._nat_ip_figures(service, nat_ip) for nat_ip in service.nat_ips],
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

        owners = [(id(session.pool), session.nat[1]) for session in self.sessions]
        assert len(set(owners)) == len(owners), "a port has two owners"
        assert len(self.by_consumer) == len(self.sessions)
        assert sum(len(pool.in_use) for pool in self.pools.values()) == len(self.sessions)
        for session in self.sessions:
            assert self.by_consumer[session.key] is session
            assert session.pool.in_use[session.nat[1]] is session
            assert session.ended is None
            assert session.deadline_ns > self.clock_ns
        assert [session.id for session in self.sessions] == sorted(session.id for session in self.sessions)


def protocols_of(service: PrivateLinkService) -> list[str]:
    """The protocols of a service's rules, each once, tcp before udp."""
    return sorted({rule.protocol for rule in service.load_balancer.rules})


def dropped(verdict: Verdict, packet: Packet, on_wire: int, direction: str, endpoint: str | None = None) -> Outcome:
    """A packet refused at step 2. A malformed one counts with the frame's length, others with their own."""
    counted = on_wire if verdict == Verdict.MALFORMED else packet.length
    return Outcome(verdict, counted, direction, endpoint)  # Reading 11


def forwarded(
    session: Session, packet: Packet, direction: str, translated: bytes, delivered_at: str, delivered: bytes
) -> Outcome:
    """A packet that its session carried to the other side."""
    nat = (str(session.nat[0]), session.nat[1])
    return Outcome(
        Verdict.FORWARDED, packet.length, direction, session.endpoint, session.id,
        translated, delivered_at, delivered, nat,
    )  # fmt: skip
