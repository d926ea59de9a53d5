"""The calendar: which steps of which connections come next, slice by slice, in order of time.

Every connection has one pending step. Those of one slice are a list that begins in `Traffic.buckets`.
"""

from typing import Any

import numpy as np

from dataplane.kernel import inlined, kernel
from dataplane.runs.arrivals import begin_connection, next_arrival
from dataplane.runs.connections import BUCKETS, GROW, NEVER, NOTHING, READY


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
            if is_cut(status):
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
def is_cut(status: Any) -> Any:
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
            _add_step(traffic, begin_connection(traffic, which))
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
def schedule(traffic: Any, row: Any, step: Any, time: Any) -> None:
    """Put a connection into the calendar."""
    status = traffic.status[0]
    connection = traffic.connections[row]
    connection["step"] = step
    connection["time"] = time
    bucket = ((time - status["origin"]) // status["length"]) & (BUCKETS - 1)
    connection["next"] = traffic.buckets[bucket]
    traffic.buckets[bucket] = row
