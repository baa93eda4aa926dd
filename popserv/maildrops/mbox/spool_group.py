"""The group of a spool directory such as /var/mail, in which users must not create files."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import AbstractContextManager, nullcontext, suppress
from pwd import getpwnam

from popserv.core.printable import printable
from popserv.runtime.file_credentials import NOBODY, FileCredentials, acting_as, current


def in_spool_group(directory: int) -> AbstractContextManager[None]:
    """Let a user create and remove lock files in an open spool directory.

    It is a directory of root's in which its group may write.  A server that accesses files as their
    users has the rights of this group for what must be beside an mbox file, and only for that.

    :raises OSError: as :func:`~popserv.runtime.file_credentials.switch`.
    """
    user = current()
    if user is not None:
        status = os.fstat(directory)
        if _is_spool(status):
            return acting_as(user._replace(gid=status.st_gid))
    return nullcontext()


def credentials_for_new(directory: int, user: bytes) -> FileCredentials | None:
    """Return the credentials as which a user's file is created in an open directory.

    They are those of this thread.  But if these are those of the user ``nobody``, in a spool
    directory, they are those of the user of the system with that name, who could otherwise not read
    the file.

    :raises PermissionError: there is no such user, or it is root.
    """
    if current() == NOBODY and _is_spool(os.fstat(directory)):
        with suppress(KeyError):
            entry = getpwnam(os.fsdecode(user))
            if entry.pw_uid != 0:
                return FileCredentials(entry.pw_uid, entry.pw_gid)
        name = printable(user)
        problem = f"the system has no user {name} whom the file could belong to; create the file"
        raise PermissionError(errno.EACCES, problem)
    return current()


def _is_spool(status: os.stat_result) -> bool:
    return status.st_uid == 0 and status.st_gid != 0 and bool(status.st_mode & stat.S_IWGRP)
