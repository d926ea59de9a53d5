"""A summary as a flat list of figures, each with its path and the resource that it is about.

`summary.json` nests resources in lists; conditions and comparisons want every figure by itself, under one name that is
the same in every run. A path leaves out the lists' positions: `private_link_services.nat_ips.free` exists once for
every NAT IP of every service.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dataplane.records import END_WORDS
from dataplane.verdict import Verdict

Number = int | float

#: Kind of resource to where the summary lists it; the empty path is the run as a whole.
KINDS = {
    "run": "",
    "private endpoint": "private_endpoints",
    "private link service": "private_link_services",
    "NAT IP": "private_link_services.nat_ips",
    "NAT pool": "private_link_services.nat_ips.pools",
}

REASONS = tuple(str(verdict) for verdict in Verdict if verdict.is_drop)

_COUNT = ("packets", "bytes")
_TRAFFIC = ("bytes_in", "bytes_out", "packets_in", "packets_out")
_PORTS = ("capacity", "in_use", "held", "free")
_PERCENT = ("availability", "usage", "minimum_availability", "worst_pool_availability")

#: Kind to the names of its figures. Where a reason has no packets the summary leaves it out: it counts as 0.
FIGURES: dict[str, tuple[str, ...]] = {
    "run": (
        *(f"{kind}.{unit}" for kind in ("received", "forwarded", "bypassed", "dropped") for unit in _COUNT),
        *(f"dropped.reasons.{reason}.{unit}" for reason in REASONS for unit in _COUNT),
        *(f"sessions.{key}" for key in ("created", "active", *(f"ended.{word}" for word in END_WORDS), "resets_sent")),
        "first_exhaustion.time_seconds",
        "times.backward",
        "times.unusable",
        "duration_seconds",
        "seed",
    ),
    "private endpoint": (
        *_TRAFFIC, *(f"dropped.{reason}" for reason in REASONS), "sessions.created", "sessions.active"
    ),
    "private link service": _TRAFFIC,
    "NAT IP": (*_PORTS, *(f"{key}_percent" for key in _PERCENT), "allocation_failures"),
    "NAT pool": (*_PORTS, "minimum_free", "allocation_failures"),
}


@dataclass(frozen=True)
class Figure:
    """One figure: `resource` is who it belongs to as people write it, empty for the run as a whole."""

    kind: str
    resource: str
    name: str
    value: Number
    #: Whether the value is by how much the figure differs from another run's.
    is_change: bool = False

    @property
    def path(self) -> str:
        """The figure's place in `summary.json`, without positions in lists."""
        return path_of(self.kind, self.name)


def path_of(kind: str, name: str) -> str:
    """The dotted path of a figure of a kind of resource."""
    return f"{KINDS[kind]}.{name}" if KINDS[kind] else name


#: How many differences a comparison of two runs found, in the place of a summary's figures.
DIFFERENCES = tuple(f"differences.{part}" for part in ("configuration", "results", "sessions", "packets"))


def figures(summary: dict[str, Any]) -> Iterator[Figure]:
    """Every figure of a summary, in its order; drop reasons that it leaves out, as 0, after those that it has."""
    yield from _of("run", "", {key: value for key, value in summary.items() if not isinstance(value, list)})
    for endpoint in summary["private_endpoints"]:
        yield from _of("private endpoint", endpoint["name"], endpoint)
    for service in summary["private_link_services"]:
        yield from _of("private link service", service["name"], service)
        for nat_ip in service["nat_ips"]:
            address = f"{service['name']}, NAT IP {nat_ip['ip']}"
            yield from _of("NAT IP", address, nat_ip)
            for pool in nat_ip["pools"]:
                yield from _of("NAT pool", f"{address}, {pool['protocol']} toward {pool['backend']}", pool)


def _of(kind: str, resource: str, content: dict[str, Any]) -> Iterator[Figure]:
    found = dict(_numbers(content, ""))
    for name, value in found.items():
        yield Figure(kind, resource, name, value)
    for name in FIGURES[kind]:
        if name.startswith("dropped.") and name not in found:
            yield Figure(kind, resource, name, 0)


def _numbers(content: dict[str, Any], above: str) -> Iterator[tuple[str, Number]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{above}{key}.")
        elif isinstance(value, (int, float)):
            yield f"{above}{key}", value
