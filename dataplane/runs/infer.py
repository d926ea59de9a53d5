"""The topology that captures suggest: every server in them becomes the private endpoint of a service.

A conversation is what two addresses exchange over one pair of ports. Its server is the side that received the
first SYN; without a SYN the side with the lower port; with equal ports the side that received the first packet.
What is not a well-formed TCP or UDP packet between two hosts says nothing about servers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.packets.batch import PacketBatch
from dataplane.runs.conversations import FIRST_TO_HIGH, SIDE, SYN_SEEN, SYN_TO_HIGH, UDP, Conversations
from dataplane.topology import Topology
from dataplane.topology.model import NatPolicy

CONSUMER, PROVIDER = "consumer", "provider"
"""The names of the two networks."""

#: Where the provider's addresses come from, first choice first: ranges that are nobody's on the Internet.
_PREFERRED = tuple(
    IPv4Network(text) for text in ("198.18.0.0/15", "100.64.0.0/10", "172.16.0.0/12", "10.0.0.0/8", "192.168.0.0/16")
)
#: Then any range in one of these: unicast addresses but for loopback and link-local ones, then reserved ones.
_UNICAST = tuple(
    (int(IPv4Address(first)), int(IPv4Address(last)) + 1)
    for first, last in (
        ("1.0.0.0", "126.255.255.255"),
        ("128.0.0.0", "169.253.255.255"),
        ("169.255.0.0", "223.255.255.255"),
        ("240.0.0.0", "255.254.255.255"),
    )
)
_RESERVED = 4
"""The first addresses of a range that Azure keeps for itself."""


class ServerFinder:
    """Looks for servers in captured packets, batch by batch. Memory grows with conversations, not with packets.

    The order of packets is that in which they are added; where batches are cut has no effect.
    """

    def __init__(self) -> None:
        self._conversations = Conversations()

    def add(self, batch: PacketBatch) -> None:
        """Note who serves whom in these packets. The batch is only read, and not kept."""
        self._conversations.add(batch)

    def topology(self) -> Topology:
        """The topology in which every server seen so far is the private endpoint of a service.

        Each service has one NAT IP, one frontend and one backend, of a range that no captured packet uses.
        """
        rows = self._conversations.rows()
        rules = _rules(_servers(rows))
        sides = np.concatenate((rows["low"], rows["high"])) & SIDE
        space = _free_range(self._conversations.prefixes(), sides >> 16, _RESERVED + 3 * len(rules) + 1)
        return Topology.model_validate(_document(rules, space))


def infer_topology(batches: Iterable[PacketBatch]) -> Topology:
    """The topology that packets suggest, as `ServerFinder` has it."""
    finder = ServerFinder()
    for batch in batches:
        finder.add(batch)
    return finder.topology()


def _servers(rows: NDArray[Any]) -> NDArray[np.int64]:
    """Every server once, in order: address << 17 | (0 TCP, 1 UDP) << 16 | port."""
    low, high = rows["low"] & SIDE, rows["high"] & SIDE
    # Port 0 cannot be served: it stands for no port (RFC 768).
    low_port, high_port = (np.where(side & 0xFFFF, side & 0xFFFF, 1 << 16) for side in (low, high))
    by_port = np.where(low_port == high_port, rows["high"] & FIRST_TO_HIGH != 0, high_port < low_port)
    is_high = np.where(rows["high"] & SYN_SEEN, rows["high"] & SYN_TO_HIGH != 0, by_port)
    server = np.where(is_high, high, low)
    is_udp = rows["low"] >= UDP
    keys = (server >> 16 << 17) | (is_udp.astype(np.int64) << 16) | (server & 0xFFFF)
    return np.unique(keys[server & 0xFFFF != 0])


def _rules(servers: NDArray[np.int64]) -> dict[int, list[dict[str, Any]]]:
    """The load-balancing rules of every server, by address in order."""
    rules: dict[int, list[dict[str, Any]]] = {}
    for key in servers.tolist():
        port = key & 0xFFFF
        rule = {"protocol": "udp" if key >> 16 & 1 else "tcp", "frontend_port": port, "backend_port": port}
        rules.setdefault(key >> 17, []).append(rule)
    return rules


def _free_range(prefixes: NDArray[Any], addresses: NDArray[Any], size: int) -> IPv4Network:
    """A range of at least `size` addresses that has none of `addresses` and of the 16-bit `prefixes`.

    Only where every range of 65,536 addresses is in use (a flood from random addresses), `addresses` count alone.
    """
    for network in _PREFERRED:
        first = int(network.network_address) >> 16
        last = int(network.broadcast_address) >> 16
        if network.num_addresses >= size and not np.any((prefixes >= first) & (prefixes <= last)):
            return network
    longest = 32 - (size - 1).bit_length()
    for length in range(min(10, longest), longest + 1):
        bits = 32 - length
        taken = np.unique(prefixes >> (bits - 16) if bits >= 16 else addresses >> bits)
        block = next(_gaps(taken, bits), None)
        if block is not None:
            return IPv4Network((block << bits, length))
    # Overlapping is no fault, as the two networks are not peered.
    return next((n for n in _PREFERRED if n.num_addresses >= size), IPv4Network((0, longest)))


def _gaps(taken: NDArray[Any], bits: int) -> Iterator[int]:
    """The first free block of every part of the address space; `taken` are block numbers in order."""
    for first, end in _UNICAST:
        begin, stop = -(-first >> bits), end >> bits
        inside = taken[(taken >= begin) & (taken < stop)]
        bounds = np.concatenate(([begin - 1], inside, [stop]))
        free = np.flatnonzero(np.diff(bounds) > 1)
        if len(free):
            yield int(bounds[free[0]]) + 1


def _document(rules: dict[int, list[dict[str, Any]]], space: IPv4Network) -> dict[str, Any]:
    """The topology as a file would have it, but for addresses and the NAT policy, which need no parsing again."""
    nat = NatPolicy(first_packet="any")
    services, endpoints = [], []
    free = space.network_address + _RESERVED
    for address, served in rules.items():
        ip = IPv4Address(address)
        services.append(
            {
                "name": f"service-{ip}",
                "virtual_network": PROVIDER,
                "nat_ips": [free],
                "load_balancer": {"frontend_ip": free + 1, "rules": served, "backend_pool": [free + 2]},
                "nat": nat,
            }
        )
        endpoints.append({"name": f"endpoint-{ip}", "virtual_network": CONSUMER, "ip": ip, "target": f"service-{ip}"})
        free += 3
    return {
        "virtual_networks": [
            {"name": CONSUMER, "region": "captured", "address_space": ["0.0.0.0/0"]},
            {"name": PROVIDER, "region": "captured", "address_space": [space]},
        ],
        "private_link_services": services,
        "private_endpoints": endpoints,
        "limits": "none",
    }
