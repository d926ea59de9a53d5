"""What a scenario file says: a topology, the traffic that is sent to it, and the alert that is to warn in time.

Objects are frozen, names are those of the file, durations nanoseconds. `runs/scenario_file.py` reads files.
"""

from __future__ import annotations

import math
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    StrictBool,
    ValidationError,
    model_validator,
)

from dataplane.runs.frames import MOST_PACKETS
from dataplane.runs.payload import MOST_PAYLOAD
from dataplane.runs.scenario_values import Copies, FileName, Moments, PayloadBytes, Percent, Rate, Shape, Share, Speed
from dataplane.topology.check import error_with, findings_of
from dataplane.topology.draft import Finding
from dataplane.topology.model import Event, Protocol, Topology
from dataplane.topology.parts import Part
from dataplane.topology.values import LOWER_CASE, Duration, Name, Port, PositiveDuration, Prefix

MINUTE = 60_000_000_000

MOST_HOSTS = 10_000

#: Patterns whose connections are those of files.
RECORDED = ("capture", "flow_log")


class RateStep(Part):
    """The rate from a moment on."""

    at: Duration = Field(description="When, counted from the source's start.")
    rate: Rate = Field(description="Connections per second from then on.")


class Arrivals(Part):
    """When connections begin."""

    #: By pattern: the keys that it needs, the keys that it may have.
    KEYS: ClassVar[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
        "constant": (("rate",), ()),
        "poisson": (("rate",), ()),
        "ramp": (("rate", "to_rate", "over"), ()),
        "steps": (("steps",), ()),
        "on_off": (("rate", "on", "off"), ("off_rate",)),
        "daily": (("low", "high"), ("period", "highest_at")),
        "capture": ((), ("file", "files", "copies", "speed", "repeat")),
        "flow_log": ((), ("file", "files", "copies", "speed", "repeat")),
        "moments": (("moments",), ("period", "copies", "speed")),
    }

    pattern: Literal["constant", "poisson", "ramp", "steps", "on_off", "daily", "capture", "flow_log", "moments"] = (
        Field(
            description="How the rate goes: always the same (evenly spaced, or a Poisson process), from one rate to "
            "another, in steps, in bursts, up and down like a day, as in a capture or flow log, or moment by moment."
        )
    )
    rate: Rate | None = Field(default=None, description="Connections per second; of a ramp at first, of a burst in it.")
    to_rate: Rate | None = Field(default=None, description="ramp: the rate that is reached, and kept.")
    over: PositiveDuration | None = Field(default=None, description="ramp: how long it takes.")
    steps: tuple[RateStep, ...] | None = Field(default=None, description="steps: rates, by time.")
    on: PositiveDuration | None = Field(default=None, description="on_off: how long a burst lasts.")
    off: PositiveDuration | None = Field(default=None, description="on_off: how long it is between two bursts.")
    off_rate: Rate | None = Field(default=None, description="on_off: the rate between bursts; left out: 0.")
    low: Rate | None = Field(default=None, description="daily: the lowest rate.")
    high: Rate | None = Field(default=None, description="daily: the highest rate.")
    period: PositiveDuration | None = Field(
        default=None,
        description="daily: its length; left out: 24h. moments: after how long they come again; left out: never.",
    )
    highest_at: Duration | None = Field(
        default=None, description="daily: when the rate is highest; left out: after half of it."
    )
    file: FileName | None = Field(
        default=None,
        description="capture: pcap or pcapng, from the scenario file's folder; its new connections count. "
        "flow_log: a virtual network flow log, PT1H.json; its new connections to the endpoint and port count.",
    )
    files: tuple[FileName, ...] | None = Field(
        default=None,
        description="capture, flow_log: several files in place of file, merged by time; a pattern such as "
        "logs/**/PT1H.json stands for every file that fits.",
    )
    moments: Moments | None = Field(default=None, description="moments: when each connection begins, in order.")
    copies: Copies | None = Field(
        default=None,
        description="capture, flow_log, moments: connections per one; 1.5: every other one twice; left out: 1.",
    )
    speed: Speed | None = Field(
        default=None, description="capture, flow_log, moments: times as fast as there; left out: 1."
    )
    repeat: StrictBool | None = Field(default=None, description="capture, flow_log: again at its end; left out: no.")
    spacing: Literal["even", "poisson"] | None = Field(
        default=None, description="Evenly spaced, or at random; left out: even for constant, else poisson."
    )
    start: Duration = Field(default=0, description="When the source starts.")
    stop: PositiveDuration | None = Field(default=None, description="When it stops; left out: at the end of the run.")

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        needed, possible = self.KEYS[self.pattern]
        every = {key for pair in self.KEYS.values() for keys in pair for key in keys}
        words = f"pattern {self.pattern} has {', '.join(needed + possible)}"
        for key in needed:
            if getattr(self, key) is None or getattr(self, key) == ():
                raise ValueError(f"{key} is missing; {words}")
        for key in sorted(every - set(needed + possible)):
            if getattr(self, key) is not None:
                raise ValueError(f"{key} does not go with pattern {self.pattern}; {words}")
        if self.pattern in RECORDED and (self.file is None) == (not self.files):
            raise ValueError(f"{'file is missing' if self.file is None else 'has both file and files'}; {words}")
        if self.is_given and self.spacing is not None:
            raise ValueError(f"spacing does not go with pattern {self.pattern}, which says when each connection begins")
        if self.stop is not None and self.stop <= self.start:
            raise ValueError("stops before it starts; write a stop later than start")
        if self.steps is not None and any(b.at <= a.at for a, b in pairwise(self.steps)):
            raise ValueError("steps are not in order of time; write every step later than the one before it")
        if self.moments is not None and self.period is not None and self.moments[-1] >= self.period:
            raise ValueError("a moment is not before the period's end; write a longer period")
        if self.pattern == "daily" and self.low > self.high:  # type: ignore[operator]
            raise ValueError(f"low is {self.low:g}, above high, {self.high:g}; exchange them")
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """The files whose connections count."""
        return self.files or (() if self.file is None else (self.file,))

    @property
    def is_given(self) -> bool:
        """Whether it is said of each connection when it begins, rather than at which rate they do."""
        return bool(self.paths) or self.moments is not None

    @property
    def is_even(self) -> bool:
        """Whether connections are evenly spaced rather than at random."""
        return self.spacing == "even" or (self.spacing is None and self.pattern == "constant")


