"""Reading topology files of every kind, writing them, and their schema."""

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML

from dataplane.topology import (
    Topology,
    TopologyError,
    document,
    dump_topology,
    load_topology,
    parse_topology,
    topology_schema,
)
from dataplane.topology.parts import PROBING
from dataplane.topology.profiles import PROFILES
from dataplane.topology.values import LONGEST_DURATION, format_duration

TOPOLOGIES = Path(__file__).parent / "topologies"


def refusal(text: str, source: str = "topology.yaml") -> str:
    with pytest.raises(TopologyError) as caught:
        parse_topology(text, source)
    return str(caught.value)


def test_mistakes_of_every_kind_are_listed_at_once_with_their_lines() -> None:
    file = TOPOLOGIES / "mistakes.yaml"
    with pytest.raises(TopologyError) as caught:
        load_topology(file)
    services = "private_link_services"
    expected = [
        (4, "virtual_networks[1].address_space", "is missing"),
        (5, "virtual_networks[1].adress_space", "did you mean address_space?"),
        (16, f"{services}[0].load_balancer.rules[0].backend_port", "84430 is too large"),
        (21, f"{services}[1].nat_ips[0]", "192.168.50.5 is already a NAT IP of orders"),
        (23, f"{services}[1].enable_proxy_protocol", "not yet supported"),
        (27, f"{services}[1].load_balancer.backend_pool[0]", "192.168.61.300 is not an IPv4 address"),
        (30, f"{services}[2].nat_ips", "Azure's limit is 8"),
        (34, f"{services}[2].nat.timeouts.udp", "300 needs a unit"),
        (39, "private_endpoints[0].ip", "10.1.0.5 is not in contoso's address space 10.0.0.0/16"),
        (40, "private_endpoints[0].target", "no service is named order; did you mean orders?"),
    ]
    assert [problem[:2] for problem in caught.value.problems] == [case[:2] for case in expected]
    for problem, (line, path, message) in zip(caught.value.problems, expected, strict=True):
        assert message in problem.message
        assert f"{file}:{line}: {path}: {problem.message}" in str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"# nothing\n", "is empty"),
        (b"---\n", "is empty"),
        (b"\xd4\xc3\xb2\xa1\x02\x00\x04\x00", "is not text in UTF-8"),
        ("name: café".encode("latin-1"), "is not text in UTF-8"),
        ("events: []".encode("utf-16"), "is not text in UTF-8"),
    ],
)
def test_a_file_without_a_topology_is_one_clear_problem(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "topology.yaml"
    file.write_bytes(content)
    with pytest.raises(TopologyError) as caught:
        load_topology(str(file))
    assert len(caught.value.problems) == 1
    assert str(caught.value).startswith(f"{file}: {message}")


def test_a_file_that_is_not_there_or_a_directory_is_one_clear_problem(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match=r"nowhere\.yaml: no such file"):
        load_topology(tmp_path / "nowhere.yaml")
    with pytest.raises(TopologyError, match="is a directory"):
        load_topology(tmp_path)
    with pytest.raises(TopologyError, match="cannot be read"):
        load_topology(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\n", "topology.yaml:2: not YAML: expected ',' or ']'"),
        ("a: 1\nb: @x\n", "topology.yaml:2: not YAML: found character '@'"),
        ("a:\n\t- b\n", "topology.yaml:2: not YAML: found character '\\t'"),
        ("a: *nope\n", "topology.yaml:1: not YAML: found undefined alias 'nope'"),
        ("--- {}\n--- {}\n", "topology.yaml:2: not YAML: but found another document"),
        ("a: &x [*x]\n", "topology.yaml:1: an alias contains itself"),
        ("a: !secret x\n", "topology.yaml:1: the tag !secret has no meaning here"),
        ("? [a]\n: 1\n", "topology.yaml:1: a key must be a word"),
        ("ok: 1\nbad: \x07\n", "topology.yaml:2: not YAML: unacceptable character #x0007"),
        ("[" * 5000, "nested too deeply"),
        ("- a\n", "topology.yaml:1: is a list, but must be a mapping with the keys virtual_networks"),
        ("hello\n", "topology.yaml:1: is hello, but must be a mapping"),
        ("5\n", "topology.yaml:1: is 5, but must be a mapping"),
    ],
)
def test_what_is_no_topology_is_one_problem_with_its_line(text: str, message: str) -> None:
    found = refusal(text)
    assert message in found
    assert "\n" not in found


def test_an_endless_document_of_aliases_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "_MOST_NODES", 20_000)
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    text += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    assert "has more than 20000 values" in refusal(text)


