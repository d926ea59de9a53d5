"""The states of a session as its packets pass (docs/model.md, "A session's life"; RFC 5382, 6146 §3.5.2, 7857 §2).

The simulator believes flags, not sequence numbers.
"""

from typing import Any

import numpy as np

from dataplane.kernel import kernel
from dataplane.packets.headers import ACK, FIN, RST, SYN
from dataplane.records import (
    CLOSING,
    ESTABLISHED,
    FIN_FROM_CONSUMER,
    FIN_FROM_PROVIDER,
    HALF_CLOSED,
    HALF_OPEN,
    REOPENED_BY_CONSUMER,
    REOPENED_BY_PROVIDER,
    RESET,
    SYN_FROM_PROVIDER,
    WAS_ESTABLISHED,
)

BOTH_FINS = FIN_FROM_CONSUMER | FIN_FROM_PROVIDER
REOPENED = REOPENED_BY_CONSUMER | REOPENED_BY_PROVIDER

# --- a service's policy, bits of SERVICE["tcp_policy"]: the keys of `tcp` in a topology ----------------------------
FIRST_FIN_CLOSES = 1
DATA_REVIVES = 2  # reset: until_data
HANDSHAKE_REVIVES = 4  # reopen: handshake
CLOSING_REFRESHES = 8


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
def state_after(state: Any, seen: Any, flags: Any, from_consumer: Any, policy: Any) -> Any:
    """The next state of a session that is neither closing nor reset, given its SEEN bits after the segment."""
    if flags & RST:
        return RESET
    fins = seen & BOTH_FINS
    if fins == BOTH_FINS or (fins and policy & FIRST_FIN_CLOSES):
        return CLOSING
    if state == HALF_OPEN and from_consumer and flags & ACK and seen & SYN_FROM_PROVIDER:
        state = ESTABLISHED
    if state == ESTABLISHED and fins:
        return HALF_CLOSED
    return state


@kernel
def seen_in(state: Any, seen: Any) -> Any:
    """What is remembered of what was seen once the session is in this state."""
    if state == ESTABLISHED or state == HALF_CLOSED:
        return seen | WAS_ESTABLISHED
    if state == CLOSING or state == RESET:
        return seen & (SYN_FROM_PROVIDER | WAS_ESTABLISHED)
    return seen


@kernel
def closed_after(state: Any, seen: Any, flags: Any, from_consumer: Any, policy: Any) -> Any:
    """The next (state, SEEN bits) of a session that is closing or reset."""
    if policy & HANDSHAKE_REVIVES:
        if flags & (RST | FIN):
            seen &= ~REOPENED
        else:
            if flags & SYN:
                seen |= REOPENED_BY_CONSUMER if from_consumer else REOPENED_BY_PROVIDER
            if from_consumer and flags & ACK and seen & REOPENED == REOPENED:
                return np.int64(ESTABLISHED), np.int64(SYN_FROM_PROVIDER | WAS_ESTABLISHED)
    if state == RESET and policy & DATA_REVIVES and flags & (RST | SYN) == 0:
        seen = seen_after(seen & ~REOPENED, flags, from_consumer)
        before = ESTABLISHED if seen & WAS_ESTABLISHED else HALF_OPEN
        after = state_after(before, seen, flags, from_consumer, policy)
        return np.int64(after), seen_in(after, seen)
    return np.int64(state), seen