class Life(Part):
    """How long a connection lives, from its first packet to its last."""

    distribution: Literal["fixed", "exponential", "log_normal", "pareto", "sample", "as_recorded"] = Field(
        default="fixed", description="All the same, at random, or each as in the capture or flow log."
    )
    value: Duration | None = Field(default=None, description="fixed: the life.")
    mean: PositiveDuration | None = Field(default=None, description="The mean of the distribution.")
    median: PositiveDuration | None = Field(
        default=None, description="log_normal, pareto: the median, in place of mean."
    )
    shape: Shape | None = Field(
        default=None, description="log_normal: the standard deviation of the logarithm; pareto: the tail's exponent."
    )
    values: Annotated[tuple[Duration, ...], Field(min_length=1)] | None = Field(
        default=None, description="sample: lives, each as likely as the others."
    )

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        given = {key for key in ("value", "mean", "median", "shape", "values") if getattr(self, key) is not None}
        choices: dict[str, list[set[str]]] = {
            "fixed": [{"value"}],
            "exponential": [{"mean"}],
            "log_normal": [{"mean", "shape"}, {"median", "shape"}],
            "pareto": [{"mean", "shape"}, {"median", "shape"}],
            "sample": [{"values"}],
            "as_recorded": [set()],
        }
        if given not in choices[self.distribution]:
            words = " or ".join(" and ".join(sorted(choice)) for choice in choices[self.distribution]) or "no key"
            raise ValueError(f"{self.distribution} has {words}; here: {', '.join(sorted(given)) or 'neither'}")
        if self.distribution == "log_normal" and self.mean is not None and self.shape is not None and self.shape > 30:
            raise ValueError(f"a log-normal life of shape {self.shape:g} has a mean beyond any number; write median")
        if self.distribution == "pareto" and self.mean is not None and self.shape is not None and self.shape <= 1:
            raise ValueError(f"a Pareto life of shape {self.shape:g} has no mean; write median, or a shape above 1")
        return self

    @property
    def scale(self) -> float:
        """The distribution's scale, nanoseconds: the value, the mean, e^μ, the least life (pareto), 0 of the others."""
        if self.distribution in ("sample", "as_recorded"):
            return 0.0
        if self.distribution == "log_normal":
            assert self.shape is not None
            if self.median is not None:
                return float(self.median)
            assert self.mean is not None
            return self.mean / math.exp(self.shape * self.shape / 2)
        if self.distribution == "pareto":
            assert self.shape is not None
            if self.median is not None:
                return float(self.median / 2 ** (1 / self.shape))
            assert self.mean is not None
            return self.mean * (self.shape - 1) / self.shape
        life = self.value if self.distribution == "fixed" else self.mean
        assert life is not None
        return float(life)


