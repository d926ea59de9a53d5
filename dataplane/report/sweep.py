"""Read a sweep's folder: its settings, a row of figures for each cell, and how the settings lie on axes."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dataplane.report.run import check_last_line
from dataplane.runs.folder import RunError
from dataplane.runs.sweep_results import CELLS, CONFIGURATION, FIGURES, RESULTS
from dataplane.topology.values import parse_duration

SEED = "seed"

Figures = dict[str, float | None]


@dataclass(frozen=True)
class Setting:
    """A setting of the grid: its name, and its values as they are written, in order of size if they have one.

    `numbers` are the values as numbers (durations in seconds), None if one of them is none.
    """

    name: str
    values: list[str]
    numbers: list[float] | None


@dataclass(frozen=True)
class Results:
    """A sweep's folder in memory; each row is a cell's settings by name, and its figures."""

    folder: Path
    settings: list[Setting]
    rows: list[tuple[dict[str, str], Figures]]
    configuration_text: str | None

    @cached_property
    def axes(self) -> list[Setting]:
        """Settings with two values at least and no seed, in the order in which they become columns, rows, panels.

        Numbers make the better columns, and many values too; what is left follows in the grid's order.
        """
        varied = [setting for setting in self.settings if len(setting.values) > 1 and setting.name != SEED]
        return sorted(varied, key=lambda setting: (setting.numbers is None, -len(setting.values)))

    @property
    def seeds(self) -> int:
        """How many seeds the grid has, 1 if it does not vary them."""
        return next((len(setting.values) for setting in self.settings if setting.name == SEED), 1)


def is_sweep(folder: Path) -> bool:
    """True for the folder of a sweep, which is no run."""
    is_one = (folder / RESULTS).is_file() or (folder / CELLS).is_dir()
    return is_one and not (folder / "manifest.json").exists()


def read_results(folder: Path) -> Results:
    """Read a sweep's folder. Raises `RunError` that names the file and line that is damaged."""
    path, configuration = folder / RESULTS, folder / CONFIGURATION
    if not path.is_file():
        raise RunError(f"{path}: is missing; the sweep is not finished, and its command goes on")
    check_last_line(path)
    rows: list[tuple[dict[str, str], Figures]] = []
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        try:
            header = next(lines, [])
            count = len(header) - len(FIGURES)
            if count < 1 or header[count:] != list(FIGURES):
                raise ValueError(f"its columns are not settings and {', '.join(FIGURES)}")
            for line in lines:
                if len(line) != len(header):
                    raise ValueError(f"has {len(line)} values, not {len(header)}")
                cell = {name: _label(text) for name, text in zip(header[:count], line[:count], strict=True)}
                rows.append((cell, {n: _figure(t) for n, t in zip(FIGURES, line[count:], strict=True)}))
        except (ValueError, csv.Error) as error:
            raise RunError(f"{path}:{lines.line_num or 1}: is damaged: {error}; sweep again to write it anew") from None
    if not rows:
        raise RunError(f"{path}: is damaged: it has no cell; sweep again to write it anew")
    settings = [_setting(name, list(dict.fromkeys(cell[name] for cell, _ in rows))) for name in header[:count]]
    text = configuration.read_text("utf-8-sig") if configuration.is_file() else None
    return Results(folder, settings, rows, text)


def _setting(name: str, values: list[str]) -> Setting:
    numbers = [number for value in values if (number := _number(value)) is not None]
    if len(numbers) < len(values):
        return Setting(name, values, None)
    order = sorted(zip(numbers, values, strict=True))
    return Setting(name, [value for _, value in order], [number for number, _ in order])


def _label(text: str) -> str:
    """A value as charts call it: numbers as short as they can be, null as a sweep file writes it."""
    try:
        return f"{float(text):.12g}" if "." in text else text or "null"
    except ValueError:
        return text


def _number(text: str) -> float | None:
    """A number, or a duration in seconds."""
    try:
        return _figure(text)
    except ValueError:
        pass
    try:
        return parse_duration(text) / 1e9
    except ValueError:
        return None


def _figure(text: str) -> float | None:
    if not text:
        return None
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no figure")
    return value
