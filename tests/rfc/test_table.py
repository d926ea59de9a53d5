"""docs/rfc.md and the tests in this folder name each other: none is missing on either side."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from dataplane.topology.profiles import PROFILES

HERE = Path(__file__).resolve().parent
PAGE = (HERE.parents[1] / "docs" / "rfc.md").read_text(encoding="utf-8")
RFCS = ("4787", "5382", "5508", "7857", "6888", "6056")


def functions(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


WRITTEN = [f"{path.name}::{name}" for path in sorted(HERE.glob("test_rfc*.py")) for name in functions(path)]
TABLES, _, PROFILES_SECTION = PAGE.partition("\n## Profiles\n")


def table(rfc: str) -> list[list[str]]:
    """The rows of an RFC's table, cut into cells, without its head."""
    section = re.search(rf"^## RFC {rfc}: .*?(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
    assert section is not None
    rows = [line for line in section.group().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"\b(test_\w+\.py)::(\w+)", PAGE)
    assert [f"{file}::{name}" for file, name in named if f"{file}::{name}" not in WRITTEN] == []


def test_every_test_is_named_once() -> None:
    named = Counter(re.findall(r"`(test_\w+\.py::test_\w+)`", TABLES))
    assert [name for name in WRITTEN if named[name] != 1] == []


@pytest.mark.parametrize("rfc", RFCS)
def test_no_name_of_a_test_is_used_twice_in_a_file(rfc: str) -> None:
    names = functions(HERE / f"test_rfc{rfc}.py")
    assert [name for name, count in Counter(names).items() if count > 1] == []


@pytest.mark.parametrize("rfc", RFCS)
def test_each_row_says_whether_it_applies_how_profiles_stand_to_it_and_which_tests_show_it(rfc: str) -> None:
    rows = table(rfc)
    assert rows
    for row in rows:
        requirement, words, applies, *statuses, why, tests = row
        assert requirement, row
        assert words.endswith("."), row
        assert re.match(r"(yes|modified|no)\b", applies), row
        assert why, row
        assert len(statuses) == 4, row
        assert set(statuses) <= ({"n/a"} if applies.startswith("no") else {"met", "in part", "not met", "n/a"}), row
        if not (applies.startswith("no") and tests == "—"):
            cells = tests.split("<br>")
            assert all(re.fullmatch(rf"`test_rfc{rfc}\.py::test_\w+`", cell) for cell in cells), row


@pytest.mark.parametrize("rfc", RFCS)
def test_no_row_stands_twice(rfc: str) -> None:
    requirements = [row[0] for row in table(rfc)]
    assert len(set(requirements)) == len(requirements)


def test_every_profile_has_its_part_in_the_order_of_the_profiles() -> None:
    assert re.findall(r"^### (\S+)$", PROFILES_SECTION, re.MULTILINE) == list(PROFILES)
