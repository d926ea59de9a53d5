"""A packet that has no session: may it open one, and in which pool (docs/model.md, "A new session").

Nothing is changed here but what tells of a failed allocation and what a bounded search has drawn, so a refused packet
leaves no other trace.
"""

from typing import Any

import numpy as np

from dataplane.forwarding.balance import choose_backend, choose_nat_ip, flow_hash, is_by_content
from dataplane.forwarding.classify import pool_number, slot_of_protocol
from dataplane.forwarding.lookup import find_rule
from dataplane.forwarding.tables import ROUND_ROBIN
from dataplane.kernel import inlined, kernel, unlikely
from dataplane.nat.ports import CAPPED, GIVES, NOT_FOUND, foresee_port, look_for_port
from dataplane.nat.tcp import is_first_packet
from dataplane.packets.headers import PROTOCOL_ICMP, PROTOCOL_TCP
from dataplane.verdict import Verdict

_NOT_APPROVED = int(Verdict.CONNECTION_NOT_APPROVED)
_UNREACHABLE = int(Verdict.UNREACHABLE_SOURCE)
_NO_RULE = int(Verdict.NO_LOAD_BALANCING_RULE)
_NOT_FIRST = int(Verdict.NOT_FIRST_PACKET)
_NO_BACKEND = int(Verdict.NO_HEALTHY_BACKEND)
_TABLE_FULL = int(Verdict.SESSION_TABLE_FULL)
_PORT_LIMIT = int(Verdict.ENDPOINT_PORT_LIMIT)
_EXHAUSTED = int(Verdict.NAT_PORTS_EXHAUSTED)
_NOT_FOUND = int(Verdict.NAT_PORT_NOT_FOUND)

_NO_GRANT = (np.int64(-1), np.int64(-1), np.int64(-1), np.int64(-1))


@inlined
def admit(state: Any, packet: Any, arrival: Any, leaving: Any) -> Any:
    """Judge a new session: (verdict, grant). If the verdict is 0, it may be opened with the grant.

    A grant is (pool, port offset or -1, backend port, row of timeouts). `arrival` is (point, the clock, the packet's
    number), `leaving` the row of a session that ends in its favour (a SYN that opens a closing one anew), or -1.
    """
    point, now, number = arrival
    endpoint = state.endpoints[packet["endpoint"]]
    protocol = np.int64(packet["protocol"])
    flow = packet["flow"]
    if unlikely(endpoint["approved"] == 0):
        return _NOT_APPROVED, _NO_GRANT
    if unlikely(not reaches(state.prefixes, point, (flow >> 32) & 0xFFFFFFFF)):
        return _UNREACHABLE, _NO_GRANT
    service = state.services[packet["service"]]
    timeouts = np.int64(service["timeouts"])
    if unlikely(protocol == PROTOCOL_ICMP):  # an echo request needs no rule
        backend_port = np.int64(0)
    else:
        rule = find_rule(state.rules, np.int64(packet["service"]), protocol, flow & 0xFFFF)
        if unlikely(rule < 0):
            return _NO_RULE, _NO_GRANT
        backend_port = state.rules[rule]["backend_port"]
        timeouts = state.rules[rule]["timeouts"]
    if protocol == PROTOCOL_TCP and not service["any_first_packet"] and not is_first_packet(packet["tcp_flags"]):
        return _NOT_FIRST, _NO_GRANT
    if unlikely(service["healthy"] == 0):
        return _NO_BACKEND, _NO_GRANT

    slot = slot_of_protocol(service, protocol)
    pool = np.int64(packet["pool"])  # of `foresee`
    if pool < 0 or not is_by_content(service["selection"]):
        pool = _choose_pool(state, packet, slot, leaving)
    if service["sessions_per_backend"] > 0:
        host = state.pools[pool]["host"]
        live = state.host_sessions[host]
        if leaving >= 0 and state.pools[state.sessions[leaving]["pool"]]["host"] == host:
            live -= 1
        if live >= service["sessions_per_backend"]:
            return _TABLE_FULL, _NO_GRANT

    found, offset = look_for_port(state, packet, pool, backend_port, leaving)
    if found == GIVES:
        return np.int64(0), (pool, offset, backend_port, timeouts)
    capped = found == CAPPED
    not_found = found == NOT_FOUND
    if service["spill"]:
        backend = (pool - service["first_pool"]) % np.int64(service["backends"])
        for place in range(service["nat_ips"]):
            nat_ip = np.int64(state.nat_ip_order[service["first_nat_ip"] + place])
            other = pool_number(service, nat_ip, slot, backend)
            if other != pool:
                found, offset = look_for_port(state, packet, other, backend_port, leaving)
                if found == GIVES:
                    return np.int64(0), (other, offset, backend_port, timeouts)
                capped = capped or found == CAPPED
                not_found = not_found or found == NOT_FOUND
    if capped:
        return _PORT_LIMIT, _NO_GRANT
    verdict = np.int64(_NOT_FOUND if not_found else _EXHAUSTED)
    state.pools[pool]["failures"] += 1
    row = state.nat_ips[state.pools[pool]["nat_ip"]]
    row["failures"] += 1
    row["events"] += 1
    clock = state.clock[0]
    if clock["exhausted_pool"] < 0:
        clock["exhausted_pool"] = pool
        clock["exhausted_at"] = now
        clock["exhausted_by"] = number
        clock["exhausted_verdict"] = verdict
    return verdict, _NO_GRANT


@kernel
def foresee(state: Any, packet: Any) -> None:
    """Choose the pool of a packet that will probably open a session, and ask for the port that it may get.

    Where the choice is a matter of content only, it holds; else it is a guess that costs nothing when it is wrong.
    """
    service = state.services[packet["service"]]
    slot = slot_of_protocol(service, np.int64(packet["protocol"]))
    if unlikely(slot < 0 or service["healthy"] == 0):
        return
    pool = _choose_pool(state, packet, slot, np.int64(-1))
    packet["pool"] = pool
    foresee_port(state, pool)


@inlined
def _choose_pool(state: Any, packet: Any, slot: Any, leaving: Any) -> Any:
    """The pool that a new session tries first, of the `slot`th protocol; `leaving` as in `admit`."""
    service = state.services[packet["service"]]
    key = state.endpoints[packet["endpoint"]]["key"]
    hashed = flow_hash(packet["flow"], key, np.int64(packet["protocol"]), service["distribution"])
    backend = choose_backend(state, service, hashed)
    return pool_number(service, choose_nat_ip(state, packet, hashed, slot, backend, leaving), slot, backend)


@inlined
def reaches(prefixes: Any, point: Any, source: Any) -> Any:
    """Whether a source lies in a range that reaches the endpoints seen at this point."""
    for row in range(len(prefixes)):
        prefix = prefixes[row]
        if prefix["point"] == point and source & prefix["mask"] == prefix["network"]:
            return True
    return False


@inlined
def note_new_session(state: Any, packet: Any, pool: Any) -> None:
    """Move the cursor of the backend that got the session."""
    service = state.services[packet["service"]]
    if service["selection"] == ROUND_ROBIN:
        backend = (pool - service["first_pool"]) % np.int64(service["backends"])
        state.cursors[service["first_backend"] + backend] += 1
