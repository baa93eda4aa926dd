"""Identifies the system user at the other end of a UNIX socket."""

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
"""Whether this system reports the peer's uid of a UNIX socket (SO_PEERCRED)."""

_ALL_UIDS = (1 << 32) - 1

_CREDENTIALS = struct.Struct("iII")
"""Linux's struct ucred: pid, uid, gid."""

# Looking up a name may query a directory server.
_name_threads = BoundedThreadPool("popserv-names", threads=2, backlog=200, wait_at_shutdown=False)


async def peer_user(transport: Any) -> bytes:
    """Return the name of the user whose process connected to a UNIX socket.

    It is the effective user at the time of the connection.

    :raises NoUser: the uid has no name, or stands for users of other namespaces.
    :raises popserv.errors.TryLater: too many names are being looked up.
    """
    uid = _peer_uid(transport)
    if uid == _overflow_uid():
        raise NoUser from UnauthorizedLogin(f"uid {uid} stands for all users of other namespaces")
    try:
        return os.fsencode((await _name_threads.run(pwd.getpwuid, uid)).pw_name)
    except KeyError:
        raise NoUser from UnauthorizedLogin(f"uid {uid} has no name")


def _peer_uid(transport: Any) -> int:
    credentials = transport.getHandle().getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
    )
    uid: int = _CREDENTIALS.unpack(credentials)[1]
    return uid


@lru_cache(1)
def _overflow_uid() -> int | None:
    """Return the uid that represents all users who have none in this user namespace."""
    # Python has the codec of UTF-8 built in, and no file must be loaded for it.
    try:
        with open("/proc/self/uid_map", encoding="utf-8") as uid_map:
            if sum(int(line.split()[2]) for line in uid_map) >= _ALL_UIDS:
                return None
        with open("/proc/sys/kernel/overflowuid", encoding="utf-8") as number:
            return int(number.read())
    except OSError:
        return None
