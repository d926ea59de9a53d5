"""Draws erlang.png: refused sessions of a pool of 1,000 ports, simulated packet by packet and by Erlang's formula.

    python docs/erlang.py
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from dataplane.runs.exhaust import Exhaust, exhaust
from dataplane.runs.models import erlang_b
from dataplane.runs.scenario import Scenario

PORTS, SEEDS = 1000, 5
LOADS = [0.9, 0.95, 1.0, 1.05, 1.1, 1.15]
TOPOLOGY = {
    "virtual_networks": [
        {"name": "consumer", "address_space": ["10.0.0.0/16"]},
        {"name": "provider", "address_space": ["10.1.0.0/16"]},
    ],
    "private_link_services": [
        {
            "name": "service",
            "virtual_network": "provider",
            "nat_ips": ["10.1.0.4"],
            "load_balancer": {
                "frontend_ip": "10.1.1.4",
                "rules": [{"protocol": "udp", "frontend_port": 53, "backend_port": 53}],
                "backend_pool": ["10.1.2.4"],
            },
            "nat": {"nat_ports": f"1024-{1023 + PORTS}", "timeouts": {"udp": "1s"}},
        }
    ],
    "private_endpoints": [{"name": "endpoint", "virtual_network": "consumer", "ip": "10.0.1.5", "target": "service"}],
}
#: A holding time of 1 s for all (one datagram and the time-out), or of 9 s on average and 1 s.
HOLDING: dict[str, tuple[float, dict[str, Any]]] = {
    "fixed": (1, {"round_trip": "1s"}),
    "exponential": (
        10,
        {
            "life": {"distribution": "exponential", "mean": "9s"},
            "keep_alive": "900ms",
            "round_trip": "50ms",
            "answer": False,
        },
    ),
}


def refused(load: float, seconds: float, clients: dict[str, Any], seed: int) -> float:
    """The share of sessions that found no port, after ten holding times."""
    source = {"name": "load", "endpoint": "endpoint", "protocol": "udp", "port": 53, "hosts": 50, **clients}
    source["arrivals"] = {"pattern": "poisson", "rate": load * PORTS / seconds}
    times = {"warm_up": f"{round(10 * seconds)}s", "duration": f"{round(110 * seconds)}s"}
    scenario = Scenario.model_validate({"topology": TOPOLOGY, "traffic": [source], "seed": seed, **times})
    counts = exhaust(Exhaust(scenario)).findings["traffic"][0]["connections"]
    return float(counts["failed"] / counts["started"])


def main() -> None:
    """Simulate and draw."""
    picture, axes = plt.subplots(figsize=(6.4, 3.6), dpi=90)
    curve = [0.88 + number / 250 for number in range(71)]
    axes.plot(curve, [100 * erlang_b(load * PORTS, PORTS) for load in curve], "k-", label="Erlang B")
    for shift, (name, (seconds, clients)) in zip((-0.002, 0.002), HOLDING.items(), strict=True):
        shares = [[100 * refused(load, seconds, clients, seed) for seed in range(SEEDS)] for load in LOADS]
        middle = [statistics.mean(several) for several in shares]
        error = [2.776 * statistics.stdev(several) / SEEDS**0.5 for several in shares]
        places = [load + shift for load in LOADS]
        axes.errorbar(places, middle, error, fmt="o", markersize=4, capsize=3, label=f"simulated, {name} holding time")
    axes.set(xlabel=f"offered load, erlangs per port ({PORTS:,} ports)", ylabel="sessions refused, %")
    axes.legend()
    axes.grid(alpha=0.3)
    picture.savefig(Path(__file__).with_name("erlang.png"), bbox_inches="tight", metadata={"Software": None})


if __name__ == "__main__":
    main()
