"""Reads scenario files and writes them; every fault is reported at once, with its line."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Any

from dataplane.runs.scenario import Alert, Arrivals, Life, Scenario, TrafficSource
from dataplane.topology.dump import schema as topology_schema
from dataplane.topology.dump import yaml_text
from dataplane.topology.load import Problem, TopologyError, load_topology, read_document, read_text, validated
from dataplane.topology.values import format_duration

_EMPTY = "is empty; a scenario has topology, duration and traffic"


class ScenarioError(TopologyError):
    """A scenario file that cannot be used: `problems` of its own, and `topology`, those of the file that it names."""

    def __init__(self, source: str, problems: list[Problem], topology: TopologyError | None) -> None:
        super().__init__(source, problems)
        self.topology = topology
        if topology is not None:
            self.args = ("\n".join(filter(None, (str(self), str(topology)))),)


def load_scenario(path: str | os.PathLike[str]) -> Scenario:
    """Read a scenario file, YAML 1.2 or JSON, in UTF-8. Raises ScenarioError with every fault found.

    The files that it names are sought from the scenario file's own folder.
    """
    source = os.fspath(path)
    wrong: TopologyError | None = None
    try:
        document = read_document(read_text(path, "scenario"), source, _EMPTY)
        wrong = fetch_files(document.data, Path(path).parent)
        scenario = validated(document, source, Scenario)
    except TopologyError as error:
        problems = [problem for problem in error.problems if wrong is None or problem.path != "topology"]
        raise ScenarioError(source, problems, wrong) from None
    return scenario


def fetch_files(data: Any, folder: Path) -> TopologyError | None:
    """Put the topology that a scenario's raw data names in its place, and recordings' whole paths; from this folder.

    A topology that cannot be used is returned and left out, so that what else is wrong can still be said.
    """
    for arrivals in _arrivals(data):
        if isinstance(arrivals.get("file"), str):
            arrivals["file"] = str(folder.resolve() / arrivals["file"])
        if (found := _found(arrivals, folder.resolve())) is not None:
            arrivals["files"] = found
    if isinstance(data, dict) and isinstance(name := data.get("topology"), str):
        try:
            data["topology"] = load_topology(folder / name)
        except TopologyError as error:
            del data["topology"]
            return error
    return None


def files_of(path: str | os.PathLike[str]) -> list[Path]:
    """The files that a scenario which can be read is made of: its own and those that it names."""
    data = read_document(read_text(path, "scenario"), os.fspath(path), _EMPTY).data
    return [Path(path), *named_files(data, Path(path).parent)]


def named_files(data: dict[str, Any], folder: Path) -> list[Path]:
    """The files that the raw data of a scenario in this folder name."""
    named = [data["topology"]] if isinstance(data["topology"], str) else []
    for arrivals in _arrivals(data):
        named += [arrivals["file"]] if "file" in arrivals else _found(arrivals, folder) or []
    return [folder / name for name in named]


def _found(arrivals: dict[str, Any], folder: Path) -> list[str] | None:
    """The files that `files` names, each once, those of a pattern in order of name; None if it is no list of texts.

    A name that fits no file stays as it is, so that it can be told.
    """
    names = arrivals.get("files")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    found: dict[str, str] = {}
    for name in names:
        whole = str(folder / name)
        # A file whose name looks like a pattern is that file.
        paths = [whole] if os.path.exists(whole) else sorted(glob.glob(whole, recursive=True))
        for path in [path for path in paths if os.path.isfile(path)] or [whole]:
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _arrivals(data: Any) -> list[dict[str, Any]]:
    """The `arrivals` of raw data."""
    traffic = data.get("traffic") if isinstance(data, dict) else None
    sources = [source for source in traffic if isinstance(source, dict)] if isinstance(traffic, list) else []
    return [source["arrivals"] for source in sources if isinstance(source.get("arrivals"), dict)]


def dump_scenario(scenario: Scenario, topology: str) -> str:
    """The scenario as YAML with defaults filled in, for a file beside the file `topology`, which has its events too."""
    document = scenario.model_dump(mode="json", exclude={"topology", "events"}, exclude_none=True)
    return yaml_text({"topology": topology, **document})


def scenario_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of scenario files, with defaults as the file writes them."""
    result = Scenario.model_json_schema()
    described = topology_schema()["$defs"]
    result["$defs"].update({name: described[name] for name in described if name in result["$defs"]})
    for model in (Scenario, TrafficSource, Arrivals, Life, Alert):
        properties = (result if model is Scenario else result["$defs"][model.__name__])["properties"]
        for key, field in model.model_fields.items():
            default = field.get_default()
            if isinstance(default, int) and properties[key].get("type") == "string":
                properties[key]["default"] = format_duration(default)
    topology = result["properties"]["topology"]
    reference = {"$ref": topology.pop("$ref")}
    topology["anyOf"] = [{"type": "string"}, reference]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **result}
