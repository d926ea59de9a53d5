"""What must hold between the objects of a topology, whatever Azure's limits say.

Every rule reads drafts, so that it speaks even when other parts of the document are wrong, and
keeps silent about what it cannot know. The rules on addresses are what makes translation and
lookup unambiguous: an address at a point has one meaning.
"""

import difflib
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network

from dataplane.topology.draft import Draft, Finding, Path, path_text

BACKBONE = "backbone"
"""The point between the networks; no network may have its name."""


def broken_rules(topology: Draft) -> Iterator[Finding]:
    """Every rule that the topology breaks."""
    yield from _names(topology)
    yield from _references(topology)
    yield from _peerings(topology)
    yield from _endpoints(topology)
    yield from _services(topology)
    yield from _providers(topology)
    yield from _events(topology)


def _names(topology: Draft) -> Iterator[Finding]:
    """Names are unique: files and commands refer to objects by them."""
    for network in topology.children("virtual_networks"):
        if network.field("name") == BACKBONE:
            yield Finding(
                network.at("name"), f"{BACKBONE} is the point between the networks; choose another name"
            )
    for kind in ("virtual_networks", "private_link_services", "platform_services", "private_endpoints"):
        yield from _repeated(topology.children(kind), "name", f"names of {kind} are unique")
    services = _by_name(topology, "private_link_services")
    for platform in topology.children("platform_services"):
        if platform.field("name") in services:
            name = platform.field("name")
            yield Finding(
                platform.at("name"), f"{name} is already a private link service; choose another name", name
            )


def _references(topology: Draft) -> Iterator[Finding]:
    """Every name that is used exists."""
    networks = _known_names(topology, "virtual_networks")
    services = _known_names(topology, "private_link_services")
    platforms = _known_names(topology, "platform_services")
    for holder in topology.children("private_link_services") + topology.children("private_endpoints"):
        yield from _unknown(
            holder.at("virtual_network"), holder.field("virtual_network"), networks, "virtual network"
        )
    for network in topology.children("virtual_networks"):
        for path, name in network.items("peered_with"):
            yield from _unknown(path, name, networks, "virtual network")
    if services is not None and platforms is not None:
        targets = services | platforms
        for endpoint in topology.children("private_endpoints"):
            yield from _unknown(endpoint.at("target"), endpoint.field("target"), targets, "service")


def _peerings(topology: Draft) -> Iterator[Finding]:
    """Networks that meet in a peering do not overlap, as Azure demands: an address has one owner."""
    networks = _by_name(topology, "virtual_networks")
    for network in topology.children("virtual_networks"):
        earlier: list[IPv4Network] = []
        for path, prefix in network.items("address_space"):
            for known in earlier:
                if prefix.overlaps(known):
                    yield Finding(path, f"{prefix} overlaps {known} in the same address space", prefix)
            earlier.append(prefix)

    # Who meets whom, and where it is written.
    peers: dict[str, dict[str, Path]] = {name: {} for name in networks}
    for name, network in networks.items():
        listed: set[str] = set()
        for path, peer in network.items("peered_with"):
            if peer == name:
                yield Finding(path, f"{name} is this network itself; list other networks only", peer)
            elif peer in listed:
                yield Finding(path, f"{peer} is listed twice; leave one out", peer)
            elif peer in networks:
                if name not in peers[peer]:  # else the other side has listed it and has been looked at
                    yield from _overlap(networks, name, peer, path, f"{name} and {peer} are peered")
                peers[name].setdefault(peer, path)
                peers[peer].setdefault(name, path)
            listed.add(peer)
    reported: set[frozenset[str]] = set()
    for name, meeting in peers.items():
        seen: list[str] = []
        for peer, path in meeting.items():
            for other in seen:
                pair = frozenset((peer, other))
                if pair not in reported and other not in peers[peer]:
                    findings = list(_overlap(networks, other, peer, path, f"both are peered with {name}"))
                    reported |= {pair} if findings else set()
                    yield from findings
            seen.append(peer)


def _overlap(networks: dict[str, Draft], one: str, two: str, path: Path, why: str) -> Iterator[Finding]:
    first: tuple[IPv4Network, ...] = networks[one].field("address_space") or ()
    second: tuple[IPv4Network, ...] = networks[two].field("address_space") or ()
    for prefix in first:
        for other in second:
            if prefix.overlaps(other):
                message = (
                    f"{prefix} of {one} overlaps {other} of {two}, but {why}; peered networks may not overlap"
                )
                yield Finding(path, message, two)
                return


