"""From a topology to the arrays that kernels look things up in. Runs once, before the first packet.

Open-addressing tables are sized for a load of at most a half, so a search always ends at an empty row.
"""

from ipaddress import IPv4Network
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.kernel import inlined, kernel
from dataplane.memory import sparse, zeroed
from dataplane.nat.hashing import GOLDEN, key64
from dataplane.nat.ports import RANDOM, SEQUENTIAL
from dataplane.nat.timers import FOREVER, LEVELS, SLOTS
from dataplane.packets.headers import PROTOCOL_TCP, PROTOCOL_UDP
from dataplane.records import (
    ADDRESS,
    CLOCK,
    CLOSING,
    DUE,
    ENDED,
    ENDPOINT,
    ENDPOINT_COUNTER,
    ESTABLISHED,
    HALF_OPEN,
    HELD,
    NAT_IP,
    POOL,
    RESET,
    SERVICE,
    SESSION,
    SESSION_END,
    STATES,
    TIMER,
    UDP_ACTIVE,
    State,
)
from dataplane.topology.model import PrivateLinkService, Topology
from dataplane.verdict import Verdict

FIVE_TUPLE, SOURCE_IP, SOURCE_IP_PROTOCOL = 0, 1, 2
BY_HASH, ROUND_ROBIN, FILL_FIRST, PAIRED = 0, 1, 2, 3

_DISTRIBUTIONS = {"five_tuple": FIVE_TUPLE, "source_ip": SOURCE_IP, "source_ip_protocol": SOURCE_IP_PROTOCOL}
_SELECTIONS = {"hash": BY_HASH, "round_robin": ROUND_ROBIN, "fill_first": FILL_FIRST, "paired": PAIRED}
_ALLOCATIONS = {"random": RANDOM, "sequential": SEQUENTIAL}
PROTOCOL_NUMBERS = {"tcp": PROTOCOL_TCP, "udp": PROTOCOL_UDP}
PROTOCOL_NAMES = {number: name for name, number in PROTOCOL_NUMBERS.items()}

#: Scopes of an address besides the points: endpoints at point p have scope 2p, NAT IPs 2p + 1.
BACKENDS_OF = 1 << 32

POINT_HAS_ENDPOINTS, POINT_HAS_NAT_IPS = 1, 2

_SHIFT = np.uint64(20)


@inlined
def slot_of(scope: Any, address: Any, mask: Any) -> Any:
    """Where the search for an address begins."""
    x = (np.uint64(scope) * GOLDEN + np.uint64(address)) * GOLDEN
    return np.int64(x >> _SHIFT) & mask


@inlined
def look_up(addresses: Any, scope: Any, address: Any) -> Any:
    """The value of an address in a scope, or -1."""
    mask = len(addresses) - 1
    at = slot_of(scope, address, mask)
    while addresses[at]["scope"] >= 0:
        if addresses[at]["address"] == address and addresses[at]["scope"] == scope:
            return addresses[at]["value"]
        at = (at + 1) & mask
    return np.int64(-1)


@kernel
def find_rule(rules: Any, service: Any, protocol: Any, port: Any) -> Any:
    """The backend port of a service's load-balancing rule, or -1."""
    mask = len(rules) - 1
    at = slot_of((service << 8) | protocol, port, mask)
    while rules[at, 0] >= 0:
        if rules[at, 0] == service and rules[at, 1] == protocol and rules[at, 2] == port:
            return rules[at, 3]
        at = (at + 1) & mask
    return np.int64(-1)


def _table_size(entries: int) -> int:
    return 1 << max(3, (2 * entries).bit_length())


def _address_table(entries: list[tuple[int, int, int]]) -> NDArray[Any]:
    table = np.zeros(_table_size(len(entries)), ADDRESS)
    table["scope"] = -1
    mask = len(table) - 1
    for scope, address, value in entries:
        at = int(slot_of(np.int64(scope), np.int64(address), np.int64(mask)))
        while table["scope"][at] >= 0:
            at = (at + 1) & mask
        table[at] = (scope, address, value)
    return table


def _rule_table(services: tuple[PrivateLinkService, ...]) -> NDArray[np.int64]:
    rules = [
        (number, PROTOCOL_NUMBERS[rule.protocol], rule.frontend_port, rule.backend_port)
        for number, service in enumerate(services)
        for rule in service.load_balancer.rules
    ]
    table = np.full((_table_size(len(rules)), 4), -1, np.int64)
    mask = len(table) - 1
    for service, protocol, port, backend_port in rules:
        at = int(slot_of(np.int64((service << 8) | protocol), np.int64(port), np.int64(mask)))
        while table[at, 0] >= 0:
            at = (at + 1) & mask
        table[at] = (service, protocol, port, backend_port)
    return table


def protocols_of(service: PrivateLinkService) -> list[str]:
    """The protocols of a service's rules, in the order of its pools: tcp before udp."""
    used = {rule.protocol for rule in service.load_balancer.rules}
    return [name for name in ("tcp", "udp") if name in used]


def _prefixes(topology: Topology, points: dict[str, int]) -> NDArray[np.int64]:
    rows: list[tuple[int, int, int]] = []
    for network in topology.virtual_networks:
        ranges: list[IPv4Network] = [*network.address_space, *network.on_premises]
        for peer_name in network.peered_with:
            peer = topology.network(peer_name)
            ranges += [*peer.address_space, *peer.on_premises]
        rows += [(points[network.name], int(r.network_address), int(r.netmask)) for r in ranges]
    return np.array(rows, np.int64).reshape(-1, 3)


