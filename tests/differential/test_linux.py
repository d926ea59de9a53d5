"""The Linux kernel's own NAT judges the profile `linux`: the same packets through both, at the same moments.

Both must deliver or drop alike, and nothing may come back to the sender. What is delivered must be the same but for the
NAT port, with every checksum right; toward the consumer, where no NAT port shows, the same bytes. Each session has one
NAT port in the kernel and one in the simulator, in both directions, and none shares it.

Left out, since there Linux differs from what docs/model.md says of this profile (each seen on Linux 6.18):

- Time-outs. SYN_RECV, CLOSE_WAIT and LAST_ACK have their own, set here like SYN_SENT, FIN_WAIT and TIME_WAIT. A UDP
  session has the unreplied time-out until a packet after the first answer comes, 2 s or more after the first packet.
  An RST in TIME_WAIT begins the time-out of a reset. A SYN in an established connection refreshes nothing. With data
  unacknowledged an established connection ends after 300 s.
- Ends. An RST before any other packet of the server's, from either side, ends the connection at once, so that its port
  is free. A SYN after the server's RST or in LAST_ACK opens anew with the old NAT port; after the client's RST and in
  TIME_WAIT with a new one, as here. A SYN of another client takes over the port of a connection in TIME_WAIT when the
  last probes fail, if its sequence number is higher.
- First packets. Without a SYN only an ACK opens, with `tcp_loose`; no SYN/ACK, FIN or RST does.
- Dropped as invalid: odd flags (none, FIN without ACK, SYN with FIN or RST), a SYN of the server in an established
  connection, what lies outside the window, an old RST; wrong IPv4, TCP, UDP and echo checksums. The simulator
  translates all that. An RST inside the window, but not at its edge, is translated and ends nothing.
- ICMP. An error that quotes an IPv4 header with a wrong checksum is translated (here dropped, RFC 5508 REQ-3), and an
  echo request with a code other than 0, and echo in fragments. A TTL that runs out is answered with an error.
- Ports are unique per backend *port*, so that two rules to one backend have the range twice; a client's port that has a
  NAT port toward one of them gets the same toward the other. Here every trace uses one rule per protocol.
- Fragments leave the kernel together, when all have come: of a datagram that is incomplete or overlaps, none does; a
  fragment that comes twice does no harm.
"""

from __future__ import annotations

import math
import random
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, IPOption_NOP, UDPerror
from scapy.packet import Packet, Raw

from dataplane.kernel import COMPILED
from dataplane.packets.batch import PacketBatch
from dataplane.simulator import Outcome, Simulator
from dataplane.topology.model import Topology
from dataplane.verdict import Verdict
from tests.linux_nat import BACKEND, ENDPOINT, NAT_IP, RULES, CannotJudgeError, Router, delivered, linux_nat
from tests.strategies import fragments_of, icmp_message, internet_checksum, tcp_packet, udp_packet

CLIENT, OTHER_CLIENT, ROUTER_BEFORE, ROUTER_BEHIND = "10.0.0.4", "10.0.0.5", "10.0.0.77", "192.168.7.7"
OTHER_HOST = "192.168.61.5"
SECOND = 10**9
ERRORS = (3, 4, 11, 12)
TIMEOUTS = {
    "tcp_half_open": (120, ("tcp_timeout_syn_sent", "tcp_timeout_syn_recv")),
    "tcp_established": (1000, ("tcp_timeout_established",)),
    "tcp_half_closed": (120, ("tcp_timeout_fin_wait", "tcp_timeout_close_wait")),
    "tcp_closing": (120, ("tcp_timeout_last_ack", "tcp_timeout_time_wait")),
    "tcp_reset": (10, ("tcp_timeout_close",)),
    "udp": (120, ("udp_timeout_stream",)),
    "udp_unreplied": (120, ("udp_timeout",)),
    "icmp": (30, ("icmp_timeout",)),
}
"""Key of the simulator: seconds unless a test says otherwise, parameters of the kernel."""


def topology(nat_ports: str, **nat: Any) -> Topology:
    """The network that `tests/linux_nat.py` builds."""
    return Topology.model_validate(
        {
            "virtual_networks": [
                {"name": "contoso", "address_space": ["10.0.0.0/16"]},
                {"name": "provider", "address_space": ["192.168.0.0/16"]},
            ],
            "private_link_services": [
                {
                    "name": "service",
                    "virtual_network": "provider",
                    "nat_ips": [NAT_IP],
                    "load_balancer": {
                        "frontend_ip": "192.168.60.10",
                        "rules": [
                            {"protocol": protocol, "frontend_port": frontend, "backend_port": backend}
                            for protocol, frontend, backend in RULES
                        ],
                        "backend_pool": [BACKEND],
                    },
                    "nat": {"profile": "linux", "nat_ports": nat_ports, **nat},
                }
            ],
            "private_endpoints": [
                {"name": "endpoint", "virtual_network": "contoso", "ip": ENDPOINT, "target": "service"}
            ],
        }
    )


# --- what a packet is but for the NAT port ----------------------------------------------------------------------------


