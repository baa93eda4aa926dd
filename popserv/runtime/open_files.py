"""How many connections fit into the number of files that a process may open."""

from __future__ import annotations

MAX_CONNECTIONS = 10_000
"""The greatest number of connections of a process that is not told a number."""

_PER_CONNECTION = 4
"""A socket, a Maildir, and the two folders of the Maildir once a message is read."""

_OTHERS = 100
"""Files that a process opens besides."""


def connections_for(files: int) -> int:
    """Return the number of connections that a number of open files allows."""
    return max(1, min(MAX_CONNECTIONS, (files - _OTHERS) // _PER_CONNECTION))


def files_for(connections: int) -> int:
    """Return the number of open files that a number of connections needs."""
    return connections * _PER_CONNECTION + _OTHERS
