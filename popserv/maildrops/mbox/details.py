"""The details of a message in an mbox file: its From_ line has the time, its header the flags."""

from __future__ import annotations

import os

from popserv.maildrops.mbox.header import MAX_HEADER, Header
from popserv.maildrops.mbox.index import Index
from popserv.messages.details import MessageDetails


def details_at(fd: int, index: Index, position: int) -> MessageDetails:
    """Return the details of a message of an open file, which has not changed.

    Waits for the disk: call it in a thread.

    :raises OSError: the file cannot be read.
    """
    start, end = index.starts[position], index.ends[position]
    header = Header(os.pread(fd, min(MAX_HEADER, end - start), start))
    return MessageDetails(index.delivered[position], header.flags())
