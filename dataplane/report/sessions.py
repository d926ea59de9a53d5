"""`sessions.csv`: millions of sessions, read in a stream, added up in arrays whose size does not depend on them.

A session holds one NAT port from its first packet to its end, or to the run's end if it is still open. What falls into
which interval is exact: a port that is held for half of an interval counts as half a port.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import islice, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.report.chart import Intervals
from dataplane.report.run import NatIp, Run, check_last_line
from dataplane.runs.folder import RunError

#: Endpoints whose use of ports is followed over time (those with most sessions); all have totals.
MOST_ENDPOINTS = 1_000
#: NAT IPs whose port range is followed over time (those that were busiest); more have totals.
MOST_HEAT_MAPS = 4
MOST_NAT_IPS = 24
PORT_BANDS = 32

_COLUMNS = ("endpoint", "nat_ip", "nat_port", "first_packet", "ended", "how")
_ROWS = 1 << 14
_STAMP = len("2023-11-14T22:13:20.000000000Z")
_SEPARATORS = ((4, "-"), (7, "-"), (10, "T"), (13, ":"), (16, ":"), (19, "."), (29, "Z"))


class SessionFigures:
    """What the sessions of a run add up to.

    `opened` and `ended` count sessions per interval. `ports[row]` is the mean number of ports in use per interval by
    `followed[row]`, and by all other endpoints in the last row. `port_seconds` has every endpoint's total.
    `heat[n]` (bands, heat intervals) and `bands[n]` (bands) are shares of time in percent that the ports of a band of
    a NAT IP were in use, of all its pools; `heat_of` and `bands_of` say which NAT IPs. Ranges of fewer ports than
    `PORT_BANDS` leave the last bands empty.
    """

    def __init__(self, run: Run, intervals: Intervals, heat_intervals: Intervals, end_ns: int) -> None:
        self.count = 0
        self.intervals, self.heat_intervals = intervals, heat_intervals
        self._end = end_ns
        self._endpoints = {endpoint.name: row for row, endpoint in enumerate(run.endpoints)}
        names = sorted(run.endpoints, key=lambda endpoint: -endpoint.sessions)[:MOST_ENDPOINTS]
        self.followed = [endpoint.name for endpoint in names]
        self._row_of = np.full(len(run.endpoints), len(names))
        self._row_of[[self._endpoints[name] for name in self.followed]] = np.arange(len(names))
        self._nat_ips = {(nat_ip.service, nat_ip.address): row for row, nat_ip in enumerate(run.nat_ips)}
        self._by_endpoint = {
            (endpoint.name, nat_ip.address): self._nat_ips[nat_ip.service, nat_ip.address]
            for endpoint, nat_ip in _routes(run)
        }
        busiest = sorted(range(len(run.nat_ips)), key=lambda row: -run.nat_ips[row].most_used)
        busiest = [row for row in busiest if run.nat_ips[row].most_used]
        self.bands_of = [run.nat_ips[row] for row in busiest[:MOST_NAT_IPS]]
        self.heat_of = self.bands_of[:MOST_HEAT_MAPS]
        self._band_row = np.full(len(run.nat_ips), -1)
        self._band_row[busiest[:MOST_NAT_IPS]] = np.arange(len(self.bands_of))
        self._first_port = np.array([nat_ip.ports.start for nat_ip in run.nat_ips], np.int64)
        self._ports = np.array([len(nat_ip.ports) for nat_ip in run.nat_ips], np.int64)

        self.opened, self.ended = np.zeros((2, intervals.count), np.int64)
        self.port_seconds = np.zeros(len(run.endpoints))
        self._use = _Use(len(names) + 1, intervals)
        self._heat = _Use(len(self.heat_of) * PORT_BANDS, heat_intervals)
        self._bands = np.zeros((len(self.bands_of), PORT_BANDS))

    @property
    def ports(self) -> NDArray[np.float64]:
        """Mean ports in use, shape (followed endpoints and one, intervals)."""
        return self._use.mean()

    @property
    def heat(self) -> NDArray[np.float64]:
        """Percent in use, shape (NAT IPs, bands, heat intervals)."""
        mean = self._heat.mean().reshape(len(self.heat_of), PORT_BANDS, self.heat_intervals.count)
        return 100 * mean / self._capacity(self.heat_of)[:, :, None]

    @property
    def bands(self) -> NDArray[np.float64]:
        """Percent in use over the whole run, shape (NAT IPs, bands)."""
        seconds = self.intervals.width * self.intervals.count / 1e9
        return 100 * self._bands / seconds / self._capacity(self.bands_of)

    def _capacity(self, nat_ips: list[NatIp]) -> NDArray[np.float64]:
        sizes = np.ones((len(nat_ips), PORT_BANDS))
        for row, nat_ip in enumerate(nat_ips):
            bands = port_bands(nat_ip.ports)
            sizes[row, : len(bands)] = [len(band) * nat_ip.pools for band in bands]
        return sizes

    def add(self, columns: list[tuple[str, ...]]) -> None:
        """Add sessions, given as columns of text."""
        endpoint_names, addresses, ports, first, ended, how = columns
        endpoint = np.array([self._endpoints[name] for name in endpoint_names])
        nat_ip = np.array([self._by_endpoint[key] for key in zip(endpoint_names, addresses, strict=True)])
        port = np.array(ports, np.int64) - self._first_port[nat_ip]
        if not ((port >= 0) & (port < self._ports[nat_ip])).all():
            raise ValueError("a NAT port lies outside of nat_ports")
        is_open = np.array(how) == "open"
        begin = _times(first)
        end = np.maximum(begin, self._end)
        end[~is_open] = _times([time for time in ended if time])
        if (end < begin).any():
            raise ValueError("a session ends before its first packet")
        limits = self.intervals.start, self.intervals.end - 1
        begin, end = np.clip(begin, *limits), np.clip(end, *limits)

        self.count += len(begin)
        places = (np.stack([begin, end]) - self.intervals.start) // self.intervals.width
        self.opened += np.bincount(places[0], minlength=self.intervals.count)
        self.ended += np.bincount(places[1][~is_open], minlength=self.intervals.count)
        seconds = (end - begin) / 1e9
        self.port_seconds += np.bincount(endpoint, seconds, len(self.port_seconds))
        self._use.add(self._row_of[endpoint], begin, end)
        ports = self._ports[nat_ip]
        band = port * np.minimum(ports, PORT_BANDS) // ports
        row = self._band_row[nat_ip]
        shown = row >= 0
        flat = np.bincount(row[shown] * PORT_BANDS + band[shown], seconds[shown], self._bands.size)
        self._bands += flat.reshape(self._bands.shape)
        mapped = shown & (row < len(self.heat_of))
        self._heat.add((row * PORT_BANDS + band)[mapped], begin[mapped], end[mapped])


class _Use:
    """How many of something are in use, row by row, on average over each interval."""

    def __init__(self, rows: int, intervals: Intervals) -> None:
        self._intervals = intervals
        self._shape = rows, intervals.count + 1
        self._changes = np.zeros(self._shape)  # how many more there are from this interval on
        self._parts = np.zeros(self._shape)  # what the steps within an interval add to it, in widths

    def add(self, rows: NDArray[np.int64], begin: NDArray[np.int64], end: NDArray[np.int64]) -> None:
        width = self._intervals.width
        for times, sign in ((begin, 1), (end, -1)):
            place, past = np.divmod(times - self._intervals.start, width)
            cells = rows * self._shape[1] + place
            self._parts += sign * self._added(cells, 1 - past / width)
            self._changes += sign * self._added(cells + 1, None)

    def _added(self, cells: NDArray[np.int64], weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
        size = self._shape[0] * self._shape[1]
        return np.bincount(cells, weights, size).astype(np.float64).reshape(self._shape)

    def mean(self) -> NDArray[np.float64]:
        return np.maximum((np.cumsum(self._changes, axis=1) + self._parts)[:, :-1], 0)


def port_bands(ports: range) -> list[range]:
    """A port range in up to `PORT_BANDS` bands of equal size, as far as it can be divided."""
    count = min(len(ports), PORT_BANDS)
    edges = [ports.start - (-len(ports) * band // count) for band in range(count + 1)]
    return [range(first, after) for first, after in pairwise(edges)]


def read_sessions(path: Path, figures: SessionFigures) -> None:
    """Add up a `sessions.csv`. Raises `RunError` that names the line, as near as it is known."""
    check_last_line(path)
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        try:
            header = next(lines, [])
            take = itemgetter(*(header.index(name) for name in _COLUMNS))
            for columns in _chunks(lines, take):
                figures.add(columns)
        except (ValueError, IndexError, KeyError, csv.Error) as error:
            what = f"{error} is not in summary.json" if isinstance(error, KeyError) else str(error)
            raise RunError(
                f"{path}: is damaged at or before line {lines.line_num or 1}: {what}; replay again to write it anew"
            ) from None


def _chunks(lines: Iterator[list[str]], take: itemgetter[Any]) -> Iterator[list[tuple[str, ...]]]:
    while rows := list(islice(map(take, lines), _ROWS)):
        yield list(zip(*rows, strict=True))


def _routes(run: Run) -> Iterator[tuple[Any, NatIp]]:
    """Every endpoint with every NAT IP of its service."""
    of_service: dict[str, list[NatIp]] = {}
    for nat_ip in run.nat_ips:
        of_service.setdefault(nat_ip.service, []).append(nat_ip)
    for endpoint in run.endpoints:
        for nat_ip in of_service[endpoint.service]:
            yield endpoint, nat_ip


def _times(texts: list[str] | tuple[str, ...]) -> NDArray[np.int64]:
    """Nanoseconds since 1970 of times like `2023-11-14T22:13:20.000000000Z`, many at once."""
    if not texts:
        return np.zeros(0, np.int64)
    stamps = np.array(texts, f"S{_STAMP + 1}").view("u1").reshape(len(texts), -1)
    digits = stamps.astype(np.int64) - ord("0")
    places = [place for place in range(_STAMP) if place not in dict(_SEPARATORS)]
    if (
        stamps[:, _STAMP:].any()
        or any((stamps[:, place] != ord(sign)).any() for place, sign in _SEPARATORS)
        or not ((digits[:, places] >= 0) & (digits[:, places] <= 9)).all()
    ):
        raise ValueError("a time is not written as 2023-11-14T22:13:20.000000000Z")
    days = np.ascontiguousarray(stamps[:, :10]).view("S10")[:, 0]
    dates, place = np.unique(days, return_inverse=True)
    midnight = dates.astype("U10").astype("datetime64[ns]").astype(np.int64)[place]

    def number(first: int, after: int) -> NDArray[np.int64]:
        return digits[:, first:after] @ 10 ** np.arange(after - first - 1, -1, -1)

    seconds = number(11, 13) * 3600 + number(14, 16) * 60 + number(17, 19)
    result: NDArray[np.int64] = midnight + seconds * 1_000_000_000 + number(20, 29)
    return result
