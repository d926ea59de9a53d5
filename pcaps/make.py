"""Makes the crafted captures in `pcaps/cases/` and regenerates what every case is expected to give.

    python pcaps/make.py            # crafted captures only
    python pcaps/make.py --expect   # expected outputs too: look at the difference before you commit it

A case is a folder with `arguments` (of `dataplane replay`, relative to the folder), its inputs, and `expected/`, the
run's folder without the manifest.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from dataplane.capture import PcapWriter
from dataplane.packets.craft import to_batch
from dataplane.runs.replay import Replay, replay
from dataplane.topology import load_topology

CASES = Path(__file__).resolve().parent / "cases"
START = 1_700_000_000_000_000_000
CLIENT_MAC, ROUTER_MAC = "02:00:00:00:00:04", "02:00:00:00:00:01"

Timed = tuple[float, Packet]

#: A time of day in milliseconds; scapy's own choice is that of the moment.
_MOMENT = 0xAFC9A3


def ethernet(packet: Packet, *, up: bool = True) -> Packet:
    """A frame from the client (or to it)."""
    sender, receiver = (CLIENT_MAC, ROUTER_MAC) if up else (ROUTER_MAC, CLIENT_MAC)
    return Ether(src=sender, dst=receiver) / packet


def conversation(client: str, port: int, endpoint: str, at: float, *, end: str = "fin") -> list[Timed]:
    """A TCP conversation as its consumer sees it: handshake, a request, an answer, and how it ends."""
    up, down = IP(src=client, dst=endpoint, ttl=64, id=port), IP(src=endpoint, dst=client, ttl=60, id=port + 1)
    there, back = {"sport": port, "dport": 443}, {"sport": 443, "dport": port}
    steps: list[tuple[bool, Packet]] = [
        (True, up / TCP(**there, flags="S", seq=100)),
        (False, down / TCP(**back, flags="SA", seq=500, ack=101)),
        (True, up / TCP(**there, flags="A", seq=101, ack=501)),
        (True, up / TCP(**there, flags="PA", seq=101, ack=501) / Raw(b"GET / HTTP/1.1\r\n\r\n")),
        (False, down / TCP(**back, flags="PA", seq=501, ack=119) / Raw(b"HTTP/1.1 204 No Content\r\n\r\n")),
    ]
    if end == "fin":
        steps += [
            (True, up / TCP(**there, flags="FA", seq=119, ack=528)),
            (False, down / TCP(**back, flags="FA", seq=528, ack=120)),
            (True, up / TCP(**there, flags="A", seq=120, ack=529)),
        ]
    elif end == "reset":
        steps.append((True, up / TCP(**there, flags="R", seq=119)))
    return [(at + 0.01 * number, ethernet(packet, up=way)) for number, (way, packet) in enumerate(steps)]


def write(path: Path, packets: Iterable[Timed]) -> None:
    """A classic pcap with nanoseconds; packets in the order given."""
    timed = list(packets)
    with PcapWriter(path) as writer:
        writer.write_batch(to_batch([p for _, p in timed], [START + round(t * 1e9) for t, _ in timed]))


def two_tenants() -> None:
    """Two networks with the same addresses, hosts and ports, at the same time."""
    for name, end in (("contoso", "fin"), ("fabrikam", "reset")):
        write(CASES / "two-tenants" / f"{name}.pcap", conversation("10.0.0.4", 50_000, "10.0.1.5", 0.0, end=end))


def exhaustion() -> None:
    """Ten clients, eight ports: the ninth finds none; after the idle time-out there are ports again."""
    packets: list[Timed] = []
    for number in range(10):
        packets += conversation("10.0.0.4", 50_000 + number, "10.0.1.5", 5.0 * number, end="never")
    packets += conversation("10.0.0.4", 51_000, "10.0.1.5", 400.0)
    write(CASES / "exhaustion" / "contoso.pcap", packets)


def tcp_life() -> None:
    """Half-open time-out, close, reset, a port that is held, a SYN that opens a closing session anew."""
    packets: list[Timed] = [(0.0, conversation("10.0.0.4", 50_000, "10.0.1.5", 0.0)[0][1])]
    packets += conversation("10.0.0.5", 50_001, "10.0.1.5", 1.0)
    packets += conversation("10.0.0.6", 50_002, "10.0.1.5", 2.0, end="reset")
    packets += conversation("10.0.0.5", 50_001, "10.0.1.5", 30.0)
    late = conversation("10.0.0.6", 50_002, "10.0.1.5", 0.0, end="never")[3][1]
    packets.append((200.0, late))
    write(CASES / "tcp-life" / "contoso.pcap", packets)


def odd_packets() -> None:
    """What a NAT must leave alone, refuse or carry unharmed: tags, padding, options, checksums, fragments, ICMP."""
    up = IP(src="10.0.0.4", dst="10.0.1.5")
    wrong = UDP(sport=50_005, dport=53, chksum=0x1234) / Raw(b"wrong checksum")
    packets = [
        ethernet(up / UDP(sport=50_000, dport=53, chksum=0) / Raw(b"no checksum")),
        ethernet(Dot1Q(vlan=7) / up / UDP(sport=50_001, dport=53) / Raw(b"one tag")),
        Ether(src=CLIENT_MAC, dst=ROUTER_MAC, type=0x88A8)
        / Dot1Q(vlan=1, type=0x8100)
        / Dot1Q(vlan=2)
        / up
        / UDP(sport=50_002, dport=53),
        Ether(bytes(ethernet(up / UDP(sport=50_003, dport=53) / Raw(b"pad"))) + bytes(15)),
        ethernet(IP(src="10.0.0.4", dst="10.0.1.5", options=[b"\x94\x04\x00\x00"]) / UDP(sport=50_004, dport=53)),
        ethernet(up / wrong),
        ethernet(IP(src="10.0.0.4", dst="10.0.1.5", ttl=1) / UDP(sport=50_006, dport=53)),
        ethernet(IP(src="10.0.0.4", dst="10.0.1.5", flags="MF") / UDP(sport=50_007, dport=53) / Raw(bytes(16))),
        ethernet(IP(src="10.0.0.4", dst="10.0.1.5", frag=3, proto=17) / Raw(bytes(16))),
        ethernet(up / ICMP() / Raw(b"ping")),
        ethernet(IP(src="10.0.0.4", dst="10.0.1.6") / UDP(sport=50_008, dport=53)),
        ethernet(IP(src="172.16.0.4", dst="10.0.1.5") / UDP(sport=50_009, dport=53)),
        ethernet(up / UDP(sport=50_010, dport=54)),
        ethernet(up / TCP(sport=50_011, dport=443, flags="A")),
        ethernet(up / TCP(sport=50_012, dport=443, flags="S", dataofs=3)),
        ethernet(IP(src="10.0.0.4", dst="10.0.1.5", ihl=4) / Raw(bytes(8))),
        Ether(src=CLIENT_MAC, dst=ROUTER_MAC, type=0x86DD) / Raw(b"\x60" + bytes(39)),
        ethernet(IP(src="10.0.1.5", dst="10.0.0.4") / UDP(sport=53, dport=50_000) / Raw(b"answer"), up=False),
        ethernet(IP(src="10.0.1.5", dst="10.0.0.4") / UDP(sport=53, dport=60_000) / Raw(b"nobody asked"), up=False),
    ]
    write(CASES / "odd-packets" / "contoso.pcap", [(0.001 * number, p) for number, p in enumerate(packets)])


def icmp_fragments_resets() -> None:
    """Errors about live sessions and about nothing, echo, fragments reversed and overlapping, an idle time-out."""
    client, endpoint = "10.0.0.4", "10.0.1.5"
    up, down = IP(src=client, dst=endpoint), IP(src=endpoint, dst=client)
    ask = up / UDP(sport=50_000, dport=53) / Raw(b"question")
    answer = down / UDP(sport=53, dport=50_000) / Raw(b"answer")
    stranger = up / UDP(sport=50_001, dport=53)
    wrong = Raw(bytes(ICMP(type=3, code=3, chksum=0x1234) / ask))
    big = IP(src=client, dst=endpoint, id=7) / UDP(sport=50_002, dport=53) / Raw(bytes(range(200)))
    pieces = fragment(IP(bytes(big)), 80)
    content = Raw(bytes(pieces[0][Raw]))
    overlapping = [IP(src=client, dst=endpoint, id=8, proto=17, flags="MF", frag=at) / content for at in (0, 2)]
    packets = [
        *((0.1 + 0.001 * n, p) for n, (_, p) in enumerate(conversation(client, 50_100, endpoint, 0.0, end="never"))),
        (1.0, ethernet(ask)),
        (1.1, ethernet(answer, up=False)),
        (1.2, ethernet(down / ICMP(type=3, code=3) / ask, up=False)),
        (1.3, ethernet(up / ICMP(type=3, code=4, nexthopmtu=1400) / answer)),
        (1.4, ethernet(down / ICMP(type=11) / stranger, up=False)),
        (1.5, ethernet(IP(src=endpoint, dst=client, proto=1) / wrong, up=False)),
        (2.0, ethernet(up / ICMP(id=42, seq=1) / Raw(b"ping"))),
        (2.1, ethernet(down / ICMP(type=0, id=42, seq=1) / Raw(b"ping"), up=False)),
        (2.2, ethernet(up / ICMP(type=13, ts_ori=_MOMENT, ts_rx=_MOMENT, ts_tx=_MOMENT))),
        *((3.0 + 0.001 * n, ethernet(piece)) for n, piece in enumerate(reversed(pieces))),
        *((4.0 + 0.001 * n, ethernet(piece)) for n, piece in enumerate(overlapping)),
        (5.0, ethernet(IP(src=client, dst=endpoint, id=9, proto=17, frag=10) / Raw(b"no first fragment"))),
        (40.0, ethernet(ask)),
        (8_000.0, ethernet(ask)),
    ]
    write(CASES / "icmp-fragments-resets" / "contoso.pcap", packets)


def run_case(case: Path, folder: Path) -> None:
    """Run what a case's `arguments` say, into `folder`."""
    words = shlex.split((case / "arguments").read_text())
    captures: list[str] = []
    topology, seed = None, 0
    while words:
        word = words.pop(0)
        if word == "-t":
            topology = load_topology(case / words.pop(0))
        elif word == "--seed":
            seed = int(words.pop(0))
        else:
            point, equals, path = word.rpartition("=")
            captures.append(f"{point}{equals}{case / path}")
    replay(Replay(captures, topology=topology, seed=seed, folder=folder))


def main() -> None:
    """Make captures, and with --expect what every case gives."""
    for make in (two_tenants, exhaustion, tcp_life, odd_packets, icmp_fragments_resets):
        make()
    if "--expect" in sys.argv[1:]:
        for case in sorted(path.parent for path in CASES.glob("*/arguments")):
            with tempfile.TemporaryDirectory() as name:
                run_case(case, Path(name))
                (Path(name) / "manifest.json").unlink()
                shutil.rmtree(case / "expected", ignore_errors=True)
                shutil.copytree(name, case / "expected")
            print(case.name)


if __name__ == "__main__":
    main()
