"""What tests are made of: packets built by hand, random topologies, and traces that collide a lot.

Three parts, each of use by itself:

* builders (`tcp_packet`, `udp_packet`, `icmp_error`, `icmp_echo`, `fragments_of`, `link_frame`): bytes with right
  checksums and nothing hidden;
* `topologies()`: small valid topologies, full of overlapping addresses and tiny NAT pools;
* `traces()`: lists of steps. A step is symbolic ("answer session 2 with SYN and ACK, at its timeout"): `resolve`
  turns it into a packet by looking at a `ReferenceSimulator`, so that a reference and an engine driven in lock step
  get the same bytes:

      for step in steps:
          arrival = resolve(step, reference)
          if arrival.frame is None:       # only time passes
              reference.advance(arrival.time_ns)
          else:
              reference.arrive(**arrival.arguments())
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import IPv4Address, IPv4Network
from typing import Any, NamedTuple

from hypothesis import strategies as st

from dataplane.topology.model import Event, PrivateEndpoint, PrivateLinkService, Topology, VirtualNetwork
from tests.reference import (
    ACK,
    BSD_LOOP,
    BSD_NULL,
    COOKED_1,
    COOKED_2,
    DATAGRAM_LIFE,
    ECHO_REPLY,
    ECHO_REQUEST,
    ETHERNET,
    FIN,
    ICMP,
    ICMP_ERRORS,
    RAW_IP,
    RAW_IPV4,
    RAW_IPV6,
    RST,
    SYN,
    TCP,
    TO_CONSUMER,
    TO_SERVICE,
    UDP,
    ReferenceSimulator,
    Session,
)

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
"""Time of the first packet of a trace, if its step says nothing else."""

FLAG_BITS = {letter: 1 << bit for bit, letter in enumerate("FSRPAUEC")}


# --- Builders --------------------------------------------------------------------------------------------------------


def internet_checksum(data: bytes) -> int:
    """RFC 1071 over all bytes."""
    words = struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2))
    total = sum(words)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def flag_bits(flags: str | int) -> int:
    """The TCP flags of letters such as `SA`."""
    return flags if isinstance(flags, int) else sum(FLAG_BITS[letter] for letter in flags)


def ipv4_packet(
    source: object,
    destination: object,
    protocol: int,
    payload: bytes = b"",
    *,
    ttl: int = 64,
    options: bytes = b"",
    identification: int = 0x1234,
    fragment: int = 0,
    dscp: int = 0,
) -> bytes:
    """An IPv4 packet; `fragment` is the word of flags and offset, `options` a multiple of four bytes."""
    length = 20 + len(options) + len(payload)
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45 + len(options) // 4, dscp << 2, length, identification, fragment, ttl, protocol, 0,
        IPv4Address(source).packed, IPv4Address(destination).packed,
    ) + options  # fmt: skip
    checksum = struct.pack("!H", internet_checksum(header))
    return header[:10] + checksum + header[12:] + payload


def tcp_segment(
    source: object,
    source_port: int,
    destination: object,
    destination_port: int,
    flags: str | int = "S",
    payload: bytes = b"",
) -> bytes:
    """A TCP header with its payload, checksum right for these addresses."""
    numbers = (source_port, destination_port, 1000, 2000)
    segment = struct.pack("!HHIIBBHHH", *numbers, 5 << 4, flag_bits(flags), 8192, 0, 0) + payload
    checksum = internet_checksum(pseudo_header(source, destination, TCP, len(segment)) + segment)
    return segment[:16] + struct.pack("!H", checksum) + segment[18:]


def udp_datagram(
    source: object, source_port: int, destination: object, destination_port: int, payload: bytes = b""
) -> bytes:
    """A UDP header with its payload, checksum right for these addresses."""
    datagram = struct.pack("!HHHH", source_port, destination_port, 8 + len(payload), 0) + payload
    checksum = internet_checksum(pseudo_header(source, destination, UDP, len(datagram)) + datagram)
    return datagram[:6] + struct.pack("!H", checksum or 0xFFFF) + datagram[8:]


def pseudo_header(source: object, destination: object, protocol: int, length: int) -> bytes:
    """What TCP and UDP checksums also cover."""
    return struct.pack("!4s4sHH", IPv4Address(source).packed, IPv4Address(destination).packed, protocol, length)


def tcp_packet(
    source: object,
    source_port: int,
    destination: object,
    destination_port: int,
    flags: str | int = "S",
    payload: bytes = b"",
    **header: Any,
) -> bytes:
    """An IPv4 packet with TCP; keywords are those of `ipv4_packet`."""
    segment = tcp_segment(source, source_port, destination, destination_port, flags, payload)
    return ipv4_packet(source, destination, TCP, segment, **header)


def udp_packet(
    source: object,
    source_port: int,
    destination: object,
    destination_port: int,
    payload: bytes = b"",
    **header: Any,
) -> bytes:
    """An IPv4 packet with UDP; keywords are those of `ipv4_packet`."""
    datagram = udp_datagram(source, source_port, destination, destination_port, payload)
    return ipv4_packet(source, destination, UDP, datagram, **header)


def icmp_message(type_: int, code: int, rest: bytes) -> bytes:
    """Type, code, a right checksum, and what follows."""
    checksum = internet_checksum(bytes([type_, code, 0, 0]) + rest)
    return struct.pack("!BBH", type_, code, checksum) + rest


def icmp_error(type_: int, code: int, quoted: bytes, rest: int = 0) -> bytes:
    """An ICMP message about the packet that it quotes; `rest` is the word before the quote (RFC 792, RFC 1191)."""
    return icmp_message(type_, code, struct.pack("!I", rest) + quoted)


def icmp_echo(type_: int, identifier: int, sequence: int = 1, payload: bytes = b"") -> bytes:
    """An echo request (type 8) or reply (type 0)."""
    return icmp_message(type_, 0, struct.pack("!HH", identifier, sequence) + payload)


def piece_of(packet: bytes, first: int, last: int | None, more: bool, offset: int | None = None) -> bytes:
    """The fragment with these bytes of an IPv4 packet's payload, checksum right; offsets are multiples of eight."""
    header = bytearray(packet[: (packet[0] & 0x0F) * 4])
    payload = packet[len(header) :][first:last]
    offset = first if offset is None else offset
    word = (header[6] & 0xC0) << 8 | (0x2000 if more else 0) | (offset // 8 & 0x1FFF)
    struct.pack_into("!H", header, 2, len(header) + len(payload))
    struct.pack_into("!H", header, 6, word)
    struct.pack_into("!H", header, 10, 0)
    struct.pack_into("!H", header, 10, internet_checksum(bytes(header)))
    return bytes(header) + payload


def fragments_of(packet: bytes, sizes: Sequence[int]) -> list[bytes]:
    """An IPv4 packet cut into fragments: payloads of these sizes, multiples of eight, and one with the rest."""
    bounds = [0]
    for size in sizes:
        bounds.append(bounds[-1] + size)
    last = bounds.pop()
    pieces = [piece_of(packet, first, first + size, True) for first, size in zip(bounds, sizes, strict=True)]
    return [*pieces, piece_of(packet, last, None, False)]


def link_frame(
    packet: bytes, link_type: int = ETHERNET, *, tags: tuple[int, ...] = (), ethertype: int = 0x0800, padding: int = 0
) -> bytes:
    """A frame around a packet. `tags`: EtherTypes of VLAN tags, outermost first (Ethernet only)."""
    if link_type == ETHERNET:
        types = [*tags, ethertype]
        header = bytes.fromhex("0a00000000010a0000000002") + struct.pack("!H", types[0])
        for number, inner in enumerate(types[1:], start=100):
            header += struct.pack("!HH", number, inner)
    elif link_type == COOKED_1:
        header = struct.pack("!HHH8sH", 0, 1, 6, b"\x0a\0\0\0\0\x01\0\0", ethertype)
    elif link_type == COOKED_2:
        header = struct.pack("!HHIHBB8s", ethertype, 0, 2, 1, 0, 6, b"\x0a\0\0\0\0\x01\0\0")
    elif link_type == BSD_NULL:
        header = struct.pack("<I", 2)
    elif link_type == BSD_LOOP:
        header = struct.pack("!I", 2)
    else:
        header = b""
    return header + packet + bytes(padding)


# --- Topologies ------------------------------------------------------------------------------------------------------

SHARED_SPACE = "10.0.0.0/24"
ON_PREMISES = "172.16.0.0/24"
STRANGER = IPv4Address("203.0.113.9")
HUB = "hub"
RULES = (
    ("tcp", 443, 8443),
    ("tcp", 80, 8443),  # two frontend ports may share a backend port
    ("tcp", 8080, 8080),
    ("udp", 443, 443),
    ("udp", 53, 53),
)
NAT_PORTS = (
    "1024-1024", "1024-1025", "1024-1027", "1-3", "65533-65535", "2000-2015", "1024-2047", "49999-50001", "50000-50003",
)  # fmt: skip
DURATIONS = ("1s", "1500ms", "2s", "5s", "1m", "5m")
ALLOCATIONS = ("random", "sequential", "preserve", "hash", "hash_buckets", "block")
PROBING = ("random", "preserve", "hash", "hash_buckets")
PROBES = (1, 2, [2, 1], 10, [128, 64])
PROFILES = ("azure-pls", "azure-natgw", "azure-slb", "gcp-psc", "rfc", "linux", "vpp")


def rarely(usual: Any, unusual: st.SearchStrategy[Any], one_in: int = 5) -> st.SearchStrategy[Any]:
    """Mostly the usual value."""
    return either(*[st.just(usual)] * (one_in - 1), unusual)


def either(*strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """One of these, each as likely as it is listed often; failing examples shrink to the first."""
    return st.sampled_from(strategies).flatmap(lambda chosen: chosen)


@cache
def nat_policies() -> st.SearchStrategy[dict[str, Any]]:
    """The `nat` of a service: everything that the simulator supports, in small; sometimes a whole profile."""
    return rarely(None, profiles()).flatmap(lambda profile: own_policies() if profile is None else st.just(profile))


@st.composite
def profiles(draw: st.DrawFn) -> dict[str, Any]:
    """A profile by name, with few ports and perhaps another key or two."""
    others: dict[str, st.SearchStrategy[Any]] = {
        "nat_ip_selection": st.sampled_from(["hash", "round_robin", "fill_first"]),
        "block_size": st.sampled_from([1, 2]),
        "port_hold": st.sampled_from(["0s", "1s"]),
        "fragments": st.just("translate"),
        "icmp": st.just("all"),
        "tcp": st.fixed_dictionaries({}, optional={"reset": st.just("until_data"), "reopen": st.just("handshake")}),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(others)), max_size=2, unique=True))
    return {
        "profile": draw(st.sampled_from(PROFILES)),
        "nat_ports": draw(st.sampled_from(NAT_PORTS)),
        **{name: draw(others[name]) for name in chosen},
    }


