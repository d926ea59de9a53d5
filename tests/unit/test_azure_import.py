"""A topology from Azure's JSON: the CLI's, REST's and templates'; what is not in it is said, or refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataplane.topology import Topology, TopologyError
from dataplane.topology.azure import Import, Imported, import_azure
from dataplane.topology.azure_files import read_files
from dataplane.topology.azure_template import ExpressionError, Template

AZURE = Path(__file__).resolve().parents[1] / "data" / "azure"
CLI = [
    AZURE / f"{name}.json"
    for name in (
        "virtual-networks", "private-link-service", "load-balancers", "private-endpoints", "network-interfaces",
        "network-security-group",
    )
]  # fmt: skip

Change = Callable[[Any], None]
Changed = Callable[..., Imported]


@pytest.fixture
def changed(tmp_path: Path) -> Changed:
    """The import of the CLI's files after a change to some, or without some (None)."""

    def call(**changes: Change | None) -> Imported:
        paths = []
        for path in CLI:
            data = json.loads(path.read_text())
            change = changes.pop(path.stem.replace("-", "_"), lambda _: None)
            if change is None:
                continue
            change(data)
            paths.append(tmp_path / path.name)
            paths[-1].write_text(json.dumps(data))
        assert not changes, "no such file"
        imported = import_azure(paths)
        Topology.model_validate(imported.document)
        return imported

    return call


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(TopologyError) as caught:
        call()
    return str(caught.value)


def said(imported: Imported, *words: str) -> bool:
    return any(all(word in note for word in words) for note in imported.notes)


def service(imported: Imported) -> dict[str, Any]:
    found: dict[str, Any] = imported.document["private_link_services"][0]
    return found


def balancer(data: Any) -> dict[str, Any]:
    found: dict[str, Any] = data["value"][0]["properties"]
    return found


def endpoint(imported: Imported, name: str) -> dict[str, Any]:
    return next(one for one in imported.document["private_endpoints"] if one["name"] == name)


def test_files_of_the_command_line_make_a_topology() -> None:
    imported = import_azure(CLI)
    topology = Topology.model_validate(imported.document)
    assert service(imported) == {
        "name": "orders",
        "virtual_network": "provider",
        "nat_ips": ["10.0.50.4", "10.0.50.9"],
        "visibility": ["*"],
        "auto_approval": ["11111111-1111-1111-1111-111111111111"],
        "load_balancer": {
            "frontend_ip": "10.0.60.10",
            "distribution": "source_ip",
            "rules": [{"protocol": "tcp", "frontend_port": 443, "backend_port": 8443, "idle_timeout": "4m"}],
            "backend_pool": ["10.0.60.20", "10.0.50.5"],
        },
        "nat": {"idle_reset": True},
    }
    contoso = topology.network("contoso")
    assert [str(prefix) for prefix in contoso.address_space] == ["10.0.0.0/16"]
    assert (contoso.region, contoso.subscription) == ("eastus", "11111111-1111-1111-1111-111111111111")
    pe = topology.endpoint("pe-contoso")
    assert (str(pe.ip), pe.target, pe.link_id, pe.connection) == ("10.0.1.5", "orders", 553665985, "approved")


def test_the_order_of_files_does_not_matter_to_what_they_refer_to() -> None:
    forwards, backwards = import_azure(CLI), import_azure(CLI[::-1])
    assert service(forwards) == service(backwards)
    assert endpoint(forwards, "pe-contoso") == endpoint(backwards, "pe-contoso")


def test_properties_nested_or_flat_and_capitals_of_older_versions_read_the_same(changed: Changed) -> None:
    def nest(data: Any) -> None:
        for item in data if isinstance(data, list) else [data]:
            keys = set(item) - {"id", "name", "type", "location"}
            item["properties"] = {key.replace("IP", "Ip"): item.pop(key) for key in keys}

    nested = changed(
        virtual_networks=nest, private_link_service=nest, private_endpoints=nest, network_interfaces=nest,
        network_security_group=nest,
    )  # fmt: skip
    assert nested.document == import_azure(CLI).document


def test_ids_know_no_case(changed: Changed) -> None:
    def shout(data: Any) -> None:
        data["loadBalancerFrontendIpConfigurations"][0]["id"] = data["loadBalancerFrontendIpConfigurations"][0][
            "id"
        ].upper()

    assert service(changed(private_link_service=shout)) == service(import_azure(CLI))


