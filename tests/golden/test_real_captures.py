"""Every real capture, replayed with no topology given: nothing lost, replies as captured, checksums as they were."""

from __future__ import annotations

import csv
import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from dataplane.capture import open_capture, read_capture
from dataplane.packets.batch import INBOUND, OUTBOUND, TIME_UNREPRESENTABLE
from dataplane.runs.replay import Replay, infer, replay
from dataplane.runs.sources import parse_sources
from dataplane.topology import Topology

PCAPS = Path(__file__).resolve().parents[2] / "pcaps"
CAPTURES = sorted([*PCAPS.glob("*.pcap"), *PCAPS.glob("*.pcapng")])


@pytest.fixture(params=CAPTURES, ids=lambda path: path.name)
def capture(request: pytest.FixtureRequest) -> Path:
    """One of the real captures."""
    path: Path = request.param
    return path


def test_there_are_real_captures() -> None:
    assert len(CAPTURES) == 15


def test_every_packet_is_accounted_for(capture: Path, tmp_path: Path) -> None:
    result = replay(Replay([str(capture)], folder=tmp_path / "run"))
    assert result.exit_code == 0
    summary = result.summary
    for figure in ("packets", "bytes"):
        parts = sum(summary[part][figure] for part in ("forwarded", "bypassed", "dropped"))
        assert summary["received"][figure] == parts
        assert sum(reason[figure] for reason in summary["dropped"]["reasons"].values()) == summary["dropped"][figure]
    assert summary["received"]["packets"] == len(read_capture(capture))
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    assert not list((tmp_path / "run").glob(".*"))
    with (tmp_path / "run" / "sessions.csv").open() as file:
        sessions = list(csv.DictReader(file))
    assert len(sessions) == summary["sessions"]["created"]
    carried = sum(int(s["packets_in"]) + int(s["packets_out"]) for s in sessions)
    assert carried == summary["forwarded"]["packets"]
    with (tmp_path / "run" / "metrics.csv").open() as file:
        metrics = list(csv.DictReader(file))
    for way in ("in", "out"):
        of_endpoints = sum(int(m["total"]) for m in metrics if m["metric"] == f"PEBytes{way.title()}")
        of_services = sum(int(m["total"]) for m in metrics if m["metric"] == f"PLSBytes{way.title()}")
        expected = sum(endpoint[f"bytes_{way}"] for endpoint in summary["private_endpoints"])
        assert of_endpoints == of_services == expected
    assert len(metrics) <= 6 * len(read_capture(capture))


def test_the_consumer_sees_what_was_captured(capture: Path, tmp_path: Path) -> None:
    """Whatever was sent and every reply that was delivered is at the consumer's point, byte for byte, in order."""
    replay(Replay([str(capture)], folder=tmp_path / "run"))
    given = read_capture(capture)
    run = read_capture(tmp_path / "run" / "capture.pcapng")
    at_consumer = [
        number
        for number, frame in enumerate(run.frames)
        if run.interfaces[frame["interface"]].name == "consumer"
    ]
    assert len(at_consumer) == len(given)
    for number, place in enumerate(at_consumer):
        assert run[place] == given[number]
        came, seen = given.frames[number], run.frames[place]
        assert seen["original"] == came["original"]
        assert seen["direction"] == INBOUND
        if not came["flags"] & TIME_UNREPRESENTABLE:
            assert seen["time_ns"] == came["time_ns"]


def test_a_run_replayed_with_its_own_topology_is_the_same_run(capture: Path, tmp_path: Path) -> None:
    from dataplane.topology import load_topology

    first = replay(Replay([str(capture)], folder=tmp_path / "first"))
    topology = load_topology(tmp_path / "first" / "topology.yaml")
    assert topology == first.topology
    again = replay(Replay([str(tmp_path / "first" / "capture.pcapng")], topology, folder=tmp_path / "again"))
    # Times beyond 64-bit nanoseconds were written as the clock, so they are usable now.
    for summary in (first.summary, again.summary):
        del summary["times"]
    assert again.summary == first.summary
    for name in ("capture.pcapng", "sessions.csv", "metrics.csv", "topology.yaml"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "first" / name).read_bytes(), name


