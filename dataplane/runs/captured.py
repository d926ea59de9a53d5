"""When connections begin in a capture: real arrivals for an experiment's traffic."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dataplane.capture.merge import merge
from dataplane.packets.headers import PROTOCOL_TCP, PROTOCOL_UDP
from dataplane.runs.folder import RunError
from dataplane.runs.replay import infer
from dataplane.runs.sources import locate, open_source, parse_sources
from dataplane.simulator import Simulator


def new_connections(path: str, protocol: str) -> tuple[NDArray[np.int64], int]:
    """When connections of a protocol (tcp, udp) begin, in nanoseconds from the capture's first packet, and its length.

    Every server in the capture is looked at, as `replay` without a topology does; a connection that goes on after an
    idle time-out begins anew. Raises `CaptureError` and `RunError`, one line.
    """
    sources = parse_sources([path], set())
    topology = infer(sources)
    found = []
    with open_source(sources[0], digest=False) as reader:
        simulator = Simulator(topology, sessions_log=True)
        for batch in merge([(reader, locate(reader, sources[0], topology))]):
            simulator.feed(simulator.sequence(batch))
            found.append(simulator.take_ended_sessions())
        found.append(simulator.live_sessions())
        if reader.damage:
            raise RunError(reader.damage)
    rows = np.concatenate(found)
    number = PROTOCOL_TCP if protocol == "tcp" else PROTOCOL_UDP
    times = np.sort(rows["first_packet"][rows["protocol"] == number])
    if not len(times):
        raise RunError(f"{path}: no {protocol} connection begins in it; name a capture in which clients connect")
    clock = simulator.clock
    return times - clock["origin"], clock["now"] - clock["origin"]
