"""Traffic to measure with: seeded, named, made by array operations, every packet a valid one.

All workloads are IPv4/UDP in Ethernet with right checksums, from clients of one consumer's network to one private
endpoint whose service has 16 backends and 2 NAT IPs (2,064,384 ports). A flow is a number: sixteen client ports per
client address. Sizes are bytes of the captured Ethernet frame, without the frame check sequence. Times start at
`START_NS` and are 1 µs apart (a million packets per second) unless a workload says otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.capture import PcapngWriter, PcapWriter
from dataplane.packets.batch import FRAME, PacketBatch
from dataplane.records import OUTCOME
from dataplane.simulator import Simulator
from dataplane.topology.model import Topology

CONSUMER, PROVIDER = 0, 1
NETWORKS = ("contoso", "provider")

START_NS = 1_700_000_000_000_000_000
GAP_NS = 1_000

ENDPOINT = (10 << 24) + (1 << 8) + 5  # 10.0.1.5
FIRST_CLIENT = (10 << 24) + (64 << 16)  # 10.64.0.0 and up
FRONTEND_PORT, BACKEND_PORT = 53, 8053

#: The usual "simple IMIX" of sizes, by weight.
IMIX = {64: 7, 590: 4, 1500: 1}

_HEADER = np.dtype(
    [
        ("ethernet", "u1", 12),
        ("ethertype", ">u2"),
        ("version_and_length", "u1"),
        ("service", "u1"),
        ("total_length", ">u2"),
        ("identification", ">u2"),
        ("fragment", ">u2"),
        ("ttl", "u1"),
        ("protocol", "u1"),
        ("header_checksum", ">u2"),
        ("source", ">u4"),
        ("destination", ">u4"),
        ("source_port", ">u2"),
        ("destination_port", ">u2"),
        ("udp_length", ">u2"),
        ("udp_checksum", ">u2"),
        ("number", ">u8"),  # the payload's first 8 bytes: the packet's number; the rest is zeros
    ]
)
_NETWORK, _ADDRESSES, _TRANSPORT = 14, 26, 34
_ETHERNET = np.frombuffer(bytes.fromhex("020000000002 020000000001"), np.uint8)


def topology(backends: int = 16, nat_ips: int = 2, udp_timeout: str = "300s") -> Topology:
    """One consumer, one endpoint, one service; everything that is not named here is the default."""
    return Topology.model_validate(
        {
            "virtual_networks": [
                {"name": NETWORKS[CONSUMER], "address_space": ["10.0.0.0/8"]},
                {"name": NETWORKS[PROVIDER], "address_space": ["192.168.0.0/16"]},
            ],
            "private_link_services": [
                {
                    "name": "service",
                    "virtual_network": NETWORKS[PROVIDER],
                    "nat_ips": [f"192.168.50.{4 + i}" for i in range(nat_ips)],
                    "load_balancer": {
                        "frontend_ip": "192.168.60.10",
                        "rules": [{"protocol": "udp", "frontend_port": FRONTEND_PORT, "backend_port": BACKEND_PORT}],
                        "backend_pool": [f"192.168.61.{4 + i}" for i in range(backends)],
                    },
                    "nat": {"timeouts": {"udp": udp_timeout}},
                }
            ],
            "private_endpoints": [
                {"name": "endpoint", "virtual_network": NETWORKS[CONSUMER], "ip": "10.0.1.5", "target": "service"}
            ],
        }
    )


# --- workloads -----------------------------------------------------------------------------------------------


def udp(packets: int, sessions: int, size: int = 64, seed: int = 1) -> PacketBatch:
    """Requests of so many sessions, visited at random; every session is there if there are packets enough."""
    rng = np.random.default_rng(seed)
    return _requests(_visits(rng, packets, sessions), np.full(packets, size))


def imix(packets: int, sessions: int, seed: int = 1) -> PacketBatch:
    """As `udp`, with sizes drawn from `IMIX`."""
    rng = np.random.default_rng(seed)
    flows = _visits(rng, packets, sessions)
    weights = np.array(list(IMIX.values()))
    return _requests(flows, rng.choice(list(IMIX), packets, p=weights / weights.sum()))


def new_sessions(packets: int, live: int, timeout_ns: int, size: int = 64, first_flow: int = 0) -> PacketBatch:
    """Every packet a new flow. Sent at such a pace that, once `live` are open, one session ends as one opens.

    `timeout_ns` is the service's UDP timeout. Sent again later than it, the same packets open new sessions again.
    """
    flows = first_flow + np.arange(packets, dtype=np.int64)
    return _requests(flows, np.full(packets, size), gap_ns=timeout_ns // live)


def new_sessions_at_random(packets: int, live: int, timeout_ns: int, seed: int = 1) -> PacketBatch:
    """The same, but the gaps are exponential: about `live` are open, and how many end between two packets varies."""
    batch = new_sessions(packets, live, timeout_ns)
    gaps = np.random.default_rng(seed).exponential(timeout_ns / live, packets)
    batch.frames["time_ns"] = START_NS + np.cumsum(gaps).astype(np.int64)
    return batch


def some_new(packets: int, live: int, hits: int, timeout_ns: int, size: int = 64, seed: int = 1) -> PacketBatch:
    """Of 100 packets `hits` at random belong to sessions that stay open, each of the others opens one that ends again.

    Up to `live` are open at a time, a quarter of them for good. `timeout_ns` is the service's UDP timeout.
    """
    rng = np.random.default_rng(seed)
    is_new = rng.random(packets) * 100 >= hits
    staying, count = max(1, live // 4), int(is_new.sum())
    flows = np.empty(packets, np.int64)
    flows[~is_new] = np.arange(packets - count) % staying
    flows[is_new] = staying + np.arange(count)
    passing = max(1, min(live - staying, count // 2))
    gap = timeout_ns * (100 - hits) // 100 // passing if hits < 100 else GAP_NS
    return _requests(flows, np.full(packets, size), gap_ns=max(1, gap))


def both_directions(packets: int, sessions: int, size: int = 64, seed: int = 1) -> PacketBatch:
    """Requests at the consumer's network and, in turn with them, replies of backends at the provider's.

    A reply belongs to any session that is open by then. Its ports are those that a simulator of `topology()` with
    seed 0 gives: the batch is to be sent whole, as the first thing, to such a simulator (and then again at will).
    """
    rng = np.random.default_rng(seed)
    flows = _visits(rng, (packets + 1) // 2, sessions)
    requests = _requests(flows, np.full(len(flows), size), gap_ns=2 * GAP_NS)

    simulator = Simulator(topology(), rows=1 << 16)
    outcomes = np.zeros(len(requests), OUTCOME)
    sent = requests.copy()
    simulator.feed(sent, outcomes)
    translated = _headers_of(sent, size)

    # The k-th reply comes after k + 1 requests: its session is one of those that these have opened.
    first_visits = np.sort(np.unique(flows, return_index=True)[1])
    replies = packets - len(flows)
    opened = np.searchsorted(first_visits, np.arange(replies), side="right")
    chosen = first_visits[(rng.random(replies) * opened).astype(np.int64)]

    headers = _blank(np.full(replies, size))
    headers["source"] = translated["destination"][chosen]
    headers["source_port"] = translated["destination_port"][chosen]
    headers["destination"] = outcomes["nat_address"][chosen]
    headers["destination_port"] = outcomes["nat_port"][chosen]
    answers = _batch(headers, np.full(replies, size), 2 * GAP_NS)
    answers.frames["time_ns"] += GAP_NS
    answers.frames["point"] = PROVIDER

    data = np.zeros(packets * size, np.uint8)
    rows = data.reshape(packets, size)
    rows[0::2], rows[1::2] = requests.data.reshape(-1, size), answers.data.reshape(-1, size)
    frames = np.empty(packets, FRAME)
    frames[0::2], frames[1::2] = requests.frames, answers.frames
    frames["offset"] = np.arange(packets) * size
    return PacketBatch(data, frames)


def write_capture(batch: PacketBatch, path: Path) -> Path:
    """A capture of the batch: classic pcap, or pcapng (by the name) with an interface per network."""
    if path.suffix == ".pcapng":
        with PcapngWriter(path, application="bench") as writer:
            interfaces = [writer.add_interface(name, 1) for name in NETWORKS]
            writer.write_batch(batch, np.array(interfaces)[batch.frames["point"]])
    else:
        with PcapWriter(path) as writer:
            writer.write_batch(batch)
    return path


# --- packets -------------------------------------------------------------------------------------------------


def _visits(rng: np.random.Generator, packets: int, sessions: int) -> NDArray[np.int64]:
    """A session's number for each packet, at random; each session at least once if there are packets enough."""
    flows = rng.integers(0, sessions, packets)
    if packets >= sessions:
        flows[rng.permutation(packets)[:sessions]] = np.arange(sessions)
    return flows


