"""A packet that has no session: may it open one, and in which pool (docs/model.md, "A new session").

Nothing is changed here but what tells of a failed allocation, so a refused packet leaves no other trace.
"""

from typing import Any

import numpy as np

from dataplane.forwarding.balance import choose_backend, choose_nat_ip, flow_hash
from dataplane.forwarding.classify import pool_number
from dataplane.forwarding.tables import find_rule
from dataplane.kernel import kernel
from dataplane.nat.ports import cap_index, free_ports, gives_back
from dataplane.nat.tcp import is_first_packet
from dataplane.packets.headers import PROTOCOL_TCP
from dataplane.verdict import Verdict

_NOT_APPROVED = int(Verdict.CONNECTION_NOT_APPROVED)
_UNREACHABLE = int(Verdict.UNREACHABLE_SOURCE)
_NO_RULE = int(Verdict.NO_LOAD_BALANCING_RULE)
_NOT_FIRST = int(Verdict.NOT_FIRST_PACKET)
_NO_BACKEND = int(Verdict.NO_HEALTHY_BACKEND)
_TABLE_FULL = int(Verdict.SESSION_TABLE_FULL)
_PORT_LIMIT = int(Verdict.ENDPOINT_PORT_LIMIT)
_EXHAUSTED = int(Verdict.NAT_PORTS_EXHAUSTED)


@kernel
def admit(state: Any, packet: Any, point: Any, now: Any, leaving: Any) -> Any:
    """Judge a new session: (0, pool, backend port) if it may be opened, else (verdict, -1, -1).

    `leaving` is the row of a session that ends in its favour (a SYN that opens a closing one anew), or -1.
    """
    endpoint = state.endpoints[packet["endpoint"]]
    protocol = np.int64(packet["protocol"])
    flow = packet["flow"]
    if not endpoint["approved"]:
        return _NOT_APPROVED, np.int64(-1), np.int64(-1)
    if not reaches(state.prefixes, point, (flow >> 32) & 0xFFFFFFFF):
        return _UNREACHABLE, np.int64(-1), np.int64(-1)
    service = state.services[packet["service"]]
    backend_port = find_rule(state.rules, np.int64(packet["service"]), protocol, flow & 0xFFFF)
    if backend_port < 0:
        return _NO_RULE, np.int64(-1), np.int64(-1)
    if protocol == PROTOCOL_TCP and not service["any_first_packet"] and not is_first_packet(packet["tcp_flags"]):
        return _NOT_FIRST, np.int64(-1), np.int64(-1)
    if service["backends"] == 0:
        return _NO_BACKEND, np.int64(-1), np.int64(-1)

    hashed = flow_hash(flow, endpoint["key"], protocol, service["distribution"])
    backend = choose_backend(state.backend_keys, service["first_backend"], service["backends"], hashed)
    slot = np.int64(service["tcp_slot"] if protocol == PROTOCOL_TCP else service["udp_slot"])
    first_choice = choose_nat_ip(state, packet, hashed, slot, backend, leaving)
    pool = pool_number(service, first_choice, slot, backend)
    if service["sessions_per_backend"] > 0:
        host = state.pools[pool]["host"]
        live = state.host_sessions[host]
        if leaving >= 0 and state.pools[state.sessions[leaving]["pool"]]["host"] == host:
            live -= 1
        if live >= service["sessions_per_backend"]:
            return _TABLE_FULL, np.int64(-1), np.int64(-1)

    free_but_capped = False
    outcome = _try_pool(state, packet, pool, leaving)
    if outcome == _GIVES:
        return np.int64(0), pool, backend_port
    if outcome == _CAPPED:
        free_but_capped = True
    if service["spill"]:
        for nat_ip in range(service["nat_ips"]):
            if nat_ip != first_choice:
                other = pool_number(service, np.int64(nat_ip), slot, backend)
                outcome = _try_pool(state, packet, other, leaving)
                if outcome == _GIVES:
                    return np.int64(0), other, backend_port
                if outcome == _CAPPED:
                    free_but_capped = True
    if free_but_capped:
        return _PORT_LIMIT, np.int64(-1), np.int64(-1)
    state.pools[pool]["failures"] += 1
    nat_ip = state.nat_ips[state.pools[pool]["nat_ip"]]
    nat_ip["failures"] += 1
    nat_ip["events"] += 1
    clock = state.clock[0]
    if clock["exhausted_pool"] < 0:
        clock["exhausted_pool"] = pool
        clock["exhausted_at"] = now
    return _EXHAUSTED, np.int64(-1), np.int64(-1)


_FULL, _CAPPED, _GIVES = 0, 1, 2


@kernel
def _try_pool(state: Any, packet: Any, number: Any, leaving: Any) -> Any:
    """Whether a pool has a port for this endpoint, once the leaving session has left."""
    service_row = np.int64(packet["service"])
    if free_ports(state, number, leaving) == 0:
        return _FULL
    cap = state.services[service_row]["endpoint_ports"]
    if cap > 0:
        taken = state.cap_counts[cap_index(state, service_row, packet["endpoint"], number)]
        if taken - gives_back(state, number, leaving) >= cap:
            return _CAPPED
    return _GIVES


@kernel
def reaches(prefixes: Any, point: Any, source: Any) -> Any:
    """Whether a source lies in a range that reaches the endpoints seen at this point."""
    for row in range(len(prefixes)):
        if prefixes[row, 0] == point and source & prefixes[row, 2] == prefixes[row, 1]:
            return True
    return False


@kernel
def note_new_session(state: Any, packet: Any, pool: Any) -> None:
    """Move the cursor of the backend that got the session."""
    service = state.services[packet["service"]]
    backend = (pool - service["first_pool"]) % np.int64(service["backends"])
    state.cursors[service["first_backend"] + backend] += 1
