"""RFC 6056, port randomisation: range, algorithms 1 to 4, and what bounded probing costs; on the engine.

Algorithm 5 is not offered. What the RFC calls an instance of an ephemeral port is a pool here: a NAT IP, a
protocol and a backend.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, pairwise
from typing import Any

import pytest

from dataplane import Outcome, Simulator, Verdict
from tests.property.networks import CLIENT, ENDPOINT, NAT_IPS, network
from tests.reference import GOLDEN, key64, mix, pick
from tests.rfc.consumer import BACKEND, SECOND, nat_of
from tests.strategies import icmp_echo, ipv4_packet, link_frame, tcp_packet, udp_packet

WHOLE = 64_512
EXACT = ("random", "sequential", "preserve", "hash", "hash_buckets")
RULES = (("tcp", 443, 8443), ("udp", 53, 5353), ("udp", 54, 5354))
UDP_LIFE = 300 * SECOND


def simulator_of(allocation: str, *, seed: int = 5, tenants: int = 1, **nat: Any) -> Simulator:
    nat = {"profile": "rfc", "port_allocation": allocation, "probes": None, **nat}
    return Simulator(network(tenants=tenants, rules=RULES, nat=nat), seed)


def ports(count: int, first: int = 2000) -> str:
    return f"{first}-{first + count - 1}"


def sent(simulator: Simulator, packet: bytes, tenant: int = 0, time_ns: int | None = None) -> Outcome:
    return simulator.send(link_frame(packet), at=f"tenant{tenant}", time_ns=time_ns)


def asked(
    simulator: Simulator,
    number: int,
    source: object = CLIENT,
    *,
    service: int = 53,
    tenant: int = 0,
    time_ns: int | None = None,
) -> Outcome:
    """A datagram from the consumer's source port 10000 + number: a new session if there was none."""
    return sent(simulator, udp_packet(source, 10_000 + number, ENDPOINT, service), tenant, time_ns)


def port_of(outcome: Outcome) -> int:
    return nat_of(outcome)[1]


def host(number: int) -> str:
    return f"10.0.{1 + number // 250}.{1 + number % 250}"


def pool(simulator: Simulator) -> dict[str, Any]:
    pools = simulator.summary()["private_link_services"][0]["nat_ips"][0]["pools"]
    [found] = [pool for pool in pools if pool["protocol"] == "udp"]
    return dict(found)


# --- Section 3.2: the range ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["azure-pls", "azure-natgw", "gcp-psc", "rfc", "linux", "vpp"])
def test_section_3_2_the_range_is_1024_to_65535(profile: str) -> None:
    simulator = Simulator(network(nat={"profile": profile}), seed=5)
    assert pool(simulator)["capacity"] == WHOLE
    found = [port_of(asked(simulator, number, time_ns=0)) for number in range(100)]
    assert len(set(found)) == 100
    assert 1024 <= min(found) <= max(found) <= 65_535


@pytest.mark.parametrize("allocation", EXACT)
@pytest.mark.parametrize(("first", "last"), [(1024, 1027), (65_532, 65_535), (1, 4)])
def test_section_3_2_both_ends_of_a_range_are_used_and_nothing_beyond(allocation: str, first: int, last: int) -> None:
    simulator = simulator_of(allocation, nat_ports=f"{first}-{last}")
    found = [port_of(asked(simulator, number, time_ns=0)) for number in range(4)]
    assert sorted(found) == list(range(first, last + 1))
    assert asked(simulator, 4).verdict == Verdict.NAT_PORTS_EXHAUSTED


def test_section_3_2_a_well_known_source_port_is_not_kept() -> None:
    simulator = simulator_of("preserve")
    for port in (53, 123, 1023):
        assert port_of(sent(simulator, udp_packet(CLIENT, port, ENDPOINT, 53), time_ns=0)) >= 1024
    for port in (1024, 65_535):
        assert port_of(sent(simulator, udp_packet(CLIENT, port, ENDPOINT, 53))) == port


