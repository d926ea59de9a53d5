"""The Python interface at its edges: what cannot be is refused in words, and nothing depends on sizes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether

import dataplane as dp
from dataplane.capture import PcapWriter, read_capture
from dataplane.packets.batch import LAST_TIME, PacketBatch
from dataplane.records import OUTCOME
from dataplane.runs.replay import Replay, replay
from tests.property.networks import BACKENDS, CLIENT, ENDPOINT, network
from tests.strategies import fragments_of, udp_packet

CASES = Path(__file__).resolve().parents[2] / "pcaps" / "cases"
SYN = IP(src="10.0.0.4", dst="10.0.1.5") / TCP(sport=50_000, dport=443, flags="S")


@pytest.fixture
def topology() -> dp.Topology:
    return dp.load_topology(CASES / "exhaustion" / "topology.yaml")


def test_what_is_sent_is_delivered_as_scapy_packets_of_the_same_kind(topology: dp.Topology) -> None:
    simulator = dp.Simulator(topology, seed=7)
    outcome = simulator.send(Ether(src="02:00:00:00:00:09") / SYN, at="contoso", time=1.5)
    assert str(outcome.verdict) == f"{outcome.verdict}" == "forwarded"
    assert outcome.verdict == dp.Verdict.FORWARDED
    [delivery] = outcome.delivered
    assert (delivery.point, delivery.time) == ("provider", 1.5)
    assert delivery.packet[Ether].src == "02:00:00:00:00:09"
    assert (delivery.packet[IP].src, delivery.packet[TCP].sport) == outcome.nat == ("192.168.50.4", 1024)
    assert (delivery.packet[IP].dst, delivery.packet[TCP].dport) == ("192.168.61.4", 8443)
    answer = IP(src="192.168.61.4", dst="192.168.50.4") / TCP(sport=8443, dport=1024, flags="SA")
    [back] = simulator.send(answer, at="provider", time=1.0).delivered
    assert isinstance(back.packet, IP)
    assert (back.point, back.time) == ("contoso", 1.5)  # a time before the clock counts as the clock
    assert (back.packet[IP].src, back.packet[TCP].sport) == ("10.0.1.5", 443)
    assert (back.packet[IP].dst, back.packet[TCP].dport) == ("10.0.0.4", 50_000)
    assert simulator.send(Ether() / ARP(), at="contoso").verdict == dp.Verdict.BYPASSED


def test_a_network_that_is_none_is_refused_with_the_choices(topology: dp.Topology) -> None:
    with pytest.raises(ValueError, match="contoso, provider"):
        dp.Simulator(topology).send(SYN, at="fabrikam")


@pytest.mark.parametrize("time", [1e12, -1e12])
def test_a_time_beyond_64_bits_counts_as_the_clock(topology: dp.Topology, time: float) -> None:
    simulator = dp.Simulator(topology)
    simulator.send(SYN, at="contoso", time=5.0)
    assert simulator.send(SYN, at="contoso", time=time).delivered[0].time == 5.0
    assert simulator.summary()["times"] == {"backward": 0, "unusable": 1}


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_any_room_to_start_with_will_do(topology: dp.Topology, rows: int) -> None:
    simulator = dp.Simulator(topology, rows=rows, burst=5)
    batch = dp.read_capture(CASES / "exhaustion" / "contoso.pcap")
    assert dp.Verdict.NAT_PORTS_EXHAUSTED in simulator.process(batch, at="contoso").verdicts
    with pytest.raises(ValueError, match="at least 1"):
        dp.Simulator(topology, rows=0)


def test_a_batch_that_does_not_fit_is_refused_before_a_kernel_sees_it(topology: dp.Topology) -> None:
    simulator = dp.Simulator(topology)
    for column, value in (("offset", 1 << 40), ("offset", -1), ("captured", 1 << 20)):
        batch = PacketBatch.from_bytes([bytes(Ether() / SYN)])
        batch.frames[column] = value
        with pytest.raises(ValueError, match="outside"):
            simulator.process(batch, at="contoso")
    batch = PacketBatch.from_bytes([bytes(Ether() / SYN)])
    with pytest.raises(ValueError, match="no network"):
        simulator.feed(batch)
    batch.frames["point"] = 0
    with pytest.raises(ValueError, match="rows of outcomes"):
        simulator.feed(batch, np.zeros(2, OUTCOME))
    with pytest.raises(ValueError, match="gaps"):
        simulator.feed(PacketBatch(np.repeat(batch.data, 2)[::2], batch.frames))
    with pytest.raises(ValueError, match="data: an array of 1 dimensions and dtype int16; one dimension of uint8"):
        simulator.feed(PacketBatch(batch.data.astype(np.int16), batch.frames))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frames: an array of 2 dimensions"):
        simulator.feed(PacketBatch(batch.data, batch.frames[None]))
    with pytest.raises(ValueError, match="outcomes: an array of 1 dimensions and dtype int64"):
        simulator.feed(batch, np.zeros(len(batch), np.int64))
    batch.data.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        simulator.feed(batch)
    assert simulator.summary()["received"]["packets"] == 0


def test_nothing_follows_the_end_of_the_series(topology: dp.Topology) -> None:
    simulator = dp.Simulator(topology)
    simulator.send(SYN, at="contoso", time=0.0)
    simulator.end_series()
    with pytest.raises(ValueError, match="closed"):
        simulator.send(SYN, at="contoso", time=1.0)
    with pytest.raises(ValueError, match="closed"):
        simulator.advance(to=2.0)


def test_a_forked_process_has_sessions_of_its_own(topology: dp.Topology) -> None:
    simulator = dp.Simulator(topology, rows=1 << 16)
    simulator.send(SYN, at="contoso", time=0.0)
    child = os.fork()
    if child == 0:
        simulator._core.state.sessions["state"] = 0
        os._exit(0)
    os.waitpid(child, 0)
    assert simulator._core.state.sessions["state"][0] != 0


def test_a_point_that_is_consumer_and_provider_is_written_once_per_packet(tmp_path: Path) -> None:
    topology = dp.Topology.model_validate(
        {
            "virtual_networks": [{"name": "both", "address_space": ["10.0.0.0/16"]}],
            "private_link_services": [
                {
                    "name": "names",
                    "virtual_network": "both",
                    "nat_ips": ["10.0.50.4"],
                    "load_balancer": {
                        "frontend_ip": "10.0.60.4",
                        "rules": [{"protocol": "udp", "frontend_port": 53, "backend_port": 53}],
                        "backend_pool": ["10.0.61.4"],
                    },
                }
            ],
            "private_endpoints": [{"name": "pe", "virtual_network": "both", "ip": "10.0.1.5", "target": "names"}],
        }
    )
    query = bytes(Ether() / IP(src="10.0.0.4", dst="10.0.1.5") / UDP(sport=5000, dport=53))
    count = 40_000
    with PcapWriter(tmp_path / "in.pcap") as writer:
        writer.write_batch(PacketBatch.from_bytes([bytes(Ether()), *[query] * count]))
    replay(Replay([str(tmp_path / "in.pcap")], topology, pcaps={"both": tmp_path / "both.pcap"}))
    assert len(read_capture(tmp_path / "both.pcap")) == 1 + 2 * count


@pytest.mark.parametrize("key", ["ports_per_endpoint", "sessions_per_backend"])
def test_a_count_that_no_counter_holds_is_refused(key: str) -> None:
    text = (CASES / "exhaustion" / "topology.yaml").read_text()
    wrong = text.replace("nat: {", f"nat: {{{key}: 3000000000, ")
    from dataplane.topology import TopologyError, parse_topology

    with pytest.raises(TopologyError, match=key):
        parse_topology(wrong)


def test_a_fragment_waits_for_the_first_and_is_delivered_with_it() -> None:
    simulator = dp.Simulator(network(nat={"profile": "rfc"}))
    first, *later = fragments_of(udp_packet(CLIENT, 5000, ENDPOINT, 53, bytes(60)), [16, 24])
    for piece in reversed(later):
        outcome = simulator.send(IP(piece), at="tenant0", time=1.0)
        assert (outcome.verdict, outcome.delivered) == (dp.Verdict.FRAGMENT_HELD, [])
    assert simulator.waiting == 2
    assert simulator.summary()["received"]["packets"] == 0, "what waits is not received yet"
    outcome = simulator.send(IP(first), at="tenant0", time=2.0)
    assert outcome.verdict == dp.Verdict.FORWARDED
    assert [delivery.packet.frag * 8 for delivery in outcome.delivered] == [0, 40, 16]
    assert simulator.waiting == 0
    assert simulator.summary()["forwarded"]["packets"] == 3


def test_packets_cannot_be_fed_around_the_stage_in_which_fragments_wait() -> None:
    simulator = dp.Simulator(network(nat={"profile": "rfc"}))
    batch = PacketBatch.from_bytes([udp_packet(CLIENT, 5000, ENDPOINT, 53)], link_type=101)
    batch.frames["point"] = 0
    with pytest.raises(ValueError, match="sequence"):
        simulator.feed(batch)
    for marks in ([1024], [-1026], [0, 0], [0.5]):
        wrong = replace(batch, datagrams=np.array(marks, np.float64 if 0.5 in marks else np.int32))
        with pytest.raises(ValueError, match=r"not those of its frames as sequence\(batch\) gave them"):
            simulator.feed(wrong)
    simulator.feed(simulator.sequence(batch))
    assert simulator.summary()["forwarded"]["packets"] == 1


def test_an_event_after_the_end_of_time_keeps_nobody_waiting() -> None:
    document = network(nat={"profile": "rfc"}).model_dump(mode="json")
    document["events"] = [{"at": "1h", "disconnect": "endpoint0"}]
    simulator = dp.Simulator(dp.Topology.model_validate(document))
    batch = PacketBatch.from_bytes([udp_packet(CLIENT, 5000, ENDPOINT, 53)] * 2, [LAST_TIME] * 2, link_type=101)
    assert simulator.process(batch, at="tenant0").verdicts.tolist() == [0, 0]


def test_a_fragment_that_waits_in_vain_is_dropped_when_time_passes_or_the_input_ends() -> None:
    for end in (lambda simulator: simulator.advance(to=31.0), lambda simulator: simulator.finish()):
        simulator = dp.Simulator(network(nat={"profile": "rfc"}))
        last = fragments_of(udp_packet(CLIENT, 5000, ENDPOINT, 53, bytes(60)), [16])[1]
        simulator.send(IP(last), at="tenant0", time=1.0)
        end(simulator)
        assert simulator.waiting == 0
        assert simulator.summary()["dropped"]["reasons"]["fragment_unresolved"]["packets"] == 1


def test_an_idle_time_out_resets_both_sides_with_the_numbers_that_they_expect() -> None:
    simulator = dp.Simulator(network(nat={"idle_reset": True}))
    syn = IP(src=str(CLIENT), dst=str(ENDPOINT)) / TCP(sport=5000, dport=443, flags="S", seq=10)
    nat = simulator.send(syn, at="tenant0", time=0.0).nat
    assert nat is not None
    answer = IP(src=BACKENDS[0], dst=nat[0]) / TCP(sport=8443, dport=nat[1], flags="SA", seq=70, ack=11)
    simulator.send(answer, at="provider", time=1.0)
    ack = IP(src=str(CLIENT), dst=str(ENDPOINT)) / TCP(sport=5000, dport=443, flags="A", seq=11, ack=71)
    simulator.send(ack, at="tenant0", time=2.0)
    simulator.advance(to=301.9)
    assert simulator.take_resets() == []
    simulator.advance(to=302.0)
    to_consumer, to_backend = simulator.take_resets()
    assert (to_consumer.point, to_backend.point) == ("tenant0", "provider")
    assert (to_consumer.time, to_backend.time) == (302.0, 302.0)
    for delivery, addresses, ports, sequence in (
        (to_consumer, (str(ENDPOINT), str(CLIENT)), (443, 5000), 71),
        (to_backend, (nat[0], BACKENDS[0]), (nat[1], 8443), 11),
    ):
        packet = delivery.packet
        assert (packet[IP].src, packet[IP].dst) == addresses
        assert (packet[TCP].sport, packet[TCP].dport, packet[TCP].seq) == (*ports, sequence)
        assert packet[TCP].flags == "R"
        again = packet.copy()
        del again[IP].chksum, again[TCP].chksum
        assert bytes(again) == bytes(packet), "scapy computes the same checksums"
    assert simulator.take_resets() == []
    assert simulator.summary()["sessions"]["resets_sent"] == 2


def test_resets_are_right_however_small_the_table_was_at_first() -> None:
    def resets(rows: int) -> list[bytes]:
        simulator = dp.Simulator(network(nat={"idle_reset": True, "first_packet": "any"}), rows=rows)
        for port in range(5000, 5009):
            segment = IP(src=str(CLIENT), dst=str(ENDPOINT)) / TCP(sport=port, dport=443, flags="A", ack=port)
            simulator.send(segment, at="tenant0", time=0.0)
        simulator.advance(to=300.0)
        return [bytes(delivery.packet) for delivery in simulator.take_resets()]

    assert len(resets(1)) == 18
    assert resets(1) == resets(2) == resets(64)


def test_time_that_passes_before_the_first_packet_does_not_make_a_datagram_younger() -> None:
    simulator = dp.Simulator(network(nat={"profile": "rfc"}))
    simulator.advance(to=5.0)
    last = fragments_of(udp_packet(CLIENT, 5000, ENDPOINT, 53, bytes(60)), [16])[1]
    simulator.send(IP(last), at="tenant0", time=1.0)
    simulator.advance(to=31.0)
    assert simulator.waiting == 0, "30 s after it arrived, which was at 1 s"
