"""What the profiles fill in, and that code, schema and documentation say the same of them."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from dataplane.topology import Topology, dump_topology, parse_topology, topology_schema
from dataplane.topology.model import NatPolicy, TcpPolicy, Timeouts
from dataplane.topology.parts import PROBING
from dataplane.topology.profiles import DEFAULT_PROFILE, PROFILES

ROOT = Path(__file__).parents[2]
SECOND = 1_000_000_000

# For every key a value that no profile has; a dot leads into a mapping.
OTHER = {
    "nat_ports": "2000-2999",
    "port_allocation": "hash",
    "probes": [7, 5],
    "block_size": 77,
    "blocks_per_endpoint": 3,
    "nat_ip_selection": "round_robin",
    "ports_per_endpoint": 9,
    "spill": {"true": False, "false": True},
    "decrement_ttl": False,
    "sessions_per_backend": 8,
    "first_packet": {"syn": "any", "any": "syn"},
    "port_hold": "7s",
    "icmp": {"errors": "all", "none": "errors", "all": "none"},
    "fragments": {"drop": "translate", "translate": "drop"},
    "idle_reset": True,
    "tcp.closing": {"both_fins": "first_fin", "first_fin": "both_fins"},
    "tcp.reset": {"final": "until_data", "until_data": "final"},
    "tcp.reopen": {"new_session": "handshake", "handshake": "new_session"},
    "tcp.closing_refresh": {"true": False, "false": True},
    **{f"timeouts.{state}": "1234s" for state in Timeouts.model_fields},
}

ALL_KEYS = """
virtual_networks: [{name: p, address_space: [10.0.0.0/8]}]
private_link_services:
  - name: service
    virtual_network: p
    nat_ips: [10.0.0.1]
    load_balancer:
      frontend_ip: 10.0.0.9
      rules:
        - {protocol: tcp, frontend_port: 443, backend_port: 443, idle_timeout: 4m}
        - {protocol: udp, frontend_port: 53, backend_port: 53, idle_timeout: null}
      backend_pool: []
    nat:
      profile: rfc
      nat_ports: 1-65535
      port_allocation: preserve
      probes: [128, 1]
      block_size: 64
      blocks_per_endpoint: 2
      nat_ip_selection: paired
      ports_per_endpoint: 10
      spill: false
      decrement_ttl: false
      sessions_per_backend: 100
      first_packet: any
      port_hold: 1s
      icmp: all
      fragments: translate
      idle_reset: false
      tcp: {closing: first_fin, reset: until_data, reopen: handshake, closing_refresh: true}
      timeouts: {tcp_established: 1h, tcp_half_open: 5s, tcp_half_closed: null, tcp_closing: 4s, tcp_reset: 3s, udp: 9s,
        udp_unreplied: 2s, icmp: 1s}
