"""Delivery of new mail into an mbox file, under the locks of programs that deliver mail.

A session may have the mailbox open meanwhile: its lock is another one.
"""

from __future__ import annotations

import errno
from typing import BinaryIO

from popserv.maildrops.layout import Layout
from popserv.maildrops.mbox.appending import Batch, has_journal, undo_append
from popserv.maildrops.mbox.locks import FileLock
from popserv.maildrops.mbox.parser import Format
from popserv.maildrops.mbox.spool import Spool, create_file
from popserv.maildrops.mbox.stored_form import new_form
from popserv.runtime.file_credentials import acting_as


def deliver(layout: Layout, user: bytes, mbox_format: Format, message: BinaryIO) -> None:
    """Append a message to a user's file, which is created if there is none, in a thread.

    :raises popserv.maildrops.mbox.locks.FileLocked: another program has a lock on the file, or
        has put another one in its place.
    :raises popserv.errors.DeliveryRefused: a file of this format cannot keep the message.
    :raises ValueError: the name of the user is not allowed.
    :raises OSError: it cannot be appended.
    """
    with acting_as(create_file(layout, user)):
        spool = Spool.open_shared(layout, user)
        try:
            with spool.locked() as lock:
                _append(spool, lock, mbox_format, message)
        finally:
            spool.close()


def _append(spool: Spool, lock: FileLock, mbox_format: Format, message: BinaryIO) -> None:
    if not spool.is_writable():
        raise spool.problem(PermissionError(errno.EACCES, "cannot be written"))
    try:
        if has_journal(spool.parent, spool.name):
            undo_append(spool.fd, spool.parent, spool.name, lock.touch)
        batch = Batch(spool.parent, spool.name, b".deliver")
        try:
            batch.add(new_form(message, mbox_format))
            batch.append(spool.fd, lock.touch)
        finally:
            batch.close()
    except OSError as error:
        raise spool.problem(error) from error
