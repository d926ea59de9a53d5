"""What topology captures suggest: who the servers are, and where the provider's addresses come from."""

from collections.abc import Iterable
from functools import cache
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.capture import open_capture, read_capture
from dataplane.packets.batch import FRAME, PacketBatch
from dataplane.packets.headers import LINK_LINUX_SLL, LINK_LINUX_SLL2, LINK_RAW
from dataplane.runs.conversations import Conversations
from dataplane.runs.infer import ServerFinder, _free_range, infer_topology
from dataplane.simulator import Simulator
from dataplane.topology import Topology, dump_topology, parse_topology
from dataplane.verdict import Verdict

SYN, SYN_ACK, ACK, FIN = 0x02, 0x12, 0x10, 0x01
UNICAST_MAC, GROUP_MAC = "020000000001", "01005e000001"


def side(text: str) -> tuple[bytes, int]:
    address, port = text.split(":")
    return IPv4Address(address).packed, int(port)


def ip(source: str, destination: str, flags: int | None = ACK, fragment: int = 0) -> bytes:
    """An IPv4 packet with a TCP header, or with a UDP header if there are no flags."""
    (sender, source_port), (receiver, port) = side(source), side(destination)
    ports = source_port.to_bytes(2) + port.to_bytes(2)
    if flags is None:
        transport = ports + bytes((0, 8, 0, 0))
    else:
        transport = ports + bytes(8) + bytes((0x50, flags, 1, 0, 0, 0, 0, 0))
    head = bytes((0x45, 0)) + (20 + len(transport)).to_bytes(2) + bytes(2) + fragment.to_bytes(2)
    return head + bytes((64, 17 if flags is None else 6, 0, 0)) + sender + receiver + transport


def ethernet(packet: bytes, to: str = UNICAST_MAC) -> bytes:
    return bytes.fromhex(to + "020000000002" + "0800") + packet


def inferred(*packets: bytes) -> Topology:
    return infer_topology([PacketBatch.from_bytes(map(ethernet, packets))])


def served(topology: Topology) -> list[str]:
    """`address protocol port` of everything that is served, in order."""
    services = {service.name: service for service in topology.private_link_services}
    return [
        f"{endpoint.ip} {rule.protocol} {rule.frontend_port}"
        for endpoint in topology.private_endpoints
        for rule in services[endpoint.target].load_balancer.rules
    ]


# --- who serves ---------------------------------------------------------------------------------------------

HIGH, LOW = "10.0.0.1:50000", "10.0.0.2:443"


@pytest.mark.parametrize(
    ("packets", "server"),
    [
        pytest.param([ip(HIGH, LOW, SYN)], LOW, id="a SYN to the lower port"),
        pytest.param([ip(LOW, HIGH, SYN)], HIGH, id="a SYN to the higher port"),
        pytest.param([ip(HIGH, LOW, SYN_ACK)], LOW, id="a SYN with ACK says nothing, the ports do"),
        pytest.param([ip(LOW, HIGH, SYN_ACK)], LOW, id="a reply alone"),
        pytest.param([ip(LOW, HIGH)], LOW, id="no SYN: the lower port, though it sent first"),
        pytest.param([ip(HIGH, LOW)], LOW, id="no SYN: the lower port"),
        pytest.param([ip(HIGH, LOW), ip(LOW, HIGH, SYN)], HIGH, id="a SYN that comes late"),
        pytest.param([ip(HIGH, LOW, SYN_ACK), ip(LOW, HIGH, SYN)], HIGH, id="reply first"),
        pytest.param([ip(LOW, HIGH, SYN), ip(HIGH, LOW, SYN)], HIGH, id="SYNs both ways: the first"),
        pytest.param([ip(HIGH, LOW, SYN), ip(LOW, HIGH, SYN)], LOW, id="SYNs both ways: the first, other way"),
        pytest.param([ip(HIGH, LOW), ip(LOW, HIGH, SYN), ip(HIGH, LOW, SYN)], HIGH, id="the first SYN, not packet"),
        pytest.param([ip(LOW, HIGH, SYN | FIN)], HIGH, id="a SYN with FIN is a SYN"),
        pytest.param([ip("10.0.0.1:0", LOW)], LOW, id="port 0 is no server's"),
    ],
)
def test_the_server_of_a_tcp_conversation(packets: list[bytes], server: str) -> None:
    address, port = server.split(":")
    assert served(inferred(*packets)) == [f"{address} tcp {port}"]


