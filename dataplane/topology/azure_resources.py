"""Azure resources in the JSON that the Azure CLI, ARM's REST interface and exported templates have.

The CLI writes a resource's properties beside its name, REST and templates under `properties`; older versions of the CLI
write other capitals (`privateIpAddress`). A `Part` makes these one. Resources are told by their `type` or `id`.
"""

import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from dataplane.topology.azure_template import ExpressionError, Template
from dataplane.topology.load import Problem
from dataplane.topology.values import shown

NETWORK, SERVICE = "microsoft.network/virtualnetworks", "microsoft.network/privatelinkservices"
ENDPOINT, BALANCER = "microsoft.network/privateendpoints", "microsoft.network/loadbalancers"
INTERFACE, SECURITY = "microsoft.network/networkinterfaces", "microsoft.network/networksecuritygroups"
KINDS = (NETWORK, SERVICE, ENDPOINT, BALANCER, INTERFACE, SECURITY)

_RESERVED = 4
"""Azure keeps the first four addresses of a subnet and the last (Virtual Network FAQ)."""


class Source:
    """A file: its name, and the template whose expressions its values may be."""

    def __init__(self, name: str, estate: "Estate", template: Template | None = None) -> None:
        self.name = name
        self.estate = estate
        self.template = template


class Part:
    """An object of a file, with its place for messages."""

    def __init__(self, source: Source, path: str, data: dict[str, Any]) -> None:
        self.source = source
        self.path = path
        self._fields: dict[str, tuple[str, Any]] = {}
        inner = data.get("properties")
        for where, fields in ((path, data), (f"{path}.properties", inner if isinstance(inner, dict) else {})):
            for key, value in fields.items():
                self._fields.setdefault(key.lower(), (f"{where}.{key}".lstrip("."), value))

    @property
    def place(self) -> str:
        """File and path, as messages begin."""
        return ": ".join(filter(None, (self.source.name, self.path)))

    def get(self, key: str) -> Any:
        """The value of a key, expressions resolved; None when there is none."""
        path, value = self._fields.get(key.lower(), ("", None))
        return self._resolved(path, value)

    def text(self, key: str) -> str | None:
        """A text, or None."""
        value: str | None = self._typed(key, str, "text")
        return value

    def number(self, key: str) -> int | None:
        """A whole number, or None."""
        text = self.get(key)
        if isinstance(text, str) and text.isdecimal():
            return int(text)  # parameters of templates may be texts
        value: int | None = self._typed(key, int, "a whole number")
        return value

    def address(self, key: str) -> str | None:
        """An IPv4 address, or None, also for one of IPv6."""
        text = self.text(key)
        if not text or ":" in text:
            return None
        if next(ipv4_addresses([text]), None) is None:
            path = self._fields[key.lower()][0]
            self.source.estate.refuse(f"{self.source.name}: {path}", f"{shown(text)} is not an IPv4 address")
            return None
        return text

    def flag(self, key: str) -> bool:
        """Whether something is true; what is not said is not."""
        return bool(self._typed(key, bool, "true or false"))

    def texts(self, key: str) -> list[str]:
        """A list of texts; empty when there is none."""
        path, _ = self._fields.get(key.lower(), ("", None))
        values = [self._resolved(path, value) for value in self._list(key)]
        return [value for value in values if isinstance(value, str)]

    def part(self, key: str) -> "Part | None":
        """The object below a key, or None."""
        value = self._typed(key, dict, "an object")
        return None if value is None else Part(self.source, self._fields[key.lower()][0], value)

    def parts(self, key: str) -> "list[Part]":
        """The objects of a list; empty when there is none."""
        path, _ = self._fields.get(key.lower(), ("", None))
        result = []
        for index, item in enumerate(self._list(key)):
            here = f"{path}[{index}]"
            value = self._resolved(here, item)
            if isinstance(value, dict):
                result.append(Part(self.source, here, value))
            elif value is not None:
                self.source.estate.refuse(f"{self.source.name}: {here}", f"is {shown(value)}, but must be an object")
        return result

    def reference(self, key: str) -> str | None:
        """The id of what a key refers to (`{"id": …}`), or None."""
        part = self.part(key)
        return None if part is None else part.text("id")

    def _list(self, key: str) -> list[Any]:
        return self._typed(key, list, "a list") or []

    def _typed(self, key: str, wanted: type, words: str) -> Any:
        value = self.get(key)
        if value is None or (isinstance(value, wanted) and not (wanted is int and isinstance(value, bool))):
            return value
        path = self._fields[key.lower()][0]
        self.source.estate.refuse(f"{self.source.name}: {path}", f"is {shown(value)}, but must be {words}")
        return None

    def _resolved(self, path: str, value: Any) -> Any:
        if self.source.template is None:
            return value
        try:
            return self.source.template.resolve(value)
        except ExpressionError as error:
            self.source.estate.refuse(f"{self.source.name}: {path}", f"{shown(value)}: {error}")
            return None


