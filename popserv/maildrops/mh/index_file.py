"""The index file of an MH folder: sizes and unique-ids that survive a restart of the server.

Delivery with given unique-ids writes it before a message gets its number (``delivery``).  Those
unique-ids are nowhere else: the file is replaced whole and synced, and a folder whose file cannot
be read is not opened.

The first line has the format and whether downgraded forms were measured, the last one a digest of
the lines before, so that a damaged file is noticed.  Each other line is a message.  A user
can write the file while the server is root, so it is opened without following links and its
contents are checked; at worst it makes that user's own listings wrong.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from hashlib import blake2b
from typing import NamedTuple

from popserv.maildrops.mh.folder import FileKey
from popserv.messages.sizes import Sizes
from popserv.runtime.closing import close

NAME = b".popserv-index"
_UNFINISHED_NAME = b".popserv-index.tmp"

_MAX_OCTETS = 1 << 28
_HEAD = b"popserv MH index 1 %b\n"
_LINE = re.compile(
    rb"([0-9]{1,20}) ([0-9]{1,15}) (-?[0-9]{1,20}) ([0-9]{1,15}) (-|[0-9]{1,15}) ([01])"
    rb" ([0-9a-f]{32}) ([\x21-\x7e]{1,255})"
)

Version = tuple[int, ...] | None
"""The inode, length and time of the file, by which a change is noticed; None without one."""

NOT_COUNTED = b"-"
"""The kind of an index whose sizes are not to be used."""


class Entry(NamedTuple):
    """A message: its number, file, sizes, the digest of its octets, and its unique-id."""

    number: int
    key: FileKey
    sizes: Sizes
    digest: bytes
    uid: bytes


def kind_of_sizes(downgrader: object) -> bytes:
    """Return the kind of an index: whether there is a downgrader, which has measured."""
    return b"0" if downgrader is None else b"1"


def encode(entries: Iterable[Entry], kind: bytes) -> bytes:
    """Return the contents of the file."""
    lines = [_HEAD % kind]
    for entry in entries:
        sizes = entry.sizes
        downgraded = b"-" if sizes.downgraded is None else b"%d" % sizes.downgraded
        columns = (*entry.key, sizes.octets, downgraded, sizes.has_blank_line)
        lines.append(b"%d %d %d %d %b %d" % columns + b" %b %b\n" % (entry.digest, entry.uid))
    text = b"".join(lines)
    return text + _digest(text)


def decode(text: bytes, kind: bytes) -> tuple[list[Entry], bool]:
    """Return the entries of a file, without numbers, and whether their sizes are of the kind.

    :raises ValueError: the file is damaged, or not one that :func:`encode` has made.
    """
    body, digest = text[:-32], text[-32:]
    if _digest(body) != digest:
        raise ValueError("the digest is wrong")
    head, *lines = body.splitlines()
    is_counted = head + b"\n" == _HEAD % kind
    if not is_counted and head + b"\n" not in [_HEAD % each for each in (b"0", b"1", NOT_COUNTED)]:
        raise ValueError("another format")
    entries = []
    for line in lines:
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError("an invalid line")
        inode, length, modified, octets, downgraded, has_blank_line, content, uid = found.groups()
        sizes = Sizes(
            int(octets),
            None if downgraded == b"-" else int(downgraded),
            has_blank_line == b"1",
        )
        key = FileKey(int(inode), int(length), int(modified))
        entries.append(Entry(0, key, sizes, content, uid))
    if len({entry.uid for entry in entries}) != len(entries):
        raise ValueError("a unique-id twice")
    return entries, is_counted


def _digest(text: bytes) -> bytes:
    return blake2b(text, digest_size=16).hexdigest().encode("ascii")


def load(folder: int, kind: bytes) -> tuple[list[Entry], bool]:
    """Return the entries of an open folder's file as :func:`decode`; none without a valid file.

    :raises OSError: there may be one, which cannot be read; the error has the name.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(NAME, flags, dir_fd=folder)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_OCTETS:
                return [], False
            # It closes no descriptor that it refuses, such as that of a directory.
            with open(fd, "rb", closefd=False) as file:
                return decode(file.read(_MAX_OCTETS), kind)
        finally:
            close(fd)
    except ValueError:
        return [], False
    except OSError as error:
        if error.errno == errno.ELOOP:
            return [], False
        if error.errno == errno.ENOENT:
            if os.fsdecode(NAME) not in os.listdir(folder):
                return [], False
            # It is there, and replacing it would change unique-ids for ever.
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), NAME) from error
        raise OSError(error.errno, error.strerror, NAME) from error


def is_damaged(folder: int) -> bool:
    """Return whether an open folder has a file that :func:`load` cannot use.

    :raises OSError: it cannot be read.
    """
    kinds = (b"0", b"1", NOT_COUNTED)
    return version(folder) is not None and all(load(folder, kind) == ([], False) for kind in kinds)


def version(folder: int) -> Version:
    """Return the version of the file of an open folder."""
    try:
        status = os.stat(NAME, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def save(folder: int, entries: Iterable[Entry], kind: bytes) -> None:
    """Replace the file of an open folder, whose lock is held, and sync it.

    :raises OSError: the file cannot be written; the old one or the new one is there.
    """
    text = encode(entries, kind)
    if len(text) > _MAX_OCTETS:
        raise OSError(errno.EFBIG, "too large to be read again", NAME)
    with suppress(FileNotFoundError):
        os.unlink(_UNFINISHED_NAME, dir_fd=folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(_UNFINISHED_NAME, flags, 0o600, dir_fd=folder), "wb") as file:
            status = os.fstat(folder)
            with suppress(PermissionError):
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(_UNFINISHED_NAME, NAME, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with suppress(OSError):
            os.unlink(_UNFINISHED_NAME, dir_fd=folder)
        raise
    os.fsync(folder)
