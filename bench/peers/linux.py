"""The Linux kernel's NAT between network namespaces: client, router, server, joined by two veth pairs.

nftables rules in the router do what the service does: the endpoint becomes one of 16 backends in turn, the client one
of the NAT IPs. A packet socket at the client sends the capture's frames, a thousand per call; what arrives at the
server's interface is counted there and thrown away at once, since it is addressed to another. Sender and router share
one processor: a veth pair hands a packet over on the processor that sends it. What sending takes is measured too, with
frames that the router throws away on arrival because they carry another Ethernet address.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.peers.contest import BACKENDS, Arena, Contestant, MissingError, check
from bench.workloads import BACKEND_PORT, FRONTEND_PORT
from tests.linux_nat import CannotJudgeError, inside, run

_CLIENT_MAC, _ROUTER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"  # those in the capture
_SERVER_MAC, _NEXT_HOP_MAC = "02:00:00:00:00:03", "02:00:00:00:00:04"

_SYSCTL = Path("/proc/sys/net/netfilter")
_AT_ONCE = 1024  # the most that sendmmsg takes
_ETH_P_ALL = 3
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23
_PROBES = 64

#: Seconds without an arrival after which what has not arrived is lost.
_PATIENCE = 0.2

_VECTOR = np.dtype([("base", "u8"), ("length", "u8")])
_MESSAGE = np.dtype(
    [
        ("name", "u8"),
        ("name_length", "u8"),
        ("vector", "u8"),
        ("vector_length", "u8"),
        ("control", "u8"),
        ("control_length", "u8"),
        ("flags", "u8"),
        ("sent", "u8"),
    ]
)
assert _MESSAGE.itemsize == 64  # struct mmsghdr of 64-bit Linux


class Sender:
    """Sends the frames of a buffer from a socket: `struct mmsghdr` for all of them, made once."""

    def __init__(self, outlet: socket.socket, data: NDArray[np.uint8], frames: NDArray[Any]) -> None:
        self._outlet = outlet
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._data = data
        self._vectors = np.zeros(len(frames), _VECTOR)
        self._vectors["base"] = data.ctypes.data + frames["offset"]
        self._vectors["length"] = frames["captured"]
        self._messages = np.zeros(len(frames), _MESSAGE)
        self._messages["vector"] = self._vectors.ctypes.data + np.arange(len(frames)) * _VECTOR.itemsize
        self._messages["vector_length"] = 1

    def send(self, count: int) -> None:
        """Send the first so many frames as fast as the kernel takes them."""
        begin, first = 0, self._messages.ctypes.data
        while begin < count:
            place = ctypes.c_void_p(first + begin * _MESSAGE.itemsize)
            sent = self._libc.sendmmsg(self._outlet.fileno(), place, min(_AT_ONCE, count - begin), 0)
            if sent < 0:
                raise OSError(ctypes.get_errno(), f"sendmmsg: {os.strerror(ctypes.get_errno())}")
            begin += sent


def linux_nat(arena: Arena, opened: ExitStack) -> Contestant:
    """The kernel's NAT, sender included, and without what sending alone takes; MissingError says why not."""
    try:
        return _linux_nat(arena, opened)
    except CannotJudgeError as error:
        raise MissingError(f"not measured: {error}") from None


def _linux_nat(arena: Arena, opened: ExitStack) -> Contestant:
    if os.geteuid() != 0:
        raise MissingError("not measured: only root can make network namespaces; run it as root")
    for program, package in (("ip", "iproute2"), ("nft", "nftables")):
        if shutil.which(program) is None:
            raise MissingError(f"not installed: apt install {package}")
    _make_room(arena.sessions, opened)
    client, router, server = _namespaces(arena, opened)

    outlet = opened.enter_context(inside(client, lambda: _packet_socket("c0")))
    data = arena.original.copy()
    sender = Sender(outlet, data, arena.batch.frames)
    last_octet_of_router = arena.batch.frames["offset"] + 5
    at_server = opened.enter_context(_counters(server))
    at_router = opened.enter_context(_counters(router))
    lost: list[int] = []
    entries: list[int] = []

    def one_round() -> float:
        count, seconds = _send(sender, len(arena), lambda: _received(at_server, "s0"))
        lost.append(len(arena) - count)
        entries.append(int(inside(router, (_SYSCTL / "nf_conntrack_count").read_text)))
        if count == 0:
            raise RuntimeError("Linux delivered none of the packets")
        # What was delivered is what counts.
        return seconds * len(arena) / count

    def sending() -> float:
        data[last_octet_of_router] ^= 0xFF
        _, seconds = _send(sender, len(arena), lambda: _received(at_router, "rc"))
        data[last_octet_of_router] ^= 0xFF
        return seconds

    def told() -> str:
        return f"; {max(entries):,} tracked connections, at most {max(lost):,} packets lost per round"

    _probe(sender, server, min(_PROBES, len(arena)))
    note = "network, kernel; stateful: nftables dnat and snat, no flowtable; sender on the same processor"
    return Contestant("Linux NAT", len(arena), note, one_round, sending, "sending taken off", told)