@st.composite
def own_policies(draw: st.DrawFn) -> dict[str, Any]:
    """A policy of which every key is said."""
    names = ("tcp_established", "tcp_half_open", "tcp_closing", "tcp_reset", "udp", "icmp")
    durations = rarely("2s", st.sampled_from(DURATIONS), one_in=2)
    allocation = draw(st.sampled_from(ALLOCATIONS))
    probes = st.sampled_from(PROBES) if allocation in PROBING else st.none()
    return {
        "nat_ports": draw(rarely(draw(st.sampled_from(NAT_PORTS)), st.just("1024-65535"), one_in=20)),
        "port_allocation": allocation,
        "probes": draw(either(st.none(), probes)),
        "block_size": draw(st.sampled_from([1, 2, 4, 64])),
        "blocks_per_endpoint": draw(st.sampled_from([None, None, 1, 2])),
        "nat_ip_selection": draw(st.sampled_from(["hash", "round_robin", "fill_first", "paired"])),
        "ports_per_endpoint": draw(st.sampled_from([None, None, None, 1, 2, 3])),
        "spill": draw(st.booleans()),
        "decrement_ttl": draw(rarely(True, st.just(False))),
        "sessions_per_backend": draw(st.sampled_from([None, None, None, 1, 3])),
        "first_packet": draw(st.sampled_from(["syn", "any"])),
        "port_hold": draw(st.sampled_from(["0s", "0s", "1ns", "1s", "3s"])),
        "icmp": draw(st.sampled_from(["all", "all", "all", "all", "errors", "none"])),
        "fragments": draw(rarely("translate", st.just("drop"), one_in=6)),
        "idle_reset": draw(st.booleans()),
        "tcp": {
            "closing": draw(st.sampled_from(["both_fins", "both_fins", "first_fin"])),
            "reset": draw(st.sampled_from(["final", "until_data"])),
            "reopen": draw(st.sampled_from(["new_session", "handshake"])),
            "closing_refresh": draw(st.booleans()),
        },
        "timeouts": {
            **{name: draw(durations) for name in names},
            **{name: draw(rarely(None, durations, one_in=2)) for name in ("tcp_half_closed", "udp_unreplied")},
        },
    }


