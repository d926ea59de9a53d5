"""What a topology is made of: networks, endpoints, services, their policies, and events.

Names are those of the topology file. Objects are frozen; each checks itself. What must hold between
them is checked by `Topology`. Durations are nanoseconds.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationInfo,
    field_validator,
    model_validator,
)

from dataplane.topology import values
from dataplane.topology.profiles import DEFAULT_PROFILE, PROFILES
from dataplane.topology.values import (
    LOWER_CASE,
    Address,
    Count,
    DestinationPorts,
    Duration,
    LinkId,
    Name,
    NatPorts,
    Port,
    PositiveDuration,
    Prefix,
    Probes,
    Source,
    Text,
    shown,
)

Protocol = Literal["tcp", "udp"]
Connection = Literal["pending", "approved", "rejected", "disconnected"]

PROBING = ("random", "preserve", "hash", "hash_buckets")
"""The port allocations that may look at a bounded number of ports."""

_DEFAULTS = PROFILES[DEFAULT_PROFILE]
_TIMEOUTS = _DEFAULTS["timeouts"]


class Part(BaseModel):
    """What all parts of a topology share: frozen, and no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class VirtualNetwork(Part):
    """A virtual network: a place where packets are seen, of a consumer or of a provider."""

    name: Name = Field(description="Unique name; also the name of the network's point.")
    region: Text | None = Field(default=None, description="Azure region.")
    address_space: tuple[Prefix, ...] = Field(min_length=1, description="IPv4 prefixes of the network.")
    subscription: Text | None = Field(default=None, description="Subscription, for approval.")
    tenant: Text | None = Field(default=None, description="Tenant of the subscription.")
    peered_with: tuple[Name, ...] = Field(
        default=(), description="Networks whose hosts may use the private endpoints here."
    )
    on_premises: tuple[Prefix, ...] = Field(
        default=(), description="Prefixes that reach the network over VPN or ExpressRoute."
    )


class LoadBalancingRule(Part):
    """What arrives at the frontend port goes to the backend port."""

    protocol: Annotated[Protocol, LOWER_CASE] = Field(description="tcp or udp.")
    frontend_port: Port = Field(description="Port of the private endpoint.")
    backend_port: Port = Field(description="Port of the backends.")
    idle_timeout: PositiveDuration | None = Field(
        default=None, description="The rule's own idle time-out; the shorter of it and the service's counts."
    )


class LoadBalancer(Part):
    """The Standard Load Balancer that a private link service stands on."""

    frontend_ip: Address = Field(description="Frontend address, in the provider's network.")
    distribution: Literal["five_tuple", "source_ip", "source_ip_protocol"] = Field(
        default="five_tuple", description="What the choice of a backend is hashed from."
    )
    rules: tuple[LoadBalancingRule, ...] = Field(description="Load-balancing rules.")
    backend_pool: tuple[Address, ...] = Field(description="Backends; none means no healthy backend.")


class Timeouts(Part):
    """How long a session lives after its last refresh, by state, in nanoseconds."""

    tcp_established: PositiveDuration = Field(
        default=values.parse_duration(_TIMEOUTS["tcp_established"]), description="Handshake complete."
    )
    tcp_half_open: PositiveDuration = Field(
        default=values.parse_duration(_TIMEOUTS["tcp_half_open"]), description="Handshake not complete."
    )
    tcp_half_closed: PositiveDuration | None = Field(
        default=None, description="After FIN from one side; null: as tcp_established."
    )
    tcp_closing: PositiveDuration = Field(
        default=values.parse_duration(_TIMEOUTS["tcp_closing"]),
        description="After FIN both ways (or the first, as tcp.closing says).",
    )
    tcp_reset: PositiveDuration = Field(
        default=values.parse_duration(_TIMEOUTS["tcp_reset"]), description="After RST."
    )
    udp: PositiveDuration = Field(default=values.parse_duration(_TIMEOUTS["udp"]), description="UDP.")
    udp_unreplied: PositiveDuration | None = Field(
        default=None, description="UDP before the provider's first datagram; null: as udp."
    )
    icmp: PositiveDuration = Field(
        default=values.parse_duration(_TIMEOUTS["icmp"]), description="Echo, under icmp: all."
    )


class TcpPolicy(Part):
    """How a TCP session ends, and whether it comes back (RFC 5382, RFC 7857 §2)."""

    closing: Literal["both_fins", "first_fin"] = Field(
        default=_DEFAULTS["tcp"]["closing"], description="Closing begins with FIN both ways, or with the first FIN."
    )
    reset: Literal["final", "until_data"] = Field(
        default=_DEFAULTS["tcp"]["reset"],
        description="After RST: over, or alive again when data follows (RFC 7857 §2.2).",
    )
    reopen: Literal["new_session", "handshake"] = Field(
        default=_DEFAULTS["tcp"]["reopen"],
        description="A SYN in closing or reset: opens a new session, or revives this one by a whole handshake.",
    )
    closing_refresh: StrictBool = Field(
        default=_DEFAULTS["tcp"]["closing_refresh"],
        description="Whether packets refresh the timer in closing and reset.",
    )


