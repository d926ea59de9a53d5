"""What a report of a run shows: its charts in order, and what is said of them in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dataplane.report import metrics as m
from dataplane.report.chart import MINUTE, SECOND, Bars, Chart, HeatMap, Intervals, Mark, Series, Steps, time_text
from dataplane.report.run import NatIp, Run
from dataplane.report.sessions import SessionFigures, port_bands, read_sessions
from dataplane.runs.folder import RunError

#: Charts of one kind, and series in one chart, before the rest is summed up.
MOST_CHARTS = 6
MOST_SERIES = 7
MOST_BARS = 15

_SESSION_INTERVALS = 240
_HEAT_INTERVALS = 96
#: Percent in use of a band of ports, below which there is nothing to see.
_LEAST_HEAT = 0.001


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading, paragraphs, charts. `key` is its anchor."""

    key: str
    title: str
    words: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)


def content(run: Run) -> list[Section]:
    """Read what is large of a run, and say and draw it all. Raises `RunError` if one of the files is damaged."""
    figures = m.read_metrics(run.metrics)
    span = _span(run, figures)
    marks = _marks(run)
    sessions = None
    if run.sessions is not None and span is not None:
        begin, end = span
        sessions = SessionFigures(
            run,
            Intervals.over(begin, end + 1, _SESSION_INTERVALS),
            Intervals.over(begin, end + 1, _HEAT_INTERVALS),
            end,
        )
        read_sessions(run.sessions, sessions)
        if sessions.count != run.sessions_created:
            raise RunError(
                f"{run.sessions}: has {sessions.count:,} sessions, summary.json {run.sessions_created:,}; replay again"
            )
    return [
        _availability(run, figures, marks),
        _sessions(run, sessions, marks),
        _ports(run, sessions, marks),
        _bytes(run, figures),
        _drops(run),
    ]


def _span(run: Run, figures: m.Metrics) -> tuple[int, int] | None:
    """First and last moment of the run, as near as its files tell them."""
    if run.begin_ns is not None:
        return run.begin_ns, run.begin_ns + round(run.duration_seconds * SECOND)
    return None if figures.intervals is None else (figures.intervals.start, figures.intervals.end - 1)


def _marks(run: Run) -> list[Mark]:
    if run.exhaustion is None or run.begin_ns is None:
        return []
    return [Mark(run.begin_ns + round(run.exhaustion.seconds * SECOND), "first exhaustion")]


# --- NAT ports ------------------------------------------------------------------------------------------------


def _availability(run: Run, figures: m.Metrics, marks: list[Mark]) -> Section:
    section = Section("availability", "NAT port availability")
    rows = figures.of(m.AVAILABILITY)
    known = [nat_ip for nat_ip in run.nat_ips if (nat_ip.service, nat_ip.address) in rows]
    if figures.intervals is None or not known:
        section.words.append(f"metrics.csv has no rows of {m.AVAILABILITY}: no NAT port was taken in this run.")
        return section
    known.sort(key=lambda nat_ip: nat_ip.lowest_percent)
    section.words.append(
        "Each line holds for a minute. The average is what the metric reports for the minute, over time and over the "
        "NAT IP's pools; the minimum is the lowest that any one pool had at any moment of it. A pool that is full for "
        "a second refuses sessions, though the average hardly moves."
    )
    if len(known) > MOST_CHARTS:
        section.words.append(
            f"Shown are the {MOST_CHARTS} NAT IPs that came lowest, of {len(known):,}; the table below has figures "
            "of the others."
        )
    for number, nat_ip in enumerate(known[:MOST_CHARTS], 1):
        first = run.exhaustion
        own = marks if first and (first.service, first.nat_ip) == (nat_ip.service, nat_ip.address) else []
        section.charts.append(
            _availability_chart(number, nat_ip, rows[nat_ip.service, nat_ip.address], figures.intervals, own)
        )
    return section