def build_state(topology: Topology, seed: int, *, logging: bool, rows: int = 4096) -> State:
    """All arrays for a topology, at the beginning of time.

    `rows` is the room for sessions to start with; it doubles on demand. `logging` keeps ended sessions.
    """
    points = {network.name: number for number, network in enumerate(topology.virtual_networks)}
    services = topology.private_link_services
    service_rows = {service.name: number for number, service in enumerate(services)}
    addresses: list[tuple[int, int, int]] = []
    point_kinds = np.zeros(max(1, len(points)), np.int64)

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
            addresses.append((2 * point, int(endpoint.ip), numbers[endpoint.name]))
            point_kinds[point] |= POINT_HAS_ENDPOINTS

    service_table = np.zeros(len(services), SERVICE)
    timeouts = np.zeros((max(1, len(services)), STATES), np.int64)
    backend_keys: list[int] = []
    pools: list[tuple[Any, ...]] = []
    nat_ips: list[tuple[int, int]] = []
    hosts: dict[tuple[str, int], int] = {}
    ports = words = caps = 0
    for number, service in enumerate(services):
        nat, balancer = service.nat, service.load_balancer
        point = points[service.virtual_network]
        protocols = protocols_of(service)
        allocation = _ALLOCATIONS[nat.port_allocation]
        slots = {name: slot for slot, name in enumerate(protocols)}
        service_table[number] = (
            len(pools),
            len(service.nat_ips),
            len(balancer.backend_pool),
            len(protocols),
            slots.get("tcp", -1),
            slots.get("udp", -1),
            len(backend_keys),
            _DISTRIBUTIONS[balancer.distribution],
            _SELECTIONS[nat.nat_ip_selection],
            allocation,
            nat.spill,
            nat.first_packet == "any",
            nat.ports_per_endpoint or 0,
            nat.sessions_per_backend or 0,
            endpoints_of_service[number],
            nat.decrement_ttl,
            point,
            caps,
            key64(seed, "nat_ip", service.name),
        )
        limits = nat.timeouts
        timeouts[number, HALF_OPEN] = limits.tcp_half_open
        timeouts[number, ESTABLISHED] = limits.tcp_established
        timeouts[number, CLOSING] = limits.tcp_closing
        timeouts[number, RESET] = limits.tcp_reset
        timeouts[number, UDP_ACTIVE] = limits.udp
        timeouts[number, HELD] = nat.port_hold
        for place, backend in enumerate(balancer.backend_pool):
            backend_keys.append(int(key64(seed, "backend", service.name, str(backend))))
            addresses.append((BACKENDS_OF + number, int(backend), place))
            hosts.setdefault((service.virtual_network, int(backend)), len(hosts))
        size = nat.nat_ports.size
        place_of_pool = 0
        for index, nat_ip in enumerate(service.nat_ips):
            addresses.append((2 * point + 1, int(nat_ip), len(nat_ips)))
            point_kinds[point] |= POINT_HAS_NAT_IPS
            for protocol in protocols:
                for backend in balancer.backend_pool:
                    pools.append(
                        (
                            int(nat_ip),
                            int(backend),
                            ports,
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
                            words if allocation == SEQUENTIAL else -1,
                            -1,
                            0,
                            0,
                            place_of_pool,
                            0,
                            -1,
                        )
                    )
                    place_of_pool += 1
                    ports += size
                    if allocation == SEQUENTIAL:
                        words += (size + 63) // 64
            nat_ips.append((number, index))
        if nat.ports_per_endpoint:
            caps += place_of_pool * endpoints_of_service[number]

    nat_ip_table = np.zeros(len(nat_ips), NAT_IP)
    for row, (number, index) in enumerate(nat_ips):
        nat_ip_table[row]["service"], nat_ip_table[row]["index"] = number, index
    pool_table = np.zeros(len(pools), POOL)
    for row, fields in enumerate(pools):
        pool_table[row] = fields
    used_ports = np.zeros(words, np.uint64)
    for pool in pool_table:
        # Bits beyond the range's end are used for ever.
        size = int(pool["capacity"])
        if pool["words"] >= 0 and size % 64:
            used_ports[int(pool["words"]) + size // 64] = np.uint64((2**64 - 1) << size % 64 & (2**64 - 1))

    clock = np.zeros(1, CLOCK)
    clock[0]["next_due"] = FOREVER
    clock[0]["free_row"] = -1
    clock[0]["exhausted_pool"] = -1
    clock[0]["logging"] = logging
    return State(
        addresses=_address_table(addresses),
        points=point_kinds,
        prefixes=_prefixes(topology, points),
        endpoints=endpoints,
        services=service_table,
        rules=_rule_table(services),
        timeouts=timeouts,
        backend_keys=np.array(backend_keys, np.uint64),
        pools=pool_table,
        nat_ips=nat_ip_table,
        free_ports=sparse(ports, np.uint16),
        port_session=sparse(ports, np.int32),
        used_ports=used_ports,
        cap_counts=np.zeros(caps, np.int32),
        cursors=np.zeros(len(backend_keys), np.int64),
        host_sessions=np.zeros(len(hosts), np.int64),
        sessions=zeroed(rows, SESSION),
        session_ends=zeroed(rows, SESSION_END),
        timers=zeroed(rows, TIMER),
        cells=zeroed(2 * rows, np.uint64),
        slots=np.zeros(LEVELS * SLOTS, np.int32),
        slot_bits=np.zeros(LEVELS * SLOTS // 64, np.uint64),
        due=np.zeros(rows, DUE),
        clock=clock,
        counters=np.zeros(len(endpoints), ENDPOINT_COUNTER),
        endpoint_drops=np.zeros((len(endpoints) + 1, len(Verdict)), np.int64),
        totals=np.zeros((len(Verdict), 2), np.int64),
        ended=np.zeros(4, np.int64),
        log=np.zeros(1 << 16 if logging else 1, ENDED),
    )
