"""A shard: the sessions, NAT ports and counters of some of the backends, and the kernels that work on them.

One shard that has all backends is a whole simulator; several share the work (`dispatcher.py`). A kernel goes
through thousands of packets per call and comes back early only when Python has to act: a minute is over, the session
table must grow, a log is full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.forwarding.classify import classify
from dataplane.forwarding.clock import start
from dataplane.forwarding.events import take_place
from dataplane.forwarding.pipeline import run
from dataplane.forwarding.share import run_share
from dataplane.forwarding.slow_path import tell_direction
from dataplane.forwarding.tables import build_state, events_of
from dataplane.memory import apart
from dataplane.metrics.series import begin_minute
from dataplane.nat.life import (
    DONE,
    DRAIN_LOG,
    END_MINUTE,
    GROW_SESSIONS,
    TAKE_PLACE,
    end_rows,
    list_live,
    pass_time,
    set_stop,
)
from dataplane.nat.sessions import grown
from dataplane.packets.batch import PacketBatch
from dataplane.records import BY_EVENT, ENDED, IDLE_RESET, PACKET, State
from dataplane.topology.model import Topology

#: Told the state at a minute's end and the time by which anything follows; returns the next minute's start.
EndMinute = Callable[[State, int], int]

_NO_DATAGRAMS = np.zeros(0, np.int32)


@dataclass(frozen=True)
class Settings:
    """What a shard is made of: plain data, so that it can be made elsewhere.

    `burst` is packets per vector, `rows` how many sessions to make room for at first.
    """

    topology: Topology
    seed: int
    logging: bool
    rows: int
    burst: int


@dataclass
class Work:
    """Packets of which a shard treats its own: those whose `owners` entry is `shard`. One row per packet everywhere.

    `turns` are rows of TURN; `datagrams` and `outcomes` may be empty. Packets are rewritten in `data`.
    """

    shard: int
    data: NDArray[np.uint8]
    frames: NDArray[Any]
    turns: NDArray[Any]
    owners: NDArray[np.int16]
    datagrams: NDArray[np.int32]
    outcomes: NDArray[Any]


@dataclass(frozen=True)
class Figures:
    """What a shard has counted (arrays of `State`)."""

    clock: NDArray[Any]
    pools: NDArray[Any]
    nat_ips: NDArray[Any]
    counters: NDArray[Any]
    endpoint_drops: NDArray[np.int64]
    totals: NDArray[Any]
    ended: NDArray[np.int64]


class Shard:
    """The state of some backends, or of all, and what has ended and was not taken yet."""

    def __init__(self, settings: Settings) -> None:
        rows = 1 << (settings.rows - 1).bit_length()
        state = build_state(settings.topology, settings.seed, logging=settings.logging, rows=rows)
        self.state = state.replace(**{field.name: apart(getattr(state, field.name)) for field in fields(state)})
        self._topology, self._seed = settings.topology, settings.seed
        self._events = events_of(settings.topology)
        self._packets = apart(np.zeros(settings.burst, PACKET))
        self._places = apart(np.zeros(settings.burst, np.int64))
        self._ended: list[NDArray[Any]] = []
        self._resets: list[NDArray[Any]] = []
        self._turns: NDArray[Any] | None = None  # of the work at hand

    @property
    def front(self) -> State:
        """The topology's tables."""
        return self.state

    @property
    def clock(self) -> Any:
        """The row of CLOCK."""
        return self.state.clock[0]

    # --- alone: the whole path -------------------------------------------------------------------------------

    def feed(self, batch: PacketBatch, outcomes: NDArray[Any], end_minute: EndMinute) -> None:
        """Send a whole batch, rewriting it in place; rows of `outcomes` are filled if there are any."""
        sides = (_NO_DATAGRAMS if batch.datagrams is None else batch.datagrams, outcomes)
        done = 0
        while True:
            status, done = run(self.state, batch.frames, batch.data, done, self._packets, sides)
            if status == DONE:
                return
            self._act(int(status), end_minute, int(batch.frames["time_ns"][done]))

    def advance(self, now_ns: int, end_minute: EndMinute) -> None:
        """Let time pass up to `now_ns`, once it has begun; the clock moves there."""
        clock = self.state.clock[0]
        if clock["started"]:
            now = max(now_ns, int(clock["now"]))
            while (status := pass_time(self.state, np.int64(now))) != DONE:
                self._act(int(status), end_minute, now)
            self.state.clock[0]["now"] = now

    def _act(self, status: int, end_minute: EndMinute, until_ns: int) -> None:
        """Do what a kernel asked for."""
        if status == END_MINUTE:
            self.begin_minute(end_minute(self.state, until_ns))
        elif status == TAKE_PLACE:
            self.take_place()
        else:
            self._make_room(status)

    def _make_room(self, status: int) -> None:
        if status == GROW_SESSIONS:
            self.state = grown(self.state)
        elif status == DRAIN_LOG:
            self._drain_logs()

    # --- among others: time and packets come in parts ----------------------------------------------------------

    def start(self, now_ns: int) -> None:
        """The first packet of all is at `now_ns`."""
        start(self.state, np.int64(now_ns))

    def run(self, work: Work, all_turns: NDArray[Any]) -> None:
        """Treat this shard's packets and let time pass up to the last packet of all; no minute ends in between.

        `all_turns` has the turns of other shards' packets too.
        """
        self._drain_logs()
        self._turns = all_turns
        job = (work.frames, work.turns, work.owners, np.int64(work.shard))
        scratch = (self._packets, self._places)
        sides = (work.datagrams, work.outcomes)
        done = 0
        while True:
            status, done = run_share(self.state, job, work.data, done, scratch, sides)
            if status == DONE:
                break
            self._make_room(int(status))
        self.pass_time(int(all_turns["now"][-1]), int(all_turns["number"][-1]))
        self._drain_logs()
        self._turns = None

    def run_apart(self, work: Work, all_turns: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        """The same where this shard has no memory in common with others: the rewritten data and the outcomes."""
        self.run(work, all_turns)
        return work.data, work.outcomes

    def pass_time(self, until_ns: int, received: int) -> None:
        """Let time pass within the minute, when so many packets have been received by all."""
        self.state.clock[0]["received"] = received
        while (status := pass_time(self.state, np.int64(until_ns))) == DRAIN_LOG:
            self._make_room(int(status))

    def begin_minute(self, start_ns: int) -> None:
        """Count a new minute, from `start_ns` on."""
        begin_minute(self.state, start_ns)
        set_stop(self.state)

    def take_place(self) -> None:
        """Let the next event take place; time has passed up to it."""
        clock = self.state.clock[0]
        number, moment = int(clock["events"]), np.int64(clock["next_event"])
        rows, how = take_place(self.state, self._topology, self._seed, self._events[number])
        done = 0
        while done < len(rows):
            done = end_rows(self.state, rows, done, how, moment, np.int64(BY_EVENT + number))
            if done < len(rows):
                self._drain_logs()
        clock["events"] = number + 1
        set_stop(self.state)

    def tell(self, batch: PacketBatch, datagram: int) -> NDArray[Any]:
        """What this shard takes the only packet of a batch for (a row of PACKET): if it has the session, a reply."""
        packets = np.zeros(1, PACKET)
        classify(self.state, batch.frames[0], batch.data, packets[0])
        tell_direction(self.state, batch.frames[0], batch.data, packets[0], np.int64(datagram))
        return packets

    # --- what is told --------------------------------------------------------------------------------------------

    def figures(self) -> Figures:
        """All counters, as they stand."""
        return Figures(**{name: getattr(self.state, name) for name in Figures.__dataclass_fields__})

    def take_ended(self) -> NDArray[Any]:
        """Rows of ENDED since the last call, in order of their end."""
        self._drain_logs()
        taken = np.concatenate(self._ended) if self._ended else np.zeros(0, ENDED)
        self._ended.clear()
        return taken

    def take_resets(self) -> NDArray[Any]:
        """Rows of IDLE_RESET since the last call, in order."""
        self._drain_logs()
        taken = np.concatenate(self._resets) if self._resets else np.zeros(0, IDLE_RESET)
        self._resets.clear()
        return taken

    def live_sessions(self) -> NDArray[Any]:
        """Rows of ENDED of the sessions that are alive, in order of id."""
        entries = np.zeros(int(self.state.clock[0]["live"]), ENDED)
        list_live(self.state, entries, 0)
        return entries[np.argsort(entries["id"], kind="stable")]

    def session_memory(self) -> int:
        """Bytes of the session table that are in use: rows, timers, index (not the NAT pools)."""
        state = self.state
        row = sum(a.itemsize for a in (state.sessions, state.session_ends, state.timers))
        return int(state.clock[0]["rows"]) * row + state.cells.nbytes

    def _drain_logs(self) -> None:
        clock = self.state.clock[0]
        if clock["logged"]:
            self._ended.append(self.state.log[: clock["logged"]].copy())
            clock["logged"] = 0
        if clock["resets"]:
            rows = self.state.resets[: clock["resets"]].copy()
            if self._turns is not None:  # the shard saw its own packets only: what had all received by then?
                rows["received"] = self._turns["number"][np.searchsorted(self._turns["now"], rows["moment"])] - 1
            self._resets.append(rows)
            clock["resets"] = 0
