"""Runs every scenario of the gallery, and writes what it found, and its picture, into README.md.

    python docs/gallery/make.py        # look at the difference before you commit it
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from dataplane.report.metrics import AVAILABILITY, read_metrics
from dataplane.runs.answers import answers
from dataplane.runs.exhaust import Exhaust, exhaust
from dataplane.runs.scenario_file import load_scenario

HERE = Path(__file__).resolve().parent
BLOCK = re.compile(r"(<!-- (?P<name>[a-z-]+) -->\n)```\n.*?```\n", re.DOTALL)


def told(name: str, folder: Path | None = None) -> str:
    """What a scenario's run says, as README.md quotes it."""
    result = exhaust(Exhaust(load_scenario(HERE / f"{name}.yaml"), folder=folder))
    found = result.findings
    lines = list(answers(found))
    for source in found["traffic"]:
        counts = source["connections"]
        broken = f", {counts['broken']:,} broken by an idle time-out" if counts["broken"] else ""
        lines.append(f"{source['name']}: {counts['started']:,} connections, {counts['failed']:,} failed{broken}")
    if moved := result.summary["sessions"]["ended"].get("moved"):
        lines.append(f"{moved:,} sessions ended as moved")
    return "\n".join(lines) + "\n"


def draw(name: str, folder: Path) -> None:
    """Free ports by the minute: what the metric shows, and the lowest that any pool had."""
    figures = read_metrics(folder / "metrics.csv").of(AVAILABILITY)
    picture, axes = plt.subplots(figsize=(6.4, 2.4), dpi=90)
    begin = min(int(rows.minute[0]) for rows in figures.values())
    for (_, address), rows in sorted(figures.items()):
        # Minutes in which nothing happened have no row: the line has a gap there.
        edges = range(int(rows.minute[0]) - begin, int(rows.minute[-1]) - begin + 2)
        lines = ((rows.average, "--", "one-minute average"), (rows.minimum, "-", "lowest of any pool"))
        for values, style, words in lines:
            known = dict(zip((int(minute) - begin for minute in rows.minute), values, strict=True))
            steps = [known.get(minute, float("nan")) for minute in edges[:-1]]
            axes.stairs(steps, edges, baseline=None, linestyle=style, linewidth=1.6, label=f"{address}: {words}")
    axes.set(ylim=(0, 100), xlabel="minute", ylabel="free NAT ports, %", title=name.replace("-", " "))
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    picture.savefig(HERE / f"{name}.png", bbox_inches="tight", metadata={"Software": None})
    plt.close(picture)


def main() -> int:
    """Bring README.md and the pictures up to date."""
    page = HERE / "README.md"

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        with tempfile.TemporaryDirectory() as folder:
            text = told(name, Path(folder) / "run")
            draw(name, Path(folder) / "run")
        return f"{match[1]}```\n$ dataplane exhaust {name}.yaml\n{text}```\n"

    page.write_text(BLOCK.sub(block, page.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