class Payload(Part):
    """What is sent one way: so many bytes in so many packets, or as many as in a capture or flow log."""

    bytes: PayloadBytes = Field(
        default=0,
        description="Bytes of payload in all; as_recorded: as in the capture or flow log, header bytes taken off.",
    )
    packets: Annotated[int, Field(strict=True, ge=0, le=MOST_PACKETS)] | None = Field(
        default=None, description="Packets; left out: as few as can carry the bytes."
    )

    @model_validator(mode="after")
    def _packets_carry(self) -> Self:
        if self.packets is None:
            return self
        if self.bytes == "as_recorded":
            raise ValueError("packets do not go with bytes as_recorded, which as few as can carry; leave the key out")
        if self.bytes > self.packets * MOST_PAYLOAD:
            least = math.ceil(self.bytes / MOST_PAYLOAD)
            raise ValueError(
                f"{self.bytes} bytes do not fit into {self.packets} packets of at most {MOST_PAYLOAD} bytes; "
                f"write at least {least} packets, or leave the key out"
            )
        return self

    @property
    def count(self) -> int:
        """How many packets; 0 if recorded."""
        if self.bytes == "as_recorded":
            return 0
        return self.packets if self.packets is not None else math.ceil(self.bytes / MOST_PAYLOAD)


class Ends(Part):
    """How TCP connections end, as shares."""

    fin: Share = Field(default=1.0, description="FIN from the client, then from the server.")
    rst: Share = Field(default=0.0, description="RST from the client.")
    never: Share = Field(default=0.0, description="Neither: the session is left to its idle time-out.")

    @model_validator(mode="before")
    @classmethod
    def _nothing_else(cls, data: Any) -> Any:
        """`{rst: 1}` means that all end so."""
        return {"fin": 0, **data} if isinstance(data, dict) and data else data

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.fin + self.rst + self.never <= 0:
            raise ValueError("all shares are 0; write a share above 0 for one of fin, rst, never")
        return self


