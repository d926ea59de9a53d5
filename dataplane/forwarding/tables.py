"""From a topology to the arrays that kernels look things up in. Runs once, before the first packet."""

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.forwarding.lookup import BACKENDS_OF, address_key, open_table, rule_key
from dataplane.forwarding.slots import ONE_BACKEND, backend_slots
from dataplane.memory import zeroed
from dataplane.nat.fragments import DATAGRAMS
from dataplane.nat.hashing import key64
from dataplane.nat.ports import BLOCK, BUCKETS, HASH, HASH_BUCKETS, PRESERVE, RANDOM, SEQUENTIAL, STRETCH_BITS
from dataplane.nat.sessions import most_sessions
from dataplane.nat.tcp import CLOSING_REFRESHES, DATA_REVIVES, FIRST_FIN_CLOSES, HANDSHAKE_REVIVES
from dataplane.nat.timers import FOREVER, LEVELS, SLOTS
from dataplane.packets.checksum import word_sum
from dataplane.packets.headers import PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP
from dataplane.records import (
    ADDRESS,
    CLOCK,
    CLOSING,
    DATAGRAM,
    DUE,
    END_WORDS,
    ENDED,
    ENDPOINT,
    ENDPOINT_COUNTER,
    ESTABLISHED,
    HALF_CLOSED,
    HALF_OPEN,
    HELD,
    ICMP_ALL,
    ICMP_ERRORS,
    ICMP_NONE,
    ICMP_QUERY,
    IDLE_RESET,
    NAT_IP,
    POINT,
    POOL,
    PREFIX,
    RESET,
    RULE,
    SERVICE,
    SESSION,
    SESSION_END,
    STATES,
    TIMER,
    TOTAL,
    UDP_ACTIVE,
    UDP_UNREPLIED,
    State,
)
from dataplane.records import BLOCK as BLOCK_ROW
from dataplane.topology.model import Event, NatPolicy, PrivateLinkService, Topology
from dataplane.verdict import Verdict

FIVE_TUPLE, SOURCE_IP, SOURCE_IP_PROTOCOL = 0, 1, 2
BY_HASH, ROUND_ROBIN, FILL_FIRST, PAIRED = 0, 1, 2, 3

_DISTRIBUTIONS = {"five_tuple": FIVE_TUPLE, "source_ip": SOURCE_IP, "source_ip_protocol": SOURCE_IP_PROTOCOL}
_SELECTIONS = {"hash": BY_HASH, "round_robin": ROUND_ROBIN, "fill_first": FILL_FIRST, "paired": PAIRED}
_ALLOCATIONS = {
    "random": RANDOM,
    "sequential": SEQUENTIAL,
    "preserve": PRESERVE,
    "hash": HASH,
    "hash_buckets": HASH_BUCKETS,
    "block": BLOCK,
}
_ICMP = {"none": ICMP_NONE, "errors": ICMP_ERRORS, "all": ICMP_ALL}
PROTOCOL_NUMBERS = {"tcp": PROTOCOL_TCP, "udp": PROTOCOL_UDP, "icmp": PROTOCOL_ICMP}
PROTOCOL_NAMES = {number: name for name, number in PROTOCOL_NUMBERS.items()}

POINT_HAS_ENDPOINTS, POINT_HAS_NAT_IPS = 1, 2


def nat_ips_of(topology: Topology, service: PrivateLinkService) -> list[IPv4Address]:
    """All NAT IPs that a service has in the run: those it begins with, then those that events add, each once."""
    added = [event.address for event in topology.events if event.add_nat_ip == service.name and event.address]
    return list(dict.fromkeys([*service.nat_ips, *added]))


def events_of(topology: Topology) -> list[Event]:
    """The events in the order in which they take place."""
    return sorted(topology.events, key=lambda event: event.at)


def protocols_of(service: PrivateLinkService) -> list[str]:
    """The protocols of a service's pools, in order: tcp and udp if it has rules for them, icmp if it takes echo."""
    used = {rule.protocol for rule in service.load_balancer.rules}
    names: list[str] = [name for name in ("tcp", "udp") if name in used]
    return [*names, "icmp"] if service.nat.icmp == "all" else names


