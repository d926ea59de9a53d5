"""What a user may give `replay` as captures: exit codes, messages, points, standard input, several captures."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from dataplane.capture import PcapngWriter, read_capture
from tests.cli.conftest import ENVIRONMENT

Invoke = Callable[..., Result]
Run = Callable[..., subprocess.CompletedProcess[str]]

RUN_FILES = ["capture.pcapng", "manifest.json", "metrics.csv", "sessions.csv", "summary.json", "topology.yaml"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(result: Result, folder: Path) -> str:
    """The message of a run that was refused: exit code 2, nothing on standard output, no folder."""
    assert result.exit_code == 2, result.stderr
    assert result.stdout == ""
    assert not folder.exists()
    assert all(line.startswith("error: ") for line in result.stderr.splitlines())
    return result.stderr


@pytest.mark.parametrize("given_topology", [True, False])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "cannot be opened: No such file or directory"),
        (lambda path: path.symlink_to("nowhere"), "cannot be opened: No such file or directory"),
        (lambda path: path.mkdir(), "cannot be opened: Is a directory"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_text("a text, not packets\n"), "no known capture format"),
        (lambda path: path.write_bytes(bytes.fromhex("d4c3b2a10200")), "the pcap header is cut short: 6 of 24"),
        (lambda path: path.write_bytes(gzip.compress(b"")), "the file is empty inside gzip"),
    ],
    ids=["missing", "dangling link", "directory", "empty", "text", "half a header", "gzip of nothing"],
)
def test_what_is_no_capture_is_refused_by_name(
    make: Callable[[Path], None], message: str, given_topology: bool, tmp_path: Path, topology: Path, invoke: Invoke
) -> None:
    path = tmp_path / "given.pcap"
    make(path)
    arguments = ["-t", topology] if given_topology else []
    error = refused(invoke("replay", path, *arguments, "-o", tmp_path / "run"), tmp_path / "run")
    assert error.startswith(f"error: {path}: ")
    assert message in error
    assert error.count("\n") == 1


def test_one_bad_capture_of_several_is_refused_before_anything_is_written(
    syns: Path, tmp_path: Path, invoke: Invoke
) -> None:
    bad = tmp_path / "bad.pcap"
    bad.write_text("text")
    assert str(bad) in refused(invoke("replay", syns, bad, "-o", tmp_path / "run"), tmp_path / "run")


@pytest.mark.parametrize("arguments", [[], ["-t", "topology.yaml"]], ids=["inferred", "given"])
def test_a_header_without_packets_is_a_run_of_nothing(
    arguments: list[str], syns: Path, topology: Path, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none.pcap").write_bytes(syns.read_bytes()[:24])
    result = invoke("replay", "none.pcap", *arguments, "-o", "run", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["received"] == {"packets": 0, "bytes": 0}
    assert names(tmp_path / "run") == RUN_FILES
    assert len(read_capture(tmp_path / "run" / "capture.pcapng")) == 0


@pytest.mark.parametrize("packed", [False, True], ids=["pcap", "gzip"])
def test_a_capture_that_breaks_is_kept_as_far_as_it_goes(
    packed: bool, pcaps: Path, tmp_path: Path, invoke: Invoke, tshark: str
) -> None:
    whole = (pcaps / "https-tls12-page.pcap").read_bytes()
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(gzip.compress(whole)[:60_000] if packed else whole[:100_000])
    result = invoke("replay", cut, "-o", tmp_path / "run", "--json")
    assert result.exit_code == 3
    received = json.loads(result.stdout)["received"]["packets"]
    assert 0 < received < 237
    assert result.stderr.startswith(f"error: {cut}: packet {received + 1} at byte ")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["exit_state"]["code"] == 3
    assert manifest["inputs"][0]["packets"] == received
    assert f"error: {manifest['inputs'][0]['damage']}\n" == result.stderr
    assert names(tmp_path / "run") == RUN_FILES
    command = [tshark, "-r", str(tmp_path / "run" / "capture.pcapng"), "-T", "fields", "-e", "frame.interface_name"]
    seen = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert seen.count("consumer") == received


def test_a_point_counts_only_when_it_is_a_networks_name(
    syns: Path, topology: Path, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "monday=9h.pcap").write_bytes(syns.read_bytes())
    (tmp_path / "contoso=x.pcap").write_bytes(syns.read_bytes())
    for argument in ("monday=9h.pcap", "contoso=monday=9h.pcap", "./contoso=x.pcap", "contoso=contoso=x.pcap"):
        result = invoke("replay", argument, "-t", "topology.yaml", "--json")
        assert result.exit_code == 0, argument
        assert json.loads(result.stdout)["forwarded"]["packets"] == 50, argument
    assert "x.pcap: cannot be opened" in refused(invoke("replay", "contoso=x.pcap", "-t", "topology.yaml"), Path("run"))
    for argument in ("Contoso=syns.pcap", "backbone=syns.pcap", "=syns.pcap", "contoso="):
        refused(invoke("replay", argument, "-t", "topology.yaml", "-o", "run"), tmp_path / "run")


def test_of_several_consumers_the_point_must_be_named(
    syns: Path, two_consumers: Path, tmp_path: Path, invoke: Invoke
) -> None:
    folder = tmp_path / "run"
    error = refused(invoke("replay", syns, "-t", two_consumers, "-o", folder), folder)
    assert f"write NETWORK={syns}" in error
    assert "contoso, fabrikam, provider" in error
    result = invoke("replay", f"fabrikam={syns}", "-t", two_consumers, "--json")
    used = {endpoint["name"]: endpoint["packets_in"] for endpoint in json.loads(result.stdout)["private_endpoints"]}
    assert used == {"pe-contoso": 0, "pe-fabrikam": 50}


def write_interfaces(path: Path, source: Path, interfaces: list[str]) -> Path:
    """A pcapng of another program's, in which the packets of `source` are seen at every interface."""
    with PcapngWriter(path, application="another program") as writer:
        for name in interfaces:
            writer.write_batch(read_capture(source), writer.add_interface(name, 1))
    return path


