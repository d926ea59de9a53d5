"""The page of a sweep: from the command, and in a browser."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dataplane.cli import main
from tests.browser import Page
from tests.cli.conftest import TOPOLOGY

Invoke = Callable[..., Result]

SWEEP = """\
scenario:
  topology: topology.yaml
  duration: 1s
  traffic:
    - name: web
      endpoint: pe-contoso
      port: 443
      arrivals: {pattern: poisson, rate: 200}
      life: {value: 20s}
grid:
  allocation: [random, sequential]
  nat_ips: [1, 2]
  load: [0.25, 1, 3]
  seed: [1, 2]
"""

OPTION = "JSON.stringify(echarts.getInstanceByDom(document.getElementById('chart-{}')).getOption().{})"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 cells of a service with 50 ports to a NAT IP, and their page."""
    place = tmp_path_factory.mktemp("sweep")
    small = TOPOLOGY.replace("    load_balancer:", "    nat: {nat_ports: 1024-1073}\n    load_balancer:")
    (place / "topology.yaml").write_text(small)
    (place / "sweep.yaml").write_text(SWEEP)
    command = ["sweep", str(place / "sweep.yaml"), "-o", str(place / "out"), "--workers", "1", "--report", "--quiet"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    return place / "out"


@pytest.fixture
def page(chromium: str, folder: Path) -> Iterator[Page]:
    with Page(chromium) as page:
        page.size(1280)
        page.open(folder / "report.html")
        yield page


def option(page: Page, chart: str, path: str) -> Any:
    """A part of the options that a chart was drawn with."""
    return json.loads(page.ask(OPTION.format(chart, path)))


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_sweep_makes_the_page_that_the_report_makes(invoke: Invoke, folder: Path, tmp_path: Path) -> None:
    result = invoke("report", folder, "-o", tmp_path / "page.html", "--png", tmp_path / "png", "--json")
    assert result.exit_code == 0
    assert (tmp_path / "page.html").read_bytes() == (folder / "report.html").read_bytes()
    told = json.loads(result.stdout)
    assert told["charts"] == len(told["pictures"]) == len(list((tmp_path / "png").iterdir()))
    for picture in told["pictures"]:
        header = Path(picture["path"]).read_bytes()[:24]
        assert (int.from_bytes(header[16:20]), int.from_bytes(header[20:24])) == (1920, 1080)


def test_a_page_of_other_results_does_not_stay(invoke: Invoke, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "report.html").write_text("old")
    assert invoke("sweep", folder / "configuration.yaml", "-o", tmp_path, "--workers", 1, "--quiet").exit_code == 0
    assert not (tmp_path / "report.html").exists()
    assert (tmp_path / "results.csv").read_bytes() == (folder / "results.csv").read_bytes()


def test_when_the_page_cannot_be_made_the_results_are_whole_and_the_exit_code_4(
    invoke: Invoke, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / ".report.html.partial").mkdir()  # where the page would grow
    command = ("sweep", folder / "configuration.yaml", "-o", tmp_path, "--workers", 1, "--quiet", "--report")
    result = invoke(*command)
    assert result.exit_code == 4
    assert "error: report.html could not be made: " in result.stderr
    assert (tmp_path / "results.csv").read_bytes() == (folder / "results.csv").read_bytes()


def test_it_draws_every_chart_without_complaint_and_asks_for_nothing_but_itself(page: Page, folder: Path) -> None:
    charts = json.loads(page.ask("document.getElementById('charts').textContent"))
    assert {chart["kind"] for chart in charts} == {"cells", "lines"}
    assert page.ask("document.documentElement.dataset.drawn") == str(len(charts))
    for chart in charts:
        assert page.ask(f"document.querySelectorAll('#chart-{chart['key']} svg path').length") > 3, chart["key"]
        label = page.ask(f"document.getElementById('chart-{chart['key']}').getAttribute('aria-label')")
        assert label == f"{chart['title']}. {chart['summary']}"
    assert page.complaints == []
    assert page.requests == [(folder / "report.html").resolve().as_uri()]


def test_the_charts_hold_the_means_of_results_csv(page: Page, folder: Path) -> None:
    loads, counts = ["0.25", "1.0", "3.0"], ["1", "2"]

    def shares(allocation: str, nat_ips: str, load: str) -> list[float]:
        return [
            100 * float(row["failure_share"])
            for row in rows_of(folder)
            if (row["allocation"], row["nat_ips"], row["load"]) == (allocation, nat_ips, load)
        ]

    for number, allocation in enumerate(("random", "sequential")):
        cells = option(page, "failure-share-map", f"series[{number}].data")
        assert len(cells) == 6
        for x, y, value in cells:
            found = shares(allocation, counts[y], loads[x])
            assert len(found) == 2
            assert value == pytest.approx(sum(found) / 2, abs=0.001)
        for row, nat_ips in enumerate(counts):
            points = option(page, "failure-share", f"series[{2 * number + row}].data")
            assert [x for x, _ in points] == [0.25, 1, 3]
            means = [sum(shares(allocation, nat_ips, load)) / 2 for load in loads]
            assert [y for _, y in points] == pytest.approx(means, abs=0.001)
            spread = option(page, "failure-share", f"series[{4 + 2 * number + row}].data")
            least = [min(shares(allocation, nat_ips, load)) for load in loads]
            assert [low for _, low, _ in spread] == pytest.approx(least, abs=0.001)
    table = page.ask("[...document.querySelectorAll('#cells tbody tr')].map(row => row.cells[3].textContent)")
    assert table == [row["seed"] for row in rows_of(folder)]


def test_a_reader_without_a_pointer_hears_every_place(page: Page) -> None:
    page.ask("document.getElementById('chart-first-failure-map').focus()")
    page.press("Home")
    voice = page.ask("document.getElementById('voice').textContent")
    assert voice.startswith("load 0.25: nat_ips 1, allocation random 0.883")
    assert voice.endswith(" (1 of 2 seeds)")
    tip = "document.querySelector('#chart-first-failure-map .tip-title').textContent"
    page.press("ArrowRight")
    assert page.ask(tip) == "load 1"
    page.press("ArrowUp")
    assert page.ask("document.getElementById('voice').textContent").startswith("load 1: nat_ips 2, allocation random ")
    page.press("End")
    assert page.ask("document.getElementById('voice').textContent").startswith("load 3: nat_ips 2, allocation sequen")
    page.press("+")
    page.press("Escape")
    assert page.complaints == []


def test_pointing_at_a_cell_tells_its_mean_and_spread(page: Page) -> None:
    box = page.ask(
        "(() => { const box = document.getElementById('chart-failure-share-map');"
        " box.scrollIntoView({behavior: 'instant'});"
        " const at = echarts.getInstanceByDom(box).convertToPixel({seriesIndex: 1}, [2, 0]);"
        " const {x, y} = box.getBoundingClientRect(); return [x + at[0], y + at[1] + 12]; })()"
    )
    page.point(*box)
    told = page.ask("document.querySelector('#chart-failure-share-map .tip-title').parentElement.innerText")
    title, where, figure = told.split("\n")
    assert (title, where) == ("load 3", "nat_ips 1, allocation sequential")
    assert " to " in figure


def test_on_a_phone_panels_stand_below_each_other(page: Page, folder: Path) -> None:
    options = "echarts.getInstanceByDom(document.getElementById('chart-failure-share')).getOption()"
    tops = f"new Set({options}.grid.map(grid => grid.top)).size"
    assert page.ask(tops) == 1
    page.size(390, 844, phone=True)
    page.open(folder / "report.html")
    assert page.ask("document.documentElement.scrollWidth") == 390
    assert page.ask(tops) == 2
    page.size(1000)
    page.ask("new Promise(done => setTimeout(done, 300))")
    assert page.ask(tops) == 1


def test_it_is_dark_on_a_dark_screen_and_light_on_paper(page: Page, tmp_path: Path) -> None:
    page.media(dark=True)
    dark = option(page, "failure-share", "series[0].color")
    page.pdf(tmp_path / "report.pdf")
    assert option(page, "failure-share", "series[0].color") == dark
    page.media(dark=False)
    assert option(page, "failure-share", "series[0].color") != dark
    assert page.complaints == []
