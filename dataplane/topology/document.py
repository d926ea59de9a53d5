"""A YAML 1.2 or JSON text as plain data, with the line of every key and list item.

Scalars are resolved by YAML 1.2's core schema alone: `12:30:45`, `yes` and `2001-01-01` are text.
Duplicate keys are faults. JSON is read by the standard library, its lines by the YAML parser.
"""

import json
import re
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from dataplane.topology.draft import Finding, Path

_MOST_NODES = 2_000_000
"""Aliases can make a small text stand for an endless document; nobody writes one this large."""

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


class DocumentError(ValueError):
    """The text is no YAML or JSON; `line` counts from 1, None when unknown."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class Document:
    """Data of a text, `lines` of its paths, and `findings` about keys."""

    def __init__(self, text: str, *, is_json: bool = False) -> None:
        """Read a text; DocumentError when it cannot be read."""
        self.lines: dict[Path, int] = {}
        self.findings: list[Finding] = []
        self._nodes = 0
        parsed = _parse_json(text, required=is_json)
        # In valid JSON a tab can stand only where a space can, and YAML refuses it there.
        root = _compose(text if parsed is None else text.replace("\t", " "), lenient=parsed is not None)
        try:
            data = None if root is None else self._value(root, (), ())
        except RecursionError:
            raise DocumentError("nested too deeply") from None
        self.data: Any = data if parsed is None else parsed

    def line_of(self, path: Path) -> int | None:
        """The line of the innermost part of a path that is in the document."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None

    def _value(self, node: Node, path: Path, above: tuple[Node, ...]) -> Any:
        line = node.start_mark.line + 1
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            raise DocumentError(f"has more than {_MOST_NODES} values", line)
        if any(node is outer for outer in above):
            raise DocumentError("an alias contains itself", line)
        self.lines.setdefault(path, line)
        if isinstance(node, ScalarNode):
            return _scalar(node)
        if isinstance(node, SequenceNode):
            return [
                self._value(item, (*path, index), (*above, node)) for index, item in enumerate(node.value)
            ]
        assert isinstance(node, MappingNode)
        result: dict[str, Any] = {}
        for key, value in node.value:
            key_line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode):
                raise DocumentError("a key must be a word", key_line)
            name = str(key.value)
            place = (*path, name)
            if name in result:
                message = f"duplicate key {name}, first on line {self.lines[place]}; leave one out"
                self.findings.append(Finding(place, message, key_line))
                continue
            self.lines[place] = key_line
            result[name] = self._value(value, place, (*above, node))
        return result


def _scalar(node: ScalarNode) -> Any:
    text, tag = str(node.value), str(node.tag)
    if not tag.startswith(_TAG):
        raise DocumentError(f"the tag {tag} has no meaning here; leave it out", node.start_mark.line + 1)
    kind = tag.removeprefix(_TAG)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind in ("int", "float"):
        if _INT.fullmatch(text) and len(text) < 1000:
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
    return text


def _parse_json(text: str, *, required: bool) -> Any:
    """The data when the text is JSON, else None; DocumentError when it ought to be."""
    if not required and text.lstrip()[:1] not in ("{", "["):
        return None

    def refuse(word: str) -> NoReturn:
        raise ValueError(f"{word} is not a number in JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise DocumentError("nested too deeply") from None
    except json.JSONDecodeError as error:
        if required:
            raise DocumentError(f"not JSON: {error.msg}, column {error.colno}", error.lineno) from None
    except ValueError as error:
        if required:
            raise DocumentError(f"not JSON: {error}") from None
    return None


def _compose(text: str, *, lenient: bool) -> Node | None:
    try:
        node: Node | None = YAML(typ="safe", pure=True).compose(text)
        return node
    except RecursionError:
        raise DocumentError("nested too deeply") from None
    except MarkedYAMLError as error:
        if lenient:
            return None
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (None, None)
        context = f" {error.context}" if error.context and error.problem_mark else ""
        raise DocumentError(
            f"not YAML: {error.problem}, column {column}{context and ','}{context}", line
        ) from None
    except YAMLError as error:
        if lenient:
            return None
        position = getattr(error, "position", None)
        line = text.count("\n", 0, position) + 1 if isinstance(position, int) else None
        reason = str(error).splitlines()[0]
        raise DocumentError(f"not YAML: {reason}", line) from None
