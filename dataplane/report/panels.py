"""Charts of a grid of results: small multiples, each a heat map of two settings or lines over one of them.

As in `chart`, nothing here knows how they are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dataplane.report.chart import Chart


@dataclass(frozen=True)
class Row:
    """One row of a heat map, or one line: a figure per column, None where there is none, and what is said of it.

    `low` and `high` are the ends of a spread, if the figures are means.
    """

    name: str
    values: Sequence[float | None]
    texts: Sequence[str]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None


@dataclass(frozen=True)
class Panel:
    """One of the small multiples; its title names the settings that all of it has."""

    title: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Panels(Chart):
    """Small multiples that share their columns, rows and scale (`bottom` to `top`)."""

    axis: str
    columns: Sequence[str]
    rows_title: str
    panels: Sequence[Panel]
    bottom: float
    top: float

    def table(self) -> tuple[list[str], Iterator[list[Any]]]:
        """A row for each place in a panel."""
        titled = any(panel.title for panel in self.panels)
        named = bool(self.rows_title)
        rows = (
            [*[panel.title] * titled, *[row.name] * named, column, text]
            for panel in self.panels
            for row in panel.rows
            for column, text in zip(self.columns, row.texts, strict=True)
        )
        return [*["panel"] * titled, *[self.rows_title] * named, self.axis, self.title], rows

    def figures(self) -> dict[str, Any]:
        """Panels of rows of figures."""
        return {
            "axis": self.axis,
            "columns": list(self.columns),
            "rowsTitle": self.rows_title,
            "panels": [{"title": panel.title, "rows": [_row(row) for row in panel.rows]} for panel in self.panels],
            "bottom": self.bottom,
            "top": self.top,
        }


@dataclass(frozen=True)
class Cells(Panels):
    """Heat maps; `low_is_bad` turns the colours round."""

    kind = "cells"

    low_is_bad: bool = False

    def figures(self) -> dict[str, Any]:
        """With the way that the colours go."""
        return {**super().figures(), "lowIsBad": self.low_is_bad}


@dataclass(frozen=True)
class Lines(Panels):
    """Lines over numbers (`positions`, one per column), or points over names."""

    kind = "lines"

    positions: Sequence[float] | None = None

    def figures(self) -> dict[str, Any]:
        """With where the columns are."""
        return {**super().figures(), "positions": None if self.positions is None else list(self.positions)}


def _row(row: Row) -> dict[str, Any]:
    spread = {} if row.low is None or row.high is None else {"low": list(row.low), "high": list(row.high)}
    return {"name": row.name, "values": list(row.values), "texts": list(row.texts), **spread}
