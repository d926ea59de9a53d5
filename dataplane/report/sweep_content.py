"""What a report of a sweep shows: a heat map and lines of each figure, over axes that the grid's settings suggest."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dataplane.report.chart import MOST_SERIES, Chart, Section
from dataplane.report.panels import Cells, Lines, Panel, Row
from dataplane.report.sweep import SEED, Figures, Results, Setting

#: Columns, rows, small multiples and places of one chart; what is beyond them is in results.csv.
_MOST_COLUMNS = 40
_MOST_ROWS = 20
_MOST_PANELS = 12
_MOST_PLACES = 800


@dataclass(frozen=True)
class _Figure:
    """A column of the results as charts show it; `never` is what is said where a cell that was computed has none."""

    name: str
    key: str
    title: str
    unit: str
    factor: float
    low_is_bad: bool
    never: str
    note: str


_FIGURES = (
    _Figure(
        "failure_share", "failure-share", "Connections that failed", "%", 100, False, "none begun",
        "Of the connections that were started, those whose every first packet was dropped.",
    ),
    _Figure(
        "lowest_availability_percent", "lowest-availability", "Lowest availability", "%", 1, True, "no pool",
        "The least share of free ports that any NAT pool had at any moment.",
    ),
    _Figure(
        "first_failure_seconds", "first-failure", "First failure", "s", 1, True, "never",
        "When a new session first found no NAT port, in seconds of the run.",
    ),
    _Figure(
        "alert_seconds_before_first_failure", "alert-before", "Alert before the first failure", "s", 1, True, "-",
        "How much earlier than the first failure the alert fired; negative: too late. Without a figure where ports "
        "never ran out, or the alert did not fire.",
    ),
)  # fmt: skip


def sweep_content(results: Results) -> list[Section]:
    """The sections of a sweep's page."""
    places = _Places(results)
    sections = []
    for figure in _FIGURES:
        words = [figure.note, *([places.words] if places.words else [])]
        every = {figures[figure.name] for _, figures in results.rows}
        if len(every) > 1:
            sections.append(Section(figure.key, figure.title, words, list(places.charts(figure))))
        elif (value := every.pop()) is not None:
            alike = f"In every cell it is {_number(figure.factor * value, figure.unit)}."
            sections.append(Section(figure.key, figure.title, [figure.note, alike]))
    return sections


