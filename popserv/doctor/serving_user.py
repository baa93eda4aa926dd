"""Acts for a time as the user that the server runs as, with all of that user's restrictions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pwd import getpwuid
from typing import NamedTuple

from popserv.runtime.capabilities import SWITCHING, make_effective
from popserv.runtime.file_credentials import forget_process

CAN_CHANGE = hasattr(os, "setresuid")
"""Whether this system lets a process change its users for a time."""


class ServingUser(NamedTuple):
    """A user and a group, as of twistd's ``--uid`` and ``--gid``."""

    uid: int
    gid: int


@contextmanager
def acting_as(user: ServingUser | None, *, as_owners: bool = False) -> Iterator[None]:
    """Give the process the permissions of a user; None leaves it as it is.

    With ``as_owners``, this thread and those that it starts can become other users, as with the
    option of the server.  The real user is changed as well, because access(2) looks at that.  Only
    root may do this.
    """
    if user is None:
        yield
        return
    groups, gids = os.getgroups(), os.getresgid()
    os.initgroups(getpwuid(user.uid).pw_name, user.gid)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, 0)
    if as_owners:
        make_effective(SWITCHING)
    forget_process()
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(*gids)
        os.setgroups(groups)
        forget_process()
