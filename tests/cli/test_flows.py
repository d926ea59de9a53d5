"""`dataplane flows`, and a scenario whose connections begin as in a flow log."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from click.testing import Result

from tests.cli.conftest import ENVIRONMENT, ROOT, TOPOLOGY

EXAMPLE = ROOT / "tests" / "data" / "PT1H.json"

Invoke = Callable[..., Result]


def test_destinations_are_told_without_a_topology(invoke: Invoke) -> None:
    told = json.loads(invoke("flows", EXAMPLE, "--json").stdout)
    assert (told["connections"], told["seconds"], told["nat_ports"]) == (7, 100.0, [])
    first = told["destinations"][0]
    assert (first["address"], first["port"], first["clients"], first["connections"]) == ("10.0.1.5", 443, 2, 3)
    assert first["per_second"] == pytest.approx(0.03)
    minute = {"minute": "2026-01-01T00:00:00.000Z", "connections": 3, "per_second": 0.05}
    assert first["busiest_minute"] == minute


def test_a_topology_tells_endpoints_and_nat_ports(invoke: Invoke, topology: Path) -> None:
    told = json.loads(invoke("flows", EXAMPLE, "-t", topology, "--json").stdout)
    sides = {one["address"]: (one["side"], one["private_endpoint"]) for one in told["destinations"]}
    assert sides == {
        "10.0.1.5": ("consumer", "pe-contoso"),
        "192.168.61.4": ("provider", None),
        "10.0.9.9": (None, None),
    }
    (use,) = told["nat_ports"]
    assert (use["private_link_service"], use["highest_ports"]) == ("orders", 3)
    assert use["percent"] == pytest.approx(100 * 3 / 64_512)


def test_the_share_is_of_the_ports_that_the_service_has(invoke: Invoke, topology: Path, tmp_path: Path) -> None:
    document = yaml.safe_load(topology.read_text())
    document["private_link_services"][0]["nat"] = {"nat_ports": "1024-1031"}
    few = tmp_path / "few.yaml"
    few.write_text(yaml.safe_dump(document))
    (use,) = json.loads(invoke("flows", EXAMPLE, "-t", few, "--json", "--quiet", "--seed", 1).stdout)["nat_ports"]
    assert (use["highest_ports"], use["of_ports"], use["percent"]) == (3, 8, pytest.approx(100 * 3 / 8))
    assert "% of 8" in invoke("flows", EXAMPLE, "-t", few).stdout


def test_the_terminal_says_it_in_words(invoke: Invoke, topology: Path) -> None:
    result = invoke("flows", EXAMPLE, "-t", topology)
    assert result.exit_code == 0
    for words in ("7 new connections of 3 clients", "left out: 1 denied, 1 ipv6", "pe-contoso", "orders 192.168.50.4"):
        assert words in result.stdout


def test_a_file_that_is_no_flow_log_is_one_line_and_code_2(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    result = invoke("flows", tmp_path / "a.json")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text * 2, "after record 3, the last one, comes '}"),
        (lambda text: text.rstrip()[:-1], "the file is cut short after record 3"),
        (lambda text: text.replace('sion": 4', 'sion": ' + "[" * 100_000), "record 1 is no flow record"),
    ],
)
def test_what_is_no_whole_flow_log_is_refused(
    invoke: Invoke, tmp_path: Path, change: Callable[[str], str], words: str
) -> None:
    (tmp_path / "a.json").write_text(change(EXAMPLE.read_text()))
    result = invoke("flows", tmp_path / "a.json")
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize("packed", [False, True])
def test_a_pipe_is_read_once(tmp_path: Path, packed: bool) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = EXAMPLE.read_bytes()
    writer = threading.Thread(target=pipe.write_bytes, args=(gzip.compress(content) if packed else content,))
    writer.start()
    command = [sys.executable, "-m", "dataplane", "flows", str(pipe)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    writer.join()
    assert done.stdout.startswith("7 new connections"), done.stderr


@pytest.mark.parametrize("time", ["999999999999999", "99999999999"])
def test_a_time_that_no_clock_has_is_named(invoke: Invoke, tmp_path: Path, time: str) -> None:
    tuples = [f"{time},10.0.2.4,10.0.1.5,50000,443,6,O,B,NX,0,0,0,0"]
    flows = {"flowRecords": {"flows": [{"flowGroups": [{"rule": "r", "flowTuples": tuples}]}]}}
    (tmp_path / "a.json").write_text(json.dumps({"records": [{"flowLogVersion": 4, **flows}]}))
    result = invoke("flows", tmp_path / "a.json")
    assert result.exit_code == 2
    assert f"the time {time} is after the year 2262" in result.stderr


def test_numba_is_not_loaded() -> None:
    code = (
        "import sys; from dataplane.cli import main\n"
        f"main(['flows', {str(EXAMPLE)!r}], standalone_mode=False)\n"
        "sys.exit('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


SCENARIO = """\
topology: topology.yaml
duration: 30s
traffic:
  - name: web
    endpoint: pe-contoso
    port: 443
    arrivals: {pattern: flow_log, file: PT1H.json, copies: 2}
    ends: {rst: 1}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    (tmp_path / "topology.yaml").write_text(TOPOLOGY)
    shutil.copy(EXAMPLE, tmp_path)
    path = tmp_path / "scenario.yaml"
    path.write_text(SCENARIO)
    return path