def _checksum_faults(tshark: str, path: Path) -> dict[str, Counter[str]]:
    """Per interface, how many packets tshark finds with wrong checksums, by protocol; fails on a warning."""
    fields = ["ip.checksum.status", "tcp.checksum.status", "udp.checksum.status", "icmp.checksum.status"]
    command = [tshark, "-r", str(path), "-T", "fields", "-e", "frame.interface_name", "-E", "occurrence=f"]
    for field in fields:
        if not field.startswith("icmp"):  # tshark always checks ICMP's
            command += ["-o", field.rsplit(".", 1)[0].replace(".checksum", ".check_checksum") + ":TRUE"]
        command += ["-e", field]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    noise = [line for line in run.stderr.splitlines() if "Running as user" not in line]
    assert not noise, noise
    faults: dict[str, Counter[str]] = {}
    for line in run.stdout.splitlines():
        interface, *statuses = line.split("\t")
        counter = faults.setdefault(interface, Counter())
        counter["packets"] += 1
        for field, status in zip(fields, statuses, strict=True):
            counter[field] += status == "0"
    return faults


def test_tshark_finds_no_checksum_error_that_was_not_captured(capture: Path, tshark: str, tmp_path: Path) -> None:
    result = replay(Replay([str(capture)], folder=tmp_path / "run"))
    given: Counter[str] = Counter()
    for counter in _checksum_faults(tshark, capture).values():
        given += counter
    faults = _checksum_faults(tshark, tmp_path / "run" / "capture.pcapng")
    for interface, counter in faults.items():
        for field in ("ip.checksum.status", "tcp.checksum.status", "udp.checksum.status"):
            assert counter[field] <= given[field], (interface, field)
    if result.summary["forwarded"]["packets"]:
        assert faults["provider"]["packets"] == result.summary["forwarded"]["packets"]
        assert faults["backbone"]["packets"] == result.summary["forwarded"]["packets"]


def _under(profile: str, capture: Path) -> Topology:
    """The inferred topology, with services that translate as another engine does."""
    document = infer(parse_sources([str(capture)], set())).model_dump(mode="json")
    for service in document["private_link_services"]:
        service["nat"] = {"profile": profile, "first_packet": "any", "idle_reset": True}
    return Topology.model_validate(document)


@pytest.mark.parametrize("profile", ["rfc", "linux", "vpp"])
def test_with_icmp_and_fragments_translated_nothing_is_lost_either(
    capture: Path, profile: str, tshark: str, tmp_path: Path
) -> None:
    topology = _under(profile, capture)
    result = replay(Replay([str(capture)], topology, folder=tmp_path / "run"))
    assert result.exit_code == 0
    summary = result.summary
    for figure in ("packets", "bytes"):
        parts = sum(summary[part][figure] for part in ("forwarded", "bypassed", "dropped"))
        assert summary["received"][figure] == parts
    given = read_capture(capture)
    assert summary["received"]["packets"] == len(given)
    run = read_capture(tmp_path / "run" / "capture.pcapng")
    entered = Counter(run[number] for number, frame in enumerate(run.frames) if frame["direction"] == INBOUND)
    captured = Counter(given[number] for number in range(len(given)))
    delivered = Counter(run[number] for number, frame in enumerate(run.frames) if frame["direction"] == OUTBOUND)
    assert entered == captured, "every packet is there once, as it came"
    assert sum(delivered.values()) == 2 * summary["forwarded"]["packets"] + 3 * summary["sessions"]["resets_sent"] // 2
    faults = _checksum_faults(tshark, tmp_path / "run" / "capture.pcapng")
    before = sum(_checksum_faults(tshark, capture).values(), Counter())
    for interface, counter in faults.items():
        for field in ("ip.checksum.status", "tcp.checksum.status", "udp.checksum.status", "icmp.checksum.status"):
            assert counter[field] <= before[field], (interface, field)


def test_capinfos_reads_the_output(capture: Path, capinfos: str, tmp_path: Path) -> None:
    replay(Replay([str(capture)], folder=tmp_path / "run"))
    command = [capinfos, str(tmp_path / "run" / "capture.pcapng")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not run.stderr
    with open_capture(tmp_path / "run" / "capture.pcapng") as reader:
        assert reader.written_by_dataplane
        assert sum(len(batch) for batch in reader) > 0
        assert reader.damage is None
