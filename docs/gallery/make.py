"""Runs every scenario that the gallery's pages name, and writes what it found, and its picture.

    python docs/gallery/make.py                  # look at the difference before you commit it
    python docs/gallery/make.py hash-skew.md     # one page only

A page has places for what is written, which end with `<!-- end -->`:

    <!-- run: NAME -->                           what the run of NAME.yaml says
    <!-- run: NAME, KEY=VALUE -->                what it says when one key is changed
    <!-- metric: NAME NAME -->                   the metric and the alert beside the truth, a row for each run

KEY goes from the scenario to the key, lists by the name of their entry: `traffic.leak.life`,
`topology.private_link_services.orders.nat_ips`. VALUE is YAML.

How a test tells whether a picture shows what the run finds: other versions of matplotlib draw other pixels, so it does
not draw again. `drawn` gives the very numbers that are drawn, and `draw` writes two digests into the PNG: "Drawn", of
these numbers, and "Pixels", of the picture that it made of them. The test runs the scenario, computes the first anew
and compares both: numbers that have changed, or a picture that is not the one made of them, fail it.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dataplane.report.metrics import AVAILABILITY, read_metrics
from dataplane.runs.answers import answers
from dataplane.runs.exhaust import Exhaust, exhaust
from dataplane.runs.scenario import Scenario
from dataplane.runs.scenario_file import load_scenario
from dataplane.topology.load import read_document

HERE = Path(__file__).resolve().parent
PLACE = re.compile(
    r"<!-- (?P<kind>run|metric): (?P<name>[a-z -]+?)(?:, (?P<key>[\w.-]+)=(?P<value>.+?))? -->\n.*?<!-- end -->",
    re.DOTALL,
)


class Ran(NamedTuple):
    """One run: its summary, and the text of its metrics.csv."""

    summary: dict[str, Any]
    metrics: str


class Line(NamedTuple):
    """One line of a picture: a value for each minute from `begin` on, None where nothing happened."""

    label: str
    style: str
    begin: int
    values: list[float | None]


@cache
def ran(name: str, key: str | None = None, value: str | None = None) -> Ran:
    """Run a scenario of the gallery, with one key changed if it is given."""
    scenario = load_scenario(HERE / f"{name}.yaml")
    if key is not None and value is not None:
        scenario = changed(scenario, key, read_document(f"value: {value}", key, "").data["value"])
    with tempfile.TemporaryDirectory() as folder:
        result = exhaust(Exhaust(scenario, folder=Path(folder) / "run"))
        return Ran(result.summary, (Path(folder) / "run" / "metrics.csv").read_text())


def changed(scenario: Scenario, key: str, value: Any) -> Scenario:
    """The same scenario with another value of one key."""
    document = without_none(scenario.model_dump(mode="json"))
    place: Any = document
    *parents, last = key.split(".")
    for part in parents:
        place = next(one for one in place if one["name"] == part) if isinstance(place, list) else place[part]
    place[last] = value
    return Scenario.model_validate(document)


def without_none(document: Any) -> Any:
    """A document without the keys that are left to their defaults."""
    if isinstance(document, dict):
        return {key: without_none(value) for key, value in document.items() if value is not None}
    return [without_none(value) for value in document] if isinstance(document, list) else document


def told(name: str, key: str | None = None, value: str | None = None) -> str:
    """What a scenario's run says, as a page quotes it."""
    summary = ran(name, key, value).summary
    lines = list(answers(summary["findings"]))
    for source in summary["findings"]["traffic"]:
        counts = source["connections"]
        broken = f", {counts['broken']:,} broken" if counts["broken"] else ""
        lines.append(f"{source['name']}: {counts['started']:,} connections, {counts['failed']:,} failed{broken}")
    shares = [(one["name"], one["port_seconds_percent"]) for one in summary["findings"]["private_endpoints"]]
    if all(share for _, share in shares):
        lines.append(f"NAT ports used: {', '.join(f'{endpoint} {share:.1f} %' for endpoint, share in shares)}")
    if moved := summary["sessions"]["ended"].get("moved"):
        lines.append(f"{moved:,} sessions ended as moved")
    return "\n".join(lines) + "\n"


