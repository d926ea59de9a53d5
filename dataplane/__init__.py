"""A packet-level simulator of the data plane of Azure Private Link.

    import dataplane as dp

    topology = dp.load_topology("topology.yaml")
    simulator = dp.Simulator(topology, seed=7)
    outcome = simulator.send(packet, at="contoso", time=0.0)

Names load on first use: importing the package imports neither numba nor scapy.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataplane.capture import CaptureError, CaptureWarning, read_capture
    from dataplane.packets.batch import Interface, PacketBatch
    from dataplane.simulator import Delivery, Outcome, ProcessResult, Simulator
    from dataplane.topology import Topology, TopologyError, dump_topology, load_topology
    from dataplane.verdict import Verdict

__all__ = [
    "CaptureError",
    "CaptureWarning",
    "Delivery",
    "Interface",
    "Outcome",
    "PacketBatch",
    "ProcessResult",
    "Simulator",
    "Topology",
    "TopologyError",
    "Verdict",
    "dump_topology",
    "load_topology",
    "read_capture",
]

_HOMES = {
    "CaptureError": "capture",
    "CaptureWarning": "capture",
    "read_capture": "capture",
    "Interface": "packets.batch",
    "PacketBatch": "packets.batch",
    "Delivery": "simulator",
    "Outcome": "simulator",
    "ProcessResult": "simulator",
    "Simulator": "simulator",
    "Topology": "topology",
    "TopologyError": "topology",
    "dump_topology": "topology",
    "load_topology": "topology",
    "Verdict": "verdict",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
