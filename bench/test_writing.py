"""What became of packets, as outputs: packet blocks of all points, records of one. The files are /dev/null."""

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest

from bench import workloads
from dataplane.records import OUTCOME
from dataplane.runs.record import Recorder
from dataplane.simulator import Simulator

#: As many as a reader gives at a time.
_AT_A_TIME = 1 << 16


@pytest.mark.benchmark(group="writing")
@pytest.mark.parametrize("size", [64, 1500])
@pytest.mark.parametrize("what", ["all points", "one point"])
def test_writing(benchmark, tell, packets, what, size):
    """1,000 sessions, every packet forwarded; one thread, records copied to a buffer."""
    topology = workloads.topology()
    came = workloads.udp(packets, min(1_000, packets), size)
    batch, outcomes = came.copy(), np.zeros(packets, OUTCOME)
    Simulator(topology).feed(batch, outcomes)

    def record():
        with ExitStack() as files:
            file = files.enter_context(open("/dev/null", "wb"))
            pcaps = {workloads.NETWORKS[workloads.PROVIDER]: file} if what == "one point" else {}
            recorder = Recorder(topology, file if what == "all points" else None, pcaps)
            for begin in range(0, packets, _AT_A_TIME):
                rows = slice(begin, begin + _AT_A_TIME)
                recorder.record(came.data, replace(batch, frames=batch.frames[rows]), outcomes[rows])
            recorder.close()

    benchmark.pedantic(record, rounds=5, warmup_rounds=1)
    tell(packets)