def test_a_duplicate_key_is_named_with_both_lines_among_other_problems() -> None:
    text = "limits: azure\nevents: []\nlimits: none\nvirtual_networks: [{name: a}]\n"
    assert refusal(text).splitlines() == [
        "topology.yaml:3: limits: duplicate key limits, first on line 1; leave one out",
        "topology.yaml:4: virtual_networks[0].address_space: is missing; the key is required",
    ]
    assert "duplicate key limits, first on line 1" in refusal(
        '{"limits": "none",\n "limits": "none"}', "t.json"
    )


def test_json_is_read_like_yaml_with_lines(tmp_path: Path) -> None:
    topology = load_topology(TOPOLOGIES / "contoso.yaml")
    file = tmp_path / "topology.json"
    file.write_text(json.dumps(topology.model_dump(mode="json"), indent="\t"))
    assert load_topology(file) == topology
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert load_topology(file) == topology
    assert parse_topology(topology.model_dump_json()) == topology
    assert refusal('{\n\t"events": [],\n\t"limit": "none"\n}', "t.json").startswith(
        "t.json:3: limit: unknown key"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n"events": [],\n}', "t.json:3: not JSON: "),
        ("events: []", "t.json:1: not JSON: Expecting value"),
        ('{"events": NaN}', "t.json: not JSON: NaN is not a number in JSON"),
        ("[" * 200_000, "nested too deeply"),
    ],
)
def test_broken_json_is_one_problem(text: str, message: str) -> None:
    assert message in refusal(text, "t.json")


def test_words_are_those_of_yaml_1_2() -> None:
    parts = "{name: on, region: 12:30:45, address_space: [10.0.0.0/8], tenant: 2001-01-01}"
    text = f"virtual_networks:\n  - {parts}\n"
    network = parse_topology(text).virtual_networks[0]
    assert (network.name, network.region, network.tenant) == ("on", "12:30:45", "2001-01-01")


def test_an_alias_repeats_a_part() -> None:
    text = """
virtual_networks: [{name: p, address_space: [10.0.0.0/8]}]
private_link_services:
  - name: a
    virtual_network: p
    nat_ips: [10.0.0.1]
    load_balancer: &balancer {frontend_ip: 10.0.0.9, rules: [], backend_pool: []}
    nat: {nat_ports: 5-6, timeouts: {udp: 1h}}
  - {name: b, virtual_network: p, nat_ips: [10.0.0.2], load_balancer: *balancer}
"""
    first, second = parse_topology(text).private_link_services
    assert first.load_balancer == second.load_balancer
    assert (first.nat.nat_ports.size, first.nat.timeouts.udp) == (2, 3_600_000_000_000)
    assert first.nat.timeouts.tcp_established == second.nat.timeouts.udp == 300_000_000_000


def test_what_is_written_has_all_defaults_and_reads_back() -> None:
    topology = load_topology(TOPOLOGIES / "contoso.yaml")
    text = dump_topology(topology)
    assert parse_topology(text) == topology
    assert dump_topology(parse_topology(text)) == text
    assert text.count("tcp_established: 300s") == 2
    assert "link_id: 553665985" in text
    assert text.count("connection: approved") == 2
    assert "ports_per_endpoint: null" in text
    assert [line for line in text.splitlines() if line[0].isalpha()] == [
        "virtual_networks:",
        "private_link_services:",
        "platform_services: []",
        "private_endpoints:",
        "events: []",
        "limits: azure",
    ]


names = st.from_regex(r"\A[A-Za-z0-9]([A-Za-z0-9_.-]{0,78}[A-Za-z0-9_])?\Z")
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40) | st.sampled_from(
    ["null", "~", "yes", "12:30:45", "2001-01-01", "1e3", "0x1F", "- a", "a: b", "#", "'", '"', " "]
)
durations = st.integers(1, LONGEST_DURATION).map(format_duration)
idle_timeouts = st.fixed_dictionaries({}, optional={"idle_timeout": st.none() | durations})
runs = st.integers(1, 65535)
probes = st.none() | runs | st.lists(runs, min_size=1, max_size=64)
ranges = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(lambda p: f"{min(p)}-{max(p)}")


