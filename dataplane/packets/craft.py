"""Scapy packets in and out: the only room that imports scapy (GPL-2.0), and only when it is used.

Frames go in as their bytes, so a checksum or length that the user set stays as it was set.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from dataplane.packets.batch import PacketBatch
from dataplane.packets.headers import LINK_ETHERNET, LINK_LINUX_SLL, LINK_LINUX_SLL2, LINK_NULL, LINK_RAW

if TYPE_CHECKING:
    from scapy.packet import Packet

_LINK_TYPES = {
    "Ether": LINK_ETHERNET,
    "IP": LINK_RAW,
    "IPv6": LINK_RAW,
    "CookedLinux": LINK_LINUX_SLL,
    "CookedLinuxV2": LINK_LINUX_SLL2,
    "Loopback": LINK_NULL,
}


def to_batch(packets: Iterable[Packet | bytes], times_ns: Iterable[int]) -> PacketBatch:
    """A batch of scapy packets (Ethernet, IP, Linux cooked, BSD loopback) or of whole Ethernet frames as bytes.

    Raises TypeError for a packet whose first layer is none of these.
    """
    contents, link_types, originals = [], [], []
    for packet in packets:
        if isinstance(packet, (bytes, bytearray, memoryview)):
            content, link_type = bytes(packet), LINK_ETHERNET
            original = len(content)
        else:
            first = type(packet).__name__
            if first not in _LINK_TYPES:
                raise TypeError(
                    f"a packet has to begin with one of {', '.join(_LINK_TYPES)}; this one begins with {first}"
                )
            content, link_type = bytes(packet), _LINK_TYPES[first]
            original = max(len(content), packet.wirelen or 0)  # scapy keeps the wire length of a cut packet
        contents.append(content)
        link_types.append(link_type)
        originals.append(original)
    batch = PacketBatch.from_bytes(contents, times_ns)
    batch.frames["link_type"] = link_types
    batch.frames["original"] = originals
    return batch


def to_packet(content: bytes, link_type: int) -> Packet:
    """The scapy packet of a frame."""
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import CookedLinux, CookedLinuxV2, Ether, Loopback
    from scapy.packet import Raw

    if link_type == LINK_RAW:
        return (IPv6 if content[:1] and content[0] >> 4 == 6 else IP)(content)
    layers = {
        LINK_ETHERNET: Ether,
        LINK_LINUX_SLL: CookedLinux,
        LINK_LINUX_SLL2: CookedLinuxV2,
        LINK_NULL: Loopback,
    }
    return layers.get(link_type, Raw)(content)


def dotted(address: int) -> str:
    """An address as people write it."""
    return str(IPv4Address(address))
