"""From a capture to a capture, as a process: `dataplane replay`, `tcprewrite`, and `cp` as what copying alone takes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.peers.contest import CLIENT_PORTS, Arena, Contestant, MissingError, check
from bench.workloads import BACKEND_PORT, ENDPOINT, FRONTEND_PORT, NETWORKS, PROVIDER
from dataplane.capture import open_capture
from dataplane.topology import dump_topology

ROOT = Path(__file__).resolve().parents[2]


def replay(arena: Arena, opened: ExitStack) -> Contestant:
    """`dataplane replay` with one point out, and with a capture of one packet, which is what starting takes."""
    note = "file to file, a process; stateful; opens the sessions itself"
    return _replay(arena, "dataplane replay", note, lambda output: ["--pcap", f"{NETWORKS[PROVIDER]}={output}"])


def replay_of_all_points(arena: Arena, opened: ExitStack) -> Contestant:
    """`dataplane replay -o`: every packet where it came in, on the backbone, where it was delivered; and the rest."""
    note = "the same with a run's folder: pcapng of all points, digest of the input, sessions, metrics"
    return _replay(arena, "dataplane replay, all points", note, lambda output: ["-o", str(output.parent)], copies=3)


def _replay(
    arena: Arena, name: str, note: str, options: Callable[[Path], Sequence[str]], copies: int = 1
) -> Contestant:
    """`dataplane replay`, which writes every packet so many times."""
    topology = arena.folder / "topology.yaml"
    topology.write_text(dump_topology(arena.topology))

    def command(capture: Path, output: Path) -> list[str]:
        words = [sys.executable, "-m", "dataplane", "replay", str(capture), "-t", str(topology)]
        return [*words, *options(output), "--quiet", "--json"]

    def forwarded(said: bytes, count: int) -> None:
        packets = json.loads(said)["forwarded"]["packets"]
        if packets != count:
            raise RuntimeError(f"dataplane replay forwarded {packets:,} of {count:,} packets")

    whole, packets = _timed(arena, command, said=forwarded, copies=copies)
    one, _ = _timed(arena, command, most=1, said=forwarded, copies=copies)
    return Contestant(name, packets, note, whole, one, "start-up taken off")


def tcprewrite(arena: Arena, opened: ExitStack) -> Contestant:
    """Debian's tcprewrite: addresses mapped network to network, ports by a list of all ports that there are."""
    if shutil.which("tcprewrite") is None:
        raise MissingError("not installed: apt install tcpreplay")
    endpoint = ".".join(map(str, ENDPOINT.to_bytes(4)))
    maps = [f"--portmap={port}:{2_000 + number}" for number, port in enumerate(CLIENT_PORTS)]
    maps += [f"--portmap={FRONTEND_PORT}:{BACKEND_PORT}", "--srcipmap=10.0.0.0/8:192.168.50.0/24"]
    maps += [f"--dstipmap={endpoint}/32:192.168.61.4/32"]

    def command(capture: Path, output: Path) -> list[str]:
        return ["tcprewrite", *maps, f"--infile={capture}", f"--outfile={output}"]

    one_round, packets = _timed(arena, command)
    note = "file to file, a process; stateless: addresses and ports by a fixed map"
    return Contestant("tcprewrite", packets, note, one_round)


def copy(arena: Arena, opened: ExitStack) -> Contestant:
    """`cp` of the capture, whose pages are in memory."""

    def command(capture: Path, output: Path) -> list[str]:
        return ["cp", "--reflink=never", str(capture), str(output)]

    one_round, packets = _timed(arena, command, copies=0)
    return Contestant("cp", packets, "file to file, a process; no NAT: copies the bytes", one_round)


def _timed(
    arena: Arena,
    command: Callable[[Path, Path], Sequence[str]],
    most: int | None = None,
    said: Callable[[bytes, int], None] = lambda said, count: None,
    copies: int = 1,
) -> tuple[Callable[[], float], int]:
    """What runs a command from a capture to a new one and returns its seconds; and how many packets those are.

    The output is read after the first time: all packets, so many times (0: as they were, else translated at the end).
    """
    capture, count = arena.capture(most)
    output = arena.folder / "out" / "capture.pcapng"  # as a run's folder has it; others write a pcap there
    rounds = 0

    def one_round() -> float:
        nonlocal rounds
        rounds += 1
        # A new file each time: what it costs to write over an old one is another question.
        shutil.rmtree(output.parent, ignore_errors=True)
        output.parent.mkdir()
        begun = time.perf_counter()
        done = subprocess.run(command(capture, output), cwd=ROOT, capture_output=True)
        seconds = time.perf_counter() - begun
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command(capture, output))}: {done.stderr.decode().strip()}")
        said(done.stdout, count)
        if rounds == 1:
            check_capture(output, count, copies)
        shutil.rmtree(output.parent)
        return seconds

    return one_round, count


def check_capture(path: Path, count: int, copies: int = 1) -> None:
    """Raise RuntimeError unless a capture holds each of so many packets `copies` times, the last one translated.

    With 0 copies it holds them once, as they were.
    """
    found = 0
    with open_capture(path) as reader:
        for batch in reader:
            if copies:
                check(batch[place] for place in range(-(found + 1) % copies, len(batch), 499 * copies))
            found += len(batch)
    if found != count * max(1, copies):
        raise RuntimeError(f"{path.name} holds {found:,} packets, not {count * max(1, copies):,}")