def _endpoints(topology: Draft) -> Iterator[Finding]:
    """Endpoints have addresses of their network, and numbers of their own."""
    endpoints = topology.children("private_endpoints")
    networks = _by_name(topology, "virtual_networks")
    taken: dict[tuple[str, IPv4Address], Draft] = {}
    for endpoint in endpoints:
        ip, network = endpoint.field("ip"), endpoint.field("virtual_network")
        if ip is None or network is None:
            continue
        yield from _outside(endpoint.at("ip"), ip, network, networks)
        if (network, ip) in taken:
            other = path_text(taken[network, ip].at("ip"))
            yield Finding(
                endpoint.at("ip"), f"{ip} is already {other} in {network}; choose another address", ip
            )
        taken.setdefault((network, ip), endpoint)
    yield from _repeated(endpoints, "link_id", "link ids are unique; leave it out to have one chosen")
    for endpoint in endpoints:
        rules = endpoint.children("security_rules")
        yield from _repeated(rules, "name", "names of security rules are unique on an endpoint")
        yield from _repeated(rules, "priority", "priorities are unique on an endpoint")


def _services(topology: Draft) -> Iterator[Finding]:
    """What each private link service must keep to by itself."""
    networks = _by_name(topology, "virtual_networks")
    for service in topology.children("private_link_services"):
        network, balancer = service.field("virtual_network"), service.child("load_balancer")
        for draft, name in ((service, "nat_ips"), (balancer, "backend_pool")):
            seen: set[IPv4Address] = set()
            for path, ip in draft.items(name):
                if ip in seen:
                    yield Finding(path, f"{ip} is listed twice; leave one out", ip)
                elif network is not None:
                    yield from _outside(path, ip, network, networks)
                seen.add(ip)
        rules: dict[tuple[str, int], Draft] = {}
        for rule in balancer.children("rules"):
            protocol, port = rule.field("protocol"), rule.field("frontend_port")
            if protocol is None or port is None:
                continue
            if (protocol, port) in rules:
                other = path_text(rules[protocol, port].path)
                message = f"{protocol} port {port} already has a rule at {other}; leave one out"
                yield Finding(rule.at("frontend_port"), message, port)
            rules.setdefault((protocol, port), rule)
        visible, approved = service.field("visibility"), service.items("auto_approval")
        if visible is not None and "*" not in visible:
            for path, subscription in approved:
                if subscription not in visible:
                    message = f"{subscription} is approved but cannot see the service; add it to visibility"
                    yield Finding(path, message, subscription)


def _providers(topology: Draft) -> Iterator[Finding]:
    """A NAT IP is one service's, and nothing else in the provider's network has its address."""
    nat_ips: dict[tuple[str, IPv4Address], Draft] = {}
    fixed: dict[tuple[str, IPv4Address], str] = {}
    services = topology.children("private_link_services")
    for service in services:
        network, balancer = service.field("virtual_network"), service.child("load_balancer")
        if network is None:
            continue
        for path, backend in balancer.items("backend_pool"):
            fixed.setdefault((network, backend), f"a backend ({path_text(path)})")
        if (frontend := balancer.field("frontend_ip")) is not None:
            place = path_text(balancer.at("frontend_ip"))
            fixed.setdefault((network, frontend), f"a load balancer's frontend ({place})")
    for service in services:
        network = service.field("virtual_network")
        if network is None:
            continue
        for path, ip in [*service.items("nat_ips"), *_added_nat_ips(topology, service)]:
            owner = nat_ips.setdefault((network, ip), service)
            if owner is not service:
                message = f"{ip} is already a NAT IP of {owner.field('name') or path_text(owner.path)}"
                yield Finding(path, f"{message}; services in one network may not share NAT IPs", ip)
            if (network, ip) in fixed:
                yield Finding(
                    path, f"{ip} is also {fixed[network, ip]}; a NAT IP needs an address of its own", ip
                )
    for endpoint in topology.children("private_endpoints"):
        network, ip = endpoint.field("virtual_network"), endpoint.field("ip")
        if network is None or ip is None:
            continue
        use = "a NAT IP" if (network, ip) in nat_ips else fixed.get((network, ip))
        if use is not None:
            yield Finding(endpoint.at("ip"), f"{ip} is also {use} in {network}; choose another address", ip)


