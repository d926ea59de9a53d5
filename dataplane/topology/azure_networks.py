"""The virtual networks of an import: taken in as they are needed, with those that are peered with them."""

import itertools
from ipaddress import IPv4Network
from typing import Any

from dataplane.topology.azure_resources import (
    NETWORK,
    Estate,
    Part,
    Resource,
    few,
    ipv4_prefixes,
    parent_of,
    subscription_of,
)
from dataplane.topology.rules import BACKBONE

UNKNOWN_CONSUMER = IPv4Network("192.0.2.0/24")
"""A documentation range (RFC 5737), for the network of a consumer of whom only the connection is known."""


class Names:
    """Names in the topology: unique within a kind, each with the place in a file where it comes from."""

    def __init__(self, estate: Estate) -> None:
        self._estate = estate
        self._places: dict[tuple[str, str], str] = {}

    def claim(self, kind: str, wanted: str, place: str, among: tuple[str, ...] = ()) -> str:
        """A name that nothing of the kind, nor of the kinds `among`, has yet."""
        for number in itertools.count(1):
            name = wanted if number == 1 else f"{wanted}-{number}"
            if name != BACKBONE and not any((one, name) in self._places for one in (kind, *among)):
                break
        if name != wanted:
            self._estate.note(place, f"{wanted} is called {name} here, since names are unique")
        self._places[kind, name] = place
        return name

    def place(self, kind: str, name: str) -> str:
        """Where a name comes from; empty when nothing has it."""
        return self._places.get((kind, name), "")


