"""What an exhaustion experiment found, in sentences: on the terminal and on the report's page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

#: Drop reasons that mean that a service's NAT had no port for a new session.
FAILURES = ("nat_ports_exhausted", "nat_port_not_found", "endpoint_port_limit")


def answers(found: dict[str, Any]) -> Iterator[str]:
    """When ports ran out, how low it came, and whether an alert would have come in time; `found` as in summary.json."""
    failure, lowest, alert = found["first_failure"], found["lowest_availability"], found["alert"]
    if failure is None:
        yield "NAT ports did not run out."
    else:
        yield f"NAT ports ran out first after {failure['time_seconds']:,.3f} s: {_pool(failure)}"
    if lowest is not None:
        at = f"in the second from {lowest['time_seconds']:,.0f} s"
        yield f"Lowest availability: {lowest['percent']:.3f} % {at}: {_pool(lowest)}"
    rule = f"usage above {alert['threshold_percent']:g} %, {alert['window']} averaged"
    if alert["fired_seconds"] is None:
        though = "" if failure is None else ", though ports ran out"
        yield f"An alert ({rule}) would not have fired{though}."
        return
    early = alert["seconds_before_first_failure"]
    when = "" if early is None else f", {abs(early):,.1f} s {'before' if early >= 0 else 'AFTER'} the first failure"
    yield f"An alert ({rule}) would have fired after {alert['fired_seconds']:,.0f} s{when}."


def _pool(names: dict[str, Any]) -> str:
    return f"{names['service']}, NAT IP {names['nat_ip']}, {names['protocol']} toward {names['backend']}"