@st.composite
def topologies(draw: st.DrawFn) -> dict[str, Any]:
    """A valid topology as data: one provider, some services, some consumers that overlap."""
    consumers = draw(st.lists(names, max_size=4, unique=True))
    services = draw(st.lists(names, max_size=4, unique=True))
    provider = draw(names.filter(lambda name: name not in consumers))
    endpoints = draw(st.lists(names, max_size=6, unique=True)) if consumers and services else []
    maybe = st.none() | texts
    network_parts = {"region": maybe, "subscription": maybe, "tenant": maybe}
    maybe_duration = st.none() | durations
    nat = {
        "profile": st.sampled_from(list(PROFILES)),
        "nat_ports": ranges,
        "block_size": st.integers(1, 2**31 - 1),
        "blocks_per_endpoint": st.none() | st.integers(1, 2**31 - 1),
        "nat_ip_selection": st.sampled_from(["hash", "round_robin", "fill_first", "paired"]),
        "ports_per_endpoint": st.none() | st.integers(1, 2**31 - 1),
        "spill": st.booleans(),
        "first_packet": st.sampled_from(["syn", "any"]),
        "port_hold": st.just("0s") | durations,
        "icmp": st.sampled_from(["none", "errors", "all"]),
        "fragments": st.sampled_from(["drop", "translate"]),
        "tcp": st.fixed_dictionaries(
            {}, optional={"reset": st.sampled_from(["final", "until_data"]), "closing_refresh": st.booleans()}
        ),
        "timeouts": st.fixed_dictionaries(
            {}, optional={"tcp_reset": durations, "tcp_half_closed": maybe_duration, "udp_unreplied": maybe_duration}
        ),
    }
    ways = st.fixed_dictionaries({"port_allocation": st.sampled_from(PROBING), "probes": probes}) | (
        st.fixed_dictionaries({}, optional={"port_allocation": st.sampled_from(["sequential", "block", *PROBING])})
    )
    return {
        "virtual_networks": [
            {
                "name": name,
                "address_space": ["10.0.0.0/16"],
                **draw(st.fixed_dictionaries({}, optional=network_parts)),
            }
            for name in [*consumers, provider]
        ],
        "private_link_services": [
            {
                "name": name,
                "virtual_network": provider,
                "nat_ips": [f"10.0.{index}.{host}" for host in range(draw(st.integers(1, 8)))],
                "auto_approval": draw(st.lists(texts, max_size=2)),
                "load_balancer": {
                    "frontend_ip": "10.0.100.1",
                    "rules": [
                        {"protocol": "tcp", "frontend_port": port, "backend_port": 1, **draw(idle_timeouts)}
                        for port in draw(st.lists(st.integers(1, 65535), max_size=3, unique=True))
                    ],
                    "backend_pool": [f"10.0.200.{host}" for host in range(draw(st.integers(0, 40)))],
                },
                "nat": {**draw(st.fixed_dictionaries({}, optional=nat)), **draw(ways)},
            }
            for index, name in enumerate(services)
        ],
        "private_endpoints": [
            {
                "name": name,
                "virtual_network": draw(st.sampled_from(consumers)),
                "ip": f"10.0.250.{index}",
                "target": draw(st.sampled_from(services)),
                "connection": draw(
                    st.sampled_from([None, "pending", "approved", "rejected", "disconnected"])
                ),
            }
            for index, name in enumerate(endpoints)
        ],
    }


@given(topologies())
@settings(deadline=None, max_examples=40)
def test_every_topology_survives_being_written(data: dict[str, Any]) -> None:
    topology = Topology.model_validate(data)
    assert parse_topology(dump_topology(topology)) == topology
    assert Topology.model_validate(topology.model_dump()) == topology
    jsonschema.validate(topology.model_dump(mode="json"), topology_schema())


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


EXAMPLE = YAML(typ="safe", pure=True).load(TOPOLOGIES / "contoso.yaml")
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["*", "orders"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | names, inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_whatever_stands_anywhere_is_taken_or_refused(data: st.DataObject) -> None:
    topology = copy.deepcopy(EXAMPLE)
    for path in data.draw(st.lists(st.sampled_from(places(EXAMPLE)[1:]), min_size=1, max_size=3)):
        holder = topology
        for step in path[:-1]:
            holder = holder[step] if isinstance(holder, dict | list) and _has(holder, step) else None
        if isinstance(holder, dict | list) and _has(holder, path[-1]):
            holder[path[-1]] = data.draw(anything)
    with contextlib.suppress(ValidationError):  # and nothing else
        read = Topology.model_validate(topology)
        assert parse_topology(dump_topology(read)) == read


def _has(holder: Any, step: Any) -> bool:
    return step in holder if isinstance(holder, dict) else isinstance(step, int) and step < len(holder)


def test_the_schema_takes_the_example_and_refuses_what_it_can_see_is_wrong() -> None:
    schema = topology_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    example = YAML(typ="safe", pure=True).load(TOPOLOGIES / "contoso.yaml")
    jsonschema.validate(example, schema)
    example["private_link_services"][0]["nat"]["port_hold"] = 5
    with pytest.raises(jsonschema.ValidationError, match="is not of type 'string'"):
        jsonschema.validate(example, schema)


def test_every_key_of_the_schema_is_described() -> None:
    schema = topology_schema()
    for part in [schema, *schema["$defs"].values()]:
        assert part["additionalProperties"] is False
        for key, described in part["properties"].items():
            assert described.get("description"), f"{part['title']}.{key}"
    assert schema["$defs"]["NatPolicy"]["properties"]["nat_ports"]["default"] == "1024-65535"
    assert schema["$defs"]["Timeouts"]["properties"]["tcp_closing"]["default"] == "65s"
