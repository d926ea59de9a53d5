"""A sweep's results as charts: which setting lies where, means over seeds, and what is no sweep's folder."""

from __future__ import annotations

import csv
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dataplane.report.panels import Cells, Lines, Panels
from dataplane.report.sweep import read_results
from dataplane.report.sweep_content import sweep_content
from dataplane.report.sweep_page import sweep_page
from dataplane.report.write import write_report
from dataplane.runs.folder import RunError
from dataplane.runs.sweep_results import FIGURES
from tests.conftest import needs


def write_results(folder: Path, grid: dict[str, list[Any]]) -> Path:
    """A sweep's results, made up: the failure share is the number of the cell in thousandths."""
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*grid, *FIGURES])
        for number, cell in enumerate(itertools.product(*grid.values())):
            never = number % 2 == 0
            first, alert = ("", "") if never else (10 + number, number - 5)
            figures = [first, number / 2, 0 if never else number, 100, number / 1000, 60, alert]
            writer.writerow([*("" if value is None else value for value in cell), *figures])
    return folder


def charts(folder: Path, key: str) -> list[Any]:
    section = next(section for section in sweep_content(read_results(folder)) if section.key == key)
    return section.charts


def test_one_setting_is_lines_over_it_in_order_of_its_size(tmp_path: Path) -> None:
    [lines] = charts(write_results(tmp_path, {"timeouts.udp": ["240s", "1500ms", "60s"]}), "failure-share")
    assert isinstance(lines, Lines)
    assert (lines.axis, lines.columns, lines.positions) == (
        "timeouts.udp", ["1500ms", "60s", "240s"], [1.5, 60, 240],
    )  # fmt: skip
    assert [row.values for row in lines.panels[0].rows] == [[0.1, 0.2, 0.0]]


def test_words_and_null_are_points_in_the_grids_order(tmp_path: Path) -> None:
    [lines] = charts(write_results(tmp_path, {"ports_per_endpoint": [None, 9, 5]}), "failure-share")
    assert (lines.columns, lines.positions) == (["null", "9", "5"], None)


def test_two_settings_are_a_heat_map_and_three_are_small_multiples(tmp_path: Path) -> None:
    grid: dict[str, list[Any]] = {"allocation": ["random", "hash"], "nat_ips": [1, 2, 4], "load": [0.5, 2.0]}
    cells, lines = charts(write_results(tmp_path, grid), "failure-share")
    for chart in (cells, lines):
        assert (chart.axis, chart.rows_title, len(chart.panels)) == ("nat_ips", "load", 2)
        assert [panel.title for panel in chart.panels] == ["allocation random", "allocation hash"]
        assert [row.name for row in chart.panels[1].rows] == ["0.5", "2"]
        # hash is the second half of the cells; of nat_ips each has two, load 0.5 the first of them.
        assert [row.values for row in chart.panels[1].rows] == [[0.6, 0.8, 1.0], [0.7, 0.9, 1.1]]
    assert isinstance(cells, Cells)
    assert lines.positions == [1, 2, 4]
    assert next(iter(lines.table()[1])) == ["allocation random", "0.5", "1", "0\N{NO-BREAK SPACE}%"]


def test_four_settings_are_panels_of_the_two_that_are_left(tmp_path: Path) -> None:
    grid: dict[str, list[Any]] = {"a": ["x", "y"], "nat_ips": [1, 2, 3], "b": ["u", "v"], "load": [1, 2]}
    cells, _ = charts(write_results(tmp_path, grid), "failure-share")
    assert [panel.title for panel in cells.panels] == ["a x, b u", "a x, b v", "a y, b u", "a y, b v"]


def test_seeds_are_a_mean_with_its_spread(tmp_path: Path) -> None:
    folder = write_results(tmp_path, {"nat_ips": [1, 2], "seed": [1, 2, 3]})
    [lines] = charts(folder, "failure-share")
    [row] = lines.panels[0].rows
    assert (row.values, row.low, row.high) == ([0.1, 0.4], [0, 0.3], [0.2, 0.5])
    assert row.texts[1].replace("\N{NO-BREAK SPACE}", " ") == "0.4 % (0.3 % to 0.5 %)"
    [first] = charts(folder, "first-failure")
    # Of cells 0 to 2 only cell 1 ran out, of 3 to 5 two did.
    assert first.panels[0].rows[0].values == [11, 14]
    assert first.panels[0].rows[0].texts[0].endswith(" (1 of 3 seeds)")


