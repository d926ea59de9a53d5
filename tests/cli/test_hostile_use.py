"""What a user can do to outputs, inputs and pipes: nothing of theirs is lost, and the exit code says what happened."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from dataplane.capture import PcapngWriter, PcapWriter, read_capture
from dataplane.packets.batch import PacketBatch
from dataplane.runs.folder import RunFolder, WholeFiles

CASE = Path(__file__).resolve().parents[2] / "pcaps" / "cases" / "exhaustion"
CAPTURE, TOPOLOGY = str(CASE / "contoso.pcap"), str(CASE / "topology.yaml")


def dataplane(*arguments: str | bytes, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dataplane", *arguments]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", **options)  # type: ignore[call-overload,no-any-return]


def refused(run: subprocess.CompletedProcess[str], *words: str) -> None:
    assert run.returncode == 2, run
    assert "Traceback" not in run.stderr
    for word in words:
        assert word in run.stderr, run.stderr


def test_two_outputs_at_one_place_are_refused(tmp_path: Path) -> None:
    for target in ("same.pcap", "run/../run/../same.pcap"):
        points = ["--pcap", "contoso=same.pcap", "--pcap", f"provider={target}"]
        refused(dataplane("replay", CAPTURE, "-t", TOPOLOGY, *points, cwd=tmp_path), "two outputs")
    outputs = ["-o", "run", "--pcap", "contoso=run/capture.pcapng"]
    refused(dataplane("replay", CAPTURE, "-t", TOPOLOGY, *outputs, cwd=tmp_path), "a file of its own")
    assert not list(tmp_path.rglob("*.p*"))


def test_a_device_or_pipe_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    refused(dataplane("replay", CAPTURE, "-t", TOPOLOGY, "--pcap", f"contoso={pipe}"), "no plain file")
    assert pipe.is_fifo()


@pytest.mark.parametrize("room", [500, 4_096])
def test_no_room_for_an_output_leaves_nothing_and_names_it(tmp_path: Path, room: int) -> None:
    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    earlier = tmp_path / "there.pcap"
    earlier.write_bytes(b"kept")
    words = ["-o", "run", "--pcap", "provider=there.pcap"]
    done = dataplane("replay", CAPTURE, "-t", TOPOLOGY, *words, cwd=tmp_path, preexec_fn=little_room)
    refused(done, f"error: run, {earlier}: cannot be written: File too large; nothing of it was kept")
    assert earlier.read_bytes() == b"kept"
    assert list(tmp_path.iterdir()) == [earlier]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    link = tmp_path / "link.pcap"
    link.symlink_to(tmp_path / "target.pcap")
    assert dataplane("replay", CAPTURE, "-t", TOPOLOGY, "--pcap", f"contoso={link}").returncode == 0
    assert link.is_symlink()
    assert (tmp_path / "target.pcap").stat().st_size > 24


def test_an_input_is_never_replaced_by_an_output(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    assert dataplane("replay", CAPTURE, "-t", TOPOLOGY, "-o", folder).returncode == 0
    own = tmp_path / "run" / "capture.pcapng"
    before = own.read_bytes()
    refused(dataplane("replay", str(own), "-t", TOPOLOGY, "-o", folder, "--no-capture"), "is an input")
    assert own.read_bytes() == before


def test_an_unknown_point_is_refused_with_the_choices() -> None:
    refused(dataplane("replay", f"contosO={CAPTURE}", "-t", TOPOLOGY), "'contosO' is no network", "contoso, provider")
    refused(dataplane("replay", "contoso=", "-t", TOPOLOGY), "names no capture")
    refused(dataplane("replay", "", "-t", TOPOLOGY), "names no capture")
    refused(dataplane("topology", "infer", "-", "-"), "only once")


def test_file_names_need_not_be_utf_8(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/odd\xff.pcap"
    shutil.copyfile(CAPTURE, name)
    run = dataplane("replay", name, "-t", TOPOLOGY, "-o", str(tmp_path / "run"))
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "run" / "manifest.json").exists()


def test_a_closed_pipe_is_no_failure() -> None:
    for arguments in (f"replay {CAPTURE} -t {TOPOLOGY}", f"replay {CAPTURE} -t {TOPOLOGY} --json", "topology schema"):
        pipeline = f"{sys.executable} -m dataplane {arguments} | true; exit ${{PIPESTATUS[0]}}"
        run = subprocess.run(["bash", "-c", pipeline], capture_output=True, text=True)
        assert (run.returncode, run.stderr) == (0, ""), arguments


def test_closed_descriptors_do_no_harm(tmp_path: Path) -> None:
    for redirection, code in ((">&-", 0), ("2>&-", 0), ("<&- -", 2)):
        capture = "" if redirection.endswith("-") and code else CAPTURE
        line = f"{sys.executable} -m dataplane replay -t {TOPOLOGY} {capture} {redirection}"
        run = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
        assert run.returncode == code, (line, run)
        assert "Traceback" not in run.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_while_input_is_awaited_ends_the_run(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "dataplane", "replay", "-", "-t", TOPOLOGY, "-o", str(tmp_path / "run")]
    spool = tmp_path / "spool"
    spool.mkdir()

    def heed_interrupts() -> None:
        for ignored in (signal.SIGINT, signal.SIGHUP):  # by a shell that runs in the background, and by nohup
            signal.signal(ignored, signal.SIG_DFL)

    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(spool)},
        preexec_fn=heed_interrupts,
    ) as process:
        deadline = time.monotonic() + 60
        while not list(spool.glob("*/0")):  # then it waits for input
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(timeout=20) == 130
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert not (tmp_path / "run").exists()
    assert not list(spool.iterdir())


def test_what_a_killed_run_left_is_written_over_by_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    left = folder / ".capture.pcapng.partial"
    left.write_bytes(b"half")
    assert dataplane("replay", CAPTURE, "-t", TOPOLOGY, "-o", str(folder)).returncode == 0
    assert not left.exists()


def test_a_folder_in_the_place_of_a_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "run" / "summary.json").mkdir(parents=True)
    refused(dataplane("replay", CAPTURE, "-t", TOPOLOGY, "-o", str(tmp_path / "run")), "is a directory")


def test_a_topology_is_never_replaced_by_an_output(tmp_path: Path) -> None:
    own = tmp_path / "topology.yaml"
    shutil.copyfile(TOPOLOGY, own)
    before = own.read_bytes()
    refused(dataplane("replay", CAPTURE, "-t", "topology.yaml", "-o", ".", cwd=tmp_path), "is an input")
    assert own.read_bytes() == before


def test_a_point_with_two_link_types_fails_that_output_alone(tmp_path: Path) -> None:
    frames = PacketBatch.from_bytes([bytes(60)], [1])
    packets = PacketBatch.from_bytes([b"\x45" + bytes(27)], [2], link_type=101)
    for name, batch in (("ethernet.pcap", frames), ("raw.pcap", packets)):
        with PcapWriter(tmp_path / name) as writer:
            writer.write_batch(batch)
    captures = [str(tmp_path / "ethernet.pcap"), str(tmp_path / "raw.pcap")]
    outputs = ["-o", str(tmp_path / "run"), "--pcap", f"contoso={tmp_path / 'one.pcap'}"]
    run = dataplane("replay", *captures, "-t", TOPOLOGY, *outputs)
    assert run.returncode == 4, run
    assert "one link type" in run.stderr
    assert not (tmp_path / "one.pcap").exists()
    assert len(read_capture(tmp_path / "run" / "capture.pcapng")) == 2


def test_two_runs_do_not_write_one_folder_at_once(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.text("summary.json").write("mine")
        refused(dataplane("replay", CAPTURE, "-t", TOPOLOGY, "-o", str(tmp_path / "run")), "another run")
    assert (tmp_path / "run" / "summary.json").read_text() == "mine"


def test_a_run_that_ends_meanwhile_keeps_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run ends between the moment when its file is opened and the one when it is locked."""
    first = WholeFiles()
    first.text(tmp_path / "x").write("result")
    lock = fcntl.flock

    def flock(handle: int, how: int) -> None:
        if (tmp_path / ".x.partial").exists() and not (tmp_path / "x").exists():
            first.commit()
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with WholeFiles() as second:
        second.text(tmp_path / "x").write("half")
        assert (tmp_path / "x").read_text() == "result"
    assert (tmp_path / "x").read_text() == "half"