class Networks:
    """The networks of a topology, in order of their first use."""

    def __init__(self, estate: Estate, names: Names) -> None:
        self._estate = estate
        self._names = names
        self._taken: dict[str, dict[str, Any]] = {}

    def documents(self) -> list[dict[str, Any]]:
        """What the topology says of them."""
        return list(self._taken.values())

    def holding(self, user: Resource, subnet_id: str | None) -> str | None:
        """The name of the network of a subnet; None when it is in none of the files, which is refused."""
        network = self._estate.find(parent_of(subnet_id)) if subnet_id else None
        if network is None:
            named = f"virtual network {parent_of(subnet_id).rpartition('/')[2]}" if subnet_id else "a subnet"
            missing = "which is in none of the files" if subnet_id else "which it does not name"
            what = f"{user.title} is in {named}, {missing}"
            self._estate.refuse(user.place, f"{what}; add the output of `az network vnet list`")
            return None
        return str(self._take(network)["name"])

    def unknown(self, connection: Part, endpoint: str, endpoint_id: str) -> str:
        """The name of a network that stands for that of an endpoint of which the connection alone is known."""
        name = self._names.claim("virtual_networks", f"network-of-{endpoint}", connection.place)
        region, subscription = connection.text("privateEndpointLocation"), subscription_of(endpoint_id)
        self._taken[endpoint_id.lower()] = _document(name, region, [str(UNKNOWN_CONSUMER)], subscription)
        return name

    def peer(self, endpoints: list[dict[str, Any]]) -> None:
        """Say whose hosts may use the endpoints, in the networks that hold some; name networks that are left out."""
        holding = {endpoint["virtual_network"] for endpoint in endpoints}
        for network in self._estate.of_kind(NETWORK):
            taken = self._taken.get(network.id.lower())
            if taken is None or taken["name"] not in holding:
                continue
            found = [self._peered(network, one) for one in network.parts("virtualNetworkPeerings")]
            peers = list(dict.fromkeys(peer for peer in found if peer))
            if peers:
                taken["peered_with"] = peers
        left = [one.name for one in self._estate.of_kind(NETWORK) if one.id.lower() not in self._taken]
        if left and self._taken:
            what = "holds no endpoint and no service, and is not peered with a network that holds an endpoint"
            self._estate.note(f"virtual network {few(left)}", f"{what}; left out")

    def reachable(self, network: Resource) -> list[str]:
        """What the service tag VirtualNetwork stands for: the network and its peers."""
        spaces = [network.part("addressSpace")]
        for peering in network.parts("virtualNetworkPeerings"):
            remote = self._estate.find(peering.reference("remoteVirtualNetwork") or "")
            spaces.append(remote.part("addressSpace") if remote else _remote_space(peering))
        return [str(prefix) for space in spaces if space for prefix in ipv4_prefixes(space.texts("addressPrefixes"))]

    def _take(self, network: Resource) -> dict[str, Any]:
        key = network.id.lower()
        if key not in self._taken:
            self._taken[key] = self._described(network, network.name, network.part("addressSpace"), network.id)
            gateway = any((one.text("name") or "").lower() == "gatewaysubnet" for one in network.parts("subnets"))
            if gateway or any(one.flag("useRemoteGateways") for one in network.parts("virtualNetworkPeerings")):
                what = "uses a gateway, but what is behind it cannot be known; write its prefixes as on_premises"
                self._estate.note(network.place, f"{network.title} {what}")
        return self._taken[key]

    def _described(self, part: Part, name: str, space: Part | None, network_id: str) -> dict[str, Any]:
        given = space.texts("addressPrefixes") if space else []
        prefixes = [str(prefix) for prefix in ipv4_prefixes(given)]
        if any(":" in prefix for prefix in given):
            self._estate.note(part.place, f"virtual network {name}: IPv6 prefixes are not modelled; left out")
        if not prefixes:
            self._estate.refuse(part.place, f"virtual network {name} has no IPv4 prefix in its addressSpace")
        claimed = self._names.claim("virtual_networks", name, part.place)
        region = part.text("location") if isinstance(part, Resource) else None
        return _document(claimed, region, prefixes, subscription_of(network_id))

    def _peered(self, network: Resource, peering: Part) -> str | None:
        """The name of the network at the other end of a peering, if its hosts may use the endpoints here."""
        remote_id = peering.reference("remoteVirtualNetwork")
        if remote_id is None:
            return None
        name, state = remote_id.rpartition("/")[2], peering.text("peeringState") or "Connected"
        if state.lower() != "connected":
            self._estate.note(peering.place, f"the peering of {network.name} with {name} is {state}; left out")
            return None
        remote = self._estate.find(remote_id)
        if remote is None:
            return self._known_from_peering(network, peering, remote_id)
        for back in remote.parts("virtualNetworkPeerings"):
            other = self._estate.find(back.reference("remoteVirtualNetwork") or "")
            if other is network and back.get("allowVirtualNetworkAccess") is False:
                what = f"{name} may not reach {network.name} (allowVirtualNetworkAccess is false)"
                self._estate.note(back.place, f"{what}; the peering is left out")
                return None
        return str(self._take(remote)["name"])

    def _known_from_peering(self, network: Resource, peering: Part, remote_id: str) -> str | None:
        """A network that is in none of the files, but in a peering with its address space."""
        name, space = remote_id.rpartition("/")[2], _remote_space(peering)
        if remote_id.lower() not in self._taken:
            if space is None:
                what = f"{network.title} is peered with {name}, which is in none of the files"
                self._estate.note(peering.place, f"{what}; left out; add the output of `az network vnet list`")
                return None
            self._taken[remote_id.lower()] = self._described(peering, name, space, remote_id)
            what = f"virtual network {name} is in none of the files; its address space is taken from the peering"
            self._estate.note(peering.place, what)
        return str(self._taken[remote_id.lower()]["name"])


def _remote_space(peering: Part) -> Part | None:
    return peering.part("remoteVirtualNetworkAddressSpace") or peering.part("remoteAddressSpace")


def _document(name: str, region: str | None, prefixes: list[str], subscription: str | None) -> dict[str, Any]:
    """A network as a topology file has it."""
    result = {"name": name, "region": region, "address_space": prefixes, "subscription": subscription}
    return {key: value for key, value in result.items() if value is not None}
