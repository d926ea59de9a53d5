"""The simulated share of refused connections is the one that Erlang's formula gives (Erlang 1917; ITU-T E.501).

Poisson arrivals to N ports, of which each is taken for a holding time with mean h, and no retries: the blocked share
is B(E, N) with E = rate × h, whatever the holding time's distribution. A UDP session holds its port until its time-out
after its last datagram, so a connection's holding time is its life plus the time-out:

- fixed: a connection is one datagram, and the time-out is the holding time;
- exponential: keep-alives closer than the time-out keep a connection's session until its end, exponentially
  distributed; the time-out is added, so that the mean is the life's plus the time-out. (A connection's steps are at
  least a round-trip apart, which makes holding times longer by some 0.01 %.)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dataplane.kernel import COMPILED
from dataplane.runs.exhaust import Exhaust, exhaust
from tests.traffic import scenario, source, topology

PORTS = 1000
POOL = topology(f"1024-{1023 + PORTS}", timeouts={"udp": "1s"})
SEEDS = 8
#: Student's t for 7 degrees of freedom, two-sided, 99 %.
T = 3.499

pytestmark = pytest.mark.skipif(not COMPILED, reason="millions of packets")


def erlang_b(offered: float, ports: int) -> float:
    """The blocked share, by the usual recursion: 1/B(E, n) = 1 + n / E · 1/B(E, n − 1)."""
    inverse = 1.0
    for n in range(1, ports + 1):
        inverse = 1 + n / offered * inverse
    return 1 / inverse


@pytest.mark.parametrize(("load", "blocked"), [(0.95, 0.0037), (1.0, 0.0248), (1.1, 0.0986)])
def test_the_recursion_gives_the_known_values(load: float, blocked: float) -> None:
    assert erlang_b(load * PORTS, PORTS) == pytest.approx(blocked, abs=0.00006)


def fixed(load: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """A holding time of 1 s."""
    clients = source(arrivals={"pattern": "poisson", "rate": load * PORTS}, round_trip="1s", hosts=50)
    return clients, {"topology": POOL, "warm_up": "30s", "duration": "600s"}


def exponential(load: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """A holding time of 9 s on average, and 1 s."""
    clients = source(
        arrivals={"pattern": "poisson", "rate": load * PORTS / 10},
        life={"distribution": "exponential", "mean": "9s"},
        keep_alive="900ms",
        round_trip="50ms",
        answer=False,
        hosts=50,
    )
    return clients, {"topology": POOL, "warm_up": "100s", "duration": "2000s"}


@pytest.mark.parametrize("load", [0.95, 1.0, 1.1])
@pytest.mark.parametrize("holding", [fixed, exponential])
def test_the_blocked_share_is_erlangs(holding: Any, load: float) -> None:
    clients, plan = holding(load)
    blocked = []
    for seed in range(SEEDS):
        counts = exhaust(Exhaust(scenario(clients, **plan), seed=seed)).findings["traffic"][0]["connections"]
        assert counts["reused"] == counts["no_client_port"] == counts["broken"] == 0
        blocked.append(counts["failed"] / counts["started"])
    expected = erlang_b(load * PORTS, PORTS)
    margin = T * float(np.std(blocked, ddof=1)) / math.sqrt(SEEDS)
    assert margin < 0.25 * expected  # else agreement would say little
    assert np.mean(blocked) == pytest.approx(expected, abs=margin), (np.mean(blocked), expected, margin)