def test_interface_names_say_where_packets_were_seen(
    syns: Path, two_consumers: Path, tmp_path: Path, invoke: Invoke
) -> None:
    both = write_interfaces(tmp_path / "both.pcapng", syns, ["fabrikam", "contoso", "fabrikam"])
    result = invoke("replay", both, "-t", two_consumers, "--json")
    used = {endpoint["name"]: endpoint["packets_in"] for endpoint in json.loads(result.stdout)["private_endpoints"]}
    assert used == {"pe-contoso": 50, "pe-fabrikam": 100}


def test_an_unknown_interface_is_refused_with_the_choices_and_leaves_nothing(
    syns: Path, two_consumers: Path, tmp_path: Path, invoke: Invoke
) -> None:
    folder = tmp_path / "run"
    strange = write_interfaces(tmp_path / "strange.pcapng", syns, ["contoso", "eth0"])
    error = refused(invoke("replay", strange, "-t", two_consumers, "-o", folder), folder)
    assert "interface 'eth0'" in error
    assert "contoso, fabrikam, provider" in error


@pytest.mark.parametrize("arguments", [[], ["-t", "topology.yaml"]], ids=["inferred", "given"])
def test_standard_input_is_as_good_as_a_file(
    arguments: list[str], syns: Path, topology: Path, tmp_path: Path, run: Run
) -> None:
    packed = tmp_path / "syns.pcap.gz"
    packed.write_bytes(gzip.compress(syns.read_bytes()))
    from_file = run("replay", syns, *arguments, "-o", "file", "--json", cwd=tmp_path)
    with packed.open("rb") as stdin:
        from_stdin = run("replay", "-", *arguments, "-o", "stdin", "--json", cwd=tmp_path, stdin=stdin)
    assert from_stdin.returncode == from_file.returncode == 0
    assert from_stdin.stdout == from_file.stdout
    for name in RUN_FILES:
        if name != "manifest.json":
            assert (tmp_path / "stdin" / name).read_bytes() == (tmp_path / "file" / name).read_bytes(), name
    (given,) = json.loads((tmp_path / "stdin" / "manifest.json").read_text())["inputs"]
    assert given["path"] == "-"


def test_standard_input_is_given_once(topology: Path, invoke: Invoke, syns: Path, tmp_path: Path) -> None:
    result = invoke("replay", "-", "contoso=-", "-t", topology, "-o", tmp_path / "run", stdin=syns.read_bytes())
    assert "only once" in refused(result, tmp_path / "run")


def test_empty_standard_input_is_refused(invoke: Invoke, tmp_path: Path) -> None:
    assert "empty" in refused(invoke("replay", "-", "-o", tmp_path / "run", stdin=b""), tmp_path / "run")


@pytest.mark.parametrize("source", ["yes | dataplane replay -", "dataplane replay /dev/zero"])
def test_what_is_no_capture_is_refused_though_it_never_ends(source: str) -> None:
    line = source.replace("dataplane", f"{sys.executable} -m dataplane")
    run = subprocess.run(["bash", "-c", line], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert "no known capture format" in run.stderr


def test_a_capture_in_two_halves_is_the_capture(pcaps: Path, tmp_path: Path, invoke: Invoke) -> None:
    whole = pcaps / "https-tls12-page.pcap"
    data = whole.read_bytes()
    halves, at, number = [bytearray(data[:24]), bytearray(data[:24])], 24, 0
    while at < len(data):
        length = 16 + int.from_bytes(data[at + 8 : at + 12], "little")
        halves[number % 2] += data[at : at + length]
        at, number = at + length, number + 1
    for half, content in zip(("even", "odd"), halves, strict=True):
        (tmp_path / half).write_bytes(content)
    assert invoke("replay", whole, "-o", tmp_path / "one").exit_code == 0
    assert invoke("replay", tmp_path / "even", tmp_path / "odd", "-o", tmp_path / "two").exit_code == 0
    for name in ("metrics.csv", "sessions.csv", "summary.json", "topology.yaml"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name
    inputs = json.loads((tmp_path / "two" / "manifest.json").read_text())["inputs"]
    assert [given["packets"] for given in inputs] == [119, 118]


def test_twenty_years_of_silence_make_neither_rows_nor_errors(
    make_syns: Callable[..., Path], tmp_path: Path, invoke: Invoke
) -> None:
    early = make_syns(tmp_path / "early.pcap", 20)
    late = make_syns(tmp_path / "late.pcap", 20, start_s=1_700_000_000 + 20 * 365 * 86_400)
    result = invoke("replay", early, late, "-o", tmp_path / "run")
    assert result.exit_code == 0
    assert result.stderr.startswith("note: the captures' time jumps forward by up to 7,300 days")
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[1:]
    assert len({row.split(",")[0] for row in rows}) <= 3  # the first minute, that of the timeouts, the last
    assert len(rows) < 20