@st.composite
def topology_documents(draw: st.DrawFn) -> dict[str, Any]:
    """A topology as its file would say it: valid, small, and with as many equal addresses as the rules allow."""
    consumers = [f"consumer{number}" for number in range(draw(st.integers(1, 3)))]
    providers = [f"provider{number}" for number in range(draw(st.integers(1, 2)))]
    networks = []
    one_shared_is_peered = False
    for number, name in enumerate(consumers):
        shared = draw(st.booleans())
        # Networks that meet in a peering may not overlap, so only one of those with the shared space lists the hub.
        peered = draw(st.booleans()) and not (shared and one_shared_is_peered)
        one_shared_is_peered |= shared and peered
        networks.append(
            {
                "name": name,
                "address_space": [SHARED_SPACE if shared else f"10.0.{number + 1}.0/24"],
                "peered_with": [HUB] if peered else [],
                "on_premises": draw(st.sampled_from([[], [ON_PREMISES]])),
            }
        )
    networks.append(
        {
            "name": HUB,
            "address_space": ["10.9.0.0/24"],
            "on_premises": draw(st.sampled_from([[], [ON_PREMISES]])),
        }
    )
    # A provider's addresses may be those of a consumer, or of the other provider.
    networks += [
        {"name": name, "address_space": [draw(st.sampled_from([SHARED_SPACE, "10.1.0.0/24"]))]} for name in providers
    ]
    spaces = {network["name"]: IPv4Network(network["address_space"][0]) for network in networks}

    services = []
    for number in range(draw(st.integers(1, 3))):
        network = draw(st.sampled_from(providers))
        rules = draw(rarely(RULES[:1], st.lists(st.sampled_from(RULES), unique=True, max_size=4)))
        rules = draw(st.permutations([*rules, *(RULES[4:] if RULES[4] not in rules and rules else ())]))
        any_backends = st.lists(st.sampled_from([4, 5, 6]), unique=True, max_size=3)
        backends = draw(either(st.just([4, 5]), st.just([5, 4, 6]), st.just([4]), st.just([6, 4]), any_backends))
        services.append(
            {
                "name": f"service{number}",
                "virtual_network": network,
                "nat_ips": [str(spaces[network][40 + 10 * number + i]) for i in range(draw(st.integers(1, 3)))],
                "load_balancer": {
                    "frontend_ip": str(spaces[network][20]),
                    "distribution": draw(st.sampled_from(["five_tuple", "source_ip", "source_ip_protocol"])),
                    "rules": [
                        {
                            "protocol": protocol,
                            "frontend_port": frontend,
                            "backend_port": backend,
                            "idle_timeout": draw(rarely(None, st.sampled_from(DURATIONS))),
                        }
                        for protocol, frontend, backend in rules
                    ],
                    "backend_pool": [str(spaces[network][host]) for host in backends],
                },
                "nat": draw(nat_policies()),
            }
        )

    endpoints = []
    holders = [*consumers, *consumers, HUB, *providers]
    for number in range(draw(st.integers(1, 4))):
        network = draw(rarely(consumers[number % len(consumers)], st.sampled_from(holders)))
        ip = str(spaces[network][100 + sum(endpoint["virtual_network"] == network for endpoint in endpoints)])
        connections = st.sampled_from(["pending", "rejected", "disconnected", None])
        endpoints.append(
            {
                "name": f"endpoint{number}",
                "virtual_network": network,
                "ip": ip,
                "target": draw(st.sampled_from(services))["name"],
                "connection": draw(rarely("approved", connections, one_in=12)),
            }
        )
    return {
        "virtual_networks": draw(st.permutations(networks)),
        "private_link_services": services,
        "private_endpoints": endpoints,
        "events": draw(either(st.just([]), events(services, endpoints, spaces))),
    }


@st.composite
def events(
    draw: st.DrawFn, services: list[dict[str, Any]], endpoints: list[dict[str, Any]], spaces: dict[str, IPv4Network]
) -> list[dict[str, Any]]:
    """What happens in the run, in order of time; file order where times are equal."""
    happening: list[dict[str, Any]] = []
    present = {service["name"]: list(service["nat_ips"]) for service in services}
    time_ns = 0
    for _ in range(draw(st.integers(1, 6))):
        time_ns += draw(st.sampled_from([0, 1, 1_000_000_000, 2_000_000_000, 61_000_000_000]))
        number = draw(st.integers(0, len(services) - 1))
        service = services[number]
        name, backends = service["name"], service["load_balancer"]["backend_pool"]
        action = draw(st.sampled_from([*Event.ACTIONS, "backend_down", "backend_down"]))
        event: dict[str, Any] = {"at": f"{time_ns}ns", action: name}
        if action in ("approve", "reject", "disconnect"):
            event[action] = draw(st.sampled_from(endpoints))["name"]
        elif action in ("backend_down", "backend_up"):
            if not backends:
                continue
            event["address"] = draw(st.sampled_from(backends))
        elif action == "add_nat_ip":
            # The first three are those that the service may begin with: they come back.
            places = [40 + 10 * number + place for place in range(5)]
            free = [str(spaces[service["virtual_network"]][place]) for place in places]
            free = [ip for ip in free if ip not in present[name]]
            if not free:
                continue
            event["address"] = draw(st.sampled_from(free))
            present[name].append(event["address"])
        else:
            if len(present[name]) == 1:
                continue
            event["address"] = draw(st.sampled_from(present[name]))
            present[name].remove(event["address"])
        happening.append(event)
    return happening


@cache
def topologies() -> st.SearchStrategy[Topology]:
    """Random valid topologies."""
    return topology_documents().map(Topology.model_validate)


