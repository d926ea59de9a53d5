"""What a session costs in memory, beyond the NAT pools, measured in a process of its own.

At 100,000 sessions the pages of all 32 pools have been touched, since ports are chosen at random; what is resident
beyond that point is sessions alone. Tables double, so a session costs most just after a doubling.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import workloads
from dataplane.simulator import Simulator

ROOT = Path(__file__).resolve().parent.parent
BASE = 100_000


def resident(field: str = "VmRSS") -> int:
    """Bytes of this process that are in memory (`VmHWM`: that were, at most)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def grow(base: int, sessions: int) -> dict[str, int]:
    """Open sessions, a few at a time, and say what those beyond `base` cost."""
    step = min(base, 10_000)
    simulator = Simulator(workloads.topology())
    before = table = 0
    for first in range(0, sessions, step):
        if first == base:
            before, table = resident(), simulator.session_memory()
        count = min(step, sessions - first)
        simulator.feed(workloads.new_sessions(count, live=10**7, timeout_ns=10**10, first_flow=first))
    assert simulator.summary()["sessions"]["active"] == sessions
    more = sessions - base
    return {
        "resident bytes/session": round((resident() - before) / more),
        "table bytes/session": round((simulator.session_memory() - table) / more),
        "peak bytes/session": round((resident("VmHWM") - before) / more),
    }


@pytest.mark.benchmark(group="memory")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("sessions", [500_000, 530_000, 1_000_000])
def test_memory(benchmark, tell_memory, packets, sessions):
    """Bytes of every session beyond the first 100,000."""
    if packets < sessions:  # a quick check
        sessions = 2 * packets
    base = min(BASE, sessions // 2)
    program = f"import json; from bench.test_memory import grow; print(json.dumps(grow({base}, {sessions})))"

    def whole_process():
        # With a fixed threshold the allocator gives arrays back to the system as soon as they are freed.
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
        command = [sys.executable, "-c", program]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True).stdout

    tell_memory(json.loads(benchmark.pedantic(whole_process, rounds=1)))
