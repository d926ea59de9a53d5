"""An exhaustion experiment: a scenario's traffic through the simulator, and what was found."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.metrics.conditions import Condition, held_conditions
from dataplane.metrics.figures import figures
from dataplane.metrics.series import MetricRow
from dataplane.packets.batch import PacketBatch
from dataplane.runs.findings import Moment, Watch, moment, traffic_counts
from dataplane.runs.folder import RunFolder, check_outputs, manifest
from dataplane.runs.interruption import interruption
from dataplane.runs.record import Recorder
from dataplane.runs.replay import MEANINGS, minutes_file, send_and_record
from dataplane.runs.scenario import Scenario
from dataplane.runs.scenario_file import dump_scenario
from dataplane.runs.sessions_csv import SessionsFile
from dataplane.runs.traffic import Generator
from dataplane.simulator import Simulator
from dataplane.topology import Topology, dump_topology

#: When every run begins: 2026-01-01, 00:00:00 UTC. A whole minute, so that minutes of the series are those of the run.
ORIGIN_NS = 1_767_225_600_000_000_000

_SECOND = 1_000_000_000

#: Told where the run is, after every simulated second.
Progress = Callable[[Moment], None]


@dataclass
class Exhaust:
    """What is to be run, and where to. `seed` comes before the scenario's own.

    `inputs` are the files that the scenario was read from: no output may take their place.
    `slice_ns` shortens the slices of the generator (`runs/traffic.py`); no result depends on it. The run counts as
    failed when one of the conditions in `fail_if` holds for its summary.
    """

    scenario: Scenario
    seed: int | None = None
    folder: Path | None = None
    sessions: bool = False
    capture: bool = False
    command: list[str] = field(default_factory=list)
    inputs: list[Path] = field(default_factory=list)
    slice_ns: int | None = None
    fail_if: Sequence[Condition] = ()


@dataclass
class Exhausted:
    """What came of it: the summary (with `findings`), the topology as used, and what has to be said.

    `held` has a line for every place where a condition of `fail_if` holds.
    """

    summary: dict[str, Any]
    topology: Topology
    notes: list[str]
    held: list[str]
    interrupted: bool = False

    @property
    def findings(self) -> dict[str, Any]:
        """The object `findings` of the summary."""
        found: dict[str, Any] = self.summary["findings"]
        return found

    @property
    def exit_code(self) -> int:
        """0 done, 1 a condition holds, 130 interrupted."""
        return 130 if self.interrupted else 1 if self.held else 0


def exhaust(job: Exhaust, progress: Progress | None = None) -> Exhausted:
    """Run a scenario. Raises `RunError`, with nothing written.

    An interruption (Ctrl-C) ends the run after the simulated second at hand; what was done until then is kept.
    """
    check_outputs(map(str, job.inputs), job.folder)
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder(job.folder))
        return _run(job, folder, progress)


def _run(job: Exhaust, folder: RunFolder, progress: Progress | None) -> Exhausted:
    scenario = job.scenario
    topology = scenario.whole_topology
    seed = scenario.seed if job.seed is None else job.seed
    keep = job.folder is not None
    begin_ns, end_ns = ORIGIN_NS + scenario.warm_up, ORIGIN_NS + scenario.duration
    watch = Watch(topology, ORIGIN_NS, begin_ns)
    write_minutes = minutes_file(folder) if keep else None

    def minute(rows: list[MetricRow]) -> None:
        watch.minute(rows)
        if write_minutes is not None:
            write_minutes(rows)

    simulator = Simulator(topology, seed, sessions_log=True, on_minute=minute)
    simulator.start(time_ns=ORIGIN_NS)
    sessions = SessionsFile(folder.binary("sessions.csv"), topology, simulator.pools) if keep and job.sessions else None
    recorder = Recorder(topology, folder.binary("capture.pcapng") if keep and job.capture else None)
    generator = Generator(scenario, seed, ORIGIN_NS, job.slice_ns)
    send = _sender(simulator, recorder)

    now = ORIGIN_NS
    before = generator.sources.copy()
    with interruption() as interrupted:
        while now < end_ns and not interrupted:
            if now == begin_ns:
                watch.begin(simulator)
                before = generator.sources.copy()
            since, now = now, min(now + _SECOND - now % _SECOND, end_ns)
            if since < begin_ns:
                now = min(now, begin_ns)
            generator.run(now, send)
            simulator.advance(to_ns=now)
            ended = simulator.take_ended_sessions()
            watch.second(simulator, ended, since, now)
            if sessions is not None:
                sessions.write(ended)
            if progress is not None:
                progress(moment(topology, simulator, ORIGIN_NS, scenario.duration))
    send_and_record(simulator, simulator.remaining(), recorder)  # resets since the last packet
    recorder.close()
    simulator.end_series()
    summary = simulator.summary()
    held = held_conditions(job.fail_if, figures(summary))
    names = [(source.name, source.endpoint) for source in scenario.traffic]
    traffic = traffic_counts(names, generator.sources, before)
    summary["findings"] = watch.findings(simulator, summary, traffic, scenario.alert, now)
    result = Exhausted(summary, topology, generator.notes + _notes(scenario, traffic), held, bool(interrupted))
    if sessions is not None:
        sessions.write(simulator.live_sessions(), ended=False)
    if keep:
        folder.write_json("summary.json", summary)
        folder.text("topology.yaml").write(dump_topology(topology))
        used = scenario.model_copy(update={"seed": seed})
        folder.text("scenario.yaml").write(dump_scenario(used, "topology.yaml"))
        inputs = [{"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in job.inputs]
        code = result.exit_code
        begin = f"{np.datetime64(ORIGIN_NS, 'ns')}Z"
        folder.write_json("manifest.json", manifest(job.command, inputs, seed, code, MEANINGS[code], begin))
    return result


def _sender(simulator: Simulator, recorder: Recorder) -> Callable[[PacketBatch, NDArray[Any]], None]:
    """What is done with a batch: only what is asked for."""
    services = simulator.topology.private_link_services
    if recorder.active or any(service.nat.idle_reset for service in services):
        return lambda batch, outcomes: send_and_record(simulator, simulator.sequence(batch), recorder, outcomes)
    return lambda batch, outcomes: simulator.feed(simulator.sequence(batch), outcomes)


def _notes(scenario: Scenario, traffic: list[dict[str, Any]]) -> list[str]:
    """What a reader of the findings should know of the clients."""
    notes = []
    for source, told in zip(scenario.traffic, traffic, strict=True):
        counts = told["connections"]
        if counts["no_client_port"]:
            notes.append(
                f"{source.name}: {counts['no_client_port']:,} connections were not made: every port of the clients was "
                f"in use ({source.hosts} hosts of 28,232 ports each); write more hosts"
            )
        if counts["reused"]:
            notes.append(
                f"{source.name}: {counts['reused']:,} connections began on a client's address and port of which the "
                "service still had a session, and took no port of their own; write more hosts if that is not meant"
            )
    return notes
