"""An exhaustion experiment: packets made, sent and followed up, 10,000 connections a second with four packets each."""

import pytest

from bench import workloads
from dataplane.runs.exhaust import Exhaust, exhaust
from dataplane.runs.scenario import Scenario


@pytest.mark.benchmark(group="experiment")
def test_exhaust(benchmark, tell, packets):
    """SYN, SYN-ACK, ACK, RST; lives of 100 ms on average; a session stays 16 s after its RST."""
    topology = workloads.topology().model_dump(mode="json")
    balancer = topology["private_link_services"][0]["load_balancer"]
    balancer["rules"] = [{"protocol": "tcp", "frontend_port": 443, "backend_port": 8443}]
    source = {
        "name": "clients",
        "endpoint": topology["private_endpoints"][0]["name"],
        "port": 443,
        "hosts": 50,
        "arrivals": {"pattern": "poisson", "rate": 10_000},
        "life": {"distribution": "exponential", "mean": "100ms"},
        "ends": {"rst": 1},
    }
    seconds = max(1, packets // 40_000)
    scenario = Scenario.model_validate({"topology": topology, "duration": f"{seconds}s", "traffic": [source]})
    result = benchmark.pedantic(exhaust, args=(Exhaust(scenario),), rounds=3, warmup_rounds=1)
    assert result.summary["dropped"]["packets"] == 0
    tell(result.summary["received"]["packets"])


@pytest.mark.benchmark(group="experiment")
def test_exhaust_for_a_second(benchmark, tell):
    """What an experiment costs that has next to nothing to do: a sweep has many of these."""
    topology = workloads.topology(backends=1, nat_ips=1)
    endpoint = topology.private_endpoints[0].name
    arrivals = {"pattern": "constant", "rate": 10}
    source = {"name": "clients", "endpoint": endpoint, "protocol": "udp", "port": 53, "arrivals": arrivals}
    scenario = Scenario.model_validate({"topology": topology, "duration": "1s", "traffic": [source]})
    benchmark.pedantic(exhaust, args=(Exhaust(scenario),), rounds=20, warmup_rounds=1)
    tell(None)