class NatPolicy(Part):
    """How a service translates. What the file leaves out comes from the profile."""

    profile: Literal["azure-pls", "azure-natgw", "azure-slb", "gcp-psc", "rfc", "linux", "vpp"] = Field(
        default=DEFAULT_PROFILE, description="Sets every key that is left out."
    )
    nat_ports: NatPorts = Field(
        default=values.parse_port_range(_DEFAULTS["nat_ports"]), description="Ports of every NAT pool."
    )
    port_allocation: Literal["random", "sequential", "preserve", "hash", "hash_buckets", "block"] = Field(
        default=_DEFAULTS["port_allocation"], description="How a free port is chosen."
    )
    probes: Probes | None = Field(
        default=_DEFAULTS["probes"],
        description="How many ports are looked at, as a number or a list of runs of adjacent ports; null: exact. "
        "For random, preserve, hash and hash_buckets.",
    )
    block_size: Count = Field(default=_DEFAULTS["block_size"], description="Ports of a block (block).")
    blocks_per_endpoint: Count | None = Field(
        default=_DEFAULTS["blocks_per_endpoint"], description="Cap on one endpoint's blocks in each pool (block)."
    )
    nat_ip_selection: Literal["hash", "round_robin", "fill_first", "paired"] = Field(
        default=_DEFAULTS["nat_ip_selection"], description="How the NAT IP of a new session is chosen."
    )
    ports_per_endpoint: Count | None = Field(
        default=_DEFAULTS["ports_per_endpoint"], description="Cap on one endpoint's ports in each pool."
    )
    spill: StrictBool = Field(
        default=_DEFAULTS["spill"], description="When the chosen NAT IP is full, try the others in order."
    )
    decrement_ttl: StrictBool = Field(
        default=_DEFAULTS["decrement_ttl"], description="Whether the time to live goes down on each pass."
    )
    sessions_per_backend: Count | None = Field(
        default=_DEFAULTS["sessions_per_backend"], description="Limit on live sessions at one backend's host."
    )
    first_packet: Literal["syn", "any"] = Field(
        default=_DEFAULTS["first_packet"], description="What may start a TCP session: a SYN, or any packet."
    )
    port_hold: Duration = Field(
        default=values.parse_duration(_DEFAULTS["port_hold"]),
        description="How long a port is held after its session; may be 0s.",
    )
    icmp: Literal["none", "errors", "all"] = Field(
        default=_DEFAULTS["icmp"], description="What is translated of ICMP: nothing, errors, echo too."
    )
    fragments: Literal["drop", "translate"] = Field(
        default=_DEFAULTS["fragments"], description="Whether IPv4 fragments follow the first of them."
    )
    idle_reset: StrictBool = Field(
        default=_DEFAULTS["idle_reset"],
        description="Whether both sides get an RST when an established session times out.",
    )
    tcp: TcpPolicy = Field(default_factory=TcpPolicy, description="How a TCP session ends.")
    timeouts: Timeouts = Field(default_factory=Timeouts, description="Life of a session by state.")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_profile(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        profile = data.get("profile", DEFAULT_PROFILE)
        defaults = PROFILES.get(profile, _DEFAULTS) if isinstance(profile, str) else _DEFAULTS
        filled = {**defaults, **data}
        if "probes" not in data and filled["port_allocation"] not in PROBING:
            filled["probes"] = None  # the profile's are meant for its own allocation
        for key in ("tcp", "timeouts"):
            if isinstance(filled[key], dict):
                filled[key] = {**defaults[key], **filled[key]}
        return filled

    @field_validator("probes")
    @classmethod
    def _probes_fit(cls, probes: int | tuple[int, ...] | None, info: ValidationInfo) -> int | tuple[int, ...] | None:
        allocation = info.data.get("port_allocation")  # None when it is itself wrong
        if probes is not None and allocation is not None and allocation not in PROBING:
            raise ValueError(
                f"{shown(probes)} does not go with port_allocation {allocation}; write null, or allocate by one of "
                f"{', '.join(PROBING)}"
            )
        return probes

    @property
    def probe_runs(self) -> tuple[int, ...]:
        """`probes` as lengths of runs; empty when the allocation is exact."""
        if self.probes is None:
            return ()
        return (1,) * self.probes if isinstance(self.probes, int) else self.probes


class PrivateLinkService(Part):
    """A provider's service behind a load balancer, offered to private endpoints."""

    name: Name = Field(description="Unique name.")
    virtual_network: Name = Field(description="The provider's network.")
    nat_ips: tuple[Address, ...] = Field(
        min_length=1, description="1 to 8 NAT IPs in the provider's network."
    )
    enable_proxy_protocol: StrictBool = Field(
        default=False, description="Send proxy protocol v2 ahead of TCP data."
    )
    visibility: tuple[Text, ...] = Field(
        default=("*",), description='Subscriptions that may connect; "*": all.'
    )
    auto_approval: tuple[Text, ...] = Field(
        default=(), description="Subscriptions whose connections are approved at once."
    )
    load_balancer: LoadBalancer = Field(description="Frontend, rules and backends.")
    nat: NatPolicy = Field(default_factory=NatPolicy, description="How the service translates.")


class PlatformService(Part):
    """One of Azure's own services, reached through a private endpoint."""

    name: Name = Field(description="Unique name, also among private link services.")
    kind: Text = Field(description="Kind of service, such as storage or sql.")
    sub_resource: Text | None = Field(default=None, description="Sub-resource (group id), such as blob.")
    frontend_ip: Address = Field(description="The service's public address.")
    fqdn: Text | None = Field(default=None, description="The resource's domain name.")


class SecurityRule(Part):
    """A rule of the network security group on a private endpoint's subnet."""

    name: Name = Field(description="Unique name on its endpoint.")
    priority: Annotated[int, Field(strict=True, ge=100, le=4096)] = Field(
        description="100 to 4096, unique on its endpoint; the lowest is looked at first."
    )
    action: Annotated[Literal["allow", "deny"], LOWER_CASE] = Field(description="allow or deny.")
    protocol: Annotated[Literal["tcp", "udp", "*"], LOWER_CASE] = Field(
        default="*", description="tcp, udp, *."
    )
    source: Annotated[tuple[Source, ...], BeforeValidator(values.one_or_many)] = Field(
        default=(values.parse_prefix("0.0.0.0/0"),), description="Prefixes of the senders."
    )
    destination_ports: Annotated[tuple[DestinationPorts, ...], BeforeValidator(values.one_or_many)] = Field(
        default=(values.PortRange(1, 65535),), description="Ports of the endpoint."
    )


class PrivateEndpoint(Part):
    """A private endpoint: an address in a consumer's network that stands for a service."""

    name: Name = Field(description="Unique name.")
    virtual_network: Name = Field(description="The network that holds the endpoint.")
    ip: Address = Field(description="Address, in the network's address space.")
    target: Name = Field(description="The service that it reaches.")
    link_id: LinkId | None = Field(
        default=None, description="Unique number of the connection; derived from the name when left out."
    )
    connection: Connection | None = Field(
        default=None,
        description="State of the connection. When left out: approved, unless the service has an "
        "auto_approval list that does not name the subscription of the endpoint's network: then pending.",
    )
    security_rules: tuple[SecurityRule, ...] = Field(default=(), description="Rules on traffic to it.")


class Event(Part):
    """Something that happens in the run: one action, at a capture time counted from the first packet."""

    ACTIONS: ClassVar[tuple[str, ...]] = (
        "approve", "reject", "disconnect", "backend_down", "backend_up", "add_nat_ip", "remove_nat_ip",
    )  # fmt: skip

    at: Duration = Field(description="When, counted from the first packet.")
    approve: Name | None = Field(default=None, description="Private endpoint whose connection is approved.")
    reject: Name | None = Field(default=None, description="Private endpoint whose connection is rejected.")
    disconnect: Name | None = Field(default=None, description="Private endpoint whose connection is removed.")
    backend_down: Name | None = Field(default=None, description="Service; `address` is a backend of it.")
    backend_up: Name | None = Field(default=None, description="Service; `address` is a backend of it.")
    add_nat_ip: Name | None = Field(default=None, description="Service; `address` is the new NAT IP.")
    remove_nat_ip: Name | None = Field(default=None, description="Service; `address` is a NAT IP of it.")
    address: Address | None = Field(default=None, description="Backend or NAT IP, for actions on a service.")

    @model_validator(mode="after")
    def _one_action(self) -> Self:
        given = [action for action in self.ACTIONS if getattr(self, action) is not None]
        if len(given) != 1:
            actions = ", ".join(self.ACTIONS)
            raise ValueError(f"has {len(given)} actions; an event has exactly one of {actions}")
        if (self.address is not None) != self.is_about_service:
            raise ValueError(f"{given[0]} {'needs an' if self.is_about_service else 'takes no'} address")
        return self

    @property
    def action(self) -> str:
        """What happens: one of ACTIONS."""
        return next(action for action in self.ACTIONS if getattr(self, action) is not None)

    @property
    def subject(self) -> str:
        """The name of the endpoint or service it happens to."""
        return str(getattr(self, self.action))

    @property
    def moves_sessions(self) -> bool:
        """True when it changes which backend a session would get that is open already."""
        return self.action in ("backend_down", "backend_up")

    @property
    def is_about_service(self) -> bool:
        """True when the subject is a service, False when it is a private endpoint."""
        return self.action not in ("approve", "reject", "disconnect")
