"""The load balancer of a private link service, from Azure's."""

import re
from typing import Any

from dataplane.topology.azure_resources import Estate, Part, Resource, addresses_of, is_ipv6, parent_of

_DISTRIBUTIONS = {"default": "five_tuple", "sourceip": "source_ip", "sourceipprotocol": "source_ip_protocol"}

_DEFAULT_IDLE_MINUTES = 4
"""Of a load-balancing rule that does not say (ARM template reference, loadBalancers)."""

_SERVICE_IDLE_MINUTES = 5
"""About, of Private Link itself (Private Link service overview)."""

_NOT_MODELLED = {
    "probes": "probes (every backend counts as healthy)",
    "inboundNatRules": "inbound NAT rules",
    "inboundNatPools": "inbound NAT pools",
    "outboundRules": "outbound rules",
}


def load_balancer(estate: Estate, service: Resource, subnet_id: str | None) -> tuple[dict[str, Any], bool] | None:
    """The `load_balancer` of a service, and whether an idle time-out of its rules resets TCP sessions.

    `subnet_id` is where addresses are chosen that no file has. None when the load balancer cannot be told, which has
    been refused.
    """
    found = _frontend(estate, service)
    if found is None:
        return None
    balancer, frontend, frontend_id = found
    rules = _rules(estate, service, balancer, frontend_id)
    address = frontend.address("privateIPAddress")
    if address is None:
        address = estate.chosen_address(frontend.place, "the frontend", frontend.reference("subnet") or subnet_id)
    not_modelled = [words for key, words in _NOT_MODELLED.items() if balancer.parts(key)]
    if any(rule.flag("enableFloatingIP") for rule in rules):
        not_modelled.append("floating IP (backends see their own address)")
    if not_modelled:
        estate.note(balancer.place, f"of {balancer.title} these are not modelled: {', '.join(not_modelled)}")
    if any((rule.text("protocol") or "").lower() == "tcp" for rule in rules):
        what = f"idleTimeoutInMinutes of {balancer.title} becomes idle_timeout of its rules; Private Link's own stays"
        estate.note(balancer.place, f"{what} (that the shorter of the two counts is unconfirmed)")
    document = {
        "frontend_ip": address,
        "distribution": _distribution(estate, balancer, rules),
        "rules": [_rule(rule) for rule in rules],
        "backend_pool": _backends(estate, balancer, rules[0], subnet_id) if rules else [],
    }
    return document, _resets(estate, balancer, rules)


def _frontend(estate: Estate, service: Resource) -> tuple[Resource, Part, str] | None:
    """The load balancer of a service, its frontend and that one's id."""
    references = [part.text("id") for part in service.parts("loadBalancerFrontendIpConfigurations")]
    if len(references) > 1:
        what = f"{service.title} has {len(references)} frontends; the simulator has one, so the first is taken"
        estate.note(service.place, what)
    frontend_id = references[0] if references else None
    if frontend_id is None:
        estate.refuse(service.place, f"{service.title} names no frontend; it needs a Standard Load Balancer")
        return None
    balancer = estate.find(parent_of(frontend_id))
    if balancer is None:
        name = parent_of(frontend_id).rpartition("/")[2]
        what = f"{service.title} stands on load balancer {name}, which is in none of the files"
        estate.refuse(service.place, f"{what}; add the output of `az network lb list`")
        return None
    name = frontend_id.rpartition("/")[2]
    for part in balancer.parts("frontendIPConfigurations"):
        if (part.text("name") or "").lower() == name.lower():
            return balancer, part, frontend_id
    estate.refuse(balancer.place, f"{balancer.title} has no frontend {name}, on which {service.title} stands")
    return None


def _rules(estate: Estate, service: Resource, balancer: Resource, frontend_id: str) -> list[Part]:
    """The rules of the frontend that the simulator has: of tcp and udp, and of one backend pool."""
    rules: list[Part] = []
    pool: list[str] = []
    for rule in balancer.parts("loadBalancingRules"):
        name, protocol = rule.text("name"), (rule.text("protocol") or "").lower()
        if _last(rule.reference("frontendIPConfiguration")) != _last(frontend_id):
            continue
        if protocol not in ("tcp", "udp") or rule.number("frontendPort") == 0:
            what = f"rule {name} of {balancer.title} is for {rule.text('protocol')}, port {rule.number('frontendPort')}"
            estate.note(rule.place, f"{what}, which is not modelled (HA ports); write rules for the ports that you use")
        elif rules and _pool_of(rule) != pool:
            what = f"rule {name} of {balancer.title} has another backend pool than {rules[0].text('name')}"
            estate.note(rule.place, f"{what}; the simulator has one, so the rule is left out")
        else:
            rules.append(rule)
            pool = _pool_of(rule)
    if not rules:
        estate.note(balancer.place, f"no rule is left for {service.title}, so nothing will pass; write rules for it")
    return rules


def _rule(rule: Part) -> dict[str, Any]:
    protocol = (rule.text("protocol") or "").lower()
    port = rule.number("frontendPort")
    result = {"protocol": protocol, "frontend_port": port, "backend_port": rule.number("backendPort") or port}
    if protocol == "tcp":  # the load balancer's time-out is for TCP alone
        result["idle_timeout"] = f"{_idle_minutes(rule)}m"
    return result


def _idle_minutes(rule: Part) -> int:
    return rule.number("idleTimeoutInMinutes") or _DEFAULT_IDLE_MINUTES