def assert_checksums_right(packet: bytes) -> None:
    """Scapy makes the same bytes when it has to find every checksum itself; of a cut quote, all but the cut one's."""
    scapy = IP(packet)
    if scapy.frag > 0 or scapy.flags.MF:
        assert internet_checksum(packet[:20]) == 0
        return
    whole = IPerror not in scapy or len(scapy[IPerror].original) == scapy[IPerror].len
    for layer in scapy.layers() if whole else (IP, ICMP, IPerror):
        without = layer in (UDP, UDPerror) and scapy[layer].chksum == 0
        if "chksum" in scapy[layer].fields and not without:
            del scapy[layer].chksum
    assert bytes(scapy) == packet


def masked(packet: bytes, nat_port: int) -> bytes:
    """The packet with a mark in place of the NAT port, and without checksums, wherever they stand."""
    header = (packet[0] & 15) * 4
    out = bytearray(packet)
    out[10:12] = bytes(2)
    protocol, payload = packet[9], bytearray(packet[header:])
    if protocol == 1:
        payload[2:4] = bytes(2)
        if payload[0] in ERRORS:
            payload[8:] = masked(bytes(payload[8:]), nat_port)
        elif payload[4:6] == struct.pack("!H", nat_port):
            payload[4:6] = b"\xff\xff"
    else:
        for at in (0, 2):
            if payload[at : at + 2] == struct.pack("!H", nat_port):
                payload[at : at + 2] = b"\xff\xff"
        at = 16 if protocol == 6 else 6
        if len(payload) >= at + 2 and (protocol == 6 or payload[6:8] != b"\0\0"):
            payload[at : at + 2] = bytes(2)
    out[header:] = payload
    return bytes(out)


def flow_of(packet: bytes) -> tuple[int, int]:
    """Protocol, and NAT port or identifier, of a packet at the server; of an error, those of its quote."""
    payload = packet[(packet[0] & 15) * 4 :]
    if packet[9] != 1:
        return packet[9], int.from_bytes(payload[0:2], "big")
    if payload[0] not in ERRORS:
        return 1, int.from_bytes(payload[4:6], "big")
    inner = payload[8 + (payload[8] & 15) * 4 :]
    return payload[17], int.from_bytes(inner[4:6] if payload[17] == 1 else inner[2:4], "big")


# --- the two, side by side --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """A packet as the kernel delivered it to the server, and as the simulator did."""

    kernel: bytes
    simulator: bytes

    @property
    def ports(self) -> tuple[int, int]:
        """Its NAT ports."""
        return flow_of(self.kernel)[1], flow_of(self.simulator)[1]


class Both:
    """The kernel and the simulator, side by side in real time."""

    def __init__(self, router: Router, simulator: Simulator) -> None:
        self.router, self.simulator = router, simulator
        self._begin = time.monotonic_ns()
        self._flows: dict[int, tuple[int, int, int]] = {}

    def now(self) -> int:
        return 1_700_000_000 * SECOND + time.monotonic_ns() - self._begin

    def from_client(self, packet: Packet | bytes) -> Pair | None:
        """Send a packet to the endpoint; what arrives at the server, or None if both drop it."""
        sent = bytes(packet)
        arrived, back = self.router.carry([sent], to_server=True)
        outcome = self.simulator.send(IP(sent), at="contoso", time_ns=self.now())
        simulated = arrivals(outcome, "provider")
        assert len(arrived) == len(simulated), f"kernel {arrived}, simulator {outcome}"
        assert back == [] or outcome.verdict == Verdict.TTL_EXPIRED
        if not arrived:
            return None
        pair = Pair(arrived[0], simulated[0])
        for packet_of_either in (pair.kernel, pair.simulator):
            assert_checksums_right(packet_of_either)
        assert masked(pair.kernel, pair.ports[0]) == masked(pair.simulator, pair.ports[1])
        assert pair.ports[0] != pair.ports[1] or pair.kernel == pair.simulator
        self._keep_apart(outcome, pair)
        return pair

    def _keep_apart(self, outcome: Outcome, pair: Pair) -> None:
        """A session keeps its ports, in either; no two sessions of a protocol have the same."""
        assert outcome.session is not None
        flow = (flow_of(pair.kernel)[0], *pair.ports)
        assert self._flows.setdefault(outcome.session, flow) == flow
        alive = self.simulator.live_sessions()["id"].tolist()
        same = [self._flows[session] for session in alive if self._flows[session][0] == flow[0]]
        assert len({kernel for _, kernel, _ in same}) == len({simulated for *_, simulated in same}) == len(same)

    def from_server(self, pair: Pair, make: Callable[[bytes], Packet | bytes]) -> bytes | None:
        """Send what `make` answers to a delivered packet, to each with its own NAT port; what arrives at the client."""
        arrived, back = self.router.carry([bytes(make(pair.kernel))], to_server=False)
        outcome = self.simulator.send(IP(bytes(make(pair.simulator))), at="provider", time_ns=self.now())
        assert arrived == arrivals(outcome, "contoso"), outcome
        assert back == []
        if not arrived:
            return None
        assert outcome.session is not None
        assert self._flows[outcome.session][1:] == pair.ports
        return arrived[0]


