"""The page of an exhaustion experiment: what happened when, who it happened to, and whether the alert helped."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from dataplane.runs.exhaust import Exhaust, exhaust
from dataplane.runs.replay import Replay, replay
from dataplane.runs.scenario_file import load_scenario
from dataplane.topology import Topology, load_topology
from tests.browser import Page

Invoke = Callable[..., Result]

FAILURE, ADDED, ALERT = 348.262904301, 420, 480  # seconds: what the demonstration finds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration with its page: ports run out, then a NAT IP is added, then the alert fires."""
    from dataplane.report import write_report

    folder = tmp_path_factory.mktemp("experiment") / "run"
    with as_file(files("dataplane.demo") / "scenario.yaml") as path:
        exhaust(Exhaust(load_scenario(path), folder=folder, sessions=True, inputs=[path]))
    write_report(folder)
    return folder


@pytest.fixture
def page(chromium: str, folder: Path) -> Iterator[Page]:
    with Page(chromium) as page:
        page.size(1280)
        page.open(folder / "report.html")
        yield page


def charts_of(folder: Path) -> list[dict[str, Any]]:
    """The charts that a page holds."""
    text = (folder / "report.html").read_text()
    found = re.search(r'id="charts">(.*?)</script>', text)
    assert found is not None
    charts: list[dict[str, Any]] = json.loads(found[1])
    return charts


def words_of(folder: Path) -> str:
    return re.sub(r"<script.*?</script>|<[^>]*>", " ", (folder / "report.html").read_text(), flags=re.DOTALL)


