"""Counters: Azure's IN (to_service) and OUT (to_consumer) per endpoint, every verdict in packets and bytes."""

from typing import Any

import numpy as np

from dataplane.kernel import inlined, unlikely
from dataplane.records import TO_SERVICE


@inlined
def count(session: Any, end: Any, counters: Any, packet: Any, direction: Any) -> None:
    """Count a forwarded packet for its session and its endpoint."""
    counter = counters[session["endpoint"]]
    if direction == TO_SERVICE:
        _count_in(session, end, counter, np.int64(packet["bytes"]))
    else:
        _count_out(session, end, counter, np.int64(packet["bytes"]))


@inlined
def _count_in(session: Any, end: Any, counter: Any, size: Any) -> None:
    """Count a packet that travelled to_service."""
    session["bytes_in"] += size
    session["packets_in"] += np.uint32(1)
    if unlikely(session["packets_in"] == 0):
        end["packets_in_high"] += np.uint32(1)
    if unlikely(counter["packets_in"] == 0 or size < counter["smallest_in"]):
        counter["smallest_in"] = size
    if unlikely(counter["packets_in"] == 0 or size > counter["largest_in"]):
        counter["largest_in"] = size
    counter["bytes_in"] += size
    counter["packets_in"] += 1


@inlined
def _count_out(session: Any, end: Any, counter: Any, size: Any) -> None:
    """Count a packet that travelled to_consumer."""
    session["bytes_out"] += size
    session["packets_out"] += np.uint32(1)
    if unlikely(session["packets_out"] == 0):
        end["packets_out_high"] += np.uint32(1)
    if unlikely(counter["packets_out"] == 0 or size < counter["smallest_out"]):
        counter["smallest_out"] = size
    if unlikely(counter["packets_out"] == 0 or size > counter["largest_out"]):
        counter["largest_out"] = size
    counter["bytes_out"] += size
    counter["packets_out"] += 1
