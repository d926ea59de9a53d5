"""A replay: captures in, through the service, and a run's folder out."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.capture import CaptureReader
from dataplane.capture.merge import merge
from dataplane.capture.overlap import cores
from dataplane.metrics.conditions import Condition, held_conditions
from dataplane.metrics.figures import figures
from dataplane.metrics.series import MetricRow
from dataplane.packets.batch import PacketBatch
from dataplane.packets.headers import KNOWN_LINK_TYPES
from dataplane.runs.folder import RunError, RunFolder, check_outputs, manifest
from dataplane.runs.infer import CONSUMER, PROVIDER, infer_topology
from dataplane.runs.interruption import interruption
from dataplane.runs.record import BACKBONE, Recorder
from dataplane.runs.sessions_csv import SessionsFile
from dataplane.runs.sources import Source, locate, only_entered, open_source, parse_sources, spooled
from dataplane.shards.crew import Crew, Threads
from dataplane.simulator import Simulator
from dataplane.topology import Topology, dump_topology

#: The names of the networks of an inferred topology.
INFERRED_NETWORKS = (CONSUMER, PROVIDER)

#: A forward jump that is worth a word: a month between two packets.
_LONG_JUMP_NS = 30 * 86_400 * 1_000_000_000

#: What `manifest.json` says of an exit code.
MEANINGS = {
    0: "done",
    1: "done, and a condition of --fail-if holds",
    3: "an input was damaged",
    4: "an output could not be made",
    130: "interrupted",
}

#: (bytes read, bytes in all or None), after every batch.
Progress = Callable[[int, int | None], None]


@dataclass
class Replay:
    """What is to be replayed, and where to; `topology_path` is the file that no output may replace.

    `workers` threads share the work, or shards on the Dask cluster at the address `dask`: so many, or one per worker.
    The run counts as failed when one of the conditions in `fail_if` holds for its summary.
    """

    captures: list[str]
    topology: Topology | None = None
    seed: int = 0
    folder: Path | None = None
    capture: bool = True
    pcaps: dict[str, Path] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    topology_path: Path | None = None
    workers: int | None = None
    dask: str | None = None
    fail_if: Sequence[Condition] = ()


@dataclass
class Replayed:
    """What came of it: the summary, the topology as used, and what has to be said.

    `damage` has one line per capture that broke, `failures` one per output that could not be made, `held` one per
    place where a condition of `fail_if` holds; `interrupted` is true if the user stopped the run.
    """

    summary: dict[str, Any]
    topology: Topology
    damage: list[str]
    warnings: list[str]
    failures: list[str]
    held: list[str]
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """0 done, 1 a condition holds, 3 an input was damaged, 4 an output could not be made, 130 interrupted."""
        if self.interrupted:
            return 130
        return 3 if self.damage else 4 if self.failures else 1 if self.held else 0


def replay(job: Replay, progress: Progress | None = None) -> Replayed:
    """Send captures through the service. Raises `CaptureError` and `RunError`, with nothing written.

    An interruption (Ctrl-C) ends the run after the batch at hand; what was done until then is kept.
    """
    networks = networks_of(job)
    sources = parse_sources(job.captures, networks)
    _check_outputs(job, sources)
    with ExitStack() as stack:
        sources = stack.enter_context(spooled(sources))
        topology = infer(sources) if job.topology is None else job.topology
        for point in job.pcaps:
            if point != BACKBONE and point not in networks:
                raise RunError(
                    f"--pcap {point}=…: no such point; there are: {', '.join([*sorted(networks), BACKBONE])}"
                )
        readers = [stack.enter_context(open_source(source, digest=job.folder is not None)) for source in sources]
        crew = _crew(job)
        if crew is not None:
            stack.callback(crew.close)
        folder = stack.enter_context(RunFolder(job.folder))
        return _run(job, topology, list(zip(readers, sources, strict=True)), folder, crew, progress)


def networks_of(job: Replay) -> set[str]:
    """The names of networks that a capture may be given."""
    if job.topology is None:
        return set(INFERRED_NETWORKS)
    return {network.name for network in job.topology.virtual_networks}


def _crew(job: Replay) -> Crew | None:
    """Who shares the work, if it is shared."""
    if job.dask is not None:
        from dataplane.shards.remote import dask

        try:
            return dask(job.dask, job.workers)
        except ValueError as error:
            raise RunError(f"--dask {error}") from error
    return None if job.workers in (None, 1) else Threads(job.workers)


def _check_outputs(job: Replay, sources: list[Source]) -> None:
    """Refuse outputs that would take the place of an input, or of what is no run's."""
    inputs = [source.path for source in sources if source.path != "-"]
    if job.topology_path is not None:
        inputs.append(str(job.topology_path))
    check_outputs(inputs, job.folder, job.pcaps.values())


def infer(sources: list[Source], damage: list[str] | None = None) -> Topology:
    """The topology in which every server of the captures is a private endpoint's service.

    What is wrong with a capture is added to `damage`; it counts as far as it can be read.
    """
    with ExitStack() as stack:
        readers = [
            stack.enter_context(open_source(source, digest=False)) for source in sources if source.point != PROVIDER
        ]
        topology = infer_topology(merge([(reader, only_entered(reader)) for reader in readers]))
    if damage is not None:
        damage += [reader.damage for reader in readers if reader.damage]
    return topology


