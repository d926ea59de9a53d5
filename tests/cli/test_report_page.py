"""The page in a browser: it draws what the run's files hold, asks nothing of any network, and serves every reader."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from dataplane.runs.replay import Replay, replay
from dataplane.topology import load_topology
from tests.browser import Page

Invoke = Callable[..., Result]

#: What a name may be that wants to be more than a name.
HOSTILE = "</script><script>window.broken=1</script><img src=x onerror=window.broken=1>\"'&amp;{b|$x^2$}"

OPTION = "JSON.stringify(echarts.getInstanceByDom(document.getElementById('chart-{}')).getOption().{})"


@pytest.fixture(scope="module")
def folder(pcaps: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exhaustion case with its page."""
    from dataplane.report import write_report

    folder = tmp_path_factory.mktemp("page") / "run"
    case = pcaps / "cases" / "exhaustion"
    replay(Replay([str(case / "contoso.pcap")], topology=load_topology(case / "topology.yaml"), folder=folder))
    write_report(folder)
    return folder


@pytest.fixture
def browser(chromium: str) -> Iterator[Page]:
    """A browser with an empty page."""
    with Page(chromium) as page:
        yield page


@pytest.fixture
def page(browser: Page, folder: Path) -> Page:
    """The browser, showing the report."""
    browser.size(1280)
    browser.open(folder / "report.html")
    return browser


def option(page: Page, chart: str, path: str) -> Any:
    """A part of the options that a chart was drawn with."""
    return json.loads(page.ask(OPTION.format(chart, path)))


def test_it_draws_every_chart_without_complaint_and_asks_for_nothing_but_itself(page: Page, folder: Path) -> None:
    charts = json.loads(page.ask("document.getElementById('charts').textContent"))
    assert len(charts) == 14
    assert page.ask("document.documentElement.dataset.drawn") == "14"
    for chart in charts:
        paths = page.ask(f"document.querySelectorAll('#chart-{chart['key']} svg path').length")
        assert paths > 3, chart["key"]
    assert page.complaints == []
    assert page.requests == [(folder / "report.html").resolve().as_uri()]


def test_even_a_script_in_it_could_not_reach_a_network(page: Page) -> None:
    refused = page.ask(
        "new Promise(done => { document.addEventListener('securitypolicyviolation', e => done(e.effectiveDirective));"
        " fetch('http://127.0.0.1:9/').finally(() => setTimeout(done, 500, 'tried')); })"
    )
    assert refused == "connect-src"
    inline = page.ask(
        "(() => { const s = document.createElement('script'); s.textContent = 'window.broken = 1';"
        " document.body.append(s); return window.broken ?? 'refused'; })()"
    )
    assert inline == "refused"


def test_the_lines_hold_the_figures_of_metrics_csv(page: Page, folder: Path) -> None:
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "NatPortAvailability"]
    assert len(rows) == 4
    start = option(page, "availability-1", "xAxis[0].min")
    for number, column in enumerate(("average", "minimum")):
        name = option(page, "availability-1", f"series[{number}].name")
        assert column in name
        points = option(page, "availability-1", f"series[{number}].data")
        drawn = {(x - start) / 60_000: y for x, y in reversed(points) if y is not None}  # of a moment, the first
        for row in rows:
            minute = page.ask(f"(Date.parse('{row['time']}') - {start}) / 60000")
            assert drawn[minute] == pytest.approx(float(row[column]))
        assert drawn[3] == 0  # nothing happened at 22:16: the pool was full and stayed so
    total = sum(y for x, y in option(page, "bytes-in", "series[0].data") if y is not None)
    assert total >= 1322
    mark = option(page, "availability-1", "series[0].markLine.data")
    assert [each["xAxis"] - start for each in mark] == [60_000]  # 40 s after 22:13:20


def test_the_heat_map_shows_eight_ports_that_fill_one_after_the_other(page: Page) -> None:
    assert option(page, "heat-1", "yAxis[0].data") == [str(port) for port in range(1024, 1032)]
    cells = option(page, "heat-1", "series[0].data")
    first = {y: min(x for x, row, value in cells if row == y and value > 0) for _, y, _ in cells}
    assert [first[port] for port in range(8)] == sorted(first.values())
    assert {value for _, _, value in cells} >= {0, 100}


