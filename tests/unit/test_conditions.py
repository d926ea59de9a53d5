"""Conditions on a summary: what is a figure, where it is looked for, and what is said where one holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dataplane.metrics.conditions import PATHS, ConditionError, held_conditions, parse_condition
from dataplane.metrics.figures import figures

CASES = Path(__file__).resolve().parents[2] / "pcaps" / "cases"


def summary_of(case: str) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((CASES / case / "expected" / "summary.json").read_text())
    return summary


def held(text: str, case: str = "exhaustion") -> list[str]:
    return held_conditions([parse_condition(text)], figures(summary_of(case)))


def numbers(value: Any, path: str = "") -> Iterator[str]:
    """The path of every number of a summary, written down independently of `figures`."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner, path)
    elif isinstance(value, (int, float)):
        yield path


@pytest.mark.parametrize("case", sorted(path.parent.name for path in CASES.glob("*/arguments")))
def test_every_number_of_a_summary_is_a_figure_that_conditions_know(case: str) -> None:
    summary = summary_of(case)
    known = {figure.path for figure in figures(summary)}
    assert set(numbers(summary)) <= known <= set(PATHS)


def test_every_figure_that_conditions_know_is_in_a_summary() -> None:
    assert {figure.path for figure in figures(summary_of("exhaustion"))} == set(PATHS)


def test_a_bare_key_means_every_place_that_has_it() -> None:
    assert held("free < 8") == [
        "orders, NAT IP 192.168.50.4: free is 7, and --fail-if says < 8",
        "orders, NAT IP 192.168.50.4, tcp toward 192.168.61.4: free is 7, and --fail-if says < 8",
    ]
    assert len(held("minimum_availability_percent <= 100", "two-tenants")) == 2


def test_a_path_means_one_kind_of_place() -> None:
    assert held("private_link_services.nat_ips.free < 8") == held("free < 8")[:1]
    assert held("sessions.created == 9") == ["sessions.created is 9, and --fail-if says == 9"]
    assert held("private_endpoints.sessions.created == 9") == [
        "pe-contoso: sessions.created is 9, and --fail-if says == 9"
    ]


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("dropped.packets > 9", True),
        ("dropped.packets > 10", False),
        ("dropped.packets >= 10", True),
        ("dropped.packets<=10", True),
        ("dropped.packets < 10", False),
        ("dropped.packets == 10.0", True),
        ("dropped.packets != 10", False),
        ("  dropped.packets  !=  +1e1 ", False),
        ("dropped.packets > -.5", True),
        ("minimum_availability_percent < 0.1", True),
        ("dropped.reasons.nat_ports_exhausted.packets == 2", True),
    ],
)
def test_operators_compare_as_they_read(condition: str, holds: bool) -> None:
    assert bool(held(condition)) is holds


def test_a_drop_reason_without_packets_is_zero_and_so_is_an_endpoints() -> None:
    assert held("dropped.reasons.malformed.packets == 0")
    assert held("private_endpoints.dropped.malformed == 0") == [
        "pe-contoso: dropped.malformed is 0, and --fail-if says == 0"
    ]
    assert not held("dropped.reasons.malformed.packets > 0")


def test_what_a_run_does_not_have_meets_no_condition() -> None:
    assert held("first_exhaustion.time_seconds >= 0") == [
        "first_exhaustion.time_seconds is 40, and --fail-if says >= 0"
    ]
    for operator in ("<", "<=", ">", ">=", "==", "!="):
        assert not held(f"first_exhaustion.time_seconds {operator} 0", "two-tenants")


def test_many_places_are_named_up_to_twenty_and_then_counted() -> None:
    summary = summary_of("exhaustion")
    [nat_ip] = summary["private_link_services"][0]["nat_ips"]
    nat_ip["pools"] = [{**nat_ip["pools"][0], "backend": f"192.168.62.{number}"} for number in range(30)]
    lines = held_conditions([parse_condition("minimum_free < 1")], figures(summary))
    assert len(lines) == 21
    assert lines[-1] == "… and minimum_free < 1 at 10 more places"


@pytest.mark.parametrize(
    "text",
    ["", "free", "free <", "< 3", "free = 3", "free << 3", "free < 3 and held > 2", "free < nan", "free < inf",
     "free < 20 %", "free < 1_000", "free < 0x10", "20 > free", "free < held"],
)  # fmt: skip
def test_anything_else_is_no_condition(text: str) -> None:
    with pytest.raises(ConditionError, match="write a figure, one of < <= > >= == != and a number"):
        parse_condition(text)


@pytest.mark.parametrize(
    "figure",
    ["availability", "nat_ips.free", "dropped.reasons.nat_ports_exhausted", "first_exhaustion", "name", "dropped.",
     "first_exhaustion.service", "dropped.reasons.forwarded.packets", "change.free", "differences.results"],
)  # fmt: skip
def test_a_figure_that_no_summary_has_is_refused_with_the_names_that_exist(figure: str) -> None:
    with pytest.raises(ConditionError) as refused:
        parse_condition(f"{figure} > 0")
    message = str(refused.value)
    assert f"there is no figure {figure}" in message
    for name in ("sessions.active", "private_link_services.nat_ips.minimum_availability_percent", "nat_port_not_found"):
        assert name in message
    assert "\n" not in message


def test_a_near_miss_is_told_what_was_meant() -> None:
    with pytest.raises(ConditionError, match=r"did you mean minimum_availability_percent"):
        parse_condition("minimum_availability < 20")
