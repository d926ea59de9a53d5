"""Virtual network flow logs: what they say about connections and NAT ports, and what is refused."""

from __future__ import annotations

import gzip
import json
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

import dataplane.runs.flow_logs as module
from dataplane.runs.flow_logs import connections_to, end_of, nat_port_use, read_flow_logs
from dataplane.runs.folder import RunError

EXAMPLE = Path(__file__).resolve().parents[1] / "data" / "PT1H.json"
ENDPOINT = IPv4Address("10.0.1.5")
NAT_IP = IPv4Address("192.168.50.4")
MINUTE_MS = 60_000


def record(*tuples: Any, **more: Any) -> dict[str, Any]:
    flows = [{"aclID": "a", "flowGroups": [{"rule": "r", "flowTuples": list(tuples)}]}]
    return {"flowLogVersion": 4, "macAddress": "0", "flowRecords": {"flows": flows}, **more}


def flow(ms: int, state: str, *, port: int = 1024, direction: str = "I", protocol: int = 6) -> str:
    counts = "0,0,0,0" if state == "B" else "1,60,2,90"
    return f"{1_767_225_600_000 + ms},192.168.50.4,192.168.61.4,{port},8443,{protocol},{direction},{state},NX,{counts}"


def write(path: Path, *records: Any) -> Path:
    path.write_text(json.dumps({"records": records}))
    return path


def test_connections_have_life_and_bytes_when_their_end_is_in_the_log() -> None:
    ended = [one for one in read_flow_logs([EXAMPLE]).new if one.flow.source_port == 50002]
    assert [(one.life_ns, one.bytes_sent, one.bytes_received) for one in ended] == [(30_000_000_000, 1200, 24000)]


def test_a_connection_that_goes_on_has_no_life_but_the_bytes_so_far() -> None:
    client = IPv4Address("10.0.2.4")
    (open_,) = [one for one in read_flow_logs([EXAMPLE]).new if one.flow[:2] == (client, 50001)]
    assert (open_.life_ns, open_.bytes_sent, open_.bytes_received) == (None, 9000, 70000)


def test_denied_and_ipv6_flows_are_left_out_and_counted() -> None:
    logs = read_flow_logs([EXAMPLE])
    assert logs.left_out == {"denied": 1, "ipv6": 1, "other_protocols": 0, "recorded_twice": 0}
    assert len(logs.new) == 7


def test_icmp_is_left_out_and_counted(tmp_path: Path) -> None:
    logs = read_flow_logs([write(tmp_path / "a.json", record(flow(0, "B"), flow(1, "B", protocol=1)))])
    assert logs.left_out["other_protocols"] == len(logs.new) == 1


def test_gzip_and_files_in_any_order_say_the_same(tmp_path: Path) -> None:
    begin = write(tmp_path / "begin.json", record(flow(0, "B")))
    end = tmp_path / "end.json.gz"
    end.write_bytes(gzip.compress(json.dumps({"records": [record(flow(5000, "E"))]}).encode()))
    for paths in ([begin, end], [end, begin]):
        (one,) = read_flow_logs(paths).connections
        assert one.life_ns == 5_000_000_000


def test_a_flow_that_both_hosts_record_is_one_connection(tmp_path: Path) -> None:
    tuples = [flow(ms, state, direction=way) for ms, state in ((0, "B"), (9000, "E")) for way in "OI"]
    logs = read_flow_logs([write(tmp_path / "a.json", record(*tuples))])
    assert [(one.life_ns, one.bytes_sent) for one in logs.connections] == [(9_000_000_000, 60)]
    assert logs.left_out["recorded_twice"] == 1


def test_a_file_given_twice_counts_once() -> None:
    assert len(read_flow_logs([EXAMPLE, EXAMPLE]).new) == 7


def test_fields_that_nobody_knows_and_times_in_seconds_are_read(tmp_path: Path) -> None:
    short = flow(0, "B").replace("1767225600000", "1767225600")
    logs = read_flow_logs([write(tmp_path / "a.json", record(short + ",more", flow(1000, "E"), colour="blue"))])
    assert [one.life_ns for one in logs.connections] == [1_000_000_000]


def test_a_record_longer_than_what_is_read_at_a_time_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_flow_logs([EXAMPLE])
    monkeypatch.setattr(module, "_CHUNK", 64)
    assert read_flow_logs([EXAMPLE]) == whole


@pytest.mark.parametrize(
    ("tuples", "ports", "minute"),
    [
        ([flow(0, "B"), flow(30_000, "E"), flow(40_000, "B", port=1025), flow(50_000, "E", port=1025)], 2, 0),
        ([flow(0, "B"), flow(1000, "E"), flow(2000, "B"), flow(3000, "E")], 1, 0),  # the same port twice
        # Three in the third minute: one that goes on since the first.
        (
            [flow(0, "B"), *(flow(130_000 + p, "B", port=p) for p in (2000, 2001)), flow(150_000, "E")],
            3,
            2,
        ),
        # One that began before counts from the beginning of the log.
        ([flow(0, "B", port=9), flow(1, "E", port=9), flow(61_000, "C")], 2, 0),
        # Without an end it counts for five minutes after its last tuple, no longer.
        ([flow(0, "B"), *(flow(7 * MINUTE_MS + p, "B", port=p) for p in (2000,))], 1, 0),
    ],
)
def test_nat_ports_in_use_are_different_ports_per_minute(
    tmp_path: Path, tuples: list[str], ports: int, minute: int
) -> None:
    (use,) = nat_port_use(read_flow_logs([write(tmp_path / "a.json", record(*tuples))]), {NAT_IP})
    assert (use.ports, use.minute_ns) == (ports, (1_767_225_600 + 60 * minute) * 10**9)


