"""Who does many independent jobs: processes of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from dataplane.runs.folder import RunError

#: Why a job has no result where a process is gone (`concurrent.futures.BrokenExecutor`).
ENDED_FROM_OUTSIDE = "its process was ended from outside, or that of a job beside it (is there enough memory?)"


@contextmanager
def executor(workers: int, dask: str | None) -> Iterator[Executor]:
    """`workers` processes, or the cluster whose scheduler is at `dask`. Raises `RunError`."""
    if dask is None:
        with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_ignore_interrupts) as processes:
            yield processes
        return
    from dataplane.shards.remote import connect

    try:
        client = connect(dask)
    except ValueError as error:
        raise RunError(f"--dask {error}") from error
    with client, client.get_executor(pure=False) as cluster:
        yield cluster


def _ignore_interrupts() -> None:
    """Ctrl-C reaches every process of the terminal: one without a job goes on waiting, a job has its own way to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # so does the end of the terminal
        signal.signal(signal.SIGHUP, lambda *_: None)
