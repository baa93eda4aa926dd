"""Closes descriptors."""

from __future__ import annotations

import errno
import os


def close(fd: int) -> None:
    """Close a directory, or a file that was only read, synced, locked, or is to be dropped.

    close(2) can fail, above all on NFS, and Linux closes the descriptor all the same.  For these
    the error tells nothing: what was written is on disk, or its sync has failed.

    :raises OSError: the descriptor is not open.
    """
    try:
        os.close(fd)
    except OSError as error:
        if error.errno == errno.EBADF:
            raise
