"""pcapng times against exact rational arithmetic."""

from fractions import Fraction
from math import floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.capture.pcapng_time import clock, nanoseconds
from dataplane.packets.batch import TIME_UNREPRESENTABLE
from tests.unit.test_capture_builders import enhanced, interface, rows, section

TICKS = [0, 1, 999, 10**6, 10**9 + 1, 2**31, 2**32 - 1, 2**32, 2**33 + 7, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
NOW = 1_700_000_000


def exact(ticks: int, resolution: int, offset: int) -> tuple[int, bool]:
    unit = Fraction(1, (2 if resolution & 0x80 else 10) ** (resolution & 0x7F))
    value = floor(ticks * unit * 10**9) + offset * 10**9
    return (value, True) if -(2**63) <= value < 2**63 else (0, False)


def ours(ticks: int, resolution: int, offset: int) -> tuple[int, bool]:
    time_ns, fits = nanoseconds(clock(1, 0, 0, resolution, offset), 0, ticks >> 32, ticks & 0xFFFFFFFF)
    return int(time_ns), bool(fits)


@pytest.mark.parametrize("resolution", range(256))
def test_every_resolution_is_exact(resolution: int) -> None:
    base = 2 if resolution & 0x80 else 10
    now = NOW * base ** (resolution & 0x7F)
    for offset in (0, 1, -1, NOW, -(2**63), 2**63 - 1):
        for ticks in [*TICKS, *(now + step for step in (0, 1, -1) if 0 < now + step < 2**64)]:
            assert ours(ticks, resolution, offset) == exact(ticks, resolution, offset)


@settings(max_examples=500, deadline=None)
@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 255),
    st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**34), 2**34)),
)
def test_any_time_is_exact_or_said_to_be_beyond(ticks: int, resolution: int, offset: int) -> None:
    assert ours(ticks, resolution, offset) == exact(ticks, resolution, offset)


@pytest.mark.parametrize("edge", [-(2**63), 2**63 - 1])
@pytest.mark.parametrize("step", [-1, 0, 1])
def test_the_edges_of_64_bit_nanoseconds(edge: int, step: int) -> None:
    for offset in (-(2**33) - 12_345, -9_223_372_037, -9_223_372_036, 0, 5):
        ticks = edge + step - offset * 10**9
        if 0 <= ticks < 2**64:
            assert ours(ticks, 9, offset) == exact(ticks, 9, offset)


def test_a_time_beyond_is_flagged_in_its_frame() -> None:
    file = section() + interface(resolution=6) + interface(resolution=6, offset=-(2**40))
    file += enhanced(2**63, b"", 0) + enhanced(7, b"", 0) + enhanced(7, b"", 0, which=1)
    frames = rows(file)
    assert frames["flags"].tolist() == [TIME_UNREPRESENTABLE, 0, TIME_UNREPRESENTABLE]
    assert frames["time_ns"].tolist() == [0, 7000, 0]
