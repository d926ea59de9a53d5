"""Reads sweep files: a scenario and a grid of settings. Every fault is reported at once, with its line."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator

from dataplane.runs.scenario import Scenario
from dataplane.runs.scenario_file import ScenarioError, fetch_files, files_of, load_scenario, named_files
from dataplane.runs.sweep_settings import Grid, Settings, with_settings
from dataplane.topology.check import error_with, findings_of
from dataplane.topology.draft import Finding
from dataplane.topology.draft import Path as Place
from dataplane.topology.dump import yaml_text
from dataplane.topology.load import TopologyError, read_document, read_text, validated
from dataplane.topology.parts import Part
from dataplane.topology.values import shown

MOST_CELLS = 10_000

_EMPTY = "is empty; a sweep has scenario and grid"


class Sweep(Part):
    """A scenario and a grid of settings, checked: `load_sweep` reads it, `sweep` runs it."""

    scenario: Scenario = Field(description="A scenario, or the path of its file, from the sweep file's folder.")
    grid: Grid = Field(description="For each setting that is varied, its values.")  # type: ignore[valid-type]

    @model_validator(mode="wrap")
    @classmethod
    def _check_all(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Check the parts and then every cell, so that nothing has been run when a cell turns out to be wrong."""
        if isinstance(data, cls):
            return handler(data)
        try:
            sweep = handler(data)
            findings = list(sweep._faults())
        except ValidationError as error:
            findings = findings_of(error, cls)
        if findings:
            raise error_with(cls.__name__, "sweep", findings)
        return sweep

    @cached_property
    def values(self) -> dict[str, list[Any]]:
        """The settings that are varied, in the order of the file, each with its values as the file writes them."""
        document = self.grid.model_dump(mode="json", exclude_unset=True)  # type: ignore[attr-defined]
        return {name: list(values) for name, values in document.items()}

    def cells(self) -> Iterator[Settings]:
        """Every combination of values; the last setting changes fastest."""
        for combination in itertools.product(*self.values.values()):
            yield dict(zip(self.values, combination, strict=True))

    def _faults(self) -> Iterator[Finding]:
        count = 1
        for name, values in self.values.items():
            count *= len(values)
            if not values:
                yield Finding(("grid", name), "is an empty list; write one value at least, or leave the setting out")
            for index, value in enumerate(values):
                if value in values[:index]:
                    message = f"{shown(value)} is listed twice; leave one out"
                    yield Finding(("grid", name, index), message, value)
        if not self.values:
            yield Finding(("grid",), f"varies nothing; write one setting at least: {', '.join(Grid.model_fields)}")
        elif count > MOST_CELLS:
            yield Finding(("grid",), f"has {count:,} cells, and the most is {MOST_CELLS:,}; write fewer values", count)
        yield from self._faults_of_cells() if 0 < count <= MOST_CELLS else ()

    def _faults_of_cells(self) -> Iterator[Finding]:
        """What is wrong with a cell, told once: of the value that is wrong by itself, else of the combination."""
        told: set[tuple[Place, str]] = set()
        for settings in self.cells():
            for message in self._fault(settings):
                path: Place = ("grid",)
                words = settings_text(settings)
                for name, value in settings.items():
                    if message in self._fault({name: value}):
                        path, words = ("grid", name, self.values[name].index(value)), value_text(value)
                        break
                if (path, message) not in told:
                    told.add((path, message))
                    yield Finding(path, f"{words}: {message}")

    def _fault(self, settings: Settings) -> list[str]:
        try:
            with_settings(self.scenario, settings)
        except ValidationError as error:
            return [str(fault["msg"]) for fault in error.errors(include_url=False, include_input=False)]
        except ValueError as error:
            return [str(error)]
        return []


def settings_text(settings: Settings) -> str:
    """A cell's settings in words: `nat_ips 2, load 1.5`."""
    return ", ".join(f"{name} {value_text(value)}" for name, value in settings.items())


def value_text(value: Any) -> str:
    """A value as tables show it: null and lists as in the file."""
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def load_sweep(path: str | os.PathLike[str]) -> Sweep:
    """Read a sweep file, YAML 1.2 or JSON, in UTF-8. Raises ScenarioError with every fault found.

    The files that it names are sought from the sweep file's own folder.
    """
    source, folder = os.fspath(path), Path(path).parent
    wrong: TopologyError | None = None
    hidden = ""
    try:
        document = read_document(read_text(path, "sweep"), source, _EMPTY)
        data = document.data
        if isinstance(data, dict) and isinstance(name := data.get("scenario"), str):
            hidden = "scenario"
            try:
                data["scenario"] = load_scenario(folder / name)
            except TopologyError as error:
                wrong = error
                del data["scenario"]  # what else is wrong can still be said
        elif isinstance(data, dict):
            hidden = "scenario.topology"
            wrong = fetch_files(data.get("scenario"), folder)
        return validated(document, source, Sweep)
    except TopologyError as error:
        problems = [problem for problem in error.problems if wrong is None or problem.path != hidden]
        raise ScenarioError(source, problems, wrong) from None


def dump_sweep(sweep: Sweep) -> str:
    """The sweep as YAML, scenario and topology written into it, with defaults filled in."""
    scenario = sweep.scenario.model_dump(mode="json", exclude={"topology"}, exclude_none=True)
    topology = sweep.scenario.topology.model_dump(mode="json")
    return yaml_text({"scenario": {"topology": topology, **scenario}, "grid": sweep.values})


def files_of_sweep(path: str | os.PathLike[str]) -> list[Path]:
    """The files that a sweep which can be read is made of: its own and those that it and its scenario name."""
    folder = Path(path).parent
    scenario = read_document(read_text(path, "sweep"), os.fspath(path), _EMPTY).data["scenario"]
    files = files_of(folder / scenario) if isinstance(scenario, str) else named_files(scenario, folder)
    return [Path(path), *files]
