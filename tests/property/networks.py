"""Small networks, and batches of thousands of packets that are written as columns."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.packets.batch import FRAME, Interface, PacketBatch
from dataplane.topology.model import Topology

CLIENT = IPv4Address("10.0.0.4")
ENDPOINT = IPv4Address("10.0.0.100")
BACKENDS = ("10.1.0.4", "10.1.0.5")
NAT_IPS = ("10.1.0.50", "10.1.0.51")
RULES = (("tcp", 443, 8443), ("udp", 53, 5353))
HEADERS = 54  # Ethernet, IPv4, TCP


def network(
    *,
    tenants: int = 1,
    nat_ips: Sequence[str] = NAT_IPS[:1],
    backends: Sequence[str] = BACKENDS[:1],
    rules: Sequence[tuple[str, int, int]] = RULES,
    nat: dict[str, Any] | None = None,
    distribution: str = "five_tuple",
    more_endpoints: Sequence[str] = (),
) -> Topology:
    """Tenants with the same addresses, each with the endpoint 10.0.0.100 of one service; the provider comes last.

    The first tenant may have more endpoints, at these addresses.
    """
    return Topology.model_validate(
        {
            "virtual_networks": [
                *({"name": f"tenant{number}", "address_space": ["10.0.0.0/16"]} for number in range(tenants)),
                {"name": "provider", "address_space": ["10.1.0.0/16"]},
            ],
            "private_link_services": [
                {
                    "name": "service",
                    "virtual_network": "provider",
                    "nat_ips": list(nat_ips),
                    "load_balancer": {
                        "frontend_ip": "10.1.0.20",
                        "distribution": distribution,
                        "rules": [
                            {"protocol": protocol, "frontend_port": frontend, "backend_port": backend}
                            for protocol, frontend, backend in rules
                        ],
                        "backend_pool": list(backends),
                    },
                    "nat": nat or {},
                }
            ],
            "private_endpoints": [
                {
                    "name": f"endpoint{number}",
                    "virtual_network": f"tenant{number}",
                    "ip": str(ENDPOINT),
                    "target": "service",
                    "connection": "approved",
                }
                for number in range(tenants)
            ]
            + [
                {
                    "name": f"more{number}",
                    "virtual_network": "tenant0",
                    "ip": ip,
                    "target": "service",
                    "connection": "approved",
                }
                for number, ip in enumerate(more_endpoints)
            ],
        }
    )


Column = int | NDArray[Any]


def tcp_columns(
    count: int,
    *,
    source: Column = int(CLIENT),
    source_port: Column = 50000,
    destination: Column = int(ENDPOINT),
    destination_port: Column = 443,
    flags: Column = 0x02,
    time_ns: Column = 0,
    point: Column = 0,
    payload: Column = 0,
) -> PacketBatch:
    """TCP packets in Ethernet, all of one length: 54 bytes of headers (no checksums) and a payload of four bytes."""
    rows = np.zeros((count, HEADERS + 4), np.uint8)
    rows[:, 12] = 8
    rows[:, 14], rows[:, 17], rows[:, 22], rows[:, 23] = 0x45, HEADERS + 4 - 14, 64, 6
    for at, size, column in (
        (26, 4, source),
        (30, 4, destination),
        (34, 2, source_port),
        (36, 2, destination_port),
        (54, 4, payload),
    ):
        values = np.broadcast_to(np.asarray(column, np.int64), count)
        rows[:, at : at + size] = values.astype(">u4").view(np.uint8).reshape(count, 4)[:, 4 - size :]
    rows[:, 46] = 5 << 4
    rows[:, 47] = flags
    return batch_of_rows(rows, time_ns, point)


def batch_of_rows(rows: NDArray[np.uint8], time_ns: Column = 0, point: Column = 0) -> PacketBatch:
    """Ethernet frames of one length, one per row."""
    count, length = rows.shape
    frames = np.zeros(count, FRAME)
    frames["offset"] = np.arange(count) * length
    frames["captured"] = frames["original"] = length
    frames["link_type"] = 1
    frames["time_ns"] = time_ns
    frames["point"] = point
    return PacketBatch(np.ascontiguousarray(rows).reshape(-1).copy(), frames, (Interface(),))


def rows_of(batch: PacketBatch) -> NDArray[np.uint8]:
    """The frames of a batch of equal frames, one per row."""
    return batch.data.reshape(len(batch), -1)


def answered(rows: NDArray[np.uint8], flags: int = 0x12) -> NDArray[np.uint8]:
    """What the receivers of these frames send back: addresses and ports change places, which leaves sums alone."""
    reply = rows.copy()
    reply[:, 26:30], reply[:, 30:34] = rows[:, 30:34], rows[:, 26:30]
    reply[:, 34:36], reply[:, 36:38] = rows[:, 36:38], rows[:, 34:36]
    reply[:, 47] = flags
    return reply


def numbers_at(rows: NDArray[np.uint8], at: int, size: int) -> NDArray[np.int64]:
    """A big-endian field of every frame."""
    total = np.zeros(len(rows), np.int64)
    for column in range(at, at + size):
        total = total << 8 | rows[:, column]
    return total
