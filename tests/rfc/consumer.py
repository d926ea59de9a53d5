"""A small world for the tests of this folder: consumers of one service, its backends, and a clock in nanoseconds.

The consumer's side is what RFCs call internal, the provider's what they call external.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dataplane import Outcome, Simulator, Verdict
from tests.property.networks import BACKENDS, CLIENT, ENDPOINT, RULES, network
from tests.strategies import link_frame, tcp_packet, udp_packet

SECOND = 10**9
PROVIDER = "provider"
BACKEND = BACKENDS[0]
HTTPS, HTTPS_BEHIND = 443, 8443
DNS, DNS_BEHIND = 53, 5353
Nat = tuple[str, int]


class Consumer:
    """Hosts of tenants that speak through a simulator; `profile` and `nat` are what the service's NAT is set to.

    The provider's words are sent to a NAT address and port, by the first backend. Without a time it is the clock's.
    """

    def __init__(
        self,
        profile: str = "rfc",
        *,
        tenants: int = 1,
        nat_ips: int = 1,
        backends: int = 1,
        rules: Sequence[tuple[str, int, int]] = RULES,
        more_endpoints: Sequence[str] = (),
        seed: int = 5,
        **nat: Any,
    ) -> None:
        topology = network(
            tenants=tenants,
            nat_ips=[f"10.1.0.{50 + number}" for number in range(nat_ips)],
            backends=BACKENDS[:backends],
            rules=rules,
            more_endpoints=more_endpoints,
            nat={"profile": profile, "nat_ports": "2000-2015", **nat},
        )
        self.simulator = Simulator(topology, seed=seed)

    def send(self, packet: bytes, at: str = "tenant0", time_ns: int | None = None) -> Outcome:
        """Any IPv4 packet, from a host of this network."""
        return self.simulator.send(link_frame(packet), at=at, time_ns=time_ns)

    def tcp(
        self,
        flags: str = "S",
        port: int = 50_000,
        *,
        source: object = CLIENT,
        tenant: int = 0,
        payload: bytes = b"",
        time_ns: int | None = None,
    ) -> Outcome:
        """A consumer's TCP packet to the endpoint, port 443."""
        packet = tcp_packet(source, port, ENDPOINT, HTTPS, flags, payload)
        return self.send(packet, f"tenant{tenant}", time_ns)

    def udp(
        self, port: int = 50_000, *, source: object = CLIENT, tenant: int = 0, time_ns: int | None = None
    ) -> Outcome:
        """A consumer's datagram to the endpoint, port 53."""
        return self.send(udp_packet(source, port, ENDPOINT, DNS, b"query"), f"tenant{tenant}", time_ns)

    def tcp_back(
        self,
        nat: Nat,
        flags: str = "SA",
        *,
        source: object = BACKEND,
        port: int = HTTPS_BEHIND,
        payload: bytes = b"",
        time_ns: int | None = None,
    ) -> Outcome:
        """A TCP packet from the provider's side to a NAT address and port."""
        return self.send(tcp_packet(source, port, *nat, flags, payload), PROVIDER, time_ns)

    def udp_back(
        self, nat: Nat, *, source: object = BACKEND, port: int = DNS_BEHIND, time_ns: int | None = None
    ) -> Outcome:
        """A datagram from the provider's side to a NAT address and port."""
        return self.send(udp_packet(source, port, *nat, b"answer"), PROVIDER, time_ns)

    def established(self, port: int = 50_000, *, source: object = CLIENT, time_ns: int | None = None) -> Nat:
        """A TCP connection after its handshake, all of it at one moment: its NAT address and port."""
        nat = nat_of(self.tcp("S", port, source=source, time_ns=time_ns))
        assert self.tcp_back(nat, "SA").verdict == Verdict.FORWARDED
        assert self.tcp("A", port, source=source).verdict == Verdict.FORWARDED
        return nat

    def advance(self, to_ns: int) -> None:
        """Let time pass up to this moment."""
        self.simulator.advance(to_ns=to_ns)

    @property
    def active(self) -> int:
        """How many sessions are alive."""
        return int(self.simulator.summary()["sessions"]["active"])

    def dropped(self, reason: Verdict) -> int:
        """How many packets were dropped for this reason."""
        reasons = self.simulator.summary()["dropped"]["reasons"]
        return int(reasons.get(str(reason), {"packets": 0})["packets"])

    def lives_until(self, end_ns: int) -> None:
        """The one session is alive a nanosecond before this moment, and over at it."""
        self.advance(end_ns - 1)
        assert self.active == 1
        self.advance(end_ns)
        assert self.active == 0


def nat_of(outcome: Outcome) -> Nat:
    """Where a packet that was forwarded is seen to come from."""
    assert outcome.verdict == Verdict.FORWARDED
    assert outcome.nat is not None
    return outcome.nat


def arrived(outcome: Outcome) -> bytes:
    """The one packet that was delivered, from its IPv4 header on."""
    assert outcome.verdict == Verdict.FORWARDED
    [delivery] = outcome.delivered
    return bytes(delivery.packet)[14:]
