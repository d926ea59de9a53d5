"""The Linux kernel's NAT as a Private Link service: a client, a router that translates twice, a server.

Three network namespaces joined by two veth pairs. The router's nftables rules translate the destination (endpoint to
backend) and the source (client to NAT IP), which is what a service does. Client and server are packet sockets: no stack
answers there, and every frame is written and read as it is.

What the router drops is known without waiting: behind the packets goes a *mark*, of a protocol that nobody tracks or
translates, from the same processor, whose queue keeps the order. When the mark comes out, all before it has been done.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

CLIENT_MAC, SERVER_MAC = "02:00:00:00:0c:01", "02:00:00:00:05:01"
ROUTER_MACS = "02:00:00:00:0c:02", "02:00:00:00:05:02"
ENDPOINT, BACKEND, NAT_IP = "10.0.1.5", "192.168.61.4", "192.168.50.4"

#: The second frontend port goes to a second port of the same backend.
RULES = (("tcp", 443, 8443), ("tcp", 444, 8444), ("udp", 53, 5353), ("udp", 54, 5354))

#: Seconds until a mark that does not come is an error.
PATIENCE = 10.0

_MARK_PROTOCOL, _MARK_AT_CLIENT, _MARK_AT_SERVER = 253, "198.51.100.1", "198.51.100.2"
_CLONE_NEWNET = 0x40000000
_ETH_P_ALL = 3
_PACKET_IGNORE_OUTGOING = 23
_SOL_PACKET = 263
_NETLINK_NETFILTER = 12
_CONNTRACK_DELETE = 1 << 8 | 2
_REQUEST_WITH_ANSWER = 1 | 4

T = TypeVar("T")


class CannotJudgeError(Exception):
    """The machine has no means to make the namespaces; the text says which."""


def run(*command: str, stdin: str | None = None) -> None:
    """Run a program; CannotJudgeError with what it said if it fails."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, input=stdin)
    except FileNotFoundError:
        raise CannotJudgeError(f"{command[0]} is not installed") from None
    except subprocess.CalledProcessError as error:
        raise CannotJudgeError(f"{' '.join(command)}: {error.stderr.strip() or error}") from None


def inside(namespace: str, act: Callable[[], T]) -> T:
    """Do something in another network namespace; a thread goes there, so that the process does not."""
    done: list[T] = []
    failed: list[OSError] = []

    def go() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            with open(f"/run/netns/{namespace}") as place:
                if libc.setns(place.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")
            done.append(act())
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    if failed:
        raise CannotJudgeError(f"in a network namespace: {failed[0]}")
    return done[0]


class Host:
    """One end: a packet socket that speaks IPv4 with the router."""

    def __init__(self, namespace: str, interface: str, own: str, router: str) -> None:
        def open_socket() -> socket.socket:
            packet_socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            packet_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            packet_socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            packet_socket.bind((interface, 0))
            packet_socket.settimeout(PATIENCE)
            return packet_socket

        self.socket = inside(namespace, open_socket)
        self._header = bytes.fromhex((router + own).replace(":", "")) + b"\x08\x00"

    def send(self, packet: bytes) -> None:
        self.socket.send(self._header + packet)

    def receive(self, until: bytes) -> list[bytes]:
        """The IPv4 packets that came before a mark."""
        packets: list[bytes] = []
        while True:
            packet = _ipv4_of(self.socket.recv(65535))
            if packet[9:10] + packet[20:] == bytes([_MARK_PROTOCOL]) + until:
                return packets
            packets += [packet] if packet else []

    def pending(self) -> list[bytes]:
        """The IPv4 packets that are there now."""
        packets: list[bytes] = []
        self.socket.setblocking(False)
        try:
            while True:
                packet = _ipv4_of(self.socket.recv(65535))
                packets += [packet] if packet else []
        except BlockingIOError:
            return packets
        finally:
            self.socket.settimeout(PATIENCE)


def _ipv4_of(frame: bytes) -> bytes:
    """The IPv4 packet in a frame, without Ethernet's padding; nothing if it is of another protocol."""
    if frame[12:14] != b"\x08\x00":
        return b""
    (length,) = struct.unpack_from("!H", frame, 16)
    return frame[14 : 14 + length]


def _mark(number: int, source: str, destination: str) -> bytes:
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, _MARK_PROTOCOL, 0,
        socket.inet_aton(source), socket.inet_aton(destination),
    )  # fmt: skip
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return header[:10] + struct.pack("!H", ~total & 0xFFFF) + header[12:] + struct.pack("!Q", number)


class Router:
    """The kernel's NAT between a client and a server."""

    def __init__(self, prefix: str, opened: ExitStack) -> None:
        self.namespace = f"{prefix}-r"
        self.client = Host(f"{prefix}-c", "c0", CLIENT_MAC, ROUTER_MACS[0])
        opened.callback(self.client.socket.close)
        self.server = Host(f"{prefix}-s", "s0", SERVER_MAC, ROUTER_MACS[1])
        opened.callback(self.server.socket.close)
        self._netlink = inside(
            self.namespace, lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        )
        opened.callback(self._netlink.close)
        self._marks = 0

    def set(self, **values: int) -> None:
        """Set nf_conntrack parameters, such as `udp_timeout=2`, in seconds."""

        def write() -> None:
            for name, value in values.items():
                Path(f"/proc/sys/net/netfilter/nf_conntrack_{name}").write_text(f"{value}\n")

        inside(self.namespace, write)

    def connections(self) -> int:
        """How many connections the kernel tracks."""
        return inside(self.namespace, lambda: int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text()))

    def forget(self) -> None:
        """End every connection."""
        self._netlink.send(struct.pack("=IHHII4x", 20, _CONNTRACK_DELETE, _REQUEST_WITH_ANSWER, 0, 0))
        (error,) = struct.unpack_from("=i", self._netlink.recv(4096), 16)
        if error != 0:
            raise OSError(-error, f"conntrack -F: {os.strerror(-error)}")

    def carry(self, packets: Iterable[bytes], to_server: bool) -> tuple[list[bytes], list[bytes]]:
        """Send packets from one end: what comes out at the other, and what comes back."""
        sender, receiver = (self.client, self.server) if to_server else (self.server, self.client)
        ends = (_MARK_AT_CLIENT, _MARK_AT_SERVER) if to_server else (_MARK_AT_SERVER, _MARK_AT_CLIENT)
        self._marks += 1
        mark = _mark(self._marks, *ends)
        processors = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(processors)})
        try:
            for packet in packets:
                sender.send(packet)
            sender.send(mark)
        finally:
            os.sched_setaffinity(0, processors)
        return receiver.receive(until=mark[20:]), sender.pending()


