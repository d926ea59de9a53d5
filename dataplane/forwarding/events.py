"""Events of a run (docs/model.md, "Events"): what they change in the tables, and which sessions they end.

They are few, so this is plain Python; that it is an event's turn is found out in `nat/life.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.forwarding.slots import backend_slots
from dataplane.forwarding.tables import nat_ips_of
from dataplane.nat.hashing import key64
from dataplane.packets.headers import PROTOCOL_TCP
from dataplane.records import DISCONNECTED, HELD, MOVED, UNUSED, State
from dataplane.topology.model import Event, PrivateLinkService, Topology

#: Rows of live sessions that end, in order of id, and how they end.
Ending = tuple[NDArray[np.int64], int]

_NOBODY = (np.zeros(0, np.int64), DISCONNECTED)


def take_place(state: State, topology: Topology, seed: int, event: Event) -> Ending:
    """Change the tables of `state` as the event says; which sessions are to be ended because of it."""
    action, address = event.action, event.address
    if not event.is_about_service:
        names = [endpoint.name for endpoint in topology.private_endpoints]
        endpoint = names.index(event.subject)
        state.endpoints[endpoint]["approved"] = action == "approve"
        if action == "approve":
            return _NOBODY
        return _live(state, _used(state)["endpoint"] == endpoint), DISCONNECTED
    number = [service.name for service in topology.private_link_services].index(event.subject)
    service = topology.private_link_services[number]
    if action in ("add_nat_ip", "remove_nat_ip"):
        place = nat_ips_of(topology, service).index(address)  # type: ignore[arg-type]
        return _nat_ip(state, number, place, action == "add_nat_ip")
    backend = service.load_balancer.backend_pool.index(address)
    return _backend(state, number, service, seed, (backend, action == "backend_up"))


def _used(state: State) -> NDArray[Any]:
    """The rows of the session table that were ever used: the table reserves many more."""
    rows: NDArray[Any] = state.sessions[: int(state.clock[0]["rows"])]
    return rows


def _live(state: State, concerned: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The rows of the live sessions among those that are concerned, in order of id."""
    kinds = _used(state)["state"]
    rows = np.flatnonzero(concerned & (kinds != UNUSED) & (kinds != HELD))
    return rows[np.argsort(state.session_ends["id"][rows], kind="stable")]


def _nat_ip(state: State, number: int, place: int, active: bool) -> Ending:
    service = state.services[number]
    first, count = int(service["first_nat_ip"]), int(service["nat_ips"])
    row = first + place
    if bool(state.nat_ips[row]["active"]) == active:
        return _NOBODY
    state.nat_ips[row]["active"] = active
    order = [one for one in state.nat_ip_order[first : first + count].tolist() if one != place]
    order += [place] if active else []
    state.nat_ip_order[first : first + len(order)] = order
    service["nat_ips"] = len(order)
    if active:
        return _NOBODY
    return _live(state, state.pools["nat_ip"][_used(state)["pool"]] == row), DISCONNECTED


def _backend(state: State, number: int, service: PrivateLinkService, seed: int, change: tuple[int, bool]) -> Ending:
    place, healthy = change
    row = state.services[number]
    pool = service.load_balancer.backend_pool
    first = int(row["first_backend"])
    health = state.backend_health[first : first + len(pool)]
    if bool(health[place]) == healthy:
        return _NOBODY
    health[place] = healthy
    row["healthy"] = np.count_nonzero(health)
    if len(pool) > 1 and row["healthy"]:
        keys = [key64(seed, "backend", service.name, str(backend)) for backend in pool]
        slots = backend_slots(keys, np.flatnonzero(health).tolist())
        state.backend_slots[int(row["first_slot"]) :][: len(slots)] = slots
    if healthy:
        return _NOBODY
    pools = state.pools[_used(state)["pool"]]
    at_backend = (pools["service"] == number) & (pools["backend_address"] == int(pool[place]))
    return _live(state, at_backend & (_used(state)["protocol"] != PROTOCOL_TCP)), MOVED