def _added_nat_ips(topology: Draft, service: Draft) -> list[tuple[Path, IPv4Address]]:
    """The NAT IPs that events give a service, each with its path."""
    name = service.field("name")
    return [
        (event.at("address"), event.field("address"))
        for event in topology.children("events")
        if name is not None and event.field("add_nat_ip") == name and event.field("address") is not None
    ]


def _events(topology: Draft) -> Iterator[Finding]:
    """Events happen to endpoints and services that exist."""
    endpoints = _known_names(topology, "private_endpoints")
    services = _known_names(topology, "private_link_services")
    by_name = _by_name(topology, "private_link_services")
    networks = _by_name(topology, "virtual_networks")
    for event in topology.children("events"):
        for action in ("approve", "reject", "disconnect"):
            yield from _unknown(event.at(action), event.field(action), endpoints, "private endpoint")
        for action in ("backend_down", "backend_up", "add_nat_ip", "remove_nat_ip"):
            service, address = event.field(action), event.field("address")
            yield from _unknown(event.at(action), service, services, "private link service")
            if service not in by_name or address is None:
                continue
            if action in ("backend_down", "backend_up"):
                pool = by_name[service].child("load_balancer").field("backend_pool")
                if pool is not None and address not in pool:
                    yield Finding(event.at("address"), f"{address} is not a backend of {service}", address)
            elif action == "add_nat_ip" and (network := by_name[service].field("virtual_network")) is not None:
                yield from _outside(event.at("address"), address, network, networks)
    for name, service in by_name.items():
        yield from _changes_of_nat_ips(topology, name, service)


def _changes_of_nat_ips(topology: Draft, name: str, service: Draft) -> Iterator[Finding]:
    """What is added is not there, what is removed is, and one NAT IP is left."""
    present = service.field("nat_ips")
    changes = [
        event
        for event in topology.children("events")
        if name in (event.field("add_nat_ip"), event.field("remove_nat_ip"))
    ]
    if present is None or any(event.field("at") is None or event.field("address") is None for event in changes):
        return
    present = list(present)
    for event in sorted(changes, key=lambda event: event.field("at")):
        address = event.field("address")
        if event.field("add_nat_ip") == name:
            if address in present:
                message = f"{address} is a NAT IP of {name} at that time already; leave the event out"
                yield Finding(event.at("address"), message, address)
            else:
                present.append(address)
        elif address not in present:
            message = f"{address} is no NAT IP of {name} at that time; there are: {', '.join(map(str, present))}"
            yield Finding(event.at("address"), message, address)
        elif len(present) == 1:
            message = f"{address} is the last NAT IP of {name}; a service keeps one at least"
            yield Finding(event.at("address"), message, address)
        else:
            present.remove(address)


def _by_name(topology: Draft, kind: str) -> dict[str, Draft]:
    """The objects of a kind by name; the first of each name."""
    result: dict[str, Draft] = {}
    for part in topology.children(kind):
        name = part.field("name")
        if name is not None:
            result.setdefault(name, part)
    return result


def _known_names(topology: Draft, kind: str) -> dict[str, None] | None:
    """The names of a kind; None when some cannot be read, and so nobody can say that a name is unknown."""
    if topology.has(kind) and not topology.is_list(kind):
        return None
    names = [part.field("name") for part in topology.children(kind)]
    return None if None in names else dict.fromkeys(names)


def _unknown(path: Path, name: str | None, known: dict[str, None] | None, kind: str) -> Iterator[Finding]:
    if name is None or known is None or name in known:
        return
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        hint = f"did you mean {close[0]}?"
    elif known:
        hint = f"there are: {', '.join(list(known)[:10])}{', ...' if len(known) > 10 else ''}"
    else:
        hint = "there is none"
    yield Finding(path, f"no {kind} is named {name}; {hint}", name)


def _repeated(parts: Iterable[Draft], key: str, rule: str) -> Iterator[Finding]:
    first: dict[object, Draft] = {}
    for part in parts:
        value = part.field(key)
        if value is None:
            continue
        if value in first:
            yield Finding(
                part.at(key), f"{value} is already {path_text(first[value].at(key))}; {rule}", value
            )
        first.setdefault(value, part)


def _outside(path: Path, ip: IPv4Address, network: str, networks: dict[str, Draft]) -> Iterator[Finding]:
    space = networks[network].field("address_space") if network in networks else None
    if space and not any(ip in prefix for prefix in space):
        prefixes = ", ".join(str(prefix) for prefix in space)
        yield Finding(
            path, f"{ip} is not in {network}'s address space {prefixes}; choose an address in it", ip
        )
