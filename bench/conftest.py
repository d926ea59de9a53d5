"""What the suites share: how many packets, how a rate is taken and told, what the machine is."""

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
import pytest

from dataplane.packets.batch import PacketBatch
from dataplane.simulator import Simulator

#: Packets of a workload. A small number makes the suites a quick check that they still run.
PACKETS = int(os.environ.get("BENCH_PACKETS", "1000000"))

_HEADS = ["packets", "best Mpkt/s", "best ns/pkt", "median Mpkt/s", "median ns/pkt", "median s", "bytes/session"]
_ROWS = pytest.StashKey[list[tuple[str, list[str]]]]()


@pytest.fixture(scope="session")
def packets() -> int:
    return PACKETS


@pytest.fixture
def tell(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Call it with the packets of one round, after the measurement: it notes the rate and puts it in the table.

    None for what is no matter of packets. With the simulator, memory per open session is told too.
    """

    def rate(count: int | None, simulator: Simulator | None = None) -> None:
        if benchmark.stats is None:  # --benchmark-disable
            return
        stats = benchmark.stats.stats
        if count is None:
            _add(request, ["-"] * 5 + [f"{stats.median:,.3f}", "-"])
            return
        benchmark.extra_info.update(
            packets=count,
            packets_per_second=count / stats.median,
            ns_per_packet=stats.median * 1e9 / count,
            best_packets_per_second=count / stats.min,
            best_ns_per_packet=stats.min * 1e9 / count,
        )
        per_session = "-"
        if simulator is not None and (active := simulator.summary()["sessions"]["active"]):
            benchmark.extra_info["bytes_per_session"] = round(simulator.session_memory() / active)
            per_session = f"{benchmark.extra_info['bytes_per_session']:,}"
        row = [
            f"{count:,}",
            f"{count / stats.min / 1e6:,.2f}",
            f"{stats.min * 1e9 / count:,.1f}",
            f"{count / stats.median / 1e6:,.2f}",
            f"{stats.median * 1e9 / count:,.1f}",
            f"{stats.median:,.3f}",
            per_session,
        ]
        _add(request, row)

    return rate


@pytest.fixture
def tell_memory(benchmark: Any, request: pytest.FixtureRequest) -> Callable[[dict[str, Any]], None]:
    """The same for figures that are no rates."""

    def note(figures: dict[str, Any]) -> None:
        benchmark.extra_info.update(figures)
        _add(request, [f"{name} {value:,}" for name, value in figures.items()])

    return note


def _add(request: pytest.FixtureRequest, row: list[str]) -> None:
    request.config.stash.setdefault(_ROWS, []).append((request.node.name.removeprefix("test_"), row))


@pytest.fixture
def measure(benchmark: Any, tell: Callable[..., None]) -> Callable[..., None]:
    """Feed a batch to a simulator again and again, later each time, and note the rate.

    Every round gets the packets as they were: `feed` rewrites them. That, and the first round, which opens the
    sessions and compiles if it must, are not counted.
    """

    def run(simulator: Simulator, batch: PacketBatch, rounds: int = 9) -> None:
        original = batch.data.copy()
        times = batch.frames["time_ns"]
        span = int(times[-1] - times[0]) + 1_000
        received = 0

        def restore() -> None:
            nonlocal received
            np.copyto(batch.data, original)
            batch.frames["time_ns"] += span
            received += len(batch)

        benchmark.pedantic(simulator.feed, args=(batch,), setup=restore, rounds=rounds, warmup_rounds=1)
        assert simulator.summary()["forwarded"]["packets"] == received
        tell(len(batch), simulator)

    return run


def processor() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def pytest_report_header() -> str:
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return (
        f"bench: {processor()}, {os.cpu_count()} CPUs, load {load}; Python {platform.python_version()}, "
        f"numba {numba.__version__}, llvmlite {llvmlite.__version__}, numpy {np.__version__}; {PACKETS:,} packets"
    )


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = config.stash.get(_ROWS, [])
    rates = [(name, row) for name, row in rows if len(row) == len(_HEADS)]
    others = [(name, row) for name, row in rows if len(row) != len(_HEADS)]
    if not rows:
        return
    terminalreporter.section("packets per second")
    # The header again, since `-q` leaves it out.
    terminalreporter.write_line(pytest_report_header())
    width = max((len(name) for name, _ in rows), default=0)
    if rates:
        terminalreporter.write_line(" " * width + "".join(f"{head:>15}" for head in _HEADS))
    for name, row in rates:
        terminalreporter.write_line(f"{name:<{width}}" + "".join(f"{value:>15}" for value in row))
    for name, row in others:
        terminalreporter.write_line(f"{name:<{width}}  " + "; ".join(row))
