"""The lock with which Twisted marks a UNIX socket as used, by the process ID in a symbolic link."""

from __future__ import annotations

import os
import socket
import stat
import sys
import time
from contextlib import suppress

from popserv.runtime.processes import has_ended

_START_TIME = 1.0
"""Seconds within which a server that has made its lock listens."""


def remove_stale_lock(path: str) -> None:
    """Remove a lock, and its socket, if no process accepts connections on the socket.

    Twisted would take the lock for one of a process that runs, if there is one with its ID: another
    one after the machine was restarted, or the server itself in a container that was killed, where
    it has the same process ID again, usually 1.
    """
    with suppress(OSError):
        # Twisted removes that of a process that has ended, also if two servers start at a time.
        if not has_ended(_process(path), own_ended=False) and is_stale(path):
            os.unlink(f"{path}.lock")
            # Without a lock, Twisted would not remove it.
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)


def is_stale(path: str) -> bool:
    """Return whether the lock of a socket was left behind.

    :raises OSError: there is no lock, or that cannot be found out.
    """
    process = _process(path)
    if _is_used(path):
        return False
    if has_ended(process, own_ended=True):
        return True
    # Another server may be starting.
    is_new = abs(time.time() - os.lstat(f"{path}.lock").st_mtime) < _START_TIME
    # Elsewhere connections are refused, too, if many clients wait; Linux tells another error.
    return sys.platform == "linux" and not is_new


def _process(path: str) -> bytes:
    """Return the process ID in the lock of a socket."""
    return os.readlink(os.fsencode(f"{path}.lock"))


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