def arrivals(outcome: Outcome, point: str) -> list[bytes]:
    """What the simulator delivered, which is at this network."""
    assert {delivery.point for delivery in outcome.delivered} <= {point}
    return [bytes(delivery.packet) for delivery in outcome.delivered]


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Iterator[Callable[..., Both]]:
    """Makes both, with NAT ports and with timeouts in seconds set alike."""
    if request.config.getoption("--without-linux", default=False):
        pytest.skip("--without-linux: the Linux kernel did not judge")
    with ExitStack() as opened:

        def make(nat_ports: str = "2000-2999", loose: bool = True, **timeouts: int) -> Both:
            seconds = {key: timeouts.get(key, usual) for key, (usual, _) in TIMEOUTS.items()}
            try:
                router = opened.enter_context(linux_nat(nat_ports))
                router.set(checksum=1, tcp_be_liberal=0, tcp_loose=int(loose))
                router.set(**{name: seconds[key] for key, (_, names) in TIMEOUTS.items() for name in names})
            except CannotJudgeError as error:
                pytest.fail(f"the Linux kernel could not judge: {error}; --without-linux leaves it out")
            policy = {
                "first_packet": "any" if loose else "syn",
                "timeouts": {key: f"{value}s" for key, value in seconds.items()},
            }
            return Both(router, Simulator(topology(nat_ports, **policy), 0))

        yield make


def came(pair: Pair | None) -> Pair:
    """The pair, which must be one."""
    assert pair is not None, "neither delivered it"
    return pair


# --- packets ----------------------------------------------------------------------------------------------------------


def ask(port: int = 50_000, client: str = CLIENT, data: bytes = b"question", **header: Any) -> Packet:
    return IP(src=client, dst=ENDPOINT, id=7, **header) / UDP(sport=port, dport=53) / Raw(data)


def answer(asked: bytes) -> Packet:
    packet = IP(asked)
    return IP(src=BACKEND, dst=NAT_IP, id=9) / UDP(sport=packet[UDP].dport, dport=packet[UDP].sport) / Raw(b"answer!")


def elsewhere(source: str = BACKEND, port: int = 5353, to_port: int | None = None) -> Callable[[bytes], bytes]:
    """Sends an answer from another address or port, or to another one."""

    def make(asked: bytes) -> bytes:
        return udp_packet(source, port, NAT_IP, IP(asked)[UDP].sport if to_port is None else to_port, b"answer!")

    return make


def segment(
    flags: str, sequence: int, acknowledged: int = 0, data: bytes = b"", port: int = 50_000, **more: Any
) -> Packet:
    numbers = {"seq": sequence, "ack": acknowledged, "window": 8192, **more}
    return IP(src=CLIENT, dst=ENDPOINT, id=3) / TCP(sport=port, dport=443, flags=flags, **numbers) / Raw(data)


def back(flags: str, sequence: int, acknowledged: int, data: bytes = b"", **more: Any) -> Callable[[bytes], Packet]:
    """What the server sends to the port from which a packet came."""
    numbers = {"seq": sequence, "ack": acknowledged, "window": 8192, **more}

    def make(came: bytes) -> Packet:
        ports = {"sport": 8443, "dport": IP(came)[TCP].sport}
        return IP(src=BACKEND, dst=NAT_IP, id=4) / TCP(**{**ports, **numbers}, flags=flags) / Raw(data)

    return make


def handshake(both: Both, port: int = 50_000, start: int = 100) -> Pair:
    """A connection with the client at `start` + 1 and the server at 501."""
    syn = came(both.from_client(segment("S", start, port=port)))
    assert both.from_server(syn, back("SA", 500, start + 1)) is not None
    assert both.from_client(segment("A", start + 1, 501, port=port)) is not None
    return syn


def close(both: Both, pair: Pair, port: int = 50_000, start: int = 100) -> None:
    """FINs of both sides, the client's first, and the last ACK."""
    assert both.from_client(segment("FA", start + 1, 501, port=port)) is not None
    assert both.from_server(pair, back("A", 501, start + 2)) is not None
    assert both.from_server(pair, back("FA", 501, start + 2)) is not None
    assert both.from_client(segment("A", start + 2, 502, port=port)) is not None


def ping(identifier: int = 77, client: str = CLIENT, sequence: int = 3) -> Packet:
    return IP(src=client, dst=ENDPOINT) / ICMP(id=identifier, seq=sequence) / Raw(b"ping")


def pong(came: bytes) -> Packet:
    return IP(src=BACKEND, dst=NAT_IP) / ICMP(type=0, id=IP(came)[ICMP].id, seq=IP(came)[ICMP].seq) / Raw(b"ping")


def error_about(
    came: bytes, kind: int = 3, code: int = 3, source: str = BACKEND, rest: int = 0, kept: int = 1000
) -> bytes:
    """An ICMP error to the sender of a packet, which quotes its header and as much after it as is `kept`."""
    quoted = came[: 20 + kept]
    message = icmp_message(kind, code, struct.pack("!I", rest) + quoted)
    return bytes(IP(src=source, dst=IP(came).src, id=11, proto=1) / Raw(message))


def flipped(packet: bytes, at: int) -> bytes:
    """The packet with a wrong bit."""
    return packet[:at] + bytes([packet[at] ^ 1]) + packet[at + 1 :]


