"""Text that kernels write: decimal numbers, IPv4 addresses, times and words, three digits at a time from a table.

Every function writes at `out[at:]` and returns the position after the text. It may leave up to three bytes of garbage
behind that, so `out` has to have room for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.capture.little_endian import store16_little, store32_little
from dataplane.kernel import kernel

_SECOND, _DAY = 1_000_000_000, 86_400
_ZEROS = 0x3030
_COLON, _DASH, _DOT, _T, _Z = ord(":"), ord("-"), ord("."), ord("T"), ord("Z")


def decimals() -> NDArray[np.uint32]:
    """The table that the others take: row 0 has 0 to 999 as text with dots after it, row 1 with zeros before it."""
    texts = [[f"{number:.<4}" for number in range(1000)], [f"{number:03}." for number in range(1000)]]
    return np.array([[int.from_bytes(text.encode(), "little") for text in row] for row in texts], np.uint32)


def letters(words: Sequence[str]) -> NDArray[np.uint8]:
    """Words as rows of UTF-8, padded with zeros, as `put_word` takes them."""
    codes = [word.encode("utf-8", "backslashreplace") for word in words]
    width = max(map(len, codes), default=0) + 1
    return np.array([list(code.ljust(width, b"\0")) for code in codes], np.uint8).reshape(-1, width)


@kernel
def put_word(out: Any, at: Any, words: Any, which: Any) -> Any:
    """Write a row of `letters`."""
    for letter in words[which]:
        if letter == 0:
            break
        out[at] = letter
        at += 1
    return at


@kernel
def _put_below_1000(out: Any, at: Any, value: Any, table: Any) -> Any:
    store32_little(out, at, np.int64(table[0, value]))
    return at + 1 + (value >= 10) + (value >= 100)


@kernel
def put_number(out: Any, at: Any, value: Any, table: Any) -> Any:
    """Write a number of at least 0 in decimal."""
    scale = np.int64(1)
    while value // scale >= 1000:
        scale *= 1000
    at = _put_below_1000(out, at, value // scale, table)
    while scale > 1:
        value %= scale
        scale //= 1000
        store32_little(out, at, np.int64(table[1, value // scale]))
        at += 3
    return at


@kernel
def put_address(out: Any, at: Any, address: Any, table: Any) -> Any:
    """Write an IPv4 address."""
    for shift in range(24, -8, -8):
        at = _put_below_1000(out, at, (address >> shift) & 255, table) + 1  # the table's dot
    return at - 1


@kernel
def _put_pair(out: Any, at: Any, value: Any, before: Any) -> Any:
    """Write a sign and two digits."""
    out[at] = before
    tens = value // 10
    store16_little(out, at + 1, _ZEROS + tens + ((value - 10 * tens) << 8))
    return at + 3


@kernel
def put_time(out: Any, at: Any, time_ns: Any, table: Any) -> Any:
    """Write nanoseconds since 1970 as ISO 8601 in UTC: `2023-11-14T22:13:20.000000001Z`."""
    seconds = time_ns // _SECOND
    fraction = time_ns - seconds * _SECOND
    days = seconds // _DAY
    second = seconds - days * _DAY
    # The calendar repeats every 400 years; years that begin in March have their leap day at the end.
    days += 719_468
    era = days // 146_097
    day = days - era * 146_097
    year = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5
    month += 3 if month < 10 else -9
    year += era * 400 + (month <= 2)
    at = put_number(out, at, year, table)
    at = _put_pair(out, at, month, _DASH)
    at = _put_pair(out, at, day + 1, _DASH)
    at = _put_pair(out, at, second // 3600, _T)
    at = _put_pair(out, at, second // 60 % 60, _COLON)
    at = _put_pair(out, at, second % 60, _COLON)
    out[at] = _DOT
    store32_little(out, at + 1, np.int64(table[1, fraction // 1_000_000]))
    store32_little(out, at + 4, np.int64(table[1, fraction // 1000 % 1000]))
    store32_little(out, at + 7, np.int64(table[1, fraction % 1000]))
    out[at + 10] = _Z
    return at + 11
