"""The gate tells what got slower, and fails for it."""

import json

import pytest

from bench import gate


def _results(path, seconds):
    rows = [{"fullname": name, "stats": {"min": value}} for name, value in seconds.items()]
    path.write_text(json.dumps({"benchmarks": rows}))
    return str(path)


def test_a_slower_benchmark_fails(tmp_path, capsys):
    before = _results(tmp_path / "before.json", {"a": 1.0, "b": 2.0, "gone": 1.0})
    after = _results(tmp_path / "after.json", {"a": 1.05, "b": 2.5, "new": 1.0})
    assert gate.main([before, after]) == 1
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in told[:2]] == [["1.05", "a"], ["1.25", "SLOWER", "b"]]
    assert told[-1] == "1 of 2 above 1.10"
    assert gate.main([before, after, "--most", "1.3"]) == 0


def test_what_is_no_result_is_said(tmp_path, capsys):
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    with pytest.raises(SystemExit) as exit_code:
        gate.main([str(broken), str(broken)])
    assert exit_code.value.code == 2
    assert "broken.json: is no result of --benchmark-json" in capsys.readouterr().err


def test_nothing_in_common_passes_nothing(tmp_path):
    one, other = _results(tmp_path / "one.json", {"a": 1.0}), _results(tmp_path / "other.json", {"b": 1.0})
    assert gate.main([one, other]) == 2