class Resource(Part):
    """A resource: an object with an id."""

    def __init__(self, source: Source, path: str, data: dict[str, Any], kind: str, resource_id: str) -> None:
        super().__init__(source, path, data)
        self.kind = kind
        self.id = resource_id
        self.name = resource_id.rpartition("/")[2]
        self.children: dict[str, list[Part]] = {}

    def parts(self, key: str) -> list[Part]:
        """The objects of a list, with those that files hold as resources of their own."""
        added = self.children.get(key.lower(), [])
        names = {part.text("name") for part in added}
        return [part for part in super().parts(key) if part.text("name") not in names] + added

    @property
    def subscription(self) -> str | None:
        """The subscription of the id; a template's resources have none."""
        return subscription_of(self.id)

    @property
    def title(self) -> str:
        """How messages name it."""
        return f"{_TITLES[self.kind]} {self.name}"


_TITLES = {
    NETWORK: "virtual network",
    SERVICE: "private link service",
    ENDPOINT: "private endpoint",
    BALANCER: "load balancer",
    INTERFACE: "network interface",
    SECURITY: "network security group",
}


class Estate:
    """Everything that the files hold, by id, and what there is to say of it."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.problems: list[Problem] = []
        self.taken: set[IPv4Address] = set()
        self._resources: dict[str, Resource] = {}
        self._by_tail: dict[str, list[Resource]] = {}

    def note(self, place: str, message: str) -> None:
        """Say what could not be known or is left out; once."""
        line = _printable(f"{place}: {message}")
        if line not in self.notes:
            self.notes.append(line)

    def refuse(self, place: str, message: str) -> None:
        """Say why there will be no topology; once."""
        problem = Problem(None, _printable(place), _printable(message))
        if problem not in self.problems:
            self.problems.append(problem)

    def add(self, resource: Resource) -> None:
        """Take a resource in; of two with the same id the first counts."""
        if resource.id.lower() in self._resources:
            first = self._resources[resource.id.lower()]
            self.note(resource.place, f"{resource.title} is in {first.place} already, which counts")
            return
        self._resources[resource.id.lower()] = resource
        self._by_tail.setdefault(_tail(resource.id), []).append(resource)

    def of_kind(self, kind: str) -> list[Resource]:
        """The resources of a kind, in order of the files."""
        return [resource for resource in self._resources.values() if resource.kind == kind]

    def find(self, resource_id: str) -> Resource | None:
        """The resource of an id. A template does not know its group: its resources are told by type and name."""
        found = self._resources.get(resource_id.lower())
        if found is None:
            same = [
                resource
                for resource in self._by_tail.get(_tail(resource_id), [])
                if subscription_of(resource_id) is None or resource.subscription is None
            ]
            found = same[0] if len(same) == 1 else None
            if found is not None:
                what = "is taken by its name alone, as a template does not say its group"
                self.note(found.place, f"{found.title} {what}; see that it is the right one")
        return found

    def subnet(self, subnet_id: str) -> tuple[Resource, Part] | None:
        """The virtual network and the subnet of a subnet's id; None when they are in none of the files."""
        network = self.find(parent_of(subnet_id))
        if network is None:
            return None
        name = subnet_id.rpartition("/")[2].lower()
        for part in network.parts("subnets"):
            if (part.text("name") or "").lower() == name:
                return network, part
        return None

    def chosen_address(self, place: str, what: str, subnet_id: str | None) -> str | None:
        """An address for what has none in the files, free in a subnet, and said; None when it had to be refused."""
        address, name = self._free_address(subnet_id), (subnet_id or "").rpartition("/")[2]
        if address is None and subnet_id is None:
            self.refuse(place, f"{what} has no address, nor a subnet to choose one from")
        elif address is None:
            network = parent_of(subnet_id or "").rpartition("/")[2]
            rule = "is full or in none of the files, so what has no address cannot be given one"
            self.refuse(
                f"subnet {name} of virtual network {network}", f"{rule}; add the output of `az network vnet list`"
            )
        else:
            self.note(place, f"{what} has no address; {address}, free in subnet {name}, stands for it")
        return address

    def _free_address(self, subnet_id: str | None) -> str | None:
        """The first address of a subnet that the files do not use, as Azure would give it; None when none is known."""
        found = self.subnet(subnet_id) if subnet_id else None
        if found is None:
            return None
        for prefix in ipv4_prefixes([found[1].text("addressPrefix"), *found[1].texts("addressPrefixes")]):
            for number in range(_RESERVED, prefix.num_addresses - 1):
                address = prefix.network_address + number
                if address not in self.taken:
                    self.taken.add(address)
                    return str(address)
        return None


