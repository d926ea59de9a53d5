"""A topology as YAML text, and the JSON Schema of topology files."""

import io
import re
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from dataplane.topology.model import NatPolicy, TcpPolicy, Timeouts, Topology

_KEYS_SHOWN_EMPTY = frozenset(NatPolicy.model_fields) | frozenset(Timeouts.model_fields)
"""Keys for which nothing is a setting, to be written as `null`; elsewhere a key without value is left out."""

_ON_ONE_LINE = (
    {"protocol", "frontend_port", "backend_port"}, set(Timeouts.model_fields), set(TcpPolicy.model_fields)
)
"""The keys of mappings that are written on one line."""

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")
"""Text that needs no quotes, unless it reads as a number or a word of YAML: those ruamel.yaml quotes."""


class _Representer(RoundTripRepresenter):
    """Writes None as `null`, where ruamel.yaml would leave the place empty."""


def _null(representer: _Representer, value: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _null)


def to_yaml(part: BaseModel) -> str:
    """YAML text, keys in the order of the models, lists of plain values on one line."""
    return yaml_text(part.model_dump(mode="json"))


def yaml_text(document: dict[str, Any]) -> str:
    """The same of plain data."""
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.width = 200
    yaml.indent(mapping=2, sequence=4, offset=2)
    stream = io.StringIO()
    yaml.dump(_styled(document), stream)
    return stream.getvalue()


def _styled(value: Any) -> Any:
    """The same data with lists and mappings that hold only plain values marked to stand on one line."""
    if isinstance(value, dict):
        mapping = CommentedMap(
            (key, _styled(item))
            for key, item in value.items()
            if item is not None or key in _KEYS_SHOWN_EMPTY
        )
        if set(mapping) - {"idle_timeout"} in _ON_ONE_LINE:
            mapping.fa.set_flow_style()
        return mapping
    if isinstance(value, list):
        sequence = CommentedSeq(_styled(item) for item in value)
        if not any(isinstance(item, dict) for item in value):
            sequence.fa.set_flow_style()
        return sequence
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        return DoubleQuotedScalarString(value)  # ruamel.yaml writes [?0] for a list with the text ?0
    return value


def schema() -> dict[str, Any]:
    """The JSON Schema of topology files, draft 2020-12, with defaults as the file writes them."""
    result = Topology.model_json_schema()
    for model in (NatPolicy, TcpPolicy, Timeouts):
        defaults = model().model_dump(mode="json")
        for key, described in result["$defs"][model.__name__]["properties"].items():
            described["default"] = defaults[key]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **result}