# --- Steps of a trace ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Delay:
    """When a step happens: so long after the clock, or relative to what comes due next: a timer, or a datagram."""

    ns: int = 0
    from_next_timer: bool = False
    from_datagram: bool = False  # relative to the moment at which the oldest datagram is forgotten


@dataclass(frozen=True)
class Dress:
    """How a packet differs from a plain one; most differences are faults."""

    ttl: int = 64
    options: int = 0  # words of four bytes
    fragment: int = 0
    payload: int = 0  # bytes
    protocol: int | None = None  # in the IPv4 header, whatever follows it
    ip_checksum_error: int = 0
    checksum_error: int = 0
    no_udp_checksum: bool = False
    total_length_error: int = 0
    zero_total_length: bool = False
    data_offset: int | None = None
    udp_length_error: int = 0
    link_type: int = ETHERNET
    tags: tuple[int, ...] = ()
    ethertype: int = 0x0800
    padding: int = 0
    cut: int | None = None  # the capture's snap length
    flips: tuple[tuple[int, int], ...] = ()  # (byte, bit), the byte counted modulo the frame's length


PLAIN = Dress()
NO_RULE = -1  # a port that no rule has
NEWEST = -1  # the session that was created last, if it is alive


@dataclass(frozen=True)
class ToService:
    """A consumer's packet to an endpoint. Numbers choose among what exists, modulo how many there are."""

    endpoint: int = 0
    host: int = 0
    port: int = 50000
    rule: int = 0
    flags: int = 0x02
    other_protocol: bool = False
    point: int = 0
    delay: Delay = Delay()
    dress: Dress = PLAIN


@dataclass(frozen=True)
class More:
    """Another packet of a session from its consumer; also of a session that ended lately."""

    session: int = 0
    flags: int = 0x10
    delay: Delay = Delay()
    dress: Dress = PLAIN


@dataclass(frozen=True)
class Answer:
    """A backend's packet to the session's NAT port; with `port_error`, from another port than the session's."""

    session: int = 0
    flags: int = 0x12
    port_error: int = 0
    delay: Delay = Delay()
    dress: Dress = PLAIN


@dataclass(frozen=True)
class CapturedAnswer:
    """A reply as it is seen at the consumer's network."""

    session: int = 0
    flags: int = 0x12
    port_error: int = 0
    delay: Delay = Delay()
    dress: Dress = PLAIN


@dataclass(frozen=True)
class Stray:
    """A backend's packet to some port of a NAT IP, whoever has it."""

    service: int = 0
    nat_ip: int = 0
    backend: int = 0
    port: int = 0  # counted from one below the range
    is_udp: bool = False
    flags: int = 0x12
    delay: Delay = Delay()
    dress: Dress = PLAIN
    is_echo: bool = False


@dataclass(frozen=True)
class Ping:
    """An echo to an endpoint: a request, or what is none."""

    endpoint: int = 0
    host: int = 0
    identifier: int = 50000
    type: int = ECHO_REQUEST
    code: int = 0
    point: int = 0
    delay: Delay = Delay()
    dress: Dress = PLAIN


FAULTS = (
    "icmp_checksum", "quoted_checksum", "port", "address", "protocol", "later_fragment", "first_fragment", "options",
    "direction", "transport_checksum", "no_udp_checksum", "version",
)  # fmt: skip


@dataclass(frozen=True)
class ErrorAbout:
    """An ICMP error about a packet of a session, from its receiver or from a router on the way."""

    session: int = 0
    way: str = TO_SERVICE  # to_service, to_consumer (from the provider) or captured
    type: int = 3
    code: int = 1
    kept: int = 8  # bytes of the quoted packet after its header; more than there are: all
    router: bool = False
    fault: str | None = None
    delay: Delay = Delay()
    dress: Dress = PLAIN


@dataclass(frozen=True)
class Piece:
    """A fragment of the packet that another step means; sizes in units of eight bytes."""

    of: ToService | More | Answer | CapturedAnswer
    first: int = 0
    count: int | None = None  # None: all the rest
    more: bool | None = None  # the flag, if it is not what it should be
    cut: int = 0  # bytes that are missing at the end, so that its size is no multiple of eight
    far: int = 0  # how much further on it claims to be
    identification: int = 1
    delay: Delay = Delay()


@dataclass(frozen=True)
class Noise:
    """Any bytes at all."""

    frame: bytes = b""
    link_type: int = ETHERNET
    point: int = 0
    delay: Delay = Delay()


@dataclass(frozen=True)
class Wait:
    """Time passes and nothing arrives."""

    delay: Delay = Delay(SECOND)


Step = ToService | More | Answer | CapturedAnswer | Stray | Ping | ErrorAbout | Piece | Noise | Wait

LINK_TYPES = (ETHERNET, *RAW_IP, RAW_IPV4, RAW_IPV6, COOKED_1, COOKED_2, BSD_NULL, BSD_LOOP, 147)
VLAN_TAGS = ((0x8100,), (0x88A8, 0x8100), (0x9100,), (0x8100, 0x8100, 0x8100))


@cache
def delays() -> st.SearchStrategy[Delay]:
    """Mostly none or little; sometimes exactly at a timer, one nanosecond beside it, or backwards."""
    at_timer = st.builds(Delay, st.sampled_from([-1, 0, 0, 0, 1]), st.just(True))
    odd = st.sampled_from([-10 * SECOND, -1, SECOND, 2 * SECOND, 70 * SECOND, 400 * SECOND, 3600 * SECOND])
    choices = [st.just(Delay()), st.just(Delay()), st.builds(Delay, st.integers(0, 1000)), at_timer]
    return either(*choices, *choices, st.builds(Delay, odd))


@cache
def delays_of_pieces() -> st.SearchStrategy[Delay]:
    """Mostly none or little; sometimes about as long as a datagram is known."""
    long = st.sampled_from([SECOND, 15 * SECOND, DATAGRAM_LIFE - 1, DATAGRAM_LIFE, 31 * SECOND])
    at_the_end = st.builds(Delay, st.sampled_from([-1, 0, 0, 1]), st.just(False), st.just(True))
    few = either(*[st.just(Delay())] * 4, st.builds(Delay, st.integers(0, 1000)))
    return either(few, few, few, few, st.builds(Delay, long), at_the_end, delays())


