"""Two runs compared: what they were given, every figure that differs, sessions that ended otherwise, other verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dataplane.capture import CaptureError
from dataplane.metrics.figures import DIFFERENCES, Figure, figures
from dataplane.runs.diff_packets import diff_packets
from dataplane.runs.diff_sessions import diff_sessions
from dataplane.runs.diff_topology import diff_topologies
from dataplane.runs.finished import FinishedRun
from dataplane.runs.folder import RunError
from dataplane.topology.document import Document, DocumentError

#: Groups of results to the kind of resource that they are about.
GROUPS = {
    "run": "run",
    "private_endpoints": "private endpoint",
    "private_link_services": "private link service",
    "nat_ips": "NAT IP",
    "pools": "NAT pool",
}

_REASONS = "dropped.reasons."


def compare(old: FinishedRun, new: FinishedRun, most: int) -> dict[str, Any]:
    """What changed from one run to another; at most `most` sessions and packets of each kind are listed.

    `differences` counts what differs; `sessions` and `packets` are null, with a reason in `notes`, where they could
    not be compared. Raises `RunError` for files that no run wrote.
    """
    notes: list[str] = []
    configuration = _configuration(old, new)
    results = _results(old.summary, new.summary)
    same_inputs = configuration["inputs"]["same"]
    sessions = packets = None
    files = _both(old, new, "sessions.csv", notes)
    if files is not None:
        sessions = diff_sessions(*files, by_id=same_inputs, most=most)
        if not same_inputs:
            notes.append("the inputs differ: sessions were matched by tuple and order, and packets not at all")
    files = _both(old, new, "capture.pcapng", notes) if same_inputs else None
    if files is not None:
        try:
            packets = diff_packets(*files, most)
        except (CaptureError, RunError) as error:
            notes.append(f"packets were not compared: {error}")
    return {
        "old": str(old.path),
        "new": str(new.path),
        "differences": _differences(configuration, results, sessions, packets),
        "configuration": configuration,
        "results": results,
        "sessions": sessions,
        "packets": packets,
        "notes": notes,
    }


def diff_figures(old: FinishedRun, new: FinishedRun, document: dict[str, Any]) -> Iterator[Figure]:
    """What a condition on two runs may speak of: the new run's figures, their changes, numbers of differences."""
    before = {(figure.kind, figure.resource, figure.name): figure.value for figure in figures(old.summary)}
    for figure in figures(new.summary):
        yield figure
        value = before.get((figure.kind, figure.resource, figure.name))
        if value is not None:
            change = figure.value - value
            yield Figure(figure.kind, figure.resource, figure.name, change, is_change=True)
    for name, count in zip(DIFFERENCES, document["differences"].values(), strict=True):
        if count is not None:
            yield Figure("run", "", name, count)


def _both(old: FinishedRun, new: FinishedRun, name: str, notes: list[str]) -> tuple[Path, Path] | None:
    paths = old.file(name), new.file(name)
    for run, path in zip((old, new), paths, strict=True):
        if path is None:
            notes.append(f"{run.path} has no {name}, so that part is not compared")
    return None if paths[0] is None or paths[1] is None else (paths[0], paths[1])


def _configuration(old: FinishedRun, new: FinishedRun) -> dict[str, Any]:
    topology: list[dict[str, Any]] = []
    if old.topology != new.topology:
        topology = diff_topologies(_document(old), _document(new))
    versions = _pair(old, new, "versions")
    return {
        "topology": topology,
        "seed": _changed(*_pair(old, new, "seed")),
        "inputs": _inputs(*(value or [] for value in _pair(old, new, "inputs"))),
        "versions": {
            name: {"old": versions[0].get(name), "new": versions[1].get(name)}
            for name in {**versions[0], **versions[1]}
            if versions[0].get(name) != versions[1].get(name)
        },
        "exit_state": _changed(*_pair(old, new, "exit_state")),
    }


