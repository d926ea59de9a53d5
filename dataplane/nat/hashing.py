"""Hashes: one mixing function for everything, keys made of content and the seed (docs/model.md, "Choosing").

Nobody who does not know the seed can choose colliding flows or predict ports. Arithmetic is uint64 throughout,
since numba turns a uint64 with an int64 into a float.
"""

import hashlib
from typing import Any

import numpy as np

from dataplane.kernel import inlined

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FACTOR_1 = np.uint64(0xBF58476D1CE4E5B9)
_FACTOR_2 = np.uint64(0x94D049BB133111EB)
_27 = np.uint64(27)
_30 = np.uint64(30)
_31 = np.uint64(31)
_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


def key64(seed: int, *parts: str) -> np.uint64:
    """A 64-bit key that depends on the seed and on names only, never on an order."""
    text = "\x1f".join((str(seed), *parts)).encode()
    return np.uint64(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big"))


@inlined
def mix(x: Any) -> Any:
    """The finaliser of SplitMix64: every bit of the result depends on every bit of `x`."""
    x = (x ^ (x >> _30)) * _FACTOR_1
    x = (x ^ (x >> _27)) * _FACTOR_2
    return x ^ (x >> _31)


@inlined
def scale(x: Any, n: Any) -> Any:
    """A number below `n` (int64) from the upper half of `x`."""
    return np.int64(((x >> _32) * np.uint64(n)) >> _32)


@inlined
def flow_tag(key: Any, one: Any, other: Any, protocol: Any) -> Any:
    """32 bits for the session table, of two ends (address << 16 | port): the same for both directions.

    Each end is mixed to its end before the two are added: else what one adds, the other could take away, as where
    clients' addresses go up and endpoints' go down.
    """
    return np.int64((_mix_end(key, one) + _mix_end(key, other) + np.uint64(protocol)) & _LOW)


@inlined
def _mix_end(key: Any, end: Any) -> Any:
    """64 bits for one end; cheaper than `mix`, and as secret as the key."""
    x = (np.uint64(end) ^ key) * _FACTOR_1
    x = (x ^ (x >> _32)) * _FACTOR_2
    return x ^ (x >> _32)