def test_parts_of_resources_may_have_files_of_their_own(changed: Changed, tmp_path: Path) -> None:
    def without(data: Any, key: str, moved: list[Any]) -> None:
        for index, part in enumerate(data.pop(key)):
            moved.append({"id": f"{data['id']}/{key}/{part.get('name', index)}", **part})

    moved: list[Any] = []
    paths = []
    for path in CLI:
        data = json.loads(path.read_text())
        if path.stem == "virtual-networks":
            for network in data:
                without(network, "subnets", moved)
                without(network, "virtualNetworkPeerings", moved)
        if path.stem == "private-link-service":
            without(data, "privateEndpointConnections", moved)
        paths.append(tmp_path / path.name)
        paths[-1].write_text(json.dumps(data))
    parts = tmp_path / "parts.json"
    parts.write_text(json.dumps(moved))
    assert import_azure([parts, *paths]).document == import_azure(CLI).document
    moved[0]["id"] = moved[0]["id"].replace("contoso", "gone")
    parts.write_text(json.dumps(moved[:1]))
    assert said(import_azure([parts, *CLI]), "belongs to gone, which is in none of the files", "left out")


def test_a_list_of_rest_with_more_pages_says_so(changed: Changed) -> None:
    assert said(changed(load_balancers=lambda data: data.update(nextLink="https://…")), "nextLink", "other pages")


# -- NAT IPs, frontend, rules, backends


def test_a_dynamic_nat_ip_is_that_of_the_services_network_interface(changed: Changed) -> None:
    def unassigned(data: Any) -> None:
        del data[2]

    assert service(import_azure(CLI))["nat_ips"] == ["10.0.50.4", "10.0.50.9"]
    without = changed(network_interfaces=unassigned)
    assert service(without)["nat_ips"] == ["10.0.50.4", "10.0.50.6"]  # .5 has been chosen for a backend
    assert said(without, "NAT IP nat-1", "dynamic", "az network nic list", "10.0.50.6")


def test_the_primary_nat_ip_comes_first(changed: Changed) -> None:
    assert service(changed(private_link_service=lambda data: data["ipConfigurations"].reverse()))["nat_ips"] == [
        "10.0.50.4",
        "10.0.50.9",
    ]


def test_nine_nat_ips_are_refused_with_the_place_in_the_file(changed: Changed) -> None:
    def many(data: Any) -> None:
        first = data["ipConfigurations"][0]
        data["ipConfigurations"] = [{**first, "privateIPAddress": f"10.0.50.{100 + n}"} for n in range(9)]

    text = refusal(lambda: changed(private_link_service=many))
    assert "private-link-service.json: orders: nat_ips: 9 NAT IPs" in text
    assert "Azure's limit is 8" in text


def test_a_backend_without_its_network_interface_counts_and_is_asked_for() -> None:
    imported = import_azure(CLI)
    assert said(imported, "virtualMachineScaleSets/aks", "`az vmss nic list -g orders --vmss-name aks`", "10.0.50.5")


def test_a_network_interface_may_say_itself_that_it_is_in_a_pool(changed: Changed) -> None:
    pool: list[dict[str, str]] = []

    def empty(data: Any) -> None:
        first = data["value"][0]
        balancer(data)["backendAddressPools"][0]["properties"] = {}
        pool.append({"id": f"{first['id']}/backendAddressPools/be"})

    def join(data: Any) -> None:
        data[1]["ipConfigurations"][0]["loadBalancerBackendAddressPools"] = pool

    nobody = changed(load_balancers=empty)
    assert service(nobody)["load_balancer"]["backend_pool"] == []
    assert said(nobody, "backend pool of load balancer lb is empty", "az network nic list")
    assert service(changed(load_balancers=empty, network_interfaces=join))["load_balancer"]["backend_pool"] == [
        "10.0.60.20"
    ]