# --- UDP --------------------------------------------------------------------------------------------------------------


def test_a_datagram_and_its_answer(judge: Callable[..., Both]) -> None:
    both = judge()
    pair = came(both.from_client(ask(ttl=17, tos=0x28, flags="DF")))
    assert IP(pair.kernel).ttl == 16
    assert both.from_server(pair, answer) is not None
    for again in (ask(), ask(data=b""), ask(data=b"odd"), ask(data=bytes(1472)), ask(options=[IPOption_NOP()] * 4)):
        assert came(both.from_client(again)).ports == pair.ports


def test_a_source_port_in_the_range_is_kept_once(judge: Callable[..., Both]) -> None:
    both = judge()
    first, second = came(both.from_client(ask(2500))), came(both.from_client(ask(2500, OTHER_CLIENT)))
    assert first.ports == (2500, 2500)
    assert 2500 not in second.ports
    assert both.from_server(second, answer) is not None
    assert both.from_server(first, answer) is not None


def test_a_source_port_outside_of_the_range_is_changed(judge: Callable[..., Both]) -> None:
    both = judge()
    for port in (0, 1, 53, 1999, 3000, 65_535):
        assert all(2000 <= given <= 2999 for given in came(both.from_client(ask(port))).ports)
        assert both.from_server(came(both.from_client(ask(port))), answer) is not None


def test_a_datagram_without_checksum_stays_so(judge: Callable[..., Both]) -> None:
    both = judge()
    packet = ask()
    packet[UDP].chksum = 0
    pair = came(both.from_client(packet))
    assert IP(pair.kernel)[UDP].chksum == IP(pair.simulator)[UDP].chksum == 0

    def unsecured(asked: bytes) -> Packet:
        reply = answer(asked)
        reply[UDP].chksum = 0
        return reply

    arrived = both.from_server(pair, unsecured)
    assert arrived is not None
    assert IP(arrived)[UDP].chksum == 0


def with_every_word(template: bytes) -> list[bytes]:
    """A UDP packet with every word as its identification and its data (zero in the template), and right checksums."""
    words = np.arange(1 << 16)
    rows = np.tile(np.frombuffer(template, np.uint8), (len(words), 1))
    for place, checksum in ((4, 10), (28, 26)):
        total = words + (0xFFFF ^ int.from_bytes(template[checksum : checksum + 2], "big"))
        right = 0xFFFF ^ ((total & 0xFFFF) + (total >> 16))
        for at, values in ((place, words), (checksum, np.where((right == 0) & (checksum == 26), 0xFFFF, right))):
            rows[:, at], rows[:, at + 1] = values >> 8, values & 0xFF
    return [row.tobytes() for row in rows]


def test_the_checksums_are_the_kernels_for_every_value(judge: Callable[..., Both]) -> None:
    """The port is kept, so the bytes must be the same: those of 65,536 identifications and data words (RFC 1624)."""
    both = judge()
    packets = with_every_word(udp_packet(CLIENT, 2500, ENDPOINT, 53, bytes(2), identification=0))
    packets = packets if COMPILED else packets[::509]
    batch = PacketBatch.from_bytes(packets, [both.now()] * len(packets), link_type=101)
    simulated = both.simulator.process(batch, at="contoso").packets
    checksums = set()
    for start in range(0, len(packets), 64):
        arrived, _ = both.router.carry(packets[start : start + 64], to_server=True)
        assert arrived == [simulated[at] for at in range(start, min(start + 64, len(packets)))]
        checksums |= {packet[26:28] for packet in arrived}
    assert b"\0\0" not in checksums
    assert not COMPILED or b"\xff\xff" in checksums, "a sum of zero is sent as ones"


def test_an_answer_from_or_to_anywhere_else_is_dropped(judge: Callable[..., Both]) -> None:
    both = judge("2000-2998")
    pair = came(both.from_client(ask()))
    for wrong in ({"port": 5354}, {"source": OTHER_HOST}, {"to_port": 2999}, {"to_port": 50_000}):
        assert both.from_server(pair, elsewhere(**wrong)) is None
    assert both.from_server(pair, answer) is not None


def test_a_datagram_to_a_port_without_a_rule_is_dropped(judge: Callable[..., Both]) -> None:
    both = judge()
    assert both.from_client(udp_packet(CLIENT, 50_000, ENDPOINT, 9999, b"?")) is None
    assert both.from_client(tcp_packet(CLIENT, 50_000, ENDPOINT, 9999, flags="S")) is None


def test_a_time_to_live_that_runs_out_opens_nothing(judge: Callable[..., Both]) -> None:
    both = judge()
    assert both.from_client(ask(ttl=1)) is None
    assert both.router.connections() == len(both.simulator.live_sessions()) == 0
    pair = came(both.from_client(ask(ttl=2)))

    def dying(asked: bytes) -> Packet:
        reply = answer(asked)
        reply.ttl = 1
        return reply

    arrived, _ = both.router.carry([bytes(dying(pair.kernel))], to_server=False)
    assert arrived == []
    assert both.simulator.send(dying(pair.simulator), at="provider", time_ns=both.now()).delivered == []