def test_seeds_alone_are_shown_one_by_one(tmp_path: Path) -> None:
    [lines] = charts(write_results(tmp_path, {"nat_ips": [3], "seed": [5, 6]}), "failure-share")
    assert (lines.axis, lines.columns, lines.positions) == ("seed", ["5", "6"], None)
    assert lines.panels[0].rows[0].low is None


def test_a_cell_without_a_figure_says_why(tmp_path: Path) -> None:
    folder = write_results(tmp_path, {"nat_ips": [1, 2], "load": [1, 2]})
    text = (folder / "results.csv").read_text().splitlines()
    text[-1] = "2,2" + "," * len(FIGURES)
    (folder / "results.csv").write_text("\n".join(text) + "\n")
    cells, _ = charts(folder, "first-failure")
    assert [row.texts[1] for row in cells.panels[0].rows] == ["never", "not computed"]
    assert cells.low_is_bad
    results = read_results(folder)
    page = sweep_page(results, sweep_content(results))
    assert "Without figures, since they could not be computed: 1 cells." in page
    assert "NAT ports were refused in 1 of 4 cells." in page
    assert "the alert came before the first failure in 0 of 1 cells." in page


def test_a_figure_that_is_the_same_everywhere_is_a_sentence(tmp_path: Path) -> None:
    folder = write_results(tmp_path, {"nat_ips": [1]})
    sections = sweep_content(read_results(folder))
    assert not any(section.charts for section in sections)
    assert "In every cell it is 0\N{NO-BREAK SPACE}%." in sections[0].words


def test_the_largest_sweep_has_a_page_of_two_megabytes_at_most(tmp_path: Path) -> None:
    folder = write_results(tmp_path, {"nat_ips": list(range(1, 51)), "load": list(range(50)), "seed": [1, 2, 3, 4]})
    report = write_report(folder)
    assert report.page.stat().st_size < 2_000_000
    drawn: list[Panels] = charts(folder, "failure-share")
    for chart in drawn:
        assert len(chart.columns) * len(chart.panels[0].rows) * len(chart.panels) <= 800
    words = report.page.read_text()
    assert "the first 40 of 50 values of nat_ips" in words
    assert "And 9,500 more; results.csv has them all." in words


@pytest.mark.parametrize(
    ("was", "becomes", "says"),
    [
        ("failure_share", "share", "results.csv:1: is damaged: its columns are not"),
        ("1,0.25,", "1,0.25,x,", "results.csv:2: is damaged: has"),
        (",0.5,", ",nan,", "results.csv:3: is damaged: nan is no figure"),
    ],
)
def test_damaged_results_are_named(tmp_path: Path, was: str, becomes: str, says: str) -> None:
    path = write_results(tmp_path, {"nat_ips": [1], "load": [0.25, 3.0]}) / "results.csv"
    text = path.read_text()
    assert was in text
    path.write_text(text.replace(was, becomes, 1))
    with pytest.raises(RunError, match=says):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_results_that_were_cut_are_named(tmp_path: Path) -> None:
    path = write_results(tmp_path, {"nat_ips": [1, 2]}) / "results.csv"
    path.write_text(path.read_text()[:-4])
    with pytest.raises(RunError, match=r"results.csv: is damaged: its last line has no end"):
        write_report(tmp_path)
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(RunError, match="it has no cell"):
        write_report(tmp_path)


def test_a_sweep_that_is_not_finished_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    with pytest.raises(RunError, match=r"results.csv: is missing; the sweep is not finished"):
        write_report(tmp_path)


def test_the_page_does_not_take_the_place_of_the_results(tmp_path: Path) -> None:
    write_results(tmp_path, {"nat_ips": [1, 2]})
    with pytest.raises(RunError, match="own files"):
        write_report(tmp_path, tmp_path / "results.csv")


def test_a_report_of_a_sweep_needs_neither_numba_nor_scapy(tmp_path: Path) -> None:
    write_results(tmp_path, {"nat_ips": [1, 2]})
    code = (
        "import sys; sys.modules['numba'] = sys.modules['scapy'] = sys.modules['matplotlib'] = None\n"
        f"from dataplane.cli import main; main(['report', {str(tmp_path)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_values_that_want_to_be_markup_stay_values(tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=alert(1)>$x^2${b|"
    write_results(tmp_path, {"allocation": [hostile, "hash"], "nat_ips": [1, 2]})
    needs("matplotlib", "matplotlib")
    report = write_report(tmp_path, pictures=tmp_path / "png")
    text = report.page.read_text()
    assert "<img src=x" not in text
    assert "&lt;/script&gt;&lt;img" in text
