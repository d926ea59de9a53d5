"""The NAT ports in a report: how many were free, who held them, and which they were."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dataplane.report import metrics as m
from dataplane.report.chart import (
    MINUTE,
    MOST_BARS,
    MOST_SERIES,
    SECOND,
    Bars,
    HeatMap,
    Intervals,
    Mark,
    Section,
    Series,
    Steps,
    percent,
    rounded,
    time_text,
)
from dataplane.report.marks import alert_limits
from dataplane.report.run import NatIp, Run
from dataplane.report.sessions import SessionFigures, port_bands
from dataplane.report.users import users

#: NAT IPs that have a chart of their free ports.
MOST_CHARTS = 6
#: Percent in use of a band of ports, below which there is nothing to see.
_LEAST_HEAT = 0.001


def availability_section(run: Run, figures: m.Metrics, marks: list[Mark]) -> Section:
    """How many ports of each NAT IP were free: the metric's average and the minimum that it hides."""
    section = Section("availability", "NAT port availability")
    rows = figures.of(m.AVAILABILITY)
    known = [nat_ip for nat_ip in run.nat_ips if (nat_ip.service, nat_ip.address) in rows]
    if figures.intervals is None or not known:
        section.words.append(f"metrics.csv has no rows of {m.AVAILABILITY}: no NAT port was taken in this run.")
        return section
    known.sort(key=lambda nat_ip: nat_ip.lowest_percent)
    section.words.append(
        "The average is what the metric reports for a minute, over the NAT IP's pools; the minimum is the lowest that "
        "any one pool had at any moment of it. A pool that is full for a second refuses sessions, though the average "
        "hardly moves."
    )
    if len(known) > MOST_CHARTS:
        section.words.append(
            f"Shown are the {MOST_CHARTS} NAT IPs that came lowest, of {len(known):,}; the table below has figures "
            "of the others."
        )
    for number, nat_ip in enumerate(known[:MOST_CHARTS], 1):
        section.charts.append(
            _availability_chart(number, run, nat_ip, rows[nat_ip.service, nat_ip.address], figures.intervals, marks)
        )
    return section


def _availability_chart(
    number: int, run: Run, nat_ip: NatIp, rows: m.Minutes, intervals: Intervals, marks: list[Mark]
) -> Steps:
    minima, averages = m.lows(rows, intervals)
    lowest, row = rows.lowest()
    minute = time_text(rows.minute[row] * MINUTE)[:16]
    summary = (
        f"The lowest that a pool of NAT IP {nat_ip.address} had was {percent(lowest)} of its ports free, in the minute "
        f"{minute} UTC; the average of that minute was {percent(rows.average[row])}."
    )
    note = _changes(run, nat_ip)
    if any(None in values[_first(values) : len(values) - _first(values[::-1])] for values in (minima, averages)):
        note += " Where a line is broken, nothing happened and the value is not known from metrics.csv."
    if intervals.width != MINUTE:
        note = f"Of each {intervals.words}, the lowest minimum and the lowest one-minute average. {note}"
    return Steps(
        f"availability-{number}",
        f"Free NAT ports of {nat_ip.name}",
        summary,
        "%",
        note.strip(),
        intervals,
        [
            Series("one-minute average" if intervals.width == MINUTE else "lowest one-minute average", averages, True),
            Series("minimum", minima),
        ],
        top=100,
        marks=marks,
        limits=alert_limits(run),
    )


def _first(values: list[float | None]) -> int:
    """Where the first figure is."""
    return next((place for place, value in enumerate(values) if value is not None), len(values))


def _changes(run: Run, nat_ip: NatIp) -> str:
    """When a NAT IP that has not always been there came and went."""
    words = {"add_nat_ip": "It has no figures before it is added, at", "remove_nat_ip": "It is removed at"}
    return " ".join(
        f"{words[event.action]} {event.at / SECOND:,.10g} s."
        for event in sorted(run.events, key=lambda event: event.at)
        if event.action in words and (event.subject, str(event.address)) == (nat_ip.service, nat_ip.address)
    )


def ports_section(run: Run, sessions: SessionFigures | None, marks: list[Mark]) -> Section:
    """Which endpoints held ports, over time and in all, and which ports of the range those were."""
    section = Section("ports", "Who used the ports, and which", charts=list(users(run)))
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
    section.charts.append(_live(sessions, marks))
    if run.findings is None:  # an experiment knows it without the sessions
        section.charts.append(_port_seconds(run, sessions))
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
    series = [Series(sessions.followed[row], rounded(ports[row], 3)) for row in shown]
    if (rest > 1e-6).any():
        series.append(Series("all others", rounded(rest, 3)))
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
        [Series("ports by time", rounded(values, 3))],
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


def _band(ports: range) -> str:
    return str(ports.start) if len(ports) == 1 else f"{ports.start}-{ports.stop - 1}"  # as a topology writes it


def _ports_words(ports: range) -> str:
    return f"port{'s' if len(ports) > 1 else ''} {_band(ports)}"


def _top(values: NDArray[np.float64]) -> float:
    """Where a scale of percentages ends: 100 only if the figures come near, else quiet runs would be blank."""
    highest = float(values.max(initial=0))
    return next(top for top in (0.1, 1, 5, 10, 25, 50, 100) if highest <= top or top == 100)
