"""Reads topology files and writes them; every fault of a file is reported at once, with its line."""

import os
from pathlib import Path as FilePath
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from dataplane.topology.document import Document, DocumentError
from dataplane.topology.draft import path_text
from dataplane.topology.model import Topology

_LARGEST = 64 * 1024 * 1024
"""Bytes; a capture given by mistake is not read whole."""


class Problem(NamedTuple):
    """One fault of a topology file, or of another file of the user's."""

    line: int | None
    """Line in the file, from 1; None when the file as a whole is meant."""
    path: str
    """Place in the document, such as `private_endpoints[0].ip`; empty for the whole."""
    message: str
    """What is there, what rule it breaks, what to do."""


class TopologyError(ValueError):
    """A topology file (or one that holds or names one) that cannot be used; `problems` lists all that is wrong."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        self.source = source
        self.problems = problems
        super().__init__("\n".join(self._text(problem) for problem in problems))

    def _text(self, problem: Problem) -> str:
        where = self.source if problem.line is None else f"{self.source}:{problem.line}"
        return ": ".join(part for part in (where, problem.path, problem.message) if part)


def load_topology(path: str | os.PathLike[str]) -> Topology:
    """Read a topology file, YAML 1.2 or JSON, in UTF-8. Raises TopologyError with every fault found."""
    return parse_topology(read_text(path, "topology"), os.fspath(path))


def read_text(path: str | os.PathLike[str], kind: str) -> str:
    """The text of a file that is to be a topology or of another kind. Raises TopologyError."""
    return decoded(read_bytes(path, kind), os.fspath(path), f"{kind} is a YAML or JSON file")


def read_bytes(path: str | os.PathLike[str], kind: str) -> bytes:
    """The bytes of a file that is to be a topology or of another kind. Raises TopologyError."""
    source = os.fspath(path)
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        raise TopologyError(source, [Problem(None, "", "no such file")]) from None
    except IsADirectoryError:
        raise TopologyError(source, [Problem(None, "", f"is a directory; name a {kind} file")]) from None
    except OSError as error:
        raise TopologyError(source, [Problem(None, "", f"cannot be read: {error.strerror}")]) from None
    except ValueError as error:  # a zero byte, half of a surrogate pair
        raise TopologyError(ascii(source), [Problem(None, "", f"is no file name: {error}")]) from None
    if len(content) > _LARGEST:
        raise TopologyError(source, [Problem(None, "", f"is larger than 64 MB; this is no {kind} file")])
    return content


def decoded(content: bytes, source: str, rule: str) -> str:
    """The text of a file's bytes in UTF-8; `rule` says what such a file is. Raises TopologyError."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise TopologyError(source, [Problem(None, "", f"is not text in UTF-8; a {rule}")])
    return text


def parse_topology(text: str, source: str = "topology") -> Topology:
    """Read the text of a topology; `source` names it in messages. Raises TopologyError."""
    keys = "virtual_networks, private_link_services and private_endpoints"
    return validated(read_document(text, source, f"is empty; a topology has {keys}"), source, Topology)


def read_document(text: str, source: str, empty: str) -> Document:
    """A text as a document; `empty` is what to say of one without content. Raises TopologyError."""
    try:
        document = Document(text, is_json=FilePath(source).suffix.lower() == ".json")
    except DocumentError as error:
        raise TopologyError(source, [Problem(error.line, "", str(error))]) from None
    if document.data is None:
        raise TopologyError(source, [Problem(None, "", empty)])
    return document


M = TypeVar("M", bound=BaseModel)


def validated(document: Document, source: str, model: type[M]) -> M:
    """The document as an object of a model whose faults are in the words of the file. Raises TopologyError."""
    problems = [
        Problem(finding.value, path_text(finding.path), finding.message) for finding in document.findings
    ]
    result: M | None = None
    try:
        result = model.model_validate(document.data)
    except ValidationError as error:
        problems += [
            Problem(document.line_of(fault["loc"]), path_text(fault["loc"]), fault["msg"])
            for fault in error.errors(include_url=False, include_input=False)
        ]
    if result is None or problems:
        raise TopologyError(source, sorted(problems, key=lambda problem: problem.line or 0))
    return result


def dump_topology(topology: Topology) -> str:
    """The topology as YAML with defaults filled in; `load_topology` reads it back as an equal object."""
    from dataplane.topology.dump import to_yaml  # the emitter is needed only here

    return to_yaml(topology)


def topology_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of topology files."""
    from dataplane.topology.dump import schema

    return schema()
