"""The charts as PNG, for slides: what `assets/page.js` does with ECharts, this does with matplotlib (extra `[png]`)."""

from __future__ import annotations

import textwrap
from datetime import UTC
from importlib.util import find_spec
from typing import Any, BinaryIO

import numpy as np

from dataplane.report.chart import Bars, Chart, HeatMap, Intervals, Steps
from dataplane.report.panels import Panels
from dataplane.report.picture_panels import draw_panels
from dataplane.runs.folder import RunError

_SERIES = ("#2f6fd6", "#d1551c", "#178a72", "#8a56c4", "#b8860b", "#c23b7a", "#4b8b2b", "#75808f")
_HEAT = ("#eef2f8", "#b5d0f0", "#5b9be0", "#e08a3c", "#a61b1b")
_INK, _MUTED = "#1b2430", "#566273"
_MARKS = {"failure": "#b42318", "alert": "#8a4b08", "event": "#566273"}
_SIZE = (12.8, 7.2)  # inches: at 150 dots an inch a slide of 1920 × 1080
_DPI = 150


def need_matplotlib() -> None:
    """Raise `RunError` if the extra is not installed."""
    if find_spec("matplotlib") is None:
        raise RunError("--png needs matplotlib, which is not installed: pip install 'matplotlib>=3.8'")


def draw(chart: Chart, file: BinaryIO) -> None:
    """Draw a chart as a PNG of 1920 × 1080."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=_SIZE, dpi=_DPI, layout=ConstrainedLayoutEngine(rect=(0.02, 0.03, 0.96, 0.81)))
    FigureCanvasAgg(figure)
    figure.text(0.03, 0.95, _plain(chart.title), fontsize=20, fontweight="bold", color=_INK, va="center")
    words = textwrap.fill(chart.summary, 125, max_lines=2)
    figure.text(0.03, 0.915, _plain(words), fontsize=12, color=_MUTED, va="top")
    if isinstance(chart, Panels):
        draw_panels(figure, chart, _SERIES, _HEAT, _plain)
    else:
        _draw_one(figure.add_subplot(), chart)
    figure.savefig(file, format="png", metadata={"Software": None})


def _draw_one(axes: Any, chart: Chart) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_MUTED)
    match chart:
        case Steps():
            _steps(axes, chart)
        case Bars():
            _bars(axes, chart)
        case HeatMap():
            _heat(axes, chart)


def _steps(axes: Any, chart: Steps) -> None:
    edges = _edges(chart.intervals)
    values = [np.array(series.values, np.float64) for series in chart.series]  # None becomes NaN
    floor = np.zeros(chart.intervals.count)
    for number, (series, figures) in enumerate(zip(chart.series, values, strict=True)):
        colour, label = _SERIES[number % len(_SERIES)], _plain(series.name)
        if chart.stacked:
            axes.stairs(floor + figures, edges, baseline=floor, fill=True, color=colour, alpha=0.8, label=label)
            floor = floor + figures
        else:
            style = "--" if series.dashed else "-"
            axes.stairs(figures, edges, baseline=None, color=colour, linewidth=2.2, linestyle=style, label=label)
    for mark in chart.marks:
        moment, colour = np.datetime64(mark.time_ns, "ns"), _MARKS[mark.kind]
        axes.axvline(moment, color=colour, linestyle=":", linewidth=2)
        right = moment - edges[0] < 0.04 * (edges[-1] - edges[0])  # where there is no room on the left
        axes.annotate(
            _plain(_short(mark.text)), (moment, 1), xycoords=("data", "axes fraction"), color=colour, va="top",
            ha="left" if right else "right", xytext=(5 if right else -5, -2), textcoords="offset points", rotation=90,
        )
    for limit in chart.limits:
        axes.axhline(limit.value, color=_MARKS["alert"], linestyle="--", linewidth=1)
        axes.annotate(
            limit.text, (0, limit.value), xycoords=("axes fraction", "data"), color=_MARKS["alert"], va="bottom",
            xytext=(5, 2), textcoords="offset points",
        )
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(*(0, None) if chart.top is None else (-0.01 * chart.top, 1.01 * chart.top))  # lines at the ends show
    axes.set_ylabel(chart.unit)
    axes.set_xlabel("UTC")
    axes.grid(axis="y", alpha=0.3)
    _legend(axes, len(chart.series))
    _time_labels(axes)


def _bars(axes: Any, chart: Bars) -> None:
    rows = np.arange(len(chart.labels))
    height = 0.8 / len(chart.series)
    for number, series in enumerate(chart.series):
        bars = axes.barh(
            rows + number * height, series.values, height, color=_SERIES[number], label=_plain(series.name)
        )
        axes.bar_label(bars, fmt="{:,.0f}", padding=4, color=_INK)
    axes.set_yticks(rows + height * (len(chart.series) - 1) / 2, [_plain(_short(label)) for label in chart.labels])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(chart.unit)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="x", alpha=0.3)
    if len(chart.series) > 1:
        _legend(axes, len(chart.series))


def _heat(axes: Any, chart: HeatMap) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("use", _HEAT)
    rows = np.arange(len(chart.rows) + 1) - 0.5
    columns = (
        _edges(chart.columns) if isinstance(chart.columns, Intervals) else np.arange(len(chart.columns) + 1) - 0.5
    )
    mesh = axes.pcolormesh(columns, rows, chart.values, cmap=colours, vmin=0, vmax=chart.top)
    step = -(-len(chart.rows) // 16)
    axes.set_yticks(range(0, len(chart.rows), step), [_plain(_short(row)) for row in chart.rows[::step]])
    axes.set_ylabel(chart.rows_title)
    axes.figure.colorbar(mesh, ax=axes, label=chart.unit)
    if isinstance(chart.columns, Intervals):
        axes.set_xlabel("UTC")
        _time_labels(axes)
    else:
        step = -(-len(chart.columns) // 8)
        axes.set_xticks(range(0, len(chart.columns), step), list(chart.columns[::step]))


def _edges(intervals: Intervals) -> Any:
    return (intervals.start + intervals.width * np.arange(intervals.count + 1)).astype("datetime64[ns]")


def _time_labels(axes: Any) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(tz=UTC)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))


def _legend(axes: Any, columns: int) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=min(columns, 4), frameon=False)


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"


def _plain(text: str) -> str:
    """Text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")
