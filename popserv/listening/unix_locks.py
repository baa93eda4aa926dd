"""The lock with which Twisted marks a UNIX socket as used, by the process ID in a symbolic link."""

from __future__ import annotations

import os
import socket
import stat
import sys
from contextlib import suppress


def remove_stale_lock(path: str) -> None:
    """Remove a lock, and its socket, if no process accepts connections on the socket.

    Twisted would take the lock for one of a process that runs, if there is one with its ID: another
    one after the machine was restarted, or the server itself in a container that was killed, where
    it has the same process ID again, usually 1.
    """
    lock = f"{path}.lock"
    with suppress(OSError):
        # Elsewhere connections are refused, too, if many clients wait; Linux tells another error.
        is_known = sys.platform == "linux" or os.readlink(lock) == str(os.getpid())
        if is_known and os.path.islink(lock) and not _is_used(path):
            os.unlink(lock)
            # Without a lock, Twisted would not remove it.
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)


def _is_used(path: str) -> bool:
    """Return whether a socket is open: this process may have opened it itself.

    :raises OSError: that cannot be found out, or too many clients wait for it.
    """
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        try:
            client.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True