@cache
def dresses() -> st.SearchStrategy[Dress]:
    """Mostly plain; else with one difference or several."""
    differences: dict[str, st.SearchStrategy[Any]] = {
        "ttl": st.sampled_from([0, 1, 2, 254, 255]),
        "options": st.integers(1, 10),
        "fragment": st.sampled_from([0x2000, 1, 0x3FFF, 0x4000, 0x8000, 0xC000]),
        "payload": st.integers(1, 40),
        "protocol": st.sampled_from([0, 1, TCP, UDP, 41, 132]),
        "ip_checksum_error": st.integers(1, 0xFFFF),
        "checksum_error": st.integers(1, 0xFFFF),
        "no_udp_checksum": st.just(True),
        "total_length_error": st.sampled_from([-30, -21, -13, -1, 1, 2, 100, 5000]),
        "zero_total_length": st.just(True),
        "data_offset": st.integers(0, 15),
        "udp_length_error": st.sampled_from([-8, -1, 1, 9, 3000]),
        "link_type": st.sampled_from(LINK_TYPES),
        "tags": st.sampled_from(VLAN_TAGS),
        "ethertype": st.sampled_from([0x0806, 0x86DD, 0x8100, 0x0600, 46]),
        "padding": st.integers(1, 20),
        "cut": st.integers(0, 70),
        "flips": st.lists(st.tuples(st.integers(0, 90), st.integers(0, 7)), min_size=1, max_size=3).map(tuple),
    }
    some = st.fixed_dictionaries({}, optional=differences)
    one = st.sampled_from(sorted(differences)).flatmap(lambda name: differences[name].map(lambda value: {name: value}))
    few = either(one, one, st.tuples(one, one).map(lambda pair: pair[0] | pair[1]), some)
    return rarely(PLAIN, few.map(lambda chosen: Dress(**chosen)))


def flags_of(*usual: str) -> st.SearchStrategy[int]:
    """These flags mostly, sometimes any."""
    return rarely(None, st.integers(0, 255)).flatmap(
        lambda value: st.sampled_from([flag_bits(flags) for flags in usual]) if value is None else st.just(value)
    )


def openings(**chosen: st.SearchStrategy[Any]) -> st.SearchStrategy[ToService]:
    """Packets to endpoints; mostly such that a session begins."""
    fields: dict[str, st.SearchStrategy[Any]] = {
        "endpoint": st.integers(0, 3),
        "host": rarely(0, st.integers(1, 7)),
        "port": st.sampled_from([50000, 50001, 50002, 0, 65535]),
        "rule": either(st.just(0), st.integers(0, 4), rarely(0, st.just(NO_RULE))),
        "flags": flags_of("S", "S", "S", "A", "SA", "R", "F", "SE"),
        "other_protocol": rarely(False, st.just(True), one_in=15),
        "point": rarely(0, st.integers(1, 6)),
        "delay": delays(),
        "dress": dresses(),
    }
    return st.builds(ToService, **(fields | chosen))


def pings(**chosen: st.SearchStrategy[Any]) -> st.SearchStrategy[Ping]:
    """Echo requests to endpoints, mostly."""
    fields: dict[str, st.SearchStrategy[Any]] = {
        "endpoint": st.integers(0, 3),
        "host": rarely(0, st.integers(1, 7)),
        "identifier": st.sampled_from([50000, 50001, 1024, 0, 65535]),
        "type": rarely(ECHO_REQUEST, st.sampled_from([ECHO_REPLY, 5, 13, 255]), one_in=8),
        "code": rarely(0, st.just(1), one_in=12),
        "point": rarely(0, st.integers(1, 6)),
        "delay": delays(),
        "dress": dresses(),
    }
    return st.builds(Ping, **(fields | chosen))


def icmp_errors(**chosen: st.SearchStrategy[Any]) -> st.SearchStrategy[ErrorAbout]:
    """ICMP errors about packets of sessions; half of them with a fault."""
    fields: dict[str, st.SearchStrategy[Any]] = {
        "session": either(st.just(NEWEST), st.integers(0, 7)),
        "way": st.sampled_from([TO_SERVICE, TO_CONSUMER, "captured"]),
        "type": rarely(3, st.sampled_from([*ICMP_ERRORS, *ICMP_ERRORS, 5, 13])),
        "code": st.integers(0, 4),
        "kept": either(*[st.just(8)] * 3, st.integers(15, 21), st.just(1000), st.integers(-21, 9)),
        "router": rarely(False, st.just(True), one_in=3),
        "fault": either(st.none(), st.none(), st.sampled_from(FAULTS)),
        "delay": delays(),
        "dress": dresses(),
    }
    return st.builds(ErrorAbout, **(fields | chosen))


@cache
def packets_to_cut() -> st.SearchStrategy[ToService | More | Answer | CapturedAnswer]:
    """Packets that open sessions or belong to them."""
    which = either(st.just(NEWEST), st.integers(0, 7))
    return either(
        openings(),
        openings(flags=st.just(SYN)),
        st.builds(More, which, flags_of("A", "FA", "S", "R")),
        st.builds(Answer, which, flags_of("SA", "A", "FA", "R")),
        st.builds(CapturedAnswer, which, flags_of("SA", "A", "FA", "R")),
    )


