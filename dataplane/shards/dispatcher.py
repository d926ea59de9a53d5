"""The dispatcher: it numbers, times and sorts out the packets of several shards.

Nothing that decides about a session is shared between backends, so shards give the same bytes as one worker does, in
whatever order they are run (docs/scale.md). What decides about all of them is the dispatcher's: the clock, the packets'
numbers, where minutes end, which fragments belong together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.forwarding.clock import start, time_of
from dataplane.forwarding.events import take_place
from dataplane.forwarding.share import ASK_ALL, follow_datagrams, owner_of, sort_out, take_turns
from dataplane.forwarding.tables import build_state, events_of
from dataplane.memory import apart
from dataplane.metrics.series import MINUTE_NS
from dataplane.nat.fragments import OVERLAP, UNRESOLVED
from dataplane.nat.life import set_stop
from dataplane.packets.batch import PacketBatch
from dataplane.records import CAPTURED_REPLY, FIRST_FRAGMENT, LATER_FRAGMENT, PACKET, TURN, State
from dataplane.shards.crew import Crew
from dataplane.shards.merge import merged
from dataplane.shards.shard import EndMinute, Settings, Work

#: Packets that are sorted out at a time: enough to make the hand-over cheap, few enough to stay in a cache.
CHUNK = 1 << 17

_NOTHING = np.zeros(0, np.int32)


class Dispatcher:
    """The same as one `Shard` with all backends, by as many shards as the crew has members."""

    def __init__(self, settings: Settings, crew: Crew) -> None:
        self._crew = crew
        crew.start(settings)
        # A state of which only the topology counts, and where a pool's host is its shard. Nothing is asked of the
        # memory of its sessions and ports.
        front = build_state(settings.topology, settings.seed, logging=False, rows=1)
        pools = front.pools.copy()
        pools["capacity"] = 0
        pools["host"] %= crew.size
        self.front = front.replace(pools=pools)
        self._topology, self._seed = settings.topology, settings.seed
        self._events = events_of(settings.topology)
        self._clock = front.clock
        self._packets = [apart(np.zeros(1, PACKET)) for _ in range(crew.size)]
        self._owners = np.zeros(CHUNK, np.int16)
        self._turns = np.zeros(CHUNK, TURN)
        self._carriers = np.zeros(len(front.datagrams), np.int16)

    @property
    def clock(self) -> Any:
        """The row of CLOCK: what it has of time and of packets received."""
        return self._clock[0]

    # --- packets and time --------------------------------------------------------------------------------------

    def feed(self, batch: PacketBatch, outcomes: NDArray[Any], end_minute: EndMinute) -> None:
        """Send a whole batch, rewriting it in place; rows of `outcomes` are filled if there are any."""
        frames = batch.frames
        clock = self._clock[0]
        begin = 0
        while begin < len(frames):
            if not clock["started"]:
                self.start(int(time_of(clock, frames[0])[0]))
            end = int(take_turns(clock, frames, begin, self._turns))
            if end == begin:
                self._pass_stop(end_minute, int(frames["time_ns"][begin]))
            else:
                self._treat(batch, outcomes, begin, end)
            begin = end

    def start(self, now_ns: int) -> None:
        """Time begins at `now_ns`."""
        start(self.front, np.int64(now_ns))
        self._crew.each("start", now_ns)

    def advance(self, now_ns: int, end_minute: EndMinute) -> None:
        """Let time pass up to `now_ns`, once it has begun; the clock moves there."""
        clock = self._clock[0]
        if clock["started"]:
            now = max(now_ns, int(clock["now"]))
            while now >= clock["stop"]:
                self._pass_stop(end_minute, now)
            self._pass_time(now)
            clock["now"] = now

    def _pass_time(self, until_ns: int) -> None:
        self._crew.each("pass_time", until_ns, int(self._clock[0]["received"]))

    def _pass_stop(self, end_minute: EndMinute, until_ns: int) -> None:
        """An event takes place or a minute ends, whichever comes first."""
        clock = self._clock[0]
        if clock["next_event"] < clock["minute_end"]:
            self._pass_time(int(clock["next_event"]))
            self._crew.each("take_place")
            take_place(self.front, self._topology, self._seed, self._events[int(clock["events"])])
            clock["events"] += 1
            set_stop(self.front)
            return
        self._pass_time(int(clock["minute_end"]) - 1)
        self.begin_minute(end_minute(self.state, until_ns))

    def begin_minute(self, start_ns: int) -> None:
        """Count a new minute, from `start_ns` on."""
        self._clock[0]["minute_end"] = start_ns + MINUTE_NS
        set_stop(self.front)
        self._crew.each("begin_minute", start_ns)

    def _treat(self, batch: PacketBatch, outcomes: NDArray[Any], begin: int, end: int) -> None:
        """Frames of one minute, no more than CHUNK of them."""
        size = end - begin
        frames, owners = batch.frames[begin:end], self._owners[:size]
        self._sort_out(frames, batch.data, owners)
        work = Work(
            shard=0,
            data=batch.data,
            frames=frames,
            turns=self._turns[:size],
            owners=owners,
            datagrams=_NOTHING if batch.datagrams is None else batch.datagrams[begin:end],
            outcomes=outcomes[begin:end],
        )
        done = 0
        for place in np.flatnonzero(owners == ASK_ALL).tolist():
            self._run(work, done, place)
            owners[place] = self._ask_all(work, place)
            done = place
        self._run(work, done, size)

    def _sort_out(self, frames: NDArray[Any], data: NDArray[np.uint8], owners: NDArray[np.int16]) -> None:
        bounds = np.linspace(0, len(frames), self._crew.hands(len(frames)) + 1).astype(np.int64)

        def part(number: int) -> None:
            span = (bounds[number], bounds[number + 1], np.int64(self._crew.size))
            sort_out(self.front, frames, data, owners, self._packets[number][0], span)

        self._crew.together(part, len(bounds) - 1)

    def _run(self, work: Work, begin: int, end: int) -> None:
        if begin == end:
            return
        rows = slice(begin, end)
        part = Work(
            work.shard,
            work.data,
            *(getattr(work, name)[rows] for name in ("frames", "turns", "owners", "datagrams", "outcomes")),
        )
        if len(part.datagrams):
            scratch = (self._packets[0][0], self._carriers)
            follow_datagrams(self.front, part.frames, part.data, part.owners, part.datagrams, scratch)
        self._crew.run(part)

    def _ask_all(self, work: Work, place: int) -> int:
        """Whose packet it is that is a reply if its session lives; all before it has been done."""
        clock = work.turns[place]
        self._crew.each("pass_time", int(clock["now"]), int(clock["number"]) - 1)
        frame = work.frames[place : place + 1].copy()
        content = PacketBatch(work.data, frame)[0]
        frame["offset"] = 0
        slot = int(work.datagrams[place]) if len(work.datagrams) else UNRESOLVED
        told = self._crew.each("tell", PacketBatch(np.frombuffer(content, np.uint8), frame), slot)
        kind = told[0]["kind"][0]
        if kind == LATER_FRAGMENT:
            return 0 if slot == UNRESOLVED else int(self._carriers[slot if slot >= 0 else OVERLAP - slot])
        replies = [shard for shard, packets in enumerate(told) if packets["direction"][0] == CAPTURED_REPLY]
        owner = replies[0] if replies else self._owner(told[0][0])
        if kind == FIRST_FRAGMENT and slot >= 0:
            self._carriers[slot] = owner
        return owner

    def _owner(self, packet: Any) -> int:
        return int(owner_of(self.front, packet, np.int64(0), np.int64(self._crew.size)))

    # --- what is told --------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """All that is counted, as one state; a copy, of which sessions and ports are nobody's."""
        return merged(self.front, self._crew.each("figures"))

    def take_ended(self) -> NDArray[Any]:
        """Rows of ENDED since the last call, in order of their end."""
        rows = np.concatenate(self._crew.each("take_ended"))
        return rows[np.lexsort((rows["id"], rows["cause"], rows["ended"]))]

    def take_resets(self) -> NDArray[Any]:
        """Rows of IDLE_RESET since the last call, in order."""
        rows = np.concatenate(self._crew.each("take_resets"))
        return rows[np.lexsort((rows["id"], rows["moment"]))]

    def live_sessions(self) -> NDArray[Any]:
        """Rows of ENDED of the sessions that are alive, in order of id."""
        rows = np.concatenate(self._crew.each("live_sessions"))
        return rows[np.argsort(rows["id"], kind="stable")]

    def session_memory(self) -> int:
        """Bytes of the session tables that are in use: rows, timers, index (not the NAT pools)."""
        return sum(self._crew.each("session_memory"))

