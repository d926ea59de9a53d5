"""Topologies compared: changes are told by the resource's name and the key, wherever in the file they stand."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from dataplane.runs.diff_topology import diff_topologies

TOPOLOGY: dict[str, Any] = {
    "virtual_networks": [
        {"name": "contoso", "region": "eastus", "address_space": ["10.0.0.0/16"]},
        {"name": "provider", "region": "westus", "address_space": ["192.168.0.0/16"]},
    ],
    "private_link_services": [
        {
            "name": "orders",
            "nat_ips": ["192.168.50.4", "192.168.50.5"],
            "load_balancer": {
                "rules": [
                    {"protocol": "tcp", "frontend_port": 443, "backend_port": 8443},
                    {"protocol": "udp", "frontend_port": 53, "backend_port": 53},
                ],
            },
            "nat": {"port_hold": "0s", "timeouts": {"udp": "300s", "icmp": None}},
        }
    ],
    "events": [],
    "limits": "azure",
}


@pytest.fixture
def changed() -> dict[str, Any]:
    return copy.deepcopy(TOPOLOGY)


def test_a_topology_does_not_differ_from_itself(changed: dict[str, Any]) -> None:
    assert diff_topologies(TOPOLOGY, changed) == []


def test_a_setting_deep_in_a_service_is_named_by_service_and_key(changed: dict[str, Any]) -> None:
    changed["private_link_services"][0]["nat"]["timeouts"]["udp"] = "60s"
    changed["limits"] = "none"
    assert diff_topologies(TOPOLOGY, changed) == [
        {
            "change": "changed",
            "resource": "private_link_services[orders]",
            "key": "nat.timeouts.udp",
            "old": "300s",
            "new": "60s",
        },
        {"change": "changed", "resource": "", "key": "limits", "old": "azure", "new": "none"},
    ]


def test_a_resource_that_came_and_one_that_went_are_told_as_a_whole(changed: dict[str, Any]) -> None:
    went = changed["virtual_networks"].pop(0)
    came = {"name": "fabrikam", "region": "eastus", "address_space": ["10.0.0.0/16"]}
    changed["virtual_networks"].insert(0, came)
    assert diff_topologies(TOPOLOGY, changed) == [
        {"change": "added", "resource": "virtual_networks[fabrikam]", "key": "", "new": came},
        {"change": "removed", "resource": "virtual_networks[contoso]", "key": "", "old": went},
    ]


def test_a_rule_is_known_by_protocol_and_frontend_port(changed: dict[str, Any]) -> None:
    rules = changed["private_link_services"][0]["load_balancer"]["rules"]
    rules[1]["backend_port"] = 5353
    rules.append({"protocol": "tcp", "frontend_port": 80, "backend_port": 8080})
    told = [(change["change"], change["key"]) for change in diff_topologies(TOPOLOGY, changed)]
    assert told == [
        ("changed", "load_balancer.rules[udp 53].backend_port"),
        ("added", "load_balancer.rules[tcp 80]"),
    ]


def test_order_is_told_as_order_since_fill_first_and_round_robin_go_by_it(changed: dict[str, Any]) -> None:
    changed["private_link_services"][0]["nat_ips"].reverse()
    changed["virtual_networks"].reverse()
    assert [(c["change"], c["resource"], c["key"]) for c in diff_topologies(TOPOLOGY, changed)] == [
        ("reordered", "", "virtual_networks"),
        ("reordered", "private_link_services[orders]", "nat_ips"),
    ]


def test_a_key_that_is_left_out_is_a_key_without_value(changed: dict[str, Any]) -> None:
    del changed["private_link_services"][0]["nat"]["timeouts"]["icmp"]
    assert diff_topologies(TOPOLOGY, changed) == []
    del changed["private_link_services"][0]["nat"]["port_hold"]
    [change] = diff_topologies(TOPOLOGY, changed)
    assert (change["key"], change["old"], change["new"]) == ("nat.port_hold", "0s", None)


def test_events_without_names_go_by_position(changed: dict[str, Any]) -> None:
    old, changed["events"] = copy.deepcopy(TOPOLOGY), [{"at": "30s", "disconnect": "pe-contoso"}]
    assert [(c["change"], c["resource"]) for c in diff_topologies(old, changed)] == [("added", "events[0]")]
