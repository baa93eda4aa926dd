"""The size file: the sizes of messages, stored in a Maildir for the next run of the server.

Rules of this file:
 1. The owner of the Maildir can write it, so it may be missing, out of date, torn or forged.
    Unless it has the form and the digest that :func:`encode` writes, and contents that a Maildir
    can have, it is ignored.
 2. Its sizes are of an earlier time.  A session has the messages that a scan finds, unless new/
    and cur/ have exactly these times.  Before a file is sent, it is compared with the stamp.
 3. It is always replaced whole: a new file is written and renamed, under the maildrop's lock.
 4. It is optional: a failure to read or write it is not an error.

Format 3 starts with a line in ASCII, whose words are separated by one space each:
``popserv-sizes 3``, the byte order of the columns (``little`` or ``big``), and then in decimal the
number of messages, the octets of the locations, the octets of the base names, the number of
downgraded messages (-1 if none was measured), the number of header-only messages, and the number
of folders (-1 without times) followed by five numbers for each folder.  The columns follow, and
last a BLAKE2b digest of 32 octets of everything before it.  Locations and base names are separated
by NUL.  A change of the sizes that a message has, or of the stamps, is a new format.
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

from popserv.maildrops.maildir.file_names import OTHER_INFO, may_have_other_info
from popserv.maildrops.maildir.folders import Times
from popserv.maildrops.maildir.listing.base_names import are_sorted, have_info
from popserv.runtime.closing import close

NAME = b"popserv-sizes"

UNFINISHED_NAME = b"popserv-sizes.new"
"""The name while it is written: a fixed one, so that killed servers leave at most one such file."""

MAX_MESSAGES = 1 << 20
"""A maildrop with more messages has no size file."""

MAX_OCTETS = 1 << 26
"""The maximum length of the file, in octets."""

_MAX_MESSAGE_OCTETS = 1 << 50
"""The maximum size of one message; a file that claims more is ignored."""

_MAX_LOCATION_OCTETS = 1 << 16
"""The maximum octets of all locations: a few different ones serve any number of messages."""

_MAX_BASE_NAME = 1 << 10
"""The maximum octets of a base name, which may appear in the log; file systems allow 765."""

_DIGEST = 32
_BATCH = 1 << 18
_MAGIC = b"popserv-sizes 3 %b " % sys.byteorder.encode("ascii")
# Numbers match in one way only, so that a line that does not match is rejected in linear time.
_HEAD = re.compile(_MAGIC + rb"((?:-?[0-9]{1,20} ){5,15}-?[0-9]{1,20})\n")
_LOCATION = re.compile(rb"[01](?::[^/\0]*|%b)?" % OTHER_INFO, re.DOTALL)


class Contents(NamedTuple):
    """The contents of a size file: columns with one value for each message, in delivery order.

    ``locations`` and ``times`` are as in :mod:`popserv.maildrops.maildir.folders`; ``octets``,
    ``downgraded`` and ``header_only`` as in :class:`~popserv.core.snapshot.Snapshot`, but
    ``downgraded`` is None if downgraded forms were not measured.
    """

    base_names: Sequence[bytes]
    locations: Sequence[bytes]
    octets: array[int]
    stamps: array[int]
    downgraded: Mapping[int, int] | None
    header_only: Collection[int]
    times: Times | None


def encode(contents: Contents) -> Iterator[bytes]:
    """Yield the octets of a size file, in parts; there must be at least one message.

    :raises ValueError: :func:`decode` would not accept the file.
    """
    distinct: dict[bytes, int] = {}
    location_numbers = array(
        "I", [distinct.setdefault(each, len(distinct)) for each in contents.locations]
    )
    locations = b"\0".join(b"%d%b" % (each[0], each[1:]) for each in distinct)
    names = b"\0".join(contents.base_names)
    times = contents.times
    folders = [-1] if times is None else [len(times), *sum(times, ())]
    downgraded = contents.downgraded or {}
    positions = [-1 if contents.downgraded is None else len(downgraded), len(contents.header_only)]
    lengths = [len(location_numbers), len(locations), len(names), *positions]
    if len(locations) > _MAX_LOCATION_OCTETS:
        raise ValueError("too many octets of locations")
    digest = blake2b(digest_size=_DIGEST)
    for part in (
        _MAGIC + b" ".join(b"%d" % number for number in (*lengths, *folders)) + b"\n",
        contents.octets.tobytes(),
        contents.stamps.tobytes(),
        array("Q", downgraded).tobytes(),
        array("Q", downgraded.values()).tobytes(),
        array("Q", contents.header_only).tobytes(),
        location_numbers.tobytes(),
        locations,
        names,
    ):
        digest.update(part)
        yield part
    yield digest.digest()


def decode(data: bytes) -> Contents:
    """Return the contents of a size file.

    :raises ValueError: the file is damaged, is of another format, or has contents that no
        Maildir has.
    """
    head = _HEAD.match(data)
    if head is None:
        raise ValueError("not a size file")
    count, *lengths, downgraded, header_only, folders = map(int, head[1].split()[:6])
    times = [*map(int, head[1].split()[6:])]
    pairs = max(downgraded, 0)
    sections = [8 * count, 8 * count, 8 * pairs, 8 * pairs, 8 * header_only, 4 * count]
    if not (
        0 < count <= MAX_MESSAGES
        and min(downgraded + 1, header_only, *lengths) >= 0
        and max(downgraded, header_only) <= count
        and lengths[0] <= _MAX_LOCATION_OCTETS
        and len(times) == 5 * max(folders, 0)
        and head.end() + sum(sections) + sum(lengths) + _DIGEST == len(data)
    ):
        raise ValueError("the file's length is not what its first line says")
    whole = memoryview(data)
    if blake2b(whole[:-_DIGEST], digest_size=_DIGEST).digest() != whole[-_DIGEST:]:
        raise ValueError("the digest is wrong")
    at = head.end()
    columns = []
    for typecode, length in zip("QQQQQI", sections, strict=True):
        column = array(typecode)
        column.frombytes(whole[at : at + length])
        columns.append(column)
        at += length
    octets, stamps, downgraded_at, downgraded_octets, header_only_at, location_numbers = columns
    contents = Contents(
        _decode_base_names(data, at + lengths[0], len(data) - _DIGEST, count),
        _decode_locations(data[at : at + lengths[0]], location_numbers),
        octets,
        stamps,
        dict(zip(downgraded_at, downgraded_octets, strict=True)) if downgraded >= 0 else None,
        header_only_at,
        [tuple(times[at : at + 5]) for at in range(0, len(times), 5)] if folders >= 0 else None,
    )
    _check(contents)
    return contents


def _decode_base_names(data: bytes, at: int, end: int, count: int) -> tuple[bytes, ...]:
    names: list[bytes] = []
    # A forged file could have sixty times as many names as messages: stop at ``count``.
    while at <= end and len(names) < count:
        # In batches, so that other threads can run in between.
        cut = data.find(b"\0", min(at + _BATCH, end), end)
        batch = data[at : cut if cut >= 0 else end].split(b"\0")
        if max(map(len, batch)) > _MAX_BASE_NAME:
            raise ValueError("a base name is too long")
        names += batch
        at = cut + 1 if cut >= 0 else end + 1
    if at <= end or len(names) != count:
        raise ValueError("not one base name for each message")
    return tuple(names)


def _decode_locations(data: bytes, location_numbers: array[int]) -> tuple[bytes, ...]:
    locations = data.split(b"\0")
    if not all(map(_LOCATION.fullmatch, locations)):
        raise ValueError("a location is invalid")
    distinct = [bytes([int(each[:1])]) + each[1:] for each in locations]
    if max(location_numbers) >= len(distinct):
        raise ValueError("a location is missing")
    return tuple(distinct[number] for number in location_numbers)


def _check(contents: Contents) -> None:
    """Raise ValueError if no Maildir can have these contents; a forger can compute the digest."""
    messages = len(contents.octets)
    downgraded = contents.downgraded or {}
    names = b"\0" + b"\0".join(contents.base_names)
    folders = {folder[0] for folder in contents.times or ()}
    used_folders = {location[0] for location in set(contents.locations)}
    if (
        max(contents.octets) > _MAX_MESSAGE_OCTETS
        or max(downgraded.values(), default=0) > _MAX_MESSAGE_OCTETS
        or max(downgraded, default=0) >= messages
        or max(contents.header_only, default=0) >= messages
        or b"/" in names
        or b":" in names
        or (may_have_other_info(names) and have_info(contents.base_names, contents.locations))
        or b"\0." in names
        or not are_sorted(contents.base_names)
        or (contents.times is not None and not used_folders <= folders)
    ):
        raise ValueError("no Maildir has these contents")


def load(maildir_fd: int) -> Contents | None:
    """Return the contents of an open Maildir's size file, or None if there is no valid one."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(NAME, flags, dir_fd=maildir_fd)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_OCTETS:
            return None
        return decode(_read(fd, status.st_size))
    except (OSError, ValueError):
        return None
    finally:
        close(fd)


