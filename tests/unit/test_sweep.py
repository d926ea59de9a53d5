"""A sweep's settings, what they change in a scenario, and a cell that fails."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dataplane.runs.exhaust import Exhaust, Exhausted, exhaust
from dataplane.runs.sweep import SweepJob, cell_hash, sweep
from dataplane.runs.sweep_file import Sweep, dump_sweep, load_sweep
from dataplane.runs.sweep_results import FIGURES
from dataplane.runs.sweep_settings import with_settings
from dataplane.topology import TopologyError
from tests.traffic import TOPOLOGY, scenario, source, topology


def faults(grid: dict[str, Any], **settings: Any) -> list[tuple[str, str]]:
    """What is wrong with a grid: where and what."""
    with pytest.raises(ValidationError) as caught:
        Sweep.model_validate({"scenario": scenario(**settings), "grid": grid})
    return [(".".join(map(str, fault["loc"])), fault["msg"]) for fault in caught.value.errors()]


def test_addresses_are_counted_on_from_the_first() -> None:
    service = with_settings(scenario(), {"nat_ips": 3, "backends": 2}).topology.private_link_services[0]
    assert [str(ip) for ip in service.nat_ips] == ["192.168.50.4", "192.168.50.5", "192.168.50.6"]
    assert [str(ip) for ip in service.load_balancer.backend_pool] == ["192.168.61.4", "192.168.61.5"]


def test_nat_settings_go_to_every_service() -> None:
    settings = {"port_hold": "7s", "ports_per_endpoint": 9, "timeouts.udp": "11s", "allocation": "hash", "probes": 3}
    nat = with_settings(scenario(), settings).topology.private_link_services[0].nat
    assert (nat.port_hold, nat.ports_per_endpoint, nat.timeouts.udp) == (7 * 10**9, 9, 11 * 10**9)
    assert (nat.port_allocation, nat.probes) == ("hash", 3)


def test_probes_stay_where_the_allocation_can_probe() -> None:
    base = scenario(topology=topology(probes=5))
    for allocation, probes in (("preserve", 5), ("block", None)):
        nat = with_settings(base, {"allocation": allocation}).topology.private_link_services[0].nat
        assert (nat.port_allocation, nat.probes) == (allocation, probes)


def test_load_multiplies_every_rate() -> None:
    ramp = {"pattern": "ramp", "rate": 10, "to_rate": 20, "over": "5s"}
    steps = {"pattern": "steps", "steps": [{"at": "0s", "rate": 3}, {"at": "1s", "rate": 4}]}
    changed = with_settings(scenario(source("a", arrivals=ramp), source("b", arrivals=steps)), {"load": 1.5})
    one, two = (part.arrivals for part in changed.traffic)
    assert (one.rate, one.to_rate, one.over) == (15, 30, 5 * 10**9)
    assert two.steps is not None
    assert [step.rate for step in two.steps] == [4.5, 6]


def test_a_value_that_is_wrong_by_itself_is_blamed() -> None:
    told = faults({"nat_ips": [1, 9], "load": [1, 2]})
    assert [place for place, _ in told] == ["grid.nat_ips.1"]
    assert "Azure's limit is 8" in told[0][1]


def test_values_that_do_not_go_together_are_named() -> None:
    told = faults({"allocation": ["random", "block"], "probes": [None, 4], "load": [1, 2]})
    assert [place for place, _ in told] == ["grid"]
    assert told[0][1].startswith("allocation block, probes 4, load 1: 4 does not go with port_allocation block")


@pytest.mark.parametrize(
    ("grid", "place", "complaint"),
    [
        ({}, "grid", "varies nothing"),
        ({"seed": []}, "grid.seed", "empty list"),
        ({"port_hold": ["60s", "1m"]}, "grid.port_hold.1", "60s is listed twice"),
        ({"seed": list(range(101)), "load": list(range(100))}, "grid", "has 10,100 cells"),
        ({"load": [2e6]}, "grid.load.0", "write 0 to 1e+06"),
        ({"load": [1e6]}, "grid.load.0", "is not a rate"),
        ({"nat_ips": [1.5]}, "grid.nat_ips.0", "whole number"),
    ],
)
def test_grids_that_are_refused(grid: dict[str, Any], place: str, complaint: str) -> None:
    [(where, what)] = faults(grid)
    assert where == place
    assert complaint in what


def test_a_service_without_backends_has_none_to_count_on_from() -> None:
    service = TOPOLOGY["private_link_services"][0]
    empty = {**service, "load_balancer": {**service["load_balancer"], "backend_pool": []}}
    [(place, message)] = faults({"backends": [2]}, topology={**TOPOLOGY, "private_link_services": [empty]})
    assert place == "grid.backends.0"
    assert "orders has no backend" in message


def test_a_scenario_may_stand_in_the_sweep(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("scenario: {topology: missing.yaml, duration: 5}\ngrid: {load: [1]}\n")
    with pytest.raises(TopologyError) as caught:
        load_sweep(path)
    lines = str(caught.value).replace(f"{tmp_path}/", "").splitlines()
    assert lines[0].startswith("sweep.yaml:1: scenario.duration: 5 needs a unit")
    assert lines[1].startswith("sweep.yaml:1: scenario.traffic: is missing")
    assert lines[2] == "missing.yaml: no such file"
    assert len(lines) == 3


def test_the_hash_is_of_all_that_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    one = cell_hash(scenario())
    assert cell_hash(scenario(seed=0)) == one, "written out or left to its default"
    assert cell_hash(scenario(seed=1)) != one
    assert cell_hash(scenario(topology=topology("1024-2000"))) != one
    assert cell_hash(scenario(alert={"threshold_percent": 70})) != one
    monkeypatch.setattr("dataplane.runs.sweep.version_of", lambda name: "9.9.9")
    assert cell_hash(scenario()) != one


def test_a_capture_counts_by_its_content(tmp_path: Path) -> None:
    def hash_of(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return cell_hash(scenario(source(arrivals={"pattern": "capture", "file": str(tmp_path / name)})))

    one = hash_of("a.pcap", b"one")
    assert hash_of("b.pcap", b"one") == one
    assert hash_of("a.pcap", b"two") != one


def test_several_files_count_by_their_content(tmp_path: Path) -> None:
    def hash_of(*contents: bytes) -> str:
        paths = [tmp_path / f"{number}.json" for number in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        arrivals = {"pattern": "flow_log", "files": list(map(str, paths))}
        return cell_hash(scenario(source(arrivals=arrivals)))

    assert len({hash_of(b"one"), hash_of(b"one", b"two"), hash_of(b"one", b"three")}) == 3


def test_load_multiplies_the_copies_of_given_connections(tmp_path: Path) -> None:
    (tmp_path / "a.pcap").write_bytes(b"")
    captured = source("a", arrivals={"pattern": "capture", "file": str(tmp_path / "a.pcap"), "copies": 3})
    told = source("b", arrivals={"pattern": "moments", "moments": ["0s", "1.5s"], "period": "2s"})
    one, two = (part.arrivals for part in with_settings(scenario(captured, told), {"load": 1.5}).traffic)
    assert (one.copies, two.copies) == (4.5, 1.5)
    assert (two.moments, two.period) == ((0, 1_500_000_000), 2_000_000_000)


class Here(Executor):
    """Does everything at once, in this thread."""

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments, **named))
        except Exception as error:
            future.set_exception(error)
        return future


def test_a_cell_that_fails_is_told_of_and_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_for_two(job: Exhaust) -> Exhausted:
        if job.scenario.seed == 2:
            raise OSError("the disk is gone")
        return exhaust(job)

    monkeypatch.setattr("dataplane.runs.sweep.exhaust", fails_for_two)
    plan = Sweep.model_validate({"scenario": scenario(duration="1s"), "grid": {"seed": [1, 2, 3]}})
    result = sweep(SweepJob(plan, tmp_path), Here())
    assert result.failed == ["seed 2: the disk is gone"]
    assert (result.computed, result.kept, result.exit_code) == (2, 0, 4)
    assert [row["failures"] for row in result.rows] == [0, None, 0]
    assert (tmp_path / "results.csv").read_text().splitlines()[2] == "2" + "," * len(FIGURES)

    monkeypatch.setattr("dataplane.runs.sweep.exhaust", exhaust)
    again = sweep(SweepJob(plan, tmp_path), Here())
    assert (again.computed, again.kept, again.exit_code) == (1, 2, 0)


def test_a_process_that_is_killed_costs_the_cells_at_hand_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crews: list[Executor] = []

    class Dies(Here):
        """Breaks at its first cell."""

        def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(BrokenExecutor("killed"))
            return future

    @contextmanager
    def crew(workers: int, dask: str | None) -> Iterator[Executor]:
        crews.append(Here() if crews else Dies())
        yield crews[-1]

    monkeypatch.setattr("dataplane.runs.sweep.executor", crew)
    plan = Sweep.model_validate({"scenario": scenario(duration="1s"), "grid": {"seed": [1, 2, 3]}})
    result = sweep(SweepJob(plan, tmp_path))
    assert [line.split(",")[0] for line in result.failed] == ["seed 1: its process was ended from outside"]
    assert (result.computed, len(crews)) == (2, 2)


def test_a_cell_whose_file_holds_no_figures_is_computed_again(tmp_path: Path) -> None:
    plan = Sweep.model_validate({"scenario": scenario(duration="1s"), "grid": {"seed": [1]}})
    assert sweep(SweepJob(plan, tmp_path), Here()).computed == 1
    (cell,) = (tmp_path / "cells").iterdir()
    cell.write_text(cell.read_text().replace('"failures": 0', '"failures": "x"'))
    again = sweep(SweepJob(plan, tmp_path), Here())
    assert (again.computed, again.kept, again.rows[0]["failures"]) == (1, 0, 0)


def test_a_broken_executor_that_is_given_fails_what_is_left(tmp_path: Path) -> None:
    class Broken(Executor):
        def submit(self, *_: Any, **__: Any) -> Any:
            raise BrokenExecutor("gone")

    plan = Sweep.model_validate({"scenario": scenario(duration="1s"), "grid": {"seed": [1, 2]}})
    result = sweep(SweepJob(plan, tmp_path), Broken())
    assert [line.split(",")[0] for line in result.failed] == [
        f"seed {seed}: its process was ended from outside" for seed in (1, 2)
    ]


def test_the_sweep_as_used_is_the_same_sweep_again(tmp_path: Path) -> None:
    plan = Sweep.model_validate({
        "scenario": scenario(events=[{"at": "1s", "disconnect": "pe-contoso"}], seed=7),
        "grid": {"ports_per_endpoint": [None, 5], "timeouts.tcp_established": ["4m", "90s"], "load": [1, 0.5]},
    })
    (tmp_path / "configuration.yaml").write_text(dump_sweep(plan))
    again = load_sweep(tmp_path / "configuration.yaml")
    assert again.scenario == plan.scenario
    assert list(again.cells()) == list(plan.cells())
