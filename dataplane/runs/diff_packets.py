"""Packets of two runs that got another verdict, from the two `capture.pcapng`.

Reads what `runs/record.py` wrote: a packet that entered the simulator is flagged inbound once, and its comment says
`verdict=<word>` unless it was forwarded. With the same inputs the nth such packet is the same one in both runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.capture import CaptureReader, open_capture
from dataplane.packets.batch import INBOUND, PacketBatch
from dataplane.runs.folder import RunError
from dataplane.verdict import Verdict

_PREFIX = b"verdict="
_WORDS = {str(verdict).encode(): int(verdict) for verdict in Verdict}
#: Option header, prefix and the longest word.
_ROOM = 4 + len(_PREFIX) + max(map(len, _WORDS))

#: A packet that entered: which frame of the capture it is (from 1), when and how long it was, and its verdict.
_ENTERED = np.dtype([("frame", np.int64), ("time_ns", np.int64), ("original", np.int64), ("verdict", np.uint8)])


def diff_packets(old: Path, new: Path, most: int) -> dict[str, Any]:
    """Compare the verdicts of two runs of the same inputs; at most `most` packets are listed, all are counted.

    Returns the numbers of packets `old`, `new` and `same`, `verdicts` ({"old", "new", "packets"}) and `packets`, each
    with its number among those received and its frame in both captures. Raises `RunError` when the captures do not
    hold the same packets.
    """
    with open_capture(old) as of_old, open_capture(new) as of_new:
        pairs: Counter[tuple[int, int]] = Counter()
        listed: list[dict[str, Any]] = []
        number = 0
        left, right = _entered(of_old), _entered(of_new)
        was, now = next(left, None), next(right, None)
        while was is not None and now is not None:
            count = min(len(was), len(now))
            a, b = was[:count], now[:count]
            other = (a["time_ns"] != b["time_ns"]) | (a["original"] != b["original"])
            if other.any():
                which = number + int(np.argmax(other)) + 1
                raise RunError(f"{old} and {new} do not hold the same packets: number {which:,} differs")
            codes, counts = np.unique(a["verdict"].astype(np.int64) << 8 | b["verdict"], return_counts=True)
            for code, packets in zip(codes.tolist(), counts.tolist(), strict=True):
                pairs[code >> 8, code & 255] += packets
            for row in np.flatnonzero(a["verdict"] != b["verdict"])[: most - len(listed)].tolist():
                listed.append(_packet(number + row + 1, a[row], b[row]))
            number += count
            was = was[count:] if count < len(was) else next(left, None)
            now = now[count:] if count < len(now) else next(right, None)
        in_old = number + _rest(was, left)
        in_new = number + _rest(now, right)
        for reader in (of_old, of_new):
            if reader.damage:
                raise RunError(reader.damage)
    return {
        "old": in_old,
        "new": in_new,
        "same": sum(packets for (before, after), packets in pairs.items() if before == after),
        "verdicts": [
            {"old": str(Verdict(before)), "new": str(Verdict(after)), "packets": packets}
            for (before, after), packets in sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
            if before != after
        ],
        "packets": listed,
    }


def _packet(number: int, old: Any, new: Any) -> dict[str, Any]:
    return {
        "number": number,
        "time": str(np.datetime_as_string(old["time_ns"].astype("datetime64[ns]"), timezone="UTC")),
        "old": str(Verdict(int(old["verdict"]))),
        "new": str(Verdict(int(new["verdict"]))),
        "frame_in_old": int(old["frame"]),
        "frame_in_new": int(new["frame"]),
    }


def _rest(first: NDArray[Any] | None, others: Iterator[NDArray[Any]]) -> int:
    """How many packets one capture has beyond the other."""
    return (0 if first is None else len(first)) + sum(len(packets) for packets in others)


def _entered(reader: CaptureReader) -> Iterator[NDArray[Any]]:
    """The packets that entered the simulator, batch by batch."""
    if not reader.written_by_dataplane:
        raise RunError(f"{reader.name}: was not written by a run")
    before = 0
    for batch in reader:
        here = np.flatnonzero(batch.frames["direction"] == INBOUND)
        frames = batch.frames[here]
        entered = np.empty(len(here), _ENTERED)
        entered["frame"] = before + here + 1
        entered["time_ns"], entered["original"] = frames["time_ns"], frames["original"]
        entered["verdict"] = _verdicts(batch, frames)
        before += len(batch)
        if len(entered):
            yield entered


def _verdicts(batch: PacketBatch, frames: NDArray[Any]) -> NDArray[np.uint8]:
    """The verdicts that comments name; the comment is the first option after a frame's padded bytes."""
    begin = frames["offset"] + (frames["captured"].astype(np.int64) + 3 & ~3)
    # A comment near the end of the buffer is shorter than the room for the longest.
    places = np.minimum(begin[:, None] + np.arange(_ROOM), len(batch.data) - 1)
    options = batch.data[places]
    length = options[:, 2].astype(np.int64) | options[:, 3].astype(np.int64) << 8
    told = (options[:, 0] == 1) & (options[:, 1] == 0) & (length <= _ROOM - 4) & (length > len(_PREFIX))
    told &= (options[:, 4 : 4 + len(_PREFIX)] == np.frombuffer(_PREFIX, np.uint8)).all(axis=1)
    result = np.full(len(frames), int(Verdict.FORWARDED), np.uint8)
    words = options[told, 4 + len(_PREFIX) :].copy()
    words[np.arange(words.shape[1]) >= length[told, None] - len(_PREFIX)] = 0
    unique, which = np.unique(words.view(f"S{words.shape[1]}")[:, 0], return_inverse=True)
    result[told] = np.array([_WORDS[word] for word in unique.tolist()], np.uint8)[which]
    return result
