"""Small multiples as pictures: what `assets/panels.js` does with ECharts, this does with matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dataplane.report.panels import Cells, Lines, Panels

#: Columns of a heat map whose cells have room for their figures.
_MOST_WRITTEN = 12


def draw_panels(
    figure: Any, chart: Panels, colours: tuple[str, ...], heat: tuple[str, ...], plain: Callable[[str], str]
) -> None:
    """Draw every panel of a chart into an empty figure; `plain` makes text safe for it."""
    count = len(chart.panels)
    across = int(np.ceil(np.sqrt(count)))
    plots = figure.subplots(-(-count // across), across, squeeze=False).ravel()
    for axes in plots[count:]:
        axes.set_axis_off()
    for axes, panel in zip(plots, chart.panels, strict=False):
        axes.set_title(plain(panel.title), fontsize=11)
        axes.set_xlabel(plain(chart.axis))
        axes.spines[["top", "right"]].set_visible(False)
    match chart:
        case Cells():
            _cells(figure, plots, chart, heat, plain)
        case Lines():
            _lines(plots, chart, colours, plain)


def _cells(figure: Any, plots: Any, chart: Cells, heat: tuple[str, ...], plain: Callable[[str], str]) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    map_of = LinearSegmentedColormap.from_list("figures", heat[::-1] if chart.low_is_bad else heat)
    mesh = None
    for axes, panel in zip(plots, chart.panels, strict=False):
        values = np.array([row.values for row in panel.rows], np.float64)  # None becomes NaN, and stays white
        mesh = axes.pcolormesh(
            np.arange(len(chart.columns) + 1) - 0.5, np.arange(len(panel.rows) + 1) - 0.5, np.ma.masked_invalid(values),
            cmap=map_of, vmin=chart.bottom, vmax=chart.top, edgecolor="white",
        )  # fmt: skip
        step = -(-len(chart.columns) // _MOST_WRITTEN)
        axes.set_xticks(range(0, len(chart.columns), step), [plain(column) for column in chart.columns[::step]])
        axes.set_yticks(range(len(panel.rows)), [plain(row.name) for row in panel.rows])
        axes.set_ylabel(plain(chart.rows_title))
        if step > 1:
            continue
        for y, row in enumerate(panel.rows):
            for x, (value, text) in enumerate(zip(row.values, row.texts, strict=True)):
                box = {"facecolor": "white", "edgecolor": "none", "boxstyle": "round,pad=0.15", "alpha": 0.85}
                words = plain(text) if value is None else f"{value:,.3g}"
                axes.text(x, y, words, ha="center", va="center", fontsize=9, bbox=box)
    figure.colorbar(mesh, ax=plots.tolist(), label=chart.unit)


def _lines(plots: Any, chart: Lines, colours: tuple[str, ...], plain: Callable[[str], str]) -> None:
    places = np.arange(len(chart.columns)) if chart.positions is None else np.array(chart.positions)
    for axes, panel in zip(plots, chart.panels, strict=False):
        for number, row in enumerate(panel.rows):
            values = np.array(row.values, np.float64)
            under = len(panel.rows) - 1 - number  # lines below others are wider, so that all are seen
            label = plain(f"{chart.rows_title} {row.name}" if chart.rows_title else row.name)
            style = {"color": colours[number % len(colours)], "marker": "o", "markersize": 6 + 2 * under}
            line = "none" if chart.positions is None else "-"
            axes.plot(places, values, linestyle=line, linewidth=2 + 1.5 * under, label=label, **style)
            if row.low is not None and row.high is not None:
                ends = np.array([row.low, row.high], np.float64)
                axes.vlines(places, ends[0], ends[1], color=style["color"], linewidth=1.5)
        axes.set_xticks(places, [plain(column) for column in chart.columns])
        axes.set_ylim(chart.bottom, chart.top + 0.02 * (chart.top - chart.bottom))
        axes.set_ylabel(chart.unit)
        axes.grid(axis="y", alpha=0.3)
    if len(chart.panels[0].rows) > 1:
        plots[0].legend(frameon=False, fontsize=9)
