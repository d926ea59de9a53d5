"""Compare two result files by ratio, and fail where one got slower: a gate for changes to the hot path.

    python -m pytest bench --benchmark-json=before.json     # the old code
    python -m pytest bench --benchmark-json=after.json      # the new code, on the same machine, soon after
    python -m bench.gate before.json after.json --most 1.10

Ratios are of the best rounds, which other work on the machine disturbs least. A benchmark that is in one file only is
named, and fails nothing. Exit code 1 if a ratio is above `--most`, 2 if a file is no result.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def best_rounds(path: Path) -> dict[str, float]:
    """Seconds of the best round, by benchmark. Raises SystemExit(2), saying what is wrong with the file."""
    try:
        return {row["fullname"]: row["stats"]["min"] for row in json.loads(path.read_text())["benchmarks"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{path}: is no result of --benchmark-json: {type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def main(arguments: list[str] | None = None) -> int:
    """Print a line per benchmark; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.gate", description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--most", type=float, default=1.10, help="the largest ratio after/before that passes (1.10)")
    options = parser.parse_args(arguments)
    before, after = best_rounds(options.before), best_rounds(options.after)
    slower = 0
    for name in sorted(before.keys() & after.keys()):
        ratio = after[name] / before[name]
        slower += ratio > options.most
        print(f"{ratio:6.2f}  {'SLOWER ' if ratio > options.most else '       '} {name}")
    for name in sorted(before.keys() ^ after.keys()):
        print(f"     -          {name} (only in {'the first' if name in before else 'the second'} file)")
    if not before.keys() & after.keys():
        print("the two files have no benchmark in common", file=sys.stderr)
        return 2
    print(f"{slower} of {len(before.keys() & after.keys())} above {options.most:.2f}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
