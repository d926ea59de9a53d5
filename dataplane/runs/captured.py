"""The connections of captures: real arrivals for an experiment's traffic."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.capture.merge import merge
from dataplane.packets.headers import PROTOCOL_TCP, PROTOCOL_UDP
from dataplane.runs.folder import RunError
from dataplane.runs.replay import infer
from dataplane.runs.sources import locate, open_source, parse_sources
from dataplane.simulator import Simulator


def connections_of_captures(paths: Sequence[str], protocol: str) -> tuple[NDArray[Any], int, int]:
    """The connections of a protocol (tcp, udp) by their beginning, as sessions (rows of ENDED).

    With them come when the first packet of all was and how long it is to the last, nanoseconds. Several captures are
    merged by time. Every server in them is looked at, as `replay` without a topology does; a connection that goes on
    after an idle time-out begins anew. Raises `CaptureError` and `RunError`, one line.
    """
    sources = parse_sources(list(paths), set())
    topology = infer(sources)
    found = []
    with ExitStack() as stack:
        readers = [stack.enter_context(open_source(source, digest=False)) for source in sources]
        simulator = Simulator(topology, sessions_log=True)
        placed = [(reader, locate(reader, source, topology)) for reader, source in zip(readers, sources, strict=True)]
        for batch in merge(placed):
            simulator.feed(simulator.sequence(batch))
            found.append(simulator.take_ended_sessions())
        found.append(simulator.live_sessions())
        for reader in readers:
            if reader.damage:
                raise RunError(reader.damage)
    rows = np.concatenate(found)
    number = PROTOCOL_TCP if protocol == "tcp" else PROTOCOL_UDP
    rows = rows[rows["protocol"] == number]
    if not len(rows):
        raise RunError(
            f"{', '.join(paths)}: no {protocol} connection begins in it; name a capture in which clients connect"
        )
    clock = simulator.clock
    return rows[np.argsort(rows["first_packet"], kind="stable")], clock["origin"], clock["now"] - clock["origin"]