class TrafficSource(Part):
    """The clients of one private endpoint that behave alike."""

    name: Name = Field(description="Unique name.")
    endpoint: Name = Field(description="The private endpoint that they connect to.")
    network: Name | None = Field(
        default=None,
        description="Where the clients are: the endpoint's network (left out), or one that it is peered with.",
    )
    protocol: Annotated[Protocol, LOWER_CASE] = Field(default="tcp", description="tcp or udp.")
    port: Port = Field(description="Port of the endpoint: a load-balancing rule's frontend port.")
    hosts: Annotated[int, Field(strict=True, ge=1, le=MOST_HOSTS)] = Field(
        default=10, description="Client addresses; each has 28,232 ports."
    )
    hosts_from: Prefix | None = Field(
        default=None, description="The prefix that client addresses are taken from; left out: the network's first."
    )
    arrivals: Arrivals = Field(description="When connections begin.")
    life: Life = Field(default_factory=lambda: Life.model_validate({"value": "0s"}), description="How long they live.")
    keep_alive: PositiveDuration | None = Field(
        default=None, description="After so much idle time within its life, a connection sends a keep-alive."
    )
    round_trip: PositiveDuration = Field(
        default=10_000_000, description="Time from a client's packet to the endpoint's answer."
    )
    request: Payload = Field(default_factory=Payload, description="What the client sends when the connection is open.")
    response: Payload = Field(default_factory=Payload, description="What is answered, a round-trip later.")
    ends: Ends = Field(default_factory=Ends, description="How TCP connections end.")
    answer: StrictBool = Field(
        default=True, description="false: no packet is answered (half-open connections, a SYN flood)."
    )
    retries: Annotated[int, Field(strict=True, ge=0, le=6)] = Field(
        default=0, description="How often an unanswered SYN is sent again: 1 s, 3 s, 7 s, … after the first (Linux)."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.keep_alive is not None and self.keep_alive < self.round_trip:
            raise ValueError("keep_alive is shorter than round_trip; write a longer keep_alive")
        recorded = {"life": self.life.distribution, "request": self.request.bytes, "response": self.response.bytes}
        for key, value in recorded.items():
            if value == "as_recorded" and self.arrivals.pattern not in RECORDED:
                raise ValueError(
                    f"{key} is as_recorded, but arrivals of pattern {self.arrivals.pattern} are not recorded; "
                    f"write pattern {' or '.join(RECORDED)}, or another {key}"
                )
        return self

    @property
    def request_packets(self) -> int:
        """Packets of the request; a UDP connection begins with it, so it has one at least."""
        return max(1, self.request.count) if self.protocol == "udp" else self.request.count


class Alert(Part):
    """An Azure Monitor alert on the metric PLSNatPortsUsage, split by NAT IP."""

    threshold_percent: Percent = Field(default=80.0, description="It fires when the average is greater.")
    window: PositiveDuration = Field(default=MINUTE, description="How many minutes are averaged.")
    evaluation: PositiveDuration = Field(default=MINUTE, description="How often it is evaluated.")
    ingestion_delay: Duration = Field(
        default=2 * MINUTE, description="After how long a minute's value can be seen (unconfirmed)."
    )

    @model_validator(mode="after")
    def _whole_minutes(self) -> Self:
        for key in ("window", "evaluation"):
            if getattr(self, key) % MINUTE:
                raise ValueError(f"{key} is no whole number of minutes, and averages are of one minute; write 1m, 5m")
        return self


class Scenario(Part):
    """A NAT exhaustion experiment, checked: `load_scenario` reads it, `exhaust` runs it."""

    topology: Topology = Field(description="A topology, or the path of its file, from the scenario file's folder.")
    duration: PositiveDuration = Field(description="How long the run lasts, in simulated time.")
    warm_up: Duration = Field(default=0, description="How much of its beginning is left out of the findings.")
    seed: Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1)] = Field(
        default=0, description="Decides every random choice; --seed comes first."
    )
    events: tuple[Event, ...] = Field(default=(), description="What happens in the run, besides the topology's events.")
    traffic: tuple[TrafficSource, ...] = Field(description="The sources of traffic, one at least.")
    alert: Alert = Field(default_factory=Alert, description="The alert that is to warn in time.")

    @model_validator(mode="wrap")
    @classmethod
    def _check_all(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Check the parts and then the whole, so that one error lists the faults of both kinds."""
        from dataplane.runs.scenario_rules import broken_rules  # needs this class

        if isinstance(data, cls):
            return handler(data)
        scenario: Self | None = None
        findings: list[Finding] = []
        try:
            scenario = handler(data)
        except ValidationError as error:
            findings = findings_of(error, cls)
        findings += broken_rules(scenario if scenario is not None else data)
        if scenario is None or findings:
            raise error_with(cls.__name__, "scenario", findings)
        return scenario

    @cached_property
    def whole_topology(self) -> Topology:
        """The topology with the scenario's events appended to its own."""
        return with_events(self.topology, self.events) if self.events else self.topology


def with_events(topology: Topology, events: tuple[Event, ...]) -> Topology:
    """The same topology with more events. Raises pydantic's ValidationError."""
    document = topology.model_dump(mode="json")
    document["events"] += [event.model_dump(mode="json", exclude_none=True) for event in events]
    document["events"] = [{k: v for k, v in event.items() if v is not None} for event in document["events"]]
    return Topology.model_validate(document)