@pytest.mark.parametrize("flags", [ACK, None])
@pytest.mark.parametrize(("sender", "receiver"), [("10.0.0.1", "10.0.0.2"), ("10.0.0.2", "10.0.0.1")])
def test_with_equal_ports_the_first_receiver_serves(flags: int | None, sender: str, receiver: str) -> None:
    one, other = f"{sender}:500", f"{receiver}:500"
    topology = inferred(ip(one, other, flags), ip(other, one, flags), ip(other, one, flags))
    assert served(topology) == [f"{receiver} {'udp' if flags is None else 'tcp'} 500"]


@pytest.mark.parametrize("packets", [[ip(HIGH, LOW, None)], [ip(LOW, HIGH, None)]])
def test_the_lower_port_serves_udp(packets: list[bytes]) -> None:
    assert served(inferred(*packets)) == ["10.0.0.2 udp 443"]


def test_a_datagram_without_a_source_port_goes_to_a_server() -> None:
    assert served(inferred(ip("10.0.0.1:0", "10.0.0.2:514", None))) == ["10.0.0.2 udp 514"]


@pytest.mark.parametrize("packet", [ip(HIGH, "10.0.0.2:0", SYN), ip("10.0.0.1:0", "10.0.0.2:0", None)])
def test_nobody_serves_port_0(packet: bytes) -> None:
    assert served(inferred(packet)) == []


def test_tcp_and_udp_are_conversations_of_their_own() -> None:
    topology = inferred(ip(LOW, HIGH, SYN), ip(HIGH, LOW, None))
    assert served(topology) == ["10.0.0.1 tcp 50000", "10.0.0.2 udp 443"]


def test_a_host_may_be_client_and_server() -> None:
    topology = inferred(
        ip("10.0.0.1:50000", "10.0.0.2:443", SYN),
        ip("10.0.0.2:50000", "10.0.0.3:5432", SYN),
    )
    assert served(topology) == ["10.0.0.2 tcp 443", "10.0.0.3 tcp 5432"]


def test_loopback_talks_to_itself() -> None:
    topology = inferred(ip("127.0.0.1:50000", "127.0.0.1:443"), ip("127.0.0.1:443", "127.0.0.1:50000"))
    assert served(topology) == ["127.0.0.1 tcp 443"]
    assert served(inferred(ip("127.0.0.1:9", "127.0.0.1:9", SYN))) == ["127.0.0.1 tcp 9"]


def test_rules_are_in_order_of_protocol_and_port() -> None:
    topology = inferred(
        *(ip("10.0.0.1:50000", f"10.0.0.9:{port}", flags) for port in (8080, 53, 443) for flags in (None, SYN)),
        ip("10.0.0.1:50000", "10.0.0.8:99", None),
        ip("200.0.0.1:50000", "200.0.0.8:99", None),
    )
    assert served(topology) == [
        "10.0.0.8 udp 99",
        *(f"10.0.0.9 {protocol} {port}" for protocol in ("tcp", "udp") for port in (53, 443, 8080)),
        "200.0.0.8 udp 99",
    ]


# --- who is left out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["224.0.0.1", "239.255.255.255", "255.255.255.255", "0.0.0.0"])
def test_multicast_and_broadcast_are_nobodys_conversation(address: str) -> None:
    assert served(inferred(ip("10.0.0.1:68", f"{address}:67", None))) == []
    assert served(inferred(ip(f"{address}:67", "10.0.0.1:68", None))) == []


@pytest.mark.parametrize("address", ["223.255.255.255", "240.0.0.1", "255.255.255.254", "0.0.0.1"])
def test_their_neighbours_are_hosts(address: str) -> None:
    assert served(inferred(ip("10.0.0.1:68", f"{address}:67", None))) == [f"{address} udp 67"]


def test_frames_to_a_group_are_nobodys_conversation() -> None:
    packet = ip("10.0.0.1:138", "10.0.0.255:137", None)
    for destination in (GROUP_MAC, "ffffffffffff"):
        assert served(infer_topology([PacketBatch.from_bytes([ethernet(packet, destination)])])) == []
    assert served(infer_topology([PacketBatch.from_bytes([ethernet(packet)])])) == ["10.0.0.255 udp 137"]


@pytest.mark.parametrize(("kind", "count"), [(0, 1), (1, 0), (2, 0), (3, 1), (4, 1)])
def test_linux_cooked_captures_tell_groups_too(kind: int, count: int) -> None:
    packet = ip("10.0.0.1:138", "10.0.0.255:137", None)
    first = kind.to_bytes(2) + bytes(12) + b"\x08\x00" + packet
    second = b"\x08\x00" + bytes(8) + bytes((kind, 6)) + bytes(8) + packet
    for frame, link_type in ((first, LINK_LINUX_SLL), (second, LINK_LINUX_SLL2)):
        assert len(served(infer_topology([PacketBatch.from_bytes([frame], None, link_type)]))) == count


