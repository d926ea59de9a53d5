"""The states of a session as its packets pass (docs/model.md, "A session's life"; after RFC 5382, RFC 7857 §2).

The simulator believes flags, not sequence numbers.
"""

from typing import Any

from dataplane.kernel import kernel
from dataplane.packets.headers import ACK, FIN, RST, SYN
from dataplane.records import (
    CLOSING,
    ESTABLISHED,
    FIN_FROM_CONSUMER,
    FIN_FROM_PROVIDER,
    HALF_OPEN,
    RESET,
    SYN_FROM_PROVIDER,
)

BOTH_FINS = FIN_FROM_CONSUMER | FIN_FROM_PROVIDER


@kernel
def is_first_packet(flags: Any) -> Any:
    """Whether a segment may open a session: SYN without ACK, FIN or RST."""
    return flags & (SYN | ACK | FIN | RST) == SYN


@kernel
def seen_after(seen: Any, flags: Any, from_consumer: Any) -> Any:
    """The session's SEEN bits after a segment."""
    if flags & FIN:
        seen |= FIN_FROM_CONSUMER if from_consumer else FIN_FROM_PROVIDER
    if flags & SYN and not from_consumer:
        seen |= SYN_FROM_PROVIDER
    return seen


@kernel
def state_after(state: Any, seen: Any, flags: Any, from_consumer: Any) -> Any:
    """The next state of a half-open or established session, given its SEEN bits after the segment."""
    if flags & RST:
        return RESET
    if seen & BOTH_FINS == BOTH_FINS:
        return CLOSING
    if state == HALF_OPEN and from_consumer and flags & ACK and seen & SYN_FROM_PROVIDER:
        return ESTABLISHED
    return state
