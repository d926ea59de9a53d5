"""The gallery's pages and pictures show what its scenarios find, and what they teach is so."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dataplane.kernel import COMPILED

GALLERY = Path(__file__).resolve().parents[2] / "docs" / "gallery"
PAGES = sorted(path.name for path in GALLERY.glob("*.md") if path.name != "README.md")
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


def told(name: str) -> str:
    return str(make().told(name))


def figure(name: str, source: str, words: str) -> int:
    """A number that a scenario's run says of a source."""
    found = re.search(rf"^{source}: .*?([\d,]+) {words}", told(name), re.MULTILINE)
    assert found, told(name)
    return int(found[1].replace(",", ""))


def pages_of(name: str) -> list[str]:
    return [page for page in PAGES if name in make().names_on((GALLERY / page).read_text())]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_quotes_what_its_scenarios_find(page: str) -> None:
    text = (GALLERY / page).read_text()
    assert make().names_on(text)
    assert make().written(text) == text, "python docs/gallery/make.py, and look at the difference"


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_alike_and_short(page: str) -> None:
    lines = (GALLERY / page).read_text().splitlines()
    assert [line for line in lines if line.startswith("## ")] == [
        "## What happens",
        "## What the run says",
        "## Picture",
        "## What the metric showed",
        "## What helps",
        "## Try it",
    ]
    assert len(lines) <= 92
    assert f"]({page})" in (GALLERY / "README.md").read_text()


def test_links_and_commands_lead_somewhere() -> None:
    for page in (GALLERY / "README.md", *(GALLERY / page for page in PAGES)):
        text = page.read_text()
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            assert (GALLERY / link).exists(), f"{page.name}: {link}"
        for command in re.findall(r"exhaust (docs/gallery/[a-z-]+\.yaml)", text):
            assert (GALLERY.parents[1] / command).is_file()


@pytest.mark.parametrize("name", NAMES)
def test_a_scenario_has_one_page_and_a_picture_of_what_its_run_finds(name: str) -> None:
    (page,) = pages_of(name)
    assert f"]({name}.png)" in (GALLERY / page).read_text()
    picture = GALLERY / f"{name}.png"
    assert picture.stat().st_size < 60_000
    digests = make().digests_in(picture)
    assert digests["Drawn"] == make().digest_of_numbers(name, make().drawn(name)), "python docs/gallery/make.py"
    assert digests["Pixels"] == digests["pixels now"], "this is not the picture that make.py has made"


def test_a_picture_of_other_numbers_or_another_picture_is_told(tmp_path: Path) -> None:
    lines = make().drawn("reset")
    digest = make().digest_of_numbers("reset", lines)
    other = [lines[0]._replace(values=[*lines[0].values[:-1], 50.0]), *lines[1:]]
    assert make().digest_of_numbers("reset", other) != digest
    assert make().digest_of_numbers("close", make().drawn("close")) != digest
    with Image.open(GALLERY / "reset.png") as picture:
        inside = PngInfo()
        for key in ("Drawn", "Pixels"):
            inside.add_text(key, picture.info[key])
        changed = picture.convert("RGBA")
        changed.putpixel((200, 100), (255, 0, 0, 255))
        changed.save(tmp_path / "reset.png", pnginfo=inside)
    digests = make().digests_in(tmp_path / "reset.png")
    assert digests["Drawn"] == digest
    assert digests["Pixels"] != digests["pixels now"]


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
