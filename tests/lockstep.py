"""The reference and the engine on the same packets: everything that can be seen must be equal."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from dataplane.forwarding.tables import PROTOCOL_NAMES
from dataplane.nat.ports import BLOCK, STRETCH_BITS
from dataplane.packets.batch import FRAME, TIME_UNREPRESENTABLE, Interface, PacketBatch
from dataplane.records import CAPTURED_REPLY, END_WORDS, HELD, RESET_TO_CONSUMER, TO_SERVICE, UNUSED, State
from dataplane.shards.crew import Threads
from dataplane.shards.shard import Shard
from dataplane.simulator import Simulator
from dataplane.topology.model import Topology
from dataplane.verdict import Verdict
from tests.reference import Outcome, ReferenceSimulator


class Sent(NamedTuple):
    """One packet as it enters."""

    frame: bytes
    at: str
    time_ns: int
    original_length: int | None = None
    link_type: int = 1


def batch_of(packets: Sequence[Sent], topology: Topology) -> PacketBatch:
    """The packets as the engine takes them."""
    points = {network.name: number for number, network in enumerate(topology.virtual_networks)}
    batch = PacketBatch.from_bytes([packet.frame for packet in packets])
    frames = batch.frames
    for row, packet in zip(frames, packets, strict=True):
        if -(2**63) <= packet.time_ns < 2**63:
            row["time_ns"] = packet.time_ns
        else:
            row["flags"] = TIME_UNREPRESENTABLE
        row["point"] = points[packet.at]
        row["link_type"] = packet.link_type
        if packet.original_length is not None:
            row["original"] = packet.original_length
    assert frames.dtype == FRAME
    return PacketBatch(batch.data, frames, (Interface(),))


#: What happens in order: packets, and moments (nanoseconds) to which time passes.
Story = Sequence[Sent | int]

#: Packets in the order in which they were received, which is another than that of their arrival if fragments wait.
Received = list[tuple[Sent, Outcome]]


def arrive(reference: ReferenceSimulator, packet: Sent) -> Received:
    """A packet arrives at the reference: what it receives because of it."""
    return reference.arrive(
        packet.frame,
        at=packet.at,
        time_ns=packet.time_ns,
        original_length=packet.original_length,
        link_type=packet.link_type,
        mark=packet,
    )


def assert_equal_runs(
    topology: Topology,
    seed: int,
    story: Story,
    reference: ReferenceSimulator,
    expected: Sequence[tuple[Sent, Outcome]],
    *,
    burst: int = 256,
    rows: int = 2,
    workers: int = 1,
) -> Simulator:
    """Run the engine on what the reference went through; compare outcomes, bytes, sessions and summary.

    `expected`: what the reference received when packets arrived, and at last by `finish`; not what `advance` let go,
    which the engine does not show either: the summary counts it.
    """
    simulator = Simulator(topology, seed, sessions_log=True, burst=burst, rows=rows, workers=workers)
    wanted = iter(enumerate(expected))
    for is_packet, part in itertools.groupby(story, key=lambda step: isinstance(step, Sent)):
        if is_packet:
            assert_next(simulator.process(batch_of(list(part), topology)), wanted, topology)
            continue
        for moment in part:
            simulator.advance(to_ns=moment)
    assert_next(simulator.finish(), wanted, topology)
    assert next(wanted, None) is None, "the reference received more"
    assert simulator.summary() == reference.summary()
    assert_equal_sessions(simulator, reference)
    assert_equal_resets(simulator, reference)
    assert_laws(simulator)
    return simulator


def assert_next(result: Any, wanted: Iterator[tuple[int, tuple[Sent, Outcome]]], topology: Topology) -> None:
    """The packets of a result are the next ones that the reference received."""
    assert len(result.packets) == len(result.outcomes)
    for index, outcome in enumerate(result.outcomes):
        number, (packet, expected) = next(wanted, (0, (None, None)))
        assert packet is not None, "the engine received more"
        assert_equal_outcome(number, packet, outcome, result.packets[index], expected, topology)


def assert_equal_outcome(
    number: int, packet: Sent, outcome: Any, rewritten: bytes, wanted: Outcome, topology: Topology
) -> None:
    """One packet's verdict, counted bytes, session, NAT tuple and bytes."""
    where = f"packet {number}: {packet}"
    assert Verdict(int(outcome["verdict"])) == wanted.verdict, where
    assert int(outcome["bytes"]) == wanted.bytes, where
    endpoint = int(outcome["endpoint"])
    assert (topology.private_endpoints[endpoint].name if endpoint >= 0 else None) == wanted.endpoint, where
    if wanted.verdict != Verdict.FORWARDED:
        assert int(outcome["session"]) == 0, where
        assert rewritten == packet.frame, where
        return
    assert int(outcome["session"]) == wanted.session, where
    assert wanted.nat is not None
    assert int(outcome["nat_port"]) == wanted.nat[1], where
    assert ".".join(str(b) for b in int(outcome["nat_address"]).to_bytes(4, "big")) == wanted.nat[0], where
    assert rewritten == wanted.translated, where
    names = [network.name for network in topology.virtual_networks]
    to_service = int(outcome["direction"]) == TO_SERVICE
    delivered_at = names[int(outcome["provider_point" if to_service else "consumer_point"])]
    assert delivered_at == wanted.delivered_at, where
    delivered = packet.frame if int(outcome["direction"]) == CAPTURED_REPLY else rewritten
    assert delivered == wanted.delivered, where


