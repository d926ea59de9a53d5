"""`dataplane diff`: what is told of two runs, as text and as one JSON document, and when it fails."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from dataplane.capture import read_capture

Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def runs(pcaps: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one capture: `eight`, with eight NAT ports, and `twelve`, with twelve and a shorter time-out."""
    from dataplane.runs.replay import Replay, replay
    from dataplane.topology import load_topology

    folder = tmp_path_factory.mktemp("runs")
    case = pcaps / "cases" / "exhaustion"
    text = (case / "topology.yaml").read_text()
    assert "nat_ports: 1024-1031" in text
    twelve = text.replace("nat_ports: 1024-1031", "nat_ports: 1024-1035, timeouts: {tcp_established: 100s}")
    (folder / "twelve.yaml").write_text(twelve)
    for name, topology in (("eight", case / "topology.yaml"), ("twelve", folder / "twelve.yaml")):
        replay(Replay([str(case / "contoso.pcap")], load_topology(topology), folder=folder / name))
    return folder


@pytest.fixture
def document(runs: Path, invoke: Invoke) -> dict[str, Any]:
    """The comparison of the two runs."""
    result = invoke("diff", runs / "eight", runs / "twelve", "--json")
    assert result.exit_code == 0
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def summary_of(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return content


def test_a_run_does_not_differ_from_itself(runs: Path, invoke: Invoke) -> None:
    result = invoke("diff", runs / "eight", runs / "eight", "--json")
    document = json.loads(result.stdout)
    assert document["differences"] == {"configuration": 0, "results": 0, "sessions": 0, "packets": 0}
    assert not any(document["results"].values())
    assert "No difference in what was compared." in invoke("diff", runs / "eight", runs / "eight").stdout


def test_the_configuration_is_told_by_resource_and_key(document: dict[str, Any]) -> None:
    configuration = document["configuration"]
    assert [(c["resource"], c["key"], c["old"], c["new"]) for c in configuration["topology"]] == [
        ("private_link_services[orders]", "nat.nat_ports", "1024-1031", "1024-1035"),
        ("private_link_services[orders]", "nat.timeouts.tcp_established", "300s", "100s"),
    ]
    assert configuration["seed"] is None
    assert configuration["inputs"] == {"same": True, "reordered": False, "only_in_old": [], "only_in_new": []}


def test_every_figure_that_differs_is_told_with_its_change(runs: Path, document: dict[str, Any]) -> None:
    old, new = (summary_of(runs / name) for name in ("eight", "twelve"))
    run = {row["figure"]: row for row in document["results"]["run"]}
    for kind in ("received", "forwarded", "bypassed", "dropped"):
        for unit in ("packets", "bytes"):
            before, after = old[kind][unit], new[kind][unit]
            if before == after:
                assert f"{kind}.{unit}" not in run
            else:
                row = run[f"{kind}.{unit}"]
                assert (row["old"], row["new"], row["change"]) == (before, after, after - before)
    assert (run["first_exhaustion.nat_ip"]["old"], run["first_exhaustion.nat_ip"]["new"]) == ("192.168.50.4", None)
    dropped = {
        row["resource"]: (row["old"], row["new"])
        for row in document["results"]["dropped"]
        if row["figure"] == "packets"
    }
    reasons = {reason: (count["packets"], 0) for reason, count in old["dropped"]["reasons"].items()}
    assert dropped == reasons
    [lowest] = [
        row for row in document["results"]["nat_ips"] if row["figure"] == "minimum_availability_percent"
    ]
    assert lowest["resource"] == "orders, NAT IP 192.168.50.4"
    assert lowest["change"] == pytest.approx(100 * 2 / 12)


def test_sessions_are_told_that_only_more_ports_made_possible(runs: Path, document: dict[str, Any]) -> None:
    ids = []
    for name in ("eight", "twelve"):
        with (runs / name / "sessions.csv").open() as file:
            ids.append({row["id"] for row in csv.DictReader(file)})
    found = document["sessions"]
    assert found["matched_by"] == "id"
    assert {session["id"] for session in found["only_in_new"]["sessions"]} == ids[1] - ids[0] != set()
    assert found["only_in_old"]["count"] == len(ids[0] - ids[1]) == 0
    assert found["ended_at_another_time"]["count"] == 8  # of nine, the last one is open in both
    assert found["ended_otherwise"]["count"] == 0


def verdicts_by_tshark(tshark: str, run: Path) -> dict[int, str]:
    """Frame number to verdict of every packet that entered, as Wireshark reads the capture."""
    command = [tshark, "-r", str(run / "capture.pcapng"), "-Y", "frame.packet_flags_direction == 1", "-T", "fields"]
    command += ["-e", "frame.number", "-e", "frame.comment"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    fields = [line.split("\t") for line in lines]
    return {
        int(number): found[1] if (found := re.search(r"verdict=(\w+)", comment)) else "forwarded"
        for number, comment in fields
    }


def test_packets_with_another_verdict_are_those_that_wireshark_shows(
    runs: Path, document: dict[str, Any], tshark: str
) -> None:
    old, new = (verdicts_by_tshark(tshark, runs / name) for name in ("eight", "twelve"))
    expected = [
        (number, frames[0], was, frames[1], now)
        for number, (frames, was, now) in enumerate(
            zip(zip(old, new, strict=True), old.values(), new.values(), strict=True), 1
        )
        if was != now
    ]
    assert len(expected) == 10
    assert [
        (packet["number"], packet["frame_in_old"], packet["old"], packet["frame_in_new"], packet["new"])
        for packet in document["packets"]["packets"]
    ] == expected
    assert sum(pair["packets"] for pair in document["packets"]["verdicts"]) == 10


def test_every_verdict_of_a_capture_is_read_as_it_was_counted(
    pcaps: Path, tmp_path: Path, topology: Path, invoke: Invoke
) -> None:
    capture = pcaps / "pcapng-two-interfaces.pcapng"
    for name, arguments in (("inferred", []), ("given", ["-t", topology])):
        assert invoke("replay", f"contoso={capture}" if arguments else capture, *arguments, "-o", tmp_path / name,
                      "-q").exit_code == 0  # fmt: skip
    # At another point it is another input. Both runs received the same packets, so let the manifest say that it is one.
    path = tmp_path / "given" / "manifest.json"
    assert json.loads(path.read_text())["inputs"][0]["point"] == "contoso"
    path.write_text(path.read_text().replace('"point": "contoso"', '"point": null'))
    document = json.loads(invoke("diff", tmp_path / "inferred", tmp_path / "given", "--json").stdout)
    changes: dict[str, int] = {}
    for pair in document["packets"]["verdicts"]:
        changes[pair["old"]] = changes.get(pair["old"], 0) - pair["packets"]
        changes[pair["new"]] = changes.get(pair["new"], 0) + pair["packets"]
    old, new = (summary_of(tmp_path / name) for name in ("inferred", "given"))
    expected = {kind: new[kind]["packets"] - old[kind]["packets"] for kind in ("forwarded", "bypassed")}
    for reason in old["dropped"]["reasons"] | new["dropped"]["reasons"]:
        before, after = (run["dropped"]["reasons"].get(reason, {"packets": 0})["packets"] for run in (old, new))
        expected[reason] = after - before
    assert {word: change for word, change in changes.items() if change} == {
        word: change for word, change in expected.items() if change
    }
    assert changes


def test_other_inputs_are_told_by_digest_and_their_sessions_matched_by_tuple(
    syns: Path, make_syns: Callable[..., Path], topology: Path, tmp_path: Path, invoke: Invoke
) -> None:
    fewer = make_syns(tmp_path / "fewer.pcap", 40)
    copy = Path(shutil.copy(syns, tmp_path / "copy.pcap"))
    for name, capture in (("fifty", syns), ("copy", copy), ("forty", fewer)):
        assert invoke("replay", capture, "-t", topology, "-o", tmp_path / name).exit_code == 0
    same = json.loads(invoke("diff", tmp_path / "fifty", tmp_path / "copy", "--json").stdout)
    assert same["configuration"]["inputs"]["same"] is True
    result = invoke("diff", tmp_path / "fifty", tmp_path / "forty", "--json")
    document = json.loads(result.stdout)
    inputs = document["configuration"]["inputs"]
    assert [given["path"] for given in inputs["only_in_old"]] == [str(syns)]
    assert [given["path"] for given in inputs["only_in_new"]] == [str(fewer)]
    assert document["sessions"]["matched_by"] == "tuple"
    assert document["sessions"]["only_in_old"]["count"] == 10
    assert document["packets"] is None
    note = "the inputs differ: sessions were matched by tuple and order, and packets not at all"
    assert result.stderr == f"note: {note}\n"


def test_a_run_without_capture_is_compared_as_far_as_it_goes(runs: Path, tmp_path: Path, invoke: Invoke) -> None:
    copy = Path(shutil.copytree(runs / "eight", tmp_path / "copy"))
    (copy / "capture.pcapng").unlink()
    result = invoke("diff", runs / "eight", copy, "--json", "--fail-if", "differences.packets >= 0")
    assert result.exit_code == 0  # what was not compared meets no condition
    assert json.loads(result.stdout)["packets"] is None
    assert result.stderr == f"note: {copy} has no capture.pcapng, so that part is not compared\n"


@pytest.mark.parametrize(
    ("condition", "line"),
    [
        ("change.dropped.packets < 0", "change of dropped.packets is -10, and --fail-if says < 0"),
        (
            "change.private_link_services.nat_ips.minimum_availability_percent > 16",
            "orders, NAT IP 192.168.50.4: change of minimum_availability_percent is 16.6666666667, and --fail-if says "
            "> 16",
        ),
        (
            "minimum_availability_percent < 20",
            "orders, NAT IP 192.168.50.4: minimum_availability_percent is 16.6666666667, and --fail-if says < 20",
        ),
        ("differences.packets == 10", "differences.packets is 10, and --fail-if says == 10"),
        ("change.first_exhaustion.time_seconds != 0", None),  # the new run has none, so there is no change to speak of
        ("dropped.packets > 0", None),
    ],
)
def test_a_condition_speaks_of_the_new_run_or_of_the_change(
    condition: str, line: str | None, runs: Path, invoke: Invoke
) -> None:
    result = invoke("diff", runs / "eight", runs / "twelve", "--fail-if", condition)
    assert result.exit_code == (0 if line is None else 1)
    assert result.stderr == ("" if line is None else f"failed: {line}\n")


def test_lists_are_as_long_as_asked_and_counts_are_whole(
    runs: Path, document: dict[str, Any], invoke: Invoke
) -> None:
    short = json.loads(invoke("diff", runs / "eight", runs / "twelve", "--json", "--list", 3).stdout)
    assert short["differences"] == document["differences"]
    assert short["sessions"]["ended_at_another_time"]["sessions"] == (
        document["sessions"]["ended_at_another_time"]["sessions"][:3]
    )
    assert short["packets"]["packets"] == document["packets"]["packets"][:3]
    assert "… and 7 more (--list N lists more)" in invoke("diff", runs / "eight", runs / "twelve", "--list", 3).stdout


def test_the_text_names_what_the_document_does(runs: Path, invoke: Invoke) -> None:
    result = invoke("diff", runs / "eight", runs / "twelve")
    assert result.stderr == ""
    for words in (
        "private_link_services[orders]: nat.nat_ports",
        r"dropped\.packets +10 +0 +-10",
        r"nat_ports_exhausted: packets +2 +0 +-2",
        "nat_ports_exhausted → forwarded +2",
        "only in the new run +2",
    ):
        pattern = re.escape(words) if "[" in words else words
        assert re.search(pattern, result.stdout), words


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda run: shutil.rmtree(run), "no such folder"),
        (lambda run: (run / "manifest.json").unlink(), "is no run's folder: it has no manifest.json"),
        (lambda run: (run / "summary.json").unlink(), "is no run's folder: it has no summary.json"),
        (lambda run: (run / "summary.json").write_text("{"), "is not the JSON that a run writes"),
        (lambda run: (run / "summary.json").write_text("{}"), "has no received, so no run wrote it"),
        (lambda run: (run / "manifest.json").write_text("[]"), "is not the JSON that a run writes"),
        (lambda run: (run / "manifest.json").write_text('{"schema_version": 99}'), "this program reads 1"),
        (lambda run: (run / "topology.yaml").write_text("a: [b"), "topology.yaml: not YAML"),
        (lambda run: (run / "sessions.csv").write_bytes(b"\xff\x00"), "its columns are not those"),
    ],
)
def test_a_folder_that_is_no_run_is_refused_in_one_line(
    make: Callable[[Path], None], message: str, runs: Path, tmp_path: Path, invoke: Invoke
) -> None:
    broken = Path(shutil.copytree(runs / "eight", tmp_path / "broken"))
    make(broken)
    for arguments in ((runs / "eight", broken), (broken, runs / "eight")):
        result = invoke("diff", *arguments)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert re.fullmatch(r"error: .*\n", result.stderr)
        assert message in result.stderr
        assert str(broken) in result.stderr


def test_captures_that_are_not_of_the_same_packets_are_said_to_be_so(
    runs: Path, tmp_path: Path, invoke: Invoke, pcaps: Path
) -> None:
    other = Path(shutil.copytree(runs / "eight", tmp_path / "other"))
    assert invoke("replay", pcaps / "https-tls12-page.pcap", "-o", tmp_path / "page").exit_code == 0
    shutil.copy(tmp_path / "page" / "capture.pcapng", other)
    assert len(read_capture(other / "capture.pcapng"))
    result = invoke("diff", runs / "eight", other)
    assert result.exit_code == 0
    assert "do not hold the same packets: number 1 differs" in result.stderr
