"""A topology from Azure's own account of its resources: `az network … list`, ARM's REST interface, ARM templates.

What the files do not say is said in notes, and chosen where a choice does no harm; where it would, the files are
refused. What the simulator does not do yet (`unsupported`) is left out, and said.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network
from typing import Any, NamedTuple

from pydantic import ValidationError

from dataplane.topology import unsupported
from dataplane.topology.azure_balancer import load_balancer
from dataplane.topology.azure_files import read_files
from dataplane.topology.azure_networks import UNKNOWN_CONSUMER, Names, Networks
from dataplane.topology.azure_resources import (
    ENDPOINT,
    SERVICE,
    Estate,
    Part,
    Resource,
    addresses_of,
    few,
    ipv4_addresses,
    is_ipv6,
    kind_of,
)
from dataplane.topology.azure_security import security_rules
from dataplane.topology.draft import Draft, path_text
from dataplane.topology.load import Problem, TopologyError
from dataplane.topology.model import Topology

_STATES = {
    "approved": "approved",
    "pending": "pending",
    "rejected": "rejected",
    "disconnected": "disconnected",
    "removed": "disconnected",
}
"""The state of a connection, in the API's words and in the portal's."""

UNKNOWN_PUBLIC = IPv4Network("203.0.113.0/24")
"""A documentation range (RFC 5737), for the public addresses of platform services, which no file has."""


class Imported(NamedTuple):
    """A topology as a file would have it, and what there is to say of it, one line each."""

    document: dict[str, Any]
    notes: list[str]


def import_azure(paths: Sequence[str | os.PathLike[str]]) -> Imported:
    """Make a topology of files of Azure resources. Raises TopologyError with everything that is in the way."""
    estate = read_files(paths)
    imported = Import(estate)
    document = imported.document()
    if not estate.problems:
        imported.leave_out_unsupported(document)
        if document["private_link_services"] or document["private_endpoints"]:
            imported.check(document)
        else:
            what = "no private link service and no private endpoint is left, so there is nothing to simulate"
            add = "add the output of `az network private-link-service list`"
            estate.refuse(", ".join(os.fspath(path) for path in paths), f"{what}; {add}")
            estate.problems += [Problem(None, "", note) for note in estate.notes]
    if estate.problems:
        raise TopologyError("", estate.problems)
    return Imported({key: value for key, value in document.items() if value}, estate.notes)


class Import:
    """One import: networks are taken in as they are needed, names are made unique."""

    def __init__(self, estate: Estate) -> None:
        self.estate = estate
        self._names = Names(estate)
        self._networks = Networks(estate, self._names)
        self._services: dict[str, str] = {}
        self._platforms: dict[tuple[str, str], dict[str, Any]] = {}
        self._told: dict[str, Part] = {}
        for service in estate.of_kind(SERVICE):
            for connection in service.parts("privateEndpointConnections"):
                endpoint = estate.find(connection.reference("privateEndpoint") or "")
                if endpoint is not None:
                    self._told[endpoint.id] = connection
        self._public = itertools.cycle(UNKNOWN_PUBLIC.hosts())

    def document(self) -> dict[str, Any]:
        """The whole topology, whether the simulator does all of it or not."""
        services = [self._service(service) for service in self.estate.of_kind(SERVICE)]
        endpoints = [self._endpoint(endpoint) for endpoint in self.estate.of_kind(ENDPOINT)]
        for service in self.estate.of_kind(SERVICE):
            endpoints += self._unknown_endpoints(service)
        self._networks.peer([endpoint for endpoint in endpoints if endpoint])
        return {
            "virtual_networks": self._networks.documents(),
            "private_link_services": [service for service in services if service],
            "platform_services": list(self._platforms.values()),
            "private_endpoints": [endpoint for endpoint in endpoints if endpoint],
        }

    # -- services

    def _service(self, service: Resource) -> dict[str, Any] | None:
        if service.text("destinationIPAddress"):
            what = f"{service.title} has a destination address in place of a load balancer (Direct Connect)"
            self.estate.note(service.place, f"{what}, which is not modelled; left out")
            return None
        configurations = sorted(service.parts("ipConfigurations"), key=lambda one: not one.flag("primary"))
        subnet_id = next((found for one in configurations if (found := one.reference("subnet"))), None)
        network = self._networks.holding(service, subnet_id)
        name = self._names.claim("private_link_services", service.name, service.place)
        self._services[service.id.lower()] = name
        balancer = load_balancer(self.estate, service, subnet_id)
        nat_ips = self._nat_ips(service, configurations)
        if network is None or balancer is None:
            return None  # which has been refused
        result: dict[str, Any] = {"name": name, "virtual_network": network, "nat_ips": nat_ips}
        if service.flag("enableProxyProtocol"):
            result["enable_proxy_protocol"] = True
        for key, azure in (("visibility", "visibility"), ("auto_approval", "autoApproval")):
            part = service.part(azure)
            subscriptions = list(dict.fromkeys(part.texts("subscriptions"))) if part else []
            if subscriptions:
                result[key] = subscriptions
        result["load_balancer"] = balancer[0]
        if balancer[1]:
            result["nat"] = {"idle_reset": True}
        return result

    def _nat_ips(self, service: Resource, configurations: list[Part]) -> list[str]:
        """The NAT IPs. Azure does not print dynamic ones with the service, but with its network interface."""
        given = [one.address("privateIPAddress") for one in configurations]
        spare = [address for address in self._interface_addresses(service) if address not in given]
        result = []
        for configuration in configurations:
            address = configuration.address("privateIPAddress")
            if is_ipv6(configuration):
                self.estate.note(configuration.place, f"a NAT IP of {service.title} is IPv6, which is not modelled")
                continue
            if address is None and spare:
                address = spare.pop(0)
            if address is None:
                title = f"NAT IP {configuration.text('name')} of {service.title}"
                what = f"{title} is dynamic (add `az network nic list` if it is assigned): it"
                address = self.estate.chosen_address(configuration.place, what, configuration.reference("subnet"))
            if address is not None:
                result.append(address)
        if not configurations:
            self.estate.refuse(service.place, f"{service.title} has no ipConfigurations, and so no NAT IP")
        return result

    def _interface_addresses(self, holder: Resource) -> list[str]:
        """The addresses of the network interfaces of a service or an endpoint."""
        result = []
        for part in holder.parts("networkInterfaces"):
            interface = self.estate.find(part.text("id") or "")
            result += addresses_of(interface if interface is not None else part)
        return result

    # -- endpoints

    def _endpoint(self, endpoint: Resource) -> dict[str, Any] | None:
        manual = endpoint.parts("manualPrivateLinkServiceConnections")
        connections = endpoint.parts("privateLinkServiceConnections") + manual
        if len(connections) != 1:
            what = f"{endpoint.title} has {len(connections)} connections, but must have one"
            self.estate.refuse(endpoint.place, what)
            return None
        connection = connections[0]
        target = self._target(endpoint, connection)
        if target is None:
            return None
        subnet_id = endpoint.reference("subnet")
        network = self._networks.holding(endpoint, subnet_id)
        ip = self._endpoint_address(endpoint, subnet_id) if network else None
        if network is None or ip is None:
            return None
        name = self._names.claim("private_endpoints", endpoint.name, endpoint.place)
        result = {"name": name, "virtual_network": network, "ip": ip, "target": target}
        result |= self._connection(endpoint, connection, bool(manual))
        found = self.estate.subnet(subnet_id or "")
        rules = security_rules(self.estate, found[1], ip, self._networks.reachable(found[0])) if found else []
        return result | ({"security_rules": rules} if rules else {})

    def _target(self, endpoint: Resource, connection: Part) -> str | None:
        """The name of the service that an endpoint reaches; None when it is left out, which is said."""
        target_id = connection.text("privateLinkServiceId") or ""
        service = self.estate.find(target_id)
        if service is None:  # a service of others may be named by its alias
            aliases = {one.text("alias"): one for one in self.estate.of_kind(SERVICE)}
            service = aliases.get(target_id) if target_id else None
        if service is not None and service.id.lower() in self._services:
            return self._services[service.id.lower()]
        kind, name = kind_of(target_id), target_id.rpartition("/")[2]
        if service is not None:
            self.estate.note(endpoint.place, f"{endpoint.title} is left out, as {service.title} is")
            return None
        if kind in (SERVICE, ""):
            what = f"{endpoint.title} reaches private link service {name or '(none)'}, which is in none of the files"
            add = "add the output of `az network private-link-service list` of its subscription"
            self.estate.note(endpoint.place, f"{what}, and is left out; {add}")
            return None
        return self._platform(endpoint, connection, target_id, kind)

    def _platform(self, endpoint: Resource, connection: Part, target_id: str, kind: str) -> str:
        sub_resource = next(iter(connection.texts("groupIds")), "")
        key = (target_id.lower(), sub_resource)
        if key not in self._platforms:
            fqdns = [one.text("fqdn") for one in endpoint.parts("customDnsConfigs")]
            kinds = ("private_link_services", "platform_services")
            name = target_id.rpartition("/")[2]
            if any(self._names.place(one, name) for one in kinds) and sub_resource:
                name = f"{name}-{sub_resource}"
            described = {
                "name": self._names.claim("platform_services", name, endpoint.place, kinds),
                "kind": kind.partition("/")[0].rpartition(".")[2],
                "sub_resource": sub_resource or None,
                "frontend_ip": str(next(self._public)),
                "fqdn": next(filter(None, fqdns), None),
            }
            self._platforms[key] = {one: value for one, value in described.items() if value is not None}
        return str(self._platforms[key]["name"])

    def _endpoint_address(self, endpoint: Resource, subnet_id: str | None) -> str | None:
        found = self._interface_addresses(endpoint)
        for part in endpoint.parts("customDnsConfigs"):
            found += ipv4_addresses(part.texts("ipAddresses"))
        found = list(dict.fromkeys(found + addresses_of(endpoint)))
        if len(found) > 1:
            what = f"{endpoint.title} has the addresses {', '.join(found)}; the simulator has one per endpoint"
            self.estate.note(endpoint.place, f"{what}, so the first is taken")
        if found:
            return found[0]
        what = f"{endpoint.title} (add `az network nic list` if it is deployed)"
        return self.estate.chosen_address(endpoint.place, what, subnet_id)

    def _connection(self, endpoint: Resource, connection: Part, manual: bool) -> dict[str, Any]:
        """State and link id: as the service says, else as the endpoint does. Azure begins a manual one as pending."""
        result = ({"connection": "pending"} if manual else {}) | self._state(endpoint.title, connection)
        told = self._told.get(endpoint.id)
        return result if told is None else result | self._state(endpoint.title, told)

    def _state(self, title: str, connection: Part) -> dict[str, Any]:
        result: dict[str, Any] = {}
        state = connection.part("privateLinkServiceConnectionState")
        status = state.text("status") if state else None
        if status:
            result["connection"] = _STATES.get(status.lower(), "pending")
            if status.lower() not in _STATES:
                self.estate.note(connection.place, f"the connection of {title} is {status}; taken as pending")
        link_id = connection.text("linkIdentifier")
        if link_id and link_id.isdecimal() and int(link_id) < 2**32:
            result["link_id"] = int(link_id)
        elif link_id:
            what = f"linkIdentifier {link_id} of {title} is no number of 32 bits; another is derived from the name"
            self.estate.note(connection.place, what)
        return result

    def _unknown_endpoints(self, service: Resource) -> Iterator[dict[str, Any]]:
        """Endpoints of others, of which a service's owner sees the connection alone."""
        target, found = self._services.get(service.id.lower()), []
        for connection in service.parts("privateEndpointConnections"):
            endpoint_id = connection.reference("privateEndpoint")
            if target is None or endpoint_id is None or self.estate.find(endpoint_id) is not None:
                continue
            wanted = endpoint_id.rpartition("/")[2]
            name = self._names.claim("private_endpoints", wanted, connection.place)
            found.append(name)
            network = self._networks.unknown(connection, name, endpoint_id)
            ip = str(UNKNOWN_CONSUMER.network_address + 4)
            yield {"name": name, "virtual_network": network, "ip": ip, "target": target} | self._state(name, connection)
        if found:
            what = f"these private endpoints of {service.title} are in none of the files: {few(found)}"
            stands = f"networks of {UNKNOWN_CONSUMER} stand for theirs"
            add = (
                "add the output of `az network private-endpoint list` and `vnet list` of their subscriptions if you can"
            )
            self.estate.note(service.place, f"{what}; {stands}; {add}")

    # -- the whole

    def leave_out_unsupported(self, document: dict[str, Any]) -> None:
        """Take out what the simulator does not do yet, with what depends on it."""
        messages: dict[str, list[str]] = {}
        gone: list[tuple[str, Any]] = []
        for finding in list(unsupported.not_yet_supported(Draft(Topology, document))):
            kind, *rest = finding.path
            if not rest:
                continue  # a whole list; the endpoints that need it are findings of their own
            owner = document[str(kind)][rest[0]]
            messages.setdefault(f"{rest[-1]}: {finding.message}", []).append(owner["name"])
            if rest[-1] == "target":
                gone.append((str(kind), owner))
            else:
                del owner[rest[-1]]
        for kind, owner in gone:
            document[kind].remove(owner)
        targets = {endpoint["target"] for endpoint in document["private_endpoints"]}
        document["platform_services"] = [one for one in document["platform_services"] if one["name"] in targets]
        for message, names in messages.items():
            self.estate.note(few(names), f"{message.partition('; ')[0]}; left out")
        for platform in document["platform_services"]:
            what = f"its public address cannot be known; {platform['frontend_ip']} stands for it"
            self.estate.note(f"platform service {platform['name']}", what)

    def check(self, document: dict[str, Any]) -> None:
        """Refuse what would be no valid topology, in terms of the files."""
        try:
            Topology.model_validate(document)
        except ValidationError as error:
            for fault in error.errors(include_url=False, include_input=False):
                kind, *rest = fault["loc"] or ("",)
                items = document.get(str(kind), [])
                name = items[rest[0]]["name"] if rest and isinstance(rest[0], int) else ""
                place = self._names.place(str(kind), name)
                where = f"{place}: {name}" if place else str(kind)
                path = path_text(tuple(rest[1:]))
                self.estate.problems.append(Problem(None, where, f"{path}: {fault['msg']}" if path else fault["msg"]))