@pytest.mark.parametrize("allocation", EXACT)
def test_section_3_1_a_port_in_use_is_not_given_twice_but_each_protocol_has_its_own(allocation: str) -> None:
    simulator = simulator_of(allocation, nat_ports=ports(8))
    found: dict[str, list[int]] = {"tcp": [], "udp": [], "icmp": []}
    for number in range(8):
        for protocol, packet in (
            ("tcp", tcp_packet(host(number), 50_000, ENDPOINT, 443)),
            ("udp", udp_packet(host(number), 50_000, ENDPOINT, 53)),
            ("icmp", ipv4_packet(host(number), ENDPOINT, 1, icmp_echo(8, 50_000))),
        ):
            found[protocol].append(port_of(sent(simulator, packet, time_ns=0)))
    assert all(sorted(numbers) == list(range(2000, 2008)) for numbers in found.values())


# --- Section 3.3.2, algorithm 2: random, another port at each try ----------------------------------------------------


def test_algorithm_2_looks_at_another_port_at_each_try() -> None:
    """A search that failed is not repeated by the next one, so sooner or later the last free port is found."""
    simulator = simulator_of("random", nat_ports=ports(16), probes=1)
    verdicts: list[Verdict] = []
    while pool(simulator)["free"]:
        verdicts.append(asked(simulator, len(verdicts), time_ns=0).verdict)
        assert len(verdicts) < 1000
    assert set(verdicts) == {Verdict.FORWARDED, Verdict.NAT_PORT_NOT_FOUND}
    assert verdicts.count(Verdict.FORWARDED) == 16
    assert pool(simulator)["allocation_failures"] == verdicts.count(Verdict.NAT_PORT_NOT_FOUND)


def first_failure(probes: int | Sequence[int] | None, seed: int, size: int = 48) -> int:
    """How many sessions there are when the first is refused."""
    simulator = simulator_of("random", seed=seed, nat_ports=ports(size), probes=probes)
    count = 0
    while asked(simulator, count, time_ns=0).verdict == Verdict.FORWARDED:
        count += 1
    return count


def test_algorithm_2_with_more_tries_fails_later_and_without_a_bound_never() -> None:
    filled = {probes: sum(first_failure(probes, seed) for seed in range(6)) / 6 for probes in (1, 5, 20)}
    assert filled[1] < filled[5] < filled[20] <= 48
    assert filled[1] < 20, "about the square root of the range: the birthday of 48 days"
    assert first_failure(None, 0) == first_failure([48], 0) == 48


def walked(runs: Sequence[int], starts: Iterator[int]) -> Iterator[int]:
    """The ports that a search looks at, of 16: in each run from a new start on."""
    for run in runs:
        start = next(starts)
        yield from (2000 + (start + step) % 16 for step in range(run))


@pytest.mark.parametrize("probes", [[16], [4, 2, 1], [1, 1, 1]], ids=["algorithm 1", "linux", "algorithm 2"])
def test_algorithms_1_and_2_walk_from_where_random_numbers_say(probes: list[int]) -> None:
    """Algorithm 1 is one run over the whole range from a random start, algorithm 2 runs of one port."""
    simulator = simulator_of("random", nat_ports=ports(16), probes=probes)
    key = key64(simulator.seed, "pool", "service", NAT_IPS[0], "udp", BACKEND)
    starts = (pick(mix((key + draw * GOLDEN) % 2**64), 16) for draw in count(1))
    free, asked_for = set(range(2000, 2016)), 0
    while free:
        expected = next((port for port in walked(probes, starts) if port in free), None)
        outcome = asked(simulator, asked_for, time_ns=0)
        asked_for += 1
        assert outcome.nat == (None if expected is None else (NAT_IPS[0], expected))
        free -= {expected}
    assert (asked_for == 16) == (probes == [16])


