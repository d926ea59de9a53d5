"""Reads files of Azure resources: what `az … list` and `az … show` print, REST lists, ARM templates."""

import codecs
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import Any

from dataplane.topology.azure_resources import KINDS, Estate, Part, Resource, Source, kind_of, parent_of
from dataplane.topology.azure_template import Template
from dataplane.topology.load import TopologyError, decoded, read_bytes
from dataplane.topology.values import shown

WHAT = (
    "import reads what `az network vnet`, `private-link-service`, `private-endpoint`, `lb`, `nic` and `nsg` print with "
    "`list` or `show`, and ARM templates (`az group export`)"
)

_QUOTED_ADDRESS = re.compile(r'"(\d{1,3}(?:\.\d{1,3}){3})"')


def read_files(paths: Sequence[str | os.PathLike[str]]) -> Estate:
    """The resources of all files. Raises TopologyError with all files that cannot be read."""
    estate = Estate()
    documents = [(os.fspath(path), _document(Path(path), estate)) for path in paths]
    if estate.problems:  # nobody can say what is missing while a file is
        raise TopologyError("", estate.problems)
    children: list[Resource] = []
    for number, (name, data) in enumerate(documents, 1):
        children += _take(Source(name, estate), data, f"template-{number}")
    for child in children:
        _hand_to_parent(estate, child)
    return estate


def _document(path: Path, estate: Estate) -> Any:
    """The JSON of a file; None when there is none, which is refused."""
    name = os.fspath(path)
    try:
        content = read_bytes(path, "JSON")
        if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):  # PowerShell's `az … > file` writes these
            content = content.decode("utf-16", "replace").encode()
        text = decoded(content, name, "file of Azure resources is JSON")
        data = json.loads(text)
    except TopologyError as error:
        estate.problems += [problem._replace(path=name) for problem in error.problems]
    except json.JSONDecodeError as error:
        what = "is empty" if not text.strip() else f"not JSON: {error.msg}, column {error.colno}"
        estate.refuse(f"{name}:{error.lineno}", f"{what}; {WHAT}")
    except (RecursionError, ValueError):
        estate.refuse(name, f"is nested too deeply or has a number that is too long; {WHAT}")
    else:
        estate.taken |= set(_addresses(text))
        return data
    return None


def _take(source: Source, data: Any, prefix: str) -> list[Resource]:
    """Take a file's resources in, and return those that are parts of others."""
    estate, children, other = source.estate, [], Counter[str]()
    known = 0
    if isinstance(data, dict) and "resources" in data and "id" not in data:
        source.template = Template(data, prefix)
        found = _in_template(source, "resources", data["resources"], None)
    else:
        found = _in_list(source, "", data)
    for resource in found:
        if resource.kind in KINDS:
            estate.add(resource)
        elif resource.kind.rpartition("/")[0] in KINDS:
            children.append(resource)
        else:
            other[resource.kind] += 1
            continue
        known += 1
    if other and known:
        kinds = ", ".join(f"{count} of {kind}" for kind, count in sorted(other.items()))
        estate.note(source.name, f"left aside, as they have no part in a topology: {kinds}")
    elif not known and not any(problem.path.startswith(source.name) for problem in estate.problems):
        kinds = f", only {', '.join(sorted(other))}" if other else ""
        estate.refuse(source.name, f"holds no resource that has a part in a topology{kinds}; {WHAT}")
    return children


def _in_list(source: Source, path: str, data: Any) -> Iterator[Resource]:
    """The resources of a list, a list of lists, REST's `{"value": [...]}`, or the one that is there."""
    if isinstance(data, list):
        for index, item in enumerate(data):
            yield from _in_list(source, f"{path}[{index}]", item)
        return
    if isinstance(data, dict) and isinstance(data.get("value"), list):
        if data.get("nextLink"):
            source.estate.note(source.name, "the list goes on at its nextLink; add the other pages")
        yield from _in_list(source, f"{path}.value".lstrip("."), data["value"])
        return
    place = ": ".join(filter(None, (source.name, path)))
    if not isinstance(data, dict):
        source.estate.refuse(place, f"is {shown(data)}, but must be an Azure resource; {WHAT}")
        return
    resource_id = Part(source, path, data).text("id")
    if not resource_id or not kind_of(resource_id):
        what = f"has the id {shown(resource_id)}, which is no resource's" if resource_id else "has no id"
        source.estate.refuse(place, f"{what}; {WHAT}")
        return
    yield Resource(source, path, data, kind_of(resource_id), resource_id)


def _in_template(source: Source, path: str, data: Any, parent: tuple[str, str] | None) -> Iterator[Resource]:
    """The resources of a template; `parent` is type and name of the one that they stand in."""
    assert source.template is not None
    estate = source.estate
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for index, item in items:
        here = f"{path}[{index}]"
        if not isinstance(item, dict) or not isinstance(item.get("type"), str):
            estate.refuse(f"{source.name}: {here}", "is no resource of a template: it has no type")
            continue
        kind = item["type"] if parent is None else f"{parent[0]}/{item['type']}"
        if kind.lower() == "microsoft.resources/deployments":
            estate.note(f"{source.name}: {here}", "a nested template is not read; export the group it was deployed to")
            continue
        if not kind.lower().startswith(KINDS):
            yield Resource(source, here, item, kind.lower(), kind)
            continue
        part = Part(source, here, item)
        if part.get("condition") is False:
            continue
        if part.get("copy") is not None:  # of the resource or of one of its properties
            estate.refuse(f"{source.name}: {here}", "loops (copy) are not read; export the group it was deployed to")
            continue
        name = part.text("name")
        if name is None:
            continue  # its expression has been refused
        name = name if parent is None else f"{parent[1]}/{name}"
        if name.count("/") != kind.count("/") - 1:
            estate.refuse(f"{source.name}: {here}.name", f"{shown(name)} is no name of {kind}")
            continue
        resource_id = source.template.resource_id(kind, *name.split("/"))
        yield Resource(source, here, {**item, "name": name.rpartition("/")[2]}, kind.lower(), resource_id)
        yield from _in_template(source, f"{here}.resources", item.get("resources"), (kind, name))


def _hand_to_parent(estate: Estate, child: Resource) -> None:
    parent = estate.find(parent_of(child.id))
    if parent is None:
        what = f"belongs to {parent_of(child.id).rpartition('/')[2]}, which is in none of the files"
        estate.note(child.place, f"{child.name} {what}; left out")
        return
    parent.children.setdefault(child.kind.rpartition("/")[2], []).append(child)


def _addresses(text: str) -> Iterator[IPv4Address]:
    for match in _QUOTED_ADDRESS.finditer(text):
        try:
            yield IPv4Address(match[1])
        except AddressValueError:
            continue
