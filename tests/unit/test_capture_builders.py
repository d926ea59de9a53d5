"""Capture files written field by field, independent of the code under test."""

import struct
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np

from dataplane.capture import open_capture
from dataplane.packets.batch import FRAME, Interface, PacketBatch

Packet = tuple[int, bytes, int]  # nanoseconds, frame, original length


def pcap_file(
    packets: Sequence[Packet], *, big: bool = False, nano: bool = True, link_type: int = 1, **fields: int
) -> bytes:
    order = ">" if big else "<"
    magic = fields.get("magic", 0xA1B23C4D if nano else 0xA1B2C3D4)
    version = fields.get("major", 2), fields.get("minor", 4)
    out = struct.pack(order + "IHHiIII", magic, *version, 0, 0, fields.get("snaplen", 262144), link_type)
    for time_ns, frame, original in packets:
        seconds, rest = divmod(time_ns, 10**9)
        out += struct.pack(order + "IIII", seconds, rest if nano else rest // 1000, len(frame), original)
        if magic == 0xA1B2CD34:
            out += struct.pack(order + "IHBB", 7, 0x0800, 4, 0)
        out += frame
    return out


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def option(order: str, code: int, value: bytes) -> bytes:
    return struct.pack(order + "HH", code, len(value)) + padded(value)


def block(order: str, kind: int, body: bytes) -> bytes:
    length = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + length + body + length


def section(order: str = "<", application: str = "", length: int = -1, major: int = 1) -> bytes:
    options = option(order, 4, application.encode()) + bytes(4) if application else b""
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, major, 0, length) + options)


def interface(
    order: str = "<",
    link_type: int = 1,
    snaplen: int = 0,
    name: str = "",
    resolution: int | None = None,
    offset: int | None = None,
) -> bytes:
    body = struct.pack(order + "HHI", link_type, 0, snaplen)
    if name:
        body += option(order, 2, name.encode())
    if resolution is not None:
        body += option(order, 9, bytes([resolution]))
    if offset is not None:
        body += option(order, 14, struct.pack(order + "q", offset))
    return block(order, 1, body + bytes(4))


def enhanced(
    ticks: int, frame: bytes, original: int, order: str = "<", which: int = 0, options: bytes = b""
) -> bytes:
    head = struct.pack(order + "5I", which, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), original)
    return block(order, 6, head + padded(frame) + options)


def obsolete(ticks: int, frame: bytes, original: int, order: str = "<", which: int = 0) -> bytes:
    head = struct.pack(order + "HHIIII", which, 9, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), original)
    return block(order, 2, head + padded(frame))


def simple(frame: bytes, original: int, order: str = "<") -> bytes:
    return block(order, 3, struct.pack(order + "I", original) + padded(frame))


def pcapng_file(packets: Sequence[Packet], order: str = "<") -> bytes:
    out = section(order) + interface(order, resolution=9, name="contoso")
    return out + b"".join(enhanced(time_ns, frame, original, order) for time_ns, frame, original in packets)


PACKETS: list[Packet] = [
    (1_700_000_000_000_000_000, b"\x01" * 60, 60),
    (1_700_000_000_123_456_000, b"", 0),
    (1_699_999_999_999_999_000, bytes(range(61)), 1514),
    (1_700_000_001_000_000_000, b"\xff" * 3, 3),
]


def read(source: Any, **options: Any) -> tuple[list[Packet], Any]:
    """Every packet (copied while it is valid) and the reader."""
    reader = open_capture(BytesIO(source) if isinstance(source, bytes) else source, **options)
    packets = []
    with reader:
        for batch in reader:
            for index in range(len(batch)):
                row = batch.frames[index]
                packets.append((int(row["time_ns"]), batch[index], int(row["original"])))
    assert reader.packets == len(packets)
    return packets, reader


def rows(source: bytes) -> Any:
    """The FRAME rows of a small capture."""
    with open_capture(BytesIO(source)) as reader:
        found = [batch.frames.copy() for batch in reader]
        assert reader.damage is None
    return np.concatenate(found) if found else np.empty(0, FRAME)


def batch_of(packets: Sequence[Packet], link_type: int = 1) -> PacketBatch:
    batch = PacketBatch.from_bytes([frame for _, frame, _ in packets], [t for t, _, _ in packets], link_type)
    batch.frames["original"] = [original for _, _, original in packets]
    return PacketBatch(batch.data, batch.frames, (Interface("", link_type),))
