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

from bench.peers.contest import CLIENT_PORTS, Arena, Contestant, MissingError, check, sample
from bench.workloads import BACKEND_PORT, ENDPOINT, FRONTEND_PORT, NETWORKS, PROVIDER
from dataplane.capture import read_capture
from dataplane.topology import dump_topology

ROOT = Path(__file__).resolve().parents[2]


def replay(arena: Arena, opened: ExitStack) -> Contestant:
    """`dataplane replay`, and the same with a capture of one packet, which is what starting takes."""
    topology = arena.folder / "topology.yaml"
    topology.write_text(dump_topology(arena.topology))

    def command(capture: Path, output: Path) -> list[str]:
        words = [sys.executable, "-m", "dataplane", "replay", str(capture), "-t", str(topology)]
        return [*words, "--pcap", f"{NETWORKS[PROVIDER]}={output}", "--quiet", "--json"]

    def forwarded(said: bytes, count: int) -> None:
        packets = json.loads(said)["forwarded"]["packets"]
        if packets != count:
            raise RuntimeError(f"dataplane replay forwarded {packets:,} of {count:,} packets")

    whole, packets = _timed(arena, command, said=forwarded)
    one, _ = _timed(arena, command, most=1, said=forwarded)
    note = "file to file, a process; stateful; opens the sessions itself"
    return Contestant("dataplane replay", packets, note, whole, one, "start-up taken off")


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

    one_round, packets = _timed(arena, command, translates=False)
    return Contestant("cp", packets, "file to file, a process; no NAT: copies the bytes", one_round)


def _timed(
    arena: Arena,
    command: Callable[[Path, Path], Sequence[str]],
    most: int | None = None,
    said: Callable[[bytes, int], None] = lambda said, count: None,
    translates: bool = True,
) -> tuple[Callable[[], float], int]:
    """What runs a command from a capture to a new one and returns its seconds; and how many packets those are.

    The output is read after the first time; it has to hold every packet.
    """
    capture, count = arena.capture(most)
    output = arena.folder / "out.pcap"
    rounds = 0

    def one_round() -> float:
        nonlocal rounds
        rounds += 1
        # A new file each time: what it costs to write over an old one is another question.
        output.unlink(missing_ok=True)
        begun = time.perf_counter()
        done = subprocess.run(command(capture, output), cwd=ROOT, capture_output=True)
        seconds = time.perf_counter() - begun
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command(capture, output))}: {done.stderr.decode().strip()}")
        said(done.stdout, count)
        if rounds == 1:
            check_capture(output, count, translates)
        output.unlink()
        return seconds

    return one_round, count


def check_capture(path: Path, count: int, translates: bool = True) -> None:
    """Raise RuntimeError unless a capture holds so many packets, all of them translated."""
    batch = read_capture(path)
    if len(batch) != count:
        raise RuntimeError(f"{path.name} holds {len(batch):,} packets, not {count:,}")
    if translates:
        check(sample(batch))
