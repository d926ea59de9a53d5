"""Scenario files: every fault is told at once, with file, line, path, value, rule and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from dataplane.runs.scenario import Scenario
from dataplane.runs.scenario_file import ScenarioError, dump_scenario, files_of, load_scenario, scenario_schema
from dataplane.topology import dump_topology
from dataplane.topology.document import Document

TOPOLOGY = """\
virtual_networks:
  - {name: contoso, address_space: [10.0.0.0/16]}
  - {name: provider, address_space: [192.168.0.0/16]}
private_link_services:
  - name: orders
    virtual_network: provider
    nat_ips: [192.168.50.4]
    load_balancer:
      frontend_ip: 192.168.60.10
      rules: [{protocol: tcp, frontend_port: 443, backend_port: 8443}]
      backend_pool: [192.168.61.4]
private_endpoints:
  - {name: pe-contoso, virtual_network: contoso, ip: 10.0.1.5, target: orders}
"""

GOOD = """\
topology: topology.yaml
duration: 10m
traffic:
  - name: web
    endpoint: pe-contoso
    port: 443
    arrivals: {pattern: poisson, rate: 100}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "topology.yaml").write_text(TOPOLOGY)
    return tmp_path


def faults(folder: Path, text: str) -> list[str]:
    """What is wrong with a scenario, without the folder's name."""
    path = folder / "scenario.yaml"
    path.write_text(text)
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def test_a_topology_is_found_beside_the_scenario(folder: Path) -> None:
    path = folder / "scenario.yaml"
    path.write_text(GOOD)
    scenario = load_scenario(path)
    assert scenario.topology.endpoint("pe-contoso").target == "orders"
    assert scenario.traffic[0].arrivals.rate == 100
    assert files_of(path) == [path, folder / "topology.yaml"]


def test_a_topology_may_stand_in_the_scenario(folder: Path) -> None:
    inline = "topology:\n" + "".join(f"  {line}\n" for line in TOPOLOGY.splitlines())
    path = folder / "inline.yaml"
    path.write_text(GOOD.replace("topology: topology.yaml\n", inline))
    assert load_scenario(path).topology == load_scenario_of(folder).topology
    assert files_of(path) == [path]


def load_scenario_of(folder: Path) -> Scenario:
    """The good scenario."""
    path = folder / "good.yaml"
    path.write_text(GOOD)
    return load_scenario(path)


def test_all_faults_are_told_at_once_with_their_lines(folder: Path) -> None:
    text = """\
topology: topology.yaml
duration: 10
warm_up: 20m
traffic:
  - name: web
    endpoint: pe-contos
    port: 443
    arrivals: {pattern: ramp, rate: 100}
  - name: web
    endpoint: pe-contoso
    port: 80
    hosts: 0
    life: {distribution: pareto, mean: 3s, shape: 1}
    arrivals: {pattern: poisson, rate: -5}
    arivals: {}
alert: {window: 90s}
"""
    assert faults(folder, text) == [
        "scenario.yaml:2: duration: 10 needs a unit: write 10s for seconds (units: ns, us, ms, s, m, h, d)",
        "scenario.yaml:6: traffic[0].endpoint: no private endpoint is named pe-contos; there are: pe-contoso",
        "scenario.yaml:8: traffic[0].arrivals: to_rate is missing; pattern ramp has rate, to_rate, over",
        "scenario.yaml:9: traffic[1].name: web is used twice; names of traffic are unique",
        "scenario.yaml:11: traffic[1].port: orders has no load-balancing rule for tcp 80; there are: tcp 443",
        "scenario.yaml:12: traffic[1].hosts: 0 is too small; the least is 1",
        "scenario.yaml:13: traffic[1].life: a Pareto life of shape 1 has no mean; write median, or a shape above 1",
        "scenario.yaml:14: traffic[1].arrivals.rate: -5 is not a rate in connections per second; write 0 to 1e+07",
        "scenario.yaml:15: traffic[1].arivals: unknown key arivals; did you mean arrivals? Keys here: "
        "name, endpoint, network, protocol, port, hosts, hosts_from, arrivals, life, keep_alive, round_trip, request, "
        "response, ends, answer, retries",
        "scenario.yaml:16: alert: window is no whole number of minutes, and averages are of one minute; write 1m, 5m",
    ]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("duration: 10m", "duration: 10m\nwarm_up: 10m"), "3: warm_up: is not shorter than duration"),
        (("rate: 100", "rate: 100, on: 3s"), "7: traffic[0].arrivals: on does not go with pattern poisson"),
        (("port: 443", "port: 443\n    network: provider"), "7: traffic[0].network: from provider the"),
        (("port: 443", "port: 443\n    hosts_from: 10.1.0.0/24"), "7: traffic[0].hosts_from: 10.1.0.0/24 is no"),
        (
            ("port: 443", "port: 443\n    hosts: 12\n    hosts_from: 10.0.1.0/28"),
            "7: traffic[0].hosts: 12 client addresses are wanted, and 10.0.1.0/28 has 10 that are free",
        ),
        (("port: 443", "port: 443\n    keep_alive: 1ms"), "4: traffic[0]: keep_alive is shorter than round_trip"),
        (("pattern: poisson, rate: 100", "pattern: moments"), "7: traffic[0].arrivals: moments is missing"),
        (
            ("pattern: poisson, rate: 100", "pattern: moments, moments: [2s, 1s]"),
            "7: traffic[0].arrivals.moments: moments are not in order of time",
        ),
        (
            ("pattern: poisson, rate: 100", "pattern: moments, moments: [1, 2s]"),
            "7: traffic[0].arrivals.moments: 1 needs a unit: write 1s for seconds",
        ),
        (
            ("pattern: poisson, rate: 100", "pattern: moments, moments: [2s], period: 2s"),
            "7: traffic[0].arrivals: a moment is not before the period's end",
        ),
        (
            ("pattern: poisson, rate: 100", "pattern: moments, moments: [2s], spacing: even"),
            "7: traffic[0].arrivals: spacing does not go with pattern moments",
        ),
        (
            ("port: 443", "port: 443\n    request: {bytes: 5000, packets: 1}"),
            "7: traffic[0].request: 5000 bytes do not fit into 1 packets of at most 1460 bytes; write at least 4",
        ),
        (("port: 443", "port: 443\n    ends: {fin: 0}"), "7: traffic[0].ends: all shares are 0; write a share above 0"),
        (("pattern: poisson", "pattern: poison"), "7: traffic[0].arrivals.pattern: poison is none of the choices"),
        (("duration: 10m\n", ""), "1: duration: is missing; the key is required"),
        (("topology.yaml", "network.yaml"), "network.yaml: no such file"),
        (
            ("duration: 10m", "duration: 10m\nevents:\n  - {at: 5s, disconnect: pe-fabrikam}"),
            "pe-fabrikam",
        ),
    ],
)
def test_a_fault_is_told_with_its_line(folder: Path, change: tuple[str, str], fault: str) -> None:
    told = faults(folder, GOOD.replace(*change))
    assert any(fault in line for line in told), told


