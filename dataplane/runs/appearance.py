"""Where a packet is seen, with which bytes and which comment.

A packet appears at most three times, in the order in which it travels: where it came in, on the backbone, where it was
delivered. Reads the frame as it came in, the same as it was rewritten, and what became of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dataplane.capture.little_endian import copy_bytes, store32_little
from dataplane.forwarding.encapsulate import encapsulate
from dataplane.kernel import kernel
from dataplane.packets.batch import INBOUND, OUTBOUND
from dataplane.packets.headers import LINK_ETHERNET
from dataplane.records import RESET_TO_BACKEND, RESET_TO_CONSUMER, TO_CONSUMER, TO_SERVICE
from dataplane.runs.text import put_address, put_number, put_word
from dataplane.verdict import Verdict

_FORWARDED = int(Verdict.FORWARDED)

#: Where a packet's bytes are taken from.
AS_IT_CAME, REWRITTEN, ENCAPSULATED = 0, 1, 2

#: No transport header has a checksum further on.
_TCP_HEADER = 20

_SESSION_FIRST, _SESSION_LAST, _NAT = (int.from_bytes(text, "little") for text in (b"sess", b"ion=", b" nat"))
_EQUALS, _COLON = ord("="), ord(":")


@kernel
def appearance(outcome: Any, place: Any, backbone: Any) -> Any:
    """The `place`th appearance (0 to 2) of a packet: (point, where its bytes are, direction); point -1 for none."""
    direction = outcome["direction"]
    consumer = np.int64(outcome["consumer_point"])
    provider = np.int64(outcome["provider_point"])
    if outcome["verdict"] != _FORWARDED:
        return (consumer if place == 0 else -1), AS_IT_CAME, INBOUND
    if place == 1:
        return (-1 if direction == RESET_TO_BACKEND else backbone), ENCAPSULATED, OUTBOUND
    if direction == RESET_TO_CONSUMER or direction == RESET_TO_BACKEND:  # it was made here and came in nowhere
        if place == 0:
            return -1, AS_IT_CAME, OUTBOUND
        return (consumer if direction == RESET_TO_CONSUMER else provider), AS_IT_CAME, OUTBOUND
    if direction == TO_SERVICE:
        if place == 0:
            return consumer, AS_IT_CAME, INBOUND
        return provider, REWRITTEN, OUTBOUND
    if direction == TO_CONSUMER:
        if place == 0:
            return provider, AS_IT_CAME, INBOUND
        return consumer, REWRITTEN, OUTBOUND
    if place == 0:
        return provider, REWRITTEN, OUTBOUND
    return consumer, AS_IT_CAME, INBOUND


@kernel
def put_bytes(out: Any, at: Any, source: Any, frame: Any, outcome: Any, buffers: Any, link_ids: Any) -> Any:
    """Write the bytes of an appearance at `out[at:]`; returns (captured, original) lengths.

    `buffers` is (as it came, rewritten). There has to be room for OVERHEAD bytes more than the frame has.
    """
    came, rewritten = buffers
    offset = np.int64(frame["offset"])
    captured = np.int64(frame["captured"])
    original = np.int64(frame["original"])
    if source != ENCAPSULATED:
        data = came if source == AS_IT_CAME else rewritten
        copy_bytes(out, at, data, offset, captured)
        return captured, original
    network = np.int64(outcome["network_header"])
    path = (
        np.int64(outcome["direction"]),
        np.int64(link_ids[outcome["endpoint"]]),
        np.int64(outcome["consumer_point"]),
        np.int64(outcome["provider_point"]),
    )
    consumer_form = rewritten if outcome["direction"] == TO_CONSUMER else came
    # Headers go through `encapsulate`, octet by octet; what follows them is the same there, and copied in one piece.
    begin = offset + network
    captured -= network
    headers = min(captured, ((np.int64(consumer_form[begin]) & 15) << 2) + _TCP_HEADER)
    done, total = encapsulate(out[at:], consumer_form, begin, headers, original - network, path)
    rest = min(captured - headers, total - done)
    copy_bytes(out, at + done, consumer_form, begin + headers, rest)
    return np.int64(done) + rest, np.int64(total)


@kernel
def link_type_of(source: Any, frame: Any) -> Any:
    """The link type of an appearance: the backbone is Ethernet."""
    return np.int64(LINK_ETHERNET) if source == ENCAPSULATED else np.int64(frame["link_type"])


@kernel
def put_comment(out: Any, at: Any, outcome: Any, at_provider: Any, texts: Any) -> Any:
    """Write the comment of an appearance at `out[at:]`; the position after it. `texts` is (words, decimals).

    Rows of the words: the verdicts, then `verdict=`, ` idle_reset`.
    """
    words, table = texts
    if outcome["verdict"] != _FORWARDED:
        at = put_word(out, at, words, len(words) - 2)
        return put_word(out, at, words, np.int64(outcome["verdict"]))
    store32_little(out, at, _SESSION_FIRST)
    store32_little(out, at + 4, _SESSION_LAST)
    at = put_number(out, at + 8, outcome["session"], table)
    if at_provider:
        store32_little(out, at, _NAT)
        out[at + 4] = _EQUALS
        at = put_address(out, at + 5, np.int64(outcome["nat_address"]), table)
        out[at] = _COLON
        at = put_number(out, at + 1, np.int64(outcome["nat_port"]), table)
    if outcome["direction"] == RESET_TO_CONSUMER or outcome["direction"] == RESET_TO_BACKEND:
        at = put_word(out, at, words, len(words) - 1)
    return at
