"""The length of the paths of UNIX sockets.

Python's ``socket`` refuses a longer path with an exception that has no error number, of which
Twisted's connector makes an error of its own and a timeout.
"""

from __future__ import annotations

import os

MAX_PATH = 107
"""The maximum octets of the path of a UNIX socket, on Linux."""


def is_too_long(path: str) -> bool:
    """Return whether no UNIX socket can have this path, because it is too long."""
    return len(os.fsencode(path)) > MAX_PATH
