"""Delivery into Maildirs, by the rules that let other programs read them meanwhile.

A message is written whole into tmp/, and is on the disk before it gets its name in new/: so no
reader ever sees a piece of one, and what was acknowledged outlives a crash of the machine.
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

from popserv.maildrops.maildir.layout import Layout, make_directory

_FOLDERS = (b"tmp", b"new", b"cur")
_INTO = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Delivery:
    """One message on its way to users of a layout: :meth:`write`, :meth:`commit`, :meth:`end`.

    Whatever can fail is done before anybody sees the message.  The methods wait for the disk;
    call them in a thread, one after the other, and the last of them in any case.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._written: list[tuple[bytes, int, int]] = []
        self._stack = ExitStack()

    def write(self, message: BinaryIO, users: Iterable[bytes], *, before: bytes = b"") -> None:
        """Write a message for these users, whose maildrops are made if they are missing.

        ``message`` is read from its start for each of them; ``before`` is what theirs has
        before that, such as a Return-Path.

        :raises ValueError: a name can have no maildrop here.
        :raises OSError: it cannot be written for all of them.
        """
        for user in users:
            maildir = self._opened(self._layout.make(user))
            for folder in _FOLDERS:
                make_directory(folder, maildir)
            tmp, new = (
                self._opened(os.open(folder, _INTO, dir_fd=maildir)) for folder in _FOLDERS[:2]
            )
            name = _unique_name()
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=tmp)
            self._stack.callback(_remove, name, tmp)
            with open(fd, "wb") as file:
                file.write(before)
                message.seek(0)
                copyfileobj(message, file)
                file.flush()
                os.fsync(fd)
            self._written.append((name, tmp, new))

    def commit(self) -> None:
        """Let the users see what was written, for good.

        :raises OSError: some of them may not have it.
        """
        for name, tmp, new in self._written:
            os.rename(name, name, src_dir_fd=tmp, dst_dir_fd=new)
            os.fsync(new)

    def end(self) -> None:
        """Leave nothing open, and in tmp/ nothing that was not committed.

        :raises OSError: something could not be removed, and all else was.
        """
        self._stack.close()

    def _opened(self, fd: int) -> int:
        self._stack.callback(os.close, fd)
        return fd


def _unique_name() -> bytes:
    # Neither of these may be in a name, and readers of Maildirs know them by these numbers.
    host = os.fsencode(gethostname()).replace(b"/", rb"\057").replace(b":", rb"\072")
    seconds, microseconds = divmod(time.time_ns() // 1000, 10**6)
    token = token_hex(8).encode("ascii")
    return b"%d.M%06dP%dR%b.%b" % (seconds, microseconds, os.getpid(), token, host)


def _remove(name: bytes, tmp: int) -> None:
    # It is not there once it was committed.
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=tmp)