def _pair(old: FinishedRun, new: FinishedRun, key: str) -> tuple[Any, Any]:
    for run in (old, new):
        if key not in run.manifest:
            raise RunError(f"{run.path / 'manifest.json'}: has no {key}, so no run wrote it")
    return old.manifest[key], new.manifest[key]


def _changed(old: Any, new: Any) -> dict[str, Any] | None:
    return None if old == new else {"old": old, "new": new}


def _document(run: FinishedRun) -> Any:
    try:
        return Document(run.topology).data
    except DocumentError as error:
        raise RunError(f"{run.path / 'topology.yaml'}: {error}") from None


def _inputs(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> dict[str, Any]:
    """Captures by digest and point, whatever their names; one without a digest equals no other."""
    of_old, of_new = [[_input(number, given) for number, given in enumerate(run)] for run in (old, new)]
    return {
        "same": of_old == of_new and None not in [given.get("sha256") for given in (*old, *new)],
        "reordered": of_old != of_new and Counter(of_old) == Counter(of_new),
        "only_in_old": _missing(old, of_old, of_new),
        "only_in_new": _missing(new, of_new, of_old),
    }


def _input(number: int, given: dict[str, Any]) -> tuple[Any, ...]:
    digest = given.get("sha256")
    return (digest, given.get("point")) if digest is not None else (None, given.get("path"), number)


def _missing(given: list[dict[str, Any]], here: list[Any], there: list[Any]) -> list[dict[str, Any]]:
    left = Counter(there)
    missing = []
    for capture, key in zip(given, here, strict=True):
        if left[key] and capture.get("sha256") is not None:
            left[key] -= 1
        else:
            missing.append({name: capture.get(name) for name in ("path", "point", "sha256")})
    return missing


def _results(old: dict[str, Any], new: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Every figure that differs, by group; a resource that one run does not have has no value there."""
    groups: dict[str, list[dict[str, Any]]] = {"run": [], "dropped": []}
    groups.update((group, []) for group in GROUPS)
    group_of = {kind: group for group, kind in GROUPS.items()}
    before, after = _values(old), _values(new)
    for kind, resource, name in {**after, **before}:
        was, now = before.get((kind, resource, name)), after.get((kind, resource, name))
        if name.startswith("dropped."):  # where there is no resource there are no drops either
            was, now = was or 0, now or 0
        if was == now or name == "seed":
            continue
        group = group_of[kind]
        if name.startswith(_REASONS):
            group = "dropped"
            resource, _, name = name.removeprefix(_REASONS).rpartition(".")
        change = now - was if isinstance(was, (int, float)) and isinstance(now, (int, float)) else None
        groups[group].append({"resource": resource, "figure": name, "old": was, "new": now, "change": change})
    return groups


def _values(summary: dict[str, Any]) -> dict[tuple[str, str, str], Any]:
    values: dict[tuple[str, str, str], Any] = {
        (figure.kind, figure.resource, figure.name): figure.value for figure in figures(summary)
    }
    for key, value in (summary["first_exhaustion"] or {}).items():
        values["run", "", f"first_exhaustion.{key}"] = value
    return values


def _differences(
    configuration: dict[str, Any],
    results: dict[str, list[dict[str, Any]]],
    sessions: dict[str, Any] | None,
    packets: dict[str, Any] | None,
) -> dict[str, int | None]:
    inputs = configuration["inputs"]
    given = len(configuration["topology"]) + (configuration["seed"] is not None) + (not inputs["same"])
    of_sessions = of_packets = None
    if sessions is not None:
        alone = sessions["only_in_old"]["count"] + sessions["only_in_new"]["count"]
        of_sessions = alone + sessions["differ"]
    if packets is not None:
        of_packets = sum(pair["packets"] for pair in packets["verdicts"])
        of_packets += packets["old"] + packets["new"] - 2 * min(packets["old"], packets["new"])
    return {
        "configuration": given,
        "results": sum(len(rows) for rows in results.values()),
        "sessions": of_sessions,
        "packets": of_packets,
    }


