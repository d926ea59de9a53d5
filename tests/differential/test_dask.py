"""Shards on a real Dask cluster of two workers on this machine: the same bytes as in one process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from distributed import LocalCluster

from dataplane.shards.remote import dask
from tests.differential.test_invariance import SMALL, told, trace

pytestmark = pytest.mark.filterwarnings("default")  # what Dask's own code warns of is not ours


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster.scheduler_address


def test_shards_on_a_cluster_do_not_show(scheduler: str) -> None:
    batch = trace(SMALL)
    crew = dask(scheduler)
    try:
        assert crew.size == 2
        assert told(batch, workers=crew, parts=3) == told(batch)
    finally:
        crew.close()


def test_a_cluster_can_have_more_shards_than_workers(scheduler: str) -> None:
    batch = trace(500)
    crew = dask(scheduler, 3)
    try:
        assert told(batch, workers=crew) == told(batch)
    finally:
        crew.close()


def test_an_address_at_which_nobody_answers_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match=r"tcp://127.0.0.1:9: no Dask scheduler answers there"):
        dask("tcp://127.0.0.1:9")