def test_a_broken_length_is_dropped(judge: Callable[..., Both]) -> None:
    both = judge()
    for length, passes in ((0, False), (7, False), (17, False), (12, True)):
        packet = bytearray(bytes(ask()))
        packet[24:28] = struct.pack("!HH", length, 0)
        assert (both.from_client(bytes(packet)) is not None) is passes, length
    packet = bytearray(bytes(segment("S", 100)))
    packet[32] = 0x40
    assert both.from_client(bytes(packet)) is None, "a TCP header of 16 bytes"


# --- TCP --------------------------------------------------------------------------------------------------------------


def test_a_connection_from_handshake_to_close(judge: Callable[..., Both]) -> None:
    both = judge()
    options: dict[str, Any] = {"options": [("MSS", 1460), ("SAckOK", b""), ("WScale", 7), ("Timestamp", (1, 0))]}
    pair = came(both.from_client(segment("SEC", 100, **options)))
    assert both.from_server(pair, back("SAE", 500, 101, **options)) is not None
    assert both.from_client(segment("A", 101, 501)) is not None
    assert both.from_client(segment("PAU", 101, 501, b"GET /", urgptr=2)) is not None
    assert both.from_server(pair, back("PA", 501, 106, b"200 OK")) is not None
    assert both.from_client(segment("FA", 106, 507)) is not None
    assert both.from_server(pair, back("A", 507, 107)) is not None
    assert both.from_server(pair, back("PA", 507, 107, b"late")) is not None
    assert both.from_server(pair, back("FA", 511, 107)) is not None
    assert both.from_client(segment("A", 107, 512)) is not None
    assert both.from_server(pair, back("FA", 511, 107)) is not None, "a FIN again, in TIME_WAIT"


def test_a_connection_that_the_server_closes_first(judge: Callable[..., Both]) -> None:
    both = judge()
    pair = handshake(both)
    assert both.from_server(pair, back("FA", 501, 101)) is not None
    assert both.from_client(segment("PA", 101, 502, b"late")) is not None
    assert both.from_client(segment("FA", 105, 502)) is not None
    assert both.from_server(pair, back("A", 502, 106)) is not None


@pytest.mark.parametrize("port", [50_000, 2500], ids=["port changed", "port kept"])
def test_a_syn_opens_a_closed_connection_anew(judge: Callable[..., Both], port: int) -> None:
    both = judge()
    close(both, handshake(both, port), port)
    pair = came(both.from_client(segment("S", 100_000, port=port)))
    assert (pair.ports == (2500, 2500)) is (port == 2500)
    assert both.from_server(pair, back("SA", 900_000, 100_001)) is not None
    assert both.from_client(segment("A", 100_001, 900_001, port=port)) is not None
    assert both.from_server(pair, back("PA", 900_001, 100_001, b"hello")) is not None


def test_a_retransmitted_syn_keeps_its_port(judge: Callable[..., Both]) -> None:
    both = judge()
    first = came(both.from_client(segment("S", 100)))
    assert came(both.from_client(segment("S", 100))).ports == first.ports
    assert both.from_server(first, back("SA", 500, 101)) is not None
    assert both.from_server(first, back("SA", 500, 101)) is not None
    assert came(both.from_client(segment("A", 101, 501))).ports == first.ports


def test_a_reset_from_either_side_and_a_new_connection_after_it(judge: Callable[..., Both]) -> None:
    both = judge()
    for port, from_client in ((50_000, True), (50_001, False)):
        pair = handshake(both, port)
        if from_client:
            assert both.from_client(segment("R", 101, port=port)) is not None
        else:
            assert both.from_server(pair, back("RA", 501, 101)) is not None
        pair = came(both.from_client(segment("S", 77_000, port=port)))
        assert both.from_server(pair, back("SA", 88_000, 77_001)) is not None


def test_a_refused_connection_may_be_tried_again(judge: Callable[..., Both]) -> None:
    both = judge()
    for start in (100, 50_000):
        pair = came(both.from_client(segment("S", start)))
        assert both.from_server(pair, back("RA", 0, start + 1)) is not None


def test_an_unasked_segment_from_the_provider_goes_nowhere(judge: Callable[..., Both]) -> None:
    both = judge("2000-2998")
    pair = handshake(both)
    for flags in ("S", "SA", "A", "R"):
        assert both.from_server(pair, back(flags, 1, 1, dport=2999)) is None, f"{flags} to a port that is not in use"
        assert both.from_server(pair, back(flags, 501, 101, sport=8444)) is None, f"{flags} from another port"
    assert both.from_server(pair, back("PA", 501, 101, b"x")) is not None


@pytest.mark.parametrize("loose", [True, False])
def test_a_connection_in_its_middle_is_picked_up_only_if_any_first_packet_will_do(
    judge: Callable[..., Both], loose: bool
) -> None:
    both = judge(loose=loose)
    pair = both.from_client(segment("PA", 5000, 6000, b"middle"))
    assert (pair is not None) is loose
    if pair is not None:
        assert both.from_server(pair, back("PA", 6000, 5006, b"go on")) is not None
        assert came(both.from_client(segment("A", 5006, 6005))).ports == pair.ports
    assert both.from_client(segment("S", 100, port=50_001)) is not None


