"""A batch of packets: one buffer of bytes and one row per packet that says where its frame lies.

Readers of captures fill batches, kernels walk and rewrite them, writers drain them. Nothing here is copied
per packet: `data` may hold anything between the frames (a capture file's own headers stay in place).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Direction of a frame as a capture file records it (pcapng `epb_flags`, bits 0-1).
UNKNOWN, INBOUND, OUTBOUND = 0, 1, 2

#: `FRAME["flags"]`: the capture's time does not fit into 64-bit nanoseconds since 1970 (`time_ns` is then 0).
TIME_UNREPRESENTABLE = 1
#: `FRAME["flags"]`: a later fragment that waited for the first of its datagram, so its time is an earlier one.
WAITED = 2

#: The times that a clock can have: the ends of 64 bits keep a minute's distance, so that a minute has an end.
FIRST_TIME, LAST_TIME = -(2**63) + 60_000_000_000, 2**63 - 1 - 60_000_000_000

#: No network is known for a frame.
NO_POINT = 0xFFFF

#: One frame: two rows share a cache line.
FRAME = np.dtype(
    [
        ("offset", np.int64),  # of the frame's first byte in the buffer
        ("time_ns", np.int64),  # nanoseconds since 1970, as captured
        ("captured", np.uint32),  # bytes of the frame that are in the buffer
        ("original", np.uint32),  # bytes that the frame had on the wire
        ("link_type", np.uint16),  # pcap LINKTYPE_ number
        ("interface", np.uint16),  # index into the batch's interfaces
        ("point", np.uint16),  # index of the network where the frame was seen
        ("direction", np.uint8),
        ("flags", np.uint8),
    ],
    align=True,
)
assert FRAME.itemsize == 32


@dataclass(frozen=True)
class Interface:
    """Where a capture file says that packets were seen (pcapng Interface Description Block)."""

    name: str = ""
    link_type: int = 1


@dataclass
class PacketBatch:
    """Packets in capture order.

    `data` is a uint8 array; `frames` a structured array of `FRAME` rows, one per packet. The columns are
    also properties (`batch.time_ns`, ...), views of shape (n,), not copies. Frames share no bytes: each is rewritten
    where it lies.
    """

    data: NDArray[np.uint8]
    frames: NDArray[Any]
    interfaces: tuple[Interface, ...] = field(default_factory=lambda: (Interface(),))
    #: Where fragments are translated: which datagram each packet is of (`Simulator.sequence` fills it), int32, or None.
    datagrams: NDArray[np.int32] | None = None
    #: So many bytes before each frame are needed by nobody (a pcap's record header was there): a writer may use them.
    #: Such data stay until the next batch but one is asked for.
    spare: int = 0

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> bytes:
        """The captured bytes of one frame."""
        row = self.frames[index]
        start = int(row["offset"])
        return self.data[start : start + int(row["captured"])].tobytes()

    @property
    def time_ns(self) -> NDArray[np.int64]:
        """Capture times, nanoseconds since 1970."""
        return self.frames["time_ns"]

    @property
    def offset(self) -> NDArray[np.int64]:
        """Where each frame starts in `data`, bytes."""
        return self.frames["offset"]

    @property
    def original_length(self) -> NDArray[np.uint32]:
        """Bytes that each frame had on the wire."""
        return self.frames["original"]

    @property
    def link_type(self) -> NDArray[np.uint16]:
        """The pcap LINKTYPE_ number of each frame."""
        return self.frames["link_type"]

    def copy(self) -> PacketBatch:
        """The same packets in memory of their own."""
        return PacketBatch(self.data.copy(), self.frames.copy(), self.interfaces, self.datagrams, self.spare)

    @classmethod
    def from_bytes(
        cls,
        packets: Iterable[bytes],
        times_ns: Iterable[int] | NDArray[np.int64] | None = None,
        link_type: int = 1,
    ) -> PacketBatch:
        """A batch of whole frames of one link type (1 Ethernet, 101 raw IP); without times all are at 0 ns."""
        frames_bytes = list(packets)
        frames = np.zeros(len(frames_bytes), FRAME)
        lengths = np.array([len(packet) for packet in frames_bytes], np.int64)
        frames["offset"] = np.concatenate(([0], np.cumsum(lengths)[:-1])) if len(lengths) else 0
        frames["captured"] = frames["original"] = lengths
        frames["link_type"] = link_type
        frames["point"] = NO_POINT
        if times_ns is not None:
            frames["time_ns"] = np.fromiter(times_ns, np.int64, len(lengths))
        data = np.frombuffer(bytearray(b"".join(frames_bytes)), np.uint8)
        return cls(data, frames, (Interface("", link_type),))