@st.composite
def datagrams(draw: st.DrawFn) -> list[Step]:
    """A packet in fragments: in order or not, perhaps with one too many or too few, with time or steps between."""
    dress = Dress(
        payload=draw(st.integers(30, 120)),
        ttl=draw(rarely(64, st.sampled_from([1, 2]), one_in=10)),
        options=draw(rarely(0, st.just(1))),
        no_udp_checksum=draw(st.booleans()),
        tags=draw(rarely((), st.just((0x8100,)))),
        cut=draw(rarely(None, st.integers(30, 70), one_in=10)),
    )
    of = replace(draw(packets_to_cut()), dress=dress)
    bounds = sorted({draw(rarely(3, st.integers(1, 4))), *draw(st.lists(st.integers(4, 12), max_size=3))})
    spans: list[tuple[int, int | None]] = [
        (first, last - first) for first, last in zip([0, *bounds], bounds, strict=False)
    ]
    spans.append((bounds[-1], None))
    identification = draw(st.integers(1, 2))
    pieces: list[Step] = [Piece(of, *span, identification=identification) for span in spans]
    change = draw(st.sampled_from(["", "", "", "missing", "again", "overlap", "odd", "more", "last", "far"]))
    chosen = draw(st.integers(0, len(pieces) - 1))
    place = draw(st.integers(0, len(pieces)))
    one = pieces[chosen]
    assert isinstance(one, Piece)
    if change == "missing":
        del pieces[chosen]
    elif change == "again":
        pieces.insert(place, one)
    elif change == "overlap":
        pieces.insert(place, replace(one, first=max(0, one.first - draw(st.integers(0, 2)))))
    elif change == "odd":
        pieces[chosen] = replace(one, cut=draw(st.integers(1, 9)))
    elif change == "more":
        pieces[chosen] = replace(one, more=draw(st.booleans()))
    elif change == "far":
        pieces.insert(place, replace(one, far=draw(st.sampled_from([1, 20, 8170, 8180, 8188]))))
    elif change == "last":
        pieces.insert(place, replace(one, first=one.first + draw(st.integers(0, 9)), count=1, more=False))
    order = draw(st.sampled_from(["forward", "forward", "backward", "shuffled"]))
    if order == "backward":
        pieces.reverse()
    elif order == "shuffled":
        pieces = draw(st.permutations(pieces))
    pieces = [replace(piece, delay=draw(delays_of_pieces())) for piece in pieces if isinstance(piece, Piece)]
    for step in draw(st.lists(steps(), max_size=2)):
        pieces.insert(draw(st.integers(0, len(pieces))), step)
    return pieces


@cache
def steps() -> st.SearchStrategy[Step]:
    """One step."""
    few = st.integers(0, 7)
    common = {"delay": delays(), "dress": dresses()}
    wrong_port = rarely(0, st.sampled_from([1, -1]))
    from_consumer = flags_of("A", "PA", "FA", "FA", "RA", "R", "S", "S", "SA")
    from_backend = flags_of("SA", "SA", "A", "FA", "FA", "RA", "R", "S")
    stray = st.builds(
        Stray,
        st.integers(0, 2),
        st.integers(0, 2),
        st.integers(0, 2),
        st.integers(0, 6),
        st.booleans(),
        from_backend,
        is_echo=rarely(False, st.just(True)),
        **common,
    )
    return either(
        *[openings()] * 6,
        *[st.builds(More, few, from_consumer, **common)] * 5,
        *[st.builds(Answer, few, from_backend, wrong_port, **common)] * 4,
        *[st.builds(CapturedAnswer, few, from_backend, wrong_port, **common)] * 3,
        stray,
        *[pings()] * 2,
        *[icmp_errors()] * 2,
        st.builds(Noise, st.binary(max_size=80), st.sampled_from(LINK_TYPES), few, delays()),
        st.builds(Wait, delays()),
    )


def scenes() -> st.SearchStrategy[list[Step]]:
    """A few steps that belong together, so that traces get to where the rare rules are."""

    @st.composite
    def handshake(draw: st.DrawFn) -> list[Step]:
        answer = draw(st.sampled_from([Answer, CapturedAnswer]))
        opening = draw(openings(flags=st.just(SYN), dress=st.just(PLAIN)))
        return [opening, answer(NEWEST, SYN | ACK, delay=draw(delays())), More(NEWEST, ACK, delay=draw(delays()))]

    @st.composite
    def closing(draw: st.DrawFn) -> list[Step]:
        session = draw(either(st.just(NEWEST), st.integers(0, 7)))
        fins = [More(session, FIN | ACK, delay=draw(delays())), Answer(session, FIN | ACK, delay=draw(delays()))]
        return list(draw(st.permutations(fins)))

    @st.composite
    def reset(draw: st.DrawFn) -> list[Step]:
        kind = draw(st.sampled_from([More, Answer, CapturedAnswer]))
        return [kind(draw(either(st.just(NEWEST), st.integers(0, 7))), RST, delay=draw(delays()))]

    @st.composite
    def revival(draw: st.DrawFn) -> list[Step]:
        """A whole handshake after the end, or half of one, with what may interrupt it."""
        session = draw(either(st.just(NEWEST), st.integers(0, 7)))
        answer = draw(st.sampled_from([Answer, CapturedAnswer]))
        again: list[Step] = [More(session, SYN), answer(session, SYN | ACK), More(session, ACK)]
        extra = draw(st.sampled_from([FIN | ACK, RST, ACK, SYN | ACK]))
        kind = draw(st.sampled_from([More, answer]))
        again.insert(draw(st.integers(0, 3)), kind(session, extra, delay=draw(delays())))
        return [*draw(either(closing(), reset())), *again]

    @st.composite
    def error(draw: st.DrawFn) -> list[Step]:
        """A session of any protocol, and sound errors about it."""
        begin = either(openings(flags=st.just(SYN), dress=st.just(PLAIN)), pings(dress=st.just(PLAIN)))
        return [draw(begin), *draw(st.lists(icmp_errors(session=st.just(NEWEST), dress=st.just(PLAIN)), max_size=3))]

    @st.composite
    def echo(draw: st.DrawFn) -> list[Step]:
        kind = draw(st.sampled_from([Answer, CapturedAnswer]))
        request = draw(pings(dress=st.just(PLAIN), type=st.just(ECHO_REQUEST)))
        return [request, kind(NEWEST, delay=draw(delays())), More(NEWEST, delay=draw(delays()))]

    @st.composite
    def reopening(draw: st.DrawFn) -> list[Step]:
        session = draw(either(st.just(NEWEST), st.integers(0, 7)))
        return [*draw(either(closing(), reset())), More(session, SYN, delay=draw(delays()))]

    @st.composite
    def crowd(draw: st.DrawFn) -> list[Step]:
        """Many new sessions at once, of one endpoint or of several, to fill pools."""
        plain = {"host": st.just(0), "rule": rarely(0, st.integers(0, 4)), "point": st.just(0)}
        first = draw(openings(flags=st.just(SYN), dress=st.just(PLAIN), **plain))
        endpoints = draw(st.integers(1, 2))
        return [
            replace(first, endpoint=first.endpoint + number % endpoints, port=50000 + number, delay=Delay(number))
            for number in range(draw(st.integers(2, 12)))
        ]

    single = steps().map(lambda step: [step])
    tcp = [handshake(), closing(), reset(), reopening(), revival()]
    return either(*[single] * 8, *tcp, crowd(), crowd(), error(), echo(), datagrams(), datagrams())


