"""Everything that can be wrong with a topology, as findings: one list for all kinds of faults.

Faults of single objects come from pydantic and are put into the words of the field; faults of the
whole come from `rules`, `limits` and `unsupported`.
"""

import difflib
import json
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from dataplane.topology import limits, rules, unsupported
from dataplane.topology.draft import Draft, Finding, model_at
from dataplane.topology.model import Topology
from dataplane.topology.values import shown

__all__ = ["Finding", "check_whole", "error_with", "findings_of"]


def check_whole(data: object) -> list[Finding]:
    """The faults that lie between objects, in a validated topology or in raw data."""
    draft = Draft(Topology, data)
    return [*rules.broken_rules(draft), *limits.beyond_limits(draft), *unsupported.not_yet_supported(draft)]


def findings_of(error: ValidationError, model: type[BaseModel]) -> list[Finding]:
    """Pydantic's errors in the words of the topology file."""
    findings = []
    for problem in error.errors(include_url=False):
        path, kind, value = problem["loc"], problem["type"], problem["input"]
        context = problem.get("ctx", {})
        if kind == "extra_forbidden":
            message = _unknown_key(model_at(model, path[:-1]), str(path[-1]))
        elif kind in ("model_type", "model_attributes_type", "dict_type"):
            message = _not_a_mapping(model_at(model, path), value)
        elif kind in _MESSAGES:
            message = _MESSAGES[kind](value, context)
        else:
            message = problem["msg"]
        findings.append(Finding(path, message, value))
    return findings


def _unknown_key(model: type[BaseModel] | None, key: str) -> str:
    known = list(model.model_fields) if model is not None else []
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"unknown key {shown(key)}; {hint}Keys here: {', '.join(known)}"


def _not_a_mapping(model: type[BaseModel] | None, value: object) -> str:
    keys = f" with the keys {', '.join(model.model_fields)}" if model is not None else ""
    return f"is {shown(value)}, but must be a mapping{keys}"


def _choices(value: object, context: dict[str, Any]) -> str:
    choices = str(context["expected"]).replace(" or ", ", ").replace("'", "")
    return f"{shown(value)} is none of the choices: {choices}"


def _text_expected(value: object, context: dict[str, Any]) -> str:
    if isinstance(value, bool | int | float):
        return f"{shown(value)} is not text; write it in quotes: {json.dumps(str(value))}"
    return f"is {shown(value)}, but must be text"


def _pattern(value: object, context: dict[str, Any]) -> str:
    if "A-Z" in context["pattern"]:
        return (
            f"{shown(value)} is not a name; names have 1 to 80 letters, digits, '_', '.' or '-', "
            "start with a letter or digit and do not end with '.' or '-'"
        )
    return f"{shown(value)} has control characters; write one line of text"


_MESSAGES: dict[str, Callable[[Any, dict[str, Any]], str]] = {
    "missing": lambda value, context: "is missing; the key is required",
    "literal_error": _choices,
    "value_error": lambda value, context: str(context["error"]),
    "tuple_type": lambda value, context: (
        "is empty; write a list, [] for none" if value is None else f"is {shown(value)}, but must be a list"
    ),
    "string_type": _text_expected,
    "int_type": lambda value, context: f"is {shown(value)}, but must be a whole number",
    "bool_type": lambda value, context: f"is {shown(value)}, but must be true or false",
    "greater_than_equal": lambda value, context: f"{value} is too small; the least is {context['ge']}",
    "less_than_equal": lambda value, context: f"{value} is too large; the most is {context['le']}",
    "too_short": lambda value, context: f"is an empty list; at least {context['min_length']} needed",
    "string_too_short": lambda value, context: "is empty; write at least one character",
    "string_too_long": lambda value, context: f"is longer than {context['max_length']} characters",
    "string_pattern_mismatch": _pattern,
}


def error_with(title: str, kind: str, findings: Iterable[Finding]) -> ValidationError:
    """One error that lists findings; `kind` names what was checked, `title` its class."""
    return ValidationError.from_exception_data(
        title,
        [
            InitErrorDetails(
                type=PydanticCustomError(kind, "{problem}", {"problem": finding.message}),
                loc=finding.path,
                input=finding.value,
            )
            for finding in findings
        ],
    )