def test_ipv6_later_fragments_and_other_protocols_are_ignored() -> None:
    icmp = bytearray(ip(HIGH, LOW))
    icmp[9] = 1
    ipv6 = bytes.fromhex("020000000001" + "020000000002" + "86dd") + bytes(60)
    frames = [ipv6, ethernet(bytes(icmp)), b"", b"\x02", ethernet(b"")]
    frames += [ethernet(ip(HIGH, LOW, None, fragment)) for fragment in (0x0001, 0x1FFF, 0x3FFF)]
    assert served(infer_topology([PacketBatch.from_bytes(frames)])) == []


def test_a_first_fragment_names_its_server() -> None:
    assert served(inferred(ip(HIGH, LOW, None, 0x2000))) == ["10.0.0.2 udp 443"]


def test_a_packet_that_may_not_be_fragmented_is_none() -> None:
    assert served(inferred(ip(HIGH, LOW, ACK, 0x4000))) == ["10.0.0.2 tcp 443"]


#: Bytes of the packet that decide whether its headers are sound: lengths, fragment, protocol, TCP offset, UDP length.
DECISIVE = (0, 2, 3, 6, 7, 9, 24, 25, 32)


@settings(deadline=None)  # the first example compiles
@given(
    flags=st.sampled_from([ACK, None]),
    changes=st.dictionaries(st.sampled_from(DECISIVE), st.integers(0, 255) | st.sampled_from([0x46, 0x60, 6, 17])),
    captured=st.none() | st.integers(0, 40),
    original=st.none() | st.integers(0, 60),
)
def test_what_the_engine_would_translate_is_what_counts(
    flags: int | None, changes: dict[int, int], captured: int | None, original: int | None
) -> None:
    packet = bytearray(ip(HIGH, LOW, flags))
    for place, value in changes.items():
        if place < len(packet):
            packet[place] = value
    batch = PacketBatch.from_bytes([bytes(packet)], None, LINK_RAW)
    if captured is not None:
        batch.frames["captured"] = min(captured, len(packet))
    if original is not None:
        batch.frames["original"] = original
    found = Conversations()
    found.add(batch)
    verdict = Verdict(int(simulator().process(batch, at="consumer").verdicts[0]))
    if verdict != Verdict.FRAGMENT_UNRESOLVED:  # a first fragment counts, though it is not translated
        assert (len(found) == 1) == (verdict in (Verdict.FORWARDED, Verdict.NO_LOAD_BALANCING_RULE)), verdict


@cache
def simulator() -> Simulator:
    """One in which the server of the packets above has an endpoint."""
    return Simulator(inferred(ip(HIGH, LOW, SYN), ip(HIGH, LOW, None)))


# --- many packets ---------------------------------------------------------------------------------------------

SMALL_SIDES = st.builds("10.0.0.{}:{}".format, st.integers(1, 3), st.sampled_from([0, 53, 443, 50_000]))
PACKETS = st.lists(st.tuples(SMALL_SIDES, SMALL_SIDES, st.sampled_from([SYN, SYN_ACK, ACK, None])), max_size=150)


def by_the_book(packets: Iterable[tuple[str, str, int | None]]) -> list[str]:
    """The same question, answered slowly."""
    talks: dict[object, list[tuple[str, str, int | None]]] = {}
    for packet in packets:
        talks.setdefault((frozenset(packet[:2]), packet[2] is None), []).append(packet)
    servers = set()
    for (_, is_udp), talk in talks.items():
        syns = [receiver for _, receiver, flags in talk if flags == SYN]
        ports = {text: side(text)[1] or 65536 for text in talk[0][:2]}
        lowest = [text for text, port in ports.items() if port == min(ports.values())]
        server = syns[0] if syns else lowest[0] if len(lowest) == 1 else talk[0][1]
        address, port = side(server)
        if port:
            servers.add((address, "udp" if is_udp else "tcp", port))
    return [f"{IPv4Address(address)} {protocol} {port}" for address, protocol, port in sorted(servers)]


