"""To be filled."""

from collections.abc import Iterator

from dataplane.topology.draft import Draft, Finding


def not_yet_supported(topology: Draft) -> Iterator[Finding]:
    """To be filled."""
    yield from ()
