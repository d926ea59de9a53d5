"""Traffic of a scenario: batches of packets, each made when the simulator has judged the ones before it.

The kernels are in `arrivals.py`, `calendar.py`, `frames.py` and `clients.py`; this module turns sources into their
arrays and gives them room.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.nat.hashing import key64
from dataplane.packets.batch import FRAME, PacketBatch
from dataplane.packets.headers import LINK_ETHERNET, PROTOCOL_TCP, PROTOCOL_UDP
from dataplane.records import OUTCOME
from dataplane.runs.arrivals import next_arrival
from dataplane.runs.calendar import prepare
from dataplane.runs.clients import follow
from dataplane.runs.connections import (
    AS_RECORDED,
    BUCKETS,
    CONNECTION,
    EPHEMERAL_PORTS,
    EXPONENTIAL,
    FIXED,
    GROW,
    LOG_NORMAL,
    NOTHING,
    PARETO,
    RECORDED,
    SAMPLE,
    SEGMENT,
    SOURCE,
    STATUS,
    STEP,
    Traffic,
)
from dataplane.runs.frames import MOST_IN_STEP, STRIDE, emit
from dataplane.runs.recorded import recorded_connections
from dataplane.runs.scenario import Arrivals, Payload, Scenario, TrafficSource
from dataplane.runs.scenario_rules import host_addresses

SECOND_NS = 1_000_000_000

#: Packets per batch at most: a slice with more is sent in parts.
_BATCH = 4 * MOST_IN_STEP

_LIVES = {
    "fixed": FIXED,
    "exponential": EXPONENTIAL,
    "log_normal": LOG_NORMAL,
    "pareto": PARETO,
    "sample": SAMPLE,
    "as_recorded": AS_RECORDED,
}

#: A day's curve is made of so many straight pieces.
_PIECES = 360

#: Names of what is counted per source, in the order in which things happen.
COUNTS = (
    "started", "opened", "reused", "refused", "retried", "failed", "broken", "completed", "no_client_port",
)  # fmt: skip

#: Sends a batch and fills its outcomes.
Send = Callable[[PacketBatch, NDArray[Any]], None]


class Generator:
    """The clients of a scenario from `origin_ns` on (nanoseconds since 1970), deterministic by `seed`.

    `slice_ns` shortens the slices that time is cut into (at most a round-trip, a divisor of a second); it changes
    speed, never a packet.
    """

    def __init__(self, scenario: Scenario, seed: int, origin_ns: int, slice_ns: int | None = None) -> None:
        topology = scenario.whole_topology
        points = {network.name: number for number, network in enumerate(topology.virtual_networks)}
        sources = np.zeros(len(scenario.traffic), SOURCE)
        segments: list[tuple[int, int, float, float]] = []
        recorded = [np.zeros(0, RECORDED)]
        lives: list[int] = []
        #: What the scenario's user should know of recorded connections.
        self.notes: list[str] = []
        hosts: list[int] = []
        words = 0
        used: dict[str, set[int]] = {}
        for row, source in zip(sources, scenario.traffic, strict=True):
            endpoint = topology.endpoint(source.endpoint)
            network = source.network or endpoint.virtual_network
            row["key"] = key64(seed, "traffic", source.name)
            row["address"], row["port"] = int(endpoint.ip), source.port
            row["point"] = points[network]
            row["first_host"], row["hosts"] = len(hosts), source.hosts
            hosts += host_addresses(topology, network, source.hosts_from, source.hosts, used.setdefault(network, set()))
            row["first_word"] = words
            words += -(-source.hosts * EPHEMERAL_PORTS // 64)
            if source.arrivals.is_given:
                given, row["period"], notes = recorded_connections(source, endpoint.ip)
                row["first_recorded"], row["recorded"] = sum(map(len, recorded)), len(given)
                recorded.append(given)
                self.notes += notes
            if not row["recorded"]:  # a rate says when, which is 0 where no copy of what is given is left
                pieces, row["period"] = pieces_of(source.arrivals)
                row["first_segment"], row["segments"] = len(segments), len(pieces)
                segments += pieces
            row["cycle"] = origin_ns + source.arrivals.start
            row["until"] = origin_ns + min(scenario.duration, source.arrivals.stop or scenario.duration)
            row["even"] = source.arrivals.is_even
            _describe(row, source)
            row["first_life"], row["lives"] = len(lives), len(source.life.values or ())
            lives += source.life.values or ()
        longest = slice_ns or min(min(source.round_trip for source in scenario.traffic), SECOND_NS)
        status = np.zeros(1, STATUS)
        status["free"], status["origin"] = -1, origin_ns
        status["length"] = divisor_of_a_second(longest)
        self._arrays = Traffic(
            status,
            sources,
            np.array(segments, SEGMENT),
            np.concatenate(recorded),
            np.array(lives, np.int64),
            np.array(hosts, np.int64),
            np.zeros(words, np.uint64),
            np.zeros(1024, CONNECTION),
            np.full(BUCKETS, -1, np.int32),
            np.zeros(1024, STEP),
            np.zeros(1024, STEP),
        )
        for which in range(len(sources)):
            next_arrival(self._arrays, np.int64(which))
        self._data = np.zeros(_BATCH * STRIDE, np.uint8)
        self._frames = np.zeros(_BATCH, FRAME)
        self._frames["link_type"] = LINK_ETHERNET
        self._outcomes = np.zeros(_BATCH, OUTCOME)

    @property
    def sources(self) -> NDArray[Any]:
        """Rows of SOURCE, with what was counted so far."""
        return self._arrays.sources

    def run(self, until_ns: int, send: Send) -> None:
        """Send all packets before `until_ns`."""
        status = self._arrays.status
        status["stop"] = until_ns
        while True:
            ready = prepare(self._arrays)
            if ready == NOTHING:
                return
            if ready == GROW:
                self._grow()
                continue
            done, steps = 0, int(status["steps"][0])
            while done < steps:
                end, count = emit(self._arrays, done, self._frames, self._data)
                outcomes = self._outcomes[:count]
                if count:
                    send(PacketBatch(self._data, self._frames[:count]), outcomes)
                follow(self._arrays, outcomes, done, end)
                status["received"] += count
                done = end

    def _grow(self) -> None:
        """Twice the room in the table of connections."""
        arrays = self._arrays
        names = ("connections", "steps", "spare")
        larger = {name: np.concatenate([old := getattr(arrays, name), np.zeros_like(old)]) for name in names}
        self._arrays = arrays.replace(**larger)


def _describe(row: Any, source: TrafficSource) -> None:
    """A source's settings that stand in its row as they are."""
    row["protocol"] = PROTOCOL_TCP if source.protocol == "tcp" else PROTOCOL_UDP
    row["round_trip"], row["answer"], row["retries"] = source.round_trip, source.answer, source.retries
    row["keep_alive"] = source.keep_alive or 0
    row["life"] = _LIVES[source.life.distribution]
    row["scale"], row["shape"] = source.life.scale, source.life.shape or 0.0
    ends = source.ends
    every = ends.fin + ends.rst + ends.never
    row["fin"], row["fin_or_rst"] = ends.fin / every, (ends.fin + ends.rst) / every
    row["request_packets"], row["request_bytes"] = source.request_packets, _bytes(source.request)
    row["response_packets"], row["response_bytes"] = source.response.count, _bytes(source.response)