def _availability_chart(
    number: int, nat_ip: NatIp, rows: m.Minutes, intervals: Intervals, marks: list[Mark]
) -> Steps:
    minima, averages = m.lows(rows, intervals)
    lowest, row = rows.lowest()
    minute = time_text(rows.minute[row] * MINUTE)[:16]
    summary = (
        f"The lowest that a pool of NAT IP {nat_ip.address} had was {percent(lowest)} of its ports free, in the minute "
        f"{minute} UTC; the average of that minute was {percent(rows.average[row])}."
    )
    note = "Where a line is broken, nothing happened and the value is not known from metrics.csv."
    if intervals.width != MINUTE:
        note = f"Of each {intervals.words}, the lowest minimum and the lowest one-minute average. {note}"
    return Steps(
        f"availability-{number}",
        f"Free NAT ports of {nat_ip.name}",
        summary,
        "%",
        note,
        intervals,
        [
            Series("one-minute average" if intervals.width == MINUTE else "lowest one-minute average", averages, True),
            Series("minimum", minima),
        ],
        top=100,
        marks=marks,
    )


def _ports(run: Run, sessions: SessionFigures | None, marks: list[Mark]) -> Section:
    section = Section("ports", "Who used the ports, and which")
    if sessions is None:
        section.words.append("The run has no sessions.csv, so it cannot be told which sessions held which ports.")
        return section
    if not sessions.count:
        section.words.append("No session was opened, so no port was used.")
        return section
    section.words.append(
        "From sessions.csv: a session holds its port from its first packet to its end. Ports that are held after that "
        "(port_hold) are not counted here."
    )
    if run.begin_ns is None:
        section.words.append(
            "The run's manifest.json does not say when the run begins, so it is taken to last from the first to the "
            "last whole minute of metrics.csv, and sessions that are still open count to the end of it."
        )
    section.charts.extend([_live(sessions, marks), _port_seconds(run, sessions)])
    heat = sessions.heat
    for number, nat_ip in enumerate(sessions.heat_of):
        if heat[number].max() >= _LEAST_HEAT:
            section.charts.append(_heat(number, nat_ip, heat[number], sessions.heat_intervals))
    alike = [row for row, nat_ip in enumerate(sessions.bands_of) if nat_ip.ports == sessions.bands_of[0].ports]
    if len(alike) > 1 and sessions.bands[alike].max() >= _LEAST_HEAT:
        section.charts.append(_bands(alike, sessions))
    return section


def _live(sessions: SessionFigures, marks: list[Mark]) -> Steps:
    ports = sessions.ports
    order = np.argsort(-ports[:-1].sum(axis=1), kind="stable")
    shown = [row for row in order[:MOST_SERIES].tolist() if ports[row].any()]
    rest = ports.sum(axis=0) - ports[shown].sum(axis=0)
    total = ports.sum(axis=0)
    peak = int(total.argmax())
    each = sessions.intervals.words
    series = [Series(sessions.followed[row], _round(ports[row], 3)) for row in shown]
    if (rest > 1e-6).any():
        series.append(Series("all others", _round(rest, 3)))
    width = sessions.intervals.width
    summary = f"At no time was there a live session for a good part of the {each}."
    if total[peak] >= 0.05:
        summary = (
            f"Most were live in the {each} from {time_text(sessions.intervals.start + peak * width, width)} UTC on: "
            f"{round(float(total[peak]), 1):,.10g} on average."
        )
    return Steps(
        "live",
        "Live sessions, each with one NAT port, by endpoint",
        summary,
        "sessions",
        f"Average over each {each}.",
        sessions.intervals,
        series,
        stacked=True,
        marks=marks,
    )


