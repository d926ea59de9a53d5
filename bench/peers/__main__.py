"""`python -m bench.peers`: measure, print the table, draw it."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.peers import files, libraries, limit, linux, memory, report
from bench.peers.contest import Arena, Maker, MissingError, hold

CONTESTANTS: tuple[tuple[str, Maker], ...] = (
    ("dataplane, in memory", memory.dataplane),
    ("limit (touch only)", memory.limit),
    ("dataplane replay", files.replay),
    ("tcprewrite", files.tcprewrite),
    ("cp", files.copy),
    ("Linux NAT", linux.linux_nat),
    ("dpkt", libraries.dpkt),
    ("scapy", libraries.scapy),
)
FILES: tuple[tuple[str, Maker], ...] = (
    ("cp", files.copy),
    ("dataplane replay", files.replay),
    ("dataplane replay, all points", files.replay_of_all_points),
    ("tcprewrite", files.tcprewrite),
)


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m bench.peers",
        description="Measure dataplane and other programs on the same capture, in turn, and print a table.",
        epilog="Example: python -m bench.peers --packets 1000000 --sessions 1000 -o peers.svg",
    )
    options.add_argument("--packets", type=int, default=1_000_000)
    options.add_argument("--sessions", type=int, default=1_000)
    options.add_argument("--size", type=int, default=64, help="bytes of a frame, without its check sequence")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument(
        "--limit",
        type=int,
        nargs="*",
        metavar="SESSIONS",
        help="only the engine and its limit, for several numbers of sessions "
        f"(default: {', '.join(f'{count:,}' for count in limit.SESSIONS)})",
    )
    options.add_argument("--files", action="store_true", help="only what goes from file to file, by what cp takes")
    options.add_argument("-o", "--output", type=Path, metavar="FILE", help="a drawing, .svg or .png")
    options.add_argument("--json", type=Path, metavar="FILE")
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Run the contest that the words ask for; 2 if they are wrong."""
    options = parser()
    asked = options.parse_args(words)
    if asked.rounds < 1 or asked.sessions < 1 or asked.packets < 2:
        options.error("--rounds and --sessions are at least 1, --packets at least 2")
    if not 50 <= asked.size <= 1514:
        options.error(f"--size is {asked.size}; a frame of these has 50 to 1,514 bytes")
    if asked.limit is None and asked.packets < asked.sessions:
        options.error(f"{asked.packets} packets cannot visit {asked.sessions} sessions; raise --packets")
    if asked.limit and min(asked.limit) < 1:
        options.error("--limit takes numbers of sessions, at least 1")
    if asked.files and asked.limit is not None:
        options.error("--files and --limit are two different tables; ask for one")
    try:
        if asked.output:
            report.need_drawing(asked.output)
    except MissingError as error:
        options.error(str(error))

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    machine = report.facts()  # before the contest itself makes the load
    with tempfile.TemporaryDirectory(prefix="peers-") as name:
        folder = Path(name)
        if asked.limit is not None:
            title = f"Engine and limit, {asked.size}-byte UDP packets"
            counts = asked.limit or limit.SESSIONS
            rows = limit.approach(folder, asked.packets, asked.size, asked.rounds, counts, tell)
            table = limit.table(rows, counts)
        else:
            title = f"{asked.packets:,} UDP packets of {asked.size} bytes, {asked.sessions:,} sessions"
            arena = Arena(folder, asked.packets, asked.sessions, asked.size)
            rows = hold(FILES if asked.files else CONTESTANTS, arena, asked.rounds, tell)
            table = report.table(rows)
    print("\n".join(f"{key}: {value}" for key, value in machine.items()))
    print(f"\n{title}; best and median of {asked.rounds} rounds, in turn\n\n{table}")
    if asked.json:
        report.write_json(asked.json, title, machine, rows)
    if asked.output:
        report.draw(asked.output, title, machine, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