# --- ICMP -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "code", "rest"),
    [(3, 3, 0), (3, 4, 1400), (4, 0, 0), (11, 0, 0), (11, 1, 0), (12, 0, 20 << 24)],
    ids=["port", "too big", "quench", "ttl", "reassembly", "header"],
)
def test_an_error_about_a_request_reaches_its_sender(
    judge: Callable[..., Both], kind: int, code: int, rest: int
) -> None:
    both = judge()
    unsecured = ask(50_001)
    unsecured[UDP].chksum = 0
    opened = handshake(both)
    pairs = [came(both.from_client(packet)) for packet in (ask(), unsecured, ask(2500), segment("S", 1, port=2500))]
    for pair in (*pairs, opened):
        for source in (BACKEND, ROUTER_BEHIND):
            for kept in (1000, 8):
                error = partial(error_about, kind=kind, code=code, source=source, rest=rest, kept=kept)
                arrived = both.from_server(pair, error)
                assert arrived is not None
                assert_checksums_right(arrived)
                assert (IP(arrived).src, IP(arrived).dst) == (ENDPOINT, CLIENT)
                assert arrived[24:28] == struct.pack("!I", rest)
    assert both.from_server(pairs[0], answer) is not None, "an error ends nothing"
    assert both.from_server(opened, back("PA", 501, 101, b"x")) is not None


def test_an_error_about_an_answer_reaches_the_backend(judge: Callable[..., Both]) -> None:
    both = judge()
    for asked, reply in ((ask(), answer), (ask(2500), answer), (segment("S", 100), back("SA", 500, 101))):
        pair = came(both.from_client(asked))
        answered = both.from_server(pair, reply)
        assert answered is not None
        for source in (CLIENT, ROUTER_BEFORE):
            for kept in (1000, 8):
                error = came(both.from_client(error_about(answered, source=source, kept=kept)))
                assert error.ports == pair.ports
                assert (IP(error.kernel).src, IP(error.kernel).dst) == (NAT_IP, BACKEND)


def test_an_error_about_nothing_or_a_broken_one_is_dropped(judge: Callable[..., Both]) -> None:
    both = judge("2000-2998")
    pair = came(both.from_client(ask()))
    answered = both.from_server(pair, answer)
    assert answered is not None
    later = IP(pair.kernel)
    later.frag = 3
    del later.chksum
    wrong: dict[str, Callable[[bytes], bytes]] = {
        "about nothing": lambda came: error_about(udp_packet(NAT_IP, 2999, BACKEND, 5353, b"never sent")),
        "about another protocol": lambda came: error_about(tcp_packet(NAT_IP, pair.ports[0], BACKEND, 5353)),
        "about what the backend sent": lambda came: error_about(bytes(answer(came))),
        "to another address": lambda came: error_about(came)[:16] + bytes([192, 168, 50, 5]) + error_about(came)[20:],
        "with a wrong checksum": lambda came: flipped(error_about(came), 22),
        "cut": lambda came: error_about(came, kept=7),
        "about a later fragment": lambda came: error_about(bytes(later)),
        "redirect": lambda came: error_about(came, 5, 1),
    }
    for why, make in wrong.items():
        assert both.from_server(pair, make) is None, why
    assert both.from_client(error_about(bytes(ask()), source=CLIENT)) is None, "about what the client sent"
    assert both.from_client(flipped(error_about(answered, source=CLIENT), 22)) is None
    assert both.from_server(pair, error_about) is not None


def test_echo_goes_through_by_identifier(judge: Callable[..., Both]) -> None:
    both = judge("2000-2998")
    kept, changed, outside = (
        came(both.from_client(packet)) for packet in (ping(2042), ping(2042, OTHER_CLIENT), ping(77))
    )
    assert kept.ports == (2042, 2042)
    assert 2042 not in changed.ports
    for pair in (outside, changed, kept):
        assert both.from_server(pair, pong) is not None
        assert both.from_server(pair, pong) is not None, "a reply again"
        for bytes_kept in (1000, 8):
            arrived = both.from_server(pair, partial(error_about, code=1, source=ROUTER_BEHIND, kept=bytes_kept))
            assert arrived is not None
            assert_checksums_right(arrived)
    assert came(both.from_client(ping(2042, sequence=4))).ports == kept.ports
    for unasked in (
        IP(src=BACKEND, dst=NAT_IP) / ICMP(type=0, id=2999),
        IP(src=OTHER_HOST, dst=NAT_IP) / ICMP(type=0, id=2042),
        IP(src=BACKEND, dst=NAT_IP) / ICMP(type=8, id=2042),
    ):
        assert both.from_server(kept, lambda came, unasked=unasked: unasked) is None
    assert both.from_client(IP(src=CLIENT, dst=ENDPOINT) / ICMP(type=0, id=2042)) is None, "an unasked reply"