def _resets(estate: Estate, balancer: Resource, rules: list[Part]) -> bool:
    """Whether all TCP rules reset sessions at an idle time-out that comes before Private Link's own."""
    tcp = [rule for rule in rules if (rule.text("protocol") or "").lower() == "tcp"]
    reset = [rule for rule in tcp if rule.flag("enableTcpReset")]
    if not reset:
        return False
    if len(reset) == len(tcp) and all(_idle_minutes(rule) < _SERVICE_IDLE_MINUTES for rule in tcp):
        return True
    names = ", ".join(rule.text("name") or "" for rule in reset)
    what = f"enableTcpReset of rule {names} of {balancer.title} is left out: `nat.idle_reset` is for all of a service"
    estate.note(balancer.place, f"{what}, and here not every idle time-out is such a rule's; set it if that is right")
    return False


def _distribution(estate: Estate, balancer: Resource, rules: list[Part]) -> str:
    found = list(dict.fromkeys(rule.text("loadDistribution") or "Default" for rule in rules)) or ["Default"]
    if len(found) > 1:
        what = f"rules of {balancer.title} have loadDistribution {', '.join(found)}; the simulator has one"
        estate.note(balancer.place, f"{what}, so {found[0]} is taken")
    if found[0].lower() not in _DISTRIBUTIONS:
        choices = "Default, SourceIP, SourceIPProtocol"
        estate.refuse(balancer.place, f"loadDistribution {found[0]} of {balancer.title} is none of {choices}")
    return _DISTRIBUTIONS.get(found[0].lower(), "five_tuple")


def _backends(estate: Estate, balancer: Resource, rule: Part, subnet_id: str | None) -> list[str]:
    """The addresses of a rule's backend pool; one that no file has is chosen, so that their number is right."""
    pools = {(part.text("name") or "").lower(): part for part in balancer.parts("backendAddressPools")}
    result: list[str | None] = []
    for name in _pool_of(rule):
        if name not in pools:
            estate.note(rule.place, f"{balancer.title} has no backend pool {name}, which its rule names; left out")
            continue
        pool = pools[name]
        listed: list[str | None] = []
        down: set[str | None] = set()
        for part in pool.parts("loadBalancerBackendAddresses"):
            backend = part.reference("networkInterfaceIPConfiguration") or part.address("ipAddress")
            if (part.text("adminState") or "").lower() == "down":
                what = f"backend {part.text('name')} of {balancer.title} is administratively down"
                estate.note(part.place, f"{what}; left out")
                down |= {(backend or "").lower(), part.address("ipAddress")}
            else:
                listed.append(backend)
        listed += [part.text("id") for part in pool.parts("backendIPConfigurations")]
        listed += _members(estate, balancer, name)
        for backend in {one.lower(): one for one in listed if one and one.lower() not in down}.values():
            is_address = "/" not in backend
            address = backend if is_address else _address(estate, balancer, pool, backend, subnet_id)
            if address not in down:
                result.append(address)
    addresses = list(dict.fromkeys(address for address in result if address))
    if not addresses:
        what = f"the backend pool of {balancer.title} is empty, so no session will find a backend"
        estate.note(balancer.place, f"{what}; add the output of `az network nic list`, or write backend_pool")
    return addresses


def _members(estate: Estate, balancer: Resource, pool: str) -> list[str]:
    """The IP configurations of network interfaces that say themselves that they are in a pool."""
    result = []
    for interface in estate.of_kind("microsoft.network/networkinterfaces"):
        for configuration in interface.parts("ipConfigurations"):
            for part in configuration.parts("loadBalancerBackendAddressPools"):
                pool_id = part.text("id") or ""
                if _last(pool_id) == pool and estate.find(parent_of(pool_id)) is balancer:
                    result.append(f"{interface.id}/ipConfigurations/{configuration.text('name')}")
    return result


def _address(estate: Estate, balancer: Resource, pool: Part, reference: str, subnet_id: str | None) -> str | None:
    """The address of a network interface's IP configuration in a pool."""
    interface = estate.find(parent_of(reference))
    if interface is None:
        scale_set = re.search("/resourceGroups/([^/]+)/.*/virtualMachineScaleSets/([^/]+)/", reference, re.IGNORECASE)
        listing = f"vmss nic list -g {scale_set[1]} --vmss-name {scale_set[2]}" if scale_set else "network nic list"
        add = f"add the output of `az {listing}`"
        name = reference.rpartition("/providers/")[2].partition("/ipConfigurations/")[0].partition("/")[2]
        what = f"the backend pool of {balancer.title} names {name}, which is in none of the files"
        return estate.chosen_address(pool.place, f"{what} ({add}): it", subnet_id)
    for configuration in interface.parts("ipConfigurations"):
        if (configuration.text("name") or "").lower() == _last(reference) and not is_ipv6(configuration):
            address = configuration.address("privateIPAddress")
            where = configuration.reference("subnet") or subnet_id
            return address or estate.chosen_address(configuration.place, f"{interface.title}", where)
    addresses = addresses_of(interface)
    return addresses[0] if addresses else None


def _pool_of(rule: Part) -> list[str]:
    """The names of a rule's backend pools."""
    references = [rule.reference("backendAddressPool")]
    references += [part.text("id") for part in rule.parts("backendAddressPools")]
    return list(dict.fromkeys(_last(reference) for reference in references if reference))


def _last(resource_id: str | None) -> str:
    return (resource_id or "").rpartition("/")[2].lower()