def ipv4_prefixes(texts: Sequence[str | None]) -> Iterator[IPv4Network]:
    """The IPv4 prefixes among texts."""
    for text in texts:
        try:
            yield IPv4Network(text or "")
        except ValueError:
            continue


def ipv4_addresses(texts: Sequence[str]) -> Iterator[str]:
    """The IPv4 addresses among texts."""
    for text in texts:
        try:
            yield str(IPv4Address(text))
        except ValueError:
            continue


def addresses_of(part: Part) -> list[str]:
    """The IPv4 addresses of a network interface's configurations, the primary one first."""
    configurations = sorted(part.parts("ipConfigurations"), key=lambda one: not one.flag("primary"))
    found = [one.address("privateIPAddress") for one in configurations]
    return [address for address in found if address]


def is_ipv6(configuration: Part) -> bool:
    """Whether an IP configuration is one of IPv6."""
    version = configuration.text("privateIPAddressVersion") or ""
    return version.lower() == "ipv6" or ":" in (configuration.text("privateIPAddress") or "")


def parent_of(resource_id: str) -> str:
    """The id of what a part with an id of its own belongs to."""
    return resource_id.rsplit("/", 2)[0]


def subscription_of(resource_id: str) -> str | None:
    """The subscription in an id, or None."""
    match = re.match(r"/subscriptions/([^/]+)/", resource_id, re.IGNORECASE)
    return match[1] if match else None


def kind_of(resource_id: str) -> str:
    """The type in an id, in lower case: `microsoft.network/virtualnetworks/subnets`; empty when it has none."""
    namespace, *rest = _tail(resource_id).split("/")
    kind = "/".join((namespace, *rest[::2])) if rest and "/providers/" in resource_id.lower() else ""
    return INTERFACE if kind.endswith("/networkinterfaces") else kind  # a scale set's belong to its machines


def few(names: Sequence[str]) -> str:
    """Names for a line of text: the first five, and how many more."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _printable(text: str) -> str:
    """A line without what a terminal would obey: files may hold anything."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def _tail(resource_id: str) -> str:
    return resource_id.lower().rpartition("/providers/")[2]
