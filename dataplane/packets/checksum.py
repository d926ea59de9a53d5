"""Internet checksums, adjusted and never recomputed (RFC 1624, equation 3: HC' = ~(~HC + ~m + m')).

The sum of `~m + m'` over all changed 16-bit words is one number per session, made once. It is folded into
1..0xFFFF, so that applying it gives the same bits as applying the words one by one.
"""

from typing import Any

from dataplane.kernel import inlined, load16, store16, unlikely


@inlined
def fold(total: Any) -> Any:
    """Ones-complement sum in 16 bits of a positive 64-bit sum of 16-bit words."""
    total = (total & 0xFFFF) + ((total >> 16) & 0xFFFF) + ((total >> 32) & 0xFFFF)
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


@inlined
def fold_short(total: Any) -> Any:
    """The same for a sum below 2^32."""
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


@inlined
def word_change(old: Any, new: Any) -> Any:
    """`~m + m'` for one 16-bit word."""
    return (old ^ 0xFFFF) + new


@inlined
def word_sum(address: Any) -> Any:
    """The two words of an IPv4 address added."""
    return (address >> 16) + (address & 0xFFFF)


@inlined
def address_change(old: Any, new: Any) -> Any:
    """`~m + m'` for the two words of an IPv4 address."""
    return 2 * 0xFFFF - word_sum(old) + word_sum(new)


@inlined
def reversed_change(delta: Any) -> Any:
    """The folded sum of the way back."""
    back = 0xFFFF - delta
    return back if back != 0 else 0xFFFF


@inlined
def adjust(data: Any, offset: Any, delta: Any) -> None:
    """Adjust the checksum at `offset` by a sum of changes (at least 1, below 2^31)."""
    store16(data, offset, 0xFFFF - fold_short((load16(data, offset) ^ 0xFFFF) + delta))


@inlined
def adjust_udp(data: Any, offset: Any, delta: Any) -> None:
    """The same for UDP: zero means that there is none and stays; a result of zero is sent as 0xFFFF (RFC 768)."""
    old = load16(data, offset)
    if unlikely(old == 0):
        return
    new = 0xFFFF - fold_short((old ^ 0xFFFF) + delta)
    store16(data, offset, new if new != 0 else 0xFFFF)
