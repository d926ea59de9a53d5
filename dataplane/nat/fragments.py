"""Which fragments may be translated now, and which have to wait (docs/model.md, "Fragments"; RFC 4787 REQ-14).

Only a datagram's first fragment has ports. This stage stands before all others and hands fragments on in such an order
that the first comes before the later ones; it rewrites nothing and knows no sessions. It also knows the datagrams whose
fragments contradict each other. Its tables are bounded, and what has no room in them is never let in at another's cost.

Fragments are rare, so this is plain Python. A datagram's coverage is an integer with a bit per 8 bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

#: The most datagrams that are known at a time, and the most fragments that wait.
DATAGRAMS = 1024
WAITING = 1024

#: How long a datagram is known after its first arrival, in nanoseconds (Linux: net.ipv4.ipfrag_time).
LIFETIME = 30_000_000_000

#: What a fragment is told to be: a datagram's number (0 and up), or none, or `OVERLAP - number` of a bad datagram.
UNRESOLVED, OVERLAP = -1, -2

Item = TypeVar("Item")

#: (point, source, destination, protocol, identification).
Key = tuple[int, int, int, int, int]


class Extent(NamedTuple):
    """Where a fragment lies in its datagram, in units of 8 bytes, and whether more follow."""

    begin: int
    end: int
    more: bool


@dataclass
class _Datagram(Generic[Item]):
    number: int
    begun: int
    covered: int = 0
    highest: int = 0
    end: int | None = None  # known once the last fragment has arrived
    has_first: bool = False
    is_bad: bool = False
    waiting: list[Item] = field(default_factory=list)

    def contradicts(self, extent: Extent) -> bool:
        """Whether a fragment overlaps with what has arrived, or with where the datagram ends."""
        if self.covered >> extent.begin & (1 << (extent.end - extent.begin)) - 1:
            return True
        if self.end is not None and (extent.end > self.end or not extent.more):
            return True
        return not extent.more and self.highest > extent.end

    def cover(self, extent: Extent) -> None:
        self.covered |= (1 << extent.end) - (1 << extent.begin)
        self.highest = max(self.highest, extent.end)
        self.has_first |= extent.begin == 0
        if not extent.more:
            self.end = extent.end

    @property
    def is_complete(self) -> bool:
        return self.end is not None and self.covered == (1 << self.end) - 1


class FragmentQueue(Generic[Item]):
    """Holds back later fragments until the first of their datagram has come. An item stands for a packet."""

    def __init__(self) -> None:
        self._datagrams: dict[Key, _Datagram[Item]] = {}  # in the order in which they began
        self._numbers = list(range(DATAGRAMS - 1, -1, -1))  # free ones
        self.waiting = 0

    def arrive(self, key: Key, extent: Extent, item: Item, now: int) -> list[tuple[Item, int]]:
        """A fragment arrives at `now`: the packets that go on because of it, in order, each with its number."""
        going = list(self.forget(now))
        datagram = self._datagrams.get(key)
        if datagram is not None and (datagram.is_bad or datagram.contradicts(extent)):
            datagram.is_bad = True
            mark = OVERLAP - datagram.number
            return [*going, (item, mark), *self._let_go(datagram, mark)]
        waits = extent.begin > 0 and (datagram is None or not datagram.has_first)
        if (datagram is None and not self._numbers) or (waits and self.waiting == WAITING):
            return [*going, (item, UNRESOLVED)]
        if datagram is None:
            datagram = self._datagrams[key] = _Datagram(self._numbers.pop(), now)
        datagram.cover(extent)
        if waits:
            datagram.waiting.append(item)
            self.waiting += 1
            return going
        going += [(item, datagram.number), *self._let_go(datagram, datagram.number)]
        if datagram.is_complete:
            self._drop(key)
        return going

    def forget(self, now: int) -> Iterator[tuple[Item, int]]:
        """Forget the datagrams whose time is over; what waited for them goes on unresolved."""
        while self._datagrams:
            key, oldest = next(iter(self._datagrams.items()))
            if oldest.begun + LIFETIME > now:
                break
            yield from self._let_go(oldest, UNRESOLVED)
            self._drop(key)

    def finish(self) -> Iterator[tuple[Item, int]]:
        """The input ends: everything that waits goes on unresolved."""
        for key in [*self._datagrams]:
            yield from self._let_go(self._datagrams[key], UNRESOLVED)
            self._drop(key)

    def _let_go(self, datagram: _Datagram[Item], mark: int) -> list[tuple[Item, int]]:
        going = [(item, mark) for item in datagram.waiting]
        self.waiting -= len(going)
        datagram.waiting.clear()
        return going

    def _drop(self, key: Key) -> None:
        self._numbers.append(self._datagrams.pop(key).number)
