"""What a report of a run shows: its charts in order, and what is said of them in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dataplane.report import metrics as m
from dataplane.report.chart import (
    MOST_BARS,
    MOST_SERIES,
    SECOND,
    Bars,
    Intervals,
    Mark,
    Section,
    Series,
    Steps,
    bars,
    rounded,
    time_text,
)
from dataplane.report.marks import marks
from dataplane.report.ports import availability_section, ports_section
from dataplane.report.run import Run
from dataplane.report.sessions import SessionFigures, read_sessions
from dataplane.report.users import who_used_ports
from dataplane.runs.folder import RunError

_SESSION_INTERVALS = 240
_HEAT_INTERVALS = 96


def content(run: Run) -> tuple[list[str], list[Section]]:
    """Read what is large of a run, and say and draw it all: who used the ports, and the sections.

    Raises `RunError` if one of the files is damaged.
    """
    figures = m.read_metrics(run.metrics)
    span = _span(run, figures)
    if span is not None:
        figures = m.spanning(figures, *span)
    through = marks(run)
    sessions = None
    if run.sessions is not None and span is not None:
        begin, end = span
        sessions = SessionFigures(
            run,
            Intervals.over(begin, max(end, begin + 1), _SESSION_INTERVALS),
            Intervals.over(begin, max(end, begin + 1), _HEAT_INTERVALS),
            end,
        )
        read_sessions(run.sessions, sessions)
        if sessions.count != run.sessions_created:
            raise RunError(
                f"{run.sessions}: has {sessions.count:,} sessions, summary.json {run.sessions_created:,}; replay again"
            )
    return who_used_ports(run, sessions), [
        availability_section(run, figures, through),
        ports_section(run, sessions, through),
        _sessions(run, figures, sessions, through),
        _bytes(run, figures, through),
        _drops(run, figures, through),
    ]


def _span(run: Run, figures: m.Metrics) -> tuple[int, int] | None:
    """First and last moment of the run, as near as its files tell them."""
    if run.begin_ns is not None:
        return run.begin_ns, run.begin_ns + round(run.duration_seconds * SECOND)
    return None if figures.intervals is None else (figures.intervals.start, figures.intervals.end - 1)


def _sessions(run: Run, figures: m.Metrics, sessions: SessionFigures | None, through: list[Mark]) -> Section:
    section = Section("sessions", "Sessions and failures")
    ended = ", ".join(f"{count:,} {how}" for how, count in run.sessions_ended.items() if count) or "none"
    section.words.append(
        f"Sessions opened: {run.sessions_created:,}; still open at the end: {run.sessions_active:,}; ended: {ended}."
    )
    section.charts.extend(_over_time(
        figures,
        m.ACTIVE,
        ("sessions-active", "Open sessions", "sessions"),
        f"The metric {m.ACTIVE}: how many an endpoint has at the end of a minute.",
        through,
    ))
    if sessions is not None and sessions.count:
        each, width = sessions.intervals.words, sessions.intervals.width
        peak = int(sessions.opened.argmax())
        section.charts.append(
            Steps(
                "sessions-over-time",
                "Sessions opened and ended",
                f"Most were opened in the {each} from {time_text(sessions.intervals.start + peak * width, width)} UTC "
                f"on: {int(sessions.opened[peak]):,}.",
                "sessions",
                f"Counted in each {each}.",
                sessions.intervals,
                [Series("opened", sessions.opened.tolist()), Series("ended", sessions.ended.tolist())],
                marks=through,
            )
        )
    if not run.failures:
        section.words.append("No session failed for want of a NAT port.")
        return section
    section.charts.extend(_over_time(
        figures,
        m.FAILURES,
        ("failures-over-time", "Allocation failures", "failures"),
        f"The metric {m.FAILURES}, by NAT IP that the session would have used first.",
        through,
    ))
    failed = sorted((nat_ip for nat_ip in run.nat_ips if nat_ip.failures), key=lambda nat_ip: -nat_ip.failures)
    section.charts.append(
        bars(
            "failures",
            "Allocation failures by NAT IP",
            "failures",
            [(nat_ip.name, nat_ip.failures) for nat_ip in failed],
            f"{failed[0].name} refused most: {failed[0].failures:,} of {run.failures:,}.",
            "In the whole run, each counted once, at the NAT IP that the session would have used first.",
        )
    )
    return section


def _bytes(run: Run, figures: m.Metrics, through: list[Mark]) -> Section:
    section = Section("bytes", "Bytes by endpoint")
    section.words.append(
        "IN is what consumers send to the service, OUT is what comes back; IPv4 total lengths of forwarded packets."
    )
    order = sorted(run.endpoints, key=lambda endpoint: -endpoint.bytes_in - endpoint.bytes_out)
    order = [endpoint for endpoint in order if endpoint.packets]
    if not order:
        section.words.append("No packet was forwarded.")
        return section
    shown, rest = order[:MOST_BARS], order[MOST_BARS:]
    labels = [endpoint.name for endpoint in shown]
    columns = [[endpoint.bytes_in for endpoint in shown], [endpoint.bytes_out for endpoint in shown]]
    totals = [sum(endpoint.bytes_in for endpoint in order), sum(endpoint.bytes_out for endpoint in order)]
    section.charts.append(
        Bars(
            "bytes-total",
            "Bytes in total",
            f"{totals[0]:,} bytes IN and {totals[1]:,} bytes OUT; {labels[0]} had most.",
            "bytes",
            f"{len(rest):,} more endpoints had the rest." if rest else "",
            labels,
            [Series("IN", columns[0]), Series("OUT", columns[1])],
        )
    )
    for metric, way in ((m.BYTES_IN, "IN"), (m.BYTES_OUT, "OUT")):
        names = (f"bytes-{way.lower()}", f"Bytes {way}", "bytes")
        section.charts.extend(_over_time(figures, metric, names, f"The metric {metric}.", through))
    return section


def _over_time(
    figures: m.Metrics, metric: str, names: tuple[str, str, str], note: str, through: Sequence[Mark]
) -> list[Steps]:
    """A metric as a chart over time, stacked by resource and dimension; `names` are its key, title and unit."""
    key, title, unit = names
    intervals = figures.intervals
    found = figures.of(metric)
    if intervals is None or not found:
        return []
    is_level = metric == m.ACTIVE
    of_rows = m.levels if is_level else m.sums
    parts: dict[str, NDArray[np.float64]] = {}
    for (resource, dimension), minutes in found.items():
        # Reasons are few and mean the same everywhere; endpoints and NAT IPs are told apart.
        name = dimension if metric == m.DROPPED else f"{resource} {dimension}".strip()
        parts[name] = parts.get(name, np.zeros(intervals.count)) + of_rows(minutes, intervals)
    order = sorted(parts, key=lambda name: -float(parts[name].sum()))
    series = [Series(name, rounded(parts[name], 0)) for name in order[:MOST_SERIES]]
    if order[MOST_SERIES:]:
        rest: NDArray[np.float64] = np.sum([parts[name] for name in order[MOST_SERIES:]], axis=0)
        series.append(Series("all others", rounded(rest, 0)))
    total = np.sum(list(parts.values()), axis=0)
    peak = int(total.argmax())
    when = f"{time_text(intervals.start + peak * intervals.width)[:16]} UTC"
    most = f"{'at the end of' if is_level else 'in'} the {intervals.words} from {when} on"
    return [
        Steps(
            key,
            title if is_level else f"{title} per {intervals.words}",
            f"The most was {int(total[peak]):,} {unit} {most}.",
            unit,
            note,
            intervals,
            series,
            stacked=True,
            marks=list(through),
        )
    ]


def _drops(run: Run, figures: m.Metrics, through: list[Mark]) -> Section:
    section = Section("drops", "Dropped packets")
    dropped = run.counts["dropped"][0]
    if not dropped:
        section.words.append("No packet was dropped.")
        return section
    reasons = sorted(run.drops.items(), key=lambda item: -item[1][0])
    section.charts.append(
        bars(
            "drops-by-reason",
            "Dropped packets by reason",
            "packets",
            [(reason, count[0]) for reason, count in reasons],
            f"{dropped:,} packets were dropped, most as {reasons[0][0]}: {reasons[0][1][0]:,}.",
            "",
        )
    )
    names = ("drops-over-time", "Dropped packets", "packets")
    section.charts.extend(_over_time(figures, m.DROPPED, names, f"The metric {m.DROPPED}, by reason.", through))
    return section
