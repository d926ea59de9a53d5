"""To be filled."""

from collections.abc import Iterator

from dataplane.topology.draft import Draft, Finding


def beyond_limits(topology: Draft) -> Iterator[Finding]:
    """To be filled."""
    yield from ()