def traces(max_scenes: int = 25) -> st.SearchStrategy[list[Step]]:
    """Steps in order."""
    short = st.lists(scenes(), max_size=max_scenes)
    long = st.lists(scenes(), min_size=max_scenes // 2, max_size=max_scenes)
    return either(short, long, long).map(lambda parts: [step for part in parts for step in part])


# --- From a step to a packet -----------------------------------------------------------------------------------------


class Arrival(NamedTuple):
    """What arrives; `frame` is None when only time passes up to `time_ns`."""

    frame: bytes | None
    at: str
    time_ns: int
    original_length: int
    link_type: int

    def arguments(self) -> dict[str, Any]:
        """The arguments of `ReferenceSimulator.receive` and `arrive`."""
        return self._asdict()


def resolve(step: Step, reference: ReferenceSimulator) -> Arrival:
    """The packet that a step means, given what the reference holds at this moment; it changes nothing."""
    topology = reference.topology
    networks = topology.virtual_networks
    time_ns = moment(step.delay, reference)
    if isinstance(step, Wait):
        return Arrival(None, networks[0].name, time_ns, 0, 0)
    if isinstance(step, Noise):
        at = networks[step.point % len(networks)].name
        return Arrival(step.frame, at, time_ns, len(step.frame), step.link_type)
    at, packet, dress = sent_by(step, reference)
    frame, original = dressed_frame(packet, dress)
    return Arrival(frame, at, time_ns, original, dress.link_type)


def sent_by(step: Step, reference: ReferenceSimulator) -> tuple[str, bytes, Dress]:
    """Where the packet of a step enters, the packet, and how its frame is dressed."""
    if isinstance(step, Piece):
        at, packet, dress = sent_by(step.of, reference)
        return at, fragment_for(step, packet), dress
    if isinstance(step, ErrorAbout):
        session = session_of(step.session, reference)
        if session is None:
            return sent_by(Ping(dress=step.dress), reference)
        at, packet = error_of(step, session)
        return at, packet, step.dress
    if isinstance(step, Ping):
        at, sender, receiver = endpoint_way(step.endpoint, step.host, step.point, reference)
        message = icmp_message(step.type, step.code, struct.pack("!HH", step.identifier, 1) + bytes(step.dress.payload))
        return at, dressed_ipv4(sender, receiver, ICMP, bytearray(message), 2, step.dress), step.dress
    if isinstance(step, Stray):
        at, protocol, one, other = stray_of(step, reference.topology)
    elif isinstance(step, ToService):
        at, protocol, one, other = opening_of(step, reference)
    else:
        assert isinstance(step, More | Answer | CapturedAnswer)
        session = session_of(step.session, reference)
        if session is None:
            return sent_by(ToService(dress=step.dress), reference)
        at, protocol, one, other = packet_of(step, session)
    return at, dressed_packet(protocol, one, other, step.flags, step.dress), step.dress


def fragment_for(step: Piece, packet: bytes) -> bytes:
    """The piece of a packet; with its own identification, so that pieces of two packets do not meet by chance."""
    numbered = packet[:4] + struct.pack("!H", step.identification) + packet[6:]
    payload = len(packet) - (packet[0] & 0x0F) * 4
    first, end = 8 * step.first, payload if step.count is None else 8 * (step.first + step.count)
    more = end < payload if step.more is None else step.more
    last = max(first, min(end, payload) - step.cut)
    return piece_of(numbered, first, last, more, offset=first + 8 * step.far)


def error_of(step: ErrorAbout, session: Session) -> tuple[str, bytes]:
    """An ICMP error, and where it enters: the quoted packet's sender receives it."""
    if step.way == TO_SERVICE:
        at, one, other = session.consumer_network, session.endpoint_side, session.consumer
    elif step.way == TO_CONSUMER:
        at, one, other = session.pool.service.virtual_network, session.nat, session.backend
    else:
        at, one, other = session.consumer_network, session.consumer, session.endpoint_side
    quoted_one, quoted_other = (other, one) if step.fault == "direction" else (one, other)
    if step.fault == "port":
        quoted_one = (quoted_one[0], quoted_one[1] ^ 1)
    if step.fault == "address":
        quoted_other = (quoted_other[0] + 1, quoted_other[1])
    quote_dress = Dress(
        ttl=1,
        payload=20,
        options=2 if step.fault == "options" else 0,
        fragment={"later_fragment": 0x2001, "first_fragment": 0x2000}.get(str(step.fault), 0),
        protocol={"tcp": UDP, "udp": TCP, "icmp": TCP}[session.protocol] if step.fault == "protocol" else None,
        checksum_error=0x0101 if step.fault == "transport_checksum" else 0,
        no_udp_checksum=step.fault == "no_udp_checksum",
        ip_checksum_error=0x0404 if step.fault == "quoted_checksum" else 0,
    )
    protocol = PROTOCOLS[session.protocol]
    quoted = bytearray(dressed_packet(protocol, quoted_one, quoted_other, ACK, quote_dress))
    if step.fault == "version":
        quoted[0] ^= 0x10
    header = 28 if step.fault == "options" else 20
    message = bytearray(icmp_error(step.type, step.code, bytes(quoted[: max(0, header + step.kept)]), rest=1400))
    if step.fault == "icmp_checksum":
        message[2] ^= 0x40
    sender = STRANGER if step.router else other[0]
    return at, dressed_ipv4(sender, one[0], ICMP, message, 2, step.dress)


def moment(delay: Delay, reference: ReferenceSimulator) -> int:
    """The time of a step in nanoseconds."""
    now = START if reference.clock_ns is None else reference.clock_ns
    due = reference.next_due_ns() if delay.from_next_timer else None
    if delay.from_datagram and reference.datagrams:
        due = min(datagram.began_ns for datagram in reference.datagrams.values()) + DATAGRAM_LIFE
    return (now if due is None else due) + delay.ns


def session_of(number: int, reference: ReferenceSimulator) -> Session | None:
    """One of the live sessions (-1: the newest) or the two that ended last; None if there is none yet."""
    known = reference.ended_sessions[-2:] + reference.sessions
    return known[number % len(known)] if known else None


Way = tuple[str, int, tuple[IPv4Address, int], tuple[IPv4Address, int]]
"""Where a packet is seen, its protocol, its sender and its receiver; an echo's identifier is the asking side's port."""

PROTOCOLS = {"tcp": TCP, "udp": UDP, "icmp": ICMP}


def packet_of(step: More | Answer | CapturedAnswer, session: Session) -> Way:
    """A packet of a session, one of three kinds."""
    protocol = PROTOCOLS[session.protocol]
    if isinstance(step, More):
        return session.consumer_network, protocol, session.consumer, session.endpoint_side
    if isinstance(step, Answer):
        at, sender, receiver = session.pool.service.virtual_network, session.backend, session.nat
    else:
        at, sender, receiver = session.consumer_network, session.endpoint_side, session.consumer
    return at, protocol, (sender[0], (sender[1] + step.port_error) & 0xFFFF), receiver


def opening_of(step: ToService, reference: ReferenceSimulator) -> Way:
    """A packet from some host to some endpoint."""
    at, sender, receiver = endpoint_way(step.endpoint, step.host, step.point, reference)
    endpoint: PrivateEndpoint = reference.topology.private_endpoints[step.endpoint % len(reference.endpoints)]
    rules = reference.services[endpoint.target].load_balancer.rules
    protocol, port = "tcp", 9999
    if rules and step.rule != NO_RULE:
        rule = rules[step.rule % len(rules)]
        protocol, port = rule.protocol, rule.frontend_port
    is_udp = (protocol == "udp") != step.other_protocol
    return at, UDP if is_udp else TCP, (sender, step.port), (receiver, port)


def endpoint_way(
    number: int, host: int, point_number: int, reference: ReferenceSimulator
) -> tuple[str, IPv4Address, IPv4Address]:
    """Where a host is that sends to an endpoint, its address, and the endpoint's."""
    topology = reference.topology
    endpoint: PrivateEndpoint = topology.private_endpoints[number % len(topology.private_endpoints)]
    home = reference.networks[endpoint.virtual_network]
    peers = [reference.networks[name] for name in home.peered_with]
    points = [home, *peers, *topology.virtual_networks]
    point = points[point_number % len(points)]
    hosts = hosts_at(point, reference)
    return point.name, hosts[host % len(hosts)], endpoint.ip


def hosts_at(point: VirtualNetwork, reference: ReferenceSimulator) -> list[IPv4Address]:
    """Senders worth trying: two hosts here, a peered one, one on premises, the endpoints here, a stranger."""
    here = point.address_space[0]
    peered = [reference.networks[name].address_space[0][4] for name in point.peered_with]
    endpoints = [e.ip for e in reference.topology.private_endpoints if e.virtual_network == point.name]
    return [here[4], here[5], *endpoints, *peered, IPv4Network(ON_PREMISES)[4], STRANGER]


def stray_of(step: Stray, topology: Topology) -> Way:
    """A packet from some backend to some port of some NAT IP."""
    service: PrivateLinkService = topology.private_link_services[step.service % len(topology.private_link_services)]
    backends = service.load_balancer.backend_pool or (STRANGER,)
    rules = service.load_balancer.rules
    source_port = rules[0].backend_port if rules else 8443
    sender = (backends[step.backend % len(backends)], source_port)
    receiver = (service.nat_ips[step.nat_ip % len(service.nat_ips)], service.nat.nat_ports.first - 1 + step.port)
    protocol = ICMP if step.is_echo else UDP if step.is_udp else TCP
    if step.is_echo:
        sender = (sender[0], 0)
    return service.virtual_network, protocol, sender, (receiver[0], receiver[1] & 0xFFFF)


def dressed_packet(
    protocol: int, sender: tuple[IPv4Address, int], receiver: tuple[IPv4Address, int], flags: int, dress: Dress
) -> bytes:
    """An IPv4 packet with the faults of the dress; an echo asks if its sender has a port, else it answers."""
    payload = bytes(range(1, dress.payload + 1))
    if protocol == TCP:
        segment = bytearray(tcp_segment(*sender, *receiver, flags, payload))
        checksum_at = 16
        if dress.data_offset is not None:
            segment[12] = dress.data_offset << 4
    elif protocol == UDP:
        segment = bytearray(udp_datagram(*sender, *receiver, payload))
        checksum_at = 6
        struct.pack_into("!H", segment, 4, max(0, 8 + len(payload) + dress.udp_length_error))
        if dress.no_udp_checksum:
            struct.pack_into("!H", segment, checksum_at, 0)
            dress = replace(dress, checksum_error=0)
    else:
        asks = receiver[1] == 0
        kind, identifier = (ECHO_REQUEST, sender[1]) if asks else (ECHO_REPLY, receiver[1])
        segment = bytearray(icmp_echo(kind, identifier, payload=payload))
        checksum_at = 2
    return dressed_ipv4(sender[0], receiver[0], protocol, segment, checksum_at, dress)


def dressed_ipv4(
    source: IPv4Address, destination: IPv4Address, protocol: int, segment: bytearray, checksum_at: int, dress: Dress
) -> bytes:
    """An IPv4 header before a TCP segment, a UDP datagram or an ICMP message, with the faults of the dress."""
    (checksum,) = struct.unpack_from("!H", segment, checksum_at)
    struct.pack_into("!H", segment, checksum_at, checksum ^ dress.checksum_error)
    packet = bytearray(
        ipv4_packet(
            source,
            destination,
            protocol if dress.protocol is None else dress.protocol,
            bytes(segment),
            ttl=dress.ttl,
            options=b"\x01\x01\x01\x01" * dress.options,
            fragment=dress.fragment,
        )
    )
    (checksum,) = struct.unpack_from("!H", packet, 10)
    struct.pack_into("!H", packet, 10, checksum ^ dress.ip_checksum_error)
    length = 0 if dress.zero_total_length else max(0, len(packet) + dress.total_length_error)
    struct.pack_into("!H", packet, 2, length)
    return bytes(packet)


def dressed_frame(packet: bytes, dress: Dress) -> tuple[bytes, int]:
    """The captured bytes of a frame, and its length on the wire."""
    frame = bytearray(
        link_frame(packet, dress.link_type, tags=dress.tags, ethertype=dress.ethertype, padding=dress.padding)
    )
    for position, bit in dress.flips:
        if frame:
            frame[position % len(frame)] ^= 1 << bit
    return bytes(frame if dress.cut is None else frame[: dress.cut]), len(frame)
