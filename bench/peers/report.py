"""The results as a table, as JSON and as a drawing, with the machine that they come from."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.conftest import processor
from bench.peers.contest import MissingError, Row

_COLUMNS = ("what", "packets", "Mpkt/s best", "ns/pkt best", "ns/pkt median", "times {}", "note")
_OURS, _LIMIT, _OTHERS = "#0067b8", "#e0a100", "#9aa0a6"


def facts() -> dict[str, str]:
    """What the machine and the programs are."""
    found = {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "load average": ", ".join(f"{value:.2f}" for value in os.getloadavg()),
        "Linux": platform.release(),
        "Python": platform.python_version(),
    }
    for package in ("numba", "numpy", "scapy", "dpkt"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["tcprewrite"] = "not installed"
    if shutil.which("tcprewrite"):
        done = subprocess.run(["tcprewrite", "--version"], capture_output=True, text=True)
        said = (done.stdout + done.stderr).split("version: ")
        found["tcprewrite"] = said[1].split()[0] if len(said) > 1 else "unknown"
    return found


def table(rows: Sequence[Row]) -> str:
    """The table as text. "times" the first row: how many times its time per packet a row takes, at best."""
    first = rows[0].name.split(",")[0]
    lines = [[column.format(first) for column in _COLUMNS]]
    for row in rows:
        if row.best is None or row.median is None:
            lines.append([row.name, *["-"] * 5, row.note])
            continue
        ratio = row.best / rows[0].best if rows[0].best else math.nan
        rate = 1e3 / row.best
        figures = [
            f"{row.packets:,}",
            f"{rate:,.2f}" if rate >= 1 else f"{rate:.2g}",
            f"{row.best:,.1f}",
            f"{row.median:,.1f}",
            _ratio(ratio),
        ]
        lines.append([row.name, *figures, row.note])
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS) - 1)]
    text = []
    for name, *figures, note in lines:
        cells = [f"{figure:>{width}}" for figure, width in zip(figures, widths[1:], strict=True)]
        text.append("  ".join([f"{name:<{widths[0]}}", *cells, note]).rstrip())
    return "\n".join(text)


def write_json(path: Path, title: str, machine: dict[str, str], rows: Sequence[Row]) -> None:
    """Everything the table says: times in nanoseconds per packet, null where nothing was measured."""
    entries = [{("best_ns" if k == "best" else "median_ns" if k == "median" else k): v for k, v in asdict(row).items()}
               for row in rows]  # fmt: skip
    path.write_text(json.dumps({"title": title, "machine": machine, "rows": entries}, indent=2) + "\n")


def need_drawing(path: Path) -> None:
    """Raise MissingError, before anything is measured, if no drawing can be made."""
    if path.suffix not in (".svg", ".png"):
        raise MissingError(f"{path}: a drawing is .svg or .png")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingError("matplotlib is not installed, which draws: pip install matplotlib") from None


def draw(path: Path, title: str, machine: dict[str, str], rows: Sequence[Row]) -> None:
    """Packets per second as bars on a logarithmic axis, fastest first; who could not take part stands below."""
    from matplotlib.figure import Figure

    measured = sorted((row for row in rows if row.best), key=lambda row: row.best or 0)
    missing = [row for row in rows if not row.best]
    rates = [1e9 / row.best for row in measured if row.best]
    lowest = 10 ** math.floor(math.log10(min(rates)) - 0.3)
    highest = max(rates) * (max(rates) / lowest) ** 0.25  # room for the figures beside the longest bar
    figure = Figure(figsize=(10, 1.7 + 0.42 * len(rows)), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh([row.name for row in measured], rates, color=[_colour(row.name) for row in measured], height=0.66)
    for row, bar, rate in zip(measured, bars, rates, strict=True):
        place = bar.get_y() + bar.get_height() / 2
        axes.text(rate * 1.08, place, f"{_rate(rate)}   {_time(row.best or 0)}", va="center", fontsize=9)
    axes.barh([row.name for row in missing], [lowest] * len(missing), color="none")
    for number, row in enumerate(missing, len(measured)):
        axes.text(lowest * 1.08, number, row.note, va="center", fontsize=9, style="italic", color="#666666")
    axes.set_xscale("log")
    axes.set_xlim(lowest, highest)
    axes.invert_yaxis()
    axes.set_xlabel("packets per second, best round (logarithmic)")
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    axes.grid(axis="x", color="#e3e3e3")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    software = ", ".join(f"{name} {machine[name]}" for name in ("Linux", "Python", "numba"))
    where = f"{machine['processor']}, {machine['cores']} cores, {software}"
    figure.supxlabel(where, fontsize=8, color="#666666", x=0.01, ha="left")
    figure.savefig(path, dpi=150)


def _colour(name: str) -> str:
    return _OURS if name.startswith("dataplane") else _LIMIT if name.startswith("limit") else _OTHERS


def _ratio(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.2f}"


def _rate(rate: float) -> str:
    """A rate with three digits."""
    for unit, scale in (("M", 1e6), ("k", 1e3)):
        if rate >= scale:
            return f"{rate / scale:.3g} {unit}/s" if rate < 1000 * scale else f"{rate / scale:,.0f} {unit}/s"
    return f"{rate:.3g} /s"


def _time(nanoseconds: float) -> str:
    """A time per packet with three digits."""
    for unit, scale in (("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= scale:
            return f"{nanoseconds / scale:.3g} {unit}"
    return f"{nanoseconds:.3g} ns"
