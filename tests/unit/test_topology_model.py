"""The topology as an object: values, lookups, and what is derived."""

import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dataplane.topology import Topology, load_topology
from dataplane.topology.model import Event, PortRange, PrivateEndpoint, PrivateLinkService, VirtualNetwork

ROOT = Path(__file__).parents[2]
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def example() -> Topology:
    return load_topology(Path(__file__).parent / "topologies" / "contoso.yaml")


def test_the_example_is_read_into_typed_values(example: Topology) -> None:
    network = example.network("contoso")
    assert network.address_space == (IPv4Network("10.0.0.0/16"),)
    assert network.on_premises == (IPv4Network("192.168.100.0/24"),)
    service = example.service("orders")
    assert service.nat_ips == (IPv4Address("192.168.50.4"), IPv4Address("192.168.50.5"))
    rule = service.load_balancer.rules[0]
    assert (rule.protocol, rule.frontend_port, rule.backend_port) == ("tcp", 443, 8443)
    assert service.nat.nat_ports == PortRange(1024, 65535)
    assert service.nat.timeouts.tcp_established == 300 * SECOND
    assert example.endpoint("pe-contoso").ip == IPv4Address("10.0.1.5")
    assert example.limits == "azure"


def test_a_service_that_says_nothing_has_the_defaults_of_azure(example: Topology) -> None:
    spelt_out, silent = example.service("orders"), example.service("invoices")
    assert silent.nat == spelt_out.nat
    assert silent.visibility == ("*",)
    assert silent.load_balancer.distribution == "five_tuple"


def test_lookups_name_what_there_is(example: Topology) -> None:
    with pytest.raises(KeyError, match="no virtual network is named x; there are: contoso, contoso-hub"):
        example.network("x")
    with pytest.raises(KeyError, match="no private link service is named x; there are: orders, invoices"):
        example.service("x")
    with pytest.raises(KeyError, match="no private endpoint is named x; there are: none"):
        Topology().endpoint("x")


def test_consumers_are_listed_in_file_order(example: Topology) -> None:
    assert [network.name for network in example.consumer_networks] == ["contoso", "fabrikam"]


def network(name: str, prefix: str, *peers: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "address_space": [prefix], "peered_with": peers, **more}


def one_service(**more: Any) -> list[dict[str, Any]]:
    return [
        {
            "name": "service",
            "virtual_network": "provider",
            "nat_ips": ["10.50.0.4"],
            "load_balancer": {"frontend_ip": "10.50.0.5", "rules": [], "backend_pool": []},
            **more,
        }
    ]


def endpoint(name: str, network: str, ip: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "virtual_network": network, "ip": ip, "target": "service", **more}


def test_a_network_sees_its_own_endpoints_first_then_those_of_networks_that_list_it() -> None:
    topology = Topology.model_validate(
        {
            "virtual_networks": [
                network("spoke-a", "10.1.0.0/16", "hub"),
                network("hub", "10.0.0.0/16"),
                network("spoke-b", "10.2.0.0/16", "hub"),
                network("provider", "10.50.0.0/16"),
            ],
            "private_link_services": one_service(),
            "private_endpoints": [
                endpoint("b", "spoke-b", "10.2.0.4"),
                endpoint("a", "spoke-a", "10.1.0.4"),
                endpoint("own", "hub", "10.0.0.4"),
            ],
        }
    )

    def seen_at(name: str) -> list[str]:
        return [endpoint.name for endpoint in topology.visible_endpoints(name)]

    assert seen_at("hub") == ["own", "a", "b"]
    assert seen_at("spoke-a") == ["a"]
    assert seen_at("provider") == []
    with pytest.raises(KeyError):
        seen_at("nowhere")


