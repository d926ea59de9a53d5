"""Azure's published limits, where a topology can express them.

Source: "Private Link limits" of Azure's table of subscription and service limits. `limits: none`
switches them off. Not expressed: services per load balancer (8), since a topology does not name load
balancers, and whatever concerns DNS or key vaults.
"""

from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Network
from typing import Final

from dataplane.topology.draft import Draft, Finding, Path

NAT_IPS_PER_SERVICE: Final = 8
ENDPOINTS_PER_NETWORK: Final = 1000
ENDPOINTS_PER_SERVICE: Final = 1000
ENDPOINTS_PER_SUBSCRIPTION: Final = 64_000
SERVICES_PER_SUBSCRIPTION: Final = 800
VISIBLE_SUBSCRIPTIONS: Final = 100
AUTO_APPROVED_SUBSCRIPTIONS: Final = 100

REFUSED_ADDRESSES: Final = tuple(
    IPv4Network(prefix)
    for prefix in ("127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32")
)
"""What no address space may contain: loopback, Azure's own, link-local, multicast (Virtual Network FAQ)."""

_SWITCH = "limits: none switches Azure's limits off"


def beyond_limits(topology: Draft) -> Iterator[Finding]:
    """Every published limit that the topology exceeds; nothing under `limits: none`."""
    if topology.field("limits") == "none":
        return
    for network in topology.children("virtual_networks"):
        for path, prefix in network.items("address_space"):
            for refused in REFUSED_ADDRESSES:
                if prefix.overlaps(refused):
                    message = f"{prefix} overlaps {refused}, which Azure refuses in address spaces; {_SWITCH}"
                    yield Finding(path, message, prefix)
                    break
    for service in topology.children("private_link_services"):
        for key, most, what in (
            ("nat_ips", NAT_IPS_PER_SERVICE, "NAT IPs of a private link service"),
            ("visibility", VISIBLE_SUBSCRIPTIONS, "subscriptions in visibility"),
            ("auto_approval", AUTO_APPROVED_SUBSCRIPTIONS, "subscriptions in auto_approval"),
        ):
            yield from _too_many(service.at(key), service.count(key), most, what)
        yield from _nat_ips_in_time(topology, service)
    endpoints = topology.children("private_endpoints")
    services = topology.children("private_link_services")
    subscription_of = {
        network.field("name"): network.field("subscription")
        for network in topology.children("virtual_networks")
    }
    for parts, key, most, what in (
        (endpoints, "virtual_network", ENDPOINTS_PER_NETWORK, "private endpoints in {}"),
        (endpoints, "target", ENDPOINTS_PER_SERVICE, "private endpoints on {}"),
    ):
        yield from _crowded([(part.at(key), part.field(key)) for part in parts], most, what)
    for parts, most, what in (
        (endpoints, ENDPOINTS_PER_SUBSCRIPTION, "private endpoints in subscription {}"),
        (services, SERVICES_PER_SUBSCRIPTION, "private link services in subscription {}"),
    ):
        places = [(part.at("virtual_network"), part.field("virtual_network")) for part in parts]
        yield from _crowded([(path, subscription_of.get(name)) for path, name in places], most, what)


def _nat_ips_in_time(topology: Draft, service: Draft) -> Iterator[Finding]:
    """How many NAT IPs a service has once an event has added one."""
    name, count = service.field("name"), service.count("nat_ips")
    changes = [e for e in topology.children("events") if name in (e.field("add_nat_ip"), e.field("remove_nat_ip"))]
    if name is None or any(event.field("at") is None for event in changes):
        return
    for event in sorted(changes, key=lambda event: event.field("at")):
        is_added = event.field("add_nat_ip") == name
        count += 1 if is_added else -1
        if is_added:
            yield from _too_many(
                event.at("add_nat_ip"), count, NAT_IPS_PER_SERVICE, "NAT IPs of a private link service at that time"
            )


def _too_many(path: Path, found: int, most: int, what: str) -> Iterator[Finding]:
    if found > most:
        yield Finding(path, f"{found} {what}, but Azure's limit is {most}; {_SWITCH}", found)


def _crowded(places: list[tuple[Path, str | None]], most: int, what: str) -> Iterator[Finding]:
    """One finding for each thing with too many parts, at the first part that is too many."""
    counts: Counter[str] = Counter(name for _, name in places if name is not None)
    seen: Counter[str] = Counter()
    for path, name in places:
        if name is None:
            continue
        seen[name] += 1
        if seen[name] == most + 1:
            yield from _too_many(path, counts[name], most, what.format(name))
