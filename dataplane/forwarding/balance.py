"""The load balancer: which backend a new session gets, and with which NAT IP it tries first.

Everything is a hash of content (docs/model.md, "Choosing"), so adding an endpoint moves no other's sessions.
"""

from typing import Any

import numpy as np

from dataplane.forwarding.classify import pool_number
from dataplane.forwarding.tables import BY_HASH, FIVE_TUPLE, PAIRED, ROUND_ROBIN, SOURCE_IP
from dataplane.kernel import inlined
from dataplane.nat.hashing import mix, scale
from dataplane.nat.ports import free_ports

_ADDRESS_ONLY = np.uint64(0xFFFFFFFF00000000)


@inlined
def flow_hash(flow: Any, endpoint_key: Any, protocol: Any, distribution: Any) -> Any:
    """H of docs/model.md: over the fields that the distribution names, and the endpoint."""
    fields = np.uint64(flow)
    if distribution != FIVE_TUPLE:
        fields &= _ADDRESS_ONLY
        if distribution == SOURCE_IP:
            protocol = np.int64(0)
    return mix(mix(fields ^ endpoint_key) + np.uint64(protocol))


@inlined
def choose_backend(state: Any, service: Any, hashed: Any) -> Any:
    """The backend that has the slot to which the hash leads, as a place in the service's list."""
    return np.int64(state.backend_slots[service["first_slot"] + np.int64(hashed >> np.uint64(service["slot_shift"]))])


@inlined
def choose_nat_ip(state: Any, packet: Any, hashed: Any, slot: Any, backend: Any, leaving: Any) -> Any:
    """The NAT IP that a new session tries first, as a place among the service's; `leaving` as in `admit`."""
    service = state.services[packet["service"]]
    first = np.int64(service["first_nat_ip"])
    count = np.int64(service["nat_ips"])
    selection = service["selection"]
    at = np.int64(0)
    if selection == ROUND_ROBIN:
        at = state.cursors[service["first_backend"] + backend] % count
    elif selection == BY_HASH:
        at = scale(mix(hashed ^ service["nat_ip_salt"]), count)
    elif selection == PAIRED:
        key = state.endpoints[packet["endpoint"]]["key"]
        paired = flow_hash(packet["flow"], key, np.int64(0), SOURCE_IP)
        at = scale(mix(paired ^ service["nat_ip_salt"]), count)
    else:  # fill first
        while at < count:
            nat_ip = np.int64(state.nat_ip_order[first + at])
            if free_ports(state, pool_number(service, nat_ip, slot, backend), leaving) > 0:
                return nat_ip
            at += 1
        at = np.int64(0)
    return np.int64(state.nat_ip_order[first + at])


@inlined
def is_by_content(selection: Any) -> Any:
    """Whether the NAT IP that a session tries first depends on its packet only, and not on what came before."""
    return selection == BY_HASH or selection == PAIRED
