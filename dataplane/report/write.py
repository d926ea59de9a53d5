"""Write a report: read the run, draw it, move what was made to its place whole."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dataplane.report.content import content
from dataplane.report.page import page
from dataplane.report.run import read_run
from dataplane.runs.folder import FILES, REPORT, RunError, WholeFiles


@dataclass(frozen=True)
class Report:
    """What was written: the page, and a PNG per chart if they were asked for."""

    page: Path
    charts: int
    pictures: list[Path]


def write_report(folder: Path, output: Path | None = None, pictures: Path | None = None) -> Report:
    """Write the page of the run in `folder`, to `output` or as its `report.html`, and PNGs into `pictures`.

    Raises `RunError` if the folder is no whole run, an output would take the place of one of its files, or pictures
    are wanted and matplotlib is missing; nothing is written then.
    """
    path = folder / REPORT if output is None else output
    if pictures is not None:
        from dataplane.report.pictures import need_matplotlib

        need_matplotlib()
    run = read_run(folder)
    if os.path.realpath(path) in {os.path.realpath(folder / name) for name in FILES if name != REPORT}:
        raise RunError(f"{path}: is one of the run's own files, and the report would take its place; name another file")
    who, sections = content(run)
    charts = [chart for section in sections for chart in section.charts]
    made: list[Path] = []
    outputs = WholeFiles()
    try:
        outputs.text(path).write(page(run, who, sections))
        if pictures is not None:
            from dataplane.report.pictures import draw

            pictures.mkdir(parents=True, exist_ok=True)
            for chart in charts:
                made.append(pictures / f"{chart.key}.png")
                draw(chart, outputs.binary(made[-1]))
        outputs.commit()
    finally:
        outputs.discard()
    return Report(path, len(charts), made)
