"""The length of the paths of UNIX sockets.

For a longer path, Python's ``socket`` raises an OSError without an error number.  Twisted's
connector uses its text as that number, which is a TypeError, and the attempt ends only by its
timeout.
"""

from __future__ import annotations

import os

MAX_PATH = 107
"""The maximum number of octets in the path of a UNIX socket on Linux."""


def is_too_long(path: str) -> bool:
    """Return whether a path is too long for a UNIX socket."""
    return len(os.fsencode(path)) > MAX_PATH
