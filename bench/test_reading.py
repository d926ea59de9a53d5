"""Captures from files: the scan that says where every frame lies. The file is in the page cache."""

import pytest

from bench import workloads
from dataplane.capture import open_capture


def _count(path):
    with open_capture(path) as reader:
        return sum(len(batch) for batch in reader)


@pytest.mark.benchmark(group="reading")
@pytest.mark.parametrize("kind", ["pcap", "pcapng"])
def test_reading(benchmark, tell, packets, tmp_path, kind):
    """64-byte packets, all batches of a capture."""
    path = workloads.write_capture(workloads.udp(packets, 1), tmp_path / f"in.{kind}")
    assert benchmark.pedantic(_count, args=(path,), rounds=9, warmup_rounds=1) == packets
    tell(packets)
