"""The group of a spool directory such as /var/mail, in which users must not create files."""

from __future__ import annotations

import os
import stat
from contextlib import AbstractContextManager, nullcontext

from popserv.runtime.file_credentials import acting_as, current


def in_spool_group(directory: int) -> AbstractContextManager[None]:
    """Let a user create and remove lock files in an open spool directory.

    It is a directory of root's in which its group may write.  A server that accesses files as their
    users has the rights of this group for what must be beside an mbox file, and only for that.

    :raises OSError: as :func:`~popserv.runtime.file_credentials.switch`.
    """
    user = current()
    if user is not None:
        status = os.fstat(directory)
        if status.st_uid == 0 and status.st_gid != 0 and status.st_mode & stat.S_IWGRP:
            return acting_as(user._replace(gid=status.st_gid))
    return nullcontext()
