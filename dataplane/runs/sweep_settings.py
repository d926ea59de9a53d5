"""What a sweep may vary: a small closed set of settings, how each is checked, and what it changes in a scenario."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Annotated, Any

from pydantic import Field, create_model

from dataplane.runs.scenario import Scenario
from dataplane.runs.scenario_values import between, number_schema
from dataplane.topology.model import Topology
from dataplane.topology.parts import PROBING, NatPolicy, Part, Timeouts

#: Settings of one cell by name, values as the file writes them.
Settings = dict[str, Any]

#: The most NAT IPs or backends of a service.
MOST_ADDRESSES = 1000

_Addresses = Annotated[int, Field(strict=True, ge=1, le=MOST_ADDRESSES)]
_Factor = Annotated[float, between(0, 1e6, "a factor"), number_schema(0, 1e6)]


def _type_of(model: type[Part], name: str) -> Any:
    field = model.model_fields[name]
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


#: Key of `nat` in a topology, by setting.
_NAT = {"allocation": "port_allocation"} | {name: name for name in ("probes", "port_hold", "ports_per_endpoint")}

_TYPES: dict[str, tuple[Any, str]] = {
    "nat_ips": (_Addresses, "How many NAT IPs each service has, counted on from its first."),
    "backends": (_Addresses, "How many backends each service has, counted on from its first."),
    **{name: (_type_of(NatPolicy, key), f"nat: {{{key}: …}} of each service.") for name, key in _NAT.items()},
    **{
        f"timeouts.{name}": (_type_of(Timeouts, name), f"nat: {{timeouts: {{{name}: …}}}} of each service.")
        for name in Timeouts.model_fields
    },
    "load": (_Factor, "A factor on the rates of every source, or on the copies of given connections."),
    "seed": (_type_of(Scenario, "seed"), "The scenario's seed."),
}

_FIELDS: dict[str, Any] = {
    name: (tuple[kind, ...], Field(default=(), description=text))  # type: ignore[valid-type]
    for name, (kind, text) in _TYPES.items()
}

#: The key `grid` of a sweep: for each setting that is varied, its values.
Grid: type[Part] = create_model("Grid", __base__=Part, **_FIELDS)

_RATES = ("rate", "to_rate", "off_rate", "low", "high")


def with_settings(scenario: Scenario, settings: Settings) -> Scenario:
    """The scenario with the settings in the places of its own.

    Raises pydantic's ValidationError, or ValueError where a setting has nothing to change.
    """
    topology = scenario.topology.model_dump(mode="json")
    document = scenario.model_dump(mode="json", exclude={"topology"}, exclude_none=True)
    for name, value in settings.items():
        if name == "seed":
            document["seed"] = value
        elif name == "load":
            _load(document["traffic"], value)
        else:
            change = _change(name)
            for service in topology["private_link_services"]:
                change(service, value)
    topology["events"] = [{k: v for k, v in event.items() if v is not None} for event in topology["events"]]
    return Scenario.model_validate({**document, "topology": Topology.model_validate(topology)})


def with_nat(topology: Topology, **values: Any) -> Topology:
    """The topology with these values, as its objects have them, in the NAT of every service; they are not checked."""
    services = tuple(
        service.model_copy(update={"nat": service.nat.model_copy(update=values)})
        for service in topology.private_link_services
    )
    return topology.model_copy(update={"private_link_services": services})


def _change(name: str) -> Callable[[dict[str, Any], Any], None]:
    """What a setting does to one service of a topology."""
    if name == "nat_ips":
        return lambda service, count: service.update(nat_ips=_counted_on(service["nat_ips"], count))
    if name == "backends":
        return _backends
    if name == "allocation":
        return lambda service, choice: _allocation(service["nat"], choice)
    if name.startswith("timeouts."):
        return lambda service, value: service["nat"]["timeouts"].update({name.removeprefix("timeouts."): value})
    return lambda service, value: service["nat"].update({_NAT[name]: value})


def _backends(service: dict[str, Any], count: int) -> None:
    balancer = service["load_balancer"]
    if not balancer["backend_pool"]:
        raise ValueError(f"{service['name']} has no backend to count on from; write one into its backend_pool")
    balancer["backend_pool"] = _counted_on(balancer["backend_pool"], count)


def _allocation(nat: dict[str, Any], choice: str) -> None:
    nat["port_allocation"] = choice
    if choice not in PROBING:
        nat["probes"] = None  # the scenario's are meant for its own allocation


def _counted_on(addresses: list[str], count: int) -> list[str]:
    first = int(IPv4Address(addresses[0]))
    # Past the last address of all it goes on with the first, which no network of a provider has.
    return [str(IPv4Address((first + number) % 2**32)) for number in range(count)]


def _load(traffic: list[dict[str, Any]], factor: float) -> None:
    for source in traffic:
        arrivals = source["arrivals"]
        if arrivals.keys() & {"file", "files", "moments"}:
            arrivals["copies"] = arrivals.get("copies", 1) * factor
        for part in (arrivals, *arrivals.get("steps", ())):
            part.update({key: part[key] * factor for key in _RATES if key in part})
