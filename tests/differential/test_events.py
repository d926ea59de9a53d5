"""Events, told as stories: the reference and the engine agree on each, and what happens is what the story says."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.all import IP, UDP, Ether, Raw, fragment

from dataplane.packets.batch import PacketBatch
from dataplane.simulator import Simulator
from dataplane.topology.model import Topology
from dataplane.verdict import Verdict
from tests.lockstep import Sent, Story, arrive, assert_equal_runs
from tests.property.networks import BACKENDS, CLIENT, ENDPOINT, NAT_IPS, network
from tests.reference import ReferenceSimulator
from tests.strategies import tcp_packet, udp_packet

SECOND = 10**9


def tcp(time_s: float, port: int, flags: str = "S") -> Sent:
    """A segment from the client to the endpoint."""
    frame = tcp_packet(CLIENT, port, ENDPOINT, 443, flags)
    return Sent(frame, "tenant0", round(time_s * SECOND), link_type=101)


def udp(time_s: float, port: int) -> Sent:
    """A datagram from the client to the endpoint."""
    return Sent(udp_packet(CLIENT, port, ENDPOINT, 53), "tenant0", round(time_s * SECOND), link_type=101)


def told(
    story: Story, events: list[dict[str, Any]], workers: int = 1, **options: Any
) -> tuple[list[Any], ReferenceSimulator]:
    """What became of each packet of a story, and the reference after it; the engine agrees with it."""
    document = network(**options).model_dump(mode="json")
    document["events"] = events
    topology = Topology.model_validate(document)
    reference = ReferenceSimulator(topology, 0)
    received = []
    for step in story:
        if isinstance(step, Sent):
            received += arrive(reference, step)
        else:
            reference.advance(step)
    assert_equal_runs(topology, 0, story, reference, received, workers=workers)
    return [outcome for _, outcome in received], reference


@pytest.mark.parametrize("action", ["reject", "disconnect"])
@pytest.mark.parametrize("hold", ["0s", "10s"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_cut_connection_ends_its_sessions_and_opens_no_more(action: str, hold: str, workers: int) -> None:
    story = [*(tcp(0, port) for port in range(5000, 5005)), tcp(2, 5001, "A"), tcp(2, 5009), 60 * SECOND]
    events = [{"at": "1s", action: "endpoint0"}]
    outcomes, reference = told(story, events, workers, nat={"port_hold": hold}, backends=BACKENDS)
    assert [str(outcome.verdict) for outcome in outcomes] == ["forwarded"] * 5 + ["connection_not_approved"] * 2
    ended = reference.ended_sessions
    assert [(one.id, one.ended, one.ended_ns) for one in ended] == [(n, "disconnected", SECOND) for n in range(1, 6)]


def test_an_approved_connection_opens_sessions_again() -> None:
    events = [{"at": "1s", "reject": "endpoint0"}, {"at": "2s", "approve": "endpoint0"}]
    outcomes, _ = told([tcp(0, 5000), tcp(1, 5000), tcp(2, 5000)], events)
    verdicts = [str(outcome.verdict) for outcome in outcomes]
    assert verdicts == ["forwarded", "connection_not_approved", "forwarded"], "an event precedes a packet of its time"


def test_tcp_stays_with_a_backend_that_goes_down_and_udp_moves() -> None:
    ports = range(5000, 5040)
    story: list[Sent | int] = [packet for port in ports for packet in (tcp(0, port), udp(0, port))]
    story += [packet for port in ports for packet in (tcp(2, port, "A"), udp(2, port), tcp(2, port + 1000))]
    down = BACKENDS[0]
    outcomes, reference = told(
        story, [{"at": "1s", "backend_down": "service", "address": down}], backends=BACKENDS, workers=2
    )
    before = [(outcomes[2 * n], outcomes[2 * n + 1]) for n in range(len(ports))]
    after = [outcomes[2 * len(ports) + 3 * n :][:3] for n in range(len(ports))]
    assert all(outcome.verdict.name == "FORWARDED" for outcome in outcomes)
    moved = 0
    backends = {one.id: str(one.backend[0]) for one in [*reference.ended_sessions, *reference.sessions]}
    for (tcp_before, udp_before), (tcp_after, udp_after, tcp_new) in zip(before, after, strict=True):
        assert tcp_after.session == tcp_before.session
        assert (udp_after.session == udp_before.session) == (backends[udp_before.session] != down)
        assert down not in (backends[udp_after.session], backends[tcp_new.session])
        moved += udp_after.session != udp_before.session
    assert 0 < moved == reference.summary()["sessions"]["ended"]["moved"] < len(ports)


def test_with_no_healthy_backend_no_session_opens_until_one_is_up() -> None:
    events = [
        *({"at": "1s", "backend_down": "service", "address": backend} for backend in BACKENDS),
        {"at": "3s", "backend_up": "service", "address": BACKENDS[1]},
    ]
    outcomes, _ = told([tcp(0, 5000), tcp(2, 5001), tcp(3, 5001)], events, backends=BACKENDS)
    assert [str(outcome.verdict) for outcome in outcomes] == ["forwarded", "no_healthy_backend", "forwarded"]


def test_the_only_backend_can_go_down_and_come_up() -> None:
    changes = (("1s", "backend_down"), ("2s", "backend_up"))
    events = [{"at": at, change: "service", "address": BACKENDS[0]} for at, change in changes]
    outcomes, _ = told([udp(0, 5000), udp(1, 5000), udp(2, 5000)], events, backends=BACKENDS[:1])
    assert [str(outcome.verdict) for outcome in outcomes] == ["forwarded", "no_healthy_backend", "forwarded"]


@pytest.mark.parametrize("selection", ["hash", "round_robin", "fill_first", "paired"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_nat_ip_that_is_added_gives_ports_when_the_others_are_full(selection: str, workers: int) -> None:
    nat = {"nat_ports": "2000-2009", "nat_ip_selection": selection}
    story = [tcp(n // 10, 5000 + n) for n in range(30)]
    events = [{"at": "2s", "add_nat_ip": "service", "address": "10.1.0.99"}]
    outcomes, reference = told(story, events, workers, nat=nat, nat_ips=NAT_IPS[:1], backends=BACKENDS[:1])
    verdicts = [str(outcome.verdict) for outcome in outcomes]
    assert verdicts == ["forwarded"] * 10 + ["nat_ports_exhausted"] * 10 + ["forwarded"] * 10
    nat_ips = reference.summary()["private_link_services"][0]["nat_ips"]
    assert [(one["ip"], one["active"], one["in_use"]) for one in nat_ips] == [
        (NAT_IPS[0], True, 10),
        ("10.1.0.99", True, 10),
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_nat_ip_that_is_removed_takes_its_sessions_along(workers: int) -> None:
    first, second = NAT_IPS[:2]
    story = [tcp(0, port) for port in range(5000, 5040)] + [tcp(2, port, "A") for port in range(5000, 5040)]
    events = [
        {"at": "1s", "remove_nat_ip": "service", "address": first},
        {"at": "3s", "add_nat_ip": "service", "address": first},
    ]
    story += [tcp(2.5, port) for port in range(6000, 6020)] + [tcp(3, port) for port in range(7000, 7040)]
    outcomes, reference = told(story, events, workers, nat_ips=[first, second], backends=BACKENDS)
    on_first = [outcome.nat[0] == first for outcome in outcomes[:40]]
    assert 0 < sum(on_first) < 40
    verdicts = ["not_first_packet" if gone else "forwarded" for gone in on_first]
    assert [str(outcome.verdict) for outcome in outcomes[40:80]] == verdicts
    assert {outcome.nat[0] for outcome in outcomes[80:100]} == {second}
    assert {outcome.nat[0] for outcome in outcomes[100:]} == {first, second}
    assert reference.summary()["sessions"]["ended"]["disconnected"] == sum(on_first)


def test_a_reply_to_a_nat_ip_that_is_none_is_bypassed() -> None:
    reply = tcp_packet(BACKENDS[0], 8443, NAT_IPS[0], 2000, "SA")
    story = [tcp(0, 5000), *(Sent(reply, "provider", at * SECOND, link_type=101) for at in (0, 1))]
    events = [{"at": "1s", "remove_nat_ip": "service", "address": NAT_IPS[0]}]
    nat = {"nat_ports": "2000-2000", "nat_ip_selection": "fill_first"}
    outcomes, _ = told(story, events, nat=nat, nat_ips=NAT_IPS, backends=BACKENDS[:1])
    assert [str(outcome.verdict) for outcome in outcomes] == ["forwarded", "forwarded", "bypassed"]


def test_events_take_place_as_time_passes_without_a_packet() -> None:
    events = [{"at": "0s", "disconnect": "endpoint0"}, {"at": "90s", "approve": "endpoint0"}]
    outcomes, reference = told([tcp(0, 5000), 89 * SECOND, tcp(89, 5000), 90 * SECOND, tcp(90, 5000)], events)
    assert [str(outcome.verdict) for outcome in outcomes] == ["connection_not_approved"] * 2 + ["forwarded"]
    assert reference.summary()["sessions"]["active"] == 1


@pytest.mark.parametrize("size", [1, 100])
@pytest.mark.parametrize("workers", [1, 2])
def test_fragments_see_the_nat_ips_of_their_moment(size: int, workers: int) -> None:
    """One by one or in one batch: one NAT IP is added after 10 s, the other goes after 12 s."""
    nat = {"profile": "rfc", "nat_ip_selection": "round_robin", "port_allocation": "sequential"}
    document = network(nat={**nat, "nat_ports": "2000-2009", "timeouts": {"udp": "1h"}}).model_dump(mode="json")
    (first, second), backend = NAT_IPS, document["private_link_services"][0]["load_balancer"]["backend_pool"][0]
    document["private_link_services"][0]["nat_ips"] = [first]
    document["events"] = [
        {"at": "10s", "add_nat_ip": "service", "address": second},
        {"at": "12s", "remove_nat_ip": "service", "address": first},
    ]
    reply, gone = (
        fragment(Ether() / IP(src=backend, dst=nat_ip) / UDP(sport=5353, dport=2000) / Raw(b"r" * 40), fragsize=24)
        for nat_ip in (second, first)
    )
    request = Ether() / IP(src=str(CLIENT), dst=str(ENDPOINT))
    asked = [request / UDP(sport=port, dport=53) / Raw(b"q") for port in (1000, 1001)]
    sent = [(0, "tenant0", asked[0]), (11, "tenant0", asked[1]), (20, "provider", gone[1])]
    sent += [(21 + number, "provider", part) for number, part in enumerate(reply)]
    simulator = Simulator(Topology.model_validate(document), workers=workers)
    verdicts = []
    for begin in range(0, len(sent), size):
        part = sent[begin : begin + size]
        batch = PacketBatch.from_bytes([bytes(packet) for _, _, packet in part], [time * SECOND for time, _, _ in part])
        batch.frames["point"] = [simulator.point(at) for _, at, _ in part]
        verdicts += [str(Verdict(verdict)) for verdict in simulator.process(batch).verdicts.tolist()]
    assert verdicts == ["forwarded"] * 2 + ["bypassed"] + ["forwarded"] * 2
    assert simulator.waiting == 0