def _timeouts(nat: NatPolicy, idle_timeout: int | None) -> tuple[int, ...]:
    """A row of State.timeouts, for sessions of a rule with such a time-out of its own."""
    limits = nat.timeouts
    most = idle_timeout or FOREVER
    half_closed = limits.tcp_established if limits.tcp_half_closed is None else limits.tcp_half_closed
    unreplied = limits.udp if limits.udp_unreplied is None else limits.udp_unreplied
    row = [0] * STATES
    row[HALF_OPEN] = limits.tcp_half_open
    row[ESTABLISHED] = min(limits.tcp_established, most)
    row[HALF_CLOSED] = min(half_closed, most)
    row[CLOSING] = limits.tcp_closing
    row[RESET] = limits.tcp_reset
    row[UDP_ACTIVE] = min(limits.udp, most)
    row[UDP_UNREPLIED] = min(unreplied, most)
    row[ICMP_QUERY] = limits.icmp
    row[HELD] = nat.port_hold
    return tuple(row)


def _tcp_policy(nat: NatPolicy) -> int:
    tcp = nat.tcp
    return (
        (FIRST_FIN_CLOSES if tcp.closing == "first_fin" else 0)
        | (DATA_REVIVES if tcp.reset == "until_data" else 0)
        | (HANDSHAKE_REVIVES if tcp.reopen == "handshake" else 0)
        | (CLOSING_REFRESHES if tcp.closing_refresh else 0)
    )


def _prefixes(topology: Topology, points: dict[str, int]) -> NDArray[Any]:
    rows: list[tuple[int, ...]] = []
    for network in topology.virtual_networks:
        ranges: list[IPv4Network] = [*network.address_space, *network.on_premises]
        for peer_name in network.peered_with:
            peer = topology.network(peer_name)
            ranges += [*peer.address_space, *peer.on_premises]
        rows += [(points[network.name], int(r.network_address), int(r.netmask)) for r in ranges]
    return np.array(rows, PREFIX)


def _first_of_peered(topology: Topology) -> dict[str, str]:
    """For every network's name the first in order of those that it is peered with, directly or through others."""
    firsts = {network.name: network.name for network in topology.virtual_networks}
    for network in topology.virtual_networks:
        for peer in network.peered_with:
            kept, lost = sorted((firsts[network.name], firsts[peer]))
            if kept != lost:
                firsts = {name: kept if first == lost else first for name, first in firsts.items()}
    return firsts