def test_names_that_want_to_be_markup_stay_names(
    browser: Page, invoke: Invoke, folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["inputs"][0].update(path=HOSTILE, damage=HOSTILE, sha256=HOSTILE)
    manifest["exit_state"] = {"code": 3, "meaning": HOSTILE}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    summary = json.loads((copy / "summary.json").read_text())
    summary["dropped"]["reasons"][HOSTILE] = {"packets": 99, "bytes": 1}
    summary["first_exhaustion"].update(service=HOSTILE, backend=HOSTILE, reason=HOSTILE)
    summary["private_link_services"][0]["nat_ips"][0]["ip"] = HOSTILE
    (copy / "summary.json").write_text(json.dumps(summary))
    with (copy / "topology.yaml").open("a") as file:
        file.write(f"# {HOSTILE}\n")
    for name in ("metrics.csv", "sessions.csv"):
        quoted = '"' + HOSTILE.replace('"', '""') + '"'
        (copy / name).write_text((copy / name).read_text().replace("192.168.50.4", quoted))
    result = invoke("report", copy)
    assert result.exit_code == 0, result.output

    browser.open(copy / "report.html")
    assert browser.complaints == []
    assert browser.ask("window.broken ?? 'whole'") == "whole"
    assert browser.ask("document.querySelectorAll('img').length") == 0
    assert browser.ask("document.querySelectorAll('script').length") == 3
    assert browser.ask("document.querySelector('h1').textContent") == HOSTILE.rpartition("/")[2]  # a path's last part
    assert HOSTILE in browser.ask("document.querySelector('#availability figure h3').textContent")
    assert HOSTILE in option(browser, "drops-by-reason", "yAxis[0].data")
    assert HOSTILE in browser.ask("document.querySelector('pre').textContent")
    head = browser.ask("document.querySelector('header').textContent")
    assert head.count(HOSTILE) == 5  # damage, service, backend, reason, NAT IP
    browser.ask("document.getElementById('chart-drops-by-reason').focus()")
    browser.press("Home")
    assert HOSTILE in browser.ask("document.querySelector('#chart-drops-by-reason .tip-title').textContent")
    assert browser.ask("window.broken ?? 'whole'") == "whole"


def test_on_a_phone_nothing_is_wider_than_the_screen(page: Page, folder: Path) -> None:
    page.size(390, 844, phone=True)
    page.open(folder / "report.html")
    assert page.ask("document.documentElement.scrollWidth") == 390
    assert page.ask("Math.max(...[...document.querySelectorAll('.chart svg')].map(s => s.clientWidth))") < 390
    page.size(800)
    page.ask("new Promise(done => setTimeout(done, 200))")
    assert page.ask("document.querySelector('.chart svg').clientWidth") > 600


def test_it_is_dark_when_the_readers_system_is_and_light_on_paper(page: Page, tmp_path: Path) -> None:
    def colours() -> tuple[str, str]:
        return (
            page.ask("getComputedStyle(document.body).backgroundColor"),
            option(page, "availability-1", "color[0]"),
        )

    page.media(dark=False)
    light = colours()
    page.media(dark=True)
    dark = colours()
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    page.ask(
        "window.addEventListener('beforeprint', () => { window.width = document.querySelector('svg').clientWidth;"
        " window.ink = getComputedStyle(document.documentElement).getPropertyValue('--series-1').trim() })"
    )
    page.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes()[:5] == b"%PDF-"
    assert page.ask("[window.width, window.ink]") == [660, light[1]]
    assert colours() == dark
    assert page.ask("document.querySelector('.chart svg').clientWidth") > 900


def test_a_reader_without_a_pointer_hears_the_figures_and_zooms(page: Page) -> None:
    for _ in range(30):
        page.press("Tab")
        if page.ask("document.activeElement.id") == "chart-sessions-over-time":
            break
    else:
        pytest.fail("Tab does not lead to the chart")
    page.press("Home")
    page.press("ArrowRight")
    voice = page.ask("document.getElementById('voice').textContent")
    assert voice == "2023-11-14 22:13:22 UTC, 2 seconds: opened 0 sessions, ended 0 sessions"
    assert page.ask("document.querySelector('#chart-sessions-over-time .tip-title').textContent") in voice
    page.press("End")
    assert page.ask("document.getElementById('voice').textContent").startswith("2023-11-14 22:20:00 UTC")
    before = option(page, "sessions-over-time", "dataZoom[0]")
    page.press("+")
    after = option(page, "sessions-over-time", "dataZoom[0]")
    assert (before["start"], before["end"]) == (0, 100)
    assert (after["start"], after["end"]) == (50, 100)
    page.press("-")
    assert option(page, "sessions-over-time", "dataZoom[0].start") == 0
    page.press("Escape")


def test_pointing_at_a_chart_tells_the_figures_of_that_time(page: Page) -> None:
    box = page.ask(
        "(() => { const box = document.getElementById('chart-availability-1');"
        " box.scrollIntoView({behavior: 'instant'});"
        " const at = echarts.getInstanceByDom(box).convertToPixel({xAxisIndex: 0}, Date.parse('2023-11-14T22:18:40Z'));"
        " const {x, y} = box.getBoundingClientRect(); return [x + at, y + 150]; })()"
    )
    page.point(*box)
    told = page.ask("document.querySelector('#chart-availability-1 .tip-title').parentElement.innerText").split("\n")
    assert told == ["2023-11-14 22:18 UTC, minute", "one-minute average", "37.433 %", "minimum", "0 %"]


def test_every_chart_has_a_name_a_sentence_and_its_figures_as_a_table(page: Page) -> None:
    charts = json.loads(page.ask("document.getElementById('charts').textContent"))
    for chart in charts:
        assert chart["title"]
        assert chart["summary"].endswith(".")
        figure = f"document.getElementById('chart-{chart['key']}').closest('figure')"
        label = page.ask(f"document.getElementById('chart-{chart['key']}').getAttribute('aria-label')")
        assert label.startswith(f"{chart['title']}. {chart['summary']}")
        role = page.ask(f"document.getElementById('chart-{chart['key']}').getAttribute('role')")
        assert role == "application"  # a picture (`img`) would hide its keys from a screen reader
        assert page.ask(f"{figure}.querySelectorAll('details table tbody tr').length") > 0
        assert page.ask(f"{figure}.querySelectorAll('details table th[scope=col]').length") > 1
    cells = page.ask(
        "[...document.querySelectorAll('#availability details tbody tr')]"
        ".map(row => [...row.cells].map(cell => cell.textContent))"
    )
    assert cells[0] == ["2023-11-14 22:13:00", "43.75", "0", ""]
    assert cells[1][3] == "first failure, 192.168.50.4"
    assert page.ask("document.documentElement.lang") == "en"
    levels = page.ask("[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_without_scripts_the_words_and_tables_are_there(browser: Page, folder: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    browser.open(folder / "report.html")
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.ask("document.body.innerText.includes('Charts need JavaScript')")
    assert browser.ask("document.querySelectorAll('table').length") >= 13
