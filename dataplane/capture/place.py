"""Gathering frames: copies frames of a batch to places of a larger buffer that were chosen before."""

from typing import Any

import numpy as np

from dataplane.capture.little_endian import copy_bytes
from dataplane.kernel import kernel


@kernel
def place(out: Any, rows: Any, chosen: Any, source: Any, data: Any, frames: Any, interfaces: Any) -> Any:
    """Copy `frames`, in order, to the `rows` whose `chosen` is `source`; the number copied, or -1.

    -1: a frame lies outside `data`, or has an interface number outside `interfaces`.

    Rows bear their offset in `out` already; `interfaces` maps old interface numbers to new ones.
    """
    taken = 0
    for index in range(rows.shape[0]):
        if chosen[index] == source:
            row, frame = rows[index], frames[taken]
            captured = np.int64(frame["captured"])
            if frame["offset"] < 0 or frame["offset"] + captured > data.shape[0]:
                return -1
            if frame["interface"] >= interfaces.shape[0]:
                return -1
            copy_bytes(out, row["offset"], data, frame["offset"], captured)
            row["time_ns"] = frame["time_ns"]
            row["captured"] = captured
            row["original"] = frame["original"]
            row["link_type"] = frame["link_type"]
            row["interface"] = interfaces[frame["interface"]]
            row["point"] = frame["point"]
            row["direction"] = frame["direction"]
            row["flags"] = frame["flags"]
            taken += 1
    return taken
