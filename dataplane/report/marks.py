"""Moments of a run that charts over time mark: events, the first failure, the alert, the end of the warm-up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dataplane.report.chart import SECOND, Limit, Mark
from dataplane.report.run import Run
from dataplane.topology.model import Event

#: Events that charts mark; a run that has more names the rest in its topology.
MOST_EVENTS = 24

_WORDS = {
    "approve": "{0} approved",
    "reject": "{0} rejected",
    "disconnect": "{0} disconnected",
    "backend_down": "backend {1} of {0} down",
    "backend_up": "backend {1} of {0} up",
    "add_nat_ip": "NAT IP {1} added to {0}",
    "remove_nat_ip": "NAT IP {1} removed from {0}",
}


@dataclass(frozen=True)
class Moment:
    """Something that happened, in seconds since the run began; `kind` as in `Mark`."""

    seconds: float
    text: str
    kind: str


def moments(run: Run) -> list[Moment]:
    """What happened, in order of time; of events, the first `MOST_EVENTS`."""
    return sorted(_moments(run), key=lambda moment: moment.seconds)


def marks(run: Run) -> list[Mark]:
    """The same as lines through charts, what is at one time as one; none if the run does not say when it begins."""
    if run.begin_ns is None:
        return []
    together: dict[int, list[Moment]] = {}
    for moment in moments(run):
        if moment.seconds > run.duration_seconds:  # an alert fires up to some minutes after the end
            continue
        together.setdefault(run.begin_ns + round(moment.seconds * SECOND), []).append(moment)
    rank = ("failure", "alert", "event").index
    return [
        Mark(time, "; ".join(each.text for each in found), min((each.kind for each in found), key=rank))
        for time, found in together.items()
    ]


def alert_limits(run: Run) -> list[Limit]:
    """The alert's threshold in a chart of free ports, in percent."""
    if run.findings is None:
        return []
    threshold = run.findings.threshold_percent
    return [Limit(100 - threshold, f"alert: more than {threshold:g} % used")]


def event_text(event: Event) -> str:
    """What an event does, in words: `NAT IP 192.168.50.5 added to orders`."""
    return _WORDS[event.action].format(event.subject, event.address)


def _moments(run: Run) -> Iterator[Moment]:
    happened = [event for event in run.events if event.at <= run.duration_seconds * SECOND]
    for event in sorted(happened, key=lambda event: event.at)[:MOST_EVENTS]:
        yield Moment(event.at / SECOND, event_text(event), "event")
    if run.exhaustion is not None:
        yield Moment(run.exhaustion.seconds, f"first failure, {run.exhaustion.nat_ip}", "failure")
    if run.findings is None:
        return
    found = run.findings
    if found.from_seconds:
        yield Moment(found.from_seconds, "end of the warm-up", "event")
    after = found.first_failure_seconds
    if after is not None and (run.exhaustion is None or after != run.exhaustion.seconds):
        yield Moment(after, "first failure after the warm-up", "failure")
    if found.fired_seconds is not None:
        yield Moment(found.fired_seconds, f"alert fires, {found.fired_nat_ip}", "alert")
