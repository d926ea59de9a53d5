"""Look-up of addresses and load-balancing rules: open addressing by one number.

Tables are made once, with `open_table`, and searched by kernels. They are at most half full, so a search always ends at
an empty row.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataplane.kernel import inlined, unlikely
from dataplane.nat.hashing import GOLDEN

#: Scopes of an address besides the points: endpoints at point p have scope 2p, NAT IPs 2p + 1.
BACKENDS_OF = 1 << 30

_32 = np.uint64(32)


@inlined
def address_key(scope: Any, address: Any) -> Any:
    """An address in a scope, as one number."""
    return (scope << 32) | address


@inlined
def slot_of(key: Any, mask: Any) -> Any:
    """Where the search for a key begins. The key's upper half is folded in, or it would hardly bear on it."""
    return np.int64((np.uint64(key ^ (key >> 30)) * GOLDEN) >> _32) & mask


@inlined
def _row_of(table: Any, key: Any) -> Any:
    """The row that has a key, or -1."""
    mask = len(table) - 1
    at = slot_of(key, mask)
    while unlikely(table[at]["key"] != key):
        if table[at]["key"] < 0:
            return np.int64(-1)
        at = (at + 1) & mask
    return at


@inlined
def look_up(addresses: Any, scope: Any, address: Any) -> Any:
    """The value of an address in a scope, or -1."""
    row = _row_of(addresses, address_key(scope, address))
    return np.int64(-1) if row < 0 else addresses[row]["value"]


@inlined
def rule_key(service: Any, protocol: Any, port: Any) -> Any:
    """What a service's load-balancing rule is searched by."""
    return (service << 24) | (protocol << 16) | port


@inlined
def find_rule(rules: Any, service: Any, protocol: Any, port: Any) -> Any:
    """The row of a service's load-balancing rule, or -1."""
    return _row_of(rules, rule_key(service, protocol, port))


def open_table(kind: Any, rows: list[tuple[int, ...]]) -> NDArray[Any]:
    """A table of such rows for open addressing; the first of each is its key, -1 where there is none."""
    table = np.zeros(1 << max(3, (2 * len(rows)).bit_length()), kind)
    table["key"] = -1
    mask = len(table) - 1
    for row in rows:
        at = int(slot_of(np.int64(row[0]), np.int64(mask)))
        while table["key"][at] >= 0:
            at = (at + 1) & mask
        table[at] = row
    return table
