"""Configuration files that are read again when they change, and files with secrets.

A reader keeps the fingerprint of the version that it has parsed, and parses the file again
when ``os.stat`` returns another one.
"""

from __future__ import annotations

import os
import shlex
import stat


class FileError(Exception):
    """A configuration file cannot be used; the message names the file and the remedy."""


def fingerprint(status: os.stat_result) -> tuple[int, ...]:
    """Return values that differ after a file's content or its permissions have changed.

    They are the times of the last modification and of the last status change, in nanoseconds,
    the size, the inode number and the mode.
    """
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_mode


def check_private(path: str, mode: int) -> None:
    """Check that a file is closed to all users but its owner and its group.

    ``mode`` is the file's ``st_mode``; ``path`` is for the message.

    :raises FileError: other users may read, write or execute the file.
    """
    if mode & stat.S_IRWXO:
        raise FileError(
            f"{path} can be used by everybody on this machine; "
            f"mend it: chmod o= {shlex.quote(path)}"
        )
