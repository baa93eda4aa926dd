"""Helpers for configuration files: detecting changes and checking permissions.

A reader keeps the fingerprint of the file that it parsed last.  When ``os.stat`` gives another
fingerprint, the file has changed and is parsed again.
"""

from __future__ import annotations

import os
import shlex
import stat


class FileError(Exception):
    """A configuration file cannot be used; the message names the file and the remedy."""


def fingerprint(status: os.stat_result) -> tuple[int, ...]:
    """Return values that change when the content or the permissions of a file change.

    They are the times of the last modification and of the last status change, in nanoseconds,
    the size, the inode number and the mode.
    """
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_mode


def check_private(path: str, mode: int) -> None:
    """Check that only the owner and the group of a file have permissions on it.

    ``mode`` is the file's ``st_mode``; ``path`` is used in the message.

    :raises FileError: other users can read, write or execute the file.
    """
    if mode & stat.S_IRWXO:
        raise FileError(
            f"{path} is accessible to users other than its owner and its group; "
            f"run: chmod o= {shlex.quote(path)}"
        )
