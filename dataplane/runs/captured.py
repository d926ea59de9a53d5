"""The connections of captures: real arrivals for an experiment's traffic, and how they live and end, for a plan."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.capture.merge import merge
from dataplane.packets.headers import PROTOCOL_TCP, PROTOCOL_UDP
from dataplane.runs.answers import FAILURES
from dataplane.runs.folder import RunError
from dataplane.runs.replay import infer
from dataplane.runs.sources import Source, locate, open_source, parse_sources
from dataplane.runs.sweep_settings import with_nat
from dataplane.simulator import Simulator
from dataplane.topology.model import Timeouts, Topology

_TIMEOUTS = tuple(Timeouts.model_fields)


@dataclass(frozen=True)
class Captured:
    """A capture's sessions (rows of ENDED, in order of their beginning); `origin` and `length` in nanoseconds.

    Sessions that were open at the capture's end have ended by their time-out after it. `began` tells those whose
    beginning is in the capture. `notes` say what is missing.
    """

    topology: Topology
    rows: NDArray[Any]
    began: NDArray[np.bool_]
    origin: int
    length: int
    notes: list[str]


def connections_of_captures(paths: Sequence[str], protocol: str) -> tuple[NDArray[Any], int, int]:
    """The connections of a protocol (tcp, udp) by their beginning, as sessions (rows of ENDED).

    With them come when the first packet of all was and how long it is to the last, nanoseconds. Several captures are
    merged by time. Every server in them is looked at, as `replay` without a topology does; a connection that goes on
    after an idle time-out begins anew. Raises `CaptureError` and `RunError`, one line.
    """
    sources = parse_sources(list(paths), set())
    simulator, rows = _sessions(sources, infer(sources))
    number = PROTOCOL_TCP if protocol == "tcp" else PROTOCOL_UDP
    rows = rows[rows["protocol"] == number]
    if not len(rows):
        raise RunError(
            f"{', '.join(paths)}: no {protocol} connection begins in it; name a capture in which clients connect"
        )
    clock = simulator.clock
    return rows[np.argsort(rows["first_packet"], kind="stable")], clock["origin"], clock["now"] - clock["origin"]


def captured_sessions(argument: str, topology: Topology | None) -> Captured:
    """The sessions of a capture, `[POINT=]FILE`; without a topology, of every server in it.

    A connection that was open before the capture counts, from its first packet in it. Raises `CaptureError` and
    `RunError`, one line.
    """
    networks = set() if topology is None else {network.name for network in topology.virtual_networks}
    sources = parse_sources([argument], networks)
    if sources[0].path == "-":
        raise RunError("-: a plan reads a capture more than once; name a file")
    known = infer(sources) if topology is None else topology
    free = {"ports_per_endpoint": None, "sessions_per_backend": None, "blocks_per_endpoint": None}
    simulator, rows = _sessions(sources, with_nat(known, first_packet="any", **free))
    clock = simulator.clock
    if not clock["started"]:
        raise RunError(f"{argument}: has no packets; name another capture")
    origin, length = clock["origin"], clock["now"] - clock["origin"]
    dropped = simulator.summary()["dropped"]["reasons"]
    refused = sum(count["packets"] for reason, count in dropped.items() if reason in FAILURES)
    strange = sum(count["packets"] for count in dropped.values()) - refused
    simulator.advance(to_ns=clock["now"] + _longest(known))
    ended = np.concatenate((rows[rows["ended"] > 0], simulator.take_ended_sessions()))
    ended = np.sort(ended, order=["first_packet", "id"])
    _, syns = _sessions(sources, with_nat(known, first_packet="syn", **free))
    began = np.isin(ended["id"], syns["id"])  # the number of the packet that opened it
    notes = []
    if refused:
        notes.append(f"{refused:,} packets found no port with the NAT IPs of the topology: these sessions are missing")
    if strange:
        notes.append(f"{strange:,} packets of the capture were dropped and do not count; `dataplane replay` says why")
    return Captured(known, ended, began, origin, length, notes)


def _sessions(sources: Sequence[Source], topology: Topology) -> tuple[Simulator, NDArray[Any]]:
    """Send captures through a topology: their sessions at the captures' end (`ended` 0: still alive)."""
    found = []
    with ExitStack() as stack:
        readers = [stack.enter_context(open_source(source, digest=False)) for source in sources]
        simulator = Simulator(topology, sessions_log=True)
        placed = [(reader, locate(reader, source, topology)) for reader, source in zip(readers, sources, strict=True)]
        for batch in merge(placed):
            simulator.feed(simulator.sequence(batch))
            found.append(simulator.take_ended_sessions())
        alive = simulator.live_sessions()
        alive["ended"] = 0
        found.append(alive)
        for reader in readers:
            if reader.damage:
                raise RunError(reader.damage)
    return simulator, np.concatenate(found)


def _longest(topology: Topology) -> int:
    """After so many nanoseconds without packets no session is left."""
    times = [getattr(service.nat.timeouts, name) for service in topology.private_link_services for name in _TIMEOUTS]
    return max((value or 0 for value in times), default=0) + 1
