"""The small values of a topology file: durations, port ranges, addresses, names, ports.

Each is an annotated type that pydantic reads from the text in the file, writes back as that text
and describes in the JSON Schema. Errors say what was found and what to write instead.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
"""Nanoseconds of every unit a duration may have."""

LONGEST_DURATION = 3650 * NANOSECONDS["d"]
"""Ten years: longer than any capture, and far from the end of 64-bit nanoseconds when added to a time."""

MOST_RUNS = 64
"""The longest list of runs that `probes` may be: each is a random number drawn for one packet."""

_DURATION_PATTERN = r"[0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h|d)"
_RANGE_PATTERN = r"[0-9]{1,5}-[0-9]{1,5}"


def shown(value: object) -> str:
    """A value as an error message shows it: as in the file, and short."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple | set):
        return "a list"
    text = str(value)
    return (
        repr(text)
        if text != text.strip() or not text.isprintable() or not text
        else (text if len(text) <= 60 else f"{text[:57]}...")
    )


def parse_duration(value: object) -> int:
    """Nanoseconds of a text such as `250ms`, `1.5s` or `5m`; ValueError for everything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"is {shown(value)}, but must be a duration, such as 250ms, 30s, 5m or 1h")
    text = str(value).replace("µ", "u").replace("μ", "u")
    if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", text):
        units = ", ".join(NANOSECONDS)
        raise ValueError(f"{shown(value)} needs a unit: write {value}s for seconds (units: {units})")
    match = re.fullmatch(_DURATION_PATTERN, text)
    if match is None:
        raise ValueError(
            f"{shown(value)} is not a duration; write a number and its unit, such as 250ms or 30s"
        )
    unit = match[2]
    exact = Fraction(text.removesuffix(unit)) * NANOSECONDS[unit]
    if exact.denominator != 1:
        raise ValueError(f"{shown(value)} is finer than a nanosecond; write a whole number of nanoseconds")
    if exact > LONGEST_DURATION:
        raise ValueError(f"{shown(value)} is too long; the longest duration is 3650d")
    return int(exact)


def format_duration(nanoseconds: int) -> str:
    """The duration in whole seconds (`300s`) or else in the largest smaller unit that is exact."""
    for unit in ("s", "ms", "us"):
        if nanoseconds % NANOSECONDS[unit] == 0:
            return f"{nanoseconds // NANOSECONDS[unit]}{unit}"
    return f"{nanoseconds}ns"


def _positive(nanoseconds: int) -> int:
    if nanoseconds == 0:
        raise ValueError("must be longer than 0s: a session that times out at once could carry nothing")
    return nanoseconds


def parse_address(value: object) -> IPv4Address:
    """An IPv4 address from its dotted text; whole numbers are refused, though `ipaddress` takes them."""
    if isinstance(value, IPv4Address):
        return value
    if isinstance(value, str):
        try:
            return IPv4Address(value)
        except ValueError:
            pass
        if ":" in value:
            raise ValueError(f"{shown(value)} is not an IPv4 address; Private Link services carry IPv4 only")
    raise ValueError(f"{shown(value)} is not an IPv4 address; write four numbers from 0 to 255, as 10.0.1.5")


def parse_prefix(value: object) -> IPv4Network:
    """An IPv4 prefix from `10.0.0.0/16`; one with host bits set is refused and the right one named."""
    if isinstance(value, IPv4Network):
        return value
    if isinstance(value, str) and re.fullmatch(r"[^/]+/[0-9]{1,2}", value):
        try:
            network = IPv4Network(value, strict=False)
        except ValueError:
            pass
        else:
            if str(network) != value:
                raise ValueError(f"{value} has bits set beyond its length; write {network}")
            return network
    raise ValueError(f"{shown(value)} is not an IPv4 prefix; write address and length, as 10.0.0.0/16")


@dataclass(frozen=True, slots=True)
class PortRange:
    """The ports from `first` to `last`, both included; 1 ≤ first ≤ last ≤ 65535."""

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last <= 65535:
            raise ValueError(f"{self} is not a port range; write first-last with 1 ≤ first ≤ last ≤ 65535")

    @property
    def size(self) -> int:
        """How many ports the range has."""
        return self.last - self.first + 1

    def __contains__(self, port: object) -> bool:
        return isinstance(port, int) and self.first <= port <= self.last

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


def parse_port_range(value: object) -> PortRange:
    """A range from `1024-65535`."""
    if isinstance(value, PortRange):
        return value
    if isinstance(value, str) and re.fullmatch(_RANGE_PATTERN, value):
        first, last = value.split("-")
        return PortRange(int(first), int(last))
    raise ValueError(f"{shown(value)} is not a port range; write first and last port, such as 1024-65535")


def _parse_destination_ports(value: object) -> PortRange:
    """Also one port, or `*` for all of them, as network security groups write it."""
    if value == "*":
        return PortRange(1, 65535)
    if isinstance(value, str) and re.fullmatch("[0-9]{1,5}", value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return PortRange(value, value)
    return parse_port_range(value)


def _parse_source(value: object) -> IPv4Network:
    """Also `*` for every source, or one address."""
    if value == "*":
        return IPv4Network("0.0.0.0/0")
    if isinstance(value, str) and "/" not in value:
        return IPv4Network(parse_address(value))
    return parse_prefix(value)


def _parse_probes(value: object) -> int | tuple[int, ...]:
    """A number of ports, or a list of lengths of runs."""
    if isinstance(value, list | tuple):
        if not 1 <= len(value) <= MOST_RUNS:
            raise ValueError(f"is a list of {len(value)} runs; write 1 to {MOST_RUNS}, or null for an exact search")
        return tuple(_parse_run(run) for run in value)
    return _parse_run(value)


def _parse_run(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise ValueError(
            f"{shown(value)} is not a number of ports to look at; write 1 to 65535, a list of these "
            "for runs of adjacent ports, or null for an exact search"
        )
    return value


def one_or_many(value: Any) -> Any:
    """A single value stands for a list of one."""
    return value if isinstance(value, list | tuple) else (value,)


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


LOWER_CASE = BeforeValidator(_lower)
"""Lets a word be written in upper case, as Azure writes `Tcp`."""

_DURATION_SCHEMA = WithJsonSchema(
    {"type": "string", "pattern": f"^{_DURATION_PATTERN}$", "examples": ["250ms", "30s", "5m", "1h"]}
)
_ADDRESS_SCHEMA = {"type": "string", "format": "ipv4"}
_PREFIX_SCHEMA = {
    "type": "string",
    "pattern": r"^[0-9]{1,3}(\.[0-9]{1,3}){3}/[0-9]{1,2}$",
    "examples": ["10.0.0.0/16"],
}
_TO_TEXT = PlainSerializer(str, return_type=str)

Duration = Annotated[
    int, PlainValidator(parse_duration), PlainSerializer(format_duration, return_type=str), _DURATION_SCHEMA
]
"""Nanoseconds, int; text with a unit in the file."""

PositiveDuration = Annotated[
    int,
    PlainValidator(lambda value: _positive(parse_duration(value))),
    PlainSerializer(format_duration, return_type=str),
    _DURATION_SCHEMA,
]
"""A Duration longer than nothing."""

Address = Annotated[IPv4Address, PlainValidator(parse_address), _TO_TEXT, WithJsonSchema(_ADDRESS_SCHEMA)]
Prefix = Annotated[IPv4Network, PlainValidator(parse_prefix), _TO_TEXT, WithJsonSchema(_PREFIX_SCHEMA)]

NatPorts = Annotated[
    PortRange,
    PlainValidator(parse_port_range),
    _TO_TEXT,
    WithJsonSchema({"type": "string", "pattern": f"^{_RANGE_PATTERN}$", "examples": ["1024-65535"]}),
]
DestinationPorts = Annotated[
    PortRange,
    PlainValidator(_parse_destination_ports),
    _TO_TEXT,
    WithJsonSchema({"type": ["string", "integer"], "examples": [443, "8000-8100", "*"]}),
]
Source = Annotated[
    IPv4Network,
    PlainValidator(_parse_source),
    _TO_TEXT,
    WithJsonSchema({"type": "string", "examples": ["10.0.0.0/16", "10.0.0.4", "*"]}),
]

Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
"""A TCP or UDP port, 1 to 65535."""

Count = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
"""How many of something, at least 1."""

_RUN_SCHEMA = {"type": "integer", "minimum": 1, "maximum": 65535}

Probes = Annotated[
    int | tuple[int, ...],
    PlainValidator(_parse_probes),
    PlainSerializer(lambda value: list(value) if isinstance(value, tuple) else value, return_type=int | list[int]),
    WithJsonSchema(
        {
            "anyOf": [
                _RUN_SCHEMA,
                {"type": "array", "items": _RUN_SCHEMA, "minItems": 1, "maxItems": MOST_RUNS},
            ],
            "examples": [10, [128, 64, 32, 16, 8]],
        }
    ),
]
"""How many ports a bounded search looks at: a number, or the lengths of its runs of adjacent ports."""

LinkId = Annotated[int, Field(strict=True, ge=0, le=0xFFFFFFFF)]
"""The connection's number on the backbone and in the proxy-protocol header: an unsigned 32-bit integer."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,78}[A-Za-z0-9_])?$")]
"""Azure's rule for the names of these resources: 1 to 80 letters, digits, `_`, `.`, `-`; a letter or digit
first, no `.` or `-` last. It also keeps names usable as pcapng interface names and in `POINT=CAPTURE`."""

Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""A line of text."""
