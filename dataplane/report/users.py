"""Who used the NAT ports of a run, and who was refused one: in a sentence, and as bars."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dataplane.report.chart import MOST_BARS, Bars, Series, bars
from dataplane.report.run import Run
from dataplane.report.sessions import SessionFigures

#: Endpoints that a sentence names.
_MOST_NAMES = 3


def who_used_ports(run: Run, sessions: SessionFigures | None) -> list[str]:
    """Who had most of the NAT ports, and who was refused one, in a sentence each; nothing if it is not known."""
    sentences = []
    used = _used(run, sessions)
    total = sum(used.values())
    if total:
        name = max(used, key=lambda each: used[each])
        sentences.append(f"Who used the ports: {name}, {100 * used[name] / total:.1f} % of all port-seconds.")
    refused = _refused(run)
    if refused:
        named = ", ".join(f"{name} {count:,}" for name, count in refused[:_MOST_NAMES])
        rest = refused[_MOST_NAMES:]
        more = f" and {len(rest):,} more {sum(count for _, count in rest):,}" if rest else ""
        sentences.append(f"Packets refused for want of a port, by endpoint: {named}{more}.")
    return sentences


def users(run: Run) -> Iterator[Bars]:
    """Port-seconds by endpoint, if an experiment has found them, and refusals."""
    if run.findings is not None and any(user.in_use + user.held for user in run.findings.users):
        everyone = sorted(run.findings.users, key=lambda user: -(user.in_use + user.held))
        total = sum(user.in_use + user.held for user in everyone)
        shown, rest = everyone[:MOST_BARS], everyone[MOST_BARS:]
        note = "A port in use or held for one second is one port-second."
        if rest:
            note += f" {len(rest):,} more endpoints had {sum(user.in_use + user.held for user in rest):,.0f}."
        if run.findings.from_seconds:
            note += " The warm-up is left out."
        series = [Series("in use", [round(user.in_use, 3) for user in shown])]
        if any(user.held for user in everyone):
            series.append(Series("held", [round(user.held, 3) for user in shown]))
        first = everyone[0]
        yield Bars(
            "port-seconds-found",
            "Who used the NAT ports",
            f"{first.name} had {100 * (first.in_use + first.held) / total:.1f} % of all port-seconds.",
            "port-seconds",
            note,
            [user.name for user in shown],
            series,
        )
    refused = _refused(run)
    if refused:
        lost = sum(count for _, count in refused)
        summary = f"{refused[0][0]} was refused most often: {refused[0][1]:,} of {lost:,} times."
        yield bars("failures-by-endpoint", "Refused for want of a port", "packets", refused, summary, "")


def _refused(run: Run) -> list[tuple[str, int]]:
    """Endpoints that were refused a port, most first; of an experiment, after its warm-up."""
    if run.findings is not None:
        counts = [(user.name, user.failures) for user in run.findings.users]
    else:
        counts = [(endpoint.name, endpoint.refused) for endpoint in run.endpoints]
    return sorted(((name, count) for name, count in counts if count), key=lambda each: -each[1])


def _used(run: Run, sessions: SessionFigures | None) -> dict[str, float]:
    """Port-seconds by endpoint."""
    if run.findings is not None:
        return {user.name: user.in_use + user.held for user in run.findings.users}
    seconds = np.zeros(0) if sessions is None else sessions.port_seconds
    return {endpoint.name: float(each) for endpoint, each in zip(run.endpoints, seconds, strict=False)}
