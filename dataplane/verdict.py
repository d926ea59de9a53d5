"""Every verdict on a packet: the enum, its word, and the sentence that explains it.

This is the only list of drop reasons. Values are small integers, since kernels write them into
a uint8 column; words are what users see in summaries, captures and `str(verdict)`.
"""

from enum import IntEnum


class Verdict(IntEnum):
    """What became of one packet. `str(verdict)` is the word that files and commands use."""

    FORWARDED = 0
    BYPASSED = 1
    MALFORMED = 2
    TTL_EXPIRED = 3
    UNSUPPORTED_PROTOCOL = 4
    FRAGMENT_UNRESOLVED = 5
    FILTERED = 6
    NO_SESSION = 7
    CONNECTION_NOT_APPROVED = 8
    UNREACHABLE_SOURCE = 9
    NO_LOAD_BALANCING_RULE = 10
    NOT_FIRST_PACKET = 11
    NO_HEALTHY_BACKEND = 12
    SESSION_TABLE_FULL = 13
    ENDPOINT_PORT_LIMIT = 14
    NAT_PORTS_EXHAUSTED = 15
    ICMP_UNMATCHED = 16
    ICMP_CHECKSUM_WRONG = 17
    FRAGMENT_OVERLAP = 18
    NAT_PORT_NOT_FOUND = 19
    #: It waits, and is received once its first fragment has come: no verdict yet, so only `Simulator.send` says so.
    FRAGMENT_HELD = 20

    def __str__(self) -> str:
        return self.name.lower()

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    @property
    def is_drop(self) -> bool:
        """True for every reason for which a packet is not passed on."""
        return self > Verdict.BYPASSED and self != Verdict.FRAGMENT_HELD

    @property
    def explanation(self) -> str:
        """One sentence for people."""
        return _EXPLANATIONS[self]


_EXPLANATIONS = {
    Verdict.FORWARDED: "Translated and delivered on the other side.",
    Verdict.BYPASSED: "Not addressed to or from a private endpoint: Private Link does not touch it.",
    Verdict.MALFORMED: "A header length contradicts the packet, or the header is not all there.",
    Verdict.TTL_EXPIRED: "The time to live would reach zero on the way.",
    Verdict.UNSUPPORTED_PROTOCOL: "Private Link carries TCP and UDP only; of ICMP, what `icmp` allows.",
    Verdict.FRAGMENT_UNRESOLVED: "An IPv4 fragment: its ports are not known, so no session can be found.",
    Verdict.FILTERED: "Sent by a backend to a NAT port that belongs to another backend port.",
    Verdict.NO_SESSION: "A reply for which no session is alive.",
    Verdict.CONNECTION_NOT_APPROVED: "The private endpoint's connection is not approved.",
    Verdict.UNREACHABLE_SOURCE: "The sender is in no address range that reaches this endpoint.",
    Verdict.NO_LOAD_BALANCING_RULE: "No load-balancing rule has this protocol and frontend port.",
    Verdict.NOT_FIRST_PACKET: "A TCP session starts with a SYN, and this is none.",
    Verdict.NO_HEALTHY_BACKEND: "The backend pool has no backend to choose.",
    Verdict.SESSION_TABLE_FULL: "The backend's host holds as many live sessions as it may.",
    Verdict.ENDPOINT_PORT_LIMIT: "The endpoint holds as many NAT ports as it may, though ports are free.",
    Verdict.NAT_PORTS_EXHAUSTED: "Every NAT port toward the backend is in use or held.",
    Verdict.ICMP_UNMATCHED: "An ICMP error about a packet of no live session.",
    Verdict.ICMP_CHECKSUM_WRONG: "An ICMP error whose checksum, or that of the header it quotes, is wrong.",
    Verdict.FRAGMENT_OVERLAP: "A fragment of a datagram whose fragments overlap or contradict each other.",
    Verdict.NAT_PORT_NOT_FOUND: "NAT ports are free, but the allocator found none: its probes hit taken ones, or "
    "no block is free.",
    Verdict.FRAGMENT_HELD: "A later fragment that waits for the first of its datagram.",
}
