"""`dataplane report` and `replay --report`: page and pictures as files, and what is said when there are none."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from dataplane.runs.replay import Replay, replay
from dataplane.topology import load_topology

Invoke = Callable[..., Result]

WHOLE = ("manifest.json", "topology.yaml", "summary.json", "metrics.csv")


@pytest.fixture(scope="module")
def exhausted(pcaps: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the exhaustion case: ports ran out after 40 s, for two sessions."""
    folder = tmp_path_factory.mktemp("exhausted") / "run"
    case = pcaps / "cases" / "exhaustion"
    replay(Replay([str(case / "contoso.pcap")], topology=load_topology(case / "topology.yaml"), folder=folder))
    return folder


@pytest.fixture
def folder(exhausted: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be damaged."""
    return Path(shutil.copytree(exhausted, tmp_path / "copy"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_page_is_one_of_the_runs_files_and_says_how_large_it_is(invoke: Invoke, folder: Path) -> None:
    before = names(folder)
    result = invoke("report", folder, "--json")
    assert result.exit_code == 0
    page = folder / "report.html"
    told = json.loads(result.stdout)
    assert told == {"path": str(page), "bytes": page.stat().st_size, "charts": 14, "pictures": []}
    assert names(folder) == sorted([*before, "report.html"])
    assert page.stat().st_size < 2_000_000


def test_the_page_says_in_words_what_happened(invoke: Invoke, folder: Path) -> None:
    invoke("report", folder)
    text = re.sub(r"<script.*?</script>|<[^>]*>", "", (folder / "report.html").read_text(), flags=re.DOTALL)
    assert "NAT ports ran out first after 40.000 s." in text
    assert text.count("ran out first") == 1
    assert "Where: service orders, NAT IP 192.168.50.4, tcp toward backend 192.168.61.4." in text
    assert "Packets refused for want of a port, by endpoint: pe-contoso 2." in text
    assert "In the whole run a session found no port 2 times." in text
    assert "in the minute 2023-11-14 22:13 UTC; the average of that minute was 43.75\N{NO-BREAK SPACE}%." in text
    assert "A TCP session starts with a SYN, and this is none." in text
    assert "The most was 10 packets in the minute from 2023-11-14 22:14 UTC on." in text
    assert "nat_ports: 1024-1031" in text


def test_an_old_page_is_replaced_and_the_page_can_go_elsewhere(invoke: Invoke, folder: Path, tmp_path: Path) -> None:
    (folder / "report.html").write_text("old")
    assert invoke("report", folder, "-o", tmp_path / "other.html").exit_code == 0
    assert (folder / "report.html").read_text() == "old"
    assert invoke("report", folder).exit_code == 0
    assert (folder / "report.html").read_bytes() == (tmp_path / "other.html").read_bytes()


def test_the_same_captures_topology_and_seed_give_the_same_page(
    invoke: Invoke, pcaps: Path, exhausted: Path, tmp_path: Path
) -> None:
    capture = shutil.copy(pcaps / "cases" / "exhaustion" / "contoso.pcap", tmp_path)
    topology = pcaps / "cases" / "exhaustion" / "topology.yaml"
    again = tmp_path / "again"
    assert invoke("replay", capture, "-t", topology, "-o", again, "--report", "--quiet").exit_code == 0
    assert invoke("report", exhausted, "-o", tmp_path / "page.html").exit_code == 0
    assert (again / "report.html").read_bytes() == (tmp_path / "page.html").read_bytes()


def test_the_page_does_not_take_the_place_of_a_file_of_the_run(invoke: Invoke, folder: Path) -> None:
    before = (folder / "summary.json").read_bytes()
    result = invoke("report", folder, "-o", folder / "summary.json")
    assert result.exit_code == 2
    assert "is one of the run's own files" in result.stderr
    assert (folder / "summary.json").read_bytes() == before


# --- what is no run, or no whole one --------------------------------------------------------------------------


def refused(result: Result, *words: str) -> None:
    """Exit code 2 and one line."""
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


def test_what_is_no_run_is_refused_in_one_line(invoke: Invoke, tmp_path: Path) -> None:
    refused(invoke("report", tmp_path / "nowhere"), "nowhere: no such folder")
    refused(invoke("report", tmp_path), "is no run's folder")
    file = tmp_path / "file"
    file.write_text("")
    refused(invoke("report", file), "is a file; name the folder")


@pytest.mark.parametrize("name", WHOLE)
def test_a_missing_file_is_named(invoke: Invoke, folder: Path, name: str) -> None:
    (folder / name).unlink()
    refused(invoke("report", folder), f"{name}: is missing")
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("name", [*WHOLE, "sessions.csv"])
@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_a_damaged_file_is_named(invoke: Invoke, folder: Path, name: str, damage: str) -> None:
    path = folder / name
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) * 2 // 3 + 7], "empty": b"", "noise": b"\xff\x00[" * 50}[damage])
    refused(invoke("report", folder), name)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "was", "becomes"),
    [
        ("summary.json", '"forwarded"', '"forwarted"'),
        ("summary.json", '"minimum_free": 0', '"minimum_free": "few"'),
        ("summary.json", '"availability_percent"', '"availability_percent": NaN, "x"'),
        ("summary.json", '"orders"', '"disorders"'),
        ("manifest.json", '"schema_version": 1', '"schema_version": 99'),
        ("manifest.json", '"2023-11-14T22:13:20', '"today'),
        ("metrics.csv", "43.75", "nan"),
        ("metrics.csv", "2023-11-14T22:14:00Z", "2023-11-14T22:10:00Z"),
    ],
)
def test_a_file_that_no_run_writes_is_named(invoke: Invoke, folder: Path, name: str, was: str, becomes: str) -> None:
    text = (folder / name).read_text()
    assert was in text
    (folder / name).write_text(text.replace(was, becomes))
    refused(invoke("report", folder), name)


def test_a_run_without_sessions_or_minutes_still_has_a_page(invoke: Invoke, folder: Path) -> None:
    (folder / "sessions.csv").unlink()
    (folder / "metrics.csv").write_text((folder / "metrics.csv").read_text().splitlines()[0] + "\n")
    assert invoke("report", folder).exit_code == 0
    page = (folder / "report.html").read_text()
    assert "The run has no sessions.csv, so it cannot be told which sessions held which ports." in page
    assert "metrics.csv has no rows of NatPortAvailability" in page
    assert "Bytes in total" in page


def test_a_run_without_any_packet_has_a_page(invoke: Invoke, tmp_path: Path, topology: Path) -> None:
    empty = tmp_path / "empty.pcap"
    empty.write_bytes(bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000"))
    assert invoke("replay", empty, "-t", topology, "-o", tmp_path / "run", "--report", "--quiet").exit_code == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "No packet was dropped." in page
    assert "No packet was forwarded." in page


def test_metrics_of_other_names_are_passed_over(invoke: Invoke, folder: Path, tmp_path: Path) -> None:
    invoke("report", folder, "-o", tmp_path / "before.html")
    with (folder / "metrics.csv").open("a") as file:
        file.write("2023-11-14T22:20:00Z,orders,Sessions,192.168.50.4,many,1,few,some,,and,more\n")
    assert invoke("report", folder).exit_code == 0
    assert (folder / "report.html").read_bytes() == (tmp_path / "before.html").read_bytes()


# --- pictures -------------------------------------------------------------------------------------------------


def test_every_chart_of_the_page_is_a_picture_too(invoke: Invoke, folder: Path, tmp_path: Path) -> None:
    result = invoke("report", folder, "--png", tmp_path / "slides", "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    charts = re.findall(r'id="chart-([a-z0-9-]+)" tabindex', (folder / "report.html").read_text())
    assert [Path(each["path"]).stem for each in told["pictures"]] == charts
    assert names(tmp_path / "slides") == sorted(f"{chart}.png" for chart in charts)
    for each in told["pictures"]:
        content = Path(each["path"]).read_bytes()
        assert len(content) == each["bytes"]
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert (int.from_bytes(content[16:20]), int.from_bytes(content[20:24])) == (1920, 1080)


def test_without_matplotlib_the_extra_is_named_and_nothing_written(
    invoke: Invoke, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataplane.report.pictures.find_spec", lambda name: None)
    refused(invoke("report", folder, "--png", tmp_path / "slides"), "pip install 'matplotlib>=3.8'")
    assert not (folder / "report.html").exists()
    assert not (tmp_path / "slides").exists()


# --- replay --report ------------------------------------------------------------------------------------------


def test_replay_makes_the_page_when_asked_and_removes_one_that_has_become_old(
    invoke: Invoke, syns: Path, topology: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert invoke("replay", syns, "-t", topology, "-o", run, "--report").exit_code == 0
    assert "Private Link run" in (run / "report.html").read_text()
    assert invoke("replay", syns, "-t", topology, "-o", run).exit_code == 0
    assert not (run / "report.html").exists()


def test_a_page_without_a_run_folder_is_refused(invoke: Invoke, syns: Path) -> None:
    refused(invoke("replay", syns, "--report"), "-o RUN")


def test_when_the_page_cannot_be_made_the_run_is_whole_and_the_exit_code_4(
    invoke: Invoke, syns: Path, topology: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (run / ".report.html.partial").mkdir(parents=True)  # where the page would grow
    result = invoke("replay", syns, "-t", topology, "-o", run, "--report", "--json")
    assert result.exit_code == 4
    assert json.loads(result.stdout)["received"]["packets"] == 50
    assert "error: report.html could not be made: " in result.stderr
    assert {*WHOLE, "sessions.csv", "capture.pcapng"} <= set(names(run))
    assert "report.html" not in names(run)
    state = json.loads((run / "manifest.json").read_text())["exit_state"]
    assert state == {"code": 4, "meaning": "an output could not be made"}


def test_a_damaged_capture_stays_exit_code_3_and_its_page_says_so(
    invoke: Invoke, syns: Path, topology: Path, tmp_path: Path
) -> None:
    syns.write_bytes(syns.read_bytes()[:-5])
    assert invoke("replay", syns, "-t", topology, "-o", tmp_path / "run", "--report").exit_code == 3
    assert "A capture was damaged: the figures are of what could be read." in (tmp_path / "run/report.html").read_text()