@pytest.mark.parametrize(
    ("given", "auto_approval", "subscription", "state"),
    [
        (None, [], None, "approved"),
        (None, [], "s", "approved"),
        (None, ["s"], "s", "approved"),
        (None, ["*"], None, "approved"),
        (None, ["other"], "s", "pending"),
        (None, ["other"], None, "pending"),
        ("rejected", ["s"], "s", "rejected"),
        ("approved", ["other"], "s", "approved"),
        ("disconnected", [], "s", "disconnected"),
    ],
)
def test_a_connection_that_is_not_given_follows_from_auto_approval(
    given: str | None, auto_approval: list[str], subscription: str | None, state: str
) -> None:
    topology = Topology.model_validate(
        {
            "virtual_networks": [
                network("consumer", "10.0.0.0/16", subscription=subscription),
                network("provider", "10.50.0.0/16"),
            ],
            "private_link_services": one_service(auto_approval=auto_approval),
            "private_endpoints": [endpoint("pe", "consumer", "10.0.0.4", connection=given)],
        }
    )
    assert topology.connection_of(topology.private_endpoints[0]) == state
    assert topology.private_endpoints[0].connection == state


def with_endpoints(*endpoints: dict[str, Any]) -> Topology:
    return Topology.model_validate(
        {
            "virtual_networks": [network("consumer", "10.0.0.0/16"), network("provider", "10.50.0.0/16")],
            "private_link_services": one_service(),
            "private_endpoints": endpoints,
        }
    )


def test_link_ids_are_unique_and_do_not_depend_on_the_order_in_the_file() -> None:
    parts = [endpoint(f"pe-{index}", "consumer", f"10.0.0.{index}") for index in range(50)]
    ids = with_endpoints(*parts).link_ids()
    assert len(set(ids.values())) == 50
    assert all(0 <= link_id < 2**32 for link_id in ids.values())
    assert with_endpoints(*reversed(parts)).link_ids() == ids


def test_a_link_id_that_is_given_is_kept_and_others_make_way() -> None:
    derived = with_endpoints(endpoint("a", "consumer", "10.0.0.1")).link_ids()["a"]
    topology = with_endpoints(
        endpoint("a", "consumer", "10.0.0.1"), endpoint("b", "consumer", "10.0.0.2", link_id=derived)
    )
    assert topology.link_ids() == {"a": (derived + 1) % 2**32, "b": derived}
    assert [part.link_id for part in topology.private_endpoints] == list(topology.link_ids().values())


def test_nothing_at_all_is_a_topology() -> None:
    assert Topology() == Topology.model_validate({})
    assert Topology().link_ids() == {}


def test_a_topology_can_be_made_from_objects_and_is_checked_all_the_same(example: Topology) -> None:
    parts = {name: getattr(example, name) for name in Topology.model_fields}
    assert Topology(**parts) == example
    assert Topology.model_validate(example) is example
    stray = PrivateEndpoint(name="x", virtual_network="contoso", ip="10.7.0.1", target="orders")
    with pytest.raises(ValidationError, match="is not in contoso's address space"):
        Topology(**{**parts, "private_endpoints": (stray,)})


def test_objects_are_frozen(example: Topology) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        example.limits = "none"
    with pytest.raises(ValidationError, match="frozen"):
        example.virtual_networks[0].name = "x"


def test_durations_and_ranges_are_written_back_as_text(example: Topology) -> None:
    nat = example.service("orders").nat.model_dump()
    assert nat["timeouts"]["tcp_closing"] == "65s"
    assert nat["nat_ports"] == "1024-65535"
    assert example.private_endpoints[0].model_dump()["ip"] == "10.0.1.5"


def test_a_subset_of_timeouts_leaves_the_others_to_the_profile() -> None:
    service = PrivateLinkService.model_validate(one_service(nat={"timeouts": {"udp": "10s"}})[0])
    assert service.nat.timeouts.udp == 10 * SECOND
    assert service.nat.timeouts.tcp_reset == 16 * SECOND
    with pytest.raises(ValidationError):
        PrivateLinkService.model_validate(one_service(nat={"timeouts": None})[0])


def test_an_event_knows_its_action_and_subject() -> None:
    event = Event.model_validate({"at": "1.5s", "backend_down": "orders", "address": "192.168.61.4"})
    assert (event.at, event.action, event.subject) == (1_500_000_000, "backend_down", "orders")
    assert event.is_about_service
    assert not Event.model_validate({"at": "0s", "approve": "pe"}).is_about_service


def test_a_network_needs_no_region() -> None:
    assert VirtualNetwork(name="a", address_space=["10.0.0.0/8"]).region is None


def test_reading_topologies_needs_neither_the_compiler_nor_the_packet_library() -> None:
    code = "import sys, dataplane.topology; print(sorted({'numba', 'scapy', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
