"""Whether the file system of a store has room and can be written, for ``popserv doctor``."""

from __future__ import annotations

import os
from collections.abc import Iterator

from popserv.core.findings import Finding, error, warning
from popserv.core.printable import one_line
from popserv.runtime.permissions import reason_of

LOW_OCTETS = 100 << 20
"""Octets below which there is little room."""

LOW_FILES = 10_000
"""The number of files below which there is little room for more."""

_NO_ROOM = "mail cannot be delivered, nor what the server keeps beside it"


def diagnose_file_system(path: bytes) -> Iterator[Finding]:
    """Yield what is wrong with the file system that a path is on; it waits for the disk."""
    where = one_line(os.fsdecode(path))
    try:
        status = os.statvfs(path)
    except OSError as problem:
        yield error("directory", where, reason_of(problem), "correct the path or its permissions")
        return
    if status.f_flag & os.ST_RDONLY:
        yield error(
            "read-only",
            where,
            "the file system is read-only, so that no message can be removed",
            "mount it for writing",
        )
    free = status.f_bavail * status.f_frsize
    if free < LOW_OCTETS:
        make = warning if free else error
        yield make("disk-full", where, f"{free >> 20} MiB are free: {_NO_ROOM}", "make room")
    # Some file systems have no fixed number of files.
    if status.f_files and status.f_favail < LOW_FILES:
        make = warning if status.f_favail else error
        what = f"{status.f_favail} inodes are free: {_NO_ROOM}"
        yield make("inodes", where, what, "remove files, or enlarge the file system")
