"""To be filled."""

from collections.abc import Iterator

from dataplane.topology.draft import Draft, Finding


def broken_rules(topology: Draft) -> Iterator[Finding]:
    """To be filled."""
    yield from ()
