"""Who works on shards, and how they are told what to do. `Threads` share the dispatcher's memory.

Kernels release the GIL, so threads are as good as processes here. For shards elsewhere see `remote.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

from dataplane.shards.shard import Settings, Shard, Work

#: Fewer packets than this are not worth waking anybody.
_WORTH_SHARING = 256


class Crew(Protocol):
    """Who works on shards."""

    @property
    def size(self) -> int:
        """How many shards there are."""

    def start(self, settings: Settings) -> None:
        """Make the shards."""

    def each(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of every shard, with the same arguments; the results in order."""

    def run(self, work: Work) -> None:
        """Let every shard treat its own packets of `work`."""

    def together(self, part: Callable[[int], None], count: int) -> None:
        """Call `part` with the numbers below `count`, in the dispatcher's memory."""

    def hands(self, packets: int) -> int:
        """Into how many parts such work is to be cut."""

    def close(self) -> None:
        """Nothing follows."""


class Threads:
    """One thread per shard; the caller's is the first."""

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"{count} workers; at least one has to work")
        self.size = count
        self._pool = ThreadPoolExecutor(max(1, count - 1), "dataplane-worker")
        self._shards: list[Shard] = []

    def start(self, settings: Settings) -> None:
        """Make the shards."""
        self._shards = [Shard(settings) for _ in range(self.size)]

    def each(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of every shard, one after another: short work."""
        return [getattr(shard, method)(*arguments) for shard in self._shards]

    def run(self, work: Work) -> None:
        """Let every shard treat its own packets, all at once if there are many."""
        works = [replace(work, shard=shard) for shard in range(self.size)]

        def part(shard: int) -> None:
            self._shards[shard].run(works[shard], work.turns)

        if len(work.frames) < _WORTH_SHARING:
            for shard in range(self.size):
                part(shard)
        else:
            self.together(part, self.size)

    def together(self, part: Callable[[int], None], count: int) -> None:
        """Call `part` with every number below `count`, each in a thread."""
        others = [self._pool.submit(part, number) for number in range(1, count)]
        try:
            part(0)
        finally:
            for other in others:
                other.result()

    def hands(self, packets: int) -> int:
        """All, unless there is next to nothing to do."""
        return self.size if packets >= _WORTH_SHARING else 1

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
