"""The page of a run: what it says above its charts, the tables below them, and the run's configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from dataplane.report.chart import SECOND, Section, percent, time_text
from dataplane.report.html import Cell, answer, cut, document, paragraph, text_file, tiles, title_words
from dataplane.report.marks import moments
from dataplane.report.run import Run
from dataplane.verdict import Verdict

#: What a reader has to know of a run that did not end with exit code 0.
_ENDINGS = {
    3: "A capture was damaged: the figures are of what could be read.",
    4: "The run is complete, but when it was made one of its outputs could not be written.",
    130: "The run was interrupted: the figures are of what was done until then.",
}

#: What becomes of the connections of a source of traffic, by its name in summary.json.
_CONNECTIONS = {
    "started": "started",
    "opened": "opened",
    "reused": "went on with an old session",
    "refused": "first packets refused",
    "retried": "retries",
    "failed": "failed",
    "broken": "broken",
    "completed": "completed",
    "no_client_port": "no client port",
}


def page(run: Run, who: Sequence[str], sections: Sequence[Section]) -> str:
    """The whole page as HTML; `who` says who used the ports and who was refused one."""
    title = _title(run)
    tables = {"availability": _nat_ips, "sessions": _sources, "bytes": _endpoints, "drops": _reasons}
    head = [
        *title_words("Azure Private Link, simulated", title, _when(run)),
        *_damage(run),
        answer(list(_answers(run, who)), calm=not _refused(run)),
        _timeline(run),
        _tiles(run),
    ]
    words = (
        f"Times are {run.clock}, in UTC. Bytes are IPv4 total lengths. Made by dataplane from the files of one run; "
        "its command and versions are in manifest.json."
    )
    with_tables = [(section, tables[section.key](run) if section.key in tables else "") for section in sections]
    return document(f"{title}: Private Link run", head, with_tables, _configuration(run), words)


def _title(run: Run) -> str:
    names = [each["name"] for each in run.inputs]
    if run.findings is not None:
        names = names[:1]  # the scenario; what it is made of follows
    if len(names) > 3:
        return f"{names[0]} and {len(names) - 1:,} other captures"
    return ", ".join(names) or "A run without an input"


def _when(run: Run) -> str:
    length = f"{run.duration_seconds:,.3f} s of {run.clock}, seed {run.seed}."
    if run.begin_ns is None:
        return length
    end = run.begin_ns + round(run.duration_seconds * SECOND)
    return f"{time_text(run.begin_ns)} to {time_text(end)} UTC, {length}"


def _damage(run: Run) -> Iterator[str]:
    code, meaning = run.exit_state
    if code:
        words = _ENDINGS.get(code, f"The run ended with exit code {code}: {meaning}.")
        yield answer([words, *(str(each["damage"]) for each in run.inputs if each["damage"])], calm=False)


def _refused(run: Run) -> bool:
    return run.exhaustion is not None or run.failures > 0 or any(endpoint.refused for endpoint in run.endpoints)


def _answers(run: Run, who: Sequence[str]) -> Iterator[str]:
    """Did ports run out, when, who, and did the alert help."""
    first = run.exhaustion
    if first is None and _refused(run):
        yield "NAT ports never ran out, but endpoints were refused more than their cap (endpoint_port_limit)."
    elif first is None:
        yield "NAT ports never ran out."
    else:
        yield f"NAT ports ran out first after {first.seconds:,.3f} s."
        lost = f"{run.failures:,} time{'s' if run.failures != 1 else ''}"
        yield (
            f"Where: service {first.service}, NAT IP {first.nat_ip}, {first.protocol} toward backend {first.backend}. "
            f"{_explanation(first.reason)} In the whole run a session found no port {lost}."
        )
    found = run.findings
    if found is not None and found.from_seconds:
        yield f"What follows leaves out the first {found.from_seconds:,.10g} s, the warm-up."
        if found.first_failure_seconds != (None if first is None else first.seconds):
            yield found.answers[0].removesuffix(".") + "."
    if who:
        yield " ".join(who)
    if found is not None:
        # That the lowest is nothing goes without saying where ports ran out.
        after = found.answers[1 if found.first_failure_seconds is None else -1 :]
        yield from (line.removesuffix(".") + "." for line in after)


def _timeline(run: Run) -> str:
    found = moments(run)
    if not found:
        return ""

    def when(seconds: float) -> str:
        clock = "" if run.begin_ns is None else f", {time_text(run.begin_ns + round(seconds * SECOND))[11:]}"
        return f"{seconds:,.3f}".rstrip("0").rstrip(".") + f" s{clock}"

    lines = "".join(
        f'<li class="at-{moment.kind}"><span>{escape(when(moment.seconds))}</span> {escape(moment.text)}</li>'
        for moment in found
    )
    more = len(run.events) - sum(moment.kind == "event" for moment in found)
    rest = paragraph("Events that are not listed are in the topology.", "note") if more > 0 else ""
    return f'<ol class="timeline" aria-label="What happened when">{lines}</ol>{rest}'


def _tiles(run: Run) -> str:
    received, dropped = run.counts["received"], run.counts["dropped"]
    lowest = min(run.nat_ips, key=lambda nat_ip: nat_ip.lowest_percent, default=None)
    share = f"{percent(100 * dropped[0] / received[0])} of all" if received[0] else ""
    figures = [
        ("No NAT port", f"{run.failures:,}", "allocation failures", run.failures > 0),
        ("Sessions", f"{run.sessions_created:,}", f"{run.sessions_active:,} open at the end", False),
        ("Packets received", f"{received[0]:,}", f"{received[1]:,} bytes", False),
        ("Forwarded", f"{run.counts['forwarded'][0]:,}", f"{run.counts['bypassed'][0]:,} bypassed", False),
        ("Dropped", f"{dropped[0]:,}", share, dropped[0] > 0),
    ]
    if lowest is not None:
        value = lowest.lowest_percent
        figures.insert(0, ("Fewest free ports", percent(value), f"of a pool of {lowest.address}", value == 0))
    return tiles(figures)


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
    return cut("NAT ports at the end of the run", header, rows)


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
    return cut("Private endpoints", header, rows)


def _reasons(run: Run) -> str:
    rows: list[tuple[Cell, ...]] = [
        (reason, f"{packets:,}", f"{size:,}", (_explanation(reason), "text"))
        for reason, (packets, size) in sorted(run.drops.items(), key=lambda item: -item[1][0])
    ]
    return cut("Dropped packets", ("reason", "packets", "bytes", ("what it means", "text")), rows)


def _explanation(reason: str) -> str:
    """The sentence of a drop reason; a newer version's reasons are only named."""
    found = Verdict.__members__.get(reason.upper())
    return reason if found is None else found.explanation