def _namespaces(arena: Arena, opened: ExitStack) -> tuple[str, str, str]:
    """Make client, router and server; they are gone when `opened` closes."""
    names = tuple(f"peers{os.getpid()}-{letter}" for letter in "crs")
    client, router, server = names
    mtu = max(1500, arena.size)
    for name in names:
        run("ip", "netns", "add", name)
        opened.callback(run, "ip", "netns", "del", name)
    for end, namespace, own, other in (("c", client, _CLIENT_MAC, _ROUTER_MAC), ("s", server, _SERVER_MAC, None)):
        run(*f"ip link add {end}0 netns {namespace} address {own} mtu {mtu} type veth peer name r{end} netns {router}"
            f" mtu {mtu} {f'address {other}' if other else ''}".split())  # fmt: skip
    for name in names:
        inside(name, _write({"ipv6/conf/*/disable_ipv6": 1, "ipv4/conf/*/rp_filter": 0}))
    run("ip", "-n", client, "link", "set", "c0", "up")
    run("ip", "-n", server, "link", "set", "s0", "up")
    for line in (
        "link set rc up",
        "link set rs up",
        "addr add 172.31.1.1/30 dev rc",
        "addr add 172.31.2.1/30 dev rs",
        f"neigh replace 172.31.2.2 lladdr {_NEXT_HOP_MAC} dev rs nud permanent",
        "route add 10.0.0.0/8 dev rc",
        "route add 192.168.61.0/24 via 172.31.2.2",
    ):
        run("ip", "-n", router, *line.split())
    run("ip", "netns", "exec", router, "nft", "-f", "-", stdin=_rules(arena.nat_ips))
    # No connection is to end between two rounds.
    inside(router, _write({"ipv4/ip_forward": 1, "netfilter/nf_conntrack_udp_timeout": 3600}))
    return client, router, server


def _rules(nat_ips: int) -> str:
    port = BACKEND_PORT
    backends = ", ".join(f"{number} : 192.168.61.{4 + number}" for number in range(BACKENDS))
    return f"""
    table ip service {{
      chain before {{
        type nat hook prerouting priority dstnat
        ip daddr 10.0.1.5 udp dport {FRONTEND_PORT} dnat to numgen inc mod {BACKENDS} map {{ {backends} }} : {port}
      }}
      chain after {{
        type nat hook postrouting priority srcnat
        ip daddr 192.168.61.0/24 meta l4proto udp snat to 192.168.50.4-192.168.50.{3 + nat_ips}:1024-65535
      }}
    }}
    """


def _make_room(sessions: int, opened: ExitStack) -> None:
    """Let the kernel track so many connections. The setting is the whole machine's; it is put back."""
    needed = sessions + sessions // 8 + 1024
    for name in ("nf_conntrack_buckets", "nf_conntrack_max"):
        setting = _SYSCTL / name
        try:
            before = setting.read_text()
            if int(before) < needed:
                opened.callback(setting.write_text, before)
                setting.write_text(f"{needed}\n")
        except FileNotFoundError:
            raise MissingError("not measured: the kernel tracks no connections; modprobe nf_conntrack") from None
        except OSError as error:
            raise MissingError(f"not measured: {setting} is to be {needed:,} or more: {error.strerror}") from None


def _write(settings: dict[str, int]) -> Callable[[], None]:
    def write() -> None:
        for name, value in settings.items():
            for path in Path("/proc/sys/net").glob(name):
                path.write_text(f"{value}\n")

    return write


def _packet_socket(interface: str, protocol: int = 0) -> socket.socket:
    """A packet socket; without a protocol it receives nothing."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    opened.bind((interface, protocol))
    return opened


def _counters(namespace: str) -> Any:
    """The namespace's interface counters; a file opened there tells them to whoever reads it."""
    return inside(namespace, lambda: open("/proc/thread-self/net/dev", "rb", buffering=0))


def _received(counters: Any, interface: str) -> int:
    """Packets that an interface has received."""
    counters.seek(0)
    lines = counters.read().decode().splitlines()
    return next(int(line.split()[2]) for line in lines if line.split()[0] == f"{interface}:")


def _send(sender: Sender, count: int, received: Callable[[], int]) -> tuple[int, float]:
    """Send frames, on one processor; how many arrived and how long that took, to the last arrival."""
    processors = os.sched_getaffinity(0)
    before = received()
    os.sched_setaffinity(0, {max(processors)})
    try:
        begun = time.perf_counter()
        sender.send(count)
        arrived, last = received() - before, time.perf_counter()
        while arrived < count and time.perf_counter() - last < _PATIENCE:
            now = received() - before
            if now != arrived:
                arrived, last = now, time.perf_counter()
        return arrived, last - begun
    finally:
        os.sched_setaffinity(0, processors)


def _probe(sender: Sender, server: str, count: int) -> None:
    """Look at the first packets that arrive: they are to be translated as everybody else's."""
    with inside(server, lambda: _packet_socket("s0", _ETH_P_ALL)) as inlet:
        inlet.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        inlet.settimeout(2.0)
        sender.send(count)
        try:
            check(inlet.recv(65_535) for _ in range(count))
        except TimeoutError:
            raise RuntimeError(f"Linux delivered fewer than {count} of as many packets") from None
