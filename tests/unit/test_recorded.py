"""Connections of captures and flow logs as traffic: when they begin, how long they live, how much they carry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from scapy.all import IP, TCP, Ether

from dataplane.capture import PcapWriter
from dataplane.packets.batch import PacketBatch
from dataplane.packets.headers import RST, SYN
from dataplane.runs.exhaust import Exhaust, Exhausted, exhaust
from dataplane.runs.folder import RunError
from dataplane.runs.recorded import recorded_connections
from dataplane.runs.scenario import Scenario
from tests.traffic import generate, scenario, source

AS_RECORDED: dict[str, Any] = {
    "life": {"distribution": "as_recorded"},
    "request": {"bytes": "as_recorded"},
    "response": {"bytes": "as_recorded"},
    "ends": {"rst": 1},
}


def as_in(pattern: str, *files: Path, protocol: str = "tcp", **arrivals: Any) -> dict[str, Any]:
    names = {"file": str(files[0])} if len(files) == 1 else {"files": list(map(str, files))}
    return source(protocol=protocol, arrivals={"pattern": pattern, **names, **arrivals}, **AS_RECORDED)


def test_what_has_no_length_does_not_come_again_without_end(tmp_path: Path) -> None:
    log = flow_log(tmp_path / "one.json", flow(0, "B", "0,0,0,0", port=1))
    again = scenario(as_in("flow_log", log, repeat=True))
    with pytest.raises(RunError, match="the recording is 1 ns long, and would come again without end"):
        exhaust(Exhaust(again))


# --- flow logs --------------------------------------------------------------------------------------------------------


def flow_log(path: Path, *tuples: str) -> Path:
    flows = [{"flowGroups": [{"flowTuples": list(tuples)}]}]
    path.write_text(json.dumps({"records": [{"flowLogVersion": 4, "flowRecords": {"flows": flows}}]}))
    return path


def flow(ms: int, state: str, counts: str, *, port: int, protocol: int = 6, server_port: int = 443) -> str:
    return f"{1_767_225_600_000 + ms},10.0.2.4,10.0.1.5,{port},{server_port},{protocol},O,{state},NX,{counts}"


@pytest.fixture
def hours(tmp_path: Path) -> list[Path]:
    """Two connections at 0 and 1 s, which live 2 s and 5 s; the second ends in the second file."""
    one = flow_log(
        tmp_path / "one.json",
        flow(0, "B", "0,0,0,0", port=1),
        flow(1000, "B", "0,0,0,0", port=2),
        flow(2000, "E", "5,700,4,160", port=1),  # 500 bytes of payload and none
    )
    two = flow_log(
        tmp_path / "two.json",
        flow(4000, "C", "10,2000,10,3400", port=2),  # 1600 and 3000
        flow(6000, "E", "1,40,1,1040", port=2),  # none and 1000
    )
    return [one, two]


def sessions(packets: NDArray[Any]) -> list[tuple[int, int, int, int]]:
    """Of each connection: begin and life in milliseconds, bytes of payload from the client and from the server."""
    found = []
    to_client = packets["source_port"] == 443
    port = np.where(to_client, packets["destination_port"], packets["source_port"])
    clients = np.where(to_client, packets["destination"], packets["source"]).astype(np.int64) << 16 | port
    for client in dict.fromkeys(clients.tolist()):
        own = packets[clients == client]
        payload = own["original"].astype(int) - 54
        begin, end = own["time"][own["flags"] == SYN][0], own["time"][own["flags"] & RST != 0][0]
        reply = to_client[clients == client]
        found.append(
            (begin // 1_000_000, (end - begin) // 1_000_000, int(payload[~reply].sum()), int(payload[reply].sum()))
        )
    return found


@pytest.mark.parametrize("turn", [1, -1], ids=["in order", "the other way round"])
def test_connections_of_several_flow_logs_live_and_carry_as_recorded(hours: list[Path], turn: int) -> None:
    packets, _ = generate(scenario(as_in("flow_log", *hours[::turn])))
    assert sessions(packets) == [(0, 2000, 500, 0), (1000, 5000, 1600, 4000)]


def test_copies_and_rounds_have_the_lives_and_bytes_of_their_connection(hours: list[Path]) -> None:
    packets, _ = generate(
        scenario(as_in("flow_log", *hours, copies=2, speed=2, repeat=True, stop="4s"), duration="20s")
    )
    first, second = (2000, 500, 0), (5000, 1600, 4000)
    assert sessions(packets) == [
        *((0, *first) for _ in range(2)),
        *((500, *second) for _ in range(2)),
        *((3000, *first) for _ in range(2)),
        *((3500, *second) for _ in range(2)),
    ]


def test_sources_of_their_own_files_take_their_own_connections(hours: list[Path], tmp_path: Path) -> None:
    other = flow_log(tmp_path / "other.json", flow(0, "B", "0,0,0,0", port=3), flow(7000, "E", "1,61,1,40", port=3))
    one, two = as_in("flow_log", *hours), {**as_in("flow_log", other), "name": "others"}
    packets, _ = generate(scenario(one, two))
    assert {life for _, life, _, _ in sessions(packets)} == {2000, 5000, 7000}


def test_a_udp_connection_as_recorded_has_a_datagram_at_least(tmp_path: Path) -> None:
    log = flow_log(
        tmp_path / "dns.json",
        flow(0, "B", "0,0,0,0", port=1, protocol=17, server_port=53),
        flow(1000, "E", "1,28,1,128", port=1, protocol=17, server_port=53),
    )
    packets, _ = generate(scenario(as_in("flow_log", log, protocol="udp")))
    assert (packets["original"] - 42).tolist() == [0, 100, 0]  # the last one ends its life


def test_more_bytes_than_a_connection_carries_are_left_out_and_told(tmp_path: Path) -> None:
    log = flow_log(
        tmp_path / "large.json", flow(0, "B", "0,0,0,0", port=1), flow(1000, "E", "1,40,2000,99000000", port=1)
    )
    plan = scenario(as_in("flow_log", log))
    rows, _, notes = recorded_connections(plan.traffic[0], plan.topology.private_endpoints[0].ip)
    assert rows["response"].tolist() == [1_460_000]
    assert notes == [
        "clients: 1 recorded connections have a response of more than 1,460,000 bytes, the most that one carries here; "
        "what is more is left out"
    ]
    assert exhaust(Exhaust(plan)).notes == notes


# --- captures ---------------------------------------------------------------------------------------------------------


def endpoint_bytes(result: Exhausted) -> tuple[int, int]:
    endpoint = result.summary["private_endpoints"][0]
    return endpoint["bytes_in"], endpoint["bytes_out"]


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_an_experiments_own_capture_gives_the_same_traffic_again(protocol: str, tmp_path: Path) -> None:
    clients = source(
        protocol=protocol,
        arrivals={"pattern": "poisson", "rate": 5},
        life={"distribution": "exponential", "mean": "1s"},
        request={"bytes": 300},
        response={"bytes": 5000},
        ends={"rst": 1},
    )
    plan = scenario(clients, duration="20s")
    plan = Scenario.model_validate(
        {**plan.model_dump(mode="json", exclude={"topology"}, exclude_none=True), "topology": plan.topology}
    )
    first = exhaust(Exhaust(plan, folder=tmp_path / "run", capture=True))
    again = exhaust(
        Exhaust(scenario(as_in("capture", tmp_path / "run" / "capture.pcapng", protocol=protocol), duration="20s"))
    )
    assert again.summary["sessions"]["created"] == first.summary["sessions"]["created"] > 50
    # What the last ones had still to send, when the capture ended, is missing.
    for now, then in zip(endpoint_bytes(again), endpoint_bytes(first), strict=True):
        assert now == pytest.approx(then, rel=0.02)
    ports = [result.findings["private_endpoints"][0]["port_seconds"]["in_use"] for result in (first, again)]
    assert ports[1] == pytest.approx(ports[0], rel=0.02)


def test_several_captures_are_merged_by_time(tmp_path: Path) -> None:
    """A connection begins in one and ends in the other; its life is from one to the other."""
    for name, flags, seconds in (("one.pcap", "S", 10), ("two.pcap", "R", 13)):
        frame = bytes(Ether() / IP(src="172.16.0.9", dst="172.16.5.5") / TCP(sport=2000, dport=80, flags=flags))
        with PcapWriter(tmp_path / name) as file:
            file.write_batch(PacketBatch.from_bytes([frame], [seconds * 10**9]))
    packets, _ = generate(scenario(as_in("capture", tmp_path / "two.pcap", tmp_path / "one.pcap")))
    assert sessions(packets) == [(0, 3000, 0, 0)]


# --- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["life", "request", "response"])
def test_only_recorded_arrivals_have_lives_and_bytes_as_recorded(key: str) -> None:
    with pytest.raises(
        ValidationError, match=f"{key} is as_recorded, but arrivals of pattern poisson are not recorded"
    ):
        scenario(source(**{key: AS_RECORDED[key]}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"request": {"bytes": "as_recorded", "packets": 3}}, "packets do not go with bytes as_recorded"),
        ({"request": {"bytes": "as_sent"}}, "as_sent, but must be a whole number of bytes, or as_recorded"),
        ({"request": {"bytes": -1}}, "-1 is no number of bytes that fits; write 0 to 1460000"),
        ({"life": {"distribution": "as_recorded", "value": "3s"}}, "as_recorded has no key; here: value"),
    ],
)
def test_keys_that_do_not_fit_are_told(change: dict[str, Any], words: str, hours: list[Path]) -> None:
    with pytest.raises(ValidationError, match=words):
        scenario({**as_in("flow_log", *hours), **change})


@pytest.mark.parametrize(
    ("arrivals", "words"),
    [
        ({}, "file is missing; pattern flow_log has file, files"),
        ({"file": "a.json", "files": ["b.json"]}, "has both file and files"),
        ({"files": []}, "file is missing"),
    ],
)
def test_a_recording_is_one_file_or_several(arrivals: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        scenario(source(protocol="tcp", arrivals={"pattern": "flow_log", **arrivals}))
