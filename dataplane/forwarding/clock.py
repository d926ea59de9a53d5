"""The clock: the largest time seen so far (docs/model.md), and what is to be told of the frames' times."""

from typing import Any

import numpy as np

from dataplane.kernel import inlined, kernel
from dataplane.nat.life import set_stop
from dataplane.nat.timers import FOREVER, TICK_BITS
from dataplane.packets.batch import FIRST_TIME, LAST_TIME, TIME_UNREPRESENTABLE, WAITED

#: A minute in nanoseconds: the grain of the metrics.
MINUTE = 60_000_000_000


@kernel
def start(state: Any, now: Any) -> None:
    """The first packet sets the clock, the wheel and the minute."""
    clock = state.clock[0]
    clock["started"] = 1
    clock["now"] = now
    clock["origin"] = now
    clock["tick"] = now >> TICK_BITS
    clock["minute_end"] = (now // MINUTE + 1) * MINUTE
    set_stop(state)
    for nat_ip in range(len(state.nat_ips)):
        state.nat_ips[nat_ip]["since"] = now


@inlined
def is_due(state: Any, now: Any) -> Any:
    """Whether something may have to happen before a packet at `now`."""
    clock = state.clock[0]
    return now >= clock["next_due"] or now >= clock["stop"]


@inlined
def time_of(clock: Any, frame: Any) -> Any:
    """What the clock will say at a frame."""
    time = frame["time_ns"]
    if is_usable(frame) and (time > clock["now"] or clock["started"] == 0):
        return time
    return clock["now"]


@inlined
def is_usable(frame: Any) -> Any:
    """Whether a frame's time is one that a clock can have."""
    return frame["flags"] & TIME_UNREPRESENTABLE == 0 and FIRST_TIME <= frame["time_ns"] <= LAST_TIME


@inlined
def keep_time(clock: Any, frame: Any, now: Any) -> None:
    """A frame has been received at `now`: move the clock, and keep what is to be told of the frames' times."""
    if is_usable(frame):
        if frame["time_ns"] < now:
            if frame["flags"] & WAITED == 0:
                clock["backward_times"] += 1
        else:
            jump = now - clock["now"]
            if jump < 0:
                jump = np.int64(FOREVER)  # more than 292 years
            if jump > clock["largest_jump"]:
                clock["largest_jump"] = jump
    else:
        clock["unusable_times"] += 1
    clock["now"] = now
    clock["received"] += 1
