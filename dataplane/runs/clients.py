"""What clients do: the ports that they use, and the step that follows another.

A client goes on when its packet was forwarded, repeats a SYN that was not, and gives up a connection that is lost.
"""

from typing import Any

import numpy as np

from dataplane.kernel import inlined, kernel, trailing_zeros
from dataplane.packets.headers import PROTOCOL_TCP
from dataplane.runs.calendar import is_cut, schedule
from dataplane.runs.connections import (
    ANSWER,
    END,
    ENDS_FIN,
    EPHEMERAL_PORTS,
    FIN_REPLY,
    KEEP,
    KEEP_REPLY,
    NEVER,
    OPEN,
    RELEASE,
    RESPONSE,
)
from dataplane.runs.payload import response_of
from dataplane.verdict import Verdict

_FORWARDED = int(Verdict.FORWARDED)

_SECOND = 1_000_000_000
_TIME_WAIT = 60 * _SECOND  # Linux

_NONE = np.uint64(0)
_ONE = np.uint64(1)
_FULL = np.uint64(0xFFFFFFFFFFFFFFFF)


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
def plan(traffic: Any, source: Any, connection: Any) -> None:
    """Say which step comes after the one at hand, if all goes well."""
    step, now = connection["step"], connection["time"]
    soon = now + source["round_trip"]
    tcp = source["protocol"] == PROTOCOL_TCP
    following, time = RELEASE, np.int64(NEVER)
    if step == OPEN and tcp:
        following, time = ANSWER, soon
    elif (step == ANSWER or step == OPEN) and source["answer"] and response_of(traffic, source, connection)[0] > 0:
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
                delay = ((np.int64(1) << np.int64(connection["tries"])) - 1) * _SECOND
                schedule(traffic, row, OPEN, connection["begin"] + delay)
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
                schedule(traffic, row, connection["later_step"], connection["later"])
    if end == status["steps"]:
        status["steps"] = 0
        if not is_cut(status):
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
        schedule(traffic, row, RELEASE, connection["time"] + source["round_trip"])


@inlined
def _forget(traffic: Any, row: Any) -> None:
    """A row of the table is free again."""
    status = traffic.status[0]
    traffic.connections[row]["next"] = status["free"]
    status["free"] = row
