"""Shards in other processes, on this machine or in a Dask cluster.

What they get and give is plain picklable data: `Settings` and `Work` go there, rewritten packets, `Figures` and rows of
ended sessions come back. A shard gets its own packets only; it keeps its state where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.forwarding.share import copy_frames
from dataplane.records import OUTCOME
from dataplane.shards.shard import Settings, Shard, Work

#: Calls a method of one shard, by name: gives something with a `result()`.
Member = Callable[..., Any]


class Remote:
    """A crew (see `crew.Crew`) whose shards are elsewhere; `launch` makes the shard of a number there."""

    def __init__(self, count: int, launch: Callable[[int, Settings], Member], end: Callable[[], None]) -> None:
        self.size = count
        self._launch = launch
        self._end = end
        self._members: list[Member] = []

    def start(self, settings: Settings) -> None:
        """Make the shards, each in its place."""
        self._members = [self._launch(number, settings) for number in range(self.size)]

    def each(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of every shard, all at once; the results in order."""
        return [future.result() for future in [member(method, *arguments) for member in self._members]]

    def run(self, work: Work) -> None:
        """Send every shard its own packets, and put back what it made of them."""
        places = [np.flatnonzero(work.owners == shard) for shard in range(self.size)]
        parts = [_part(work, shard, places[shard]) for shard in range(self.size)]
        calls = [member("run_apart", part, work.turns) for member, part in zip(self._members, parts, strict=True)]
        for own, part, call in zip(places, parts, calls, strict=True):
            data, outcomes = call.result()
            copy_frames(data, part.frames, work.data, work.frames[own])
            if len(work.outcomes):
                work.outcomes[own] = outcomes

    def together(self, part: Callable[[int], None], count: int) -> None:
        """The dispatcher does it alone: nobody else has its memory."""
        for number in range(count):
            part(number)

    def hands(self, packets: int) -> int:
        """One."""
        return 1

    def close(self) -> None:
        """End what was started for the shards."""
        self._members.clear()
        self._end()


def _part(work: Work, shard: int, places: NDArray[np.int64]) -> Work:
    """One shard's packets, with bytes of their own."""
    frames = work.frames[places]
    ends = np.cumsum(frames["captured"], dtype=np.int64)
    frames["offset"] = ends - frames["captured"]
    data = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    copy_frames(work.data, work.frames[places], data, frames)
    return Work(
        shard=shard,
        data=data,
        frames=frames,
        turns=work.turns[places],
        owners=work.owners[places],
        datagrams=work.datagrams[places] if len(work.datagrams) else work.datagrams,
        outcomes=np.zeros(len(places) if len(work.outcomes) else 0, OUTCOME),
    )


def processes(count: int) -> Remote:
    """A crew of processes on this machine, each with one shard."""
    pools: list[ProcessPoolExecutor] = []

    def launch(number: int, settings: Settings) -> Member:
        pool = ProcessPoolExecutor(1, get_context("spawn"), _make_own, (settings,))
        pools.append(pool)
        return lambda method, *arguments: pool.submit(_call_own, method, *arguments)

    def end() -> None:
        for pool in pools:
            pool.shutdown()

    return Remote(count, launch, end)


_own: list[Shard] = []


def _make_own(settings: Settings) -> None:
    """In a process of its own: make its shard."""
    _own[:] = [Shard(settings)]


def _call_own(method: str, *arguments: Any) -> Any:
    return getattr(_own[0], method)(*arguments)


def dask(address: str, count: int | None = None) -> Remote:
    """A crew in the Dask cluster whose scheduler is at `address`; without `count`, one shard per worker there.

    Raises ValueError if there is no such cluster, or Dask is not installed.
    """
    client = connect(address)
    places = sorted(client.scheduler_info(n_workers=-1)["workers"])

    def launch(number: int, settings: Settings) -> Member:
        place = places[number % len(places)]
        with client.as_current():
            actor = client.submit(Shard, settings, actor=True, workers=[place], pure=False).result()
        return lambda method, *arguments: getattr(actor, method)(*arguments)

    return Remote(count or len(places), launch, client.close)


def connect(address: str) -> Any:
    """A `distributed.Client` of the Dask cluster whose scheduler is at `address`; it has workers.

    Raises ValueError if there is no such cluster, or Dask is not installed.
    """
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("a Dask cluster can be used with Dask only: pip install 'distributed>=2024.1'") from None
    try:
        client = Client(address, set_as_default=False, timeout="10s")
    except (OSError, ValueError) as error:
        raise ValueError(f"{address}: no Dask scheduler answers there ({error})") from None
    if not client.scheduler_info(n_workers=-1)["workers"]:
        client.close()
        raise ValueError(f"{address}: the Dask cluster has no workers")
    return client
