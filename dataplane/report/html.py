"""HTML that needs nothing but itself: the frame of a page, its sections, charts and tables.

A page's content security policy allows no request at all, and no script or style but those that are in it (by their
SHA-256). Whatever comes from files is escaped; charts get it as JSON, in which no tag can begin.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from dataplane.report.chart import Chart, Section

#: Rows of a table, and lines of a text, before the rest is left to the files.
MOST_ROWS = 100
_MOST_LINES = 2_000

#: A cell: its text, and the class that says how it is set.
Cell = str | tuple[str, str]


def document(title: str, head: Iterable[str], sections: Sequence[tuple[Section, str]], last: str, words: str) -> str:
    """A whole page. `head` is what stands above all, each section has tables below its charts, `last` is a section of
    HTML named Configuration, and `words` say at the page's end what its figures are."""
    scripts = [_asset("vendor/echarts.min.js"), _asset("assets/panels.js") + _asset("assets/page.js")]
    style = _asset("assets/page.css")
    charts = [chart.as_json() for section, _ in sections for chart in section.charts]
    policy = "; ".join(
        (
            "default-src 'none'",
            "script-src " + " ".join(_digest(script) for script in scripts),
            f"style-src {_digest(style)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    links = [(section.key, section.title) for section, _ in sections] + [("configuration", "Configuration")]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="generator" content="dataplane">',
            f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>",
            '<a class="skip" href="#main">Skip to the charts</a>\n<header>',
            *head,
            '<nav aria-label="Parts of the page"><ul>',
            *(f'<li><a href="#{key}">{escape(text)}</a></li>' for key, text in links),
            '</ul></nav>\n</header>\n<main id="main">',
            '<noscript><p class="alert">Charts need JavaScript; their figures are in tables below.</p></noscript>',
            *(_section(section, tables) for section, tables in sections),
            last,
            "</main>\n<footer>",
            '<p class="keys">Point at a chart for its figures; zoom with the slider or Ctrl and the wheel. With '
            "the keyboard: Tab to a chart, arrow keys, Home and End move, + and - zoom, Escape leaves.</p>",
            f"<p>{escape(words)} Charts by Apache ECharts (Apache License 2.0, notice in this file).</p>\n</footer>",
            '<div id="voice" class="hidden" role="status" aria-live="polite"></div>',
            f'<script type="application/json" id="charts">{_json(charts)}</script>',
            *(f"<script>{script}</script>" for script in scripts),
            "</body>\n</html>\n",
        ]
    )


def title_words(eyebrow: str, title: str, words: str) -> list[str]:
    """The top of a page."""
    return [
        f'<p class="eyebrow">{escape(eyebrow)}</p>\n<h1>{escape(title)}</h1>',
        paragraph(words, "muted"),
    ]


def answer(lines: Sequence[str], *, calm: bool) -> str:
    """What a reader came for: the first line in bold, in green if all is well."""
    first, *rest = lines
    more = "".join(paragraph(line) for line in rest)
    return f'<div class="alert{" calm" if calm else ""}"><p><strong>{escape(first)}</strong></p>{more}</div>'


def tiles(figures: Sequence[tuple[str, str, str, bool]]) -> str:
    """Figures in large print: name, value, what else is to be said, and whether it is bad."""
    return (
        '<dl class="tiles">'
        + "".join(
            f"<div{' class=bad' if bad else ''}><dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
            f"<dd>{escape(more)}</dd></div>"
            for name, value, more, bad in figures
        )
        + "</dl>"
    )


def paragraph(text: str, name: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{name}">{escape(text)}</p>' if name else f"<p>{escape(text)}</p>"


def table(caption: str, header: Sequence[Cell], rows: Iterable[Sequence[Cell]]) -> str:
    """A table that scrolls by itself, first column as the rows' names."""

    def cell(kind: str, content: Cell, attributes: str = "") -> str:
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


def cut(
    caption: str,
    header: Sequence[Cell],
    rows: Sequence[Sequence[Cell]],
    most: int = MOST_ROWS,
    source: str = "summary.json",
) -> str:
    """A table of the first rows, and a word on the rest."""
    if not rows:
        return ""
    rest = len(rows) - most
    more = paragraph(f"And {rest:,} more; {source} has them all.", "note") if rest > 0 else ""
    return table(caption, header, rows[:most]) + more


def text_file(title: str, name: str, content: str) -> str:
    """A file as it stands, as far as anybody reads it."""
    lines = content.splitlines()
    rest = ""
    if len(lines) > _MOST_LINES:
        rest = paragraph(f"The first {_MOST_LINES:,} of {len(lines):,} lines; {name} has them all.", "note")
    text = escape("\n".join(lines[:_MOST_LINES]))
    return (
        f"<details open><summary>{title}</summary>\n"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><pre>{text}</pre></div>\n{rest}</details>'
    )


def _section(section: Section, tables: str) -> str:
    return "\n".join(
        [
            f'<section id="{section.key}" aria-labelledby="{section.key}-title">',
            f'<h2 id="{section.key}-title">{escape(section.title)}</h2>',
            *(paragraph(words) for words in section.words),
            *(_figure(chart) for chart in section.charts),
            tables,
            "</section>",
        ]
    )


def _figure(chart: Chart) -> str:
    header, rows = chart.table()
    figures = table(f"{chart.title}: what has figures", header, ([_cell(value) for value in row] for row in rows))
    name = f"chart-{chart.key}"
    return (
        f'<figure aria-labelledby="{name}-title">\n<h3 id="{name}-title">{escape(chart.title)}</h3>\n'
        f'<p id="{name}-summary">{escape(chart.summary)}</p>\n'
        f'<div class="chart {chart.kind}" id="{name}" tabindex="0" role="application" aria-roledescription="chart" '
        f'aria-label="{escape(chart.label)}"></div>\n'
        f"{paragraph(chart.note, 'note') if chart.note else ''}\n"
        f"<details><summary>The figures as a table</summary>{figures}</details>\n</figure>"
    )


def _cell(value: Any) -> str:
    """A figure or a text as a table shows it."""
    if value is None:
        return "no figure"
    return value if isinstance(value, str) else f"{value:,.12g}"


def _asset(name: str) -> str:
    return files("dataplane.report").joinpath(name).read_text("utf-8")


def _digest(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def _json(content: Any) -> str:
    """JSON that may stand in a script element: no character of it begins a tag or a comment."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
