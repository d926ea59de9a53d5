"""Conditions on a summary: `figure operator number`, as `--fail-if` takes them.

A figure is a dotted path into `summary.json`, lists stepped over (`dropped.packets`,
`private_link_services.nat_ips.free`), or the bare name of a key, which means every place where the summary has it as a
number. A condition holds when it holds at one place at least. What a run does not have
(`first_exhaustion.time_seconds` when no pool ran out) meets no condition; a drop reason without packets is 0.

Where two runs are compared, figures are those of the new run, `change.` before a figure means new less old, and
`differences.results` and its like count what differs.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from dataplane.metrics.figures import DIFFERENCES, FIGURES, REASONS, Figure, Number, path_of

_OPERATORS: dict[str, Callable[[Number, Number], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}

_SYNTAX = re.compile(
    r"\s*(?P<figure>[A-Za-z_][\w.]*)\s*(?P<operator><=|>=|==|!=|<|>)"
    r"\s*(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*",
    re.ASCII,
)

#: Places that one condition names before the rest is counted.
_MOST_PLACES = 20

_CHANGE = "change."

#: Every path; the last key of each is also a bare name.
PATHS = tuple(dict.fromkeys(path_of(kind, name) for kind, names in FIGURES.items() for name in names))
_BARE = frozenset(path.rpartition(".")[2] for path in PATHS)


class ConditionError(ValueError):
    """A condition that cannot be understood; the message says what would be."""


@dataclass(frozen=True)
class Condition:
    """A figure, an operator and a number; made by `parse_condition`."""

    figure: str
    operator: str
    number: Number
    of_change: bool = False

    def places(self, figures: Iterable[Figure]) -> Iterator[Figure]:
        """The figures that it speaks of and for which it holds."""
        compare = _OPERATORS[self.operator]
        for figure in figures:
            if self._means(figure) and compare(figure.value, self.number):
                yield figure

    def held(self, figures: Iterable[Figure]) -> list[str]:
        """A line for every place where it holds, the first twenty by name; empty when it holds nowhere."""
        places = list(self.places(figures))
        lines = []
        for figure in places[:_MOST_PLACES]:
            where = f"{figure.resource}: " if figure.resource else ""
            what = f"change of {figure.name}" if self.of_change else figure.name
            says = f"--fail-if says {self.operator} {_text(self.number)}"
            lines.append(f"{where}{what} is {_text(figure.value)}, and {says}")
        if len(places) > _MOST_PLACES:
            lines.append(f"… and {self} at {len(places) - _MOST_PLACES:,} more places")
        return lines

    def _means(self, figure: Figure) -> bool:
        if figure.is_change != self.of_change:
            return False
        if "." in self.figure:
            return figure.path == self.figure
        return figure.name.rpartition(".")[2] == self.figure

    def __str__(self) -> str:
        return f"{_CHANGE if self.of_change else ''}{self.figure} {self.operator} {_text(self.number)}"


def parse_condition(text: str, *, of_two_runs: bool = False) -> Condition:
    """The condition that a text states, about one run or about two that are compared.

    Raises `ConditionError`, also for a figure that no summary has.
    """
    match = _SYNTAX.fullmatch(text)
    if match is None:
        raise ConditionError(
            f"{text!r} is no condition; write a figure, one of {' '.join(_OPERATORS)} and a number, "
            "such as 'minimum_availability_percent < 20'"
        )
    given = match["figure"]
    of_change = of_two_runs and given.startswith(_CHANGE)
    figure = given.removeprefix(_CHANGE) if of_change else given
    counted = of_two_runs and given in DIFFERENCES
    if not counted and figure not in _BARE and figure not in PATHS:
        raise ConditionError(_unknown(figure, of_two_runs))
    number = match["number"]
    value = int(number) if re.fullmatch(r"[-+]?\d+", number) else float(number)
    return Condition(figure, match["operator"], value, of_change)


def held_conditions(conditions: Iterable[Condition], figures: Iterable[Figure]) -> list[str]:
    """A line for every place where a condition holds, conditions in the order given."""
    known = list(figures)
    return [line for condition in conditions for line in condition.held(known)]


def _unknown(figure: str, of_two_runs: bool) -> str:
    extra = DIFFERENCES if of_two_runs else ()
    near = get_close_matches(figure, [*PATHS, *extra, *sorted(_BARE)], n=3)
    meant = f" (did you mean {' or '.join(near)}?)" if near else ""
    names = dict.fromkeys(re.sub(rf"\b({'|'.join(REASONS)})\b", "REASON", path) for path in (*PATHS, *extra))
    prefix = f"; {_CHANGE} before a figure of the summary means new less old" if of_two_runs else ""
    return (
        f"there is no figure {figure}{meant}; there are: {', '.join(names)}; a figure's last word alone means "
        f"every place that has it{prefix}; REASON is one of {', '.join(REASONS)}"
    )


def _text(value: Number) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)