def build_state(topology: Topology, seed: int, *, logging: bool, rows: int = 4096) -> State:
    """All arrays for a topology, at the beginning of time.

    `rows` is how many sessions the index has room for at first; it doubles on demand. `logging` keeps ended sessions.
    """
    points = {network.name: number for number, network in enumerate(topology.virtual_networks)}
    services = topology.private_link_services
    service_rows = {service.name: number for number, service in enumerate(services)}
    addresses: list[tuple[int, ...]] = []
    point_table = np.zeros(max(1, len(points)), POINT)
    point_table["lowest"] = 1 << 32
    for name, first in _first_of_peered(topology).items():
        point_table[points[name]]["key"] = key64(seed, "sessions", first)

    endpoints = np.zeros(len(topology.private_endpoints), ENDPOINT)
    link_ids = topology.link_ids()
    endpoints_of_service = [0] * len(services)
    numbers = {endpoint.name: number for number, endpoint in enumerate(topology.private_endpoints)}
    for number, endpoint in enumerate(topology.private_endpoints):
        service_row = service_rows[endpoint.target]
        endpoints[number] = (
            key64(seed, "private_endpoint", endpoint.name),
            int(endpoint.ip),
            service_row,
            points[endpoint.virtual_network],
            topology.connection_of(endpoint) == "approved",
            endpoints_of_service[service_row],
            link_ids[endpoint.name],
        )
        endpoints_of_service[service_row] += 1
    for name, point in points.items():
        for endpoint in topology.visible_endpoints(name):
            addresses.append((address_key(2 * point, int(endpoint.ip)), numbers[endpoint.name]))
            here = point_table[point]
            here["kinds"] |= POINT_HAS_ENDPOINTS
            here["lowest"] = min(here["lowest"], int(endpoint.ip))
            here["highest"] = max(here["highest"], int(endpoint.ip))

    service_table = np.zeros(len(services), SERVICE)
    timeouts: dict[tuple[int, ...], int] = {}  # each different row once
    probe_runs: list[int] = []
    rules: list[tuple[int, ...]] = []
    backends = 0
    slots = [ONE_BACKEND]  # of every service that has no choice
    pools: list[tuple[Any, ...]] = []
    nat_ips: list[tuple[int, int, bool]] = []
    hosts: dict[tuple[str, int], int] = {}
    ports = places = caps = counters = blocks = 0
    for number, service in enumerate(services):
        nat, balancer = service.nat, service.load_balancer
        point = points[service.virtual_network]
        protocols = protocols_of(service)
        allocation = _ALLOCATIONS[nat.port_allocation]
        pool_counters = {HASH: 1, HASH_BUCKETS: BUCKETS}.get(allocation, 0)
        size = nat.nat_ports.size
        pool_blocks = -(-size // nat.block_size) if allocation == BLOCK else 0
        protocol_slots = {name: slot for slot, name in enumerate(protocols)}
        keys = [key64(seed, "backend", service.name, str(backend)) for backend in balancer.backend_pool]
        own_slots = backend_slots(keys)
        addresses_in_run = nat_ips_of(topology, service)
        service_table[number] = (
            len(pools),
            len(service.nat_ips),
            len(nat_ips),
            len(balancer.backend_pool),
            len(balancer.backend_pool),
            len(protocols),
            protocol_slots.get("tcp", -1),
            protocol_slots.get("udp", -1),
            protocol_slots.get("icmp", -1),
            backends,
            sum(map(len, slots)) if len(keys) > 1 else 0,
            64 - (len(own_slots).bit_length() - 1),
            _DISTRIBUTIONS[balancer.distribution],
            _SELECTIONS[nat.nat_ip_selection],
            nat.spill,
            nat.first_packet == "any",
            _tcp_policy(nat),
            _ICMP[nat.icmp],
            nat.fragments == "translate",
            nat.idle_reset,
            timeouts.setdefault(_timeouts(nat, None), len(timeouts)),
            len(nat.probe_runs),
            len(probe_runs),
            nat.block_size,
            nat.blocks_per_endpoint or 0,
            nat.ports_per_endpoint or 0,
            nat.sessions_per_backend or 0,
            endpoints_of_service[number],
            nat.decrement_ttl,
            point,
            caps,
            key64(seed, "nat_ip", service.name),
        )
        probe_runs += nat.probe_runs
        rules += (
            (
                rule_key(number, PROTOCOL_NUMBERS[rule.protocol], rule.frontend_port),
                rule.backend_port,
                timeouts.setdefault(_timeouts(nat, rule.idle_timeout), len(timeouts)),
            )
            for rule in balancer.rules
        )
        for place, backend in enumerate(balancer.backend_pool):
            addresses.append((address_key(BACKENDS_OF + number, int(backend)), place))
            hosts.setdefault((service.virtual_network, int(backend)), len(hosts))
        backends += len(keys)
        if len(keys) > 1:
            slots.append(own_slots)
        place_of_pool = 0
        for index, nat_ip in enumerate(addresses_in_run):
            addresses.append((address_key(2 * point + 1, int(nat_ip)), len(nat_ips)))
            point_table[point]["kinds"] |= POINT_HAS_NAT_IPS
            for protocol in protocols:
                for backend in balancer.backend_pool:
                    pools.append(
                        (
                            int(nat_ip),
                            int(backend),
                            word_sum(int(nat_ip)) + word_sum(int(backend)),
                            places,
                            nat.nat_ports.first,
                            size,
                            size,
                            0,
                            size,
                            len(nat_ips),
                            number,
                            hosts[service.virtual_network, int(backend)],
                            key64(seed, "pool", service.name, str(nat_ip), protocol, str(backend)),
                            0,
                            counters,
                            blocks,
                            allocation,
                            -1,
                            0,
                            0,
                            place_of_pool,
                            0,
                            0,
                            -1,
                        )
                    )
                    place_of_pool += 1
                    ports += size
                    places += -(-size >> STRETCH_BITS) << STRETCH_BITS
                    counters += pool_counters
                    blocks += pool_blocks
            nat_ips.append((number, index, index < len(service.nat_ips)))
        if nat.ports_per_endpoint:
            caps += place_of_pool * endpoints_of_service[number]

    nat_ip_table = np.zeros(len(nat_ips), NAT_IP)
    for name, column in zip(("service", "index", "active"), zip(*nat_ips, strict=True), strict=False):
        nat_ip_table[name] = column
    pool_table = np.zeros(len(pools), POOL)
    for row, fields in enumerate(pools):
        pool_table[row] = fields
    if len(timeouts) > 1 << 16:
        raise ValueError(f"{len(timeouts)} different sets of time-outs; a simulator takes {1 << 16}")
    used_ports = zeroed(places >> 6, np.uint64, scattered=True)
    # In a range's last word, what lies beyond its end is used for ever.
    sizes = pool_table["capacity"].astype(np.int64)
    cut = sizes % 64 > 0
    last_words = (pool_table["ports"] + sizes)[cut] >> 6
    used_ports[last_words] = ~np.uint64(0) << (sizes[cut] % 64).astype(np.uint64)

    most = most_sessions(ports, rows)
    clock = np.zeros(1, CLOCK)
    clock[0]["next_due"] = FOREVER
    clock[0]["stop"] = -FOREVER  # the first packet stops, to set the clock
    clock[0]["free_row"] = -1
    clock[0]["exhausted_pool"] = -1
    clock[0]["logging"] = logging
    return State(
        addresses=open_table(ADDRESS, addresses),
        points=point_table,
        prefixes=_prefixes(topology, points),
        endpoints=endpoints,
        services=service_table,
        rules=open_table(RULE, rules),
        timeouts=np.array([*timeouts] or [(0,) * STATES], np.int64).ravel(),
        probe_runs=np.array(probe_runs, np.int64),
        backend_slots=np.concatenate(slots),
        backend_health=np.ones(backends, np.uint8),
        pools=pool_table,
        nat_ips=nat_ip_table,
        nat_ip_order=nat_ip_table["index"].copy(),  # those that are there at first come first
        event_times=np.array([event.at for event in events_of(topology)], np.int64),
        port_session=zeroed(places, np.int32, scattered=True),
        used_ports=used_ports,
        used_in_stretch=np.zeros(places >> STRETCH_BITS, np.uint32),
        port_counters=np.zeros(counters, np.int64),
        blocks=np.zeros(blocks, BLOCK_ROW),
        cap_counts=np.zeros(caps, np.int32),
        cursors=np.zeros(backends, np.int64),
        host_sessions=np.zeros(len(hosts), np.int64),
        sessions=zeroed(most, SESSION),
        session_ends=zeroed(most, SESSION_END),
        timers=zeroed(most, TIMER),
        cells=zeroed(4 * rows, np.uint64),
        acks=zeroed(2 * most if any(s.nat.idle_reset for s in services) else 0, np.uint32).reshape(-1, 2),
        slots=np.zeros(LEVELS * SLOTS, np.int32),
        slot_bits=np.zeros(LEVELS * SLOTS // 64, np.uint64),
        due=zeroed(most, DUE),
        datagrams=np.zeros(DATAGRAMS, DATAGRAM),
        clock=clock,
        counters=np.zeros(len(endpoints), ENDPOINT_COUNTER),
        endpoint_drops=np.zeros((len(endpoints) + 1, len(Verdict)), np.int64),
        totals=np.zeros(len(Verdict), TOTAL),
        ended=np.zeros(len(END_WORDS), np.int64),
        log=np.zeros(1 << 16 if logging else 1, ENDED),
        resets=np.zeros(1 << 12, IDLE_RESET),
    )