def test_ha_ports_and_what_else_is_not_modelled_are_named(changed: Changed) -> None:
    imported = import_azure(CLI)
    assert said(imported, "loadBalancingRules[1]", "rule ha", "All, port 0", "write rules")
    assert said(imported, "not modelled", "probes", "outbound rules")
    only_ha = changed(load_balancers=lambda data: balancer(data)["loadBalancingRules"].pop(0))
    assert service(only_ha)["load_balancer"]["rules"] == []
    assert said(only_ha, "no rule is left for private link service orders")


def rule(data: Any, **changes: Any) -> None:
    """Change the rule of tcp port 443; None takes a key away."""
    properties = balancer(data)["loadBalancingRules"][0]["properties"]
    for key, value in changes.items():
        properties[key] = value
        if value is None:
            del properties[key]


@pytest.mark.parametrize(
    ("changes", "idle", "reset"),
    [
        ({"idleTimeoutInMinutes": 4, "enableTcpReset": True}, "4m", True),
        ({"idleTimeoutInMinutes": None, "enableTcpReset": True}, "4m", True),
        ({"enableTcpReset": False}, "4m", False),
        ({"idleTimeoutInMinutes": 30, "enableTcpReset": True}, "30m", False),
        ({"protocol": "Udp"}, None, False),
    ],
    ids=["given", "Azure's default", "no reset", "longer than Private Link's", "not of UDP"],
)
def test_the_idle_time_out_is_the_rules_own_and_only_of_tcp(
    changes: dict[str, Any], idle: str | None, reset: bool, changed: Changed
) -> None:
    imported = changed(load_balancers=lambda data: rule(data, **changes))
    assert service(imported)["load_balancer"]["rules"][0].get("idle_timeout") == idle
    assert service(imported).get("nat") == ({"idle_reset": True} if reset else None)
    assert said(imported, "idleTimeoutInMinutes", "Private Link's own stays") == (idle is not None)


@pytest.mark.parametrize(
    ("azure", "here"),
    [("Default", "five_tuple"), ("SourceIP", "source_ip"), ("SourceIPProtocol", "source_ip_protocol")],
)
def test_the_distribution_of_the_load_balancer(azure: str, here: str, changed: Changed) -> None:
    imported = changed(load_balancers=lambda data: rule(data, loadDistribution=azure))
    assert service(imported)["load_balancer"]["distribution"] == here


def test_rules_with_another_pool_or_distribution_are_told_apart(changed: Changed) -> None:
    def more(data: Any) -> None:
        rules, lb = balancer(data)["loadBalancingRules"], data["value"][0]["id"]
        for name, port, pool, distribution in (("a", 444, "be", "Default"), ("b", 445, "other", "SourceIP")):
            rules.append(copy.deepcopy(rules[0]) | {"name": name})
            rules[-1]["properties"] |= {"frontendPort": port, "loadDistribution": distribution}
            rules[-1]["properties"]["backendAddressPool"] = {"id": f"{lb}/backendAddressPools/{pool}"}

    imported = changed(load_balancers=more)
    assert [one["frontend_port"] for one in service(imported)["load_balancer"]["rules"]] == [443, 444]
    assert said(imported, "SourceIP, Default", "SourceIP is taken")
    assert said(imported, "rule b", "another backend pool", "left out")


def test_a_service_of_direct_connect_is_left_out_with_its_endpoints(changed: Changed) -> None:
    text = refusal(lambda: changed(private_link_service=lambda data: data.update(destinationIPAddress="10.0.60.9")))
    assert "Direct Connect" in text
    assert "private endpoint pe-contoso is left out" in text
    assert "nothing to simulate" in text


# -- endpoints, networks


def test_an_endpoint_that_only_the_service_knows_gets_a_network_of_a_documentation_range() -> None:
    imported = import_azure(CLI)
    other = endpoint(imported, "pe-contoso-2")
    assert other == {
        "name": "pe-contoso-2",
        "virtual_network": "network-of-pe-contoso-2",
        "ip": "192.0.2.4",
        "target": "orders",
        "connection": "pending",
        "link_id": 553665986,
    }
    assert Topology.model_validate(imported.document).network("network-of-pe-contoso-2").region == "northeurope"
    assert said(imported, "pe-contoso is called pe-contoso-2")
    assert said(imported, "in none of the files", "192.0.2.0/24", "az network private-endpoint list")


