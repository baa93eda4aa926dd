"""Which processes exist."""

from __future__ import annotations

import os

_LIMIT = 1 << 31
"""No process number is as great, whatever the system."""


def has_ended(process: bytes, *, own_ended: bool) -> bool:
    """Return whether the process whose number a lock has, in decimal, does not exist.

    ``own_ended`` is the answer if it is the number of this process: in a container, a server has
    the number of the one before it.
    """
    if not process.isdigit() or not 0 < int(process) < _LIMIT:
        return False
    if int(process) == os.getpid():
        return own_ended
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
