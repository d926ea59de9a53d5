"""Reference and engine in lock step, one step at a time, on any history that hypothesis can think of.

The differential tests send whole traces; here everything that can be seen is compared after every step, so the shortest
history that shows a difference is found.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dataplane.simulator import Simulator
from dataplane.topology.model import Topology
from tests.lockstep import Received, Sent, arrive, assert_equal_sessions, assert_laws, assert_next, batch_of
from tests.reference import ACK, ETHERNET, FIN, RST, SYN, ReferenceSimulator
from tests.strategies import (
    NEWEST,
    PLAIN,
    SECOND,
    START,
    Answer,
    CapturedAnswer,
    Delay,
    Dress,
    ErrorAbout,
    More,
    Ping,
    Step,
    Stray,
    ToService,
    Wait,
    datagrams,
    delays,
    dresses,
    flags_of,
    icmp_errors,
    openings,
    pings,
    resolve,
    topologies,
)

WHICH = st.just(NEWEST) | st.integers(0, 7)
FROM_BACKEND = st.sampled_from([Answer, CapturedAnswer])
PARTS = {"delay": delays(), "dress": st.just(PLAIN) | dresses()}


class TwoSimulators(RuleBasedStateMachine):
    """One network, two simulators."""

    reference: ReferenceSimulator
    simulator: Simulator

    @initialize(
        topology=topologies(), seed=st.integers(0, 3), rows=st.sampled_from([2, 4, 64]), burst=st.sampled_from([1, 256])
    )
    def begin(self, topology: Topology, seed: int, rows: int, burst: int) -> None:
        self.topology = topology
        self.reference = ReferenceSimulator(topology, seed)
        self.simulator = Simulator(topology, seed, sessions_log=True, rows=rows, burst=burst)
        self.number = 0  # packets received so far

    # --- what may happen -----------------------------------------------------------------------------------------

    def take(self, *steps: Step) -> None:
        """Do the steps in both."""
        for step in steps:
            arrival = resolve(step, self.reference)
            if arrival.frame is None:
                self.advance_both(arrival.time_ns)
            else:
                length = arrival.original_length
                self.receive(Sent(arrival.frame, arrival.at, arrival.time_ns, length, arrival.link_type))

    def receive(self, sent: Sent) -> None:
        """One packet arrives at both: each receives it, or lets it wait, or receives others with it."""
        self.compare(self.simulator.process(batch_of([sent], self.topology)), arrive(self.reference, sent))

    def compare(self, result: Any, received: Received) -> None:
        """The engine received what the reference received."""
        wanted = iter(enumerate(received, start=self.number))
        assert_next(result, wanted, self.topology)
        assert next(wanted, None) is None, "the reference received more"
        self.number += len(received)

    def advance_both(self, until: int) -> None:
        """Time passes in both; what they let go of shows in the summaries."""
        self.reference.advance(until)
        self.simulator.advance(to_ns=until)

    @rule(step=openings())
    def open(self, step: ToService) -> None:
        self.take(step)

    @rule(step=openings(flags=st.just(SYN), dress=st.just(PLAIN)), others=st.integers(1, 5))
    def crowd(self, step: ToService, others: int) -> None:
        self.take(*(replace(step, port=(step.port + number) & 0xFFFF, delay=Delay(1)) for number in range(others)))

    @rule(which=WHICH, kind=FROM_BACKEND, flags=flags_of("SA", "SA", "A", "PA"), parts=st.fixed_dictionaries(PARTS))
    def answer(self, which: int, kind: Any, flags: int, parts: dict[str, Any]) -> None:
        self.take(kind(which, flags, **parts))

    @rule(which=WHICH, flags=flags_of("A", "A", "PA", "SA", "S"), parts=st.fixed_dictionaries(PARTS))
    def go_on(self, which: int, flags: int, parts: dict[str, Any]) -> None:
        self.take(More(which, flags, **parts))

    @rule(step=openings(flags=st.just(SYN), dress=st.just(PLAIN)), kind=FROM_BACKEND)
    def shake_hands(self, step: ToService, kind: Any) -> None:
        self.take(step, kind(NEWEST, SYN | ACK), More(NEWEST, ACK))

    @rule(which=WHICH, kind=FROM_BACKEND, order=st.booleans(), delay=delays())
    def close(self, which: int, kind: Any, order: bool, delay: Delay) -> None:
        fins: list[Step] = [More(which, FIN | ACK, delay=delay), kind(which, FIN | ACK)]
        self.take(*(fins if order else reversed(fins)))

    @rule(which=WHICH, kind=st.sampled_from([More, Answer, CapturedAnswer]), delay=delays())
    def reset(self, which: int, kind: Any, delay: Delay) -> None:
        self.take(kind(which, RST, delay=delay))

    @rule(which=WHICH, delay=delays())
    def reopen(self, which: int, delay: Delay) -> None:
        self.take(More(which, SYN, delay=delay))

    @rule(which=WHICH, kind=FROM_BACKEND, error=st.sampled_from([1, -1]), delay=delays())
    def answer_from_another_port(self, which: int, kind: Any, error: int, delay: Delay) -> None:
        self.take(kind(which, ACK, port_error=error, delay=delay))

    @rule(place=st.tuples(*[st.integers(0, 2)] * 3, st.integers(0, 6)), is_udp=st.booleans(), dress=dresses())
    def stray(self, place: tuple[int, int, int, int], is_udp: bool, dress: Dress) -> None:
        self.take(Stray(*place, is_udp, ACK, dress=dress))

    @rule(step=pings())
    def ping(self, step: Ping) -> None:
        self.take(step)

    @rule(step=icmp_errors())
    def tell_of_an_error(self, step: ErrorAbout) -> None:
        self.take(step)

    @rule(steps=datagrams())
    def send_in_fragments(self, steps: list[Step]) -> None:
        self.take(*steps)

    @rule(which=WHICH, kind=FROM_BACKEND, delay=delays())
    def shake_hands_again(self, which: int, kind: Any, delay: Delay) -> None:
        self.take(More(which, SYN, delay=delay), kind(which, SYN | ACK), More(which, ACK))

    @rule(frame=st.binary(max_size=60), link_type=st.sampled_from([ETHERNET, 101, 113, 0]))
    def noise(self, frame: bytes, link_type: int) -> None:
        now = START if self.reference.clock_ns is None else self.reference.clock_ns
        self.receive(Sent(frame, self.topology.virtual_networks[0].name, now, None, link_type))

    @rule(step=st.builds(Wait, delays()))
    def wait(self, step: Wait) -> None:
        self.take(step)

    @precondition(lambda self: self.reference.clock_ns is not None)
    @rule(jump=st.sampled_from([1, 999_999, 1_048_576, SECOND, 61 * SECOND, 3600 * SECOND, 40 * 31_557_600 * SECOND]))
    def advance(self, jump: int) -> None:
        self.advance_both(min(self.simulator.now_ns + jump, 2**62))

    @precondition(lambda self: self.reference.next_due_ns() is not None)
    @rule(beside=st.sampled_from([-1, 0, 1]))
    def advance_to_the_next_timer(self, beside: int) -> None:
        self.advance_both(self.reference.next_due_ns() + beside)

    # --- what must hold ------------------------------------------------------------------------------------------

    @invariant()
    def both_tell_the_same(self) -> None:
        if not hasattr(self, "simulator"):
            return
        assert self.simulator.summary() == self.reference.summary()
        assert self.simulator.now_ns == (self.reference.clock_ns or 0)

    @invariant()
    def the_laws_hold(self) -> None:
        if hasattr(self, "simulator"):
            assert_laws(self.simulator)
            self.reference.check_laws()

    def teardown(self) -> None:
        if hasattr(self, "simulator"):
            self.compare(self.simulator.finish(), self.reference.finish())
            self.both_tell_the_same()
            assert_equal_sessions(self.simulator, self.reference)


TwoSimulators.TestCase.settings = settings(
    settings.default, max_examples=max(5, settings.default.max_examples // 5), stateful_step_count=40
)


class TestEngineAndReferenceInLockStep(TwoSimulators.TestCase):  # type: ignore[misc,name-defined]
    """Collected by pytest."""
