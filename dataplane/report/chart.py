"""What a chart is: a title, a sentence that says what it shows, a unit, and figures. Nothing of how it is drawn.

`assets/page.js` draws charts with ECharts, `pictures.py` with matplotlib; `table` gives the same figures to those who
read rather than look. Times are integers in nanoseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

#: Series and bars in one chart, before the rest is summed up.
MOST_SERIES = 7
MOST_BARS = 15

SECOND = 1_000_000_000
MINUTE = 60 * SECOND

#: What a time axis may be divided into: people read these lengths without thinking.
_WIDTHS = (
    *(number * 10**power for power in range(3, 9) for number in (1, 2, 5)),
    *(number * SECOND for number in (1, 2, 5, 10, 15, 30)),
    *(number * MINUTE for number in (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720)),
    *(number * 1440 * MINUTE for number in (1, 2, 7, 14, 28, 91, 182, 364, 3640, 36400)),
)


@dataclass(frozen=True)
class Intervals:
    """A stretch of time in equal parts: `count` of them, each `width` long, from `start` on (nanoseconds)."""

    start: int
    width: int
    count: int

    @classmethod
    def over(cls, begin: int, end: int, most: int, least_width: int = _WIDTHS[0]) -> Intervals:
        """The finest division of begin to end into at most `most` parts whose length is easy to read."""
        for width in _WIDTHS:
            start = begin // width * width
            count = max(1, -(-(end - start) // width))
            if width >= least_width and count <= most:
                break
        return cls(start, width, count)

    @property
    def end(self) -> int:
        """Where the last part ends."""
        return self.start + self.width * self.count

    @property
    def words(self) -> str:
        """How long a part is, to follow "each": "10 seconds", "minute"."""
        return duration_words(self.width)

    def times(self) -> list[str]:
        """The start of every part, as ISO 8601 in UTC, as exact as the width needs."""
        return [time_text(self.start + self.width * number, self.width) for number in range(self.count)]


@dataclass(frozen=True)
class Series:
    """Named figures of a chart, one per interval or label; None where there is none. `dashed` is drawn lighter."""

    name: str
    values: Sequence[float | None]
    dashed: bool = False


@dataclass(frozen=True)
class Mark:
    """A moment that deserves a line through the chart; `kind` (failure, alert or event) decides its colour."""

    time_ns: int
    text: str
    kind: str = "failure"


@dataclass(frozen=True)
class Limit:
    """A value that deserves a line across the chart."""

    value: float
    text: str


@dataclass(frozen=True)
class Chart:
    """What every chart has. `key` is unique in a page and becomes file names and anchors; `note` is small print."""

    kind: ClassVar[str]

    key: str
    title: str
    summary: str
    unit: str
    note: str

    @property
    def label(self) -> str:
        """What one hears who cannot see the chart."""
        return f"{self.title}. {self.summary}"

    def table(self) -> tuple[list[str], Iterator[list[Any]]]:
        """The figures as text and numbers: column titles, rows."""
        raise NotImplementedError

    def figures(self) -> dict[str, Any]:
        """The figures as the page's script takes them."""
        raise NotImplementedError

    def as_json(self) -> dict[str, Any]:
        """The chart as the page's script takes it."""
        words = {"key": self.key, "kind": self.kind, "title": self.title, "summary": self.summary, "unit": self.unit}
        return {**words, **self.figures()}


@dataclass(frozen=True)
class Steps(Chart):
    """Figures over time, each of which holds for its interval. `top` fixes the end of the value axis."""

    kind = "steps"

    intervals: Intervals
    series: Sequence[Series]
    stacked: bool = False
    top: float | None = None
    marks: Sequence[Mark] = ()
    limits: Sequence[Limit] = ()

    @property
    def label(self) -> str:
        """With the lines that are drawn through the chart."""
        lines = [f"{mark.text} at {time_text(mark.time_ns)} UTC" for mark in self.marks]
        lines += [f"{limit.text}, {limit.value:g} {self.unit}" for limit in self.limits]
        return f"{super().label} Marked: {'; '.join(lines)}." if lines else super().label

    def table(self) -> tuple[list[str], Iterator[list[Any]]]:
        """A row per interval in which there is a mark or any figure; of counts, any but 0."""
        marked: dict[int, list[str]] = {}
        for mark in self.marks:
            place = (mark.time_ns - self.intervals.start) // self.intervals.width
            marked.setdefault(min(place, self.intervals.count - 1), []).append(mark.text)
        nothing = {None, 0} if self.top is None else {None}
        rows = (
            [*row, *(["; ".join(marked.get(number, ()))] if marked else [])]
            for number, row in enumerate(
                zip(self.intervals.times(), *(series.values for series in self.series), strict=True)
            )
            if number in marked or not nothing.issuperset(row[1:])
        )
        titles = [f"{series.name}, {self.unit}" for series in self.series]
        return ["From (UTC)", *titles, *(["Marked"] if marked else [])], rows

    def figures(self) -> dict[str, Any]:
        """Intervals and series."""
        return {
            **_intervals(self.intervals),
            "series": [_series(series) for series in self.series],
            "stacked": self.stacked,
            "top": self.top,
            "marks": [
                {"time": _milliseconds(mark.time_ns), "text": mark.text, "kind": mark.kind} for mark in self.marks
            ],
            "limits": [{"value": limit.value, "text": limit.text} for limit in self.limits],
        }


