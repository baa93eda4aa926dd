"""The quota file ``maildirsize`` of Maildir++: changes of the mail are recorded by a line in it.

The first line is the quota.  Every other line has two numbers, the octets and the messages by which
the mail in the Maildir has changed.  Programs that deliver mail make the file; they calculate it
again if it is long, invalid, or says that the quota is exceeded.

http://www.courier-mta.org/imap/README.maildirquota.html
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence

from twisted.logger import Logger

from popserv.maildrops.maildir.file_names import has_flag, octets_in_name, split_name
from popserv.maildrops.path_problems import explain_change

_log = Logger()

NAME = b"maildirsize"

FOLDER_MARK = b"maildirfolder"
"""The file by which Maildir++ marks a folder, which is in the Maildir of the inbox."""

# O_RDWR, to read the last octet.
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def record_removals(maildir_fd: int, removed: Sequence[tuple[bytes, int]]) -> None:
    """Append a line for removed message files to the quota file of an open Maildir, if it has one.

    ``removed`` are their file names and lengths.  A file with the flag T (trashed) is not counted
    in quotas.

    The file may be the work of a user while the server is root, so only a regular file without
    other links is changed.  Errors are logged.
    """
    _record(maildir_fd, removed, -1)


def record_deliveries(maildir_fd: int, delivered: Sequence[tuple[bytes, int]]) -> None:
    """Append a line for message files that were delivered, as :func:`record_removals`."""
    _record(maildir_fd, delivered, 1)


def may_be_recorded(maildir_fd: int) -> bool:
    """Return whether an open Maildir may have a quota file, or be a folder of one that has it."""
    return any(_may_exist(name, maildir_fd) for name in (FOLDER_MARK, NAME))


def _may_exist(name: bytes, maildir_fd: int) -> bool:
    try:
        os.stat(name, dir_fd=maildir_fd, follow_symlinks=False)
    except OSError as error:
        return error.errno != errno.ENOENT
    return True


def _record(maildir_fd: int, files: Sequence[tuple[bytes, int]], sign: int) -> None:
    if not files:
        return
    path = _path(maildir_fd)
    try:
        fd = os.open(path, _FLAGS, dir_fd=maildir_fd)
        try:
            octets = list(_quota_octets(files))
            if octets:
                _append(fd, b"%d %d\n" % (sign * sum(octets), sign * len(octets)))
        finally:
            os.close(fd)
    except FileNotFoundError:
        pass
    except OSError as error:
        problem = explain_change(error, maildir_fd, path)
        _log.warn("quota file not updated: {error}", error=problem)


def _path(maildir_fd: int) -> bytes:
    """Return the path of the quota file: a folder has that of the Maildir that it is in."""
    try:
        os.stat(FOLDER_MARK, dir_fd=maildir_fd, follow_symlinks=False)
    except OSError:
        return NAME
    return b"../" + NAME


def _quota_octets(files: Iterable[tuple[bytes, int]]) -> Iterator[int]:
    """Yield the octets of each file that is counted in quotas."""
    for name, length in files:
        base_name, suffix = split_name(name)
        if not has_flag(suffix, b"T"):
            octets = octets_in_name(base_name)
            yield length if octets is None else octets


def _append(fd: int, line: bytes) -> None:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise OSError(errno.EINVAL, "not a regular file with one name", NAME)
    if status.st_size == 0:
        # A line would be taken for the quota.
        return
    if os.pread(fd, 1, status.st_size - 1) != b"\n":
        line = b"\n" + line
    if os.write(fd, line) != len(line):
        raise OSError(errno.ENOSPC, "line written in part", NAME)
