"""The same packets give the same bytes: whatever the burst, the cuts between calls, the first size, the compiler.

Run as a program, this file replays a trace and prints the digest of everything that came out of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numba.core import config

from dataplane.kernel import COMPILED
from dataplane.metrics.series import MetricRow
from dataplane.packets.batch import TIME_UNREPRESENTABLE, PacketBatch
from dataplane.shards.crew import Crew, Threads
from dataplane.shards.remote import processes
from dataplane.simulator import Simulator
from dataplane.topology.model import Topology
from tests.lockstep import assert_laws, shards_of
from tests.property.networks import BACKENDS, CLIENT, ENDPOINT, NAT_IPS, network, tcp_columns

ROOT = Path(__file__).resolve().parents[2]
SECOND = 10**9
TENANTS = 3
PACKETS = 20_000 if COMPILED else 1500
SMALL = 3000

NETWORK = network(
    tenants=TENANTS,
    nat_ips=NAT_IPS,
    backends=BACKENDS,
    nat={
        "nat_ports": "2000-2079",
        "ports_per_endpoint": 30,
        "port_hold": "700ms",
        "nat_ip_selection": "round_robin",
        "timeouts": {
            "tcp_half_open": "3s",
            "tcp_established": "9s",
            "tcp_closing": "2s",
            "tcp_reset": "1s",
            "udp": "4s",
        },
    },
)


def trace(count: int, seed: int = 5) -> PacketBatch:
    """Opening, answering, closing and stray packets of some hundred hosts over minutes, and much of it broken."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(4, count, p=[0.62, 0.2, 0.15, 0.03])  # to the service, captured, from the provider, to nobody
    host = int(CLIENT) + rng.integers(0, 8, count)
    port = 50_000 + rng.integers(0, max(10, count // 1000), count)
    endpoint = np.full(count, int(ENDPOINT))
    nat_ip = np.array([int.from_bytes(bytes(map(int, ip.split("."))), "big") for ip in NAT_IPS])
    backend = np.array([int.from_bytes(bytes(map(int, ip.split("."))), "big") for ip in BACKENDS])
    is_udp = rng.random(count) < 0.2
    frontend, behind = np.where(is_udp, 53, 443), np.where(is_udp, 5353, 8443)
    source = np.select([kind == 1, kind == 2], [endpoint, rng.choice(backend, count)], host)
    destination = np.select([kind == 1, kind == 2, kind == 3], [host, rng.choice(nat_ip, count), host + 1], endpoint)
    source_port = np.select([kind == 1, kind == 2], [frontend, behind], port)
    destination_port = np.select([kind == 1, kind == 2], [port, 1998 + rng.integers(0, 84, count)], frontend)
    from_client = rng.choice([0x02, 0x10, 0x18, 0x11, 0x04], count, p=[0.45, 0.2, 0.1, 0.2, 0.05])
    from_backend = rng.choice([0x12, 0x10, 0x11, 0x04], count, p=[0.5, 0.2, 0.25, 0.05])
    steps = rng.choice([0, 1, 10**6, SECOND // 400], count, p=[0.3, 0.2, 0.3, 0.2])
    steps[rng.integers(0, count, 5)] = 70 * SECOND
    late = rng.choice([0, SECOND], count, p=[0.99, 0.01])
    batch = tcp_columns(
        count,
        source=source,
        source_port=source_port,
        destination=destination,
        destination_port=destination_port,
        flags=np.where(kind == 0, from_client, from_backend),
        time_ns=1_700_000_000 * SECOND + np.cumsum(steps) - late,
        point=np.where(kind == 2, TENANTS, rng.integers(0, TENANTS, count)),
        payload=rng.integers(0, 2**32, count),
    )
    rows = batch.data.reshape(count, -1)
    rows[is_udp, 23] = 17
    rows[is_udp, 38], rows[is_udp, 39] = 0, 8 + 12
    rows[:, 24:26] = rng.integers(0, 256, (count, 2))
    broken = rng.random(count) < 0.04
    rows[broken, rng.integers(12, 54, count)[broken]] = rng.integers(0, 256, count)[broken]
    cut = rng.random(count) < 0.03
    batch.frames["captured"][cut] = rng.integers(0, 58, count)[cut]
    odd = rng.random(count) < 0.002
    batch.frames["flags"][odd] = TIME_UNREPRESENTABLE
    return batch


class Told(NamedTuple):
    """Everything that a run shows."""

    outcomes: list[Any]
    data: bytes
    ended: list[Any]
    live: list[Any]
    summary: dict[str, Any]
    metrics: list[MetricRow]

    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(json.dumps(self._replace(data=self.data.hex()), default=vars).encode()).hexdigest()


def told(
    batch: PacketBatch,
    topology: Topology = NETWORK,
    *,
    burst: int = 256,
    rows: int = 4096,
    parts: int = 1,
    log: int = 1 << 16,
    workers: int | Crew = 1,
) -> Told:
    """Replay a batch, in so many calls; the kernels' log has room for `log` ended sessions."""
    metrics: list[MetricRow] = []
    simulator = Simulator(
        topology, 3, sessions_log=True, on_minute=metrics.extend, burst=burst, rows=rows, workers=workers
    )
    for shard in shards_of(simulator):
        shard.state = shard.state.replace(log=shard.state.log[:log])
    data = batch.data.copy()
    outcomes: list[Any] = []
    ended: list[Any] = []
    for frames in np.array_split(batch.frames, parts):
        result = simulator.process(PacketBatch(data, frames.copy()), inplace=True)
        outcomes += result.outcomes.tolist()
        if parts > 1 and len(outcomes) % 3 == 0:
            ended += simulator.take_ended_sessions().tolist()
            assert simulator.summary()["received"]["packets"] == len(outcomes)
    simulator.advance(to_ns=simulator.now_ns + 2 * SECOND)
    simulator.end_series()
    ended += simulator.take_ended_sessions().tolist()
    assert_laws(simulator)
    live = simulator.live_sessions().tolist()
    return Told(outcomes, data.tobytes(), ended, live, simulator.summary(), metrics)


@pytest.fixture(scope="module")
def batch() -> PacketBatch:
    return trace(PACKETS)


@pytest.fixture(scope="module")
def expected(batch: PacketBatch) -> Told:
    return told(batch)


def test_the_trace_has_a_bit_of_everything(expected: Told) -> None:
    reasons = set(expected.summary["dropped"]["reasons"])
    assert {"malformed", "no_session", "not_first_packet"} <= reasons
    if COMPILED:
        assert {"filtered", "endpoint_port_limit", "nat_ports_exhausted", "unsupported_protocol"} <= reasons
        assert len(expected.ended) > 1000
        ended = expected.summary["sessions"]["ended"]
        assert min(ended["closed"], ended["reset"], ended["idle"]) > 100
    assert expected.summary["forwarded"]["packets"] > len(expected.outcomes) // 5
    assert expected.summary["times"]["backward"] > 0
    assert expected.summary["times"]["unusable"] > 0
    assert expected.live
    assert expected.metrics


@pytest.mark.parametrize("burst", [1, 7, 255, PACKETS])
def test_bursts_do_not_show(batch: PacketBatch, expected: Told, burst: int) -> None:
    assert told(batch, burst=burst) == expected


@pytest.mark.parametrize("parts", [2, 13, 700])
@pytest.mark.parametrize("burst", [1, 256])
def test_cuts_between_calls_do_not_show(batch: PacketBatch, expected: Told, parts: int, burst: int) -> None:
    assert told(batch, parts=parts, burst=burst) == expected


def test_single_packets_do_not_show(batch: PacketBatch) -> None:
    few = PacketBatch(batch.data, batch.frames[:2000])
    assert told(few, parts=len(few)) == told(few)


@pytest.mark.parametrize("rows", [2, 8, 65536])
@pytest.mark.parametrize("burst", [1, 7, PACKETS])
def test_room_for_sessions_and_its_growth_do_not_show(
    batch: PacketBatch, expected: Told, rows: int, burst: int
) -> None:
    assert told(batch, rows=rows, burst=burst) == expected


@pytest.mark.parametrize("log", [1, 7, 64])
def test_room_for_ended_sessions_does_not_show(batch: PacketBatch, expected: Told, log: int) -> None:
    assert told(batch, log=log) == expected


@pytest.mark.parametrize("workers", [2, 3, 4])
@pytest.mark.parametrize("parts", [1, 13])
def test_workers_do_not_show(batch: PacketBatch, expected: Told, workers: int, parts: int) -> None:
    assert told(batch, workers=workers, parts=parts) == expected


@pytest.mark.parametrize(("burst", "rows", "log"), [(1, 2, 1), (7, 8, 7)])
def test_workers_with_little_room_do_not_show(
    batch: PacketBatch, expected: Told, burst: int, rows: int, log: int
) -> None:
    assert told(batch, workers=2, burst=burst, rows=rows, log=log) == expected


def test_a_crew_of_one_does_not_show(batch: PacketBatch, expected: Told) -> None:
    assert told(batch, workers=Threads(1)) == expected


def test_workers_that_are_processes_do_not_show(batch: PacketBatch, expected: Told) -> None:
    crew = processes(2)
    try:
        assert told(batch, workers=crew, parts=3) == expected
    finally:
        crew.close()


def with_events() -> Topology:
    """The network, in which something happens all the time."""
    document = NETWORK.model_dump(mode="json")
    service, events = document["private_link_services"][0], []
    for number in range(40):
        kind = ("disconnect", "approve", "remove_nat_ip", "add_nat_ip")[number % 4]
        event = {"at": f"{number}500ms", kind: service["name"]}
        if number % 4 < 2:
            event[kind] = document["private_endpoints"][number // 4 % TENANTS]["name"]
        else:
            event["address"] = service["nat_ips"][number // 4 % len(NAT_IPS)]
        events.append(event)
    document["events"] = events
    return Topology.model_validate(document)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize(("burst", "log"), [(1, 1), (7, 64), (256, 1 << 16)])
def test_events_fall_into_place(batch: PacketBatch, workers: int, burst: int, log: int) -> None:
    topology = with_events()
    expected = told(batch, topology)
    assert expected.summary["sessions"]["ended"]["disconnected"] > 0
    assert told(batch, topology, workers=workers, burst=burst, log=log, parts=5) == expected


def test_what_nobody_asks_for_does_not_show(batch: PacketBatch, expected: Told) -> None:
    """Without outcomes, without a log of sessions, without a series: the packets and the summary are the same."""
    simulator = Simulator(NETWORK, 3)
    copy = batch.copy()
    simulator.feed(copy)
    simulator.advance(to_ns=simulator.now_ns + 2 * SECOND)
    assert copy.data.tobytes() == expected.data
    assert simulator.summary() == expected.summary


def test_a_run_can_be_repeated_and_another_seed_shows(batch: PacketBatch, expected: Told) -> None:
    assert told(batch) == expected
    other = Simulator(NETWORK, 4)
    other.process(batch)
    assert other.summary() != expected.summary


MODES = {
    "compiled": {"NUMBA_DISABLE_JIT": "0", "NUMBA_BOUNDSCHECK": ""},
    "interpreted": {"NUMBA_DISABLE_JIT": "1", "NUMBA_BOUNDSCHECK": ""},
    "bounds checked": {"NUMBA_DISABLE_JIT": "0", "NUMBA_BOUNDSCHECK": "1"},
}
if not COMPILED:
    HERE = "interpreted"
else:
    HERE = "bounds checked" if config.BOUNDSCHECK else "compiled"


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != HERE])
def test_compiled_interpreted_and_bounds_checked_code_give_the_same_bytes(mode: str) -> None:
    environment = os.environ | MODES[mode] | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).resolve())]
    ran = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == [mode.split()[0], told(trace(SMALL), rows=2).digest()]


if __name__ == "__main__":
    print(HERE.split()[0], told(trace(SMALL), rows=2).digest())