@pytest.mark.parametrize(
    ("azure", "here"),
    [
        ("Approved", "approved"), ("Pending", "pending"), ("Rejected", "rejected"), ("Disconnected", "disconnected"),
        ("Removed", "disconnected"), ("Timeout", "pending"),
    ],
)  # fmt: skip
def test_the_services_word_on_a_connection_counts(azure: str, here: str, changed: Changed) -> None:
    def told(data: Any) -> None:
        data["privateEndpointConnections"][0]["privateLinkServiceConnectionState"]["status"] = azure

    imported = changed(private_link_service=told)
    assert endpoint(imported, "pe-contoso")["connection"] == here
    assert said(imported, "is Timeout; taken as pending") == (azure == "Timeout")


def test_a_link_id_that_is_no_number_is_derived_and_said(changed: Changed) -> None:
    imported = changed(
        private_link_service=lambda data: data["privateEndpointConnections"][0].update(linkIdentifier="0xZZ")
    )
    assert "link_id" not in endpoint(imported, "pe-contoso")
    assert said(imported, "linkIdentifier 0xZZ", "derived from the name")


def test_an_endpoints_address_is_its_interfaces_then_that_of_dns_then_a_free_one(changed: Changed) -> None:
    def no_endpoint(data: Any) -> None:
        del data[0]

    def dns(data: Any) -> None:
        data[0]["customDnsConfigs"] = [{"fqdn": "orders.example", "ipAddresses": ["10.0.1.77"]}]

    assert endpoint(changed(private_endpoints=dns), "pe-contoso")["ip"] == "10.0.1.5"
    assert endpoint(changed(network_interfaces=no_endpoint, private_endpoints=dns), "pe-contoso")["ip"] == "10.0.1.77"
    chosen = changed(network_interfaces=no_endpoint)
    assert endpoint(chosen, "pe-contoso")["ip"] == "10.0.1.4"
    assert said(chosen, "pe-contoso", "10.0.1.4, free in subnet endpoints")


def test_an_endpoint_of_a_service_that_is_in_no_file_is_left_out(changed: Changed) -> None:
    def elsewhere(data: Any) -> None:
        connection = data[0]["manualPrivateLinkServiceConnections"][0]
        connection["privateLinkServiceId"] = "other.guid.westus.azure.privatelinkservice"

    imported = changed(private_endpoints=elsewhere)
    assert [one["name"] for one in imported.document["private_endpoints"]] == ["pe-contoso"]
    assert said(imported, "other.guid.westus.azure.privatelinkservice", "az network private-link-service list")


def test_a_service_may_be_named_by_its_alias(changed: Changed) -> None:
    def alias(data: Any) -> None:
        connection = data[0]["manualPrivateLinkServiceConnections"][0]
        connection["privateLinkServiceId"] = "orders.abc.westus.azure.privatelinkservice"

    assert endpoint(changed(private_endpoints=alias), "pe-contoso")["target"] == "orders"


def test_a_peered_network_may_use_the_endpoints_unless_it_may_not_reach_them(changed: Changed) -> None:
    def hub(allowed: bool) -> Change:
        def add(data: Any) -> None:
            remote = data[0]["virtualNetworkPeerings"][0]["remoteVirtualNetwork"]["id"]
            back = {"remoteVirtualNetwork": {"id": data[0]["id"]}, "allowVirtualNetworkAccess": allowed}
            space = {"addressPrefixes": ["10.9.0.0/16"]}
            data.append({"id": remote, "name": "hub", "addressSpace": space, "virtualNetworkPeerings": [back]})

        return add

    def peers(imported: Imported) -> tuple[str, ...]:
        return Topology.model_validate(imported.document).network("contoso").peered_with

    assert peers(changed(virtual_networks=hub(True))) == ("hub",)
    refused = changed(virtual_networks=hub(False))
    assert peers(refused) == ()
    assert said(refused, "hub may not reach contoso")
    initiated = changed(
        virtual_networks=lambda data: data[0]["virtualNetworkPeerings"][0].update(peeringState="Initiated")
    )
    assert peers(initiated) == ()
    assert said(initiated, "is Initiated; left out")


def test_a_peered_network_that_is_in_no_file_is_known_from_the_peering() -> None:
    imported = import_azure(CLI)
    hub = Topology.model_validate(imported.document).network("hub")
    assert [str(prefix) for prefix in hub.address_space] == ["10.9.0.0/16"]
    assert said(imported, "hub is in none of the files", "from the peering")


