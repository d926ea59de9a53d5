"""The simulator: packets in, what became of them out; it answers at any time what was counted.

Its state is one shard with all backends, or several that share the work (`dataplane/shards`): the same bytes come out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dataplane.forwarding.fragments import Sequencer
from dataplane.forwarding.pipeline import first_wrong
from dataplane.forwarding.resets import reset_packets
from dataplane.metrics.series import Series, Sink
from dataplane.metrics.summary import first_exhaustion, pool_names, summarise
from dataplane.nat.fragments import DATAGRAMS, OVERLAP
from dataplane.packets.batch import FIRST_TIME, FRAME, LAST_TIME, NO_POINT, TIME_UNREPRESENTABLE, WAITED, PacketBatch
from dataplane.packets.headers import LINK_ETHERNET
from dataplane.records import CAPTURED_REPLY, OUTCOME, RESET_TO_CONSUMER, TO_SERVICE, State
from dataplane.shards.crew import Crew, Threads
from dataplane.shards.dispatcher import Dispatcher
from dataplane.shards.shard import Settings, Shard
from dataplane.topology.model import Topology
from dataplane.verdict import Verdict

if TYPE_CHECKING:
    from scapy.packet import Packet

#: Packets per vector: small enough that a vector's rows stay in the first-level cache.
BURST = 64

_NOTHING = np.zeros(0, OUTCOME)
_SERIES_CLOSED = "the series is closed (end_series); nothing can happen any more"


@dataclass(frozen=True)
class Delivery:
    """A packet as it arrived: the network's name, the time in seconds, and the scapy packet."""

    point: str
    time: float
    packet: Packet


@dataclass(frozen=True)
class Outcome:
    """What became of one packet that was sent.

    `session` is the session's id (the number of the packet that created it) or None, `endpoint` the private
    endpoint's name or None, `nat` the NAT IP and port or None.
    """

    verdict: Verdict
    delivered: list[Delivery]
    session: int | None = None
    endpoint: str | None = None
    nat: tuple[str, int] | None = None


@dataclass(frozen=True)
class ProcessResult:
    """What became of a batch: one entry per packet, in the order in which they were received.

    `outcomes` is a structured array (`dataplane.records.OUTCOME`); `packets` the batch with every forwarded packet
    rewritten: to_service packets and captured replies in their provider form, replies in their consumer form. Where
    fragments are translated, both leave out what waits and have what waited until now (docs/model.md, "Fragments").
    """

    outcomes: NDArray[Any]
    packets: PacketBatch

    @property
    def verdicts(self) -> NDArray[np.uint8]:
        """`Verdict` values, shape (n,)."""
        return self.outcomes["verdict"]

    @property
    def sessions(self) -> NDArray[np.int64]:
        """Session ids, 0 where no session forwarded the packet, shape (n,)."""
        return self.outcomes["session"]

    @property
    def bytes(self) -> NDArray[np.uint32]:
        """What each packet counts as, in bytes, shape (n,)."""
        return self.outcomes["bytes"]


@dataclass(frozen=True)
class _Extremes:
    """The lowest and the first of the time until they were taken: of pools, and the clock that saw it."""

    minimum_free: NDArray[np.int32]
    exhausted: NDArray[Any] | None

    def restored(self, state: State) -> State:
        """A state that tells of the whole time: a copy of what differs."""
        pools, clock = state.pools.copy(), state.clock.copy()
        pools["minimum_free"] = np.minimum(pools["minimum_free"], self.minimum_free)
        if self.exhausted is not None:
            for name in ("exhausted_at", "exhausted_by", "exhausted_pool", "exhausted_verdict"):
                clock[name] = self.exhausted[name]
        return state.replace(pools=pools, clock=clock)


