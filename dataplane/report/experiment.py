"""What a report needs of the findings of an exhaustion experiment, as `summary.json` has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dataplane.runs.answers import answers


@dataclass(frozen=True)
class User:
    """Who used NAT ports after the warm-up: an endpoint, its port-seconds, and how often it was refused one."""

    name: str
    in_use: float
    held: float
    failures: int


@dataclass(frozen=True)
class Source:
    """A source of traffic, its endpoint, and what became of its connections, by the names in `summary.json`."""

    name: str
    endpoint: str
    connections: dict[str, int]


@dataclass(frozen=True)
class Findings:
    """What an exhaustion experiment found; times in seconds of the run."""

    answers: list[str]
    from_seconds: float
    first_failure_seconds: float | None
    threshold_percent: float
    fired_seconds: float | None
    fired_nat_ip: str
    users: list[User]
    sources: list[Source]


def read_findings(found: dict[str, Any]) -> Findings:
    """The object `findings`. Raises KeyError, TypeError or ValueError if it is not as an experiment writes it."""
    failure, alert = found["first_failure"], found["alert"]
    return Findings(
        answers=list(answers(found)),
        from_seconds=float(found["from_seconds"]),
        first_failure_seconds=None if failure is None else float(failure["time_seconds"]),
        threshold_percent=float(alert["threshold_percent"]),
        fired_seconds=None if alert["fired_seconds"] is None else float(alert["fired_seconds"]),
        fired_nat_ip=str(alert["nat_ip"]),
        users=[
            User(
                str(each["name"]),
                float(each["port_seconds"]["in_use"]),
                float(each["port_seconds"]["held"]),
                sum(int(count) for count in each["failures"].values()),
            )
            for each in found["private_endpoints"]
        ],
        sources=[
            Source(
                str(each["name"]),
                str(each["endpoint"]),
                {str(name): int(count) for name, count in each["connections"].items()},
            )
            for each in found["traffic"]
        ],
    )
