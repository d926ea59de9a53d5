"""One-minute series against a plain computation from the sessions and packets of the same run."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given

from dataplane.metrics.series import MetricRow, minute_text
from dataplane.simulator import Simulator
from dataplane.topology.model import Topology
from tests.differential.test_engine import told_by_reference
from tests.lockstep import Sent, batch_of
from tests.reference import Outcome, ReferenceSimulator
from tests.strategies import Step, topologies, traces

MINUTE = 60 * 10**9


@given(topology=topologies(), trace=traces())
def test_every_row_of_every_minute_is_what_sessions_and_packets_say(
    topology: Topology, trace: list[Step]
) -> None:
    reference, story, received = told_by_reference(topology, trace, 0)
    rows: list[MetricRow] = []
    simulator = Simulator(topology, 0, on_minute=rows.extend)
    for step in story:
        if isinstance(step, Sent):
            simulator.process(batch_of([step], topology))
        else:
            simulator.advance(to_ns=step)
    simulator.finish()
    simulator.end_series()
    got = {(row.time, row.resource, row.metric, row.dimension): row for row in rows}
    assert len(got) == len(rows), "two rows for one minute, metric and resource"
    outcomes = [outcome for _, outcome in received]
    wanted = expected_bytes(topology, outcomes) | expected_gauges(reference, outcomes)
    assert set(got) == set(wanted)
    for key, figures in wanted.items():
        row = got[key]
        told = (row.total, row.count, row.minimum, row.maximum, row.average)
        assert told == pytest.approx(figures, abs=2e-6), (key, [outcome.clock_ns for outcome in outcomes])


def expected_bytes(topology: Topology, outcomes: list[Outcome]) -> dict[Any, Any]:
    """Rows of the byte metrics: one sample per forwarded packet."""
    samples: defaultdict[tuple[str, str, str, str], list[int]] = defaultdict(list)
    target = {endpoint.name: endpoint.target for endpoint in topology.private_endpoints}
    for outcome in outcomes:
        if str(outcome.verdict) == "forwarded":
            way = "In" if outcome.direction == "to_service" else "Out"
            assert outcome.endpoint is not None
            time = minute_text(outcome.clock_ns // MINUTE * MINUTE)
            samples[time, outcome.endpoint, f"PEBytes{way}", ""].append(outcome.bytes)
            samples[time, target[outcome.endpoint], f"PLSBytes{way}", ""].append(outcome.bytes)
    return {
        key: (sum(sizes), len(sizes), min(sizes), max(sizes), sum(sizes) / len(sizes))
        for key, sizes in samples.items()
    }


def expected_gauges(reference: ReferenceSimulator, outcomes: list[Outcome]) -> dict[Any, Any]:
    """Rows of the gauges: sums over a NAT IP's pools weighted by time, the lowest and highest of any pool."""
    if reference.clock_ns is None:
        return {}
    origin, last = reference.first_packet_ns, reference.clock_ns
    # By pool: (moment, place within the moment, +1 or -1). What is due comes before packets, those in their order.
    changes: defaultdict[int, list[tuple[int, float, int]]] = defaultdict(list)
    sessions = [*reference.ended_sessions, *reference.sessions]
    for session in sessions:
        changes[id(session.pool)].append((session.first_packet_ns, session.id, 1))
        if session.ended_ns is None:
            continue
        released = session.ended_ns + session.pool.service.nat.port_hold
        place = 0.0
        if session.ended in ("disconnected", "moved"):  # an event ended it
            place = 0.25
        elif released < session.deadline_ns:  # its consumer opened it anew
            place = min(s.id for s in sessions if s.key == session.key and s.id > session.id) - 0.5
        if released <= last:
            changes[id(session.pool)].append((released, place, -1))
    busy: defaultdict[tuple[str, Any], set[int]] = defaultdict(set)  # minutes with a row, by service and NAT IP
    for pool in reference.pools.values():
        busy[pool.service.name, pool.nat_ip] |= {moment // MINUTE for moment, _, _ in changes[id(pool)]}
    services = {e.name: e.target for e in reference.topology.private_endpoints}
    for outcome in outcomes:
        if str(outcome.verdict) == "forwarded":
            minute = outcome.clock_ns // MINUTE
            name = services[str(outcome.endpoint)]
            for nat_ip in active_nat_ips(reference, name, min((minute + 1) * MINUTE - 1, last)):
                busy[name, nat_ip].add(minute)
    for name, nat_ip, moment in reference.failures:
        busy[name, nat_ip].add(moment // MINUTE)

    rows: dict[Any, Any] = {}
    for (name, nat_ip), minutes in busy.items():
        pools = [pool for pool in reference.pools.values() if (pool.service.name, pool.nat_ip) == (name, nat_ip)]
        size = pools[0].capacity
        for minute in minutes:
            start, end = max(minute * MINUTE, origin), min((minute + 1) * MINUTE, last)
            area, level, used_of = 0, [], []
            for pool in pools:
                used = sum(step for moment, _, step in changes[id(pool)] if moment < minute * MINUTE)
                seen, at = [used], start
                inside = [c for c in changes[id(pool)] if minute * MINUTE <= c[0] < (minute + 1) * MINUTE]
                for moment, _, step in sorted(inside):
                    area += used * (moment - at)
                    used, at = used + step, moment
                    seen.append(used)
                area += used * (end - at)
                level += seen
                used_of.append(used)
            mean = area / (end - start) if end > start else sum(used_of)
            average = 100 * mean / (size * len(pools))
            low, high = 100 * min(level) / size, 100 * max(level) / size
            time = minute_text(minute * MINUTE)
            rows[time, name, "PLSNatPortsUsage", str(nat_ip)] = (average, 1, low, high, average)
            free = 100 - average
            rows[time, name, "NatPortAvailability", str(nat_ip)] = (free, 1, 100 - high, 100 - low, free)
    return rows


def active_nat_ips(reference: ReferenceSimulator, service: str, moment: int) -> list[Any]:
    """The NAT IPs that a service has at a moment, after its events."""
    nat_ips = list(reference.services[service].nat_ips)
    for event in sorted(reference.topology.events, key=lambda event: event.at):
        if reference.first_packet_ns + event.at <= moment:
            if event.add_nat_ip == service:
                nat_ips.append(event.address)
            elif event.remove_nat_ip == service:
                nat_ips.remove(event.address)
    return nat_ips
