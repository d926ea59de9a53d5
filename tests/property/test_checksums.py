"""Adjusting a checksum by a folded sum of changes gives what adding the words one by one gives (RFC 1624, RFC 1071)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dataplane.packets.checksum import address_change, adjust, adjust_udp, fold, reversed_change, word_change
from tests.reference import adjust_checksum, ones_complement_sum
from tests.strategies import internet_checksum

WORD = st.sampled_from([0, 1, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF]) | st.integers(0, 0xFFFF)
CHANGES = st.lists(st.tuples(WORD, WORD), min_size=1, max_size=8)
CORNERS = (0, 1, 2, 0x00FF, 0xFF00, 0x7FFF, 0x8000, 0xFFFD, 0xFFFE, 0xFFFF)


def delta_of(changes: list[tuple[int, int]]) -> int:
    """What the kernels add to a checksum's complement; they always change at least one word to or from something."""
    return int(fold(np.int64(sum(int(word_change(np.int64(old), np.int64(new))) for old, new in changes))))


def applied(kernel: object, checksum: int, delta: int) -> int:
    data = np.full(6, 0xAA, np.uint8)
    data[2:4] = checksum >> 8, checksum & 0xFF
    kernel(data, np.int64(2), np.int64(delta))  # type: ignore[operator]
    assert data[:2].tolist() == data[4:].tolist() == [0xAA, 0xAA]
    return int(data[2]) << 8 | int(data[3])


@given(st.integers(0, 2**47))
@example(0)
@example(0xFFFF)
@example(0x10000)
@example(0xFFFFFFFF)
@example(2**47 - 1)
def test_folding_is_the_ones_complement_sum(total: int) -> None:
    words = [total & 0xFFFF, total >> 16 & 0xFFFF, total >> 32]
    assert fold(np.int64(total)) == ones_complement_sum(words)


@given(checksum=WORD, changes=CHANGES)
@example(checksum=0xFFFF, changes=[(0, 0xFFFF)])
@example(checksum=0, changes=[(0, 0xFFFF)])
@example(checksum=0, changes=[(5, 5)])
@example(checksum=0xFFFF, changes=[(5, 5)])
def test_one_folded_sum_adjusts_like_the_words_one_by_one(checksum: int, changes: list[tuple[int, int]]) -> None:
    old, new = [pair[0] for pair in changes], [pair[1] for pair in changes]
    delta = delta_of(changes)
    if delta == 0:  # only if every word went from all ones to all zeros, which no address and port can
        assert all(pair == (0xFFFF, 0) for pair in changes)
        return
    wanted = adjust_checksum(checksum, old, new)
    assert applied(adjust, checksum, delta) == wanted
    if checksum == 0:
        assert applied(adjust_udp, checksum, delta) == 0
    else:
        assert applied(adjust_udp, checksum, delta) == (wanted or 0xFFFF)


@given(changes=CHANGES, checksum=WORD)
def test_the_way_back_undoes_the_way_there(changes: list[tuple[int, int]], checksum: int) -> None:
    delta = delta_of(changes)
    if delta == 0:
        return
    back = int(reversed_change(np.int64(delta)))
    assert 1 <= back <= 0xFFFF
    there_and_back = applied(adjust, applied(adjust, checksum, delta), back)
    assert there_and_back % 0xFFFF == checksum % 0xFFFF
    if checksum != 0xFFFF:
        assert there_and_back == checksum
    if checksum != 0:
        assert applied(adjust_udp, applied(adjust_udp, checksum, delta), back) == checksum


@given(words=st.lists(WORD, min_size=2, max_size=20), place=st.integers(0, 18), new=WORD)
def test_adjusting_a_right_checksum_gives_the_right_one(words: list[int], place: int, new: int) -> None:
    place %= len(words)
    other = [*words[:place], new, *words[place + 1 :]]
    if not any(words) or not any(other):
        return  # only a packet of zeros has 0xFFFF, and packets are not all zeros
    before, after = (internet_checksum(b"".join(w.to_bytes(2, "big") for w in which)) for which in (words, other))
    delta = delta_of([(words[place], new)])
    if delta:
        assert applied(adjust, before, delta) == after


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_an_address_is_two_words(old: int, new: int) -> None:
    words = [(old >> 16, new >> 16), (old & 0xFFFF, new & 0xFFFF)]
    change = address_change(np.int64(old), np.int64(new))
    assert change == sum(word_change(np.int64(a), np.int64(b)) for a, b in words)


@pytest.mark.parametrize("checksum", CORNERS)
def test_corners_of_ones_complement_arithmetic(checksum: int) -> None:
    for old in CORNERS:
        for new in CORNERS:
            delta = delta_of([(old, new)])
            if delta:
                wanted = adjust_checksum(checksum, [old], [new])
                assert applied(adjust, checksum, delta) == wanted
                assert wanted != 0xFFFF or checksum == 0xFFFF, "all ones never comes out of a sum that is not zero"
                if checksum:
                    assert applied(adjust_udp, checksum, delta) == (wanted or 0xFFFF)
