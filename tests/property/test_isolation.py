"""Tenants with the same addresses and ports share a service and nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dataplane.records import CAPTURED_REPLY, TO_CONSUMER, TO_SERVICE
from dataplane.simulator import Simulator
from dataplane.verdict import Verdict
from tests.lockstep import assert_laws
from tests.property.networks import (
    BACKENDS,
    CLIENT,
    ENDPOINT,
    NAT_IPS,
    answered,
    batch_of_rows,
    network,
    numbers_at,
    rows_of,
    tcp_columns,
)

POLICIES = st.fixed_dictionaries(
    {
        "nat_ports": st.sampled_from(["1024-1151", "1024-65535", "60000-60255"]),
        "port_allocation": st.sampled_from(["random", "sequential"]),
        "nat_ip_selection": st.sampled_from(["hash", "round_robin", "fill_first", "paired"]),
    }
)


@given(
    tenants=st.integers(2, 4),
    nat=POLICIES,
    distribution=st.sampled_from(["five_tuple", "source_ip", "source_ip_protocol"]),
    ports=st.lists(st.integers(0, 65535), min_size=1, max_size=30, unique=True),
    seed=st.integers(0, 1000),
)
def test_tenants_with_the_same_addresses_and_ports_get_only_their_own_replies(
    tenants: int, nat: dict[str, str], distribution: str, ports: list[int], seed: int
) -> None:
    topology = network(tenants=tenants, nat_ips=NAT_IPS, backends=BACKENDS, nat=nat, distribution=distribution)
    simulator = Simulator(topology, seed)
    order = np.random.default_rng(seed).permutation(tenants * len(ports))
    tenant = np.tile(np.arange(tenants), len(ports))[order]
    port = np.repeat(ports, tenants)[order]
    # The payload says whose packet it is: nobody else may ever see it.
    mark = tenant << 16 | port
    sent = tcp_columns(len(order), source_port=port, point=tenant, payload=mark)
    result = simulator.process(sent)
    assert np.all(result.verdicts == Verdict.FORWARDED)
    arrived = rows_of(result.packets)
    tuples = [bytes(row[26:38]) for row in arrived]  # addresses and ports
    assert len(set(tuples)) == len(tuples), "one tuple for two sessions"
    assert numbers_at(arrived, 54, 4).tolist() == mark.tolist()

    again = np.random.default_rng(seed + 1).permutation(len(order))
    provider = tenants
    result = simulator.process(batch_of_rows(answered(arrived)[again], point=provider))
    assert np.all(result.verdicts == Verdict.FORWARDED)
    assert result.outcomes["consumer_point"].tolist() == tenant[again].tolist()
    assert result.outcomes["endpoint"].tolist() == tenant[again].tolist()
    returned = rows_of(result.packets)
    assert np.all(numbers_at(returned, 26, 4) == int(ENDPOINT))
    assert np.all(numbers_at(returned, 30, 4) == int(CLIENT))
    assert numbers_at(returned, 36, 2).tolist() == port[again].tolist()
    assert numbers_at(returned, 54, 4).tolist() == mark[again].tolist()
    assert_laws(simulator)


@given(nat=POLICIES, ports=st.lists(st.integers(0, 65535), min_size=1, max_size=20, unique=True))
def test_a_reply_to_one_tenants_session_is_no_reply_to_another(nat: dict[str, str], ports: list[int]) -> None:
    """Both have the same tuple; only the first has sessions."""
    simulator = Simulator(network(tenants=2, nat=nat))
    opened = simulator.process(tcp_columns(len(ports), source_port=np.array(ports)))
    replies = answered(rows_of(tcp_columns(len(ports), source_port=np.array(ports))))
    at_the_other = simulator.process(batch_of_rows(replies, point=1))
    assert np.all(at_the_other.verdicts == Verdict.NO_SESSION)
    at_the_first = simulator.process(batch_of_rows(replies, point=0))
    assert at_the_first.sessions.tolist() == opened.sessions.tolist()
    # Nor does a packet of the other's end or move a session of the first.
    before = simulator.live_sessions()
    for flags in (0x04, 0x11, 0x14, 0x10):
        strays = simulator.process(tcp_columns(len(ports), source_port=np.array(ports), flags=flags, point=1))
        assert np.all(strays.verdicts == Verdict.NOT_FIRST_PACKET)
    assert simulator.live_sessions().tolist() == before.tolist()
    assert not any(simulator.summary()["sessions"]["ended"].values())


@given(nat=POLICIES, seed=st.integers(0, 1000), sessions=st.integers(1, 40))
def test_every_nat_port_leads_to_its_owner_or_to_nobody(nat: dict[str, str], seed: int, sessions: int) -> None:
    """A backend that scans all ports reaches exactly the sessions that it serves."""
    nat = nat | {"nat_ports": "2000-2127"}
    simulator = Simulator(network(tenants=3, nat_ips=NAT_IPS, backends=BACKENDS, nat=nat), seed)
    tenant = np.arange(sessions) % 3
    opened = simulator.process(tcp_columns(sessions, source_port=np.arange(sessions) // 3, point=tenant))
    arrived = rows_of(opened.packets)
    owners = {
        (int(a), int(b), int(p)): (int(t), int(s))
        for a, b, p, t, s in zip(
            numbers_at(arrived, 26, 4),
            numbers_at(arrived, 30, 4),
            numbers_at(arrived, 34, 2),
            tenant,
            opened.sessions,
            strict=True,
        )
    }
    nat_ips = [int(ip) for ip in simulator.topology.private_link_services[0].nat_ips]
    for backend in simulator.topology.private_link_services[0].load_balancer.backend_pool:
        for nat_ip in nat_ips:
            ports = np.arange(1990, 2140)
            scan = tcp_columns(
                len(ports),
                source=int(backend),
                source_port=8443,
                destination=nat_ip,
                destination_port=ports,
                flags=0x10,
                point=3,
            )
            outcomes = simulator.process(scan).outcomes
            for port, outcome in zip(ports, outcomes, strict=True):
                owner = owners.get((nat_ip, int(backend), int(port)))
                if owner is None:
                    assert outcome["verdict"] == Verdict.NO_SESSION
                else:
                    assert outcome["verdict"] == Verdict.FORWARDED
                    assert outcome["direction"] == TO_CONSUMER
                    assert (outcome["consumer_point"], outcome["session"]) == owner


def test_between_two_endpoints_a_live_reply_comes_first() -> None:
    """Ports are such that a packet could be either: a reply while the session lives, else a request."""
    other = ENDPOINT + 1
    simulator = Simulator(network(more_endpoints=[str(other)], nat={"first_packet": "any"}))
    ways = {"source": int(other), "source_port": 443, "destination": int(ENDPOINT), "destination_port": 443}
    back = {"source": int(ENDPOINT), "source_port": 443, "destination": int(other), "destination_port": 443}
    request = simulator.process(tcp_columns(1, **ways)).outcomes[0]
    assert (request["direction"], request["endpoint"]) == (TO_SERVICE, 0)
    reply = simulator.process(tcp_columns(1, flags=0x12, **back)).outcomes[0]
    assert (reply["direction"], reply["endpoint"]) == (CAPTURED_REPLY, 0)
    assert reply["session"] == request["session"] == 1
    simulator.advance(to_ns=1000 * 10**9)
    request = simulator.process(tcp_columns(1, flags=0x12, **back)).outcomes[0]
    assert (request["direction"], request["endpoint"], request["session"]) == (TO_SERVICE, 1, 3)