class Simulator:
    """The data plane of a topology, at packet level.

    `seed` decides every random choice. `sessions_log` keeps a record of every ended session until it is taken with
    `take_ended_sessions`; `on_minute` is called with the metric rows of every minute.
    `workers` is how many threads share the work, or a crew (`dataplane.shards`) that does; one does it alone where
    backends go down or come up (docs/scale.md). It, `burst` and `rows`
    (packets per vector, sessions to make room for at first) change speed and memory, never a result.
    """

    def __init__(
        self,
        topology: Topology,
        seed: int = 0,
        *,
        sessions_log: bool = False,
        on_minute: Sink | None = None,
        workers: int | Crew = 1,
        burst: int = BURST,
        rows: int = 4096,
    ) -> None:
        if burst < 1 or rows < 1:
            raise ValueError(f"burst is {burst} and rows is {rows}; both are at least 1")
        if len(topology.virtual_networks) >= NO_POINT:
            raise ValueError(f"{len(topology.virtual_networks)} networks; a simulator takes fewer than {NO_POINT}")
        self.topology = topology
        self.seed = seed
        self.points = {network.name: number for number, network in enumerate(topology.virtual_networks)}
        self._names = list(self.points)
        settings = Settings(topology, seed, sessions_log, rows, burst)
        crew = Threads(workers) if isinstance(workers, int) and workers != 1 else workers
        self._crew = None if isinstance(crew, int) else crew
        # After some events a session may lie elsewhere than where its hash leads: then one does the work.
        moves = any(event.moves_sessions for event in topology.events)
        self._core = Shard(settings) if self._crew is None or moves else Dispatcher(settings, self._crew)
        translates = any(s.nat.fragments == "translate" for s in topology.private_link_services)
        self._sequencer = Sequencer(topology, seed) if translates else None
        self._closed = False
        self._extremes: _Extremes | None = None
        self.series = Series(topology, on_minute)

    # --- packets ---------------------------------------------------------------------------------------------

    def send(
        self, packet: Packet | bytes, at: str, time: float | None = None, *, time_ns: int | None = None
    ) -> Outcome:
        """Send one packet (scapy, Ethernet or IP) from a host of the network `at`; returns what became of it.

        Time is in seconds, or exactly in nanoseconds by `time_ns`; without either, the clock. At a provider's network a
        packet is what a backend would send to a NAT IP. Raises ValueError for an unknown network. A fragment that
        has to wait for the first of its datagram gets `Verdict.FRAGMENT_HELD`; it is delivered with that one.
        """
        from dataplane.packets import craft

        if time_ns is None:
            time_ns = self.now_ns if time is None else round(time * 1e9)
        usable = FIRST_TIME <= time_ns <= LAST_TIME
        batch = craft.to_batch([packet], [time_ns if usable else 0])
        batch.frames["flags"] = 0 if usable else TIME_UNREPRESENTABLE
        batch.frames["point"] = self.point(at)
        batch = self.sequence(batch)
        original = batch.data.copy()
        result = self._process(batch)
        waited = np.flatnonzero(batch.frames["flags"] & WAITED)
        sent = np.flatnonzero(batch.frames["flags"] & WAITED == 0)
        outcome = Outcome(Verdict.FRAGMENT_HELD, [])
        if len(sent):
            outcome = self._outcome(result, original, int(sent[0]))
        for index in waited:
            outcome.delivered.extend(self._outcome(result, original, int(index)).delivered)
        return outcome

    def process(self, batch: PacketBatch, at: str | None = None, *, inplace: bool = False) -> ProcessResult:
        """Send a batch from the network `at`, in order; without `at`, the batch's own `point` column says where.

        The batch is left as it is and a rewritten copy returned, unless `inplace`.
        """
        if not inplace:
            batch = batch.copy()
        if at is not None:
            batch.frames["point"] = self.point(at)
        return self._process(self.sequence(batch))

    def _process(self, batch: PacketBatch) -> ProcessResult:
        outcomes = np.zeros(len(batch), OUTCOME)
        self.feed(batch, outcomes)
        return ProcessResult(outcomes, batch)

    def sequence(self, batch: PacketBatch) -> PacketBatch:
        """The packets that are to be fed now, in order; the batch itself where no service translates fragments.

        Later fragments that came before the first of their datagram are left out until it comes (docs/model.md,
        "Fragments"); `finish` tells what still waits at the end.
        """
        if self._sequencer is None:
            return batch
        self._check(batch, _NOTHING)
        return self._sequencer.sequence(self._core.clock, batch)

    def finish(self) -> ProcessResult:
        """The input has ended: fragments that still wait for the first of their datagram are dropped."""
        return self._process(self.remaining())

    def remaining(self) -> PacketBatch:
        """The fragments that wait, taken out of their queue, to be fed when the input has ended."""
        return self._sequencer.finish() if self._sequencer is not None else PacketBatch.from_bytes([])

    @property
    def waiting(self) -> int:
        """How many fragments wait for the first of their datagram; they are not received yet."""
        return self._sequencer.waiting if self._sequencer is not None else 0

    def feed(self, batch: PacketBatch, outcomes: NDArray[Any] = _NOTHING) -> None:
        """Send a batch whose `point` column is set, rewriting it in place; the fastest way in.

        Where fragments are translated, it has to come from `sequence`. `outcomes` (rows of `OUTCOME`, as many as
        packets) is filled when given. Raises ValueError for a frame that lies outside the batch's data or at no
        network, and after `end_series`.
        """
        self._check(batch, outcomes)
        if self._sequencer is not None and batch.datagrams is None:
            raise ValueError("this topology translates fragments, some of which have to wait: feed sequence(batch)")
        self._core.feed(batch, outcomes, self._end_minute)

    def _check(self, batch: PacketBatch, outcomes: NDArray[Any]) -> None:
        """What kernels take for granted: they check no bounds of arrays."""
        frames = batch.frames
        if self._closed:
            raise ValueError(_SERIES_CLOSED)
        given = (("data", batch.data, np.dtype(np.uint8)), ("frames", frames, FRAME), ("outcomes", outcomes, OUTCOME))
        for name, array, dtype in given:
            if array.dtype != dtype or array.ndim != 1:
                found = f"{array.ndim} dimensions and dtype {array.dtype}"
                raise ValueError(f"{name}: an array of {found}; one dimension of {dtype} is taken")
        marks = batch.datagrams
        if marks is not None and not (
            marks.dtype == np.int32
            and marks.shape in ((0,), (len(frames),))
            and (not len(marks) or (marks.min() > OVERLAP - DATAGRAMS and marks.max() < DATAGRAMS))
        ):
            raise ValueError("the batch's datagrams are not those of its frames as sequence(batch) gave them")
        if not batch.data.flags.writeable:
            raise ValueError("the batch's data is read-only, and packets are rewritten in place; send a copy")
        if not batch.data.flags.c_contiguous:
            raise ValueError("the batch's data has gaps; send a copy (numpy.ascontiguousarray)")
        if len(outcomes) not in (0, len(frames)):
            raise ValueError(f"{len(outcomes)} rows of outcomes for {len(frames)} packets")
        wrong = first_wrong(frames, len(batch.data), len(self._names))
        if wrong >= 0:
            row = frames[wrong]
            if row["point"] >= len(self._names):
                raise ValueError(
                    f"packet {wrong} of the batch: point {row['point']} is no network's number; process(…, at=NAME) "
                    f"sets it, with NAME one of: {', '.join(self._names)}"
                )
            raise ValueError(
                f"packet {wrong} of the batch: {row['captured']} bytes at {row['offset']} lie outside the batch's "
                f"{len(batch.data)} bytes of data"
            )

    def start(self, *, time_ns: int) -> None:
        """Let time begin at `time_ns` (nanoseconds since 1970), ahead of the first packet, which begins it otherwise.

        Events and `…_seconds` are counted from here. Raises ValueError if time has begun.
        """
        if self._core.clock["started"]:
            raise ValueError("time has begun; start() comes before the first packet")
        if not FIRST_TIME <= time_ns <= LAST_TIME:
            raise ValueError(f"{time_ns} ns is no time that a clock can have")
        self._core.start(time_ns)

    def advance(self, to: float | None = None, *, to_ns: int | None = None) -> None:
        """Let time pass up to `to` seconds (or `to_ns` nanoseconds): sessions end, held ports are released.

        Time begins with the first packet that is received; before it, only fragments can have waited too long.
        """
        if to_ns is None:
            if to is None:
                raise ValueError("advance() needs `to` (seconds) or `to_ns` (nanoseconds)")
            to_ns = round(to * 1e9)
        if self._closed:
            raise ValueError(_SERIES_CLOSED)
        to_ns = min(to_ns, LAST_TIME)
        self._core.advance(to_ns, self._end_minute)
        if self._sequencer is not None:
            self.feed(self._sequencer.forget(to_ns))

    def _end_minute(self, state: State, until_ns: int) -> int:
        return self.series.end_minute(state, until_ns)

    def _outcome(self, result: ProcessResult, original: NDArray[np.uint8], index: int) -> Outcome:
        """The outcome of one packet with what was delivered, as scapy sees it."""
        from dataplane.packets import craft

        row = result.outcomes[index]
        verdict = Verdict(int(row["verdict"]))
        endpoint = int(row["endpoint"])
        name = self.topology.private_endpoints[endpoint].name if endpoint >= 0 else None
        if verdict != Verdict.FORWARDED:
            return Outcome(verdict, [], endpoint=name)
        batch = result.packets
        frame = batch.frames[index]
        direction = int(row["direction"])
        data = original if direction == CAPTURED_REPLY else batch.data
        start = int(frame["offset"])
        content = data[start : start + int(frame["captured"])].tobytes()
        point = row["provider_point"] if direction == TO_SERVICE else row["consumer_point"]
        arrived = Delivery(
            self._names[int(point)], int(row["time"]) / 1e9, craft.to_packet(content, int(frame["link_type"]))
        )
        nat = (craft.dotted(int(row["nat_address"])), int(row["nat_port"]))
        return Outcome(verdict, [arrived], int(row["session"]), name, nat)

    # --- figures ---------------------------------------------------------------------------------------------

    def point(self, name: str) -> int:
        """The number of a network; raises ValueError with the choices if there is none of this name."""
        try:
            return self.points[name]
        except KeyError:
            raise ValueError(f"no virtual network is named {name!r}; there are: {', '.join(self._names)}") from None

    @property
    def now_ns(self) -> int:
        """The clock: the largest time seen so far, nanoseconds since 1970 (0 before the first packet)."""
        return int(self._core.clock["now"])

    @property
    def clock(self) -> dict[str, int]:
        """The clock's fields (`dataplane.records.CLOCK`), among them the counts of unusable times."""
        row = self._core.clock
        return {name: int(row[name]) for name in row.dtype.names}

    def summary(self) -> dict[str, Any]:
        """All counters and the state of every NAT pool, as of the clock: the object of `summary.json`."""
        state = self._core.state
        if self._extremes is not None:
            state = self._extremes.restored(state)
        return summarise(self.topology, state, self.series, self.seed)

    def take_extremes(self) -> tuple[NDArray[np.int32], dict[str, Any] | None]:
        """The fewest free ports that each of `pools` had since the last call, and the first exhaustion since then.

        That is an object like `first_exhaustion` of `summary`, or None. `summary` tells of the whole time all the same.
        Raises ValueError where several workers share the state.
        """
        if isinstance(self._core, Dispatcher):
            raise ValueError("take_extremes() needs a simulator with one worker")
        state = self._core.state
        first = first_exhaustion(self.topology, state)
        lowest = state.pools["minimum_free"].copy()
        before = self._extremes or _Extremes(lowest, None)
        exhausted = state.clock.copy() if first is not None and before.exhausted is None else before.exhausted
        self._extremes = _Extremes(np.minimum(lowest, before.minimum_free), exhausted)
        state.pools["minimum_free"] = state.pools["free"]
        state.clock[0]["exhausted_pool"] = -1
        return lowest, first

    def pool_names(self, number: int) -> dict[str, str]:
        """What row `number` of `pools` is called: `service`, `nat_ip`, `protocol`, `backend`."""
        return pool_names(self.topology, self._core.state, number)

    def take_ended_sessions(self) -> NDArray[Any]:
        """The sessions that ended since the last call (rows of `dataplane.records.ENDED`, in order of their end)."""
        return self._core.take_ended()

    def take_resets(self) -> list[Delivery]:
        """The RSTs that idle time-outs have sent since the last call, in order (`idle_reset`, docs/model.md).

        They are kept until they are taken.
        """
        from dataplane.packets import craft

        batch, outcomes, _ = self.take_reset_packets()
        return [
            Delivery(
                self._names[int(row["consumer_point" if row["direction"] == RESET_TO_CONSUMER else "provider_point"])],
                int(row["time"]) / 1e9,
                craft.to_packet(batch[index], LINK_ETHERNET),
            )
            for index, row in enumerate(outcomes)
        ]

    def take_reset_packets(self) -> tuple[PacketBatch, NDArray[Any], NDArray[np.int64]]:
        """The same as a batch, with OUTCOME rows and how many packets had been received before each."""
        rows = self._core.take_resets()
        return *reset_packets(self._core.front, rows), np.repeat(rows["received"], 2)

    def live_sessions(self) -> NDArray[Any]:
        """The sessions that are alive (rows of `dataplane.records.ENDED`), in order of id."""
        return self._core.live_sessions()

    def end_series(self) -> None:
        """Close the minute that has begun, so that the series is complete up to the clock; nothing can follow it."""
        if self._core.clock["started"] and not self._closed:
            self._closed = True
            self._core.begin_minute(self.series.end_minute(self._core.state, self.now_ns))

    @property
    def pools(self) -> NDArray[Any]:
        """The NAT pools (rows of `dataplane.records.POOL`), in order of service, NAT IP, protocol, backend."""
        return self._core.state.pools

    @property
    def nat_ips(self) -> NDArray[Any]:
        """The NAT IPs (rows of `dataplane.records.NAT_IP`) in order of service, each service's that events add last."""
        return self._core.state.nat_ips

    def session_memory(self) -> int:
        """Bytes of the session table that are in use: rows, timers, index (not the NAT pools)."""
        return self._core.session_memory()

    def close(self) -> None:
        """End the workers, if there are several. What was counted can no longer be asked for."""
        if self._crew is not None:
            self._crew.close()