def _rules(nat_ports: str) -> str:
    before = "\n".join(
        f"ip daddr {ENDPOINT} {protocol} dport {frontend} dnat to {BACKEND}:{backend}"
        for protocol, frontend, backend in RULES
    )
    after = "\n".join(
        f"ip daddr {BACKEND} meta l4proto {protocol} snat to {NAT_IP}:{nat_ports}"
        for protocol in ("tcp", "udp", "icmp")
    )
    return f"""
    table ip service {{
      chain marks {{
        type filter hook prerouting priority raw
        ip protocol {_MARK_PROTOCOL} notrack
      }}
      chain before {{
        type nat hook prerouting priority dstnat
        {before}
        ip daddr {ENDPOINT} icmp type echo-request dnat to {BACKEND}
      }}
      chain forward {{
        type filter hook forward priority filter
        ct state invalid drop
      }}
      chain after {{
        type nat hook postrouting priority srcnat
        {after}
      }}
    }}
    """


def _links(prefix: str) -> str:
    """Commands for `ip`: the namespaces and what joins them."""
    lines = [f"netns add {prefix}-{name}" for name in "crs"]
    for name, own, other in (("c", CLIENT_MAC, ROUTER_MACS[0]), ("s", SERVER_MAC, ROUTER_MACS[1])):
        lines.append(
            f"link add {name}0 netns {prefix}-{name} address {own} type veth "
            f"peer name r{name} netns {prefix}-r address {other}"
        )
    return "\n".join(lines)


def _routes() -> str:
    """Commands for `ip` in the router: what it is called, who its neighbours are, what lies behind them."""
    lines = []
    for name, mac, number, behind in (
        ("c", CLIENT_MAC, 1, ("10.0.0.0/8", _MARK_AT_CLIENT)),
        ("s", SERVER_MAC, 2, ("192.168.0.0/16", _MARK_AT_SERVER)),
    ):
        lines += [
            f"link set r{name} up",
            f"addr add 172.31.{number}.1/30 dev r{name}",
            f"neigh replace 172.31.{number}.2 lladdr {mac} dev r{name} nud permanent",
            *(f"route add {network} via 172.31.{number}.2" for network in behind),
        ]
    # What is not translated goes nowhere.
    return "\n".join([*lines, f"route add blackhole {ENDPOINT}/32", f"route add blackhole {NAT_IP}/32"])


def _settings(values: Sequence[str]) -> Callable[[], None]:
    def write() -> None:
        for entry in values:
            name, value = entry.split("=")
            for path in Path("/proc/sys/net").glob(name):
                path.write_text(value + "\n")

    return write


_made = 0


@contextmanager
def linux_nat(nat_ports: str) -> Iterator[Router]:
    """A router whose NAT ports toward the backend are these; everything is gone afterwards."""
    global _made
    _made += 1
    if os.geteuid() != 0:
        raise CannotJudgeError("only root can make network namespaces")
    for program, package in (("ip", "iproute2"), ("nft", "nftables")):
        if shutil.which(program) is None:
            raise CannotJudgeError(f"{program} is not installed (Debian package: {package})")
    prefix = f"dp{os.getpid()}x{_made}"
    quiet = ("ipv6/conf/*/disable_ipv6=1", "ipv4/conf/*/rp_filter=0", "ipv4/conf/*/arp_ignore=8")
    with ExitStack() as opened:
        opened.callback(_remove, [f"{prefix}-{name}" for name in "crs"])
        run("ip", "-batch", "-", stdin=_links(prefix))
        for name in "crs":
            inside(f"{prefix}-{name}", _settings(quiet if name != "r" else (*quiet, "ipv4/ip_forward=1")))
        for name in "cs":
            run("ip", "-n", f"{prefix}-{name}", "link", "set", f"{name}0", "up")
        run("ip", "-n", f"{prefix}-r", "-batch", "-", stdin=_routes())
        run("ip", "netns", "exec", f"{prefix}-r", "nft", "-f", "-", stdin=_rules(nat_ports))
        yield Router(prefix, opened)


def _remove(namespaces: Sequence[str]) -> None:
    """Remove all that exist; say what could not be removed."""
    failed = []
    for namespace in namespaces:
        if Path(f"/run/netns/{namespace}").exists():
            try:
                run("ip", "netns", "del", namespace)
            except CannotJudgeError as error:
                failed.append(str(error))
    if failed:
        raise OSError("; ".join(failed))


def delivered(router: Router, packets: Sequence[bytes], at_once: int = 64) -> list[bool]:
    """Send packets of 8 or more bytes of UDP data, all different there: which of them come to the server."""
    came: list[bool] = []
    for start in range(0, len(packets), at_once):
        part = packets[start : start + at_once]
        data = {packet[28:] for packet in router.carry(part, to_server=True)[0]}
        came += [packet[28:] in data for packet in part]
    return came
