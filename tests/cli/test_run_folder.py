"""What a run leaves behind: whole files or none, the same bytes every time, readable by tshark and by ourselves."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from dataplane.capture import read_capture

Invoke = Callable[..., Result]

RUN_FILES = ["capture.pcapng", "manifest.json", "metrics.csv", "sessions.csv", "summary.json", "topology.yaml"]
SAME_FILES = [name for name in RUN_FILES if name != "manifest.json"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def judged(command: list[str]) -> str:
    """What a program of Wireshark's prints; it must not complain."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line for line in done.stderr.splitlines() if "Running as user" not in line] == []
    return done.stdout


@pytest.fixture(scope="session")
def finished(pcaps: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a capture with two link types, drops, bypassed packets and many servers."""
    from dataplane.runs.replay import Replay, replay

    folder = tmp_path_factory.mktemp("finished") / "run"
    replay(Replay([str(pcaps / "pcapng-two-interfaces.pcapng")], folder=folder))
    return folder


def test_the_manifest_says_how_the_run_came_about(pcaps: Path, finished: Path) -> None:
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["exit_state"] == {"code": 0, "meaning": "done"}
    assert manifest["seed"] == 0
    assert manifest["first_packet"] == "2015-01-29T10:39:58.578402281Z"
    assert {"dataplane", "numpy", "numba", "python"} <= manifest["versions"].keys()
    capture = pcaps / "pcapng-two-interfaces.pcapng"
    digest = subprocess.run(["sha256sum", str(capture)], capture_output=True, text=True, check=True).stdout.split()[0]
    assert manifest["inputs"] == [
        {"path": str(capture), "point": None, "sha256": digest, "packets": 159, "damage": None}
    ]


def test_tshark_reads_every_packet_at_every_point(finished: Path, tshark: str) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    fields = ["interface_name", "comment", "packet_flags_direction"]
    command = [tshark, "-r", str(finished / "capture.pcapng"), "-T", "fields", "-E", "separator=|"]
    for field in fields:
        command += ["-e", f"frame.{field}"]
    rows = [line.split("|") for line in judged(command).splitlines()]

    points = Counter(point for point, _, _ in rows)
    forwarded = summary["forwarded"]["packets"]
    assert points == {"consumer": summary["received"]["packets"], "backbone": forwarded, "provider": forwarded}

    entered = [row for row in rows if int(row[2], 16) & 3 == 1]
    assert len(entered) == summary["received"]["packets"]
    assert {int(row[2], 16) & 3 for row in rows} == {1, 2}

    verdicts = Counter(c.removeprefix("verdict=") for _, c, _ in rows if c.startswith("verdict="))
    dropped = {reason: count["packets"] for reason, count in summary["dropped"]["reasons"].items()}
    assert {reason: count for reason, count in verdicts.items() if reason != "bypassed"} == dropped
    assert {point for point, comment, _ in rows if comment.startswith("verdict=")} == {"consumer"}

    with (finished / "sessions.csv").open() as file:
        sessions = {row["id"]: row for row in csv.DictReader(file)}
    counted: Counter[str] = Counter()
    for point, comment, _ in rows:
        if comment.startswith("verdict="):
            continue
        found = re.fullmatch(r"session=(\d+)(?: nat=(\S+))?", comment)
        assert found, comment
        assert (found[2] is not None) == (point == "provider"), comment
        session = sessions[found[1]]
        if point == "provider":
            assert found[2] == f"{session['nat_ip']}:{session['nat_port']}"
        counted[f"{found[1]} {point}"] += 1
    for number, session in sessions.items():
        packets = int(session["packets_in"]) + int(session["packets_out"])
        assert {counted[f"{number} {point}"] for point in points} == {packets}


def test_capinfos_finds_the_statistics_of_every_interface(finished: Path, capinfos: str) -> None:
    text = judged([capinfos, str(finished / "capture.pcapng")])
    found = re.findall(
        r"Name = (\S+).*?Time precision = (\w+).*?stat entries = (\d+)\s+Number of packets = (\d+)", text, re.DOTALL
    )
    summary = json.loads((finished / "summary.json").read_text())
    packets: Counter[str] = Counter()
    for name, precision, statistics, count in found:
        assert (precision, statistics) == ("nanoseconds", "1"), name
        packets[name] += int(count)
    forwarded = summary["forwarded"]["packets"]
    assert packets == {"consumer": summary["received"]["packets"], "backbone": forwarded, "provider": forwarded}


def test_interface_statistics_agree_with_the_packets(finished: Path, tshark: str) -> None:
    command = [tshark, "-r", str(finished / "capture.pcapng"), "-X", "read_format:MIME Files Format", "-V"]
    text = judged(command)
    received = sum(int(n) for n in re.findall(r"Number of Received Packets = (\d+)", text))
    dropped = sum(int(n) for n in re.findall(r"Number of Dropped Packets = (\d+)", text))
    summary = json.loads((finished / "summary.json").read_text())
    assert received == summary["received"]["packets"] + 2 * summary["forwarded"]["packets"]
    assert dropped == summary["dropped"]["packets"]


@pytest.mark.parametrize("name", ["dns-udp-mixed.pcap", "http-qinq-vid0.pcap", "udp-ipv4-fragments.pcap"])
@pytest.mark.parametrize("infer_again", [False, True], ids=["its topology", "inferred again"])
def test_a_runs_capture_replays_to_the_same_run(
    name: str, infer_again: bool, pcaps: Path, tmp_path: Path, invoke: Invoke
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    invoke("replay", pcaps / name, "-o", first)
    arguments = [] if infer_again else ["-t", first / "topology.yaml"]
    assert invoke("replay", first / "capture.pcapng", *arguments, "-o", second).exit_code == 0
    for file in SAME_FILES:
        assert (second / file).read_bytes() == (first / file).read_bytes(), file


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_ports(
    pcaps: Path, tmp_path: Path, invoke: Invoke
) -> None:
    ports = {}
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        arguments = ["replay", pcaps / "dns-udp-mixed.pcap", "--seed", seed, "-o", tmp_path / folder]
        assert invoke(*arguments).exit_code == 0
        with (tmp_path / folder / "sessions.csv").open() as file:
            ports[folder] = [row["nat_port"] for row in csv.DictReader(file)]
    for name in SAME_FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert ports["a"] != ports["c"]
    assert len(ports["a"]) == len(ports["c"])


def test_a_new_run_leaves_nothing_of_the_old_one(syns: Path, tmp_path: Path, invoke: Invoke) -> None:
    folder = tmp_path / "run"
    assert invoke("replay", syns, "-o", folder).exit_code == 0
    assert names(folder) == RUN_FILES
    (folder / "notes.txt").write_text("the user's own")
    assert invoke("replay", syns, "-o", folder, "--no-capture").exit_code == 0
    assert names(folder) == sorted({*RUN_FILES, "notes.txt"} - {"capture.pcapng"})


def test_a_refused_run_leaves_the_old_one_as_it_was(syns: Path, tmp_path: Path, invoke: Invoke) -> None:
    folder = tmp_path / "run"
    invoke("replay", syns, "-o", folder)
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    (tmp_path / "bad.pcap").write_text("text")
    for arguments in (["bad.pcap"], [syns, "--pcap", "nowhere=x.pcap"], [syns, "--pcap", f"consumer={tmp_path}"]):
        result = invoke("replay", *arguments, "-o", folder)
        assert result.exit_code == 2
        assert {name: (folder / name).read_bytes() for name in names(folder)} == before


def test_missing_parents_are_made(syns: Path, tmp_path: Path, invoke: Invoke) -> None:
    assert invoke("replay", syns, "-o", tmp_path / "a" / "b" / "c").exit_code == 0
    assert names(tmp_path / "a" / "b" / "c") == RUN_FILES


@pytest.mark.parametrize(
    ("place", "message"),
    [("file", "is a file"), ("file/run", "Not a directory"), ("/proc/run", "cannot be made")],
    ids=["a file", "below a file", "where nothing can be made"],
)
def test_a_place_for_no_folder_is_refused(place: str, message: str, syns: Path, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "file").write_text("mine")
    result = invoke("replay", syns, "-o", tmp_path / place)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_in_the_place_of_a_file_is_refused(syns: Path, tmp_path: Path, invoke: Invoke) -> None:
    folder = tmp_path / "run"
    (folder / "summary.json").mkdir(parents=True)
    result = invoke("replay", syns, "-o", folder)
    assert result.exit_code == 2
    assert "summary.json: is a directory" in result.stderr
    assert names(folder) == ["summary.json"]


def test_every_point_can_be_written_as_pcap(pcaps: Path, tmp_path: Path, invoke: Invoke, capinfos: str) -> None:
    source = pcaps / "https-tls12-page.pcap"
    arguments: list[object] = []
    for point in ("consumer", "provider", "backbone"):
        arguments += ["--pcap", f"{point}={tmp_path / point}=.pcap"]
    assert invoke("replay", source, *arguments).exit_code == 0
    assert names(tmp_path) == ["backbone=.pcap", "consumer=.pcap", "provider=.pcap"]
    for point in ("consumer", "provider", "backbone"):
        text = judged([capinfos, "-M", "-c", "-t", str(tmp_path / f"{point}=.pcap")])
        assert re.search(r"Number of packets:\s+237\b", text)
        assert "nsecpcap" in text
    before, after = read_capture(source), read_capture(tmp_path / "consumer=.pcap")
    assert before.data.tobytes() == after.data.tobytes()
    assert (before.frames["time_ns"] == after.frames["time_ns"]).all()
    backbone, provider = (read_capture(tmp_path / f"{point}=.pcap") for point in ("backbone", "provider"))
    assert (backbone.frames["captured"] > provider.frames["captured"]).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["contoso=x.pcap"], "no such point; there are: consumer, provider, backbone"),
        (["consumer"], "write --pcap POINT=FILE"),
        (["consumer="], "write --pcap POINT=FILE"),
        (["=x.pcap"], "write --pcap POINT=FILE"),
        (["consumer=x.pcap", "consumer=y.pcap"], "consumer is already written to x.pcap"),
        (["consumer=."], "is a directory"),
        (["consumer=missing/x.pcap"], "missing/x.pcap: cannot be written: No such file or directory"),
    ],
)
def test_a_pcap_that_cannot_be_written_is_refused_first(
    values: list[str], message: str, syns: Path, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [word for value in values for word in ("--pcap", value)]
    result = invoke("replay", syns, *arguments, "-o", "run")
    assert result.exit_code == 2
    assert message in result.stderr
    assert names(tmp_path) == ["syns.pcap"]


def test_json_on_standard_output_is_the_summary_and_nothing_else(pcaps: Path, tmp_path: Path, invoke: Invoke) -> None:
    # This capture has times that cannot be kept, so there are notes too: they belong on standard error.
    capture = pcaps / "pcapng-two-interfaces.pcapng"
    result = invoke("replay", capture, "--json", "-o", tmp_path / "run")
    assert result.stdout == (tmp_path / "run" / "summary.json").read_text()
    json.loads(result.stdout)
    assert result.stderr.startswith("note: ")
    quiet = invoke("replay", capture, "--json", "--quiet")
    assert quiet.stdout == result.stdout
    assert quiet.stderr == ""


def test_without_a_folder_nothing_is_written(
    syns: Path, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("replay", syns)
    assert result.exit_code == 0
    assert result.stdout.startswith("50 packets, 2,000 bytes")
    assert names(tmp_path) == ["syns.pcap"]