def _port_seconds(run: Run, sessions: SessionFigures) -> Bars:
    order = np.argsort(-sessions.port_seconds, kind="stable")
    shown = [row for row in order.tolist() if sessions.port_seconds[row] > 0]
    total = float(sessions.port_seconds.sum())
    labels = [run.endpoints[row].name for row in shown[:MOST_BARS]]
    values = sessions.port_seconds[shown[:MOST_BARS]]
    note = "One port in use for one second is one port-second."
    if len(shown) > MOST_BARS:
        rest = float(sessions.port_seconds[shown[MOST_BARS:]].sum())
        note += f" {len(shown) - MOST_BARS:,} more endpoints held ports for {rest:,.0f} port-seconds."
    summary = "No session lasted any time."
    if total:
        summary = (
            f"{labels[0]} held ports for {values[0]:,.0f} port-seconds, {percent(100 * float(values[0]) / total)} of "
            f"the {total:,.0f} in all."
        )
    return Bars(
        "port-seconds",
        "NAT ports by endpoint",
        summary,
        "port-seconds",
        note,
        labels,
        [Series("ports by time", _round(values, 3))],
    )


def _heat(number: int, nat_ip: NatIp, heat: NDArray[np.float64], intervals: Intervals) -> HeatMap:
    bands = port_bands(nat_ip.ports)
    values = np.round(heat[: len(bands)], 3)
    band, column = np.unravel_index(int(values.argmax()), values.shape)
    start = time_text(intervals.start + int(column) * intervals.width, intervals.width)
    return HeatMap(
        f"heat-{number + 1}",
        f"Port space of {nat_ip.name}",
        f"Busiest: {_ports_words(bands[band])} in the {intervals.words} from {start} UTC on: "
        f"{percent(float(values[band, column]))} in use.",
        "%",
        f"How much of each band of ports was in use in each {intervals.words}, on average over the "
        f"{nat_ip.pools} pool{'s' if nat_ip.pools != 1 else ''} of the NAT IP (one per protocol and backend).",
        intervals,
        [_band(each) for each in bands],
        "ports",
        values,
        _top(values),
    )


def _bands(rows: list[int], sessions: SessionFigures) -> HeatMap:
    nat_ips = [sessions.bands_of[row] for row in rows]
    bands = port_bands(nat_ips[0].ports)
    values = np.round(sessions.bands[rows][:, : len(bands)], 3)
    row, band = np.unravel_index(int(values.argmax()), values.shape)
    return HeatMap(
        "bands",
        "Port space by NAT IP, over the whole run",
        f"Busiest: {_ports_words(bands[band])} of {nat_ips[row].name}: {percent(float(values[row, band]))} in use "
        "on average.",
        "%",
        "The NAT IPs with most ports in use at a time that have the same port range.",
        [_band(each) for each in bands],
        [nat_ip.name for nat_ip in nat_ips],
        "NAT IPs",
        values,
        _top(values),
    )


# --- sessions, bytes, drops -----------------------------------------------------------------------------------


def _sessions(run: Run, sessions: SessionFigures | None, marks: list[Mark]) -> Section:
    section = Section("sessions", "Sessions and failures")
    ended = ", ".join(f"{count:,} {how}" for how, count in run.sessions_ended.items() if count) or "none"
    section.words.append(
        f"Sessions opened: {run.sessions_created:,}; still open at the end: {run.sessions_active:,}; ended: {ended}."
    )
    if sessions is None:
        section.words.append("The run has no sessions.csv, so it cannot be told when they opened and ended.")
    elif sessions.count:
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
                marks=marks,
            )
        )
    if not run.failures:
        section.words.append("No session failed for want of a NAT port.")
        return section
    section.words.append(
        f"Times that a session found no NAT port: {run.failures:,}. The run's files have totals of failures, not their "
        "times, so there is no chart of them over time; the first of them is marked in the charts."
    )
    failed = sorted((nat_ip for nat_ip in run.nat_ips if nat_ip.failures), key=lambda nat_ip: -nat_ip.failures)
    section.charts.append(
        _bars(
            "failures",
            "Allocation failures by NAT IP",
            "failures",
            [(nat_ip.name, nat_ip.failures) for nat_ip in failed],
            f"{failed[0].name} refused most: {failed[0].failures:,} of {run.failures:,}.",
            "In the whole run, each counted once, at the NAT IP that the session would have used first.",
        )
    )
    return section


