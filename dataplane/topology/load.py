"""Reads topology files and writes them; every fault of a file is reported at once, with its line."""

import os
from pathlib import Path as FilePath
from typing import Any, NamedTuple

from pydantic import ValidationError

from dataplane.topology.document import Document, DocumentError
from dataplane.topology.draft import path_text
from dataplane.topology.model import Topology

_LARGEST = 64 * 1024 * 1024
"""Bytes; a capture given by mistake is not read whole."""


class Problem(NamedTuple):
    """One fault of a topology file."""

    line: int | None
    """Line in the file, from 1; None when the file as a whole is meant."""
    path: str
    """Place in the document, such as `private_endpoints[0].ip`; empty for the whole."""
    message: str
    """What is there, what rule it breaks, what to do."""


class TopologyError(ValueError):
    """A topology file that cannot be used; `problems` lists everything that is wrong with it."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        self.source = source
        self.problems = problems
        super().__init__("\n".join(self._text(problem) for problem in problems))

    def _text(self, problem: Problem) -> str:
        where = self.source if problem.line is None else f"{self.source}:{problem.line}"
        return ": ".join(part for part in (where, problem.path, problem.message) if part)


def load_topology(path: str | os.PathLike[str]) -> Topology:
    """Read a topology file, YAML 1.2 or JSON, in UTF-8. Raises TopologyError with every fault found."""
    source = os.fspath(path)
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        raise TopologyError(source, [Problem(None, "", "no such file")]) from None
    except IsADirectoryError:
        raise TopologyError(source, [Problem(None, "", "is a directory; name a topology file")]) from None
    except OSError as error:
        raise TopologyError(source, [Problem(None, "", f"cannot be read: {error.strerror}")]) from None
    if len(content) > _LARGEST:
        raise TopologyError(source, [Problem(None, "", "is larger than 64 MB; this is no topology file")])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        message = "is not text in UTF-8; a topology is a YAML or JSON file"
        raise TopologyError(source, [Problem(None, "", message)])
    return parse_topology(text, source)


def parse_topology(text: str, source: str = "topology") -> Topology:
    """Read the text of a topology; `source` names it in messages. Raises TopologyError."""
    try:
        document = Document(text, is_json=FilePath(source).suffix.lower() == ".json")
    except DocumentError as error:
        raise TopologyError(source, [Problem(error.line, "", str(error))]) from None
    if document.data is None:
        message = "is empty; a topology has virtual_networks, private_link_services and private_endpoints"
        raise TopologyError(source, [Problem(None, "", message)])
    problems = [
        Problem(finding.value, path_text(finding.path), finding.message) for finding in document.findings
    ]
    topology: Topology | None = None
    try:
        topology = Topology.model_validate(document.data)
    except ValidationError as error:
        problems += [
            Problem(document.line_of(fault["loc"]), path_text(fault["loc"]), fault["msg"])
            for fault in error.errors(include_url=False, include_input=False)
        ]
    if topology is None or problems:
        raise TopologyError(source, sorted(problems, key=lambda problem: problem.line or 0))
    return topology


def dump_topology(topology: Topology) -> str:
    """The topology as YAML with defaults filled in; `load_topology` reads it back as an equal object."""
    from dataplane.topology.dump import to_yaml  # the emitter is needed only here

    return to_yaml(topology)


def topology_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of topology files."""
    from dataplane.topology.dump import schema

    return schema()