def _run(
    job: Replay,
    topology: Topology,
    captures: list[tuple[CaptureReader, Source]],
    folder: RunFolder,
    crew: Crew | None,
    progress: Progress | None,
) -> Replayed:
    keep = job.folder is not None
    minutes = minutes_file(folder) if keep else None
    simulator = Simulator(topology, job.seed, sessions_log=keep, on_minute=minutes, workers=crew or 1, rows=1 << 16)
    sessions = SessionsFile(folder.binary("sessions.csv"), topology, simulator.pools) if keep else None
    recorder = Recorder(
        topology,
        folder.binary("capture.pcapng") if keep and job.capture else None,
        {point: folder.files.binary(path) for point, path in job.pcaps.items()},
        behind=cores() > 1,
    )
    size = None
    if all(reader.size is not None for reader, _ in captures):
        size = sum(reader.size or 0 for reader, _ in captures)
    with interruption() as interrupted:
        for batch in merge([(reader, locate(reader, source, topology)) for reader, source in captures]):
            send_and_record(simulator, simulator.sequence(batch), recorder)
            if sessions is not None:
                sessions.write(simulator.take_ended_sessions())
            if progress is not None:
                progress(sum(reader.bytes_read for reader, _ in captures), size)
            if interrupted:
                break
    send_and_record(simulator, simulator.remaining(), recorder)
    recorder.close()
    for point in recorder.failures:
        folder.files.abandon(job.pcaps[point])
    simulator.end_series()
    summary = simulator.summary()
    result = Replayed(
        summary,
        topology,
        [reader.damage for reader, _ in captures if reader.damage],
        list(_warnings(simulator, [reader for reader, _ in captures])),
        list(recorder.failures.values()),
        held_conditions(job.fail_if, figures(summary)),
        bool(interrupted),
    )
    if sessions is not None:
        sessions.write(simulator.take_ended_sessions())
        sessions.write(simulator.live_sessions(), ended=False)
    if keep:
        folder.write_json("summary.json", summary)
        folder.text("topology.yaml").write(dump_topology(topology))
        inputs = [
            {
                "path": source.name,
                "point": source.point,
                "sha256": reader.sha256,
                "packets": reader.packets,
                "damage": reader.damage,
            }
            for reader, source in captures
        ]
        code, clock = result.exit_code, simulator.clock
        first_packet = f"{np.datetime64(int(clock['origin']), 'ns')}Z" if clock["started"] else None
        told = manifest(job.command, inputs, job.seed, code, MEANINGS[code], first_packet)
        folder.write_json("manifest.json", told)
    return result


def send_and_record(
    simulator: Simulator, batch: PacketBatch, recorder: Recorder, outcomes: NDArray[Any] | None = None
) -> None:
    """Feed a batch, and record what became of it; `outcomes` (rows of OUTCOME) are filled if they are given."""
    if not recorder.active:
        simulator.feed(batch, *([] if outcomes is None else [outcomes]))
        simulator.take_reset_packets()
        return
    came, room = recorder.prepare(batch)
    if outcomes is None:
        outcomes = room
    before = simulator.clock["received"]
    simulator.feed(batch, outcomes)
    resets, told, received = simulator.take_reset_packets()
    done = 0
    for at in np.unique(received):  # where in the batch time-outs sent resets
        until = int(at) - before
        recorder.record(came, replace(batch, frames=batch.frames[done:until]), outcomes[done:until])
        here = received == at
        recorder.record(resets.data, replace(resets, frames=resets.frames[here]), told[here])
        done = until
    recorder.record(came, replace(batch, frames=batch.frames[done:]), outcomes[done:])


def minutes_file(folder: RunFolder) -> Callable[[list[MetricRow]], None]:
    """Begin the run's `metrics.csv`; what is returned appends rows to it."""
    writer = csv.writer(folder.text("metrics.csv"), lineterminator="\n")
    names = [field.name for field in fields(MetricRow)]
    writer.writerow(names)
    return lambda rows: writer.writerows([getattr(row, name) for name in names] for row in rows)


def _warnings(simulator: Simulator, readers: Iterable[CaptureReader]) -> Iterator[str]:
    """What a reader of the results should know of the inputs."""
    clock = simulator.clock
    if clock["unusable_times"]:
        yield (
            f"{clock['unusable_times']} packets have times beyond 64-bit nanoseconds (years 1678 to 2262); "
            "each was taken to be at the time of the packet before it"
        )
    if clock["backward_times"]:
        yield (
            f"{clock['backward_times']} packets have times earlier than a packet before them; "
            "the clock did not go back for them"
        )
    if clock["largest_jump"] > _LONG_JUMP_NS:
        days = clock["largest_jump"] / 86_400e9
        yield f"the captures' time jumps forward by up to {days:,.0f} days between two packets"
    for reader in readers:
        strange = sorted({i.link_type for i in reader.interfaces} - KNOWN_LINK_TYPES)
        if strange:
            numbers = ", ".join(map(str, strange))
            yield f"{reader.name}: packets of link type {numbers} cannot be read for IPv4 and are bypassed"
