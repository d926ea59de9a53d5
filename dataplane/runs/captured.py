"""The connections of a capture: when they begin, for an experiment's traffic, and how they live and end, for a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.capture.merge import merge
from dataplane.packets.headers import PROTOCOL_TCP, PROTOCOL_UDP
from dataplane.runs.folder import RunError
from dataplane.runs.replay import infer
from dataplane.runs.sources import Source, locate, open_source, parse_sources
from dataplane.runs.sweep_settings import with_nat
from dataplane.simulator import Simulator
from dataplane.topology.model import Timeouts, Topology

#: Reasons for which a session is missing that a larger service would have had.
FAILURES = ("nat_ports_exhausted", "nat_port_not_found")

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


def new_connections(path: str, protocol: str) -> tuple[NDArray[np.int64], int]:
    """When connections of a protocol (tcp, udp) begin, in nanoseconds from the capture's first packet, and its length.

    Every server in the capture is looked at, as `replay` without a topology does; a connection that goes on after an
    idle time-out begins anew. Raises `CaptureError` and `RunError`, one line.
    """
    sources = parse_sources([path], set())
    simulator, rows = _sessions(sources[0], infer(sources))
    number = PROTOCOL_TCP if protocol == "tcp" else PROTOCOL_UDP
    times = np.sort(rows["first_packet"][rows["protocol"] == number])
    if not len(times):
        raise RunError(f"{path}: no {protocol} connection begins in it; name a capture in which clients connect")
    clock = simulator.clock
    return times - clock["origin"], clock["now"] - clock["origin"]


def captured_sessions(argument: str, topology: Topology | None) -> Captured:
    """The sessions of a capture, `[POINT=]FILE`; without a topology, of every server in it.

    A connection that was open before the capture counts, from its first packet in it. Raises `CaptureError` and
    `RunError`, one line.
    """
    networks = set() if topology is None else {network.name for network in topology.virtual_networks}
    source = parse_sources([argument], networks)[0]
    if source.path == "-":
        raise RunError("-: a plan reads a capture more than once; name a file")
    known = infer([source]) if topology is None else topology
    free = {"ports_per_endpoint": None, "sessions_per_backend": None, "blocks_per_endpoint": None}
    simulator, rows = _sessions(source, with_nat(known, first_packet="any", **free))
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
    _, syns = _sessions(source, with_nat(known, first_packet="syn", **free))
    began = np.isin(ended["id"], syns["id"])  # the number of the packet that opened it
    notes = []
    if refused:
        notes.append(f"{refused:,} packets found no port with the NAT IPs of the topology: these sessions are missing")
    if strange:
        notes.append(f"{strange:,} packets of the capture were dropped and do not count; `dataplane replay` says why")
    return Captured(known, ended, began, origin, length, notes)


def _sessions(source: Source, topology: Topology) -> tuple[Simulator, NDArray[Any]]:
    """Send a capture through a topology: its sessions at the capture's end (`ended` 0: still alive)."""
    found = []
    with open_source(source, digest=False) as reader:
        simulator = Simulator(topology, sessions_log=True)
        for batch in merge([(reader, locate(reader, source, topology))]):
            simulator.feed(simulator.sequence(batch))
            found.append(simulator.take_ended_sessions())
        alive = simulator.live_sessions()
        alive["ended"] = 0
        found.append(alive)
        if reader.damage:
            raise RunError(reader.damage)
    return simulator, np.concatenate(found)


def _longest(topology: Topology) -> int:
    """After so many nanoseconds without packets no session is left."""
    times = [getattr(service.nat.timeouts, name) for service in topology.private_link_services for name in _TIMEOUTS]
    return max((value or 0 for value in times), default=0) + 1
