"""How far the engine is from the limit, by number of sessions: the more there are, the more both wait for memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bench.peers.contest import Arena, Row, hold
from bench.peers.memory import dataplane, limit

SESSIONS = (1_000, 500_000, 4_000_000)


def approach(
    folder: Path, packets: int, size: int, rounds: int, sessions: Sequence[int], tell: Callable[[str], None]
) -> list[Row]:
    """Engine and limit in turn for each number of sessions; no fewer packets than sessions, so that all are there."""
    rows: list[Row] = []
    for count in sessions:
        arena = Arena(folder, max(packets, count), count, size)
        for row in hold([("dataplane", dataplane), ("limit", limit)], arena, rounds, tell):
            row.name += f", {count:,} sessions"
            rows.append(row)
    return rows


def table(rows: Sequence[Row], sessions: Sequence[int]) -> str:
    """A line per number of sessions; the share is the limit's best time in the engine's."""
    head = f"{'sessions':>10}{'packets':>12}{'dataplane ns/pkt':>20}{'median':>9}{'limit ns/pkt':>16}{'median':>9}"
    lines = [head + "  dataplane is at"]
    for count, engine, least in zip(sessions, rows[0::2], rows[1::2], strict=True):
        figures = (engine.best or 0, engine.median or 0, least.best or 0, least.median or 0)
        times = "".join(f"{value:>{width},.1f}" for value, width in zip(figures, (20, 9, 16, 9), strict=True))
        lines.append(f"{count:>10,}{engine.packets:>12,}{times}  {figures[2] / figures[0]:.1%} of the limit")
    return "\n".join(lines)
