"""The users of this system, whom it knows at the other end of a UNIX socket."""

from __future__ import annotations

import os
import pwd
import socket
import struct
from functools import lru_cache
from typing import Any

from twisted.cred.error import UnauthorizedLogin

from popserv.errors import NoUser
from popserv.runtime.threads import BoundedThreadPool

HAS_PEER_UID = hasattr(socket, "SO_PEERCRED")
"""Whether this system tells who is at the other end of a UNIX socket."""

_ALL_UIDS = (1 << 32) - 1

_CREDENTIALS = struct.Struct("iII")
"""Process, user and group, as Linux has them."""

# Names may come from a directory server.
_names = BoundedThreadPool("popserv-names", threads=2, backlog=200, wait_at_shutdown=False)


async def peer_user(transport: Any) -> bytes:
    """Return the name of the system's user who made the connection, which is a UNIX socket's.

    It is the one who was in effect then.

    :raises NoUser: there is no name, or no telling who it is.
    :raises popserv.errors.TryLater: too many are being asked for.
    """
    uid = _peer_uid(transport)
    if uid == _stranger():
        raise NoUser from UnauthorizedLogin(f"uid {uid} stands for all users of other namespaces")
    try:
        return os.fsencode((await _names.run(pwd.getpwuid, uid)).pw_name)
    except KeyError:
        raise NoUser from UnauthorizedLogin(f"uid {uid} has no name")


def _peer_uid(transport: Any) -> int:
    credentials = transport.getHandle().getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
    )
    uid: int = _CREDENTIALS.unpack(credentials)[1]
    return uid


@lru_cache(1)
def _stranger() -> int | None:
    """Return the uid that the kernel gives to all who have none in this user namespace."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as known:
            if sum(int(line.split()[2]) for line in known) >= _ALL_UIDS:
                return None
        with open("/proc/sys/kernel/overflowuid", encoding="ascii") as number:
            return int(number.read())
    except OSError:
        return None