def test_a_capture_is_found_beside_the_scenario(folder: Path) -> None:
    (folder / "monday.pcap").write_bytes(b"")
    path = folder / "scenario.yaml"
    path.write_text(GOOD.replace("{pattern: poisson, rate: 100}", "{pattern: capture, file: monday.pcap}"))
    assert load_scenario(path).traffic[0].arrivals.file == str(folder / "monday.pcap")
    assert files_of(path) == [path, folder / "topology.yaml", folder / "monday.pcap"]
    told = faults(folder, path.read_text().replace("monday", "friday"))
    assert told == ["scenario.yaml:7: traffic[0].arrivals.file: friday.pcap: no such file; name a capture"]


def test_a_pattern_stands_for_all_files_that_fit_each_once(folder: Path) -> None:
    for name in ("m=01/h=00/PT1H.json", "m=01/h=01/PT1H.json", "m=02/PT1H.json", "m=02/other.json", "[1].json"):
        (folder / "logs" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "logs" / name).write_bytes(b"")
    path = folder / "scenario.yaml"
    flow_logs = "{pattern: flow_log, files: [logs/m=02/PT1H.json, 'logs/**/PT1H.json', 'logs/[1].json']}"
    path.write_text(GOOD.replace("{pattern: poisson, rate: 100}", flow_logs))
    names = ["m=02/PT1H.json", "m=01/h=00/PT1H.json", "m=01/h=01/PT1H.json", "[1].json"]
    files = [folder / "logs" / name for name in names]
    assert load_scenario(path).traffic[0].arrivals.files == tuple(map(str, files))
    assert files_of(path) == [path, folder / "topology.yaml", *files]
    told = faults(folder, path.read_text().replace("logs/**", "log/**"))
    fault = "traffic[0].arrivals.files: log/**/PT1H.json: no such file; name a flow log"
    assert told == [f"scenario.yaml:7: {fault}"]


def test_faults_of_the_topology_file_are_told_with_its_own_lines(folder: Path) -> None:
    (folder / "topology.yaml").write_text(TOPOLOGY.replace("target: orders", "target: order"))
    told = faults(folder, GOOD.replace("10m", "10"))
    assert told[0].startswith("scenario.yaml:2: duration: ")
    assert told[1].startswith("topology.yaml:13: private_endpoints[0].target: ")
    assert len(told) == 2


@pytest.mark.parametrize("text", ["", "topology: [", "just words", "- 1"])
def test_what_is_no_scenario_is_refused(folder: Path, text: str) -> None:
    assert all(line.startswith("scenario.yaml") for line in faults(folder, text))


def test_a_scenario_that_is_written_reads_as_the_same(folder: Path) -> None:
    scenario = load_scenario_of(folder)
    (folder / "again.yaml").write_text(dump_scenario(scenario, "as-used.yaml"))
    (folder / "as-used.yaml").write_text(dump_topology(scenario.topology))
    assert load_scenario(folder / "again.yaml") == scenario


def test_the_schema_describes_every_key_and_accepts_what_the_reader_accepts() -> None:
    schema = scenario_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(Document(GOOD).data, schema)
    wrong = Document(GOOD.replace("rate: 100", "rte: 100")).data
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)
    for name, part in {"Scenario": schema, **schema["$defs"]}.items():
        for key, described in part.get("properties", {}).items():
            assert described.get("description") or "$ref" in json.dumps(described), f"{name}.{key}"
    assert schema["properties"]["warm_up"]["default"] == "0s"


def test_the_example_of_the_documentation_is_right(tmp_path: Path) -> None:
    """docs/exhaust.md, with a service for both of its endpoints."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "exhaust.md").read_text()
    example = text.split("```yaml\n")[1].split("```")[0]
    udp = "{protocol: udp, frontend_port: 53, backend_port: 53}"
    both = TOPOLOGY.replace("backend_port: 8443}", f"backend_port: 8443}}, {udp}")
    both += "  - {name: pe-fabrikam, virtual_network: contoso, ip: 10.0.1.6, target: orders}\n"
    (tmp_path / "topology.yaml").write_text(both)
    (tmp_path / "scenario.yaml").write_text(example)
    scenario = load_scenario(tmp_path / "scenario.yaml")
    assert [source.name for source in scenario.traffic] == ["web", "names"]
