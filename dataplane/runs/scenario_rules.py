"""What must hold between the parts of a scenario: its traffic fits its topology, its times fit its duration.

Every rule reads drafts, so that it speaks even when other parts of the document are wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

from pydantic import ValidationError

from dataplane.runs.scenario import Scenario, with_events
from dataplane.topology.draft import Draft, Finding
from dataplane.topology.model import Topology, VirtualNetwork


def broken_rules(data: object) -> list[Finding]:
    """The faults that lie between the parts, in a validated scenario or in raw data."""
    draft = Draft(Scenario, data)
    findings = [*_times(draft), *_names(draft)]
    topology = draft.field("topology")
    if isinstance(topology, Topology):
        findings += _events(draft, topology)
        used: dict[str, set[int]] = {}
        for source in draft.children("traffic"):
            findings += _source(source, topology, used)
    for source in draft.children("traffic"):
        arrivals = source.child("arrivals")
        kind = "flow log" if arrivals.field("pattern") == "flow_log" else "capture"
        for key in ("file", "files"):
            names = arrivals.field(key) or ()
            for name in (names,) if isinstance(names, str) else names:
                if not Path(name).is_file():
                    findings.append(Finding(arrivals.at(key), f"{name}: no such file; name a {kind}", name))
    return findings


def _times(scenario: Draft) -> Iterator[Finding]:
    duration, warm_up = scenario.field("duration"), scenario.field("warm_up")
    if duration is not None and warm_up is not None and warm_up >= duration:
        message = "is not shorter than duration, so that nothing would be found; shorten it"
        yield Finding(scenario.at("warm_up"), message)


def _names(scenario: Draft) -> Iterator[Finding]:
    if scenario.is_list("traffic") and not scenario.count("traffic"):
        yield Finding(scenario.at("traffic"), "is an empty list; write one source of traffic at least")
    seen: set[str] = set()
    for source in scenario.children("traffic"):
        name = source.field("name")
        if name is not None and name in seen:
            yield Finding(source.at("name"), f"{name} is used twice; names of traffic are unique", name)
        seen.add(name)


def _events(scenario: Draft, topology: Topology) -> Iterator[Finding]:
    """The topology's own rules hold for the scenario's events too."""
    events = scenario.field("events")
    if not events:
        return
    try:
        with_events(topology, events)
    except ValidationError as error:
        before = len(topology.events)
        for fault in error.errors(include_url=False, include_input=False):
            path = fault["loc"]
            if len(path) > 1 and path[0] == "events" and isinstance(path[1], int):
                path = ("events", path[1] - before, *path[2:])
            yield Finding(path if path[0] == "events" else ("events",), fault["msg"])


def _source(source: Draft, topology: Topology, used: dict[str, set[int]]) -> Iterator[Finding]:
    name = source.field("endpoint")
    endpoint = next((e for e in topology.private_endpoints if e.name == name), None)
    if endpoint is None:
        if name is not None:
            names = ", ".join(e.name for e in topology.private_endpoints) or "none"
            yield Finding(source.at("endpoint"), f"no private endpoint is named {name}; there are: {names}", name)
        return
    protocol, port = source.field("protocol"), source.field("port")
    rules = topology.service(endpoint.target).load_balancer.rules
    if protocol is not None and port is not None:
        if not any(rule.protocol == protocol and rule.frontend_port == port for rule in rules):
            choices = ", ".join(f"{rule.protocol} {rule.frontend_port}" for rule in rules) or "none"
            message = f"{endpoint.target} has no load-balancing rule for {protocol} {port}; there are: {choices}"
            yield Finding(source.at("port"), message, port)
    request = source.child("request")
    if protocol == "udp" and request.has("packets") and request.field("packets") == 0:
        yield Finding(request.at("packets"), "a UDP connection begins with its request; write at least 1", 0)
    yield from _hosts(source, topology, endpoint.virtual_network, used)


def _hosts(source: Draft, topology: Topology, home: str, used: dict[str, set[int]]) -> Iterator[Finding]:
    """Clients have addresses from which the endpoint can be reached, and no two sources share one."""
    name = source.field("network") or home
    if name != home and name not in topology.network(home).peered_with:
        choices = ", ".join([home, *topology.network(home).peered_with])
        message = f"from {name} the endpoint cannot be reached; there are: {choices}"
        yield Finding(source.at("network"), message, name)
        return
    network = topology.network(name)
    prefix = source.field("hosts_from")
    if prefix is not None and not any(prefix.subnet_of(known) for known in _prefixes(network)):
        choices = ", ".join(map(str, _prefixes(network)))
        message = f"{prefix} is no part of {name}; its prefixes are: {choices}"
        yield Finding(source.at("hosts_from"), message, prefix)
        return
    hosts = source.field("hosts")
    if hosts is not None:
        found = host_addresses(topology, name, prefix, hosts, used.setdefault(name, set()))
        if len(found) < hosts:
            message = (
                f"{hosts} client addresses are wanted, and {prefix or network.address_space[0]} has {len(found)} that "
                "are free; write fewer, or another hosts_from"
            )
            yield Finding(source.at("hosts"), message, hosts)


def _prefixes(network: VirtualNetwork) -> tuple[IPv4Network, ...]:
    return (*network.address_space, *network.on_premises)


def host_addresses(
    topology: Topology, network: str, prefix: IPv4Network | None, count: int, used: set[int]
) -> list[int]:
    """Up to `count` addresses of clients in a network that nobody has, added to `used`; lowest first.

    The first four addresses of the prefix and its last one are Azure's own in a subnet, and left out.
    """
    prefix = prefix or topology.network(network).address_space[0]
    taken = {int(endpoint.ip) for endpoint in topology.visible_endpoints(network)}
    for service in topology.private_link_services:
        if service.virtual_network == network:
            balancer = service.load_balancer
            taken |= {int(ip) for ip in (*service.nat_ips, *balancer.backend_pool, balancer.frontend_ip)}
    first, last = int(prefix.network_address), int(prefix.broadcast_address)
    if last - first >= 7:
        first, last = first + 4, last - 1
    found: list[int] = []
    for address in range(first, last + 1):
        if len(found) == count:
            break
        if address not in taken and address not in used:
            found.append(address)
    used.update(found)
    return found


