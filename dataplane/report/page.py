"""The page: one HTML file that needs nothing but itself.

Its content security policy allows no request at all, and no script or style but the three that are in it (by their
SHA-256). Whatever comes from a run's files is escaped; charts get it as JSON, in which no tag can begin.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from dataplane.report.chart import Chart, Section, percent, time_text
from dataplane.report.run import Run
from dataplane.verdict import Verdict

#: Rows of a table, and lines of the topology, before the rest is left to the run's files.
_MOST_ROWS = 100
_MOST_LINES = 2_000

#: What a reader has to know of a run that did not end with exit code 0.
_ENDINGS = {
    3: "A capture was damaged: the figures are of what could be read.",
    4: "The run is complete, but when it was made one of its outputs could not be written.",
    130: "The run was interrupted: the figures are of what was done until then.",
}

#: A cell: its text, and the class that says how it is set.
_Cell = str | tuple[str, str]


def page(run: Run, sections: Sequence[Section]) -> str:
    """The whole page as HTML."""
    scripts = [_asset("vendor/echarts.min.js"), _asset("assets/page.js")]
    style = _asset("assets/page.css")
    charts = [chart for section in sections for chart in section.charts]
    policy = "; ".join(
        (
            "default-src 'none'",
            "script-src " + " ".join(_digest(script) for script in scripts),
            f"style-src {_digest(style)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    title = _title(run)
    links = [(section.key, section.title) for section in sections] + [("configuration", "Configuration")]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="generator" content="dataplane">',
            f"<title>{escape(title)}: Private Link run</title>\n<style>{style}</style>\n</head>\n<body>",
            '<a class="skip" href="#main">Skip to the charts</a>',
            f'<header>\n<p class="eyebrow">Azure Private Link, simulated</p>\n<h1>{escape(title)}</h1>',
            _paragraph(_when(run), "muted"),
            *_alerts(run),
            _tiles(run),
            '<nav aria-label="Parts of the page"><ul>',
            *(f'<li><a href="#{key}">{escape(text)}</a></li>' for key, text in links),
            '</ul></nav>\n</header>\n<main id="main">',
            '<noscript><p class="alert">Charts need JavaScript; their figures are in tables below.</p></noscript>',
            '<p class="note keys">Point at a chart for its figures; zoom with the slider or Ctrl and the wheel. With '
            "the keyboard: Tab to a chart, arrow keys, Home and End move, + and - zoom, Escape leaves.</p>",
            *(_section(section, run) for section in sections),
            _configuration(run),
            "</main>\n<footer>",
            "<p>Times are the capture's, in UTC. Bytes are IPv4 total lengths. Made by dataplane from the files of one "
            "run; its command and versions are in manifest.json. Charts by Apache ECharts (Apache License 2.0, notice "
            "in this file).</p>\n</footer>",
            '<div id="voice" class="hidden" role="status" aria-live="polite"></div>',
            f'<script type="application/json" id="charts">{_json([chart.as_json() for chart in charts])}</script>',
            *(f"<script>{script}</script>" for script in scripts),
            "</body>\n</html>\n",
        ]
    )


def _asset(name: str) -> str:
    return files("dataplane.report").joinpath(name).read_text("utf-8")


def _digest(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def _json(content: Any) -> str:
    """JSON that may stand in a script element: no character of it begins a tag or a comment."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# --- the head -------------------------------------------------------------------------------------------------


def _title(run: Run) -> str:
    names = [each["name"] for each in run.inputs]
    if len(names) > 3:
        return f"{names[0]} and {len(names) - 1:,} other captures"
    return ", ".join(names) or "A run without a capture"


def _when(run: Run) -> str:
    length = f"{run.duration_seconds:,.3f} s of capture time, seed {run.seed}."
    if run.begin_ns is None:
        return length
    end = run.begin_ns + round(run.duration_seconds * 1e9)
    return f"{time_text(run.begin_ns)} to {time_text(end)} UTC, {length}"


