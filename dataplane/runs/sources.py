"""Where captures come from: files, standard input, and the network at whose point each packet was seen."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dataplane.capture import CaptureError, CaptureReader, open_capture
from dataplane.capture.open import may_be_capture
from dataplane.capture.overlap import cores
from dataplane.packets.batch import INBOUND, Interface, PacketBatch
from dataplane.runs.folder import RunError
from dataplane.topology.model import Topology


@dataclass(frozen=True)
class Source:
    """A capture on the command line: where to read it, what the user calls it, the point it was given, if any."""

    path: str
    name: str
    point: str | None


def split_point(argument: str, networks: Collection[str]) -> tuple[str | None, str]:
    """`[POINT=]CAPTURE`; POINT counts only when it is a network's name, since file names may hold a `=`."""
    point, equals, path = argument.partition("=")
    return (point, path) if equals and point in networks else (None, argument)


def parse_source(argument: str, networks: set[str]) -> Source:
    """A capture on a command line. Raises `RunError`, one line."""
    found, path = split_point(argument, networks)
    if found is not None:
        if not path:
            raise RunError(f"{argument}: names no capture; write {found}=FILE")
        return Source(path, path, found)
    if not argument:
        raise RunError("an empty argument names no capture")
    point, equals, path = argument.partition("=")
    if equals and not os.path.lexists(argument) and os.path.exists(path):
        raise RunError(
            f"{argument}: there is no such file, and {point!r} is no network; there are: {', '.join(sorted(networks))}"
        )
    return Source(argument, argument, None)


def parse_sources(arguments: Iterable[str], networks: set[str]) -> list[Source]:
    """All captures on a command line. Raises `RunError`, one line."""
    sources = [parse_source(argument, networks) for argument in arguments]
    if sum(source.path == "-" for source in sources) > 1:
        raise RunError("standard input (-) can be given only once")
    return sources


@contextmanager
def spooled(sources: list[Source]) -> Iterator[list[Source]]:
    """The same captures, with standard input and pipes in files, so that they can be read more than once."""
    with tempfile.TemporaryDirectory(prefix="dataplane-") as folder:
        ready = []
        for number, source in enumerate(sources):
            path = source.path
            if path == "-" or _is_pipe(path):
                path = str(Path(folder) / str(number))
                with open(path, "wb") as copy:
                    if source.path == "-":
                        if sys.stdin is None:
                            raise RunError("-: standard input is closed")
                        _spool(source, sys.stdin.buffer, copy)
                    else:
                        with open(source.path, "rb") as pipe:
                            _spool(source, pipe, copy)
            ready.append(Source(path, source.name, source.point))
        yield ready


def _spool(source: Source, given: BinaryIO, copy: BinaryIO) -> None:
    """Copy a capture; of what is none only the beginning, by which it will be refused: it may never end."""
    head = given.read(8)
    try:
        copy.write(head)
        if may_be_capture(head):
            shutil.copyfileobj(given, copy)
            copy.flush()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise RunError(
            f"{source.name}: is read more than once, so it is copied to {Path(copy.name).parent} first, where there is "
            "no room for it; TMPDIR names another place"
        ) from error


def _is_pipe(path: str) -> bool:
    try:
        return not stat.S_ISREG(mode := Path(path).stat().st_mode) and not stat.S_ISDIR(mode)
    except OSError:
        return False  # opening it will say what is wrong


def open_source(source: Source, *, digest: bool) -> CaptureReader:
    """Open a capture under the name that the user gave it. Raises `CaptureError`, one line."""
    try:
        reader = open_capture(source.path, digest=digest, ahead=cores() > 1)
    except CaptureError as error:
        raise CaptureError(str(error).replace(source.path, source.name, 1)) from None
    reader.name = source.name
    return reader


def only_entered(reader: CaptureReader) -> Callable[[PacketBatch], PacketBatch]:
    """Of a capture that a run wrote, keep the packets that entered the simulator; of any other, all."""

    def prepare(batch: PacketBatch) -> PacketBatch:
        if reader.written_by_dataplane:
            return PacketBatch(
                batch.data, batch.frames[batch.frames["direction"] == INBOUND], batch.interfaces
            )
        return batch

    return prepare


def locate(reader: CaptureReader, source: Source, topology: Topology) -> Callable[[PacketBatch], PacketBatch]:
    """A function that says for every packet of a capture at which network's point it was seen.

    The user's POINT decides; else the interfaces' names, where they are networks' names; else the only network that
    holds a private endpoint. It raises `RunError` with the choices when none of these says it.
    """
    points = {network.name: number for number, network in enumerate(topology.virtual_networks)}
    consumers = [network.name for network in topology.consumer_networks]
    keep = only_entered(reader)
    known: list[int] = []  # by interface; -1: it does not say

    def number_of(interface: Interface) -> int:
        if source.point is not None:
            return points[source.point]
        if interface.name in points:
            return points[interface.name]
        if len(consumers) == 1 or (not consumers and len(points) > 0):
            return points[consumers[0]] if consumers else 0
        return -1

    def refuse(interface: Interface) -> RunError:
        seen = f"interface {interface.name!r}" if interface.name else "it"
        choices = ", ".join(points) or "none"
        return RunError(
            f"{reader.name}: {seen} does not say at which network the packets were seen; "
            f"write NETWORK={reader.name}, with one of: {choices}"
        )

    def prepare(batch: PacketBatch) -> PacketBatch:
        batch = keep(batch)
        for interface in batch.interfaces[len(known) :]:
            known.append(number_of(interface))
        numbers: Any = np.array(known or [0], np.int64)[batch.frames["interface"]]
        if (numbers < 0).any():  # interfaces without packets may be silent about it
            raise refuse(batch.interfaces[int(batch.frames["interface"][numbers < 0][0])])
        batch.frames["point"] = numbers
        return batch

    return prepare
