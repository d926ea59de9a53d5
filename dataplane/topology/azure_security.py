"""The rules of a network security group that are about a private endpoint."""

from ipaddress import IPv4Address, IPv4Network
from typing import Any

from dataplane.topology.azure_resources import Estate, Part, ipv4_prefixes

_APPLIED = ("enabled", "networksecuritygroupenabled")
"""Values of a subnet's privateEndpointNetworkPolicies under which its group holds for private endpoints."""

_VIRTUAL_NETWORK = "virtualnetwork"


def security_rules(estate: Estate, subnet: Part, ip: str, reachable: list[str]) -> list[dict[str, Any]]:
    """The inbound rules of a subnet's group for a private endpoint at `ip`.

    `reachable` is what the tag VirtualNetwork stands for. Azure's default rules, which have no priority from 100 to
    4096, are left out.
    """
    group_id = subnet.reference("networkSecurityGroup")
    if group_id is None or (subnet.text("privateEndpointNetworkPolicies") or "").lower() not in _APPLIED:
        return []
    group = estate.find(group_id)
    if group is None:
        name = group_id.rpartition("/")[2]
        what = f"subnet {subnet.text('name')} has network security group {name}, which is in none of the files"
        estate.note(subnet.place, f"{what}; add the output of `az network nsg list`")
        return []
    result = []
    for rule in group.parts("securityRules"):
        protocol = (rule.text("protocol") or "*").lower()
        is_inbound = (rule.text("direction") or "").lower() == "inbound"
        if not is_inbound or protocol not in ("tcp", "udp", "*"):
            continue  # an endpoint sends nothing by itself, and takes TCP and UDP alone
        title = f"rule {rule.text('name')} of {group.title}"
        if not _is_for(estate, rule, title, IPv4Address(ip)):
            continue
        sources = _sources(estate, rule, title, reachable)
        if sources:
            result.append(
                {
                    "name": rule.text("name"),
                    "priority": rule.number("priority"),
                    "action": (rule.text("access") or "").lower(),
                    "protocol": protocol,
                    "source": sources,
                    "destination_ports": _both(rule, "destinationPortRange", "destinationPortRanges") or ["*"],
                }
            )
    return result


def _is_for(estate: Estate, rule: Part, title: str, ip: IPv4Address) -> bool:
    if rule.parts("destinationApplicationSecurityGroups"):
        estate.note(rule.place, f"{title} is for application security groups, which are not modelled; left out")
        return False
    given = _both(rule, "destinationAddressPrefix", "destinationAddressPrefixes")
    if any(text == "*" or text.lower() == _VIRTUAL_NETWORK for text in given):
        return True
    return any(ip in prefix for prefix in ipv4_prefixes(given))


def _sources(estate: Estate, rule: Part, title: str, reachable: list[str]) -> list[str]:
    result: list[str] = []
    if rule.parts("sourceApplicationSecurityGroups"):
        estate.note(rule.place, f"{title} is for application security groups, which are not modelled; left out")
    for text in _both(rule, "sourceAddressPrefix", "sourceAddressPrefixes"):
        prefixes: list[IPv4Network] = list(ipv4_prefixes([text]))
        if text == "*":
            result.append(text)
        elif text.lower() == _VIRTUAL_NETWORK:
            result += reachable
        elif prefixes:
            result.append(str(prefixes[0]))
        elif ":" not in text:
            estate.note(rule.place, f"{title} has the source {text}, a service tag that is not modelled; left out")
    return result


def _both(rule: Part, one: str, many: str) -> list[str]:
    """What Azure writes in one of two places."""
    return list(filter(None, [rule.text(one), *rule.texts(many)]))
