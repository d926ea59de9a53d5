"""The contest runs, with few packets, and whoever cannot take part is named with the reason."""

import json
import sys

import pytest

from bench.peers import contest, files, libraries, memory, report
from bench.peers.__main__ import CONTESTANTS, main
from bench.peers.contest import Arena, Contestant, MissingError, Row

MACHINE = {"processor": "a processor", "cores": "2", "Linux": "6", "Python": "3", "numba": "1"}


def hold(makers, arena, rounds=1):
    return contest.hold(makers, arena, rounds, lambda text: None)


@pytest.fixture
def arena(tmp_path):
    return Arena(tmp_path, packets=300, sessions=50)


def test_all_take_part_or_say_why_not(capsys, tmp_path):
    path = tmp_path / "results.json"
    assert main(["--packets", "300", "--sessions", "50", "--rounds", "1", "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    rows = {row["name"]: row for row in json.loads(path.read_text())["rows"]}
    for name, _ in CONTESTANTS:
        assert rows[name]["best_ns"] or rows[name]["note"].startswith(("not installed: ", "not measured: "))
        assert f"\n{name}  " in printed
    assert rows["dataplane, in memory"]["best_ns"]
    assert "dataplane replay, start-up taken off" in rows
    assert "processor: " in printed


def test_a_missing_program_keeps_its_row(monkeypatch, arena):
    monkeypatch.setattr(files.shutil, "which", lambda name: None)
    rows = hold([("dataplane", memory.dataplane), ("tcprewrite", files.tcprewrite)], arena)
    assert rows[1] == Row("tcprewrite", 0, None, None, "not installed: apt install tcpreplay")
    assert "not installed: apt install tcpreplay" in report.table(rows)


def test_a_missing_library_keeps_its_row(monkeypatch, arena):
    monkeypatch.setitem(sys.modules, "dpkt", None)
    assert hold([("dpkt", libraries.dpkt)], arena) == [Row("dpkt", 0, None, None, "not installed: pip install dpkt")]


def test_rounds_go_in_turn_and_the_base_is_taken_off():
    order = []

    def takes(name, *seconds):
        left = iter(seconds)

        def one_round():
            order.append(name)
            return next(left)

        return one_round

    first = Contestant("first", 10, "note", takes("first", 9, 5, 4), takes("base", 1, 1), "base taken off")
    second = Contestant("second", 10, "note", takes("second", 9, 3, 2))
    rows = hold([("first", lambda *_: first), ("second", lambda *_: second)], None, rounds=2)
    assert order == ["first", "second", "first", "base", "second", "first", "base", "second"]
    assert [(row.name, row.best, row.median) for row in rows] == [
        ("first", 4e8, 4.5e8),
        ("first, base taken off", 3e8, 3.5e8),
        ("second", 2e8, 2.5e8),
    ]


def test_what_drowns_in_its_base_has_no_rate():
    entry = Contestant("entry", 10, "", lambda: 2.0, lambda: 2.0, "base taken off")
    _, row = hold([("entry", lambda *_: entry)], None, rounds=2)
    assert row.best is None
    assert "more --packets" in row.note


def test_one_round_is_too_few_to_take_a_base_off():
    entry = Contestant("entry", 10, "", lambda: 2.0, lambda: 1.0, "base taken off")
    _, row = hold([("entry", lambda *_: entry)], None)
    assert row.best is None
    assert "--rounds 2" in row.note


def test_an_output_that_is_not_translated_is_refused(arena):
    with pytest.raises(RuntimeError, match="wrong source address, destination address, destination port"):
        contest.check(contest.sample(arena.batch))


def test_the_limit_by_sessions(capsys):
    assert main(["--limit", "10", "400", "--packets", "300", "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert [line.split()[:2] for line in lines] == [["10", "300"], ["400", "400"]]
    assert all(line.endswith("of the limit") for line in lines)


def test_files_only_by_what_cp_takes(capsys):
    assert main(["--files", "--packets", "300", "--sessions", "50", "--rounds", "1"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()[-7:]
    assert "times cp" in head
    assert [line.split("  ")[0] for line in lines] == [
        "cp",
        "dataplane replay",
        "dataplane replay, start-up taken off",
        "dataplane replay, all points",
        "dataplane replay, all points, start-up taken off",
        "tcprewrite",
    ]


@pytest.mark.parametrize(("count", "copies"), [(299, 1), (100, 2), (301, 0)])
def test_an_output_with_packets_lost_or_added_is_refused(arena, monkeypatch, count, copies):
    monkeypatch.setattr(files, "check", lambda frames: None)
    path, _ = arena.capture()
    with pytest.raises(RuntimeError, match=f"holds 300 packets, not {count * max(1, copies)}"):
        files.check_capture(path, count, copies)


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_drawing_names_everyone(tmp_path, suffix):
    pytest.importorskip("matplotlib", reason="not installed: pip install matplotlib")
    path = tmp_path / f"drawing.{suffix}"
    rows = [Row("dataplane", 10, 50.0, 51.0, ""), Row("slow", 10, 1e6, 1e6, ""), Row("absent", 0, None, None, "why")]
    report.need_drawing(path)
    report.draw(path, "a title", MACHINE, rows)
    assert path.stat().st_size > 1000


@pytest.mark.parametrize(
    "words",
    [
        ["--sessions", "11", "--packets", "10"],
        ["--rounds", "0"],
        ["--size", "9"],
        ["--limit", "0"],
        ["--files", "--limit"],
        ["-o", "a.gif"],
    ],
)
def test_wrong_usage(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_a_wrong_suffix_says_which_are_right(tmp_path):
    with pytest.raises(MissingError, match=r"\.svg or \.png"):
        report.need_drawing(tmp_path / "a.gif")