def test_connections_are_those_of_one_server() -> None:
    logs = read_flow_logs([EXAMPLE])
    found = connections_to(logs, [EXAMPLE], "tcp", (ENDPOINT, 443))
    assert [begin - logs.from_ns for begin, _ in found] == [0, 1_500_000_000, 4_000_000_000]
    assert [end_of(one, logs) - begin for begin, one in found] == [100_000_000_000, 30_000_000_000, 86_000_000_000]


def test_a_connection_whose_end_is_not_logged_counts_until_five_minutes_after_its_last_tuple(tmp_path: Path) -> None:
    tuples = [flow(0, "B"), flow(300_000, "C"), flow(3_600_000, "B", port=1025)]
    logs = read_flow_logs([write(tmp_path / "a.json", record(*tuples))])
    assert end_of(logs.connections[0], logs) - logs.from_ns == 600_000_000_000


def test_a_connection_goes_on_in_the_next_hours_file_and_in_another_hosts(tmp_path: Path) -> None:
    """Its own host logs its beginning in one hour and its end in the next; so does the other host, in its own files."""
    files = [
        write(tmp_path / f"{way}{hour}.json", record(flow(ms, state, direction=way)))
        for way in "OI"
        for hour, ms, state in ((1, 3_590_000, "B"), (2, 3_900_000, "C"), (2.5, 3_950_000, "E"))
    ]
    for order in (files, files[::-1]):
        logs = read_flow_logs(order)
        told = [(one.life_ns, one.packets_sent, one.bytes_sent, one.bytes_received) for one in logs.connections]
        assert told == [(360_000_000_000, 2, 120, 180)]


def test_a_copy_of_a_file_and_a_file_named_twice_add_no_bytes(tmp_path: Path) -> None:
    tuples = [flow(0, "B"), flow(1000, "C"), flow(2000, "E")]
    files = [write(tmp_path / name, record(*tuples)) for name in ("a.json", "b.json")]
    (tmp_path / "link.json").symlink_to(files[0])
    for paths in (files, [files[0], files[0]], [files[0], tmp_path / "link.json"]):
        assert [one.bytes_sent for one in read_flow_logs(paths).connections] == [120]


def test_a_log_in_which_nobody_connects_to_the_server_says_to_whom_they_do() -> None:
    with pytest.raises(RunError, match=r"no udp connection to 10\.0\.1\.5:443 .*There are: tcp 10\.0\.1\.5:443, "):
        connections_to(read_flow_logs([EXAMPLE]), [EXAMPLE], "udp", (ENDPOINT, 443))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("hello", "begins with 'hello'"),
        ('{"records": []}', "no flow at all"),
        ('{"records": [{"flowLogVersion": 2}]}', "record 1: flowLogVersion is 2"),
        ('{"records": [{"flowLogVersion": 4}]}', "record 1: flowRecords is missing"),
        ('{"records": [7]}', "record 1: flowLogVersion is None"),
        ('{"records": [{"a": nonsense}]}', "record 1 is no JSON"),
        (json.dumps({"records": [record("1,2,3")]}), "'1,2,3' has 3 fields"),
        (json.dumps({"records": [record(5)]}), "flow tuple 5 has 0 fields"),
        (json.dumps({"records": [record(flow(0, "B")), record(flow(0, "X"))]}), "record 2: .*state 'X'"),
        (json.dumps({"records": [record(flow(0, "B", port=70_000))]}), "'70000' is no whole number from 0 to 65535"),
        (json.dumps({"records": [record(flow(0, "B").replace("192.168.61.4", "x"))]}), "flow tuple .*'x'"),
    ],
)
def test_what_is_wrong_is_told_with_file_record_and_value(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(RunError, match=rf"bad\.json.*{words}"):
        read_flow_logs([path])


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_file_cut_short_is_told_as_such(tmp_path: Path, share: float) -> None:
    text = EXAMPLE.read_text()
    path = tmp_path / "cut.json"
    path.write_text(text[: int(share * len(text))])
    with pytest.raises(RunError, match=r"cut\.json: record \d: the file is cut short"):
        read_flow_logs([path])


def test_damaged_gzip_and_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(EXAMPLE.read_bytes())[:-20])
    with pytest.raises(RunError, match="gzip data are damaged or cut short"):
        read_flow_logs([path])
    path.write_bytes(b'{"records": [\xff')
    with pytest.raises(RunError, match="is not UTF-8"):
        read_flow_logs([path])