def _alerts(run: Run) -> Iterable[str]:
    code, meaning = run.exit_state
    if code:
        words = _ENDINGS.get(code, f"The run ended with exit code {code}: {meaning}.")
        damage = "".join(f"<p>{escape(str(each['damage']))}</p>" for each in run.inputs if each["damage"])
        yield f'<div class="alert"><p><strong>{escape(words)}</strong></p>{damage}</div>'
    first = run.exhaustion
    if first is None:
        yield '<div class="alert calm"><p><strong>NAT ports never ran out.</strong></p></div>'
        return
    lost = f"{run.failures:,} time{'s' if run.failures != 1 else ''}"
    yield (
        f'<div class="alert"><p><strong>NAT ports ran out first after {first.seconds:,.3f} s:</strong> service '
        f"{escape(first.service)}, NAT IP {escape(first.nat_ip)}, {escape(first.protocol)} toward backend "
        f"{escape(first.backend)}. {escape(_explanation(first.reason))} In the whole run a session found no port "
        f"{lost}.</p></div>"
    )


def _tiles(run: Run) -> str:
    received, dropped = run.counts["received"], run.counts["dropped"]
    lowest = min(run.nat_ips, key=lambda nat_ip: nat_ip.lowest_percent, default=None)
    share = f"{percent(100 * dropped[0] / received[0])} of all" if received[0] else ""
    tiles = [
        ("Packets received", f"{received[0]:,}", f"{received[1]:,} bytes", False),
        ("Forwarded", f"{run.counts['forwarded'][0]:,}", f"{run.counts['bypassed'][0]:,} bypassed", False),
        ("Dropped", f"{dropped[0]:,}", share, dropped[0] > 0),
        ("Sessions", f"{run.sessions_created:,}", f"{run.sessions_active:,} open at the end", False),
        ("No NAT port", f"{run.failures:,}", "allocation failures", run.failures > 0),
    ]
    if lowest is not None:
        value = lowest.lowest_percent
        tiles.insert(4, ("Fewest free ports", percent(value), f"of a pool of {lowest.address}", value == 0))
    return '<dl class="tiles">' + "".join(
        f'<div{" class=bad" if bad else ""}><dt>{escape(name)}</dt><dd>{escape(value)}</dd>'
        f"<dd>{escape(more)}</dd></div>"
        for name, value, more, bad in tiles
    ) + "</dl>"


# --- sections -------------------------------------------------------------------------------------------------


def _section(section: Section, run: Run) -> str:
    tables = {"availability": _nat_ips, "bytes": _endpoints, "drops": _reasons}
    return "\n".join(
        [
            f'<section id="{section.key}" aria-labelledby="{section.key}-title">',
            f'<h2 id="{section.key}-title">{escape(section.title)}</h2>',
            *(_paragraph(words) for words in section.words),
            *(_figure(chart) for chart in section.charts),
            tables[section.key](run) if section.key in tables else "",
            "</section>",
        ]
    )


def _figure(chart: Chart) -> str:
    header, rows = chart.table()
    table = _table(f"{chart.title}: what has figures", header, ([_cell(value) for value in row] for row in rows))
    name = f"chart-{chart.key}"
    return (
        f'<figure aria-labelledby="{name}-title">\n<h3 id="{name}-title">{escape(chart.title)}</h3>\n'
        f'<p id="{name}-summary">{escape(chart.summary)}</p>\n'
        f'<div class="chart {chart.kind}" id="{name}" tabindex="0" role="application" aria-roledescription="chart" '
        f'aria-label="{escape(chart.title)}. {escape(chart.summary)}"></div>\n'
        f"{_paragraph(chart.note, 'note') if chart.note else ''}\n"
        f"<details><summary>The figures as a table</summary>{table}</details>\n</figure>"
    )


def _cell(value: Any) -> str:
    """A figure or a text as a table shows it."""
    if value is None:
        return "no figure"
    return value if isinstance(value, str) else f"{value:,.12g}"


def _paragraph(text: str, name: str = "") -> str:
    return f'<p class="{name}">{escape(text)}</p>' if name else f"<p>{escape(text)}</p>"


