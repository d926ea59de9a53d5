"""Generated traffic: when connections begin, how long they live, what they send; nothing depends on slicing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scapy.all import IP, TCP, UDP, Ether

from dataplane.capture import PcapWriter
from dataplane.kernel import COMPILED
from dataplane.packets.batch import PacketBatch
from dataplane.packets.headers import ACK, FIN, RST, SYN
from dataplane.runs.connections import EPHEMERAL_PORTS
from dataplane.runs.folder import RunError
from tests.traffic import generate, scenario, source

_SECOND = 1_000_000_000

#: Interpreted kernels are some 300 times slower.
compiled_only = pytest.mark.skipif(not COMPILED, reason="statistics of many connections")


def times_of(arrivals: dict[str, Any], duration: str, seed: int = 0) -> NDArray[np.int64]:
    """When connections begin: each is one datagram."""
    packets, _ = generate(scenario(source(arrivals=arrivals, hosts=100), duration=duration), seed=seed)
    return packets["time"].astype(np.int64)


def by_connection(packets: NDArray[Any]) -> list[NDArray[Any]]:
    """Packets of each connection, in order: those of one client address and port, from one SYN (or datagram) on."""
    to_client = packets["source"] == (10 << 24) + (1 << 8) + 5
    host = np.where(to_client, packets["destination"], packets["source"]).astype(np.int64)
    port = np.where(to_client, packets["destination_port"], packets["source_port"]).astype(np.int64)
    key = host << 16 | port
    order = np.argsort(key, kind="stable")
    bounds = np.flatnonzero(np.diff(key[order])) + 1
    return np.split(packets[order], bounds)


# --- arrivals -------------------------------------------------------------------------------------------------------


def test_constant_arrivals_are_evenly_spaced_from_the_start_on() -> None:
    times = times_of({"pattern": "constant", "rate": 100, "start": "2s"}, "5s")
    assert times.tolist() == [2 * _SECOND + k * 10_000_000 for k in range(300)]


@compiled_only
@pytest.mark.parametrize("seed", range(3))
def test_poisson_arrivals_have_independent_exponential_gaps(seed: int) -> None:
    rate, seconds = 200.0, 500
    times = times_of({"pattern": "poisson", "rate": rate}, f"{seconds}s", seed)
    expected = rate * seconds
    assert abs(len(times) - expected) < 4 * math.sqrt(expected)
    # Dispersion: the variance of counts is their mean (chi-squared with 499 degrees of freedom, 4 sigma).
    counts = np.bincount(times // _SECOND, minlength=seconds)
    dispersion = counts.var(ddof=1) / counts.mean()
    assert abs(dispersion - 1) < 4 * math.sqrt(2 / (seconds - 1))
    # Kolmogorov and Smirnov: the gaps' distribution, at a significance of 0.1 %.
    gaps = np.sort(np.diff(times)) / _SECOND
    distribution = 1 - np.exp(-rate * gaps)
    place = np.arange(len(gaps)) / len(gaps)
    distance = max(np.abs(distribution - place).max(), np.abs(distribution - place - 1 / len(gaps)).max())
    assert distance < 1.95 / math.sqrt(len(gaps))
    # A gap says nothing of the next one.
    gaps = np.diff(times)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 4 / math.sqrt(len(gaps))


PATTERNS = {
    "ramp": (
        {"pattern": "ramp", "rate": 20, "to_rate": 120, "over": "40s"},
        lambda t: 20 + 100 * min(t / 40, 1.0),
    ),
    "ramp to nothing": (
        {"pattern": "ramp", "rate": 100, "to_rate": 0, "over": "30s"},
        lambda t: max(100 * (1 - t / 30), 0.0),
    ),
    "steps": (
        {"pattern": "steps", "steps": [{"at": "5s", "rate": 50}, {"at": "20s", "rate": 200}, {"at": "30s", "rate": 0}]},
        lambda t: 0 if t < 5 else 50 if t < 20 else 200 if t < 30 else 0,
    ),
    "on_off": (
        {"pattern": "on_off", "rate": 100, "on": "3s", "off": "7s", "off_rate": 10},
        lambda t: 100 if t % 10 < 3 else 10,
    ),
    "daily": (
        {"pattern": "daily", "low": 10, "high": 150, "period": "25s", "highest_at": "5s"},
        lambda t: 80 + 70 * math.cos(2 * math.pi * (t - 5) / 25),
    ),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_so_many_connections_have_begun_as_the_rate_says(name: str) -> None:
    arrivals, rate = PATTERNS[name]
    times = times_of({**arrivals, "spacing": "even"}, "60s")
    grid = np.arange(0, 60, 0.001)
    expected = np.cumsum([rate(t + 0.0005) for t in grid]) * 0.001
    begun = np.searchsorted(times, (grid + 0.001) * _SECOND)
    assert np.abs(begun - expected).max() < 1.5  # one, and the pieces that a day's curve is made of


@compiled_only
def test_a_rate_that_changes_is_a_poisson_process_too() -> None:
    times = times_of({"pattern": "daily", "low": 0, "high": 400, "period": "100s"}, "1000s")
    assert abs(len(times) - 200_000) < 4 * math.sqrt(200_000)
    counts = np.bincount(times // _SECOND, minlength=1000).astype(float)
    middle = np.arange(1000) + 0.5
    mean = 200 - 200 * np.cos(2 * np.pi * middle / 100)
    mean *= np.sinc(1 / 100)  # the second's average of a sine is a little less than its middle
    mean += 200 * (1 - np.sinc(1 / 100))
    chi_squared = ((counts - mean) ** 2 / np.maximum(mean, 1e-9))[mean > 5]
    assert abs(chi_squared.sum() - len(chi_squared)) < 4 * math.sqrt(2 * len(chi_squared))


def test_a_source_starts_and_stops() -> None:
    times = times_of({"pattern": "poisson", "rate": 50, "start": "3s", "stop": "6s"}, "20s")
    assert 3 * _SECOND <= times.min() < 4 * _SECOND
    assert 5 * _SECOND < times.max() < 6 * _SECOND


def test_another_seed_gives_other_arrivals_and_another_source_too() -> None:
    one, two = (times_of({"pattern": "poisson", "rate": 50}, "5s", seed) for seed in (1, 2))
    assert set(one.tolist()).isdisjoint(two.tolist())
    packets, _ = generate(scenario(source("a"), source("b")))
    by_host = [packets["time"][packets["source"] == host] for host in np.unique(packets["source"])]
    assert len(np.unique(np.concatenate(by_host))) == len(packets)


# --- lives ----------------------------------------------------------------------------------------------------------


def lives(life: dict[str, Any], count: int = 20_000) -> NDArray[np.float64]:
    """Seconds from the SYN to the RST, without those that are shorter than a round-trip."""
    plan = scenario(
        source(protocol="tcp", arrivals={"pattern": "constant", "rate": count}, life=life, ends={"rst": 1}, hosts=50,
               round_trip="1us"),
        duration="1h",
    )  # fmt: skip
    stop = plan.traffic[0].model_copy(
        update={"arrivals": plan.traffic[0].arrivals.model_copy(update={"stop": _SECOND})}
    )
    packets, _ = generate(plan.model_copy(update={"traffic": (stop,)}), slice_ns=1000)
    told = [c for c in by_connection(packets) if c[-1]["flags"] & RST]
    assert len(told) > 0.99 * count
    return np.array([(c[-1]["time"] - c[0]["time"]) / _SECOND for c in told])


@compiled_only
def test_exponential_lives_have_their_mean_and_variance() -> None:
    found = lives({"distribution": "exponential", "mean": "40s"})
    assert found.mean() == pytest.approx(40, rel=4 / math.sqrt(len(found)))
    assert found.std() == pytest.approx(40, rel=4 * math.sqrt(2 / len(found)))
    assert np.median(found) == pytest.approx(40 * math.log(2), rel=0.05)


@compiled_only
@pytest.mark.parametrize("given", ["mean", "median"])
def test_log_normal_lives_have_their_logarithms_distribution(given: str) -> None:
    found = np.log(lives({"distribution": "log_normal", given: "20s", "shape": 0.8}))
    mu = math.log(20) - (0.32 if given == "mean" else 0)
    assert found.mean() == pytest.approx(mu, abs=4 * 0.8 / math.sqrt(len(found)))
    assert found.std() == pytest.approx(0.8, rel=4 / math.sqrt(2 * len(found)))


@compiled_only
@pytest.mark.parametrize("given", ["mean", "median"])
def test_pareto_lives_have_their_tail(given: str) -> None:
    found = lives({"distribution": "pareto", given: "6s", "shape": 3})
    least = 6 * 2 / 3 if given == "mean" else 6 / 2 ** (1 / 3)
    assert found.min() == pytest.approx(least, rel=0.001)
    # The maximum-likelihood estimate of the tail's exponent.
    assert len(found) / np.log(found / least).sum() == pytest.approx(3, rel=4 / math.sqrt(len(found)))


def test_a_connection_lives_as_long_as_fixed_from_its_syn_to_its_end() -> None:
    packets, _ = generate(scenario(source(protocol="tcp", life={"value": "3s"}, ends={"rst": 1})))
    whole = [c for c in by_connection(packets) if c[-1]["flags"] & RST]
    assert whole
    assert {int(c[-1]["time"] - c[0]["time"]) for c in whole} == {3 * _SECOND}


# --- what is sent ---------------------------------------------------------------------------------------------------


def test_a_tcp_connection_shakes_hands_asks_is_answered_and_closes() -> None:
    plan = scenario(
        source(
            protocol="tcp",
            arrivals={"pattern": "constant", "rate": 1, "stop": "1s"},
            life={"value": "2s"},
            request={"bytes": 2000},
            response={"bytes": 100, "packets": 1},
        )
    )
    packets, _ = generate(plan)
    told = [(int(p["time"]) // 1_000_000, p["destination_port"] == 443, int(p["flags"])) for p in packets]
    assert told == [
        (0, True, SYN),
        (10, False, SYN | ACK),
        (10, True, ACK),
        (10, True, ACK),
        (10, True, ACK),
        (20, False, ACK),
        (2000, True, FIN | ACK),
        (2010, False, FIN | ACK),
        (2010, True, ACK),
    ]
    assert (packets["original"] - 54).tolist() == [0, 0, 0, 1000, 1000, 100, 0, 0, 0]
    # Every segment acknowledges all that came before it.
    following = {True: None, False: None}
    for raw, to_server in zip(packets, (packets["destination_port"] == 443).tolist(), strict=True):
        segment = Ether(raw["bytes"][:54].tobytes())[TCP]
        if following[to_server] is not None:
            assert segment.seq == following[to_server]
        if following[not to_server] is not None:
            assert segment.ack == following[not to_server]
        payload = int(raw["original"]) - 54
        following[to_server] = (segment.seq + payload + (segment.flags.S or segment.flags.F)) % 2**32


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_checksums_are_those_that_scapy_computes(protocol: str) -> None:
    plan = scenario(
        source(protocol=protocol, request={"bytes": 333, "packets": 2}, response={"bytes": 1401}, life={"value": "1s"}),
        duration="3s",
    )
    packets, _ = generate(plan)
    for row in packets[:: max(1, len(packets) // 300)]:
        frame = row["bytes"][: row["captured"]].tobytes() + bytes(int(row["original"] - row["captured"]))
        packet = Ether(frame)
        again = packet.copy()
        assert packet[IP].len == len(frame) - 14
        del again[IP].chksum, again[IP].len
        if protocol == "tcp":
            del again[TCP].chksum
        else:
            del again[UDP].chksum, again[UDP].len
        assert bytes(again) == frame


def test_keep_alives_come_after_idle_time_within_the_life_and_are_answered() -> None:
    plan = scenario(
        source(
            arrivals={"pattern": "constant", "rate": 1, "stop": "1s"}, life={"value": "7s"}, keep_alive="2s",
            request={"bytes": 10}, response={"bytes": 20},
        )
    )  # fmt: skip
    packets, _ = generate(plan)
    told = [(int(p["time"]) // 1_000_000, p["destination_port"] == 53, int(p["original"]) - 42) for p in packets]
    assert told == [
        (0, True, 10), (10, False, 20), (2010, True, 0), (2020, False, 0), (4020, True, 0), (4030, False, 0),
        (6030, True, 0), (6040, False, 0), (7000, True, 0),
    ]  # fmt: skip


def test_connections_end_in_the_shares_that_are_asked_for() -> None:
    plan = scenario(
        source(
            protocol="tcp", arrivals={"pattern": "constant", "rate": 200, "stop": "5s"}, life={"value": "1s"},
            ends={"fin": 5, "rst": 3, "never": 2},
        )
    )  # fmt: skip
    packets, counts = generate(plan)
    last = np.array([int(c["flags"][-1] | c["flags"][-2]) for c in by_connection(packets)])
    shares = [np.mean(last & flag != 0) for flag in (FIN, RST)]
    assert shares == pytest.approx([0.5, 0.3], abs=4 * 0.5 / math.sqrt(1000))
    assert counts[0]["completed"] == counts[0]["started"] == 1000


# --- what was refused -----------------------------------------------------------------------------------------------


def test_a_refused_syn_is_all_that_a_connection_sends() -> None:
    plan = scenario(source(protocol="tcp", life={"value": "1s"}))
    packets, counts = generate(plan, drops=lambda seen: seen["flags"] == SYN)
    assert set(packets["flags"].tolist()) == {SYN}
    assert counts[0]["failed"] == counts[0]["refused"] == counts[0]["started"] == len(packets)


def test_a_refused_syn_is_sent_again_after_1_3_and_7_seconds() -> None:
    arrivals = {"pattern": "constant", "rate": 1, "stop": "1s"}
    plan = scenario(source(protocol="tcp", arrivals=arrivals, retries=3), duration="30s")
    packets, counts = generate(plan, drops=lambda seen: seen["flags"] == SYN)
    assert (packets["time"] // _SECOND).tolist() == [0, 1, 3, 7]
    assert len({p["bytes"].tobytes() for p in packets}) == 1  # the same SYN
    assert (counts[0]["retried"], counts[0]["refused"], counts[0]["failed"]) == (3, 4, 1)


def test_a_connection_whose_third_syn_gets_through_lives_from_then_on() -> None:
    arrivals = {"pattern": "constant", "rate": 1, "stop": "1s"}
    plan = scenario(
        source(protocol="tcp", arrivals=arrivals, retries=6, life={"value": "5s"}, ends={"rst": 1}), duration="30s"
    )
    packets, counts = generate(plan, drops=lambda seen: (seen["flags"] == SYN) & (seen["time"] < 2 * _SECOND))
    assert (packets["time"] // 1_000_000).tolist() == [0, 1000, 3000, 3010, 3010, 8000]
    assert counts[0]["opened"] == counts[0]["completed"] == 1


def test_without_answers_a_connection_is_a_syn() -> None:
    packets, counts = generate(scenario(source(protocol="tcp", answer=False, life={"value": "5s"})))
    assert set(packets["flags"].tolist()) == {SYN}
    assert counts[0]["opened"] == len(packets)


def test_a_connection_that_loses_its_session_is_broken_off() -> None:
    plan = scenario(source(protocol="tcp", life={"value": "4s"}, keep_alive="1s"))
    packets, counts = generate(plan, drops=lambda seen: (seen["flags"] == ACK) & (seen["time"] > 5 * _SECOND))
    row = counts[0]
    assert row["broken"] > 0
    assert row["started"] >= row["completed"] + row["broken"]
    for connection in by_connection(packets):
        lost = np.flatnonzero((connection["flags"] == ACK) & (connection["time"] > 5 * _SECOND))
        alone = lost[connection["flags"][lost - 1] != SYN | ACK]
        if len(alone):  # nothing follows a keep-alive that was dropped
            assert alone[0] == len(connection) - 1


# --- clients --------------------------------------------------------------------------------------------------------


def test_no_two_live_connections_have_one_client_address_and_port() -> None:
    plan = scenario(
        source(
            protocol="tcp", hosts=1, arrivals={"pattern": "constant", "rate": 4000}, ends={"rst": 1},
            life={"distribution": "exponential", "mean": "5s"},
        ),
        duration="12s",
    )  # fmt: skip
    if not COMPILED:
        pytest.skip("many packets")
    packets, counts = generate(plan)
    assert counts[0]["busy"] <= EPHEMERAL_PORTS
    assert counts[0]["number"] > EPHEMERAL_PORTS  # ports were used again
    for connection in by_connection(packets):
        begins = np.flatnonzero(connection["flags"] == SYN)
        for begin in begins[1:]:
            assert connection[begin - 1]["flags"] & RST


def test_connections_for_which_clients_have_no_port_are_counted() -> None:
    if not COMPILED:
        pytest.skip("many packets")
    plan = scenario(
        source(hosts=1, arrivals={"pattern": "constant", "rate": 10_000}, life={"value": "100s"}), duration="4s"
    )
    packets, counts = generate(plan)
    assert len(packets) == EPHEMERAL_PORTS
    assert counts[0]["started"] == 40_000
    assert counts[0]["no_client_port"] == 40_000 - EPHEMERAL_PORTS


def test_sources_share_no_client_and_take_no_address_of_the_service() -> None:
    plan = scenario(source("a", hosts=40), source("b", hosts=40), source("c", hosts=300, hosts_from="10.0.0.0/22"))
    packets, _ = generate(plan)
    assert len(np.unique(packets["source"])) == 380
    assert (10 << 24) + (1 << 8) + 5 not in packets["source"]


def test_clients_may_be_in_a_peered_network() -> None:
    packets, _ = generate(scenario(source(network="hub")))
    assert set(packets["point"].tolist()) == {1}
    assert {int(a) >> 16 for a in packets["source"]} == {(10 << 8) + 9}


# --- order ----------------------------------------------------------------------------------------------------------

MIXED = (
    source("web", "tcp", life={"distribution": "exponential", "mean": "300ms"}, request={"bytes": 500},
           response={"bytes": 3000}, ends={"fin": 1, "rst": 1, "never": 1}, retries=2, hosts=1),
    source("names", response={"bytes": 100},
           arrivals={"pattern": "on_off", "rate": 300, "on": "300ms", "off": "500ms"}),
    source("ticks", "tcp", arrivals={"pattern": "constant", "rate": 100}, life={"value": "1s"}, keep_alive="200ms"),
)  # fmt: skip


@pytest.mark.parametrize("slice_ns", [5_000_000, 1_000_000, 31_250])
def test_the_slice_never_shows(slice_ns: int) -> None:
    def drops(seen: NDArray[Any]) -> NDArray[np.bool_]:
        return (seen["time"] // 7_000_000) % 3 == 0

    plan = scenario(*MIXED, duration="2500ms" if COMPILED else "400ms")
    packets, counts = generate(plan, drops=drops)
    again, counted = generate(plan, slice_ns=slice_ns, drops=drops)
    assert packets.tobytes() == again.tobytes()
    assert counts.tobytes() == counted.tobytes()
    assert counts["broken"].sum() > 0


def test_packets_are_in_order_of_time() -> None:
    packets, _ = generate(scenario(*MIXED, duration="1s"))
    assert (np.diff(packets["time"]) >= 0).all()
    assert packets["time"][-1] < _SECOND


def test_every_connection_is_accounted_for() -> None:
    plan = scenario(*MIXED, duration="2s")
    _, counts = generate(plan, drops=lambda seen: seen["time"] % 5 == 0)
    for row in counts:
        over = row["completed"] + row["failed"] + row["broken"] + row["no_client_port"]
        assert 0 <= row["started"] - over <= row["busy"]
        assert row["started"] == row["number"]


# --- arrivals of a capture --------------------------------------------------------------------------------------------


def captured(path: Path, protocol: str = "tcp", **settings: Any) -> dict[str, Any]:
    return source(protocol=protocol, arrivals={"pattern": "capture", "file": str(path), **settings}, ends={"rst": 1})


@pytest.fixture
def syns(tmp_path: Path) -> Path:
    """Three connections, at 0, 1.5 and 4 s; a datagram at 2 s; the last packet after 5 s."""
    frames, times = [], [0, 1_500, 2_000, 4_000, 5_000]
    for number, kind in enumerate("SSUSA"):
        last = number - (kind == "A")
        transport = UDP(sport=999, dport=53) if kind == "U" else TCP(sport=2000 + last, dport=80, flags=kind)
        frames.append(bytes(Ether() / IP(src="172.16.0.9", dst="172.16.5.5") / transport))
    with PcapWriter(tmp_path / "three.pcap") as file:
        file.write_batch(PacketBatch.from_bytes(frames, [time * 1_000_000 for time in times]))
    return tmp_path / "three.pcap"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0, 1500, 4000]),
        ({"copies": 2}, [0, 0, 1500, 1500, 4000, 4000]),
        ({"speed": 2}, [0, 750, 2000]),
        ({"start": "1s", "stop": "4s"}, [1000, 2500]),
        ({"repeat": True}, [0, 1500, 4000, 5000, 6500, 9000]),
        ({"repeat": True, "speed": 2, "stop": "6s"}, [0, 750, 2000, 2500, 3250, 4500, 5000, 5750]),
    ],
)
def test_connections_begin_as_in_a_capture(syns: Path, settings: dict[str, Any], expected: list[int]) -> None:
    packets, _ = generate(scenario(captured(syns, **settings)))
    begun = packets["time"][packets["flags"] == SYN]
    assert (begun // 1_000_000).tolist() == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0, 1500, 1500, 4000]),
        ({"copies": 1.5}, [0, 1500, 1500, 1500, 4000, 4000]),
        ({"copies": 0.5}, [1500, 4000]),
        ({"copies": 0}, []),
        ({"period": "5s", "start": "1s"}, [1000, 2500, 2500, 5000, 6000, 7500, 7500]),
        ({"period": "5s", "speed": 2}, [0, 750, 750, 2000, 2500, 3250, 3250, 4500, 5000, 5750, 5750, 7000, 7500]),
    ],
)
def test_connections_begin_at_the_moments_that_are_told(settings: dict[str, Any], expected: list[int]) -> None:
    arrivals = {"pattern": "moments", "moments": ["0s", "1.5s", "1500ms", "4s"], **settings}
    packets, _ = generate(scenario(source(arrivals=arrivals), duration="8s"))
    assert (packets["time"] // 1_000_000).tolist() == expected


def test_lives_of_a_sample_are_as_likely_as_each_other() -> None:
    count = 3000
    every = {"pattern": "constant", "rate": 100, "stop": f"{count // 100}s"}
    life = {"distribution": "sample", "values": ["1s", "3s", "7s"]}
    one = source(protocol="tcp", arrivals=every, life=life, ends={"rst": 1}, round_trip="1s")
    packets, _ = generate(scenario(one, duration="2m"))
    told = [c[-1]["time"] - c[0]["time"] for c in by_connection(packets)]
    times, counts = np.unique(told, return_counts=True)
    assert (times // _SECOND).tolist() == [2, 3, 7], "a handshake and an RST take two round-trips"
    assert counts == pytest.approx([count / 3] * 3, abs=4 * math.sqrt(count * 2 / 9))


def test_only_connections_of_the_sources_protocol_count(syns: Path) -> None:
    packets, _ = generate(scenario(captured(syns, "udp")))
    assert (packets["time"] // 1_000_000).tolist() == [2000]


def test_a_capture_in_which_nobody_connects_is_refused(tmp_path: Path) -> None:
    with PcapWriter(tmp_path / "empty.pcap") as file:
        file.write_batch(PacketBatch.from_bytes([]))
    with pytest.raises(RunError, match="no tcp connection begins in it"):
        generate(scenario(captured(tmp_path / "empty.pcap")))
