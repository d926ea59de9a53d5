"""What changed between two topologies, by name of resource and by key, whatever the order of resources in the files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

#: The keys that tell the objects of a list apart; those of a list without them (events) go by position.
_IDENTITIES = (("name",), ("protocol", "frontend_port"))


def diff_topologies(old: Any, new: Any) -> list[dict[str, Any]]:
    """Every change between two topologies as plain data, in the order of the new file.

    A change is {"change", "resource", "key", "old", "new"}: `resource` such as `private_link_services[orders]`, `key`
    the path inside it, `change` one of `added` (no "old"), `removed` (no "new"), `changed`, `reordered`.
    """
    return list(_diff(old, new, "", ""))


def _diff(old: Any, new: Any, resource: str, key: str) -> Iterator[dict[str, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in (*new, *(name for name in old if name not in new)):
            # A key that is not written has no value, as one that is written as null.
            yield from _diff(old.get(name), new.get(name), resource, f"{key}.{name}" if key else name)
    elif _objects(old) and _objects(new) and (old or new):
        yield from _diff_objects(old or [], new or [], resource, key)
    elif old != new or isinstance(old, bool) != isinstance(new, bool):
        yield {"change": _kind(old, new), "resource": resource, "key": key, "old": old, "new": new}


def _kind(old: Any, new: Any) -> str:
    if isinstance(old, list) and isinstance(new, list) and sorted(map(str, old)) == sorted(map(str, new)):
        return "reordered"
    return "changed"


def _objects(value: Any) -> bool:
    """Whether it is a list of objects, or what stands for an empty one."""
    return value is None or (isinstance(value, list) and all(isinstance(item, dict) for item in value))


def _diff_objects(
    old: list[dict[str, Any]], new: list[dict[str, Any]], resource: str, key: str
) -> Iterator[dict[str, Any]]:
    identity = next((keys for keys in _IDENTITIES if all(set(keys) <= set(item) for item in (*old, *new))), ())
    of_old, of_new = _by_name(old, identity), _by_name(new, identity)
    for name in (*of_new, *(name for name in of_old if name not in of_new)):
        # A resource of the topology, or (a rule) a part of one, whose key then says which.
        place = (f"{key}[{name}]", "") if not resource else (resource, f"{key}[{name}]")
        if name not in of_old:
            yield {"change": "added", "resource": place[0], "key": place[1], "new": of_new[name]}
        elif name not in of_new:
            yield {"change": "removed", "resource": place[0], "key": place[1], "old": of_old[name]}
        else:
            yield from _diff(of_old[name], of_new[name], *place)
    both = [name for name in of_new if name in of_old]
    before = [name for name in of_old if name in of_new]
    if both != before:
        yield {"change": "reordered", "resource": resource, "key": key, "old": before, "new": both}


def _by_name(items: list[dict[str, Any]], identity: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    if not identity:
        return {str(number): item for number, item in enumerate(items)}
    return {" ".join(str(item[key]) for key in identity): item for item in items}