def _sources(run: Run) -> str:
    """What became of the connections of each source of an experiment's traffic."""
    if run.findings is None:
        return ""
    sources = sorted(run.findings.sources, key=lambda source: (-source.connections.get("failed", 0), source.name))
    known = [name for name in _CONNECTIONS if any(name in source.connections for source in sources)]
    shown = [
        name
        for name in known
        if name in ("started", "failed", "completed") or any(source.connections.get(name) for source in sources)
    ]
    rows = [
        (source.name, source.endpoint, *(f"{source.connections.get(name, 0):,}" for name in shown))
        for source in sources
    ]
    header = ("source", "endpoint", *(_CONNECTIONS[name] for name in shown))
    after = ", after the warm-up" if run.findings.from_seconds else ""
    return cut(f"Connections by source of traffic{after}", header, rows)


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
    text = run.scenario_text
    scenario = [] if text is None else [text_file("The scenario as used", "scenario.yaml", text)]
    return "\n".join(
        [
            '<section id="configuration" aria-labelledby="configuration-title">',
            '<h2 id="configuration-title">Configuration</h2>',
            paragraph(f"Seed {run.seed}. Exit code {code}: {meaning}. The same inputs and seed give the same figures."),
            cut("Inputs", ("file", "packets", ("SHA-256", "text"), ("state", "text")), inputs),
            *scenario,
            text_file("The topology as used", "topology.yaml", run.topology_text),
            "</section>",
        ]
    )