def test_every_chart_over_time_marks_the_first_failure_the_event_and_the_alert(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["first_exhaustion"]["time_seconds"] == FAILURE
    assert summary["findings"]["alert"]["fired_seconds"] == ALERT
    over_time = [chart for chart in charts_of(folder) if chart["kind"] == "steps"]
    assert len(over_time) > 6
    begin = 1_767_225_600_000  # 2026-01-01
    for chart in over_time:
        told = [(mark["time"] - begin, mark["kind"], mark["text"]) for mark in chart["marks"]]
        assert told == [
            (pytest.approx(FAILURE * 1000), "failure", "first failure, 192.168.50.4"),
            (ADDED * 1000, "event", "NAT IP 192.168.50.5 added to orders"),
            (ALERT * 1000, "alert", "alert fires, 192.168.50.4"),
        ]


def test_the_alerts_threshold_is_a_line_in_the_charts_of_free_ports_alone(page: Page, folder: Path) -> None:
    limits = {chart["key"]: chart["limits"] for chart in charts_of(folder) if chart["kind"] == "steps"}
    assert limits["availability-1"] == limits["availability-2"] == [{"value": 20, "text": "alert: more than 80 % used"}]
    assert not any(found for key, found in limits.items() if not key.startswith("availability"))
    option = "echarts.getInstanceByDom(document.getElementById('chart-availability-1')).getOption()"
    lines = json.loads(page.ask(f"JSON.stringify({option}.series[0].markLine.data)"))
    assert [line.get("yAxis") for line in lines] == [None, None, None, 20]
    drawn = page.ask("document.getElementById('chart-availability-1').textContent")
    for words in ("first failure, 192.168.50.4", "NAT IP 192.168.50.5 added to orders", "alert: more than 80 % used"):
        assert words in drawn
    assert page.complaints == []


def test_marks_are_heard_and_stand_in_the_table(page: Page) -> None:
    figure = "document.getElementById('chart-availability-1')"
    label = page.ask(f"{figure}.getAttribute('aria-label')")
    assert "NAT IP 192.168.50.5 added to orders at 2026-01-01 00:07:00 UTC" in label
    assert "alert: more than 80 % used, 20 %" in label
    page.ask(f"{figure}.focus()")
    page.press("Home")
    for _ in range(7):
        page.press("ArrowRight")
    voice = page.ask("document.getElementById('voice').textContent")
    assert voice.startswith("2026-01-01 00:07 UTC, minute: ")
    assert voice.endswith("NAT IP 192.168.50.5 added to orders 00:07:00.000")
    rows = page.ask(
        f"[...{figure}.closest('figure').querySelectorAll('tbody tr')].map(row => [...row.cells].at(-1).textContent)"
    )
    assert rows[5] == "first failure, 192.168.50.4"
    assert rows[8] == "alert fires, 192.168.50.4"


def test_the_first_screen_says_when_who_and_whether_the_alert_helped(page: Page) -> None:
    page.size(1280, 800)
    bottom = page.ask("document.querySelector('.timeline').getBoundingClientRect().bottom")
    assert bottom < 500
    told = page.ask("document.querySelector('header').innerText")
    assert "NAT ports ran out first after 348.263 s." in told
    assert "Who used the ports: pe-fabrikam, 90.1 % of all port-seconds." in told
    assert "by endpoint: pe-fabrikam 851, pe-contoso 181." in told
    assert "would have fired after 480 s, 131.7 s AFTER the first failure." in told
    moments = page.ask("[...document.querySelectorAll('.timeline li')].map(each => each.innerText)")
    assert moments[1] == "420 s, 00:07:00 NAT IP 192.168.50.5 added to orders"


def test_the_first_failure_is_told_once_and_times_are_simulated(folder: Path) -> None:
    words = words_of(folder)
    assert words.count("ran out first") == 1
    assert "600.000 s of simulated time" in words
    assert "capture" not in words.split("The scenario as used")[0]


def test_nothing_is_drawn_past_the_end_of_the_run(folder: Path) -> None:
    end = 1_767_225_600_000 + 600_000
    for chart in charts_of(folder):
        if "start" in chart:
            assert chart["start"] + chart["count"] * chart["width"] == end, chart["key"]
        if chart["kind"] == "heat" and "start" in chart:
            assert any(row[-1] > 0 for row in chart["values"]), chart["key"]


def test_a_nat_ip_that_was_added_is_not_said_to_have_stood_idle_before(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    figure = page[page.index('id="chart-availability-2"') :].split("</figure>")[0]
    assert "It has no figures before it is added, at 420 s." in figure
    assert "nothing happened" not in figure


def test_the_sources_of_traffic_are_a_table(page: Page, folder: Path) -> None:
    cells = page.ask(
        "[...document.querySelectorAll('#sessions > .scroll tr')].map(row => [...row.cells].map(c => c.textContent))"
    )
    header, *rows = cells
    found = {
        source["name"]: source for source in json.loads((folder / "summary.json").read_text())["findings"]["traffic"]
    }
    assert [row[0] for row in rows] == ["noisy", "quiet"]
    for row in rows:
        told = dict(zip(header, row, strict=True))
        connections = found[row[0]]["connections"]
        assert told["endpoint"] == found[row[0]]["endpoint"]
        for name, title in (("started", "started"), ("failed", "failed"), ("refused", "first packets refused")):
            assert told[title] == f"{connections[name]:,}"


def test_a_replay_marks_the_events_of_its_topology(pcaps: Path, tmp_path: Path, invoke: Invoke) -> None:
    case = pcaps / "cases" / "exhaustion"
    document = load_topology(case / "topology.yaml").model_dump(mode="json")
    document["events"] = [
        {"at": "90s", "add_nat_ip": "orders", "address": "192.168.50.9"},
        {"at": "100s", "disconnect": "pe-contoso"},
        {"at": "100s", "approve": "pe-contoso"},
        {"at": "1h", "disconnect": "pe-contoso"},
    ]
    topology = Topology.model_validate(document)
    replay(Replay([str(case / "contoso.pcap")], topology=topology, folder=tmp_path / "run"))
    assert invoke("report", tmp_path / "run", "--png", tmp_path / "png").exit_code == 0
    chart = next(chart for chart in charts_of(tmp_path / "run") if chart["key"] == "availability-1")
    assert [mark["text"] for mark in chart["marks"]] == [
        "first failure, 192.168.50.4",
        "NAT IP 192.168.50.9 added to orders",
        "pe-contoso disconnected; pe-contoso approved",
    ]
    assert chart["limits"] == []
    assert "Events that are not listed are in the topology." in words_of(tmp_path / "run")


def test_a_cap_that_refuses_sessions_is_no_exhaustion_and_no_calm_either(invoke: Invoke, tmp_path: Path) -> None:
    with as_file(files("dataplane.demo") / "scenario.yaml") as path:
        text = path.read_text().replace("nat: {", "nat: {ports_per_endpoint: 20, ").replace("10m", "20s")
    text = text.replace("at: 7m", "at: 7s")
    (tmp_path / "scenario.yaml").write_text(text)
    exhaust(Exhaust(load_scenario(tmp_path / "scenario.yaml"), folder=tmp_path / "run"))
    assert invoke("report", tmp_path / "run").exit_code == 0
    words = words_of(tmp_path / "run")
    assert "NAT ports never ran out, but endpoints were refused more than their cap (endpoint_port_limit)." in words
    assert "Packets refused for want of a port, by endpoint: pe-contoso " in words
    assert 'class="alert calm"' not in (tmp_path / "run" / "report.html").read_text()


def test_marks_are_in_the_pictures_too(folder: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from dataplane.report.content import content
    from dataplane.report.pictures import draw
    from dataplane.report.run import read_run

    _, sections = content(read_run(folder))
    chart: Any = sections[0].charts[0]
    for name, one in (("with", chart), ("without", replace(chart, marks=(), limits=()))):
        with (tmp_path / name).open("wb") as file:
            draw(one, file)
    assert (tmp_path / "with").stat().st_size > (tmp_path / "without").stat().st_size + 2_000
