"""Read a run's folder: what a report needs of its files, checked, or one line that says which file is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataplane.report.experiment import Findings, read_findings
from dataplane.runs.answers import FAILURES
from dataplane.runs.folder import SCHEMA_VERSION, RunError
from dataplane.topology import TopologyError, load_topology
from dataplane.topology.model import Event

#: What every run has; `sessions.csv` and `capture.pcapng` may be left out.
NEEDED = ("manifest.json", "topology.yaml", "summary.json", "metrics.csv")


@dataclass(frozen=True)
class Endpoint:
    """What became of the packets of one private endpoint."""

    name: str
    service: str
    bytes_in: int
    bytes_out: int
    packets: int
    sessions: int
    dropped: int
    refused: int  # for want of a NAT port


@dataclass(frozen=True)
class NatIp:
    """The ports of one NAT IP of a service; `ports` is the range that each of its `pools` has."""

    service: str
    address: str
    capacity: int
    in_use: int
    held: int
    free: int
    lowest_percent: float
    failures: int
    most_used: int
    pools: int
    ports: range

    @property
    def name(self) -> str:
        """How charts call it."""
        return f"{self.service}, {self.address}"


@dataclass(frozen=True)
class Exhaustion:
    """The first time that a session found no port."""

    seconds: float
    service: str
    nat_ip: str
    protocol: str
    backend: str
    reason: str


@dataclass(frozen=True)
class Run:
    """A run's folder in memory, but for the two files that may be large.

    `begin_ns` is the first packet's time, None if the run does not say; counts are (packets, bytes).
    """

    folder: Path
    inputs: list[dict[str, Any]]
    exit_state: tuple[int, str]
    seed: int
    begin_ns: int | None
    duration_seconds: float
    counts: dict[str, tuple[int, int]]
    drops: dict[str, tuple[int, int]]
    sessions_created: int
    sessions_active: int
    sessions_ended: dict[str, int]
    endpoints: list[Endpoint]
    nat_ips: list[NatIp]
    exhaustion: Exhaustion | None
    findings: Findings | None
    events: tuple[Event, ...]
    topology_text: str
    scenario_text: str | None

    @property
    def clock(self) -> str:
        """What the run's times are, in words."""
        return "simulated time" if self.findings is not None else "capture time"

    @property
    def metrics(self) -> Path:
        """The file of one-minute figures."""
        return self.folder / "metrics.csv"

    @property
    def sessions(self) -> Path | None:
        """The file of sessions, if the run wrote one."""
        path = self.folder / "sessions.csv"
        return path if path.exists() else None

    @property
    def failures(self) -> int:
        """How often a session found no NAT port."""
        return sum(nat_ip.failures for nat_ip in self.nat_ips)


