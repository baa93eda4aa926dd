"""The file in a Maildir that keeps what was counted, from one run of the server to the next.

Rules of this file:
 1. It may vanish, be old, be torn or say anything at all, for the Maildir's owner can
    write it: whatever is not exactly as :func:`dumps` would have it counts for nothing.
 2. What it says are sizes as they once were.  Which messages there are says a scan, unless
    new/ and cur/ have the very times that it names; what is sent is compared with stamps.
 3. It is replaced whole, by another that is renamed, and only under the maildrop's lock.
 4. Without it everything works: no failure to read or to write it is an error.

Its form, format 1: a line in ASCII, ``popserv-sizes 1``, the byte order of the columns,
and in decimal the number of messages, the octets of the places and of the names, the
numbers of downgraded and of endless messages, and the folders with their times; then the
columns; then a digest of all that.  Places and names are parted by NUL.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import NamedTuple

from popserv.maildrops.maildir.base_names import are_in_order
from popserv.maildrops.maildir.folders import Times

NAME = b"popserv-sizes"

# Always the same, so that a server that was killed leaves one behind at most.
_UNFINISHED = b"popserv-sizes.new"

MOST_MESSAGES = 1 << 20
"""A maildrop with more has no file."""

MOST_OCTETS = 1 << 26
"""Of the whole file."""

_MOST_SIZE = 1 << 50
"""Octets of one message that are believed."""

_MOST_PLACES = 1 << 16
"""Octets of all places: there are few, of any number of messages."""

_LONGEST_NAME = 1 << 10
"""Octets of a unique part, which may stand in the log; no file system has more than 765."""

_DIGEST = 32

_PIECE = 1 << 18

_MAGIC = b"popserv-sizes 1 %b " % sys.byteorder.encode("ascii")
# In one way only, or to find that there is none would take for ever.
_HEAD = re.compile(_MAGIC + rb"((?:-?[0-9]{1,20} ){5,15}-?[0-9]{1,20})\n")
_PLACE = re.compile(rb"[01](?::[^/\0]*)?", re.DOTALL)


class Saved(NamedTuple):
    """What the file keeps, in columns: the messages in order.

    ``places`` and ``times`` are those of :class:`~popserv.maildrops.maildir.folders.Folders`, the
    others those of :class:`~popserv.core.snapshot.Snapshot`.
    """

    uniques: Sequence[bytes]
    places: Sequence[bytes]
    octets: array[int]
    stamps: array[int]
    downgraded: Mapping[int, int]
    header_only: Collection[int]
    times: Times | None


def dumps(saved: Saved) -> Iterator[bytes]:
    """Yield the file's contents, in parts; there must be a message.

    :raises ValueError: they would not be read again.
    """
    kinds: dict[bytes, int] = {}
    which = array("I", [kinds.setdefault(place, len(kinds)) for place in saved.places])
    places = b"\0".join(b"%d%b" % (place[0], place[1:]) for place in kinds)
    names = b"\0".join(saved.uniques)
    folders = [-1] if saved.times is None else [len(saved.times), *sum(saved.times, ())]
    lengths = [len(which), len(places), len(names), len(saved.downgraded), len(saved.header_only)]
    if len(places) > _MOST_PLACES:
        raise ValueError("more places than are read again")
    digest = blake2b(digest_size=_DIGEST)
    for part in (
        _MAGIC + b" ".join(b"%d" % number for number in (*lengths, *folders)) + b"\n",
        saved.octets.tobytes(),
        saved.stamps.tobytes(),
        array("Q", saved.downgraded).tobytes(),
        array("Q", saved.downgraded.values()).tobytes(),
        array("Q", saved.header_only).tobytes(),
        which.tobytes(),
        places,
        names,
    ):
        digest.update(part)
        yield part
    yield digest.digest()


def loads(data: bytes) -> Saved:
    """Return what such a file says.

    :raises ValueError: it is no such file, or not as it was written.
    """
    head = _HEAD.match(data)
    if head is None:
        raise ValueError("not a file of sizes")
    count, *lengths, downgraded, header_only, folders = map(int, head[1].split()[:6])
    times = [*map(int, head[1].split()[6:])]
    sections = [8 * count, 8 * count, 8 * downgraded, 8 * downgraded, 8 * header_only, 4 * count]
    if not (
        0 < count <= MOST_MESSAGES
        and min(downgraded, header_only, *lengths) >= 0
        and max(downgraded, header_only) <= count
        and lengths[0] <= _MOST_PLACES
        and len(times) == 5 * max(folders, 0)
        and head.end() + sum(sections) + sum(lengths) + _DIGEST == len(data)
    ):
        raise ValueError("not of this length")
    whole = memoryview(data)
    if blake2b(whole[:-_DIGEST], digest_size=_DIGEST).digest() != whole[-_DIGEST:]:
        raise ValueError("not as it was written")
    at = head.end()
    columns = []
    for kind, length in zip("QQQQQI", sections, strict=True):
        column = array(kind)
        column.frombytes(whole[at : at + length])
        columns.append(column)
        at += length
    octets, stamps, changed, others, ends, which = columns
    saved = Saved(
        _names(data, at + lengths[0], len(data) - _DIGEST, count),
        _places(data[at : at + lengths[0]], which),
        octets,
        stamps,
        dict(zip(changed, others, strict=True)),
        ends,
        _times(times) if folders >= 0 else None,
    )
    _check(saved)
    return saved


def _names(data: bytes, at: int, end: int, count: int) -> tuple[bytes, ...]:
    names: list[bytes] = []
    # Of a file that says anything at all there might be sixty times as many.
    while at <= end and len(names) < count:
        # In pieces, so that other threads have their turns.
        cut = data.find(b"\0", min(at + _PIECE, end), end)
        piece = data[at : cut if cut >= 0 else end].split(b"\0")
        if max(map(len, piece)) > _LONGEST_NAME:
            raise ValueError("a name that no file has")
        names += piece
        at = cut + 1 if cut >= 0 else end + 1
    if at <= end or len(names) != count:
        raise ValueError("not as many names")
    return tuple(names)


def _places(data: bytes, which: array[int]) -> tuple[bytes, ...]:
    places = data.split(b"\0")
    if not all(map(_PLACE.fullmatch, places)):
        raise ValueError("a place that is none")
    kinds = [bytes([int(place[:1])]) + place[1:] for place in places]
    if max(which) >= len(kinds):
        raise ValueError("a place that is not there")
    return tuple(kinds[kind] for kind in which)


def _times(numbers: list[int]) -> Times:
    return [tuple(numbers[at : at + 5]) for at in range(0, len(numbers), 5)]


def _check(saved: Saved) -> None:
    """Refuse what no Maildir can have; a digest anybody can make."""
    messages = len(saved.octets)
    names = b"\0" + b"\0".join(saved.uniques)
    there = {folder[0] for folder in saved.times or ()}
    if (
        max(saved.octets) > _MOST_SIZE
        or max(saved.downgraded.values(), default=0) > _MOST_SIZE
        or max(saved.downgraded, default=0) >= messages
        or max(saved.header_only, default=0) >= messages
        or b"/" in names
        or b":" in names
        or b"\0." in names
        or not are_in_order(saved.uniques)
        or (saved.times is not None and not {place[0] for place in set(saved.places)} <= there)
    ):
        raise ValueError("not what a Maildir holds")


def load(maildir: int) -> Saved | None:
    """Return what the file in an open Maildir says; None if there is none that counts."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(NAME, flags, dir_fd=maildir)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_OCTETS:
            return None
        return loads(_read(fd, found.st_size))
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)


