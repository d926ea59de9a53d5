"""The command, as a user runs it: the whole process, from its start to its end, by the clock on the wall."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import workloads
from dataplane.topology import dump_topology

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def replay(benchmark, tell, tmp_path):
    """Time `dataplane replay` of a batch; the first run, which may compile, is not counted."""

    def run(batch, *options):
        capture = workloads.write_capture(batch, tmp_path / "in.pcap")
        topology = tmp_path / "topology.yaml"
        topology.write_text(dump_topology(workloads.topology()))
        command = [sys.executable, "-m", "dataplane", "replay", str(capture), "-t", str(topology)]
        command += ["--quiet", "--json", *options]

        def forget():
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
            (tmp_path / "out.pcap").unlink(missing_ok=True)

        def whole_process():
            return subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout

        summary = json.loads(benchmark.pedantic(whole_process, setup=forget, rounds=5, warmup_rounds=1))
        assert summary["forwarded"]["packets"] == len(batch)
        tell(len(batch) if len(batch) > 1 else None)

    return run


@pytest.mark.benchmark(group="replay")
def test_replay_of_one_packet(replay):
    """What starting costs: imports, machine code from disk, topology."""
    replay(workloads.udp(1, 1))


@pytest.mark.benchmark(group="replay")
def test_import_of_numba(benchmark, tell):
    """The part of starting that is numba's own: the floor under the one above."""

    def whole_process():
        return subprocess.run([sys.executable, "-c", "import numba"], cwd=ROOT, check=True)

    benchmark.pedantic(whole_process, rounds=5, warmup_rounds=1)
    tell(None)


@pytest.mark.benchmark(group="replay")
def test_replay(replay, packets):
    """60,000 sessions, 64-byte packets, figures only."""
    replay(workloads.udp(packets, min(60_000, packets)))


@pytest.mark.benchmark(group="replay")
def test_replay_to_a_folder(replay, packets, tmp_path):
    """The same with everything written: capture of every point, sessions, metrics."""
    replay(workloads.udp(packets, min(60_000, packets)), "-o", str(tmp_path / "run"))


@pytest.mark.benchmark(group="replay")
@pytest.mark.parametrize("size", [64, 1500])
def test_replay_to_a_pcap(replay, packets, tmp_path, size):
    """1,000 sessions, one point written as classic pcap."""
    output = f"{workloads.NETWORKS[workloads.PROVIDER]}={tmp_path / 'out.pcap'}"
    replay(workloads.udp(packets, min(1_000, packets), size), "--pcap", output)
