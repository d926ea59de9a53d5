"""Who does many independent jobs: processes of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import active_children, get_context

from dataplane.runs.folder import RunError

#: Why a job has no result where a process is gone (`concurrent.futures.BrokenExecutor`).
ENDED_FROM_OUTSIDE = "its process was ended from outside, or that of a job beside it (is there enough memory?)"

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


@contextmanager
def executor(workers: int, dask: str | None) -> Iterator[Executor]:
    """`workers` processes, or the cluster whose scheduler is at `dask`. Raises `RunError`."""
    if dask is None:
        with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin) as processes:
            yield processes
        return
    from dataplane.shards.remote import connect

    try:
        client = connect(dask)
    except ValueError as error:
        raise RunError(f"--dask {error}") from error
    with client, client.get_executor(pure=False) as cluster:
        yield cluster


def tell_members() -> None:
    """Hand an interruption on to the processes that work for this one, which may be the only one that was told."""
    for process in active_children():
        with suppress(ProcessLookupError):
            os.kill(process.pid or 0, signal.SIGUSR1)


def _begin() -> None:
    """Ctrl-C reaches every process of the terminal: one without a job goes on waiting, a job has its own way to end."""
    if sys.platform.startswith("linux"):  # nobody would take the results of a process whose parent is gone
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # so does the end of the terminal
        signal.signal(signal.SIGHUP, lambda *_: None)