def _read(fd: int, octets: int) -> bytes:
    parts = []
    while octets > 0 and (part := os.read(fd, octets)):
        parts.append(part)
        octets -= len(part)
    return b"".join(parts)


def save(maildir: int, saved: Saved) -> bool:
    """Replace the file in an open Maildir, whose lock is held; tell if that was possible.

    It is not synced: a file that a crash of the machine has torn is known by its digest.
    """
    if len(saved.uniques) > MOST_MESSAGES:
        return False
    try:
        with suppress(FileNotFoundError):
            os.unlink(_UNFINISHED, dir_fd=maildir)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(_UNFINISHED, flags, 0o600, dir_fd=maildir)
    except OSError:
        return False
    try:
        try:
            _give_away(fd, os.fstat(maildir))
            room = MOST_OCTETS
            for part in dumps(saved):
                room -= len(part)
                if room < 0:
                    raise OSError(errno.EFBIG, "too large to be read again")
                _write(fd, part)
        finally:
            os.close(fd)
        # Some file systems write a file to the disk at once that is renamed over another.
        with suppress(FileNotFoundError):
            os.unlink(NAME, dir_fd=maildir)
        os.rename(_UNFINISHED, NAME, src_dir_fd=maildir, dst_dir_fd=maildir)
    except (OSError, ValueError):
        with suppress(OSError):
            os.unlink(_UNFINISHED, dir_fd=maildir)
        return False
    return True


def _give_away(fd: int, maildir: os.stat_result) -> None:
    """Have a file belong to whom the Maildir belongs to, as far as may be."""
    with suppress(PermissionError):
        os.fchown(fd, maildir.st_uid, maildir.st_gid)
    if os.fstat(fd).st_gid == maildir.st_gid:
        os.fchmod(fd, maildir.st_mode & 0o660)


def _write(fd: int, part: bytes) -> None:
    rest = memoryview(part)
    while rest:
        rest = rest[os.write(fd, rest) :]


def remove(maildir: int) -> bool:
    """Remove the file; tell whether it is gone."""
    try:
        os.unlink(NAME, dir_fd=maildir)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
