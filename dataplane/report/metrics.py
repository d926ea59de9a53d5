"""`metrics.csv`: the one-minute figures of the metrics that a report shows, cut into the intervals of a chart.

Names that are not known here are passed over, so a run may write more.
"""

from __future__ import annotations

import csv
import math
from array import array
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataplane.report.chart import MINUTE, Intervals
from dataplane.report.run import check_last_line
from dataplane.runs.folder import RunError

AVAILABILITY = "NatPortAvailability"
BYTES_IN = "PEBytesIn"
BYTES_OUT = "PEBytesOut"
FAILURES = "NatPortAllocationFailures"
ACTIVE = "SessionsActive"
DROPPED = "PacketsDropped"
_KNOWN = {AVAILABILITY, BYTES_IN, BYTES_OUT, FAILURES, ACTIVE, DROPPED}

#: Most intervals of a chart of minutes: a day of two-minute steps.
MOST_INTERVALS = 720

_COLUMNS = ("time", "resource", "metric", "dimension", "total", "minimum", "maximum", "average")


@dataclass
class Minutes:
    """One metric of one resource: its minutes (numbered from 1970 on, rising) and their figures."""

    minute: array[int] = field(default_factory=lambda: array("q"))
    total: array[float] = field(default_factory=lambda: array("d"))
    minimum: array[float] = field(default_factory=lambda: array("d"))
    maximum: array[float] = field(default_factory=lambda: array("d"))
    average: array[float] = field(default_factory=lambda: array("d"))

    def lowest(self) -> tuple[float, int]:
        """The lowest minimum, and the row in which it is first."""
        row = int(np.argmin(np.array(self.minimum)))
        return self.minimum[row], row


@dataclass(frozen=True)
class Metrics:
    """Rows by (metric, resource, dimension), and the time that they span (None without a row)."""

    rows: dict[tuple[str, str, str], Minutes]
    intervals: Intervals | None

    def of(self, metric: str) -> dict[tuple[str, str], Minutes]:
        """One metric's rows by (resource, dimension)."""
        return {key[1:]: rows for key, rows in self.rows.items() if key[0] == metric}


def read_metrics(path: Path) -> Metrics:
    """Read the known metrics of a `metrics.csv`. Raises `RunError` that names the line that is damaged."""
    found: defaultdict[tuple[str, str, str], Minutes] = defaultdict(Minutes)
    check_last_line(path)
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        try:
            header = next(lines, [])
            places = [header.index(name) for name in _COLUMNS]
            times: dict[str, int] = {}
            for line in lines:
                time, resource, metric, dimension, *figures = (line[place] for place in places)
                if metric not in _KNOWN:
                    continue
                if time not in times:
                    times[time] = int(np.datetime64(time.removesuffix("Z"), "m").astype(np.int64))
                rows = found[metric, resource, dimension]
                if rows.minute and times[time] <= rows.minute[-1]:
                    raise ValueError(f"{time} does not come after the minute before it")
                rows.minute.append(times[time])
                for column, figure in zip((rows.total, rows.minimum, rows.maximum, rows.average), figures, strict=True):
                    column.append(_finite(figure))
        except (ValueError, IndexError, csv.Error) as error:
            where = f"{path}:{lines.line_num or 1}"
            raise RunError(f"{where}: is damaged: {error}; replay again to write it anew") from None
    return Metrics(dict(found), _span(found.values()))


def spanning(metrics: Metrics, begin: int, end: int) -> Metrics:
    """The same with intervals that reach from `begin` to `end` at least: nothing may have happened there."""
    if metrics.intervals is None:
        return metrics
    begin, end = min(begin, metrics.intervals.start), max(end, metrics.intervals.end)
    return Metrics(metrics.rows, Intervals.over(begin // MINUTE * MINUTE, end, MOST_INTERVALS, MINUTE))


def sums(rows: Minutes, intervals: Intervals) -> NDArray[np.float64]:
    """The totals of the minutes of each interval."""
    return np.bincount(_places(rows, intervals), np.array(rows.total), intervals.count).astype(np.float64)


def levels(rows: Minutes, intervals: Intervals) -> NDArray[np.float64]:
    """Of a number that has a row when it changes: what it is at the end of each interval, 0 before its first row."""
    ends: NDArray[np.float64] = np.full(intervals.count, np.nan)
    ends[_places(rows, intervals)] = np.array(rows.total)  # of several rows in one interval the last one stays
    known = np.maximum.accumulate(np.where(np.isnan(ends), -1, np.arange(intervals.count)))
    return np.where(known < 0, 0.0, ends[known])


def lows(rows: Minutes, intervals: Intervals) -> tuple[list[float | None], list[float | None]]:
    """Of a gauge: the lowest minimum and the lowest average of the minutes of each interval.

    A minute in which nothing happened has no row. If everything stood at one value in the minute before it, it still
    does, and that is filled in; else the value is not known and stays out.
    """
    minima, averages = np.full((2, intervals.count), np.nan)
    places = _places(rows, intervals)
    np.fmin.at(minima, places, np.array(rows.minimum))
    np.fmin.at(averages, places, np.array(rows.average))
    minutes = np.array(rows.minute)
    still = np.flatnonzero((np.diff(minutes) > 1) & (np.array(rows.minimum) == np.array(rows.maximum))[:-1])
    first = ((minutes[still] + 1) * MINUTE - intervals.start) // intervals.width
    last = ((minutes[still + 1] - 1) * MINUTE - intervals.start) // intervals.width
    for row, begin, end in zip(still.tolist(), first.tolist(), last.tolist(), strict=True):
        for lowest in (minima, averages):
            lowest[begin : end + 1] = np.fmin(lowest[begin : end + 1], rows.minimum[row])
    return _known(minima), _known(averages)


def _span(all_rows: Iterable[Minutes]) -> Intervals | None:
    ends = [(rows.minute[0], rows.minute[-1]) for rows in all_rows if rows.minute]
    if not ends:
        return None
    first, last = min(first for first, _ in ends), max(last for _, last in ends)
    return Intervals.over(first * MINUTE, (last + 1) * MINUTE, MOST_INTERVALS, MINUTE)


def _places(rows: Minutes, intervals: Intervals) -> NDArray[np.int64]:
    return (np.array(rows.minute) * MINUTE - intervals.start) // intervals.width


def _known(values: NDArray[np.float64]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no figure")
    return value
