"""The page of a sweep: what came of it in words, its charts, every cell in a table, and its configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dataplane.report.chart import Section
from dataplane.report.html import answer, cut, document, paragraph, text_file, tiles, title_words
from dataplane.report.sweep import SEED, Figures, Results

#: Rows of the table of cells.
_MOST_CELLS = 500
#: Cells that are named in a sentence.
_MOST_NAMES = 5

_COLUMNS = {
    "first_failure_seconds": ("first failure, s", 1),
    "lowest_availability_percent": ("lowest, %", 1),
    "failures": ("failures", 1),
    "sessions_created": ("sessions", 1),
    "failure_share": ("failed, %", 100),
    "alert_fired_seconds": ("alert fires, s", 1),
    "alert_seconds_before_first_failure": ("before failure, s", 1),
}


def sweep_page(results: Results, sections: Sequence[Section]) -> str:
    """The whole page as HTML."""
    cells = [figures for _, figures in results.rows]
    computed = [figures for figures in cells if figures["failures"] is not None]
    failed = [figures for figures in computed if figures["failures"]]
    settings = ", ".join(
        f"{setting.name} {' / '.join(setting.values[:8])}{' …' if len(setting.values) > 8 else ''}"
        for setting in results.settings
    )
    head = [
        *title_words("Azure Private Link, a sweep of experiments", results.folder.resolve().name, settings),
        answer(list(_answers(results, computed, failed)), calm=not failed and len(computed) == len(cells)),
        tiles(_tiles(cells, computed, failed)),
    ]
    words = (
        "A cell is one experiment, times are seconds of its simulated time. Made by dataplane from results.csv; "
        "what its columns are is in docs/sweep.md."
    )
    last = Section("cells", "All cells")
    shown = [*((section, "") for section in sections), (last, _table(results))]
    title = f"{results.folder.resolve().name}: Private Link sweep"
    return document(title, head, shown, _configuration(results), words)


def _answers(results: Results, computed: list[Figures], failed: list[Figures]) -> Iterator[str]:
    count = len(results.rows)
    yield f"NAT ports were refused in {len(failed):,} of {count:,} cells."
    if len(computed) < count:
        yield f"Without figures, since they could not be computed: {count - len(computed):,} cells."
    calm = _calm(results)
    if calm and failed:
        more = f"; and {len(calm) - _MOST_NAMES:,} more" if len(calm) > _MOST_NAMES else ""
        seeds = ", whatever the seed," if results.seeds > 1 else ""
        yield f"Nothing was refused{seeds} with {'; '.join(calm[:_MOST_NAMES])}{more}."
    ran_out = [figures for figures in computed if figures["first_failure_seconds"] is not None]
    if ran_out:
        early = [figures["alert_seconds_before_first_failure"] for figures in ran_out]
        ahead = sum(seconds is not None and seconds > 0 for seconds in early)
        silent = sum(seconds is None for seconds in early)
        yield (
            f"Where ports ran out, the alert came before the first failure in {ahead:,} of {len(ran_out):,} cells"
            + (f", and never in {silent:,}." if silent else ".")
        )


def _calm(results: Results) -> list[str]:
    """Combinations of the settings that are varied, but for the seed, with which no packet was refused."""
    varied = [setting.name for setting in results.settings if len(setting.values) > 1 and setting.name != SEED]
    calm: dict[str, bool] = {}
    for settings, figures in results.rows:
        words = ", ".join(f"{name} {settings[name]}" for name in varied)
        calm[words] = calm.get(words, True) and figures["failures"] == 0
    return [words for words, quiet in calm.items() if quiet and words]


def _tiles(cells: list[Figures], computed: list[Figures], failed: list[Figures]) -> list[tuple[str, str, str, bool]]:
    def told(name: str, unit: str, factor: float = 1) -> tuple[str, str]:
        values = [factor * value for figures in computed if (value := figures[name]) is not None]
        if not values:
            return "-", "no cell"
        if min(values) == max(values):
            return f"{min(values):,.3g} {unit}", "in every cell that has it"
        return f"{min(values):,.3g} {unit}", f"to {max(values):,.3g} {unit}"

    return [
        ("Cells", f"{len(cells):,}", f"{len(computed):,} computed", len(computed) < len(cells)),
        ("Refused ports", f"{len(failed):,}", "cells", bool(failed)),
        ("Failed connections", *told("failure_share", "%", 100), False),
        ("Lowest availability", *told("lowest_availability_percent", "%"), False),
        ("First failure", *told("first_failure_seconds", "s"), False),
    ]


def _table(results: Results) -> str:
    def text(figures: Figures, name: str, factor: float) -> str:
        value = figures[name]
        return "-" if value is None else f"{factor * value:,.3f}".rstrip("0").rstrip(".")

    names = [setting.name for setting in results.settings]
    rows = [
        (*(settings[name] for name in names), *(text(figures, name, factor) for name, (_, factor) in _COLUMNS.items()))
        for settings, figures in results.rows
    ]
    header = (*names, *(title for title, _ in _COLUMNS.values()))
    return cut("Every cell, in the grid's order; - where there is none", header, rows, _MOST_CELLS, "results.csv")


def _configuration(results: Results) -> str:
    text = results.configuration_text
    content = (
        paragraph("The folder has no configuration.yaml: a newer version of dataplane writes it with the results.")
        if text is None
        else text_file("The sweep as used, with its scenario, topology and seed", "configuration.yaml", text)
    )
    return (
        '<section id="configuration" aria-labelledby="configuration-title">\n'
        f'<h2 id="configuration-title">Configuration</h2>\n{content}\n</section>'
    )