def _bytes(run: Run, figures: m.Metrics) -> Section:
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
    if figures.intervals is not None:
        for metric, way in ((m.BYTES_IN, "IN"), (m.BYTES_OUT, "OUT")):
            chart = _bytes_over_time(figures, figures.intervals, metric, way)
            if chart is not None:
                section.charts.append(chart)
    return section


def _bytes_over_time(figures: m.Metrics, intervals: Intervals, metric: str, way: str) -> Steps | None:
    rows = {resource: m.sums(minutes, intervals) for (resource, _), minutes in figures.of(metric).items()}
    if not rows:
        return None
    names = sorted(rows, key=lambda name: -float(rows[name].sum()))
    series = [Series(name, _round(rows[name], 0)) for name in names[:MOST_SERIES]]
    if names[MOST_SERIES:]:
        rest: NDArray[np.float64] = np.sum([rows[name] for name in names[MOST_SERIES:]], axis=0)
        series.append(Series("all others", _round(rest, 0)))
    total = np.sum(list(rows.values()), axis=0)
    peak = int(total.argmax())
    return Steps(
        f"bytes-{way.lower()}",
        f"Bytes {way} per {intervals.words}",
        f"The most was {int(total[peak]):,} bytes in the {intervals.words} from "
        f"{time_text(intervals.start + peak * intervals.width)[:16]} UTC on.",
        "bytes",
        f"The metric {metric}.",
        intervals,
        series,
        stacked=True,
    )


def _drops(run: Run) -> Section:
    section = Section("drops", "Dropped packets")
    dropped = run.counts["dropped"][0]
    if not dropped:
        section.words.append("No packet was dropped.")
        return section
    section.words.append("The run's files have totals of drops, not their times.")
    reasons = sorted(run.drops.items(), key=lambda item: -item[1][0])
    section.charts.append(
        _bars(
            "drops-by-reason",
            "Dropped packets by reason",
            "packets",
            [(reason, count[0]) for reason, count in reasons],
            f"{dropped:,} packets were dropped, most as {reasons[0][0]}: {reasons[0][1][0]:,}.",
            "",
        )
    )
    return section


# --- how it is said -------------------------------------------------------------------------------------------


def _bars(
    key: str, title: str, unit: str, figures: Sequence[tuple[str, int]], summary: str, note: str
) -> Bars:
    shown, rest = figures[:MOST_BARS], figures[MOST_BARS:]
    if rest:
        note += f" Not shown: {len(rest):,} more, with {sum(value for _, value in rest):,} {unit}."
    return Bars(
        key, title, summary, unit, note, [name for name, _ in shown], [Series(unit, [value for _, value in shown])]
    )


def percent(value: float) -> str:
    """A percentage, as exact as it matters."""
    return f"{value:.3f}".rstrip("0").rstrip(".") + "\N{NO-BREAK SPACE}%"


def _band(ports: range) -> str:
    return str(ports.start) if len(ports) == 1 else f"{ports.start}-{ports.stop - 1}"  # as a topology writes it


def _ports_words(ports: range) -> str:
    return f"port{'s' if len(ports) > 1 else ''} {_band(ports)}"


def _round(values: NDArray[np.float64], digits: int) -> list[float]:
    rounded: list[float] = np.round(values, digits).tolist()
    return rounded


def _top(values: NDArray[np.float64]) -> float:
    """Where a scale of percentages ends: 100 only if the figures come near, else quiet runs would be blank."""
    highest = float(values.max(initial=0))
    return next(top for top in (0.1, 1, 5, 10, 25, 50, 100) if highest <= top or top == 100)