# --- fragments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_a_datagram_in_fragments_arrives_in_the_same_fragments(
    judge: Callable[..., Both], order: tuple[int, ...]
) -> None:
    both = judge()
    data = bytes(range(250)) * 4
    for packet, to_server in (
        (bytes(ask(2500, data=data)), True),
        (bytes(segment("S", 100, data=data, port=2500)), True),
        (udp_packet(BACKEND, 5353, NAT_IP, 2500, data), False),
    ):
        pieces = fragments_of(packet, [400, 320])
        arrived, simulated = [], []
        for at in order:
            outcome = both.simulator.send(IP(pieces[at]), at="contoso" if to_server else "provider", time_ns=both.now())
            arrived += both.router.carry([pieces[at]], to_server)[0]
            simulated += arrivals(outcome, "provider" if to_server else "contoso")
        assert len(arrived) == 3
        assert sorted(arrived) == sorted(simulated)
        for fragment in arrived:
            assert_checksums_right(fragment)


# --- many of them -----------------------------------------------------------------------------------------------------


def test_a_mixture_of_clients_errors_and_strays(judge: Callable[..., Both]) -> None:
    """300 steps: new and old flows whose ports collide, answers, errors both ways, and what nobody asked for."""
    both = judge("2000-2049")
    dice = random.Random(5)
    alive: list[tuple[Pair, Callable[[bytes], Packet]]] = []
    answers: list[bytes] = []
    dropped = 0
    for _ in range(300):
        step = dice.random()
        if step < 0.3 or not alive:
            client, port = f"10.0.0.{dice.randint(4, 8)}", dice.choice([2005, 2006, 2007, 50_000])
            packet, reply = dice.choice([(ask(port, client), answer), (ping(port, client), pong)])
            alive.append((came(both.from_client(packet)), reply))
            continue
        pair, reply = dice.choice(alive)
        source, kept = dice.choice([BACKEND, ROUTER_BEHIND]), dice.choice([8, 12, 1000])
        if step < 0.6:
            answered = both.from_server(pair, reply)
            assert answered is not None
            answers.append(answered)
        elif step < 0.75:
            error = partial(error_about, kind=dice.choice(ERRORS), source=source, kept=kept)
            assert both.from_server(pair, error) is not None
        elif step < 0.85 and answers:
            assert both.from_client(error_about(dice.choice(answers), source=ROUTER_BEFORE, kept=kept)) is not None
        else:
            dropped += both.from_server(pair, elsewhere(port=5354, to_port=dice.randrange(1990, 2060))) is None
    assert dropped > 10


# --- time -------------------------------------------------------------------------------------------------------------


class Timed:
    """A session that must end `seconds` after it was touched last."""

    def __init__(self, both: Both, name: str, pair: Pair, seconds: int) -> None:
        self.name, self.pair, self._both, self._seconds = name, pair, both, seconds
        self.touch(seconds)

    def touch(self, seconds: int) -> None:
        self.end = self._both.now() + seconds * SECOND

    def look(self) -> None:
        """Whether an error about it is delivered tells whether it is alive, and changes nothing."""
        now = self._both.now()
        arrived = self._both.from_server(self.pair, error_about)
        assert abs(now - self.end) < 0.2 * SECOND or (arrived is not None) is (now < self.end), self.name


def test_every_session_ends_at_its_time_out_and_not_before(judge: Callable[..., Both]) -> None:
    both = judge(
        loose=False, tcp_half_open=1, tcp_established=6, tcp_half_closed=5, tcp_closing=4, tcp_reset=3,
        udp=2, udp_unreplied=3, icmp=2,
    )  # fmt: skip
    sessions: dict[str, Timed] = {}

    def timed(name: str, pair: Pair | None, seconds: int) -> None:
        sessions[name] = Timed(both, name, came(pair), seconds)

    begin = both.now()
    timed("UDP one way", both.from_client(ask(50_000)), 3)
    timed("UDP", both.from_client(ask(50_001)), 3)
    timed("echo", both.from_client(ping(77)), 2)
    timed("echo, answered later", both.from_client(ping(78)), 2)
    timed("SYN", both.from_client(segment("S", 100, port=50_000)), 1)
    pair = came(both.from_client(segment("S", 100, port=50_001)))
    assert both.from_server(pair, back("SA", 500, 101)) is not None
    timed("SYN both ways", pair, 1)
    timed("established", handshake(both, 50_002), 6)
    pair = handshake(both, 50_003)
    assert both.from_client(segment("FA", 101, 501, port=50_003)) is not None
    timed("client's FIN", pair, 5)
    pair = handshake(both, 50_004)
    assert both.from_server(pair, back("FA", 501, 101)) is not None
    timed("server's FIN", pair, 5)
    for name, port in (("closed", 50_005), ("closed, refreshed", 50_006)):
        pair = handshake(both, port)
        close(both, pair, port)
        timed(name, pair, 4)
    for name, port in (("reset", 50_007), ("reset, refreshed", 50_008)):
        pair = handshake(both, port)
        assert both.from_client(segment("R", 101, port=port)) is not None
        timed(name, pair, 3)
    pair = handshake(both, 50_009)
    assert both.from_server(pair, back("RA", 501, 101)) is not None
    timed("reset by the server", pair, 3)

    def refresh(name: str, make: Callable[[bytes], Packet], seconds: int) -> None:
        assert both.from_server(sessions[name].pair, make) is not None
        sessions[name].touch(seconds)

    def at_1() -> None:
        refresh("echo, answered later", pong, 2)
        refresh("UDP", answer, 3)  # the kernel waits: the time-out of replied sessions begins with the next packet

    def at_2() -> None:
        refresh("closed, refreshed", back("FA", 501, 102), 4)
        refresh("reset, refreshed", back("A", 501, 101), 3)

    def look() -> None:
        for session in sessions.values():
            session.look()

    moments = {half + 0.5: look for half in range(7)} | {1.0: at_1, 2.0: at_2, 2.75: lambda: refresh("UDP", answer, 2)}
    for moment, act in sorted(moments.items()):
        time.sleep(max(0.0, begin / SECOND + moment - both.now() / SECOND))
        act()
    assert both.router.connections() == len(both.simulator.live_sessions()) == 0
    assert both.from_server(sessions["UDP"].pair, answer) is None
    assert both.from_server(sessions["established"].pair, back("A", 501, 101)) is None
    assert both.from_client(segment("A", 101, 501, port=50_002)) is None, "no first packet"
    assert both.from_client(ask(50_001)) is not None