def test_algorithm_2_takes_ports_from_all_over_the_range() -> None:
    for probes in (None, 10):
        simulator = simulator_of("random", probes=probes)
        found = [port_of(asked(simulator, number, time_ns=0)) for number in range(200)]
        for low in range(1024, 65_536, WHOLE // 4):
            assert 25 <= sum(low <= port < low + WHOLE // 4 for port in found) <= 75


# --- Section 3.3.3, algorithm 3: a hash and one counter --------------------------------------------------------------


def offsets(simulator: Simulator, numbers: Sequence[int], source: object = CLIENT, **where: Any) -> list[int]:
    return [port_of(asked(simulator, number, source, **where)) - 1024 for number in numbers]


@pytest.mark.parametrize("allocation", ["hash", "hash_buckets"])
def test_algorithms_3_and_4_give_consecutive_ports_to_one_source_and_destination(allocation: str) -> None:
    for seed in range(3):
        simulator = simulator_of(allocation, seed=seed)
        found = offsets(simulator, range(20), time_ns=0)
        assert found == [(found[0] + step) % WHOLE for step in range(20)]


@pytest.mark.parametrize("allocation", ["hash", "hash_buckets"])
def test_algorithms_3_and_4_wrap_at_the_end_of_the_range(allocation: str) -> None:
    simulator = simulator_of(allocation, nat_ports=ports(8))
    found = [port_of(asked(simulator, number, time_ns=0)) for number in range(8)]
    assert found == [2000 + (found[0] - 2000 + step) % 8 for step in range(8)]


@pytest.mark.parametrize("allocation", ["hash", "hash_buckets"])
def test_algorithms_3_and_4_begin_elsewhere_for_another_consumer_service_endpoint_or_secret(allocation: str) -> None:
    def first(source: object = CLIENT, *, seed: int = 5, **where: Any) -> int:
        return port_of(asked(simulator_of(allocation, seed=seed, tenants=2), 0, source, time_ns=0, **where))

    assert first() == first(), "the same, if nothing differs"
    starts = [first(host(number)) for number in range(20)]
    starts += [first(), first(service=54), first(tenant=1), first(seed=6)]
    assert len(set(starts)) == len(starts)
    near = [abs(one - other) < 50 for one, other in pairwise(starts)]
    assert sum(near) <= 1, "neighbours' ports are no neighbours"


def test_algorithm_3_has_one_counter_for_all() -> None:
    """Every session of anyone moves it, which is what the RFC says algorithm 4 improves."""
    simulator = simulator_of("hash")
    [start] = offsets(simulator, [0], time_ns=0)
    for number in range(1, 6):
        asked(simulator, 0, host(number))
        assert offsets(simulator, [number]) == [(start + 2 * number) % WHOLE]


def colliding(**nat: Any) -> tuple[Simulator, int, str]:
    """A simulator in which the client has one port, that port, and a host whose next port would be the same."""
    nat = {"nat_ports": ports(16), **nat}
    first = {
        host(number): port_of(asked(simulator_of("hash", **nat), 0, host(number), time_ns=0)) for number in range(90)
    }
    simulator = simulator_of("hash", **nat)
    taken = port_of(asked(simulator, 0, time_ns=0))
    return simulator, taken, next(name for name, port in first.items() if 2000 + (port - 2000 + 1) % 16 == taken)


def test_algorithm_3_steps_over_a_port_in_use_and_counts_the_step() -> None:
    simulator, taken, other = colliding()
    assert port_of(asked(simulator, 0, other)) == 2000 + (taken - 2000 + 1) % 16
    assert port_of(asked(simulator, 1)) == 2000 + (taken - 2000 + 3) % 16  # the counter is 3: one, and two steps


# --- Section 3.3.4, algorithm 4: a counter per bucket ----------------------------------------------------------------


def step_after_others(allocation: str, others: int) -> int:
    """How far the client's second port is from its first when so many hosts had a session in between."""
    simulator = simulator_of(allocation)
    [start] = offsets(simulator, [0], time_ns=0)
    for number in range(others):
        asked(simulator, 0, host(number))
    return (offsets(simulator, [1])[0] - start) % WHOLE


def test_algorithm_4_moves_only_with_the_sessions_of_its_own_bucket() -> None:
    """Of 64 buckets, one host in 64 shares the client's: some of 200 do, most do not."""
    assert 201 <= step_after_others("hash", 200) <= 205
    assert 1 < step_after_others("hash_buckets", 200) <= 12
    assert step_after_others("hash_buckets", 0) == 1


# --- Exact and bounded searches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("allocation", EXACT)
def test_an_exact_allocator_never_fails_while_a_port_is_free(allocation: str) -> None:
    """Filled by many, emptied in part, filled again."""
    simulator = simulator_of(allocation, nat_ports=ports(24), tenants=2)
    opened = [asked(simulator, number, host(number % 5), tenant=number % 2, time_ns=0) for number in range(24)]
    assert sorted(map(port_of, opened)) == list(range(2000, 2024))
    assert asked(simulator, 99).verdict == Verdict.NAT_PORTS_EXHAUSTED
    for number in range(24):
        if number % 3:  # every third session ends first
            asked(simulator, number, host(number % 5), tenant=number % 2, time_ns=1)
    again = [asked(simulator, 100 + number, host(number), time_ns=UDP_LIFE) for number in range(8)]
    assert sorted(map(port_of, again)) == sorted(map(port_of, opened[::3]))
    assert (pool(simulator)["free"], pool(simulator)["in_use"]) == (0, 24)
    assert asked(simulator, 999).verdict == Verdict.NAT_PORTS_EXHAUSTED
    assert pool(simulator)["allocation_failures"] == 2


BOUNDED = [("random", 1), ("random", [2, 1]), ("preserve", 2), ("hash", 1), ("hash", [2, 1]), ("hash_buckets", 2)]


@pytest.mark.parametrize(("allocation", "probes"), BOUNDED)
def test_a_bounded_search_fails_earlier_and_says_so(allocation: str, probes: int | list[int]) -> None:
    """A port that was not found is told apart from a pool that has none, in the verdict and in the figures."""
    simulator = simulator_of(allocation, nat_ports=ports(16), probes=probes)
    refused = 0
    for number in range(1000):
        before = pool(simulator)
        outcome = asked(simulator, number, host(number), time_ns=0)
        if before["free"] == 0:
            assert outcome.verdict == Verdict.NAT_PORTS_EXHAUSTED
            break
        if outcome.verdict != Verdict.FORWARDED:
            assert outcome.verdict == Verdict.NAT_PORT_NOT_FOUND
            assert (outcome.session, outcome.nat, outcome.delivered) == (None, None, [])
            refused += 1
            assert pool(simulator) == {**before, "allocation_failures": refused}
    else:
        pytest.fail("the last port was never found")
    summary = simulator.summary()
    assert refused > 0
    assert summary["sessions"]["active"] == 16
    assert summary["first_exhaustion"]["reason"] == "nat_port_not_found"
    reasons = summary["dropped"]["reasons"]
    assert {reason: figures["packets"] for reason, figures in reasons.items()} == {
        "nat_port_not_found": refused,
        "nat_ports_exhausted": 1,
    }


def test_a_bounded_search_of_algorithm_3_goes_on_where_the_last_one_failed() -> None:
    simulator, taken, other = colliding(probes=1)
    assert asked(simulator, 0, other).verdict == Verdict.NAT_PORT_NOT_FOUND
    assert port_of(asked(simulator, 0, other)) == 2000 + (taken - 2000 + 1) % 16


def test_a_preserved_port_is_no_probe() -> None:
    """The own port is looked at first, whatever the bound; only if it is taken are others tried."""
    simulator = simulator_of("preserve", nat_ports=ports(16, 10_000), probes=1)
    assert [port_of(asked(simulator, number, time_ns=0)) for number in range(15)] == list(range(10_000, 10_015))
    assert asked(simulator, 0, host(1)).verdict == Verdict.NAT_PORT_NOT_FOUND, "its own is taken; one in 16 is free"
    assert port_of(asked(simulator, 15)) == 10_015


@pytest.mark.parametrize(("allocation", "probes"), [*((name, None) for name in EXACT), *BOUNDED])
def test_in_a_full_pool_nothing_is_looked_at(allocation: str, probes: int | list[int] | None) -> None:
    """Who was refused then has no influence on who gets which port later."""
    seen = []
    for refusals in (0, 5):
        simulator = simulator_of(allocation, nat_ports=ports(8), probes=probes)
        number = 0
        while pool(simulator)["free"]:
            asked(simulator, number, time_ns=0)
            number += 1
        for more in range(refusals):
            assert asked(simulator, 5000 + more, time_ns=0).verdict == Verdict.NAT_PORTS_EXHAUSTED
        seen.append([asked(simulator, 6000 + more, time_ns=UDP_LIFE).nat for more in range(8)])
    assert seen[0] == seen[1]