def _read(fd: int, octets: int) -> bytes:
    parts = []
    while octets > 0 and (part := os.read(fd, octets)):
        parts.append(part)
        octets -= len(part)
    return b"".join(parts)


def save(maildir_fd: int, contents: Contents) -> bool:
    """Replace the size file of an open Maildir, whose lock is held; return whether it succeeded.

    The file is not synced: if a crash of the machine tears it, the digest is wrong.
    """
    if len(contents.base_names) > MAX_MESSAGES:
        return False
    try:
        with suppress(FileNotFoundError):
            os.unlink(UNFINISHED_NAME, dir_fd=maildir_fd)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(UNFINISHED_NAME, flags, 0o600, dir_fd=maildir_fd)
    except OSError:
        return False
    try:
        try:
            copy_ownership(os.fstat(maildir_fd), fd)
            available = MAX_OCTETS
            for part in encode(contents):
                available -= len(part)
                if available < 0:
                    raise OSError(errno.EFBIG, "too large to be read again")
                write_all(fd, part)
        finally:
            os.close(fd)
        # If a file is renamed over another, some file systems write it to disk immediately.
        with suppress(FileNotFoundError):
            os.unlink(NAME, dir_fd=maildir_fd)
        os.rename(UNFINISHED_NAME, NAME, src_dir_fd=maildir_fd, dst_dir_fd=maildir_fd)
    except (OSError, ValueError):
        with suppress(OSError):
            os.unlink(UNFINISHED_NAME, dir_fd=maildir_fd)
        return False
    return True


def copy_ownership(maildir: os.stat_result, fd: int) -> None:
    """Set a file's owner and group to those of the Maildir, and their read and write permissions.

    If the server may not change the group, the file stays readable to its owner alone.
    """
    with suppress(PermissionError):
        os.fchown(fd, maildir.st_uid, maildir.st_gid)
    if os.fstat(fd).st_gid == maildir.st_gid:
        os.fchmod(fd, maildir.st_mode & 0o660)


def write_all(fd: int, part: bytes) -> None:
    """Write all of a part, in as many calls as it takes."""
    rest = memoryview(part)
    while rest:
        rest = rest[os.write(fd, rest) :]


def remove(maildir_fd: int) -> bool:
    """Remove the size file of an open Maildir; return whether there is none afterwards."""
    try:
        with suppress(FileNotFoundError):
            os.unlink(NAME, dir_fd=maildir_fd)
    except OSError:
        return False
    return True
