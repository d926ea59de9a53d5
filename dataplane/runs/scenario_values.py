"""The small values of a scenario file: numbers between bounds, and moments."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema

from dataplane.runs.frames import MOST_PACKETS
from dataplane.runs.payload import MOST_PAYLOAD
from dataplane.topology.values import format_duration, parse_duration, shown


def between(low: float, high: float, what: str) -> PlainValidator:
    """Reads a number of the file between two bounds."""

    def parse(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"is {shown(value)}, but must be a number: {what}")
        if not low <= value <= high:
            raise ValueError(f"{shown(value)} is not {what}; write {low:g} to {high:g}")
        return float(value)

    return PlainValidator(parse)


def number_schema(low: float, high: float) -> WithJsonSchema:
    """The same bounds for the JSON Schema."""
    return WithJsonSchema({"type": "number", "minimum": low, "maximum": high})


Rate = Annotated[float, between(0, 1e7, "a rate in connections per second"), number_schema(0, 1e7)]
Speed = Annotated[float, between(1e-6, 1e6, "a speed"), number_schema(1e-6, 1e6)]
Share = Annotated[float, between(0, 1e9, "a share"), number_schema(0, 1e9)]
Shape = Annotated[float, between(0.01, 100, "a shape"), number_schema(0.01, 100)]
FileName = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*$")]
Percent = Annotated[float, between(0, 100, "a percentage"), number_schema(0, 100)]
Copies = Annotated[float, between(0, 1e9, "a number of connections per one"), number_schema(0, 1e9)]


def _parse_moments(value: object) -> tuple[int, ...]:
    """Nanoseconds of a list of durations; a tuple of whole numbers is taken as nanoseconds."""
    if isinstance(value, tuple) and all(type(moment) is int for moment in value):
        return value
    if not isinstance(value, list):
        raise ValueError(f"is {shown(value)}, but must be a list of durations, such as [0s, 1.5s]")
    moments = tuple(map(parse_duration, value))
    if any(b < a for a, b in pairwise(moments)):
        raise ValueError("moments are not in order of time; write every one after those before it")
    return moments


Moments = Annotated[
    tuple[int, ...],
    PlainValidator(_parse_moments),
    PlainSerializer(lambda moments: [format_duration(moment) for moment in moments], return_type=list[str]),
    WithJsonSchema({"type": "array", "items": {"type": "string"}, "minItems": 1}),
]


#: The most payload of a request or a response, bytes.
MOST_BYTES = MOST_PACKETS * MOST_PAYLOAD


def _parse_bytes(value: object) -> int | str:
    if value == "as_recorded":
        return "as_recorded"
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"is {shown(value)}, but must be a whole number of bytes, or as_recorded")
    if not 0 <= value <= MOST_BYTES:
        raise ValueError(f"{value} is no number of bytes that fits; write 0 to {MOST_BYTES}")
    return value


PayloadBytes = Annotated[
    int | Literal["as_recorded"],
    PlainValidator(_parse_bytes),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0, "maximum": MOST_BYTES}, {"const": "as_recorded"}]}),
]