def assert_equal_resets(simulator: Simulator, reference: ReferenceSimulator) -> None:
    """What idle time-outs sent, where, when, and after which packet."""
    names = [network.name for network in simulator.topology.virtual_networks]
    batch, outcomes, received = simulator.take_reset_packets()
    sent = []
    for index, outcome in enumerate(outcomes):
        side = "consumer_point" if outcome["direction"] == RESET_TO_CONSUMER else "provider_point"
        figures = int(batch.time_ns[index]), int(outcome["session"]), int(received[index])
        sent.append((names[outcome[side]], *figures, batch[index][14:]))
    wanted = reference.resets
    assert sent == [(one.at, one.time_ns, one.session, one.received, one.packet) for one in wanted]


def assert_equal_sessions(simulator: Simulator, reference: ReferenceSimulator) -> None:
    """Ended sessions in the order of their end, live ones in order of id, with all that is told of them."""
    ended = simulator.take_ended_sessions()
    assert [_told(simulator, row, True) for row in ended] == [_wanted(s) for s in reference.ended_sessions]
    live = simulator.live_sessions()
    assert [_told(simulator, row, False) for row in live] == [_wanted(s) for s in reference.sessions]


def assert_blocks(state: Any, pool: Any, taken: Any, endpoints: Any) -> None:
    """Every port in use or held lies in a block of its endpoint, and no block is anybody's without one."""
    service = state.services[pool["service"]]
    size = int(service["block_size"])
    wanted: dict[int, tuple[int, int]] = {}
    for port, endpoint in zip(taken.tolist(), endpoints.tolist(), strict=True):
        owner = int(state.endpoints[endpoint]["number"]) + 1
        before, used = wanted.get(port // size, (owner, 0))
        assert before == owner, "a block has two owners"
        wanted[port // size] = owner, used + 1
    blocks = state.blocks[int(pool["blocks"]) :][: -(-int(pool["capacity"]) // size)]
    assert {at: (int(b["owner"]), int(b["used"])) for at, b in enumerate(blocks) if b["owner"]} == wanted
    if service["endpoint_blocks"]:
        owned = Counter(owner for owner, _ in wanted.values())
        assert max(owned.values(), default=0) <= service["endpoint_blocks"]


_WAYS = ("to_service", "to_consumer")


def _told(simulator: Simulator, row: Any, ended: bool) -> tuple[Any, ...]:
    pool = simulator.pools[row["pool"]]
    flow = int(row["flow"])
    endpoint = simulator.topology.private_endpoints[row["endpoint"]]
    return (
        int(row["id"]),
        endpoint.name,
        PROTOCOL_NAMES[int(row["protocol"])],
        (flow >> 32 & 0xFFFFFFFF, flow >> 16 & 0xFFFF),
        (int(endpoint.ip), flow & 0xFFFF),
        (int(pool["nat_address"]), int(row["nat_port"])),
        (int(pool["backend_address"]), int(row["backend_port"])),
        (int(row["first_packet"]), int(row["last_packet"])),
        (int(row["packets_in"]), int(row["packets_out"]), int(row["bytes_in"]), int(row["bytes_out"])),
        (END_WORDS[row["how"]], int(row["ended"])) if ended else (None, None),
    )


def _wanted(session: Any) -> tuple[Any, ...]:
    def numbers(socket: Any) -> tuple[int, int]:
        return int(socket[0]), socket[1]

    return (
        session.id,
        session.endpoint,
        session.protocol,
        numbers(session.consumer),
        numbers(session.endpoint_side),
        numbers(session.nat),
        numbers(session.backend),
        (session.first_packet_ns, session.last_packet_ns),
        (*(session.packets[way] for way in _WAYS), *(session.bytes[way] for way in _WAYS)),
        (session.ended, session.ended_ns) if session.ended else (None, None),
    )


def assert_laws(simulator: Simulator) -> None:
    """What must hold inside the engine at any time."""
    summary = simulator.summary()
    for figure in ("packets", "bytes"):
        assert summary["received"][figure] == sum(
            summary[part][figure] for part in ("forwarded", "bypassed", "dropped")
        )
    shards = shards_of(simulator)
    if shards:
        assert sum(int(shard.clock["live"]) for shard in shards) == summary["sessions"]["active"]
    for shard in shards:
        assert_laws_of_state(shard.state)


def shards_of(simulator: Simulator) -> list[Shard]:
    """The engine's shards, as far as they are in this process."""
    core, crew = simulator._core, simulator._crew
    if isinstance(core, Shard):
        return [core]
    return crew._shards if isinstance(crew, Threads) else []


def assert_laws_of_state(state: State) -> None:
    sessions = state.sessions
    used = np.arange(len(sessions)) < state.clock[0]["rows"]
    live = np.flatnonzero(used & (sessions["state"] != UNUSED) & (sessions["state"] != HELD))
    held = np.flatnonzero(used & (sessions["state"] == HELD))
    assert len(live) == state.clock[0]["live"]
    # The index has exactly the live sessions; (pool, port) has the live and the held ones.
    cells = state.cells[state.cells != 0] & np.uint64(0xFFFFFFFF)
    assert sorted(cells.astype(np.int64) - 1) == live.tolist()
    for number, pool in enumerate(state.pools):
        first, capacity = int(pool["ports"]), int(pool["capacity"])
        owners = state.port_session[first : first + capacity]
        words = state.used_ports[first >> 6 :][: -(-capacity // 64)]
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")
        assert bits[capacity:].all(), "ports beyond the range's end are never free"
        taken = np.flatnonzero(bits[:capacity])
        stretches = state.used_in_stretch[first >> STRETCH_BITS :][: -(-capacity >> STRETCH_BITS)]
        assert stretches.tolist() == np.bincount(taken >> STRETCH_BITS, minlength=len(stretches)).tolist()
        assert len(taken) + pool["free"] == pool["capacity"]
        for offset in taken:
            owner = sessions[owners[offset] - 1]
            assert owner["state"] != UNUSED
            assert owner["pool"] == number
            assert owner["nat_port"] == pool["first_port"] + offset
        assert pool["held"] == sum(sessions[row]["pool"] == number for row in held)
        if pool["allocation"] == BLOCK:
            assert_blocks(state, pool, taken, sessions["endpoint"][owners[taken] - 1])
    hosts = np.bincount(state.pools["host"][sessions["pool"][live]], minlength=len(state.host_sessions))
    assert hosts.tolist() == state.host_sessions.tolist()
