"""The clock: the largest time seen so far (docs/model.md), and what is to be told of the frames' times."""

from typing import Any

import numpy as np

from dataplane.kernel import inlined, kernel, unlikely
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
def is_calm(clock: Any, frame: Any) -> Any:
    """Whether the clock simply moves on to a frame's time, and nothing happens before it; as with most frames."""
    time = frame["time_ns"]
    return (
        frame["flags"] & TIME_UNREPRESENTABLE == 0
        and clock["now"] <= time <= LAST_TIME
        and time < clock["next_due"]
        and time < clock["stop"]
    )


@inlined
def is_due(state: Any, now: Any) -> Any:
    """Whether something may have to happen before a packet at `now`."""
    clock = state.clock[0]
    return now >= clock["next_due"] or now >= clock["stop"]


@inlined
def time_of(clock: Any, frame: Any) -> Any:
    """(What the clock will say at a frame, whether the frame says so): it does not if its time is earlier, or none."""
    time = frame["time_ns"]
    if unlikely(not is_usable(frame) or (time < clock["now"] and clock["started"] != 0)):
        return clock["now"], False
    return time, True


@inlined
def is_usable(frame: Any) -> Any:
    """Whether a frame's time is one that a clock can have."""
    return frame["flags"] & TIME_UNREPRESENTABLE == 0 and FIRST_TIME <= frame["time_ns"] <= LAST_TIME


@inlined
def keep_time(clock: Any, frame: Any, now: Any, is_ahead: Any) -> None:
    """A frame has been received: move the clock as `time_of` said, and keep what is to be told of the frames' times."""
    if is_ahead:
        jump = now - clock["now"]
        if unlikely(jump < 0):
            jump = np.int64(FOREVER)  # more than 292 years
        if unlikely(jump > clock["largest_jump"]):
            clock["largest_jump"] = jump
    elif not is_usable(frame):
        clock["unusable_times"] += 1
    elif frame["flags"] & WAITED == 0:
        clock["backward_times"] += 1
    clock["now"] = now
    clock["received"] += 1
