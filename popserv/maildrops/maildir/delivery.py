"""Delivery into Maildirs, safe while other programs read them.

A message is written to tmp/ and synced to disk before it is renamed into new/.  So a reader
never sees part of a message, and a delivered message survives a crash of the machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from secrets import token_hex
from shutil import copyfileobj
from socket import gethostname
from typing import BinaryIO

from popserv.maildrops.layout import Layout, create_directory

_FOLDERS = (b"tmp", b"new", b"cur")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Delivery:
    """The delivery of one message to users of a layout.

    Call :meth:`write`, then :meth:`commit`, and in any case :meth:`close`.  They wait for the
    disk, so call them in a thread, one after the other.  Nearly everything that can fail is done
    by :meth:`write`, before any user sees the message.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._written: list[tuple[bytes, int, int]] = []
        self._stack = ExitStack()

    def write(self, message: BinaryIO, users: Iterable[bytes], *, prefix: bytes = b"") -> None:
        """Write a message into tmp/ of each user's maildrop, which is created if it is missing.

        ``message`` is read from its start for each user.  ``prefix`` is written before it, for
        example a Return-Path field.

        :raises ValueError: a name is not allowed in this layout.
        :raises OSError: the message cannot be written for all users.
        """
        for user in users:
            maildir = self._close_later(self._layout.open_or_create(user))
            for folder in _FOLDERS:
                create_directory(folder, maildir)
            tmp, new = (
                self._close_later(os.open(folder, _DIRECTORY, dir_fd=maildir))
                for folder in _FOLDERS[:2]
            )
            name = _unique_name()
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=tmp)
            self._stack.callback(_remove, name, tmp)
            with open(fd, "wb") as file:
                file.write(prefix)
                message.seek(0)
                copyfileobj(message, file)
                file.flush()
                os.fsync(fd)
            self._written.append((name, tmp, new))

    def commit(self) -> None:
        """Rename the written files into new/ and sync that, so that all users see the message.

        :raises OSError: some users may not have the message.
        """
        for name, tmp, new in self._written:
            os.rename(name, name, src_dir_fd=tmp, dst_dir_fd=new)
            os.fsync(new)

    def close(self) -> None:
        """Remove uncommitted files from tmp/, and close all files.

        :raises OSError: a file could not be removed; everything else was.
        """
        self._stack.close()

    def _close_later(self, fd: int) -> int:
        self._stack.callback(os.close, fd)
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
