"""The pidfile of twistd in a container, where the server always has the same process ID."""

from __future__ import annotations

import os
from contextlib import suppress


def remove_own_pidfile(path: str) -> None:
    """Remove a pidfile that contains the ID of this process, which has not written one yet.

    An earlier process with the same ID left it.  twistd would find that a process with that ID is
    running, and would not start.  Every other file is left to twistd.
    """
    # The file may be missing, unreadable or not a number; twistd says so.
    with suppress(OSError, ValueError):
        with open(path, encoding="ascii") as file:
            is_own = int(file.read()) == os.getpid()
        if is_own:
            os.remove(path)