def test_networks_without_a_part_in_it_are_left_out(changed: Changed) -> None:
    def more(data: Any) -> None:
        data.append({**copy.deepcopy(data[1]), "id": data[1]["id"] + "-2", "name": "idle"})

    imported = changed(virtual_networks=more)
    assert "provider-2" not in [one["name"] for one in imported.document["virtual_networks"]]
    assert said(imported, "virtual network provider-2", "left out")


def test_a_gateway_asks_for_the_prefixes_behind_it(changed: Changed) -> None:
    def gateway(data: Any) -> None:
        data[0]["subnets"].append({"name": "GatewaySubnet", "addressPrefix": "10.0.255.0/27"})

    assert said(changed(virtual_networks=gateway), "contoso uses a gateway", "on_premises")


# -- what the simulator does not do yet


def test_what_is_not_yet_supported_is_left_out_and_said(changed: Changed) -> None:
    def proxied(data: Any) -> None:
        data |= {"enableProxyProtocol": True, "visibility": {"subscriptions": data["autoApproval"]["subscriptions"]}}

    imported = changed(private_link_service=proxied)
    assert not {"enable_proxy_protocol", "visibility"} & set(service(imported))
    assert "platform_services" not in imported.document
    assert said(imported, "orders: enable_proxy_protocol: proxy protocol is not yet supported; left out")
    assert said(imported, "orders: visibility", "not yet supported; left out")
    assert said(imported, "pe-data: target: contosodata is a platform service", "left out")
    assert said(imported, "pe-contoso, pe-data: security_rules", "left out")


def test_platform_services_and_security_rules_are_read_though_not_yet_supported() -> None:
    estate = read_files(CLI)
    document = Import(estate).document()
    assert document["platform_services"] == [
        {
            "name": "contosodata",
            "kind": "storage",
            "sub_resource": "blob",
            "frontend_ip": "203.0.113.1",
            "fqdn": "contosodata.blob.core.windows.net",
        }
    ]
    pe_contoso, pe_data, _ = document["private_endpoints"]
    assert (pe_data["ip"], pe_data["target"], pe_data["connection"]) == ("10.0.1.6", "contosodata", "approved")
    allow, deny = pe_contoso["security_rules"]
    assert allow == {
        "name": "in",
        "priority": 100,
        "action": "allow",
        "protocol": "tcp",
        "source": ["10.0.0.0/16", "10.9.0.0/16"],
        "destination_ports": ["443"],
    }
    assert (deny["action"], deny["source"], deny["destination_ports"]) == ("deny", ["*"], ["*"])
    assert any("rule lb" in note and "AzureLoadBalancer" in note for note in estate.notes)


def test_a_group_holds_for_endpoints_only_where_the_subnets_policies_say_so(changed: Changed) -> None:
    def disable(data: Any) -> None:
        data[0]["subnets"][0]["privateEndpointNetworkPolicies"] = "Disabled"

    assert said(import_azure(CLI), "security_rules")
    assert not said(changed(virtual_networks=disable), "security_rules")


# -- refusals


