"""What one would write in Python: read a packet, look its sender up in a dictionary, rewrite it, write it.

Neither scapy nor dpkt is a NAT. The loop around them is the shortest that does the job: a new sender gets the next NAT
port and the next backend; nothing ever ends. Both are given fewer packets, since they need a thousand times the time;
the rate is per packet all the same.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.peers.contest import BACKENDS, Arena, Contestant, MissingError
from bench.peers.files import check_capture
from bench.workloads import BACKEND_PORT

SCAPY_PACKETS, DPKT_PACKETS = 10_000, 100_000


class Nat:
    """The dictionary: what each sender is translated to. Addresses are in the form that the library has them in."""

    def __init__(self, nat_ips: Sequence[Any], backends: Sequence[Any]) -> None:
        self._nat_ips = nat_ips
        self._backends = backends
        self._sessions: dict[Hashable, tuple[Any, int, Any]] = {}

    def translate(self, address: Any, port: int) -> tuple[Any, int, Any]:
        """NAT IP, NAT port and backend for a sender; the next ones if it is new."""
        session = self._sessions.get((address, port))
        if session is None:
            number = len(self._sessions)
            per_ip, backend = divmod(number, len(self._backends))
            nat_ip, nat_port = divmod(per_ip, 64_512)
            session = self._nat_ips[nat_ip], 1_024 + nat_port, self._backends[backend]
            self._sessions[address, port] = session
        return session


def scapy(arena: Arena, opened: ExitStack) -> Contestant:
    """scapy's packets; it computes the checksums anew because they are deleted."""
    from scapy.layers.inet import IP, UDP
    from scapy.utils import PcapReader, PcapWriter

    def loop(capture: Path, output: Path) -> None:
        nat = Nat(*_addresses(arena))
        with PcapReader(str(capture)) as reader, PcapWriter(str(output)) as writer:
            for packet in reader:
                ip, udp = packet[IP], packet[UDP]
                ip.src, udp.sport, ip.dst = nat.translate(ip.src, udp.sport)
                udp.dport = BACKEND_PORT
                del ip.chksum, udp.chksum
                writer.write(packet)

    return _contestant("scapy", loop, arena, SCAPY_PACKETS)


def dpkt(arena: Arena, opened: ExitStack) -> Contestant:
    """dpkt's packets; a checksum of 0 makes it compute a new one."""
    try:
        import dpkt as library
    except ImportError:
        raise MissingError("not installed: pip install dpkt") from None

    def loop(capture: Path, output: Path) -> None:
        nat = Nat(*([socket.inet_aton(address) for address in addresses] for addresses in _addresses(arena)))
        with capture.open("rb") as source, output.open("wb") as target:
            writer = library.pcap.Writer(target, nano=True)
            for seconds, octets in library.pcap.Reader(source):
                frame = library.ethernet.Ethernet(octets)
                ip = frame.data
                udp = ip.data
                ip.src, udp.sport, ip.dst = nat.translate(ip.src, udp.sport)
                udp.dport = BACKEND_PORT
                ip.sum = udp.sum = 0
                writer.writepkt(frame, seconds)

    return _contestant("dpkt", loop, arena, DPKT_PACKETS)


def _addresses(arena: Arena) -> tuple[list[str], list[str]]:
    """The NAT IPs and the backends that the topology has."""
    nat_ips = [f"192.168.50.{4 + number}" for number in range(arena.nat_ips)]
    return nat_ips, [f"192.168.61.{4 + number}" for number in range(BACKENDS)]


def _contestant(name: str, loop: Callable[[Path, Path], None], arena: Arena, most: int) -> Contestant:
    """A contestant that is a loop in this process, which has imported the library already."""
    capture, count = arena.capture(most)
    output = arena.folder / f"{name}.pcap"

    def one_round() -> float:
        output.unlink(missing_ok=True)
        begun = time.perf_counter()
        loop(capture, output)
        seconds = time.perf_counter() - begun
        check_capture(output, count)
        output.unlink()
        return seconds

    note = "file to file, a loop in Python; dictionary for a NAT, nothing ends"
    if count < len(arena):
        note += f"; only the first {count:,} packets"
    return Contestant(name, count, note, one_round)