@dataclass(frozen=True)
class Bars(Chart):
    """Figures by name."""

    kind = "bars"

    labels: Sequence[str]
    series: Sequence[Series]

    def table(self) -> tuple[list[str], Iterator[list[Any]]]:
        """A row per name."""
        rows = zip(self.labels, *(series.values for series in self.series), strict=True)
        return ["", *(f"{series.name}, {self.unit}" for series in self.series)], map(list, rows)

    def figures(self) -> dict[str, Any]:
        """Names and series."""
        return {
            "labels": list(self.labels),
            "series": [_series(series) for series in self.series],
        }


def bars(key: str, title: str, unit: str, figures: Sequence[tuple[str, int]], summary: str, note: str) -> Bars:
    """Counts by name, the first `MOST_BARS` of them; the note says what the others add up to."""
    shown, rest = figures[:MOST_BARS], figures[MOST_BARS:]
    if rest:
        note += f" Not shown: {len(rest):,} more, with {sum(value for _, value in rest):,} {unit}."
    return Bars(
        key, title, summary, unit, note, [name for name, _ in shown], [Series(unit, [value for _, value in shown])]
    )


@dataclass(frozen=True)
class HeatMap(Chart):
    """A figure for every row in every column, 0 to `top`. Columns are intervals of time, or names."""

    kind = "heat"

    columns: Intervals | Sequence[str]
    rows: Sequence[str]
    rows_title: str
    values: NDArray[np.float64]
    top: float

    def column_texts(self) -> list[str]:
        """What each column is called."""
        return self.columns.times() if isinstance(self.columns, Intervals) else list(self.columns)

    def table(self) -> tuple[list[str], Iterator[list[Any]]]:
        """A row per column that has any figure but 0: time runs down a table, not across."""
        texts = self.column_texts()
        first = "From (UTC)" if isinstance(self.columns, Intervals) else ""
        busy = np.flatnonzero(self.values.any(axis=0))
        return [first, *self.rows], ([texts[at], *self.values[:, at].tolist()] for at in busy)

    def figures(self) -> dict[str, Any]:
        """Row by row from the lowest, column by column."""
        return {
            **(_intervals(self.columns) if isinstance(self.columns, Intervals) else {}),
            "columns": self.column_texts(),
            "rows": list(self.rows),
            "rowsTitle": self.rows_title,
            "values": self.values.tolist(),
            "top": self.top,
        }


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading, paragraphs, charts. `key` is its anchor."""

    key: str
    title: str
    words: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)


def _series(series: Series) -> dict[str, Any]:
    return {"name": series.name, "values": list(series.values), "dashed": series.dashed}


def _intervals(intervals: Intervals) -> dict[str, Any]:
    return {
        "start": _milliseconds(intervals.start),
        "width": _milliseconds(intervals.width),
        "count": intervals.count,
        "each": intervals.words,
    }


def _milliseconds(time_ns: int) -> float:
    """Browsers count time in milliseconds."""
    return time_ns / 1e6 if time_ns % 1_000_000 else time_ns // 1_000_000


def duration_words(length_ns: int) -> str:
    """ "minute", "10 seconds", "2.5 milliseconds", for any length."""
    for unit, word in (
        (1440 * MINUTE, "day"),
        (60 * MINUTE, "hour"),
        (MINUTE, "minute"),
        (SECOND, "second"),
        (1_000_000, "millisecond"),
        (1_000, "microsecond"),
    ):
        if length_ns >= unit:
            number = length_ns / unit
            return word if number == 1 else f"{number:,.10g} {word}s"
    return f"{length_ns} nanoseconds"


def time_text(time_ns: int, resolution_ns: int = SECOND) -> str:
    """A moment as ISO 8601 in UTC without the letters, as exact as `resolution_ns` asks for."""
    unit = "s" if resolution_ns % SECOND == 0 else "ms" if resolution_ns % 1_000_000 == 0 else "us"
    return str(np.datetime64(time_ns, "ns").astype(f"datetime64[{unit}]")).replace("T", " ")


def percent(value: float) -> str:
    """A percentage, as exact as it matters."""
    return f"{value:.3f}".rstrip("0").rstrip(".") + "\N{NO-BREAK SPACE}%"


def rounded(values: NDArray[np.float64], digits: int) -> list[float]:
    """Figures for a page, no longer than they need be."""
    short: list[float] = np.round(values, digits).tolist()
    return short
