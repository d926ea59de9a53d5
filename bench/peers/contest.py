"""The contest: everyone gets the same packets, and rounds go in turn, so that a noisy machine hits all alike.

A contestant's first round is not counted: it compiles, opens sessions, warms caches, and its output is checked. Then
each round goes through all contestants. What a round needs beforehand (packets as they were, no old output) is not
counted.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from bench import workloads
from dataplane.packets.batch import PacketBatch
from dataplane.topology.model import Topology

#: Connections that one NAT IP is asked to carry; it has 64,512 ports toward each of the 16 backends.
_PER_NAT_IP = 1_000_000

BACKENDS = 16
CLIENT_PORTS = range(49_152, 49_152 + 16_000, 1_000)
NAT_NETWORK, BACKEND_NETWORK = bytes([192, 168, 50]), bytes([192, 168, 61])


class MissingError(Exception):
    """A contestant cannot take part here; the text says what is missing and what to do."""


@dataclass
class Contestant:
    """One program. `round` measures one round and returns its seconds for all of `packets`.

    `base` measures, in each round too, what is no matter of NAT (start-up, say); a second row, its name ending in
    `without`, tells the time with the best of that taken off. `afterwards` adds what can be told only then to the note.
    """

    name: str
    packets: int
    note: str
    round: Callable[[], float]
    base: Callable[[], float] | None = None
    without: str = ""
    afterwards: Callable[[], str] = str
    seconds: list[float] = field(default_factory=list)
    base_seconds: list[float] = field(default_factory=list)


@dataclass
class Row:
    """A line of the table: nanoseconds per packet; None where nothing was measured, and then the note says why."""

    name: str
    packets: int
    best: float | None
    median: float | None
    note: str


class Arena:
    """What all contestants get: the packets in memory, the same as a capture, a topology that suits them."""

    def __init__(self, folder: Path, packets: int, sessions: int, size: int = 64) -> None:
        self.folder = folder
        self.sessions = sessions
        self.size = size
        self.batch = workloads.udp(packets, sessions, size)
        self.original = self.batch.data.copy()
        self.nat_ips = max(2, -(-sessions // _PER_NAT_IP))
        self._span = packets * workloads.GAP_NS

    def __len__(self) -> int:
        return len(self.batch)

    @cached_property
    def topology(self) -> Topology:
        return workloads.topology(backends=BACKENDS, nat_ips=self.nat_ips)

    def restore(self) -> PacketBatch:
        """The packets as they were, later: what rewrites them in memory asks for this before each round."""
        np.copyto(self.batch.data, self.original)
        self.batch.frames["time_ns"] += self._span
        return self.batch

    def capture(self, most: int | None = None) -> tuple[Path, int]:
        """A capture of the first so many packets (all by default), and how many they are."""
        count = min(most or len(self), len(self))
        path = self.folder / f"first-{count}.pcap"
        if not path.exists():
            frames = self.batch.frames[:count]
            workloads.write_capture(PacketBatch(self.original, frames), path)
        return path, count


Maker = Callable[[Arena, ExitStack], Contestant]


def hold(makers: Sequence[tuple[str, Maker]], arena: Arena, rounds: int, tell: Callable[[str], None]) -> list[Row]:
    """Let all take part, in turn; one row each, in this order, also for those that cannot."""
    entries: list[Contestant | Row] = []
    with ExitStack() as opened:
        for name, make in makers:
            tell(f"preparing {name}")
            own = opened.enter_context(ExitStack())
            try:
                entry = make(arena, own)
                entry.round()
                entries.append(entry)
            except MissingError as error:
                own.close()
                entries.append(Row(name, 0, None, None, str(error)))
        for number in range(rounds):
            for entry in entries:
                if isinstance(entry, Contestant):
                    tell(f"round {number + 1} of {rounds}: {entry.name}")
                    entry.seconds.append(entry.round())
                    if entry.base:
                        entry.base_seconds.append(entry.base())
        return [row for entry in entries for row in ([entry] if isinstance(entry, Row) else _rows(entry))]


def _rows(contestant: Contestant) -> Iterable[Row]:
    """Best and median of the rounds, and the same with the base taken off."""
    scale = 1e9 / contestant.packets
    best, median = min(contestant.seconds) * scale, statistics.median(contestant.seconds) * scale
    note = contestant.note + contestant.afterwards()
    yield Row(contestant.name, contestant.packets, best, median, note)
    if contestant.base:
        base = min(contestant.base_seconds)
        spread = statistics.median(contestant.base_seconds) - base
        name = f"{contestant.name}, {contestant.without}"
        taken_off = f"{base:,.3f} s taken off, give or take {spread:,.3f} s"
        if len(contestant.base_seconds) < 2:
            yield Row(name, 0, None, None, "not measured: needs --rounds 2 or more, to tell it from noise")
        elif best <= (base + spread) * scale:
            yield Row(name, 0, None, None, f"not measured: lost in {taken_off}; needs more --packets")
        else:
            yield Row(name, contestant.packets, best - base * scale, median - base * scale, f"the same, {taken_off}")


def check(frames: Iterable[bytes]) -> None:
    """Raise RuntimeError unless each frame is one of the capture's, translated, and its checksums are right."""
    for number, frame in enumerate(frames):
        ip = frame[14:]
        pseudo_header = ip[12:20] + bytes([0, ip[9]]) + ip[24:26]
        wrong = {
            "source address": not ip[12:16].startswith(NAT_NETWORK),
            "destination address": not ip[16:20].startswith(BACKEND_NETWORK),
            "source port": int.from_bytes(ip[20:22]) == 0,
            "destination port": int.from_bytes(ip[22:24]) != workloads.BACKEND_PORT,
            "IPv4 checksum": _sum(ip[:20]) != 0xFFFF,
            "UDP checksum": _sum(pseudo_header + ip[20:]) != 0xFFFF,
        }
        if any(wrong.values()):
            faults = ", ".join(name for name, is_wrong in wrong.items() if is_wrong)
            raise RuntimeError(f"translated packet {number} has a wrong {faults}: {frame.hex()}")


def sample(batch: PacketBatch, count: int = 1000) -> Iterable[bytes]:
    """Some frames of a batch, all over it."""
    return (batch[index] for index in range(0, len(batch), max(1, len(batch) // count)))


def _sum(octets: bytes) -> int:
    """The ones-complement sum of 16-bit words."""
    octets += b"\0" * (len(octets) % 2)
    total = sum(int.from_bytes(octets[i : i + 2]) for i in range(0, len(octets), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
