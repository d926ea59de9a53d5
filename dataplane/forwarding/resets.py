"""The RST segments that tell both sides of an idle time-out (docs/model.md, "Resets at idle time-out").

Made from IDLE_RESET rows, all at once in numpy: two Ethernet frames a row, first the consumer's, then the backend's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.packets.batch import FRAME, Interface, PacketBatch
from dataplane.packets.headers import LINK_ETHERNET, PROTOCOL_TCP, RST
from dataplane.records import OUTCOME, RESET_TO_BACKEND, RESET_TO_CONSUMER, State
from dataplane.verdict import Verdict

_ETHERNET, _IPV4 = 14, 20
_LENGTH = _ETHERNET + _IPV4 + 20
_DO_NOT_FRAGMENT = 0x4000


def reset_packets(state: State, rows: NDArray[Any]) -> tuple[PacketBatch, NDArray[Any]]:
    """The frames of IDLE_RESET rows and their OUTCOME rows."""
    pools, endpoints = state.pools[rows["pool"]], state.endpoints[rows["endpoint"]]
    flow = rows["flow"]
    shape = (len(rows), 2)
    source, destination, source_port, destination_port, sequence = (np.zeros(shape, np.int64) for _ in range(5))
    source[:, 0], destination[:, 0] = endpoints["address"], flow >> 32 & 0xFFFFFFFF
    source_port[:, 0], destination_port[:, 0] = flow & 0xFFFF, flow >> 16 & 0xFFFF
    sequence[:, 0], sequence[:, 1] = rows["to_consumer"], rows["to_backend"]
    source[:, 1], destination[:, 1] = pools["nat_address"], pools["backend_address"]
    source_port[:, 1], destination_port[:, 1] = rows["nat_port"], rows["backend_port"]

    words = np.zeros((*shape, _LENGTH // 2), np.int64)  # 16 bits each
    words[:, :, :7] = (0x0200, 0, 2, 0x0200, 0, 1, 0x0800)
    ip, tcp = words[:, :, 7:17], words[:, :, 17:]
    ip[:, :, :5] = (0x4500, 40, 0, _DO_NOT_FRAGMENT, 64 << 8 | PROTOCOL_TCP)
    for at, value in ((6, source), (8, destination)):
        ip[:, :, at], ip[:, :, at + 1] = value >> 16, value & 0xFFFF
    ip[:, :, 5] = _checksum(ip.sum(axis=2))
    tcp[:, :, 0], tcp[:, :, 1] = source_port, destination_port
    tcp[:, :, 2], tcp[:, :, 3] = sequence >> 16, sequence & 0xFFFF
    tcp[:, :, 6] = 5 << 12 | RST
    tcp[:, :, 8] = _checksum(tcp.sum(axis=2) + ip[:, :, 6:].sum(axis=2) + PROTOCOL_TCP + 20)

    count = 2 * len(rows)
    frames = np.zeros(count, FRAME)
    frames["offset"] = np.arange(count) * _LENGTH
    frames["time_ns"] = np.repeat(rows["moment"], 2)
    frames["captured"] = frames["original"] = _LENGTH
    frames["link_type"] = LINK_ETHERNET
    outcomes = np.zeros(count, OUTCOME)
    outcomes["session"] = np.repeat(rows["id"], 2)
    outcomes["nat_address"], outcomes["nat_port"] = np.repeat(pools["nat_address"], 2), np.repeat(rows["nat_port"], 2)
    outcomes["verdict"] = Verdict.FORWARDED
    outcomes["direction"] = np.tile([RESET_TO_CONSUMER, RESET_TO_BACKEND], len(rows))
    outcomes["endpoint"] = np.repeat(rows["endpoint"], 2)
    outcomes["bytes"] = _LENGTH - _ETHERNET
    outcomes["time"] = frames["time_ns"]
    outcomes["consumer_point"] = np.repeat(rows["point"], 2)
    outcomes["provider_point"] = np.repeat(state.services["point"][endpoints["service"]], 2)
    outcomes["network_header"] = _ETHERNET
    data = words.reshape(-1).astype(">u2").view(np.uint8)
    return PacketBatch(data, frames, (Interface(),)), outcomes


def _checksum(total: NDArray[np.int64]) -> NDArray[np.int64]:
    """The internet checksum of a sum of words."""
    total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - ((total & 0xFFFF) + (total >> 16))
