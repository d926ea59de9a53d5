"""When connections begin and how long they live: kernels that draw what chance decides.

A random number is a hash of the source's key, the connection's number and what it is for; nothing depends on order.
"""

import math
from typing import Any

import numpy as np

from dataplane.kernel import inlined, kernel
from dataplane.nat.hashing import GOLDEN, mix
from dataplane.runs.connections import (
    AS_RECORDED,
    ENDS_FIN,
    ENDS_NEVER,
    ENDS_RST,
    EXPONENTIAL,
    FIXED,
    LOG_NORMAL,
    NEVER,
    OPEN,
    SAMPLE,
)
from dataplane.runs.payload import recorded_row

# Which random number of a connection.
_GAP, _LIFE, _LIFE_TOO, _END, _NUMBERS = (np.uint64(i) for i in range(1, 6))
_11 = np.uint64(11)
_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)

_LONGEST_LIFE = 10.0 * 365 * 86_400 * 1e9


@inlined
def _draw(key: Any, number: Any, which: Any) -> Any:
    """A 64-bit random number: the `which`th of the `number`th connection."""
    return mix(mix(key + np.uint64(number) * GOLDEN) + which * GOLDEN)


@inlined
def _uniform(key: Any, number: Any, which: Any) -> Any:
    """A random number between 0 and 1, both excluded."""
    return (np.float64(_draw(key, number, which) >> _11) + 0.5) * (1.0 / 9007199254740992.0)


@kernel
def next_arrival(traffic: Any, which: Any) -> None:
    """Find when the source's next connection begins: the cumulated rate, inverted at the next point of a unit process.

    Points are a unit apart (the first at 0), or exponential gaps apart: then arrivals are a Poisson process.
    """
    source = traffic.sources[which]
    if source["recorded"] > 0:
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
    """The same for connections that are given."""
    source["next_time"] = NEVER
    if source["segment"] == source["recorded"]:
        if source["period"] == 0:
            return
        source["segment"] = 0
        source["cycle"] += source["period"]
    time = source["cycle"] + traffic.recorded[source["first_recorded"] + source["segment"]]["time"]
    source["segment"] += 1
    if time < source["until"]:
        source["next_time"] = time


@inlined
def _life_of(traffic: Any, source: Any, number: Any) -> Any:
    """How long a connection lives, nanoseconds."""
    kind = source["life"]
    if kind == AS_RECORDED:
        return traffic.recorded[recorded_row(source, number)]["life"]
    scale, shape = source["scale"], source["shape"]
    if kind == FIXED:
        return np.int64(scale)
    first = _uniform(source["key"], number, _LIFE)
    if kind == SAMPLE:
        return traffic.lives[source["first_life"] + np.int64(first * source["lives"])]
    if kind == EXPONENTIAL:
        life = -scale * math.log(first)
    elif kind == LOG_NORMAL:
        angle = 2.0 * math.pi * _uniform(source["key"], number, _LIFE_TOO)
        life = scale * math.exp(shape * math.sqrt(-2.0 * math.log(first)) * math.cos(angle))
    else:
        life = scale * math.exp(-math.log(first) / shape)
    return np.int64(min(life, _LONGEST_LIFE))


@inlined
def begin_connection(traffic: Any, which: Any) -> Any:
    """A connection begins: a row of the table, in which there has to be room, with what chance decides of it."""
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
    connection["life"] = _life_of(traffic, source, number)
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
    return row
