"""Rewrites an mbox file in place, so that it has each message whole at any moment.

The file keeps its inode, owner, group and mode, and the directory need not be writable.  Programs
that have the file open and wait for a lock on it therefore append to the right file.

Rules of this file:
 1. Before any octet of a message is overwritten, that message is at the end of the file, and on
    disk: a copy of all messages that the new text will overwrite, in whole or in part.
 2. What is not overwritten is not copied, and is read where it is.
 3. The file is cut only when the new text is on disk.
 4. After an error everything is undone, from the copies, and the file is cut to its old length.
 5. The file has room for the copies before they are written, so that a program that appends without
    a lock appends after them.  What it has appended is moved to where the file is cut.
 6. The notice is on disk before the file has that room.

A process that is killed, or a power loss, thus leaves duplicates, after a notice that says so, and
no message is lost.  No more disk space is used than the new text has, and one message more.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

CHUNK = 1 << 20
"""The maximum octets of one read or write."""

_PAGE = 4096

_NOTICE_LINE = b"From MAILER-DAEMON Thu Jan  1 00:00:00 1970\n"
_NOTICE = (
    _NOTICE_LINE + b"From: popserv <MAILER-DAEMON>\n"
    b"Subject: Removing mail was interrupted\n"
    b"\n"
    b"The server was stopped while it removed messages from this mailbox.  The messages\n"
    b"after this one are copies of earlier ones; some of those may be damaged.\n"
)
_NOTICE_END = b"\n\n"


_Result = TypeVar("_Result")


class Edit(NamedTuple):
    """The octets from ``start`` to ``end`` are replaced with ``text``."""

    start: int
    end: int
    text: bytes = b""


class _Piece(NamedTuple):
    """A piece of the new text: octets of the file, or other ones."""

    start: int
    end: int
    text: bytes


def rewrite(
    fd: int,
    size: int,
    edits: Sequence[Edit],
    boundaries: Sequence[int],
    touch: Callable[[], None] = lambda: None,
) -> None:
    """Edit an open and locked file of ``size`` octets.

    ``edits`` are in order and do not overlap.  ``boundaries`` are the offsets of the From_ lines.
    ``touch`` is called from time to time.

    Waits for the disk: call it in a thread.

    :raises OSError: the file cannot be rewritten; unless the error persists, it is what it was.
    """
    start = edits[0].start
    pieces = _pieces(size, edits)
    end = start + sum(piece.end - piece.start + len(piece.text) for piece in pieces)
    if end == start:
        cut(fd, end, size, touch)
        os.fsync(fd)
        return
    # What is overwritten, as whole messages.
    first = boundaries[bisect_right(boundaries, start) - 1]
    next_message = bisect_left(boundaries, end)
    last = boundaries[next_message] if next_message < len(boundaries) else size
    blank_lines = _blank_lines(size)
    notice = _notice(end - size - len(blank_lines))
    copies = size + len(blank_lines) + len(notice)
    copies_end = copies + last - first
    try:
        write_at(fd, blank_lines, size)
        write_at(fd, notice, size + len(blank_lines))
        # A length may be on disk before the octets: without the notice, the last message would have
        # the octets 0 of the room for the copies at its end.
        os.fdatasync(fd)
        os.ftruncate(fd, copies_end)
        _copy(fd, first, last, copies, touch)
        os.fdatasync(fd)
    except OSError:
        cut(fd, size, copies_end, touch)
        raise
    try:
        _write_pieces(fd, start, pieces, last, copies - first, touch)
        os.fdatasync(fd)
        has_grown = os.fstat(fd).st_size > copies_end
        if not has_grown:
            os.ftruncate(fd, end)
    except OSError:
        _copy(fd, copies, copies + min(last, end) - first, first, touch)
        os.fdatasync(fd)
        cut(fd, size, copies_end, touch)
        raise
    if has_grown:
        # The copies are overwritten, so that this cannot be undone.
        cut(fd, end, copies_end, touch)
    os.fsync(fd)


def _pieces(size: int, edits: Sequence[Edit]) -> list[_Piece]:
    """Return the pieces of the new text from the first edit on."""
    ends = [*(edit.start for edit in edits[1:]), size]
    pieces = []
    for edit, end in zip(edits, ends, strict=True):
        if edit.text:
            pieces.append(_Piece(0, 0, edit.text))
        if edit.end < end:
            pieces.append(_Piece(edit.end, end, b""))
    return pieces


def _blank_lines(size: int) -> bytes:
    """Return what is written before the notice, at the end of the file.

    The From_ line then is in one page.  The system writes it as a whole, even for a process that is
    killed, so that no part of it becomes part of the last message.
    """
    offset = (size + 1) % _PAGE
    is_in_one_page = offset + len(_NOTICE_LINE) <= _PAGE
    return b"\n" * (1 if is_in_one_page else 1 + _PAGE - offset)


def _notice(octets: int) -> bytes:
    """Return the notice before the copies, of at least this many octets."""
    return _NOTICE + b" " * (octets - len(_NOTICE) - len(_NOTICE_END)) + _NOTICE_END


def _write_pieces(
    fd: int,
    offset: int,
    pieces: Sequence[_Piece],
    copied: int,
    shift: int,
    touch: Callable[[], None],
) -> None:
    """Write the new text; what was before the offset ``copied`` is read ``shift`` later."""
    for start, end, text in pieces:
        write_at(fd, text, offset)
        offset += len(text)
        saved = max(start, min(end, copied))
        _copy(fd, start + shift, saved + shift, offset, touch)
        _copy(fd, saved, end, offset + saved - start, touch)
        offset += end - start


def cut(fd: int, end: int, written: int, touch: Callable[[], None]) -> None:
    """Cut the file, in which ``written`` octets are known; what was appended to them is moved.

    Half of it would leave what is no message after the last one, so each step is tried twice.

    :raises OSError: the file cannot be read, written or cut.
    """
    while (size := os.fstat(fd).st_size) > written:
        _copy(fd, written, size, end, touch, twice=True)
        written, end = size, end + size - written
    if end < size:
        _try(os.ftruncate, fd, end, twice=True)


def _copy(
    fd: int, start: int, end: int, to: int, touch: Callable[[], None], *, twice: bool = False
) -> None:
    """Copy octets within a file."""
    while start < end:
        touch()
        chunk = _try(os.pread, fd, min(CHUNK, end - start), start, twice=twice)
        if not chunk:
            raise OSError(errno.ESTALE, "another program has truncated it")
        # Not read again: the first half of what was written may be where it was.
        _try(write_at, fd, chunk, to, twice=twice)
        start += len(chunk)
        to += len(chunk)


def _try(function: Callable[..., _Result], *args: int | bytes, twice: bool) -> _Result:
    """Call a function; if it fails, once more, if permitted."""
    try:
        return function(*args)
    except OSError:
        if not twice:
            raise
        return function(*args)


def read_at(fd: int, octets: int, offset: int) -> bytes:
    """Read so many octets at an offset of a file; less only at its end.

    :raises OSError: they cannot be read.
    """
    text = os.pread(fd, octets, offset)
    while len(text) < octets and (more := os.pread(fd, octets - len(text), offset + len(text))):
        text += more
    return text


def write_at(fd: int, text: bytes, offset: int) -> None:
    """Write all of a text at an offset of a file.

    :raises OSError: it cannot be written.
    """
    rest = memoryview(text)
    while rest:
        written = os.pwrite(fd, rest, offset)
        rest = rest[written:]
        offset += written
