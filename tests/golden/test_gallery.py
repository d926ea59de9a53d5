"""The gallery's page says what its scenarios find, and what it teaches is so."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from dataplane.kernel import COMPILED

GALLERY = Path(__file__).resolve().parents[2] / "docs" / "gallery"
NAMES = sorted(path.stem for path in GALLERY.glob("*.yaml") if not path.stem.startswith("topology"))

pytestmark = pytest.mark.skipif(not COMPILED, reason="half a million packets: compiled only")


@cache
def make() -> ModuleType:
    """docs/gallery/make.py."""
    spec = importlib.util.spec_from_file_location("gallery_make", GALLERY / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def told(name: str) -> str:
    return str(make().told(name))


def figure(name: str, source: str, words: str) -> int:
    """A number that a scenario's run says of a source."""
    found = re.search(rf"^{source}: .*?([\d,]+) {words}", told(name), re.MULTILINE)
    assert found, told(name)
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize("name", NAMES)
def test_the_page_quotes_what_the_scenario_finds(name: str) -> None:
    page = (GALLERY / "README.md").read_text()
    assert f"<!-- {name} -->\n```\n$ dataplane exhaust {name}.yaml\n{told(name)}```\n" in page
    assert (GALLERY / f"{name}.png").is_file()
    assert (GALLERY / f"{name}.png").stat().st_size < 60_000
    assert f"]({name}.png)" in page


def test_a_cap_protects_the_quiet_endpoint_and_nothing_else_does() -> None:
    assert figure("noisy-neighbour", "quiet", "failed") > 100
    assert figure("noisy-neighbour-cap", "quiet", "failed") == 0
    assert figure("noisy-neighbour-cap", "noisy", "failed") > 1000


def test_a_keep_alive_above_the_time_out_breaks_every_connection() -> None:
    assert "broken" not in told("keep-alive-below")
    assert figure("keep-alive-above", "agents", "broken") == 1200


def test_an_average_misses_the_herd_the_lost_backend_and_the_full_pool_of_a_skewed_hash() -> None:
    for name in ("thundering-herd", "losing-a-backend", "hash-skew"):
        assert "would not have fired, though ports ran out" in told(name)


def test_resets_and_exact_allocation_need_no_more_ports() -> None:
    assert "ran out first" in told("close")
    assert "did not run out" in told("reset")
    assert "ran out first" in told("bounded-probing")
    assert "did not run out" in told("exact-allocation")


def test_a_slow_leak_is_the_one_that_the_alert_sees_in_time() -> None:
    assert " s before the first failure" in told("slow-leak")
    for name in ("syn-flood", "noisy-neighbour", "close"):
        assert " s AFTER the first failure" in told(name)


def test_half_open_sessions_take_the_ports_of_clients_that_get_answers() -> None:
    assert figure("syn-flood", "web", "failed") > 0


def test_a_second_nat_ip_in_time_keeps_ports_from_running_out() -> None:
    assert "did not run out" in told("adding-a-nat-ip")
    assert figure("not-adding-a-nat-ip", "web", "failed") > 1000


def test_tcp_stays_on_a_backend_that_goes_down_and_udp_moves() -> None:
    assert "moved" not in told("losing-a-backend")
    moved = re.search(r"^([\d,]+) sessions ended as moved", told("losing-a-backend-udp"), re.MULTILINE)
    assert moved, told("losing-a-backend-udp")
    assert figure("losing-a-backend-udp", "names", "failed") == 0
