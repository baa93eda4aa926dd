"""Delivery into Maildirs, safe while other programs read them.

A message is written to tmp/ and synced to disk before it is renamed into new/.  So a reader
never sees part of a message, and a delivered message survives a crash of the machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from secrets import token_hex
from shutil import copyfileobj
from socket import gethostname
from typing import BinaryIO, NamedTuple

from popserv.maildrops.layout import Layout, create_inheriting
from popserv.maildrops.maildir.listing.size_file import copy_ownership
from popserv.maildrops.maildir.quota_file import record_deliveries
from popserv.maildrops.path_problems import explain_change
from popserv.maildrops.spooling import check_length
from popserv.runtime.closing import close

_FOLDERS = (b"tmp", b"new", b"cur")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _Written(NamedTuple):
    """A message in tmp/: its base name and length, and the descriptors of the directories."""

    name: bytes
    length: int
    maildir: int
    tmp: int
    new: int


class Delivery:
    """The delivery of one message to users of a layout.

    Call :meth:`write`, then :meth:`commit`, and in any case :meth:`close`.  They wait for the
    disk, so call them in a thread, one after the other.  Nearly everything that can fail is done
    by :meth:`write`, before any user sees the message.  What is created belongs to the owner of its
    directory, if the process may give it away.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._written: list[_Written] = []
        self._stack = ExitStack()

    @property
    def names(self) -> Sequence[bytes]:
        """The base names of the written messages, in the order of the users."""
        return [each.name for each in self._written]

    def write(self, message: BinaryIO, users: Iterable[bytes], *, prefix: bytes = b"") -> None:
        """Write a message into tmp/ of each user's maildrop, which is created if it is missing.

        ``message`` is read from its start for each user.  ``prefix`` is written before it, for
        example a Return-Path field.

        :raises MessageTooLarge: no session would read the message.
        :raises ValueError: a name is not allowed in this layout.
        :raises OSError: the message cannot be written for all users.
        """
        check_length(message, len(prefix))
        for user in users:
            maildir = self._close_later(self._layout.open_or_create(user, create_inheriting))
            for folder in _FOLDERS:
                create_inheriting(folder, maildir)
            tmp, new = (
                self._close_later(os.open(folder, _DIRECTORY, dir_fd=maildir))
                for folder in _FOLDERS[:2]
            )
            name = _unique_name()
            try:
                length = self._write(message, prefix, name, maildir, tmp)
            except OSError as error:
                raise explain_change(error, tmp, name) from error
            self._written.append(_Written(name, length, maildir, tmp, new))

    def _write(self, message: BinaryIO, prefix: bytes, name: bytes, maildir: int, tmp: int) -> int:
        """Write a file in tmp/, and return its length."""
        fd = os.open(name, _CREATE, 0o600, dir_fd=tmp)
        self._stack.callback(_remove, name, tmp)
        with open(fd, "wb") as file:
            copy_ownership(os.fstat(maildir), fd)
            file.write(prefix)
            message.seek(0)
            copyfileobj(message, file)
            file.flush()
            os.fsync(fd)
            return file.tell()

    def commit(self) -> None:
        """Rename the written files into new/ and sync that, so that all users see the message.

        :raises OSError: some users may not have the message.
        """
        for each in self._written:
            os.rename(each.name, each.name, src_dir_fd=each.tmp, dst_dir_fd=each.new)
            record_deliveries(each.maildir, [(each.name, each.length)])
            os.fsync(each.new)

    def close(self) -> None:
        """Remove uncommitted files from tmp/, and close all files.

        :raises OSError: a file could not be removed; everything else was.
        """
        self._stack.close()

    def _close_later(self, fd: int) -> int:
        self._stack.callback(close, fd)
        return fd


def _unique_name() -> bytes:
    # The Maildir specification's escapes: neither character is allowed in a file name.
    host = os.fsencode(gethostname()).replace(b"/", rb"\057").replace(b":", rb"\072")
    seconds, microseconds = divmod(time.time_ns() // 1000, 10**6)
    token = token_hex(8).encode("ascii")
    return b"%d.M%06dP%dR%b.%b" % (seconds, microseconds, os.getpid(), token, host)


def _remove(name: bytes, tmp: int) -> None:
    # A committed message is no longer in tmp/.
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=tmp)
