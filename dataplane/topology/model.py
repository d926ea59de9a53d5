"""The topology as one object, checked as a whole.

`Topology.model_validate` checks every object by itself (`parts`) and all of them together (`rules`,
`limits`, `unsupported`) and raises one pydantic ValidationError with everything it found. The parts
are importable from here too.
"""

import hashlib
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator

from dataplane.topology.parts import (
    Connection,
    Event,
    LoadBalancer,
    LoadBalancingRule,
    NatPolicy,
    Part,
    PlatformService,
    PrivateEndpoint,
    PrivateLinkService,
    Protocol,
    SecurityRule,
    TcpPolicy,
    Timeouts,
    VirtualNetwork,
)
from dataplane.topology.values import PortRange

__all__ = [
    "Connection",
    "Event",
    "LoadBalancer",
    "LoadBalancingRule",
    "NatPolicy",
    "PlatformService",
    "PortRange",
    "PrivateEndpoint",
    "PrivateLinkService",
    "Protocol",
    "SecurityRule",
    "TcpPolicy",
    "Timeouts",
    "Topology",
    "VirtualNetwork",
]


class Topology(Part):
    """Everything that exists, checked: `load_topology` reads it, `Simulator` runs it."""

    virtual_networks: tuple[VirtualNetwork, ...] = Field(default=(), description="All networks.")
    private_link_services: tuple[PrivateLinkService, ...] = Field(
        default=(), description="Services of providers."
    )
    platform_services: tuple[PlatformService, ...] = Field(default=(), description="Azure's own services.")
    private_endpoints: tuple[PrivateEndpoint, ...] = Field(default=(), description="Endpoints of consumers.")
    events: tuple[Event, ...] = Field(default=(), description="What happens during the run.")
    limits: Literal["azure", "none"] = Field(
        default="azure", description="azure: Azure's published limits hold; none: they are switched off."
    )

    @model_validator(mode="wrap")
    @classmethod
    def _check_all(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Check the parts and then the whole, so that one error lists the faults of both kinds."""
        from dataplane.topology import check  # needs this class

        if isinstance(data, cls):
            return handler(data)
        topology: Self | None = None
        findings: list[check.Finding] = []
        try:
            topology = handler(data)
        except ValidationError as error:
            findings = check.findings_of(error, cls)
        findings += check.check_whole(topology if topology is not None else data)
        if topology is None or findings:
            raise check.error_with(cls.__name__, "topology", findings)
        topology._fill_endpoints()
        return topology

    def _fill_endpoints(self) -> None:
        """Write down what was left to be derived, so that a topology that is saved says what was used."""
        link_ids = self.link_ids()
        services = {service.name: service for service in self.private_link_services}
        networks = {network.name: network for network in self.virtual_networks}
        filled = tuple(
            endpoint.model_copy(
                update={
                    "link_id": link_ids[endpoint.name],
                    "connection": _connection(
                        endpoint, services[endpoint.target], networks[endpoint.virtual_network]
                    ),
                }
            )
            for endpoint in self.private_endpoints
        )
        # Not through setattr: the object is frozen, and pydantic keeps only this instance on __init__.
        self.__dict__["private_endpoints"] = filled

    def network(self, name: str) -> VirtualNetwork:
        """The network of that name; KeyError when there is none."""
        return _named(self.virtual_networks, name, "virtual network")

    def service(self, name: str) -> PrivateLinkService:
        """The private link service of that name; KeyError when there is none."""
        return _named(self.private_link_services, name, "private link service")

    def endpoint(self, name: str) -> PrivateEndpoint:
        """The private endpoint of that name; KeyError when there is none."""
        return _named(self.private_endpoints, name, "private endpoint")

    @property
    def consumer_networks(self) -> tuple[VirtualNetwork, ...]:
        """The networks that hold a private endpoint, in file order."""
        holding = {endpoint.virtual_network for endpoint in self.private_endpoints}
        return tuple(network for network in self.virtual_networks if network.name in holding)

    def visible_endpoints(self, network_name: str) -> tuple[PrivateEndpoint, ...]:
        """Endpoints that a network's hosts may use: its own, then those of networks peered with it."""
        self.network(network_name)
        order = [network_name] + [
            network.name
            for network in self.virtual_networks
            if network_name in network.peered_with and network.name != network_name
        ]
        return tuple(
            endpoint
            for holder in order
            for endpoint in self.private_endpoints
            if endpoint.virtual_network == holder
        )

    def connection_of(self, endpoint: PrivateEndpoint) -> Connection:
        """State of a connection at the start: as given, else approved or, by auto_approval, pending."""
        if endpoint.connection is not None:
            return endpoint.connection
        return _connection(endpoint, self.service(endpoint.target), self.network(endpoint.virtual_network))

    def link_ids(self) -> dict[str, int]:
        """The link id of every endpoint by name: as given, else a hash of the name, past ids in use."""
        result = {endpoint.name: endpoint.link_id for endpoint in self.private_endpoints}
        taken = {link_id for link_id in result.values() if link_id is not None}
        # In order of names, so that the order in the file does not matter.
        for name in sorted(name for name, link_id in result.items() if link_id is None):
            link_id = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big")
            while link_id in taken:
                link_id = (link_id + 1) & 0xFFFFFFFF
            taken.add(link_id)
            result[name] = link_id
        return {name: link_id for name, link_id in result.items() if link_id is not None}


def _connection(
    endpoint: PrivateEndpoint, service: PrivateLinkService, network: VirtualNetwork
) -> Connection:
    if endpoint.connection is not None:
        return endpoint.connection
    listed = service.auto_approval
    return "approved" if not listed or "*" in listed or network.subscription in listed else "pending"


_Named = TypeVar("_Named", VirtualNetwork, PrivateLinkService, PrivateEndpoint)


def _named(parts: tuple[_Named, ...], name: str, kind: str) -> _Named:
    for part in parts:
        if part.name == name:
            return part
    names = ", ".join(part.name for part in parts) or "none"
    raise KeyError(f"no {kind} is named {name}; there are: {names}")
