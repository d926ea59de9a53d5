"""`dataplane topology`: every mistake with its line, a schema that fits, inference that replay shares."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from click.testing import Result

Invoke = Callable[..., Result]

#: Line of the file to the mistake made there.
MISTAKES = {
    2: ("address_space: [10.0.0.0/16]", "address_space: [10.0.0.0/33]"),
    7: ("nat_ips: [192.168.50.4]", "nat_ips: [192.168.50.4, 192.168.50.4]"),
    10: ("backend_port: 8443", "backend_port: 84430"),
    11: ("backend_pool:", "backend_pools:"),
    13: ("ip: 10.0.1.5", "ip: 10.0.1"),
}


@pytest.fixture
def mistaken(topology: Path) -> Path:
    """The topology with five mistakes."""
    lines = topology.read_text().splitlines()
    for number, (right, wrong) in MISTAKES.items():
        assert right in lines[number - 1]
        lines[number - 1] = lines[number - 1].replace(right, wrong)
    topology.write_text("\n".join(lines) + "\n")
    return topology


def test_five_mistakes_are_listed_at_once_with_their_lines(mistaken: Path, invoke: Invoke) -> None:
    result = invoke("topology", "check", mistaken)
    assert result.exit_code == 2
    assert result.stdout == ""
    for line in MISTAKES:
        assert f"{mistaken}:{line}: " in result.stderr


def test_the_mistakes_as_json_are_one_document(mistaken: Path, invoke: Invoke) -> None:
    result = invoke("topology", "check", mistaken, "--json")
    assert result.exit_code == 2
    assert result.stderr == ""
    document = json.loads(result.stdout)
    assert document["valid"] is False
    assert MISTAKES.keys() <= {problem["line"] for problem in document["problems"]}


def test_replay_refuses_a_mistaken_topology_with_the_same_list(
    mistaken: Path, syns: Path, tmp_path: Path, invoke: Invoke
) -> None:
    checked = invoke("topology", "check", mistaken).stderr.splitlines()
    for arguments in (["replay", syns, "-o", tmp_path / "run", "-t"], ["topology", "show"]):
        result = invoke(*arguments, mistaken)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.splitlines() == [f"error: {line}" for line in checked]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name", ["a=b", "[red]x[/red]", "[/x]", "a/b", "../up", "", "two words", "a\nb", "\x1b[31mred", "-o", "backbone"]
)
def test_odd_names_are_refused_and_not_interpreted(name: str, topology: Path, invoke: Invoke) -> None:
    topology.write_text(topology.read_text().replace("name: contoso,", f"name: {json.dumps(name)},"))
    result = invoke("topology", "check", topology)
    assert result.exit_code == 2
    assert f"{topology}:2: virtual_networks[0].name: " in result.stderr
    assert "\x1b" not in result.stderr


def test_a_right_topology_is_right(topology: Path, invoke: Invoke) -> None:
    result = invoke("topology", "check", topology)
    assert result.exit_code == 0
    assert "2 virtual networks, 1 private link services, 1 private endpoints" in result.stdout
    assert json.loads(invoke("topology", "check", topology, "--json").stdout) == {"valid": True, "problems": []}


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"", "is empty"), (bytes.fromhex("d4c3b2a1") + bytes(20), "is not text in UTF-8")],
    ids=["missing", "empty", "a capture"],
)
def test_what_is_no_topology_is_refused_by_name(
    content: bytes | None, message: str, tmp_path: Path, invoke: Invoke
) -> None:
    path = tmp_path / "given.yaml"
    if content is not None:
        path.write_bytes(content)
    for arguments in (["topology", "check"], ["topology", "show"], ["replay", tmp_path, "-t"]):
        result = invoke(*arguments, path)
        assert result.exit_code == 2
        assert f"{path}: {message}" in result.stderr


def test_what_is_shown_fits_the_schema_and_reads_back_the_same(topology: Path, tmp_path: Path, invoke: Invoke) -> None:
    schema = json.loads(invoke("topology", "schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    for file, arguments in (("shown.json", ["--json"]), ("shown.yaml", [])):
        shown = invoke("topology", "show", topology, *arguments).stdout
        if arguments:
            jsonschema.Draft202012Validator(schema).validate(json.loads(shown))
        (tmp_path / file).write_text(shown)
        assert invoke("topology", "show", tmp_path / file, *arguments).stdout == shown


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_the_inferred_topology_gives_the_run_that_infers_itself(
    form: str, pcaps: Path, tmp_path: Path, invoke: Invoke
) -> None:
    capture = pcaps / "dns-udp-mixed.pcap"
    inferred = invoke("topology", "infer", capture, *(["--json"] if form == "json" else []))
    assert inferred.exit_code == 0
    path = tmp_path / f"inferred.{form}"
    path.write_text(inferred.stdout)
    assert invoke("replay", capture, "-o", tmp_path / "itself").exit_code == 0
    assert invoke("replay", capture, "-t", path, "-o", tmp_path / "given").exit_code == 0
    for name in ("topology.yaml", "summary.json", "metrics.csv", "sessions.csv", "capture.pcapng"):
        assert (tmp_path / "given" / name).read_bytes() == (tmp_path / "itself" / name).read_bytes(), name
    if form == "yaml":
        assert inferred.stdout == (tmp_path / "itself" / "topology.yaml").read_text()


def test_inference_of_a_capture_that_breaks_says_so_and_goes_as_far(
    pcaps: Path, tmp_path: Path, invoke: Invoke
) -> None:
    cut = tmp_path / "cut.pcap"
    cut.write_bytes((pcaps / "https-tls12-page.pcap").read_bytes()[:50_000])
    result = invoke("topology", "infer", cut, "--json")
    assert result.exit_code == 3
    assert len(json.loads(result.stdout)["private_endpoints"]) == 1
    assert result.stderr.startswith(f"error: {cut}: packet ")