def _table(caption: str, header: Sequence[_Cell], rows: Iterable[Sequence[_Cell]]) -> str:
    """A table that scrolls by itself, first column as the rows' names."""

    def cell(kind: str, content: _Cell, attributes: str = "") -> str:
        text, name = (content, "") if isinstance(content, str) else content
        return f"<{kind}{attributes}{f' class={name}' if name else ''}>{escape(text)}</{kind}>"

    body = "".join(
        "<tr>" + cell("th", row[0], ' scope="row"') + "".join(cell("td", each) for each in row[1:]) + "</tr>\n"
        for row in rows
    )
    head = "".join(cell("th", each, ' scope="col"') for each in header)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _cut(caption: str, header: Sequence[_Cell], rows: Sequence[Sequence[_Cell]]) -> str:
    """A table of what is most, and a word on the rest."""
    if not rows:
        return ""
    rest = len(rows) - _MOST_ROWS
    more = _paragraph(f"And {rest:,} more; summary.json has them all.", "note") if rest > 0 else ""
    return _table(caption, header, rows[:_MOST_ROWS]) + more


def _nat_ips(run: Run) -> str:
    rows = [
        (
            nat_ip.name,
            f"{nat_ip.capacity:,}",
            f"{nat_ip.in_use:,}",
            f"{nat_ip.held:,}",
            f"{nat_ip.free:,}",
            percent(nat_ip.lowest_percent),
            f"{nat_ip.failures:,}",
        )
        for nat_ip in sorted(run.nat_ips, key=lambda nat_ip: (nat_ip.lowest_percent, -nat_ip.failures))
    ]
    header = ("service, NAT IP", "capacity", "in use", "held", "free", "lowest of a pool", "failures")
    return _cut("NAT ports at the end of the run", header, rows)


def _endpoints(run: Run) -> str:
    rows = [
        (
            endpoint.name,
            endpoint.service,
            f"{endpoint.bytes_in:,}",
            f"{endpoint.bytes_out:,}",
            f"{endpoint.packets:,}",
            f"{endpoint.sessions:,}",
            f"{endpoint.dropped:,}",
        )
        for endpoint in sorted(run.endpoints, key=lambda each: -each.bytes_in - each.bytes_out)
    ]
    header = ("endpoint", "service", "bytes IN", "bytes OUT", "packets", "sessions", "dropped packets")
    return _cut("Private endpoints", header, rows)


def _reasons(run: Run) -> str:
    rows: list[tuple[_Cell, ...]] = [
        (reason, f"{packets:,}", f"{size:,}", (_explanation(reason), "text"))
        for reason, (packets, size) in sorted(run.drops.items(), key=lambda item: -item[1][0])
    ]
    return _cut("Dropped packets", ("reason", "packets", "bytes", ("what it means", "text")), rows)


def _explanation(reason: str) -> str:
    """The sentence of a drop reason; a newer version's reasons are only named."""
    found = Verdict.__members__.get(reason.upper())
    return reason if found is None else found.explanation


def _configuration(run: Run) -> str:
    inputs = [
        (
            each["name"],
            "-" if each["packets"] is None else f"{each['packets']:,}",
            (each["sha256"], "digest"),
            (each["damage"] or "whole", "text"),
        )
        for each in run.inputs
    ]
    code, meaning = run.exit_state
    scenario = [] if run.scenario_text is None else [_text("The scenario as used", "scenario.yaml", run.scenario_text)]
    return "\n".join(
        [
            '<section id="configuration" aria-labelledby="configuration-title">',
            '<h2 id="configuration-title">Configuration</h2>',
            _paragraph(f"Seed {run.seed}. Exit code {code}: {meaning}. The same captures, topology and seed give the "
                       "same figures."),
            _cut("Inputs", ("file", "packets", ("SHA-256", "text"), ("state", "text")), inputs),
            *scenario,
            _text("The topology as used", "topology.yaml", run.topology_text),
            "</section>",
        ]
    )


def _text(title: str, name: str, content: str) -> str:
    """A file of the run as it stands, as far as anybody reads it."""
    lines = content.splitlines()
    cut = ""
    if len(lines) > _MOST_LINES:
        cut = _paragraph(f"The first {_MOST_LINES:,} of {len(lines):,} lines; {name} has them all.", "note")
    text = escape("\n".join(lines[:_MOST_LINES]))
    return (
        f"<details open><summary>{title}</summary>\n"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><pre>{text}</pre></div>\n{cut}</details>'
    )
