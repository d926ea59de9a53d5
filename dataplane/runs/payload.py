"""How much a connection's client asks and its server answers: as the source says, or as it was recorded."""

from typing import Any

import numpy as np

from dataplane.kernel import inlined
from dataplane.packets.headers import PROTOCOL_UDP

#: The most payload of one packet, bytes: what a TCP segment in Ethernet carries.
MOST_PAYLOAD = 1460

_NUMBER = (1 << 48) - 1


@inlined
def recorded_row(source: Any, number: Any) -> Any:
    """Where in `Traffic.recorded` a source's `number`th connection is: it takes them in turn."""
    return source["first_recorded"] + number % source["recorded"]


@inlined
def request_of(traffic: Any, source: Any, connection: Any) -> Any:
    """(packets, bytes of payload) that the client sends; a UDP connection begins with them, so it has one at least."""
    size = source["request_bytes"]
    if size >= 0:
        return source["request_packets"], size
    size = traffic.recorded[recorded_row(source, connection["order"] & _NUMBER)]["request"]
    least = np.int64(1 if source["protocol"] == PROTOCOL_UDP else 0)
    return max(least, _packets(size)), size


@inlined
def response_of(traffic: Any, source: Any, connection: Any) -> Any:
    """(packets, bytes of payload) that the server answers."""
    size = source["response_bytes"]
    if size >= 0:
        return source["response_packets"], size
    size = traffic.recorded[recorded_row(source, connection["order"] & _NUMBER)]["response"]
    return _packets(size), size


@inlined
def _packets(size: Any) -> Any:
    """As few as carry so many bytes."""
    return (size + MOST_PAYLOAD - 1) // MOST_PAYLOAD