def compared(names: list[str]) -> str:
    """A table: what the one-minute metric and the alert showed, and what was so."""
    lines = [
        "| run | lowest availability: metric | truth | alert fires | ports run out |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        found = ran(name).summary["findings"]
        lowest, failure, alert = found["lowest_availability"], found["first_failure"], found["alert"]
        shown, second = min(
            (one["lowest_minute_average_percent"], one["minute_seconds"])
            for one in found["nat_ips"]
            if one["lowest_minute_average_percent"] is not None
        )
        cells = (
            f"[{name}]({name}.yaml)",
            f"{shown:.1f} %, minute {second // 60:.0f}",
            f"{lowest['percent']:.1f} % at {lowest['time_seconds']:,.0f} s",
            "never" if alert["fired_seconds"] is None else f"{alert['fired_seconds']:,.0f} s",
            "never" if failure is None else f"{failure['time_seconds']:,.1f} s",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def drawn(name: str) -> list[Line]:
    """What a picture shows: free ports by the minute as the metric has them, and the lowest that any pool had."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.csv"
        path.write_text(ran(name).metrics)
        figures = read_metrics(path).of(AVAILABILITY)
    first = min(int(rows.minute[0]) for rows in figures.values())
    lines = []
    for (_, address), rows in sorted(figures.items()):
        begin, end = int(rows.minute[0]), int(rows.minute[-1])
        for values, style, words in (
            (rows.average, "--", "one-minute average"),
            (rows.minimum, "-", "lowest of any pool"),
        ):
            # Minutes in which nothing happened have no row: the line has a gap there.
            known = dict(zip(map(int, rows.minute), values, strict=True))
            steps = [known.get(minute) for minute in range(begin, end + 1)]
            lines.append(Line(f"{address}: {words}", style, begin - first, steps))
    return lines


def digest_of_numbers(name: str, lines: list[Line]) -> str:
    """A digest of all that a picture shows; of values, six decimals."""
    rounded = [(*line[:3], [None if one is None else f"{one:.6f}" for one in line.values]) for line in lines]
    return hashlib.sha256(json.dumps([name, rounded]).encode()).hexdigest()


def digest_of_pixels(picture: Image.Image) -> str:
    """A digest of a picture's pixels."""
    return hashlib.sha256(f"{picture.size}".encode() + picture.convert("RGBA").tobytes()).hexdigest()


def digests_in(path: Path) -> dict[str, str | None]:
    """The digests that a picture has inside, and that of its pixels as they are."""
    with Image.open(path) as picture:
        inside = {key: picture.info.get(key) for key in ("Drawn", "Pixels")}
        return {**inside, "pixels now": digest_of_pixels(picture)}


def draw(name: str, path: Path) -> None:
    """Draw the picture of a scenario's run, with the digests of what it shows inside."""
    lines = drawn(name)
    figure, axes = plt.subplots(figsize=(6.4, 2.4), dpi=90)
    for line in lines:
        steps = [float("nan") if one is None else one for one in line.values]
        edges = range(line.begin, line.begin + len(steps) + 1)
        axes.stairs(steps, edges, baseline=None, linestyle=line.style, linewidth=1.6, label=line.label)
    axes.set(ylim=(0, 100), xlabel="minute", ylabel="free NAT ports, %", title=name.replace("-", " "))
    # Below the axes: inside, it lay on lines.
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=2, frameon=False)
    axes.grid(alpha=0.3)
    made = io.BytesIO()
    figure.savefig(made, bbox_inches="tight")
    plt.close(figure)
    with Image.open(made) as picture:
        inside = PngInfo()
        inside.add_text("Drawn", digest_of_numbers(name, lines))
        inside.add_text("Pixels", digest_of_pixels(picture))
        picture.save(path, pnginfo=inside, optimize=True)


def written(page: str) -> str:
    """A page with what its runs say now."""

    def fill(match: re.Match[str]) -> str:
        kind, name, key, value = match["kind"], match["name"], match["key"], match["value"]
        mark = match[0].partition("\n")[0]
        if kind == "metric":
            return f"{mark}\n{compared(name.split())}\n<!-- end -->"
        change = "" if key is None else f"   # with {key}: {value}"
        return f"{mark}\n```\n$ dataplane exhaust {name}.yaml{change}\n{told(name, key, value)}```\n<!-- end -->"

    return PLACE.sub(fill, page)


def names_on(page: str) -> list[str]:
    """The scenarios of a page, each once."""
    return list(dict.fromkeys(match["name"] for match in PLACE.finditer(page) if match["kind"] == "run"))


def main(names: list[str]) -> int:
    """Bring pages and pictures up to date."""
    for path in sorted(HERE.glob("*.md")):
        if names and path.name not in names:
            continue
        page = path.read_text()
        path.write_text(written(page))
        for name in names_on(page):
            place = HERE / f"{name}.png"
            if not place.exists() or digests_in(place)["Drawn"] != digest_of_numbers(name, drawn(name)):
                draw(name, place)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