"""


def flat(mapping: Any) -> dict[str, Any]:
    """The same with keys such as `tcp.closing`."""
    result: dict[str, Any] = {}
    for key, value in mapping.items():
        result |= {f"{key}.{inner}": item for inner, item in value.items()} if isinstance(value, dict) else {key: value}
    return result


def nested(key: str, value: object) -> dict[str, Any]:
    outer, _, inner = key.partition(".")
    return {outer: {inner: value}} if inner else {outer: value}


def written(policy: NatPolicy) -> dict[str, Any]:
    return flat(policy.model_dump(mode="json"))


def topology_of(nat: dict[str, Any]) -> Topology:
    data = YAML(typ="safe", pure=True).load(ALL_KEYS)
    data["private_link_services"][0]["nat"] = nat
    return Topology.model_validate(data)


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_has_every_key_and_fills_in_what_is_left_out(name: str) -> None:
    profile = flat(PROFILES[name])
    assert written(NatPolicy.model_validate({"profile": name})) == {"profile": name, **profile}
    assert set(profile) == set(OTHER)
    for policy in ({"profile": name, "tcp": {}, "timeouts": {}}, {"profile": name, **PROFILES[name]}):
        assert NatPolicy.model_validate(policy) == NatPolicy.model_validate({"profile": name})


def test_what_says_no_profile_has_the_default_one() -> None:
    default = {"profile": DEFAULT_PROFILE, **flat(PROFILES[DEFAULT_PROFILE])}
    assert written(NatPolicy()) == written(NatPolicy.model_validate({})) == default
    parts = {"tcp": TcpPolicy().model_dump(mode="json"), "timeouts": Timeouts().model_dump(mode="json")}
    assert flat(parts).items() <= default.items()


def test_the_names_of_the_profiles_are_the_choices() -> None:
    choices = topology_schema()["$defs"]["NatPolicy"]["properties"]["profile"]["enum"]
    assert choices == list(PROFILES)


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("key", OTHER)
def test_a_value_of_the_file_wins_and_changes_nothing_else(name: str, key: str) -> None:
    profile = flat(PROFILES[name])
    value = OTHER[key]
    if isinstance(value, dict):
        value = value[str(profile[key]).lower()]
    given = {"profile": name, **nested(key, value)}
    expected = {"profile": name, **profile, key: value}
    if key == "probes" and profile["port_allocation"] not in PROBING:
        given["port_allocation"] = expected["port_allocation"] = "random"
    assert value != profile[key]
    assert written(NatPolicy.model_validate(given)) == expected


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("key", ["probes", "timeouts.tcp_half_closed", "timeouts.udp_unreplied"])
def test_null_wins_over_a_value_of_the_profile(name: str, key: str) -> None:
    policy = NatPolicy.model_validate({"profile": name, **nested(key, None)})
    assert written(policy) == {"profile": name, **flat(PROFILES[name]), key: None}


@pytest.mark.parametrize("key", sorted(set(Timeouts.model_fields) - {"tcp_half_closed", "udp_unreplied"}))
def test_the_other_timeouts_may_not_be_null(key: str) -> None:
    with pytest.raises(ValidationError, match="is empty, but must be a duration"):
        NatPolicy.model_validate({"timeouts": {key: None}})


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_survives_being_written(name: str) -> None:
    topology = topology_of({"profile": name})
    text = dump_topology(topology)
    assert parse_topology(text) == topology
    assert dump_topology(parse_topology(text)) == text
    assert parse_topology(json.dumps(topology.model_dump(mode="json"))) == topology
    assert Topology.model_validate(topology.model_dump()) == topology
    jsonschema.validate(topology.model_dump(mode="json"), topology_schema())
    nat = YAML(typ="safe", pure=True).load(text)["private_link_services"][0]["nat"]
    assert flat(nat) == {"profile": name, **flat(PROFILES[name])}


@pytest.mark.parametrize(
    ("probes", "runs"),
    [(None, ()), (1, (1,)), (10, (1,) * 10), (65535, (1,) * 65535), ([128, 64], (128, 64)), ([65535], (65535,))],
)
@pytest.mark.parametrize("allocation", PROBING)
def test_probes_are_a_number_of_ports_or_the_lengths_of_runs(allocation: str, probes: Any, runs: Any) -> None:
    policy = NatPolicy.model_validate({"port_allocation": allocation, "probes": probes})
    assert policy.probe_runs == runs
    assert written(policy)["probes"] == probes


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("allocation", ["sequential", "block"])
def test_the_probes_of_a_profile_do_not_stand_in_the_way_of_an_allocation(name: str, allocation: str) -> None:
    policy = NatPolicy.model_validate({"profile": name, "port_allocation": allocation})
    assert policy.probe_runs == ()
    assert policy.probes is None
    with pytest.raises(ValidationError, match=f"10 does not go with port_allocation {allocation}; write null"):
        NatPolicy.model_validate({"profile": name, "port_allocation": allocation, "probes": 10})


def test_probes_for_an_allocation_that_is_itself_wrong_are_no_fault_of_their_own() -> None:
    with pytest.raises(ValidationError) as caught:
        NatPolicy.model_validate({"port_allocation": "lowest", "probes": 10})
    assert [error["loc"] for error in caught.value.errors()] == [("port_allocation",)]


def test_the_schema_takes_a_file_with_every_key_and_refuses_what_it_can_see_is_wrong() -> None:
    schema = topology_schema()
    data = YAML(typ="safe", pure=True).load(ALL_KEYS)
    service = data["private_link_services"][0]
    nat, rules = service["nat"], service["load_balancer"]["rules"]
    assert set(flat(nat)) == {"profile", *OTHER}
    jsonschema.validate(data, schema)
    topology = parse_topology(ALL_KEYS)
    assert topology.private_link_services[0].load_balancer.rules[0].idle_timeout == 240 * SECOND
    assert "idle_timeout: 240s}" in dump_topology(topology)
    assert parse_topology(dump_topology(topology)) == topology
    for holder, key, wrong in (
        (nat, "probes", 0),
        (nat, "probes", []),
        (nat, "probes", [1] * 65),
        (nat, "probes", [1, 65536]),
        (nat, "block_size", None),
        (nat, "tcp", {"closing": "never"}),
        (nat, "timeouts", {"icmp": None}),
        (rules[0], "idle_timeout", 240),
    ):
        right, holder[key] = holder[key], wrong
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(data, schema)
        with pytest.raises(ValidationError):
            Topology.model_validate(data)
        holder[key] = right
    jsonschema.validate(data, schema)


def test_every_value_of_the_table_has_a_comment_that_tells_where_it_comes_from() -> None:
    source = (ROOT / "dataplane" / "topology" / "profiles.py").read_text()
    table = source[source.index("BASE: Final") :].splitlines()
    values = [line for line in table if re.match(r'\s+("\w+":|\*\*)', line) and not line.endswith("{")]
    assert len(values) > 100
    assert [line for line in values if not re.search(r",  # \w", line)] == []


def documentation() -> str:
    """What docs/topology.md says of topologies; its section on import has examples and a table of its own."""
    before, imported = (ROOT / "docs" / "topology.md").read_text().split("## From Azure\n")
    _, *after = imported.split("\n## ", 1)
    return before + "".join(after)


def test_the_documented_table_is_that_of_the_code() -> None:
    lines = [line for line in documentation().splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.replace("`", "").strip() for cell in line.strip("|").split("|")] for line in lines]
    assert header == ["key of nat", *PROFILES]
    keys = list(flat({key: PROFILES[DEFAULT_PROFILE][key] for key in NatPolicy.model_fields if key != "profile"}))
    assert [row[0] for row in rows] == keys
    expected = {key: [_text(flat(profile)[key]) for profile in PROFILES.values()] for key in keys}
    assert {row[0]: row[1:] for row in rows} == expected


def _text(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def test_the_documented_example_is_read_and_shows_the_default_of_every_key() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", documentation(), re.DOTALL)
    nat = YAML(typ="safe", pure=True).load(example)["private_link_services"][0]["nat"]
    keys = list(written(NatPolicy()))
    assert list(flat(nat)) == keys
    topology = parse_topology(example)
    assert topology.service("orders").nat == NatPolicy()
    assert [rule.idle_timeout for rule in topology.service("orders").load_balancer.rules] == [None, 240 * SECOND]
