"""The lock with which Twisted marks a UNIX socket as used, by the process ID in a symbolic link."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def remove_stale_lock(path: str) -> None:
    """Remove a lock, and its socket, that an earlier process with the ID of this one has left.

    In a container that was killed, the server has the same process ID again, usually 1, and Twisted
    would take the lock for one of a process that runs.
    """
    lock = f"{path}.lock"
    with suppress(OSError):
        if os.readlink(lock) == str(os.getpid()) and not _is_used(path):
            os.unlink(lock)
            # Without a lock, Twisted would not remove it.
            os.unlink(path)


def _is_used(path: str) -> bool:
    """Return whether a socket is open: this process may have opened it itself."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True
