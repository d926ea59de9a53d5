"""Times of pcapng interfaces: any resolution (10^-n, 2^-n, n up to 127) and offset, exact in 64 bits.

A packet's time is an unsigned 64-bit count of units since 1970, `if_tsresol` says the unit, `if_tsoffset`
adds whole seconds (draft-ietf-opsawg-pcapng, section 4.2). What is finer than a nanosecond is cut off.
Microseconds and the like are one multiplication; everything else takes the long way: whole seconds and
the rest apart, unsigned where numbers may fill 64 bits.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.kernel import kernel

#: What the scan knows of one interface of the section at hand.
CLOCK = np.dtype(
    [
        ("link_type", np.int64),
        ("index", np.int64),  # in the capture's interfaces, over all sections
        ("snaplen", np.int64),  # 0: no limit
        ("fast_limit", np.int64),  # ticks up to here are fast_factor * ticks + fast_offset nanoseconds
        ("fast_factor", np.int64),
        ("fast_offset", np.int64),
        ("seconds_divisor", np.uint64),  # ticks per second; 0: more than fit, no tick count has a second
        ("binary", np.int64),  # n of 2^-n; -1: decimal
        ("factor", np.uint64),  # decimal: nanoseconds are rest * factor // divisor
        ("divisor", np.uint64),  # 0: below a nanosecond, always
        ("offset", np.uint64),  # seconds, absolute value
        ("offset_negative", np.int64),
    ]
)

_NANO = 10**9
_LARGEST = 2**63 - 1


def clock(link_type: int, index: int, snaplen: int, resolution: int, offset: int) -> NDArray[Any]:
    """The `CLOCK` row of an interface: `resolution` is the if_tsresol byte, `offset` signed seconds."""
    row = np.zeros(1, CLOCK)
    row["link_type"], row["index"], row["snaplen"] = link_type, index, snaplen
    row["offset"], row["offset_negative"] = abs(offset), offset < 0
    exponent = resolution & 0x7F
    row["fast_limit"] = -1
    if resolution & 0x80:
        row["binary"] = exponent
        row["seconds_divisor"] = 2**exponent if exponent < 64 else 0
        return row
    row["binary"] = -1
    row["seconds_divisor"] = 10**exponent if exponent <= 19 else 0
    row["factor"] = 10 ** max(9 - exponent, 0)
    finer = 10 ** max(exponent - 9, 0)
    row["divisor"] = finer if finer < 2**64 else 0
    if exponent <= 9 and abs(offset) < 2**32:
        factor = 10 ** (9 - exponent)
        row["fast_factor"], row["fast_offset"] = factor, offset * _NANO
        row["fast_limit"] = (_LARGEST - max(offset, 0) * _NANO) // factor
    return row


@kernel
def nanoseconds(clocks: Any, which: Any, high: Any, low: Any) -> Any:
    """(nanoseconds since 1970, true) of the tick count high << 32 | low; (0, false) if beyond int64."""
    row = clocks[which]
    if high < 0x80000000:
        ticks = (high << 32) | low
        if ticks <= row["fast_limit"]:
            return ticks * row["fast_factor"] + row["fast_offset"], True
    count = (np.uint64(high) << np.uint64(32)) | np.uint64(low)
    per_second = row["seconds_divisor"]
    seconds = np.uint64(0)
    rest = count
    if per_second != np.uint64(0):
        seconds = count // per_second
        rest = count - seconds * per_second
    binary = row["binary"]
    billion = np.uint64(1_000_000_000)
    if binary < 0:
        fraction = np.uint64(0)
        if row["divisor"] != np.uint64(0):
            fraction = rest * row["factor"] // row["divisor"]
    elif binary <= 34:
        fraction = (rest * billion) >> np.uint64(binary)
    else:
        # rest * 10^9 has up to 94 bits: the low half's share is carried over by hand, which loses nothing.
        word = np.uint64(0xFFFFFFFF)
        upper = (rest >> np.uint64(32)) * billion
        upper += ((rest & word) * billion) >> np.uint64(32)
        fraction = upper >> np.uint64(min(binary - 32, 63))
    offset = row["offset"]
    if row["offset_negative"] == 0:
        span = seconds + offset
        below = False
        fits = seconds < np.uint64(1 << 40) and offset < np.uint64(1 << 40)
    elif seconds >= offset:
        span = seconds - offset
        below = False
        fits = span < np.uint64(1 << 40)
    else:
        span = offset - seconds
        below = True
        fits = span < np.uint64(1 << 40)
    if not fits:
        return np.int64(0), False
    whole, part = np.int64(span), np.int64(fraction)
    if below:
        if whole > 9_223_372_037 or (whole == 9_223_372_037 and part < 145_224_192):
            return np.int64(0), False
        return (1 - whole) * 1_000_000_000 + (part - 1_000_000_000), True
    if whole > 9_223_372_036 or (whole == 9_223_372_036 and part > 854_775_807):
        return np.int64(0), False
    return whole * 1_000_000_000 + part, True
