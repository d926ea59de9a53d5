"""What exists: networks, endpoints and services, read and checked."""

from dataplane.topology.load import (
    Problem,
    TopologyError,
    dump_topology,
    load_topology,
    parse_topology,
    topology_schema,
)
from dataplane.topology.model import Topology

__all__ = [
    "Problem",
    "Topology",
    "TopologyError",
    "dump_topology",
    "load_topology",
    "parse_topology",
    "topology_schema",
]