@settings(deadline=None)
@given(packets=PACKETS, cuts=st.lists(st.integers(0, 150), max_size=5))
def test_batches_do_not_show_and_the_servers_are_right(
    packets: list[tuple[str, str, int | None]], cuts: list[int]
) -> None:
    whole = PacketBatch.from_bytes(ethernet(ip(*packet)) for packet in packets)
    bounds = [0, *sorted(min(cut, len(packets)) for cut in cuts), len(packets)]
    parts = [PacketBatch(whole.data, whole.frames[a:b]) for a, b in pairwise(bounds)]
    topology = infer_topology([whole])
    assert served(topology) == by_the_book(packets)
    assert infer_topology(parts) == topology


def flood(count: int, servers: int) -> PacketBatch:
    """One ACK in each of so many conversations."""
    packet = np.frombuffer(ethernet(ip("10.0.0.0:50000", "20.0.0.0:443")), np.uint8)
    data = np.tile(packet, (count, 1))
    number = np.arange(count)
    data[:, 26:30] = (0x0A000000 + number // servers).astype(">u4").view(np.uint8).reshape(-1, 4)
    data[:, 30:34] = (0x14000000 + number % servers).astype(">u4").view(np.uint8).reshape(-1, 4)
    frames = np.zeros(count, FRAME)
    frames["offset"] = number * len(packet)
    frames["captured"] = frames["original"] = len(packet)
    frames["link_type"] = 1
    return PacketBatch(data.reshape(-1), frames)


def test_the_table_grows_and_forgets_nothing() -> None:
    batch = flood(20_000, 7)
    found = Conversations()
    first = PacketBatch.from_bytes([ethernet(ip("20.0.0.3:443", "10.0.0.9:50000", SYN))])
    for part in (first, batch, batch):
        found.add(part)
    assert len(found) == 20_000
    finder = ServerFinder()
    finder.add(first)
    finder.add(batch)
    expected = ["10.0.0.9 tcp 50000", *(f"20.0.0.{number} tcp 443" for number in range(7))]
    assert served(finder.topology()) == expected


def test_a_finder_may_be_asked_twice() -> None:
    finder = ServerFinder()
    assert served(finder.topology()) == []
    finder.add(PacketBatch.from_bytes([ethernet(ip(HIGH, LOW))]))
    assert finder.topology() == finder.topology()
    finder.add(PacketBatch.from_bytes([ethernet(ip(LOW, HIGH, SYN))]))
    assert served(finder.topology()) == ["10.0.0.1 tcp 50000"]


def test_packets_are_only_read() -> None:
    batch = PacketBatch.from_bytes([ethernet(ip(HIGH, LOW))])
    before = batch.copy()
    infer_topology([batch])
    assert batch.data.tobytes() == before.data.tobytes()
    assert batch.frames.tobytes() == before.frames.tobytes()


# --- the topology ---------------------------------------------------------------------------------------------


def test_what_the_topology_says() -> None:
    topology = inferred(ip("10.0.0.1:50000", "10.0.0.2:443", SYN), ip("10.0.0.1:50000", "10.0.0.3:53", None))
    assert topology.limits == "none"
    assert [(n.name, list(map(str, n.address_space))) for n in topology.virtual_networks] == [
        ("consumer", ["0.0.0.0/0"]),
        ("provider", ["198.18.0.0/15"]),
    ]
    assert [(e.name, e.virtual_network, str(e.ip), e.target, e.connection) for e in topology.private_endpoints] == [
        ("endpoint-10.0.0.2", "consumer", "10.0.0.2", "service-10.0.0.2", "approved"),
        ("endpoint-10.0.0.3", "consumer", "10.0.0.3", "service-10.0.0.3", "approved"),
    ]
    first, second = topology.private_link_services
    assert (first.name, first.virtual_network, first.nat.first_packet) == ("service-10.0.0.2", "provider", "any")
    balancers = first.load_balancer, second.load_balancer
    assert [str(address) for service in (first, second) for address in service.nat_ips] == ["198.18.0.4", "198.18.0.7"]
    assert [str(balancer.frontend_ip) for balancer in balancers] == ["198.18.0.5", "198.18.0.8"]
    assert [str(address) for balancer in balancers for address in balancer.backend_pool] == ["198.18.0.6", "198.18.0.9"]
    assert [(r.protocol, r.frontend_port, r.backend_port) for r in balancers[1].rules] == [("udp", 53, 53)]


def test_it_reads_back_as_an_equal_one() -> None:
    for topology in (inferred(), inferred(ip(HIGH, LOW, SYN), ip("10.0.0.1:500", "10.0.0.7:500", None))):
        assert parse_topology(dump_topology(topology)) == topology


@pytest.mark.parametrize(
    ("addresses", "space"),
    [
        (["10.0.0.1"], "198.18.0.0/15"),
        (["198.19.255.255"], "100.64.0.0/10"),
        (["198.18.0.0", "100.127.0.1"], "172.16.0.0/12"),
        (["198.18.0.0", "100.64.0.1", "172.31.0.1"], "10.0.0.0/8"),
        (["198.18.0.0", "100.64.0.1", "172.16.0.1", "10.0.0.1"], "192.168.0.0/16"),
        (["198.18.0.0", "100.64.0.1", "172.16.0.1", "10.0.0.1", "192.168.1.1"], "1.0.0.0/10"),
        (["198.18.0.0", "100.64.0.1", "172.16.0.1", "10.0.0.1", "192.168.1.1", "1.1.1.1"], "1.64.0.0/10"),
    ],
)
def test_the_providers_range_is_one_that_no_packet_uses(addresses: list[str], space: str) -> None:
    # An address counts whatever it does: here as the sender of a fragment, which is no conversation.
    topology = inferred(*(ip(f"{address}:9", "224.0.0.1:9", None, 0x2000) for address in addresses))
    assert [str(prefix) for prefix in topology.network("provider").address_space] == [space]


EVERYWHERE = np.arange(1 << 16)


@pytest.mark.parametrize(
    ("prefixes", "addresses", "size", "space"),
    [
        pytest.param([], [], 1 << 17, "198.18.0.0/15", id="just large enough"),
        pytest.param([], [], (1 << 17) + 1, "100.64.0.0/10", id="too small by one"),
        pytest.param([], [], 1 << 25, "2.0.0.0/7", id="larger than any of the preferred"),
        pytest.param(EVERYWHERE[(EVERYWHERE != 0x8123)], [], 8, "129.35.0.0/16", id="the only one left"),
        pytest.param(EVERYWHERE[: 240 << 8], [], 8, "240.0.0.0/10", id="reserved addresses before nothing"),
        pytest.param(EVERYWHERE, [0x01000001, 0x01008001], 8, "1.1.0.0/17", id="gaps between addresses"),
        pytest.param(EVERYWHERE, np.arange(0, 1 << 32, 1 << 13), 8, "1.0.16.0/20", id="small gaps"),
        pytest.param(EVERYWHERE, np.arange(0, 1 << 32, 1 << 13), 1 << 16, "198.18.0.0/15", id="none: overlaps"),
        pytest.param(EVERYWHERE, [], 1 << 25, "0.0.0.0/7", id="none, and many: overlaps"),
    ],
)
def test_a_range_is_found_however_full_the_captures_are(
    prefixes: list[int], addresses: list[int], size: int, space: str
) -> None:
    found = _free_range(np.asarray(prefixes, np.int64), np.asarray(addresses, np.int64), size)
    assert found == IPv4Network(space)


def test_ten_thousand_servers() -> None:
    topology = infer_topology([flood(10_000, 10_000)])
    assert len(topology.private_endpoints) == len(topology.private_link_services) == 10_000
    last = topology.private_link_services[-1]
    assert last.name == "service-20.0.39.15"
    assert str(last.load_balancer.backend_pool[0]) == "198.18.117.51"


# --- real captures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dns-udp-mixed.pcap", ["10.0.0.138 udp 53"]),
        ("ftp-ipv6.pcap", []),
        ("gre-nvgre-pptp.pcapng", []),
        ("http-qinq-vid0.pcap", ["192.150.187.43 tcp 80"]),
        ("http-range-download.pcap", ["129.174.93.161 tcp 80"]),
        ("https-tls12-page.pcap", ["193.99.144.85 tcp 443"]),
        ("icmp-assortment.pcapng", []),
        ("mysql-tls13-cloud.pcap", ["79.107.90.25 tcp 3306"]),
        ("postgres-tls-cloud.pcap", ["52.200.36.167 tcp 5432"]),
        ("tcp-snaplen-cut.pcap", ["192.168.2.20 tcp 12345"]),
        ("tds7-sql-batch.pcap", ["217.77.3.25 tcp 1433"]),
        ("udp-ipv4-fragments.pcap", ["164.1.123.163 udp 123"]),
        ("vxlan-http.pcap", ["10.1.1.172 udp 4789"]),
    ],
)
def test_real_captures(pcaps: Path, name: str, expected: list[str]) -> None:
    with open_capture(pcaps / name, chunk_bytes=4096) as reader:
        topology = infer_topology(reader)
    assert served(topology) == expected
    assert infer_topology([read_capture(pcaps / name)]) == topology