class _Places:
    """Which cells of the grid lie at which place of a chart: several only where seeds are varied."""

    def __init__(self, results: Results) -> None:
        self._seeds = results.seeds
        seed = [setting for setting in results.settings if setting.name == SEED and len(setting.values) > 1]
        axes = results.axes or seed  # of seeds alone, each is shown
        self._spread = self._seeds > 1 and axes is not seed
        self._cells: dict[tuple[str, ...], list[Figures]] = defaultdict(list)
        for settings, figures in results.rows:
            self._cells[tuple(settings[axis.name] for axis in axes)].append(figures)
        self._axes = axes
        #: What is to be said of all charts.
        self.words = ""
        if not axes:
            return
        self._columns = axes[0].values[:_MOST_COLUMNS]
        self._rows = axes[1].values[:_MOST_ROWS] if len(axes) > 1 else [""]
        most = max(1, min(_MOST_PANELS, _MOST_PLACES // (len(self._columns) * len(self._rows))))
        every = list(itertools.product(*(axis.values for axis in axes[2:])))
        self._panels = every[:most]
        cut = [
            f"the first {len(shown):,} of {len(of.values):,} values of {of.name}"
            for shown, of in zip((self._columns, self._rows), axes, strict=False)
            if len(shown) < len(of.values)
        ]
        if len(self._panels) < len(every):
            cut.append(f"the first {len(self._panels):,} of {len(every):,} combinations of the other settings")
        told = ["Charts show " + ", ".join(cut) + "; results.csv has all."] if cut else []
        if self._spread:
            told.append(f"Figures are means over {self._seeds:,} seeds; bars and brackets reach from least to most.")
        self.words = " ".join(told)

    def charts(self, figure: _Figure) -> Iterator[Chart]:
        """A heat map, if there are two settings, and lines."""
        if not self._axes:
            return
        panels = [Panel(self._title(panel), [self._row(figure, row, panel) for row in self._rows])
                  for panel in self._panels]  # fmt: skip
        rows = [row for panel in panels for row in panel.rows]
        values = [value for row in rows for part in (row.values, row.low or (), row.high or ()) for value in part
                  if value is not None]  # fmt: skip
        if not values:  # what has figures is beyond what is shown
            return
        bottom, top = min(0.0, *values), max(0.0, *values)
        if figure.unit == "%" and top > 50:
            top = 100.0
        columns = self._axes[0]
        rows_title = self._axes[1].name if len(self._axes) > 1 else ""
        summary, note = self._summary(figure, panels), ""
        if rows_title:
            yield Cells(
                f"{figure.key}-map", f"{figure.title}, by {columns.name} and {rows_title}", summary, figure.unit, note,
                columns.name, self._columns, rows_title, panels, bottom, top, figure.low_is_bad,
            )  # fmt: skip
        numbers = None if columns.name == SEED or columns.numbers is None else columns.numbers[: len(self._columns)]
        shown = [Panel(panel.title, panel.rows[:MOST_SERIES]) for panel in panels]
        if len(self._rows) > MOST_SERIES:
            note = f"Lines are drawn of the first {MOST_SERIES} values of {rows_title}."
        yield Lines(
            figure.key, f"{figure.title} over {columns.name}", summary, figure.unit, note,
            columns.name, self._columns, rows_title, shown, bottom, top, numbers,
        )  # fmt: skip

    def _title(self, panel: Sequence[str]) -> str:
        return _named(self._axes[2:], panel)

    def _row(self, figure: _Figure, row: str, panel: tuple[str, ...]) -> Row:
        second = (row,) if len(self._axes) > 1 else ()
        found = [self._cells[column, *second, *panel] for column in self._columns]
        values = [_values(figure, cells) for cells in found]
        means = [round(sum(each) / len(each), 3) if each else None for each in values]
        texts = [_text(figure, mean, each, cells)
                 for mean, each, cells in zip(means, values, found, strict=True)]  # fmt: skip
        name = row if second else "mean" if self._spread else figure.title
        if not self._spread:
            return Row(name, means, texts)
        ends = [[round(end(each), 3) if each else None for each in values] for end in (min, max)]
        return Row(name, means, texts, ends[0], ends[1])

    def _summary(self, figure: _Figure, panels: list[Panel]) -> str:
        known = [
            (value, [row.name] * (len(self._axes) > 1) + [column], panel)
            for panel in panels
            for row in panel.rows
            for column, value in zip(self._columns, row.values, strict=True)
            if value is not None
        ]
        order = [self._axes[1], self._axes[0]] if len(self._axes) > 1 else [self._axes[0]]

        def place(one: tuple[float, list[str], Panel]) -> str:
            return ", ".join(filter(None, [_named(order, one[1]), one[2].title]))

        least, most = min(known, key=lambda one: one[0]), max(known, key=lambda one: one[0])
        if least[0] == most[0]:
            return f"Everywhere that it has a figure: {_number(least[0], figure.unit)}."
        return (
            f"Least: {_number(least[0], figure.unit)} with {place(least)}. "
            f"Most: {_number(most[0], figure.unit)} with {place(most)}."
        )


def _named(axes: Sequence[Setting], values: Sequence[str]) -> str:
    return ", ".join(f"{axis.name} {value}" for axis, value in zip(axes, values, strict=True))


def _values(figure: _Figure, cells: list[Figures]) -> list[float]:
    return [figure.factor * value for each in cells if (value := each[figure.name]) is not None]


def _text(figure: _Figure, mean: float | None, values: list[float], cells: list[Figures]) -> str:
    if mean is None:
        computed = any(each["failures"] is not None for each in cells)
        return figure.never if computed else "not computed"
    text = _number(mean, figure.unit)
    if len(cells) == 1:
        return text
    spread = [f"{_number(min(values), figure.unit)} to {_number(max(values), figure.unit)}"] * (len(values) > 1)
    some = [f"{len(values)} of {len(cells)} seeds"] * (len(values) < len(cells))
    return f"{text} ({', '.join(spread + some)})"


def _number(value: float, unit: str) -> str:
    return f"{value:,.3f}".rstrip("0").rstrip(".") + f"\N{NO-BREAK SPACE}{unit}"