def test_everything_that_is_missing_is_asked_for_at_once(changed: Changed) -> None:
    text = refusal(lambda: changed(virtual_networks=None, load_balancers=None))
    for words in (
        "private-link-service.json: private link service orders is in virtual network provider",
        "private link service orders stands on load balancer lb, which is in none of the files",
        "private-endpoints.json: [0]: private endpoint pe-contoso is in virtual network contoso",
        "`az network vnet list`",
        "`az network lb list`",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("{", "not JSON"),
        ("[1]", "[0]: is 1, but must be an Azure resource"),
        ('{"a": 1}', "has no id"),
        ('{"id": "/x"}', "has the id /x, which is no resource's"),
        ("[]", "holds no resource that has a part in a topology"),
        ('{"id": "/subscriptions/s/resourceGroups/g/providers/A.B/c/d"}', "only a.b/c"),
        ("1" * 5000, "a number that is too long"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_of_something_else_is_refused_by_name(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "given.json"
    path.write_text(content)
    text = refusal(lambda: import_azure([path]))
    assert text.startswith(str(path))
    assert message in text


def test_every_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    text = refusal(lambda: import_azure([tmp_path / "nowhere.json", tmp_path, *CLI])).splitlines()
    assert text == [f"{tmp_path / 'nowhere.json'}: no such file", f"{tmp_path}: is a directory; name a JSON file"]


def test_a_value_of_the_wrong_kind_is_refused_with_its_path(changed: Changed) -> None:
    text = refusal(lambda: changed(private_link_service=lambda data: data.update(ipConfigurations="10.0.50.4")))
    assert "private-link-service.json: ipConfigurations: is 10.0.50.4, but must be a list" in text
    text = refusal(lambda: changed(load_balancers=lambda data: rule(data, frontendPort="https")))
    assert (
        "value[0].properties.loadBalancingRules[0].properties.frontendPort: is https, but must be a whole number"
        in text
    )


def test_a_redirection_of_powershell_is_utf_16(tmp_path: Path) -> None:
    path = tmp_path / "vnets.json"
    path.write_bytes(CLI[0].read_text().encode("utf-16"))
    assert import_azure([path, *CLI[1:]]).document == import_azure(CLI).document


# -- templates


def test_an_exported_template_makes_a_topology() -> None:
    imported = import_azure([AZURE / "template.json"])
    Topology.model_validate(imported.document)
    assert imported.document["virtual_networks"][1] == {
        "name": "shop",
        "region": "eastus",
        "address_space": ["10.1.0.0/16"],
    }
    assert service(imported)["nat_ips"] == ["10.2.1.6"]
    assert service(imported)["load_balancer"] == {
        "frontend_ip": "10.2.1.4",
        "distribution": "source_ip_protocol",
        "rules": [{"protocol": "udp", "frontend_port": 53, "backend_port": 5353}],
        "backend_pool": ["10.2.1.5", "10.2.1.30"],  # vm3 is down
    }
    assert endpoint(imported, "pe-shop") == {
        "name": "pe-shop",
        "virtual_network": "shop",
        "ip": "10.1.1.4",
        "target": "orders",
        "connection": "pending",
    }
    assert said(imported, "1 of microsoft.compute/virtualmachines")
    assert said(imported, "vm3", "administratively down")


def test_the_commands_output_completes_a_template(tmp_path: Path) -> None:
    group = "/subscriptions/55555555-5555-5555-5555-555555555555/resourceGroups"
    vm1 = {
        "id": f"{group}/vms/providers/Microsoft.Network/networkInterfaces/vm1",
        "ipConfigurations": [{"name": "ipconfig1", "privateIPAddress": "10.2.1.20"}],
    }
    pe = {
        "id": f"{group}/shop/providers/Microsoft.Network/networkInterfaces/pe.nic",
        "ipConfigurations": [{"name": "c", "privateIPAddress": "10.1.1.9"}],
    }
    path = tmp_path / "nics.json"
    path.write_text(json.dumps([vm1, pe]))
    imported = import_azure([AZURE / "template.json", path])
    assert service(imported)["load_balancer"]["backend_pool"] == ["10.2.1.20", "10.2.1.30"]


def test_what_is_matched_by_name_alone_as_a_template_has_no_group_is_said(tmp_path: Path) -> None:
    template = json.loads((AZURE / "template.json").read_text())
    lb = template["resources"].pop(3)
    assert lb["type"] == "Microsoft.Network/loadBalancers"
    (tmp_path / "template.json").write_text(json.dumps(template))
    group = "/subscriptions/55555555-5555-5555-5555-555555555555/resourceGroups/shop"
    text = (AZURE / "load-balancers.json").read_text().replace("10.0.60", "10.2.1")
    given = json.loads(text)["value"][0]
    given["id"] = f"{group}/providers/Microsoft.Network/loadBalancers/lb"
    (tmp_path / "lb.json").write_text(json.dumps(given))
    imported = import_azure([tmp_path / "template.json", tmp_path / "lb.json"])
    assert service(imported)["load_balancer"]["frontend_ip"] == "10.2.1.10"
    assert said(imported, "load balancer lb is taken", "by its name alone")
    assert not said(import_azure([AZURE / "template.json"]), "by its name alone")


def test_a_parameter_without_a_value_is_refused_with_its_remedy(tmp_path: Path) -> None:
    template = json.loads((AZURE / "template.json").read_text())
    del template["parameters"]["loadBalancers_lb_name"]["defaultValue"]
    path = tmp_path / "template.json"
    path.write_text(json.dumps(template))
    text = refusal(lambda: import_azure([path]))
    assert (
        "resources[3].name: [parameters('loadBalancers_lb_name')]: parameter loadBalancers_lb_name has no default"
        in text
    )
    assert "az group export" in text


@pytest.mark.parametrize("inside", [(), ("properties",)], ids=["a resource", "a property"])
def test_a_loop_in_a_template_is_refused(inside: tuple[str, ...], tmp_path: Path) -> None:
    template = json.loads((AZURE / "template.json").read_text())
    place = template["resources"][3]
    for key in inside:
        place = place[key]
    place["copy"] = [{"name": "loadBalancingRules", "count": 2}]
    (tmp_path / "template.json").write_text(json.dumps(template))
    text = refusal(lambda: import_azure([tmp_path / "template.json"]))
    assert "resources[3]: loops (copy) are not read" in text


def test_an_item_of_a_list_that_cannot_be_resolved_is_refused(tmp_path: Path) -> None:
    template = json.loads((AZURE / "template.json").read_text())
    template["resources"][2]["properties"]["subnets"] = ["[reference('x').subnet]"]
    (tmp_path / "template.json").write_text(json.dumps(template))
    text = refusal(lambda: import_azure([tmp_path / "template.json"]))
    assert (
        "resources[2].properties.subnets[0]: [reference('x').subnet]: reference(…) is known only to a deployment"
        in text
    )


TEMPLATE = Template(
    {
        "parameters": {"name": {"defaultValue": "lb"}, "loop": {"defaultValue": "[parameters('loop')]"}, "none": {}},
        "variables": {"space": {"prefixes": ["10.0.0.0/16", "[variables('second')]"]}, "second": "10.1.0.0/16"},
    },
    "here",
)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("plain", "plain"),
        ("[[not an expression]", "[not an expression]"),
        ("[parameters('NAME')]", "lb"),
        ("[concat('it''s ', parameters('name'), '-', 1)]", "it's lb-1"),
        ("[format('{0}/{1}', parameters('name'), 'fe')]", "lb/fe"),
        ("[toLower('LB')]", "lb"),
        ("[variables('space').prefixes[1]]", "10.1.0.0/16"),
        ("[resourceId('Microsoft.Network/loadBalancers', 'lb')]", "here/providers/Microsoft.Network/loadBalancers/lb"),
        (
            "[resourceId('sub', 'group', 'A.B/vnets/subnets', 'v', 's')]",
            "/subscriptions/sub/resourceGroups/group/providers/A.B/vnets/v/subnets/s",
        ),
        ("[resourceGroup().location]", None),
        (7, 7),
    ],
)
def test_an_expression_stands_for_its_value(expression: Any, value: Any) -> None:
    assert TEMPLATE.resolve(expression) == value


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("[reference('x').id]", "known only to a deployment"),
        ("[uniqueString('x')]", "known only to a deployment"),
        ("[parameters('none')]", "has no defaultValue"),
        ("[parameters('other')]", "has no parameter other"),
        ("[variables('other')]", "has no variable other"),
        ("[parameters('loop')]", "refers to itself"),
        ("[concat('a'", "plain"),
        ("[concat('a']", "ends too early"),
        ("[concat('a') 'b']", "cannot be read"),
        ("[concat(~)]", "cannot be read"),
        ("[variables('space').nothing]", "cannot be worked out"),
        ("[resourceId('lb')]", "needs a type"),
        ("[resourceId('A.B/c/d', 'only one')]", "1 names for A.B/c/d, which takes 2"),
        ("[toLower(1)]", "cannot be worked out"),
        ("[format('{2}', 'a')]", "cannot be worked out"),
        ("[]", "ends too early"),
    ],
)
def test_an_expression_that_cannot_be_resolved_is_refused(expression: str, reason: str) -> None:
    if reason == "plain":  # no closing bracket: text, as ARM takes it
        assert TEMPLATE.resolve(expression) == expression
        return
    with pytest.raises(ExpressionError, match=reason):
        TEMPLATE.resolve(expression)