def _bytes(payload: Payload) -> int:
    return -1 if payload.bytes == "as_recorded" else payload.bytes


def pieces_of(arrivals: Arrivals) -> tuple[list[tuple[int, int, float, float]], int]:
    """The rate as straight pieces (begin, length, rate at first, rate at last), and after how long they come again.

    Times are nanoseconds from the source's start, rates per second; a period of 0 means that they do not come again.
    """
    far = 1 << 61  # longer than any run
    a = arrivals
    rate = a.rate or 0.0
    if a.pattern == "ramp":
        assert a.over is not None
        assert a.to_rate is not None
        return [(0, a.over, rate, a.to_rate), (a.over, far, a.to_rate, a.to_rate)], 0
    if a.pattern == "steps":
        assert a.steps is not None
        begins = [step.at for step in a.steps]
        silence = [(0, begins[0], 0.0, 0.0)] if begins[0] else []
        ends = [*begins[1:], begins[-1] + far]
        return silence + [
            (begin, end - begin, step.rate, step.rate) for begin, end, step in zip(begins, ends, a.steps, strict=True)
        ], 0
    if a.pattern == "on_off":
        assert a.on is not None
        assert a.off is not None
        low = a.off_rate or 0.0
        return [(0, a.on, rate, rate), (a.on, a.off, low, low)], a.on + a.off
    if a.pattern == "daily":
        assert a.low is not None
        assert a.high is not None
        period = a.period or 86_400 * SECOND_NS
        highest = period // 2 if a.highest_at is None else a.highest_at
        begins = [period * k // _PIECES for k in range(_PIECES + 1)]
        angles = [2 * np.pi * (begin - highest) / period for begin in begins]
        rates = [float((a.high + a.low) / 2 + (a.high - a.low) / 2 * np.cos(angle)) for angle in angles]
        return [
            (begins[k], begins[k + 1] - begins[k], max(rates[k], 0.0), max(rates[k + 1], 0.0)) for k in range(_PIECES)
        ], period
    return [(0, far, rate, rate)], 0


def divisor_of_a_second(most: int) -> int:
    """The largest number of nanoseconds up to `most` of which a second is a multiple."""
    best = 1
    for twos in range(10):
        for fives in range(10):
            divisor = 2**twos * 5**fives
            if best < divisor <= most:
                best = divisor
    return best
