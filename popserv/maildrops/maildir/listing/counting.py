"""The sizes of messages, counted from their bytes (RFC 1725 section 10).

The sizes in file names, ``,S=`` and ``,W=``, are not used: other programs wrote them.  Dovecot's
``W`` excludes the CRLF that is added to a last line without a line end.

Everything here may wait for the disk: call it in a thread.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

from twisted.logger import Logger

from popserv.maildrops.cached_open import NotCached, open_cached
from popserv.maildrops.maildir.contents.body import read_cached
from popserv.maildrops.maildir.contents.compressed import (
    CannotDecompress,
    compression_of,
    read_contents,
)
from popserv.maildrops.maildir.files import (
    NOT_A_FILE,
    OPEN_FLAGS,
    SMALL_MESSAGE,
    stamp_of,
    stamp_of_small,
)
from popserv.maildrops.maildir.folders import Folders, Scan
from popserv.maildrops.path_problems import explain_in_directory
from popserv.messages.octets import count_message
from popserv.messages.sizes import MakeDowngrader, Sizes, measure

_log = Logger()

CHUNK = 1 << 17
"""The maximum octets of one read of a larger message."""

_Calls = tuple[
    Callable[..., int],
    Callable[[int, int], bytes],
    Callable[[int, MakeDowngrader | None], tuple[Sizes, int]],
]
"""Functions that open, read and count files."""


class Counts:
    """Columns of the messages that were counted: base names, locations, sizes and stamps.

    ``downgraded`` and ``header_only`` are by position, as in
    :class:`~popserv.core.snapshot.Snapshot`.  ``vanished`` and ``unreadable`` tell whether
    messages were skipped because there was no file, or no permission to read it.
    """

    def __init__(self) -> None:
        self.base_names: list[bytes] = []
        self.locations: list[bytes] = []
        self.octets = array("Q")
        self.stamps = array("Q")
        self.downgraded: dict[int, int] = {}
        self.header_only: list[int] = []
        self.vanished = False
        self.unreadable = False

    def add(
        self, base_name: bytes, location: bytes, octets: int, has_blank_line: bool, stamp: int
    ) -> None:
        """Append a message."""
        if not has_blank_line:
            self.header_only.append(len(self.base_names))
        self.base_names.append(base_name)
        self.locations.append(location)
        self.octets.append(octets)
        self.stamps.append(stamp)


def count_messages(
    folders: Folders,
    base_names: Iterable[bytes],
    scan: Scan,
    duplicates: Mapping[bytes, bytes],
    downgrader: MakeDowngrader | None,
    *,
    cached: bool = False,
) -> Counts:
    """Count messages that a scan has found; see :func:`measure`.

    One of less than ``SMALL_MESSAGE`` octets is read and counted in one piece.

    ``duplicates`` are as in :class:`~popserv.maildrops.maildir.listing.index.Index`.

    :raises OSError: a file cannot be read, for another reason than its permissions.
    :raises NotCached: with ``cached``, a file may have to be read from a disk, or is large.
    """
    calls: _Calls = (os.open, os.read, count_file)
    if cached:
        calls = (open_cached, _read_cached, _count_no_file)
    open_file, read, count = calls
    counts = Counts()
    add = counts.add
    files = scan.files
    suffixes: dict[bytes, tuple[bytes, int]] = {}
    for base_name in base_names:
        location, inode = files[base_name]
        if location not in suffixes:
            suffixes[location] = location[1:], folders.descriptor(location[0])
        suffix, folder = suffixes[location]
        try:
            name = duplicates.get(base_name, base_name) + suffix
            fd = open_file(name, OPEN_FLAGS, dir_fd=folder)
        except PermissionError as error:
            problem = explain_in_directory(error, folder, base_name + suffix)
            _log.warn("message skipped: {problem}", problem=problem)
            counts.unreadable = True
            continue
        except OSError as error:
            if error.errno not in NOT_A_FILE:
                raise
            counts.vanished = True
            continue
        try:
            try:
                # Always the same length, which is fastest to allocate.
                text = read(fd, SMALL_MESSAGE)
            except (IsADirectoryError, BlockingIOError):
                text = b""
            if (
                0 < len(text) < SMALL_MESSAGE
                and compression_of(text) is None
                and (downgrader is None or text.isascii())
            ):
                octets, has_blank_line = count_message(text)
                stamp = stamp_of_small(inode, len(text))
                add(base_name, location, octets, has_blank_line, stamp)
            elif stat.S_ISREG(os.fstat(fd).st_mode):
                sizes, stamp = count(fd, downgrader)
                if sizes.downgraded is not None:
                    counts.downgraded[len(counts.base_names)] = sizes.downgraded
                add(base_name, location, sizes.octets, sizes.has_blank_line, stamp)
            else:
                counts.vanished = True
        finally:
            os.close(fd)
    return counts


def _read_cached(fd: int, octets: int) -> bytes:
    """Return the first octets of an open file as ``os.read`` does.

    :raises NotCached: the page cache does not have all of them, or the file is compressed.
    """
    text = read_cached(fd, octets)
    if text is None or len(text) < min(octets, os.lseek(fd, 0, os.SEEK_END)):
        raise NotCached
    return text


def _count_no_file(fd: int, downgrader: MakeDowngrader | None) -> NoReturn:
    raise NotCached


def count_file(fd: int, downgrader: MakeDowngrader | None) -> tuple[Sizes, int]:
    """Return the sizes of an open message file, and its stamp from before it was read.

    A compressed message has the sizes of its decompressed contents, and 0 octets if it cannot be
    decompressed.
    """
    status = os.fstat(fd)
    stamp = stamp_of(status)
    try:
        return measure(read_contents(fd, min(status.st_size + 1, CHUNK)), downgrader), stamp
    except CannotDecompress:
        return Sizes(0, None), stamp