def test_a_scenarios_connections_begin_as_in_a_flow_log(invoke: Invoke, scenario: Path, tmp_path: Path) -> None:
    result = invoke("exhaust", scenario, "-o", tmp_path / "run", "--sessions", "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["findings"]["traffic"][0]["connections"]["opened"] == 6
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert [Path(one["path"]).name for one in manifest["inputs"]] == ["scenario.yaml", "topology.yaml", "PT1H.json"]
    again = invoke("exhaust", tmp_path / "run" / "scenario.yaml", "--json", "--quiet")
    assert again.stdout == result.stdout


def test_a_scenarios_connections_live_and_carry_as_in_flow_logs(invoke: Invoke, scenario: Path, tmp_path: Path) -> None:
    (tmp_path / "h=00").mkdir()
    (tmp_path / "PT1H.json").rename(tmp_path / "h=00" / "PT1H.json")
    text = SCENARIO.replace("file: PT1H.json, copies: 2", "files: ['**/PT1H.json']").replace("30s", "120s")
    more = (
        "    life: {distribution: as_recorded}\n    request: {bytes: as_recorded}\n    response: {bytes: as_recorded}\n"
    )
    scenario.write_text(text + more)
    result = invoke("exhaust", scenario, "-o", tmp_path / "run", "--sessions", "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    with (tmp_path / "run" / "sessions.csv").open() as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["first_packet"])
    first, last = ([datetime.fromisoformat(row[key][:26]) for row in rows] for key in ("first_packet", "last_packet"))
    lives = [(end - begin).total_seconds() for begin, end in zip(first, last, strict=True)]
    assert lives == pytest.approx([100.0, 30.0, 86.0])
    # Payload and a header of 40 bytes for SYN, ACK, RST and each packet of the request.
    sent = [9000 - 40 * 40, 1200 - 40 * 10, 600 - 40 * 5]
    assert [int(row["bytes_in"]) for row in rows] == [size + 40 * (3 + -(-size // 1460)) for size in sent]
    again = invoke("exhaust", tmp_path / "run" / "scenario.yaml", "--json", "--quiet")
    assert again.stdout == result.stdout


def test_what_is_wrong_with_one_of_many_files_is_told_with_file_record_and_value(
    invoke: Invoke, scenario: Path, tmp_path: Path
) -> None:
    bad = (tmp_path / "PT1H.json").read_text().replace("50002,443,6,O,E", "50002,443,6,O,X")
    (tmp_path / "bad.json").write_text(bad)
    scenario.write_text(SCENARIO.replace("file: PT1H.json", "files: ['*.json']"))
    result = invoke("exhaust", scenario, "-o", tmp_path / "run", "--quiet")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {tmp_path / 'bad.json'}: record 1: flow tuple '1767225631500,10.0.2.4,")
    assert "state 'X'" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("file: PT1H.json", "file: none.json", "no such file; name a flow log"),
        ("copies: 2", "spacing: even", "spacing does not go with pattern flow_log"),
        ("copies: 2", "rate: 2", "rate does not go with pattern flow_log"),
    ],
)
def test_keys_of_a_flow_log_are_checked(invoke: Invoke, scenario: Path, old: str, new: str, words: str) -> None:
    scenario.write_text(SCENARIO.replace(old, new))
    result = invoke("exhaust", scenario)
    assert result.exit_code == 2
    assert words in result.stderr
