"""Clients' connections as kernels see them: which begin, which have a step due, what follows from what became of it.

Time is cut into slices, no longer than a round-trip: the least time between two steps of a connection. A slice goes
through three kernels: `prepare` (which connections begin, which have a step due, in order of time), `emit` in
`runs/frames.py` (the packets of these steps), and, when the simulator has said what became of them, `follow` (when the
next steps are). Every random number depends on the source's key and the connection's number alone, and a client's
port becomes free in a step of its own, so the slice never shows.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.bundle import Bundle
from dataplane.kernel import inlined, kernel, trailing_zeros
from dataplane.nat.hashing import GOLDEN, mix
from dataplane.packets.headers import PROTOCOL_TCP
from dataplane.verdict import Verdict

_FORWARDED = int(Verdict.FORWARDED)

#: Later than anything.
NEVER = 2**62

#: The ephemeral ports of a Linux client: 32768 to 60999.
FIRST_EPHEMERAL, EPHEMERAL_PORTS = 32_768, 28_232

#: The calendar's buckets; a step that is further away lies in a bucket that comes up more than once.
BUCKETS = 1 << 16

# --- steps: what a connection does at one moment ----------------------------------------------------------------
OPEN = 0  # SYN; the request's datagrams
ANSWER = 1  # SYN-ACK, ACK, the request's segments
RESPONSE = 2  # the response's packets
KEEP = 3  # a keep-alive of the client
KEEP_REPLY = 4
END = 5  # FIN or RST; the last datagram
FIN_REPLY = 6  # FIN of the server, ACK of the client
RELEASE = 7  # the client's port is free again

# --- how a connection ends ----------------------------------------------------------------------------------------
ENDS_FIN, ENDS_RST, ENDS_NEVER = 0, 1, 2

# --- lives ----------------------------------------------------------------------------------------------------------
FIXED, EXPONENTIAL, LOG_NORMAL, PARETO = 0, 1, 2, 3

# --- which random number of a connection --------------------------------------------------------------------------
_GAP, _LIFE, _LIFE_TOO, _END, _NUMBERS = (np.uint64(i) for i in range(1, 6))
_11 = np.uint64(11)
_32 = np.uint64(32)
_NONE = np.uint64(0)
_ONE = np.uint64(1)
_LOW = np.uint64(0xFFFFFFFF)
_FULL = np.uint64(0xFFFFFFFFFFFFFFFF)

_TIME_WAIT = 60_000_000_000  # Linux
_LONGEST_LIFE = 10.0 * 365 * 86_400 * 1e9
_SECOND = 1_000_000_000

#: One traffic source: its settings, then where it stands, then what it has counted.
SOURCE = np.dtype(
    [
        ("key", np.uint64),
        ("address", np.int64),  # of the endpoint
        ("port", np.int64),
        ("protocol", np.int64),
        ("point", np.int64),
        ("first_host", np.int64),  # into Traffic.hosts
        ("hosts", np.int64),
        ("first_word", np.int64),  # into Traffic.busy: a bit per (port, host)
        ("first_segment", np.int64),  # into Traffic.segments
        ("segments", np.int64),
        ("period", np.int64),  # after which the segments come again; 0: never
        ("even", np.int64),  # arrivals are evenly spaced
        ("first_time", np.int64),  # into Traffic.times
        ("times", np.int64),  # how many moments are given; 0: the segments say when
        ("until", np.int64),  # no arrival at or after
        ("round_trip", np.int64),
        ("answer", np.int64),
        ("retries", np.int64),
        ("keep_alive", np.int64),  # the idle time after which one is sent, 0: none
        ("life", np.int64),
        ("scale", np.float64),  # of the distribution, nanoseconds
        ("shape", np.float64),
        ("fin", np.float64),  # shares of connections
        ("fin_or_rst", np.float64),
        ("request_packets", np.int64),
        ("request_bytes", np.int64),
        ("response_packets", np.int64),
        ("response_bytes", np.int64),
        # where it stands
        ("next_time", np.int64),
        ("number", np.int64),  # of the next connection, from 0
        ("segment", np.int64),  # or the next of the given moments
        ("cycle", np.int64),  # when the current round of segments, or of moments, began
        ("passed", np.float64),  # connections expected since the segment began
        ("cursor", np.int64),  # the client tuple to be tried next
        ("busy", np.int64),  # client tuples in use
        # counts
        ("started", np.int64),
        ("opened", np.int64),  # by a session of their own
        ("reused", np.int64),  # their first packet went to a session that was still alive
        ("refused", np.int64),  # first packets that were dropped
        ("retried", np.int64),
        ("failed", np.int64),  # connections whose every first packet was dropped
        ("broken", np.int64),  # a later packet was dropped
        ("completed", np.int64),
        ("no_client_port", np.int64),
    ]
)

#: One connection: a cache line.
CONNECTION = np.dtype(
    [
        ("time", np.int64),  # of its step
        ("later", np.int64),  # of the step after that, if all goes well; NEVER: there is none
        ("begin", np.int64),  # its first packet; once it is open, the one that was let through
        ("life", np.int64),
        ("order", np.int64),  # source << 48 | number
        ("client_next", np.uint32),  # TCP sequence numbers
        ("server_next", np.uint32),
        ("slot", np.int32),  # its client's address and port; -1 before it has one
        ("next", np.int32),  # in its bucket, or among the rows that are free
        ("frame", np.int32),  # the first packet of its step among those just made, -1: it has none
        ("step", np.uint8),
        ("later_step", np.uint8),
        ("ending", np.uint8),
        ("tries", np.uint8),
    ],
    align=True,
)
assert CONNECTION.itemsize == 64

#: A step of the slice at hand.
STEP = np.dtype([("time", np.int64), ("order", np.int64), ("row", np.int64)])

#: A stretch of time in which the rate changes evenly, times in nanoseconds, rates per second.
SEGMENT = np.dtype([("begin", np.int64), ("length", np.int64), ("rate", np.float64), ("last_rate", np.float64)])

#: The table's and the calendar's state.
STATUS = np.dtype(
    [
        ("rows", np.int64),  # rows of the table ever used
        ("free", np.int64),  # the first row that is free again, -1: none
        ("origin", np.int64),  # when the run begins
        ("length", np.int64),  # of a slice, nanoseconds
        ("stop", np.int64),  # no packet at or after
        ("slice", np.int64),  # the number of the slice at hand
        ("steps", np.int64),  # in it
        ("received", np.int64),  # packets sent so far
    ]
)

#: What `prepare` asks for: steps are ready, there are none before the end, the table has to grow.
READY, NOTHING, GROW = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Traffic(Bundle):
    """All arrays of the generator."""

    status: NDArray[Any]
    sources: NDArray[Any]
    segments: NDArray[Any]
    times: NDArray[np.int64]  # of captured connections, from the beginning of a round
    hosts: NDArray[np.int64]
    busy: NDArray[np.uint64]
    connections: NDArray[Any]
    buckets: NDArray[np.int32]
    steps: NDArray[Any]
    spare: NDArray[Any]  # for sorting, as long as steps


@inlined
def _draw(key: Any, number: Any, which: Any) -> Any:
    """A 64-bit random number: the `which`th of the `number`th connection."""
    return mix(mix(key + np.uint64(number) * GOLDEN) + which * GOLDEN)


@inlined
def _uniform(key: Any, number: Any, which: Any) -> Any:
    """A random number between 0 and 1, both excluded."""
    return (np.float64(_draw(key, number, which) >> _11) + 0.5) * (1.0 / 9007199254740992.0)


# --- arrivals -------------------------------------------------------------------------------------------------------


@kernel
def next_arrival(traffic: Any, which: Any) -> None:
    """Find when the source's next connection begins: the cumulated rate, inverted at the next point of a unit process.

    Points are a unit apart (the first at 0), or exponential gaps apart: then arrivals are a Poisson process.
    """
    source = traffic.sources[which]
    if source["times"] > 0:
        _next_given(traffic, source)
        return
    if source["even"]:
        gap = 1.0 if source["number"] > 0 else 0.0
    else:
        gap = -math.log(_uniform(source["key"], source["number"], _GAP))
    target = source["passed"] + gap
    source["next_time"] = NEVER
    while True:
        segment = traffic.segments[source["first_segment"] + source["segment"]]
        seconds = np.float64(segment["length"]) / 1e9
        rate, change = segment["rate"], segment["last_rate"] - segment["rate"]
        if source["cycle"] + segment["begin"] >= source["until"]:
            return
        area = (rate + 0.5 * change) * seconds
        if target < area:
            if change == 0.0:
                position = target / rate
            else:
                position = 2.0 * target / (rate + math.sqrt(rate * rate + 2.0 * target * change / seconds))
            source["passed"] = target
            time = source["cycle"] + segment["begin"] + np.int64(math.floor(position * 1e9 + 0.5))
            if time < source["until"]:
                source["next_time"] = time
            return
        target -= area
        source["passed"] = 0.0
        source["segment"] += 1
        if source["segment"] == source["segments"]:
            if source["period"] == 0:
                source["segment"] -= 1
                source["until"] = 0
                return
            source["segment"] = 0
            source["cycle"] += source["period"]


@inlined
def _next_given(traffic: Any, source: Any) -> None:
    """The same for connections that begin at given moments."""
    source["next_time"] = NEVER
    if source["segment"] == source["times"]:
        if source["period"] == 0:
            return
        source["segment"] = 0
        source["cycle"] += source["period"]
    time = source["cycle"] + traffic.times[source["first_time"] + source["segment"]]
    source["segment"] += 1
    if time < source["until"]:
        source["next_time"] = time


@inlined
def _life_of(source: Any, number: Any) -> Any:
    """How long a connection lives, nanoseconds."""
    kind = source["life"]
    scale, shape = source["scale"], source["shape"]
    if kind == FIXED:
        return np.int64(scale)
    first = _uniform(source["key"], number, _LIFE)
    if kind == EXPONENTIAL:
        life = -scale * math.log(first)
    elif kind == LOG_NORMAL:
        angle = 2.0 * math.pi * _uniform(source["key"], number, _LIFE_TOO)
        life = scale * math.exp(shape * math.sqrt(-2.0 * math.log(first)) * math.cos(angle))
    else:
        life = scale * math.exp(-math.log(first) / shape)
    return np.int64(min(life, _LONGEST_LIFE))


@inlined
def _begin(traffic: Any, which: Any) -> None:
    """A connection begins: a row of the table, with what chance decides of it."""
    status = traffic.status[0]
    row = status["free"]
    if row >= 0:
        status["free"] = np.int64(traffic.connections[row]["next"])
    else:
        row = status["rows"]
        status["rows"] += 1
    source = traffic.sources[which]
    number = source["number"]
    connection = traffic.connections[row]
    connection["time"] = source["next_time"]
    connection["begin"] = source["next_time"]
    connection["life"] = _life_of(source, number)
    connection["order"] = (np.int64(which) << 48) | number
    numbers = _draw(source["key"], number, _NUMBERS)
    connection["client_next"] = np.int64(numbers & _LOW)
    connection["server_next"] = np.int64(numbers >> _32)
    connection["slot"] = -1
    connection["step"] = OPEN
    connection["tries"] = 0
    chance = _uniform(source["key"], number, _END)
    if chance < source["fin"]:
        connection["ending"] = ENDS_FIN
    else:
        connection["ending"] = ENDS_RST if chance < source["fin_or_rst"] else ENDS_NEVER
    source["number"] += 1
    _add_step(traffic, row)


# --- the calendar ---------------------------------------------------------------------------------------------------


@kernel
def prepare(traffic: Any) -> Any:
    """Find the next slice before the stop in which something happens; its steps, in order, are then in `steps`.

    Returns READY, NOTHING, or GROW: then the table has to grow, and the call to be repeated.
    """
    status = traffic.status[0]
    while status["steps"] == 0:
        if not _seek(traffic):
            return NOTHING
        _collect(traffic)
        if not _collect_new(traffic):
            return GROW
        if status["steps"] == 0:
            if _is_cut(status):
                return NOTHING
            status["slice"] += 1
    if not _collect_new(traffic):  # after GROW: those that had no room
        return GROW
    _sort(traffic, status["steps"])
    return READY


@inlined
def _slice_end(status: Any) -> Any:
    return status["origin"] + (status["slice"] + 1) * status["length"]


@inlined
def _is_cut(status: Any) -> Any:
    """Whether the slice goes on after the stop."""
    return _slice_end(status) > status["stop"]


@inlined
def _collect(traffic: Any) -> None:
    """The connections of the slice's bucket whose step is due."""
    status = traffic.status[0]
    end = min(_slice_end(status), status["stop"])
    bucket = status["slice"] & (BUCKETS - 1)
    row = np.int64(traffic.buckets[bucket])
    traffic.buckets[bucket] = -1
    while row >= 0:
        connection = traffic.connections[row]
        following = np.int64(connection["next"])
        if connection["time"] < end:
            _add_step(traffic, row)
        else:  # it comes due when the bucket comes up again
            connection["next"] = traffic.buckets[bucket]
            traffic.buckets[bucket] = row
        row = following


