"""The same path for several workers: whose packet is whose, and a worker's way through its own.

A session, its NAT port and every counter that decides about another session belong to one backend's host
(docs/scale.md). So packets are classified by anybody, numbered and timed in order, and then each shard walks those
whose backends are its own.
"""

from typing import Any

import numpy as np

from dataplane.bundle import as_table
from dataplane.forwarding.balance import choose_backend, flow_hash
from dataplane.forwarding.classify import classify, tell_way
from dataplane.forwarding.clock import is_due, keep_time, time_of
from dataplane.forwarding.parse import parse
from dataplane.forwarding.pipeline import begin_packet, look_ahead, treat
from dataplane.kernel import inlined, kernel
from dataplane.nat.life import DONE, pass_time
from dataplane.records import EITHER, FIRST_FRAGMENT, ICMP_ERROR, LATER_FRAGMENT, PLAIN, TO_CONSUMER, UNTOLD
from dataplane.verdict import Verdict

_FORWARDED = int(Verdict.FORWARDED)

#: The shard of a packet whose live sessions decide which way it travels.
ASK_ALL = -1


@kernel
def take_turns(clock: Any, frames: Any, begin: Any, turns: Any) -> Any:
    """Move the clock over the frames from `begin` on and note each one's TURN, up to a minute's end or an event.

    Returns the first frame that is not before it, or for which there is no row in `turns`.
    """
    end = min(len(frames), begin + len(turns))
    for index in range(begin, end):
        now, is_ahead = time_of(clock, frames[index])
        if now >= clock["stop"]:
            return index
        keep_time(clock, frames[index], now, is_ahead)
        turns[index - begin]["now"] = now
        turns[index - begin]["number"] = clock["received"]
    return end


@kernel
def sort_out(state: Any, frames: Any, data: Any, owners: Any, packet: Any, span: Any) -> None:
    """Say which shard each frame of a span belongs to.

    Only the topology of `state` counts, where a pool's host is its shard. `packet` is a PACKET row for scratch: shards
    parse their packets again, which is no dearer than to hand the rows over. `span` is (first, one after the last,
    shards).
    """
    frames = as_table(frames)
    data = as_table(data)
    begin, end, shards = span
    for index in range(begin, end):
        parse(frames[index], data, packet)
        if packet["direction"] == UNTOLD:
            tell_way(state, frames[index], data, packet)
        owners[index] = owner_of(state, packet, index, shards)


@inlined
def owner_of(state: Any, packet: Any, place: Any, shards: Any) -> Any:
    """The shard of a packet: that of its pool, and so its backend's. One that has no session may go anywhere."""
    kind = packet["kind"]
    if packet["direction"] == EITHER:
        return np.int64(ASK_ALL)
    if packet["verdict"] != _FORWARDED or (kind != PLAIN and kind != FIRST_FRAGMENT and kind != ICMP_ERROR):
        return place % shards
    if packet["direction"] == TO_CONSUMER:
        pool = np.int64(packet["pool"])
        if pool < 0:
            return place % shards
    else:
        service = state.services[packet["service"]]
        if service["healthy"] == 0:
            return place % shards
        key = state.endpoints[packet["endpoint"]]["key"]
        hashed = flow_hash(packet["flow"], key, np.int64(packet["protocol"]), service["distribution"])
        backend = choose_backend(state, service, hashed)
        pool = np.int64(service["first_pool"]) + backend
    return np.int64(state.pools[pool]["host"])


@kernel
def follow_datagrams(state: Any, frames: Any, data: Any, owners: Any, datagrams: Any, scratch: Any) -> None:
    """Later fragments go where the first of their datagram went.

    `scratch` is (a PACKET row, the shard of every known datagram).
    """
    packet, carriers = scratch
    for index in range(len(owners)):
        slot = datagrams[index]
        if slot >= 0 and owners[index] != ASK_ALL:
            classify(state, frames[index], data, packet)
            if packet["kind"] == FIRST_FRAGMENT:
                carriers[slot] = owners[index]
            elif packet["kind"] == LATER_FRAGMENT:
                owners[index] = carriers[slot]


@kernel
def run_share(state: Any, job: Any, data: Any, begin: Any, scratch: Any, sides: Any) -> Any:
    """Send a shard's packets from `begin` on through the service; returns (status, first packet not yet done).

    `job` is (frames, turns, owners, shard), `scratch` (packets, places), `sides` (datagrams, outcomes).
    """
    frames, turns, owners, shard = job
    frames = as_table(frames)
    data = as_table(data)
    packets, places = scratch
    index = np.int64(begin)
    while index < len(frames):
        size = 0
        while size < len(packets) and index < len(frames):
            places[size] = index  # kept if it is the shard's; no branch, which nobody could foresee
            size += 1 if owners[index] == shard else 0
            index += 1
        for k in range(size):
            begin_packet(state, frames[places[k]], data, packets[k])
        for k in range(size):
            look_ahead(state, frames[places[k]], data, packets[k])
        for k in range(size):
            at = places[k]
            now = turns[at]["now"]
            if is_due(state, now):
                status = pass_time(state, now)
                if status != DONE:
                    return status, at
            turn = (at, now, turns[at]["number"])
            status = treat(state, frames[at], data, packets[k], sides, turn)
            if status != DONE:
                return status, at
    return DONE, index


@kernel
def copy_frames(source: Any, source_frames: Any, target: Any, target_frames: Any) -> None:
    """Copy the bytes of frames from where they lie in one buffer to where they lie in another."""
    for index in range(len(source_frames)):
        start = source_frames[index]["offset"]
        to = target_frames[index]["offset"]
        for at in range(source_frames[index]["captured"]):
            target[to + at] = source[start + at]