def read_run(folder: Path) -> Run:
    """Read a run's folder. Raises `RunError` if it is none, or one of its files is missing or damaged."""
    if not folder.is_dir():
        what = "is a file; name the folder that `dataplane replay -o` wrote" if folder.exists() else "no such folder"
        raise RunError(f"{folder}: {what}")
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if len(missing) == len(NEEDED):
        raise RunError(f"{folder}: is no run's folder: it holds none of {', '.join(NEEDED)}")
    if missing:
        raise RunError(f"{folder / missing[0]}: is missing; replay again to make the folder whole")
    manifest, summary = _json(folder / "manifest.json"), _json(folder / "summary.json")
    try:
        topology = load_topology(folder / "topology.yaml")
    except TopologyError as error:
        raise RunError(str(error).splitlines()[0]) from None
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise RunError(
            f"{folder / 'manifest.json'}: has schema version {manifest.get('schema_version')}; "
            f"this version of dataplane reads {SCHEMA_VERSION}"
        )
    with _as_written_by_a_run(folder / "manifest.json"):
        begin = manifest.get("first_packet")
        begin_ns = None if begin is None else int(np.datetime64(begin.removesuffix("Z"), "ns").astype(np.int64))
        exit_state = int(manifest["exit_state"]["code"]), str(manifest["exit_state"]["meaning"])
        inputs = [
            {
                "name": Path(str(each["path"])).name,
                "sha256": str(each["sha256"]),
                "packets": int(each["packets"]) if "packets" in each else None,  # only a capture has packets
                "damage": each.get("damage") and str(each["damage"]),
            }
            for each in manifest["inputs"]
        ]
    ports = {
        service.name: range(service.nat.nat_ports.first, service.nat.nat_ports.last + 1)
        for service in topology.private_link_services
    }
    with _as_written_by_a_run(folder / "summary.json"):
        endpoints = [_endpoint(each) for each in summary["private_endpoints"]]
    if [endpoint.name for endpoint in endpoints] != [endpoint.name for endpoint in topology.private_endpoints]:
        raise RunError(f"{folder / 'topology.yaml'}: has other private endpoints than summary.json; replay again")
    scenario = folder / "scenario.yaml"
    with _as_written_by_a_run(folder / "summary.json"):
        return Run(
            folder=folder,
            inputs=inputs,
            exit_state=exit_state,
            seed=int(summary["seed"]),
            begin_ns=begin_ns,
            duration_seconds=float(summary["duration_seconds"]),
            counts={kind: _count(summary[kind]) for kind in ("received", "forwarded", "bypassed", "dropped")},
            drops={str(reason): _count(count) for reason, count in summary["dropped"]["reasons"].items()},
            sessions_created=int(summary["sessions"]["created"]),
            sessions_active=int(summary["sessions"]["active"]),
            sessions_ended={str(how): int(count) for how, count in summary["sessions"]["ended"].items()},
            endpoints=endpoints,
            nat_ips=[
                _nat_ip(service["name"], each, ports[service["name"]])
                for service in summary["private_link_services"]
                for each in service["nat_ips"]
            ],
            exhaustion=_exhaustion(summary["first_exhaustion"]),
            findings=read_findings(summary["findings"]) if "findings" in summary else None,
            events=topology.events,
            topology_text=(folder / "topology.yaml").read_text("utf-8-sig"),
            scenario_text=scenario.read_text("utf-8-sig") if scenario.is_file() else None,
        )


def check_last_line(path: Path) -> None:
    """Raise `RunError` if a file of lines was cut within its last one: half a number would pass for a whole one."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            raise RunError(f"{path}: is damaged: its last line has no end; replay again to write it anew")


@contextmanager
def _as_written_by_a_run(path: Path) -> Iterator[None]:
    """Turn whatever does not fit into one line."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"has no {error}" if isinstance(error, KeyError) else f"does not fit: {error}"
        raise RunError(f"{path}: {what}; it is not as a run writes it") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: is damaged: no JSON: {error}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path}: is damaged: no JSON object")
    return content


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _count(figures: dict[str, Any]) -> tuple[int, int]:
    return int(figures["packets"]), int(figures["bytes"])


def _endpoint(each: dict[str, Any]) -> Endpoint:
    return Endpoint(
        name=str(each["name"]),
        service=str(each["target"]),
        bytes_in=int(each["bytes_in"]),
        bytes_out=int(each["bytes_out"]),
        packets=int(each["packets_in"]) + int(each["packets_out"]),
        sessions=int(each["sessions"]["created"]),
        dropped=sum(int(count) for count in each["dropped"].values()),
        refused=sum(int(count) for reason, count in each["dropped"].items() if reason in FAILURES),
    )


def _nat_ip(service: str, each: dict[str, Any], ports: range) -> NatIp:
    return NatIp(
        service=str(service),
        address=str(each["ip"]),
        capacity=int(each["capacity"]),
        in_use=int(each["in_use"]),
        held=int(each["held"]),
        free=int(each["free"]),
        lowest_percent=float(each["minimum_availability_percent"]),
        failures=int(each["allocation_failures"]),
        most_used=sum(int(pool["capacity"]) - int(pool["minimum_free"]) for pool in each["pools"]),
        pools=len(each["pools"]),
        ports=ports,
    )


def _exhaustion(first: dict[str, Any] | None) -> Exhaustion | None:
    if first is None:
        return None
    return Exhaustion(
        seconds=float(first["time_seconds"]),
        service=str(first["service"]),
        nat_ip=str(first["nat_ip"]),
        protocol=str(first["protocol"]),
        backend=str(first["backend"]),
        reason=str(first.get("reason", "nat_ports_exhausted")),
    )