def test_a_signal_does_not_come_between_the_files_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def interrupted(source: Path, target: Path) -> None:
        signal.raise_signal(signal.SIGINT)
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with RunFolder(tmp_path / "run") as folder:
        folder.text("summary.json").write("{}")
    assert (tmp_path / "run" / "summary.json").read_text() == "{}"


def test_a_pcap_in_the_place_of_a_file_of_the_run_is_refused(tmp_path: Path) -> None:
    words = ["-o", str(tmp_path / "run"), "--pcap", f"contoso={tmp_path / 'run' / 'scenario.yaml'}"]
    run = dataplane("replay", CAPTURE, "-t", TOPOLOGY, *words)
    refused(run, "scenario.yaml: is where the run has a file of its own")
    assert not (tmp_path / "run").exists()


def test_no_room_for_an_imported_topology_leaves_nothing(tmp_path: Path) -> None:
    azure = Path(__file__).resolve().parents[1] / "data" / "azure"
    files = [str(path) for path in azure.glob("*.json") if path.name != "template.json"]
    little_room = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (10, 10))
    done = dataplane("topology", "import", *files, "-o", "t.yaml", cwd=tmp_path, preexec_fn=little_room)
    refused(done, "t.yaml: cannot be written: File too large")
    assert not list(tmp_path.iterdir())


def test_an_interface_without_packets_need_not_be_a_network(tmp_path: Path) -> None:
    case = CASE.parent / "two-tenants"
    path = tmp_path / "two.pcapng"
    with PcapngWriter(path, application="another program") as writer:
        writer.add_interface("eth0", 1)
        writer.write_batch(read_capture(case / "contoso.pcap"), writer.add_interface("contoso", 1))
    run = dataplane("replay", str(path), "-t", str(case / "topology.yaml"))
    assert run.returncode == 0
    assert run.stdout.startswith("8 packets")
    with PcapngWriter(path, application="another program") as writer:
        writer.write_batch(read_capture(case / "contoso.pcap"), writer.add_interface("eth0", 1))
    refused(dataplane("replay", str(path), "-t", str(case / "topology.yaml")), "'eth0'", "contoso, fabrikam, provider")
