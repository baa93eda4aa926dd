"""Delivery of new mail into an MH folder, under nmh's lock.

A message is written to a file of another name and synced before it gets its number.  A session may
have the folder open meanwhile: its lock is another one.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import partial
from secrets import token_hex
from typing import BinaryIO

from popserv.maildrops.layout import Layout, create_inheriting
from popserv.maildrops.mh.delivery import CREATE, link_next, numbers_by_inode
from popserv.maildrops.mh.flags import set_flags
from popserv.maildrops.mh.folder import key_of, unlink_if_same
from popserv.maildrops.mh.sequences import locked_sequences
from popserv.maildrops.path_problems import explain_change
from popserv.maildrops.spooling import check_length, write_file
from popserv.messages.details import Flags
from popserv.runtime.closing import close

_PREFIX = ".popserv-deliver-"

_ABANDONED = 36 * 3600
"""The seconds after which a file is nobody's that a delivery has written, as those in tmp/."""


def deliver(layout: Layout, user: bytes, message: BinaryIO) -> None:
    """Deliver a message into a user's folder, which is created if there is none, in a thread.

    :raises MessageTooLarge: no session would read the message.
    :raises ValueError: the name of the user is not allowed.
    :raises OSError: it cannot be delivered.
    """
    check_length(message)
    folder = layout.open_or_create(user, create_inheriting)
    # No session takes it for a message, and no copy for one of its own.
    name = os.fsencode(_PREFIX + token_hex(8))
    try:
        _write(folder, name, message)
        try:
            _number(folder, name)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
        os.fsync(folder)
    except OSError as error:
        raise explain_change(error, folder, error.filename or name) from error
    finally:
        close(folder)


def _write(folder: int, name: bytes, message: BinaryIO) -> None:
    fd = os.open(name, CREATE, 0o600, dir_fd=folder)
    try:
        owner = os.fstat(folder)
        with suppress(PermissionError):
            os.fchown(fd, owner.st_uid, owner.st_gid)
        write_file(message, fd, 0)
    except OSError:
        os.unlink(name, dir_fd=folder)
        raise
    finally:
        close(fd)


def _remove_abandoned(folder: int, entry: os.DirEntry[str]) -> None:
    """Remove a file of a delivery that was killed."""
    if entry.name.startswith(_PREFIX):
        with suppress(OSError):
            if time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED:
                os.unlink(entry.name, dir_fd=folder)


def _number(folder: int, name: bytes) -> None:
    with locked_sequences(folder) as sequences:
        numbers = [
            number for _, number in numbers_by_inode(folder, partial(_remove_abandoned, folder))
        ]
        number = link_next(folder, name, max(numbers, default=0) + 1)
        try:
            set_flags(sequences, {number: Flags.NONE}, [*numbers, number])
            sequences.write()
            sequences.sync()
        except OSError:
            # It will be delivered again, each time as another message.
            with suppress(OSError):
                key = key_of(os.stat(name, dir_fd=folder, follow_symlinks=False))
                unlink_if_same(folder, number, key)
            raise