@inlined
def _collect_new(traffic: Any) -> Any:
    """The connections that begin in the slice; False if there is no room for one."""
    status = traffic.status[0]
    end = min(_slice_end(status), status["stop"])
    for which in range(len(traffic.sources)):
        while traffic.sources[which]["next_time"] < end:
            if status["free"] < 0 and status["rows"] == len(traffic.connections):
                return False
            _begin(traffic, which)
            next_arrival(traffic, which)
    return True


@inlined
def _seek(traffic: Any) -> Any:
    """Go to the next slice that may have something; whether there is one before the stop."""
    status = traffic.status[0]
    last = (status["stop"] - status["origin"] + status["length"] - 1) // status["length"]
    first = np.int64(NEVER)
    for which in range(len(traffic.sources)):
        first = min(first, traffic.sources[which]["next_time"])
    stop = min(last, (first - status["origin"]) // status["length"])
    number = status["slice"]
    while number < stop and traffic.buckets[number & (BUCKETS - 1)] < 0:
        number += 1
    status["slice"] = number
    return number < last


@inlined
def _add_step(traffic: Any, row: Any) -> None:
    """Append a connection's step to those of the slice. There is a place for every row of the table."""
    status = traffic.status[0]
    connection = traffic.connections[row]
    step = traffic.steps[status["steps"]]
    step["time"] = connection["time"]
    step["order"] = connection["order"]
    step["row"] = row
    status["steps"] += 1


@inlined
def _before(one: Any, other: Any) -> Any:
    """Whether a step comes before another: by time, then by source and connection."""
    return one["time"] < other["time"] or (one["time"] == other["time"] and one["order"] < other["order"])


@inlined
def _copy(from_steps: Any, here: Any, to_steps: Any, there: Any) -> None:
    old, new = from_steps[here], to_steps[there]
    new["time"] = old["time"]
    new["order"] = old["order"]
    new["row"] = old["row"]


@inlined
def _sort(traffic: Any, count: Any) -> None:
    """Sort the steps: by insertion in runs of 16, then by merging, `spare` holding the first of two runs."""
    steps, spare = traffic.steps, traffic.spare
    for start in range(0, count, 16):
        for i in range(start + 1, min(start + 16, count)):
            if _before(steps[i], steps[i - 1]):
                _copy(steps, i, spare, 0)
                j = i
                while j > start and _before(spare[0], steps[j - 1]):
                    _copy(steps, j - 1, steps, j)
                    j -= 1
                _copy(spare, 0, steps, j)
    width = 16
    while width < count:
        for start in range(0, count - width, 2 * width):
            middle, end = start + width, min(start + 2 * width, count)
            if _before(steps[middle], steps[middle - 1]):
                _merge(steps, spare, start, middle, end)
        width *= 2


@inlined
def _merge(steps: Any, spare: Any, start: Any, middle: Any, end: Any) -> None:
    for i in range(start, middle):
        _copy(steps, i, spare, i - start)
    left, right, place = 0, middle, start
    while left < middle - start:
        if right < end and _before(steps[right], spare[left]):
            _copy(steps, right, steps, place)
            right += 1
        else:
            _copy(spare, left, steps, place)
            left += 1
        place += 1


@inlined
def _schedule(traffic: Any, row: Any, step: Any, time: Any) -> None:
    """Put a connection into the calendar."""
    status = traffic.status[0]
    connection = traffic.connections[row]
    connection["step"] = step
    connection["time"] = time
    bucket = ((time - status["origin"]) // status["length"]) & (BUCKETS - 1)
    connection["next"] = traffic.buckets[bucket]
    traffic.buckets[bucket] = row


# --- clients' ports -------------------------------------------------------------------------------------------------


@inlined
def take_slot(traffic: Any, source: Any) -> Any:
    """The next free client address and port after the last one given, as a number; -1: all are in use."""
    total = source["hosts"] * EPHEMERAL_PORTS
    if source["busy"] == total:
        return np.int64(-1)
    slot = source["cursor"]
    while True:
        if slot >= total:
            slot = np.int64(0)
        free = (traffic.busy[source["first_word"] + (slot >> 6)] ^ _FULL) >> np.uint64(slot & 63)
        if free == _NONE:
            slot = ((slot >> 6) + 1) << 6
        else:
            slot += trailing_zeros(free)
            if slot < total:
                break
    traffic.busy[source["first_word"] + (slot >> 6)] |= _ONE << np.uint64(slot & 63)
    source["busy"] += 1
    source["cursor"] = slot + 1
    return slot


@inlined
def give_slot(traffic: Any, source: Any, slot: Any) -> None:
    """A client's port is free again."""
    word = source["first_word"] + (slot >> 6)
    traffic.busy[word] = traffic.busy[word] & ((_ONE << np.uint64(slot & 63)) ^ _FULL)
    source["busy"] -= 1


# --- what comes next ------------------------------------------------------------------------------------------------


@inlined
def plan(source: Any, connection: Any) -> None:
    """Say which step comes after the one at hand, if all goes well."""
    step, now = connection["step"], connection["time"]
    soon = now + source["round_trip"]
    tcp = source["protocol"] == PROTOCOL_TCP
    following, time = RELEASE, np.int64(NEVER)
    if step == OPEN and tcp:
        following, time = ANSWER, soon
    elif (step == ANSWER or step == OPEN) and source["response_packets"] > 0 and source["answer"]:
        following, time = RESPONSE, soon
    elif step == KEEP and source["answer"]:
        following, time = KEEP_REPLY, soon
    elif step == END:
        if tcp and connection["ending"] == ENDS_FIN:
            following, time = FIN_REPLY, soon
    elif step == FIN_REPLY:
        following, time = RELEASE, now + _TIME_WAIT
    elif step != RELEASE:
        end = connection["begin"] + connection["life"]
        if source["keep_alive"] > 0 and now + source["keep_alive"] < end:
            following, time = KEEP, now + source["keep_alive"]
        elif tcp or end > now:
            following, time = END, max(end, soon)
    connection["later_step"] = following
    connection["later"] = time


@kernel
def follow(traffic: Any, outcomes: Any, begin: Any, end: Any) -> None:
    """The simulator has judged the packets of the steps from `begin` to before `end`: what do clients do next?"""
    status = traffic.status[0]
    for place in range(begin, end):
        row = traffic.steps[place]["row"]
        connection = traffic.connections[row]
        source = traffic.sources[connection["order"] >> 48]
        frame = np.int64(connection["frame"])
        forwarded = frame < 0 or outcomes[frame]["verdict"] == _FORWARDED
        step = connection["step"]
        if connection["slot"] < 0:  # there was no port for it
            _forget(traffic, row)
        elif step == OPEN and not _is_open(source, connection, outcomes, status["received"]):
            if source["protocol"] == PROTOCOL_TCP and connection["tries"] < source["retries"]:
                connection["tries"] += 1
                _schedule(traffic, row, OPEN, connection["begin"] + ((2 << (connection["tries"] - 1)) - 1) * _SECOND)
            else:
                if forwarded:
                    source["completed"] += 1
                else:
                    source["failed"] += 1
                _leave(traffic, row, source)
        elif not forwarded:
            source["broken"] += 1
            _leave(traffic, row, source)
        else:
            if step == OPEN:
                connection["begin"] = connection["time"]
            if step != RELEASE and connection["later_step"] == RELEASE:
                source["completed"] += 1
            if connection["later"] == NEVER:
                _forget(traffic, row)
            else:
                _schedule(traffic, row, connection["later_step"], connection["later"])
    if end == status["steps"]:
        status["steps"] = 0
        if not _is_cut(status):
            status["slice"] += 1


@inlined
def _is_open(source: Any, connection: Any, outcomes: Any, received: Any) -> Any:
    """Whether a connection is open after its first packet, or the repetition of it; counts what became of that."""
    frame = np.int64(connection["frame"])
    if connection["tries"] > 0:
        source["retried"] += 1
    if outcomes[frame]["verdict"] != _FORWARDED:
        source["refused"] += 1
        return False
    if outcomes[frame]["session"] == received + frame + 1:
        source["opened"] += 1
    elif connection["tries"] == 0:
        source["reused"] += 1
    return source["answer"] != 0 or source["protocol"] != PROTOCOL_TCP


@inlined
def _leave(traffic: Any, row: Any, source: Any) -> None:
    """A client gives up; its port is free a round-trip later, or was freed with the last step."""
    connection = traffic.connections[row]
    if connection["later"] == NEVER:
        _forget(traffic, row)
    else:
        _schedule(traffic, row, RELEASE, connection["time"] + source["round_trip"])


@inlined
def _forget(traffic: Any, row: Any) -> None:
    """A row of the table is free again."""
    status = traffic.status[0]
    traffic.connections[row]["next"] = status["free"]
    status["free"] = row
