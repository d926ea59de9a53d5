"""Azure's published limits, and the switch that turns them off."""

import copy
from typing import Any

import pytest
from pydantic import ValidationError

from dataplane.topology import Topology, limits

BASE: dict[str, Any] = {
    "virtual_networks": [
        {"name": "consumer", "address_space": ["10.0.0.0/8"], "subscription": "s"},
        {"name": "other", "address_space": ["10.0.0.0/8"], "subscription": "s"},
        {"name": "provider", "address_space": ["192.168.0.0/16"], "subscription": "p"},
    ],
    "private_link_services": [],
    "private_endpoints": [],
}


def service(index: int, **more: Any) -> dict[str, Any]:
    return {
        "name": f"service-{index}",
        "virtual_network": "provider",
        "nat_ips": [f"192.168.{index // 250}.{index % 250}"],
        "load_balancer": {"frontend_ip": "192.168.255.1", "rules": [], "backend_pool": []},
        **more,
    }


def endpoint(index: int, network: str = "consumer", target: str = "service-0") -> dict[str, Any]:
    ip = f"10.{index // 62500}.{index // 250 % 250}.{index % 250}"
    return {"name": f"{network}-{index}", "virtual_network": network, "ip": ip, "target": target}


def faults(**parts: Any) -> dict[str, str]:
    """Path and message of every fault; what `limits: none` makes valid has no others."""
    data = copy.deepcopy(BASE) | parts
    assert Topology.model_validate({**data, "limits": "none"}).limits == "none"
    try:
        Topology.model_validate(data)
    except ValidationError as error:
        return {".".join(map(str, fault["loc"])): fault["msg"] for fault in error.errors()}
    return {}


def test_eight_nat_ips_are_the_most() -> None:
    ips = [f"192.168.9.{index}" for index in range(9)]
    assert faults(private_link_services=[service(0, nat_ips=ips[:8])]) == {}
    assert faults(private_link_services=[service(0, nat_ips=ips)]) == {
        "private_link_services.0.nat_ips": "9 NAT IPs of a private link service, but Azure's limit is 8; "
        "limits: none switches Azure's limits off"
    }


def test_a_thousand_endpoints_in_one_network_are_the_most() -> None:
    services = [service(0), service(1)]
    endpoints = [endpoint(index, target=f"service-{index % 2}") for index in range(1001)]
    assert faults(private_link_services=services, private_endpoints=endpoints[:1000]) == {}
    found = faults(private_link_services=services, private_endpoints=endpoints)
    assert list(found) == ["private_endpoints.1000.virtual_network"]
    assert "1001 private endpoints in consumer, but Azure's limit is 1000" in str(found)


def test_a_thousand_endpoints_on_one_service_are_the_most() -> None:
    endpoints = [endpoint(index, ("consumer", "other")[index % 2]) for index in range(1001)]
    found = faults(private_link_services=[service(0)], private_endpoints=endpoints)
    assert list(found) == ["private_endpoints.1000.target"]
    assert "1001 private endpoints on service-0, but Azure's limit is 1000" in str(found)


def test_eight_hundred_services_in_one_subscription_are_the_most() -> None:
    services = [service(index) for index in range(801)]
    assert faults(private_link_services=services[:800]) == {}
    found = faults(private_link_services=services)
    assert list(found) == ["private_link_services.800.virtual_network"]
    assert "801 private link services in subscription p" in str(found)


def test_endpoints_of_one_subscription_are_counted_over_its_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ENDPOINTS_PER_SUBSCRIPTION", 3)
    endpoints = [endpoint(index, ("consumer", "other")[index % 2]) for index in range(4)]
    found = faults(private_link_services=[service(0)], private_endpoints=endpoints)
    assert list(found) == ["private_endpoints.3.virtual_network"]
    assert "4 private endpoints in subscription s" in str(found)


def test_a_hundred_subscriptions_are_the_most_to_approve() -> None:
    names = [f"s-{index}" for index in range(101)]
    assert faults(private_link_services=[service(0, auto_approval=names[:100])]) == {}
    found = faults(private_link_services=[service(0, auto_approval=names)])
    assert list(found) == ["private_link_services.0.auto_approval"]
    assert "101 subscriptions in auto_approval, but Azure's limit is 100" in str(found)


@pytest.mark.parametrize(
    "prefix", ["127.0.0.0/8", "169.254.1.0/24", "224.0.0.0/8", "168.63.0.0/16", "0.0.0.0/0"]
)
def test_address_spaces_that_azure_refuses(prefix: str) -> None:
    networks = [*BASE["virtual_networks"], {"name": "odd", "address_space": [prefix]}]
    found = faults(virtual_networks=networks)
    assert list(found) == ["virtual_networks.3.address_space.0"]
    assert "which Azure refuses in address spaces" in str(found)
