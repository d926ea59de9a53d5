"""The engine against the executable specification, on random topologies and traces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dataplane.topology.model import Topology
from tests.lockstep import Received, Sent, arrive, assert_equal_runs
from tests.property.networks import CLIENT, ENDPOINT, network
from tests.reference import ReferenceSimulator
from tests.strategies import (
    Step,
    icmp_error,
    ipv4_packet,
    resolve,
    tcp_packet,
    topologies,
    traces,
    udp_packet,
)


def told_by_reference(
    topology: Topology, trace: list[Step], seed: int
) -> tuple[ReferenceSimulator, list[Sent | int], Received]:
    """Send a trace through the reference: what happened in order, and what became of every packet.

    Packets are in the order in which they were received; those that `advance` let go are not among them.
    """
    reference = ReferenceSimulator(topology, seed)
    story: list[Sent | int] = []
    received: Received = []
    for step in trace:
        arrival = resolve(step, reference)
        if arrival.frame is None:
            reference.advance(arrival.time_ns)
            story.append(arrival.time_ns)
            continue
        packet = Sent(arrival.frame, arrival.at, arrival.time_ns, arrival.original_length, arrival.link_type)
        story.append(packet)
        received += arrive(reference, packet)
    reference.check_laws()
    received += reference.finish()
    reference.check_laws()
    return reference, story, received


@given(
    topology=topologies(),
    trace=traces(),
    seed=st.integers(0, 3),
    burst=st.sampled_from([1, 7, 256]),
    workers=st.sampled_from([1, 1, 2, 3]),
)
def test_engine_and_reference_agree_on_every_packet(
    topology: Topology, trace: list[Step], seed: int, burst: int, workers: int
) -> None:
    reference, story, received = told_by_reference(topology, trace, seed)
    assert_equal_runs(topology, seed, story, reference, received, burst=burst, workers=workers)


def test_fill_first_counts_the_port_that_a_reopened_session_gives_back() -> None:
    """A rare rule that random traces may miss: two NAT IPs of one port each, and a SYN for a closing session."""
    for hold, ports in (("0s", ["192.168.50.4", "192.168.50.4"]), ("1s", ["192.168.50.4", "192.168.50.5"])):
        topology = Topology.model_validate(
            {
                "virtual_networks": [
                    {"name": "contoso", "address_space": ["10.0.0.0/16"]},
                    {"name": "provider", "address_space": ["192.168.0.0/16"]},
                ],
                "private_link_services": [
                    {
                        "name": "orders",
                        "virtual_network": "provider",
                        "nat_ips": ["192.168.50.4", "192.168.50.5"],
                        "load_balancer": {
                            "frontend_ip": "192.168.60.10",
                            "rules": [{"protocol": "tcp", "frontend_port": 443, "backend_port": 8443}],
                            "backend_pool": ["192.168.61.4"],
                        },
                        "nat": {"nat_ports": "1024-1024", "nat_ip_selection": "fill_first", "port_hold": hold},
                    }
                ],
                "private_endpoints": [
                    {"name": "pe", "virtual_network": "contoso", "ip": "10.0.1.5", "target": "orders"}
                ],
            }
        )
        client, endpoint = ("10.0.0.4", 50_000), ("10.0.1.5", 443)
        story = [
            Sent(tcp_packet(*sender, *receiver, flags), "contoso", number, link_type=101)
            for number, (sender, receiver, flags) in enumerate(
                [(client, endpoint, "S"), (client, endpoint, "F"), (endpoint, client, "F"), (client, endpoint, "S")]
            )
        ]
        reference = ReferenceSimulator(topology, 0)
        received = [one for packet in story for one in arrive(reference, packet)]
        assert [outcome.nat[0] for _, outcome in received if outcome.nat][::3] == ports
        assert_equal_runs(topology, 0, story, reference, received)


def test_an_error_to_a_nat_ip_is_from_the_provider_whoever_sends_it() -> None:
    """Also an endpoint that lies in the provider's network; but a fragment of one is no error, so it is bypassed."""
    nat_ip, backend, endpoint_here = "10.1.0.50", "10.1.0.4", "10.1.0.100"
    document = network(nat={"icmp": "errors"}).model_dump(mode="json")
    document["private_endpoints"].append(
        {"name": "here", "virtual_network": "provider", "ip": endpoint_here, "target": "service"}
    )
    topology = Topology.model_validate(document)
    reference = ReferenceSimulator(topology, 0)
    opening = Sent(udp_packet(CLIENT, 5000, ENDPOINT, 53), "tenant0", 0, link_type=101)
    story, received = [opening], arrive(reference, opening)
    (nat,) = [outcome.nat for _, outcome in received]
    assert nat is not None
    quoted = udp_packet(nat_ip, nat[1], backend, 5353, bytes(20))
    for sender in (backend, endpoint_here, "10.1.0.200"):
        for fragment in (0, 0x2000, 1):
            error = ipv4_packet(sender, nat_ip, 1, icmp_error(3, 3, quoted), fragment=fragment)
            packet = Sent(error, "provider", len(story), link_type=101)
            story.append(packet)
            received += arrive(reference, packet)
    assert [str(outcome.verdict) for _, outcome in received].count("forwarded") == 1 + 3
    assert_equal_runs(topology, 0, story, reference, received)