def test_the_port_of_an_ended_session_serves_again(judge: Callable[..., Both]) -> None:
    both = judge("2000-2000", udp_unreplied=1)
    assert came(both.from_client(ask())).ports == (2000, 2000)
    assert both.from_client(ask(client=OTHER_CLIENT)) is None
    time.sleep(1.3)
    pair = came(both.from_client(ask(client=OTHER_CLIENT)))
    assert pair.ports == (2000, 2000)
    assert both.from_server(pair, answer) is not None
    assert both.from_client(ask()) is None


# --- when ports run out -----------------------------------------------------------------------------------------------


def newcomers(count: int, clients: int | None = None) -> list[bytes]:
    """First packets, each of a source of its own, from ports outside of every range here."""
    clients = clients or count
    return [
        udp_packet(f"10.0.{2 + n % clients // 250}.{1 + n % clients % 250}", 50_000 + n // clients, ENDPOINT, 53, data)
        for n, data in enumerate(f"number {n:5}".encode() for n in range(count))
    ]


@pytest.mark.parametrize("clients", [1, 5, None], ids=["one client", "five clients", "a client each"])
def test_a_hundred_ports_serve_a_hundred_sessions(judge: Callable[..., Both], clients: int | None) -> None:
    both = judge("2000-2099")
    pairs = [both.from_client(packet) for packet in newcomers(104, clients)]
    assert [pair is not None for pair in pairs] == [True] * 100 + [False] * 4
    assert both.router.connections() == len(both.simulator.live_sessions()) == 100
    for side in range(2):
        assert {came(pair).ports[side] for pair in pairs[:100]} == set(range(2000, 2100))
    assert both.from_server(came(pairs[0]), answer) is not None
    assert both.from_server(came(pairs[99]), answer) is not None


def test_protocols_share_no_ports(judge: Callable[..., Both]) -> None:
    both = judge("2000-2000")
    for packet in (ask(), segment("S", 100), ping()):
        assert came(both.from_client(packet)).ports == (2000, 2000)
    for packet in (ask(50_001), segment("S", 100, port=50_001), ping(78)):
        assert both.from_client(packet) is None


def first_refused(nat_ports: str, packets: list[bytes], seed: int, **nat: Any) -> int:
    """How many of these the simulator lets through before the first that it does not."""
    simulator = Simulator(topology(nat_ports, **nat), seed)
    batch = PacketBatch.from_bytes(packets, range(len(packets)), link_type=101)
    verdicts = simulator.process(batch, at="contoso").verdicts.tolist()
    return next((at for at, verdict in enumerate(verdicts) if verdict != Verdict.FORWARDED), len(packets))


def greatest_distance(first: list[int], second: list[int]) -> float:
    """The statistic of Kolmogorov and Smirnov: how far apart two empirical distributions are."""
    return max(
        abs(sum(x <= place for x in first) / len(first) - sum(x <= place for x in second) / len(second))
        for place in {*first, *second}
    )


def unlikely(first: list[int], second: list[int]) -> float:
    """The distance that two samples of one distribution exceed less than once in 10,000 times."""
    return math.sqrt(-math.log(0.00005 / 2) / 2 * (len(first) + len(second)) / (len(first) * len(second)))


def test_a_thousand_ports_run_out_early_as_often_as_in_the_kernel(judge: Callable[..., Both]) -> None:
    """248 probes may miss the last free ports, so the first failure is random: distributed as in the kernel."""
    packets = newcomers(1100)
    router = judge("2000-3023").router
    kernel = []
    for _ in range(100):
        router.forget()
        kernel.append(delivered(router, packets).index(False))
    simulated = [first_refused("2000-3023", packets, seed) for seed in range(300 if COMPILED else 8)]
    assert greatest_distance(kernel, simulated) < unlikely(kernel, simulated), (sorted(kernel), sorted(simulated))
    if COMPILED:
        for probes in (None, 10, 248, [128]):
            others = [first_refused("2000-3023", packets, seed, probes=probes) for seed in range(60)]
            assert greatest_distance(kernel, others) > unlikely(kernel, others), f"{probes} would not be noticed"