def _requests(flows: NDArray[np.int64], sizes: NDArray[np.int64], gap_ns: int = GAP_NS) -> PacketBatch:
    headers = _blank(sizes)
    headers["source"] = FIRST_CLIENT + (flows >> 4)
    headers["source_port"] = 49_152 + 1_000 * (flows & 15)
    headers["destination"] = ENDPOINT
    headers["destination_port"] = FRONTEND_PORT
    return _batch(headers, sizes, gap_ns)


def _blank(sizes: NDArray[np.int64]) -> NDArray[Any]:
    """Headers with all but addresses, ports and checksums."""
    headers = np.zeros(len(sizes), _HEADER)
    headers["ethernet"] = _ETHERNET
    headers["ethertype"] = 0x0800
    headers["version_and_length"] = 0x45
    headers["total_length"] = sizes - _NETWORK
    headers["identification"] = np.arange(len(sizes)) & 0xFFFF
    headers["ttl"] = 64
    headers["protocol"] = 17
    headers["udp_length"] = sizes - _TRANSPORT
    headers["number"] = np.arange(len(sizes))
    return headers


def _batch(headers: NDArray[Any], sizes: NDArray[np.int64], gap_ns: int) -> PacketBatch:
    """Compute the checksums and lay the packets out one after another."""
    octets = headers.view(np.uint8).reshape(len(headers), -1)
    headers["header_checksum"] = ~_sum(octets[:, _NETWORK:_TRANSPORT]) & 0xFFFF
    pseudo_header = _sum(octets[:, _ADDRESSES:_TRANSPORT]) + 17 + headers["udp_length"]
    checksum = ~_folded(pseudo_header + _sum(octets[:, _TRANSPORT:])) & 0xFFFF
    headers["udp_checksum"] = np.where(checksum == 0, 0xFFFF, checksum)

    frames = np.zeros(len(headers), FRAME)
    frames["offset"] = np.cumsum(sizes) - sizes
    frames["captured"] = frames["original"] = sizes
    frames["link_type"] = 1
    frames["point"] = CONSUMER
    frames["time_ns"] = START_NS + np.arange(len(headers)) * gap_ns
    data = np.zeros(int(sizes.sum()), np.uint8)
    for column in range(octets.shape[1]):
        data[frames["offset"] + column] = octets[:, column]
    return PacketBatch(data, frames)


def _sum(octets: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The ones-complement sum of each row's 16-bit words."""
    return _folded(np.ascontiguousarray(octets).view(">u2").sum(axis=1, dtype=np.int64))


def _folded(total: NDArray[np.int64]) -> NDArray[np.int64]:
    for _ in range(2):
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _headers_of(batch: PacketBatch, size: int) -> NDArray[Any]:
    """The headers of a batch whose frames are all of one size, one after another."""
    octets = batch.data.reshape(-1, size)[:, : _HEADER.itemsize]
    return np.ascontiguousarray(octets).view(_HEADER).reshape(-1)
