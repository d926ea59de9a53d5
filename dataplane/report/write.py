"""Write a report: read a run or a sweep, draw it, move what was made to its place whole."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dataplane.report.chart import Section
from dataplane.report.content import content
from dataplane.report.page import page
from dataplane.report.run import read_run
from dataplane.report.sweep import is_sweep, read_results
from dataplane.report.sweep_content import sweep_content
from dataplane.report.sweep_page import sweep_page
from dataplane.runs.folder import FILES, REPORT, RunError, WholeFiles
from dataplane.runs.sweep_results import CONFIGURATION, RESULTS


@dataclass(frozen=True)
class Report:
    """What was written: the page, and a PNG per chart if they were asked for."""

    page: Path
    charts: int
    pictures: list[Path]


def write_report(folder: Path, output: Path | None = None, pictures: Path | None = None) -> Report:
    """Write the page of the run or sweep in `folder`, to `output` or as its `report.html`, and PNGs into `pictures`.

    Raises `RunError` if the folder is neither or not whole, an output would take the place of one of its files, or
    pictures are wanted and matplotlib is missing; nothing is written then.
    """
    path = folder / REPORT if output is None else output
    if pictures is not None:
        from dataplane.report.pictures import need_matplotlib

        need_matplotlib()
    html, sections = _sweep(folder) if is_sweep(folder) else _run(folder)
    own = {os.path.realpath(folder / name) for name in (*FILES, RESULTS, CONFIGURATION) if name != REPORT}
    if os.path.realpath(path) in own:
        raise RunError(f"{path}: is one of the run's own files, and the report would take its place; name another file")
    charts = [chart for section in sections for chart in section.charts]
    made: list[Path] = []
    with WholeFiles() as outputs:
        outputs.text(path).write(html)
        if pictures is not None:
            from dataplane.report.pictures import draw

            pictures.mkdir(parents=True, exist_ok=True)
            for chart in charts:
                made.append(pictures / f"{chart.key}.png")
                draw(chart, outputs.binary(made[-1]))
    return Report(path, len(charts), made)


def _run(folder: Path) -> tuple[str, list[Section]]:
    run = read_run(folder)
    who, sections = content(run)
    return page(run, who, sections), sections


def _sweep(folder: Path) -> tuple[str, list[Section]]:
    results = read_results(folder)
    sections = sweep_content(results)
    return sweep_page(results, sections), sections
