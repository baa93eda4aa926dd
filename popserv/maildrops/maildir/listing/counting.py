"""The sizes of messages, counted from their bytes (RFC 1725 section 10).

The sizes in file names, ``,S=`` and ``,W=``, are not used: other programs wrote them.  Dovecot's
``W`` excludes the CRLF that is added to a last line without a line end.

Everything here may wait for the disk: call it in a thread.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Iterable, Mapping

from twisted.logger import Logger

from popserv.maildrops.maildir.contents.compressed import (
    CannotDecompress,
    compression_of,
    read_contents,
)
from popserv.maildrops.maildir.files import NOT_A_FILE, OPEN_FLAGS, stamp_of
from popserv.maildrops.maildir.folders import Folders
from popserv.maildrops.maildir.path_problems import explain_in_directory
from popserv.messages.octets import count_message
from popserv.messages.sizes import MakeDowngrader, Sizes, measure

_log = Logger()

SMALL_MESSAGE = 1 << 14
"""Octets below which a message is read and counted in one piece."""

CHUNK = 1 << 17
"""The maximum octets of one read of a larger message."""


class Counts:
    """Columns of the messages that were counted: base names, sizes and stamps.

    ``downgraded`` and ``header_only`` are by position, as in
    :class:`~popserv.core.snapshot.Snapshot`.  ``vanished`` and ``unreadable`` tell whether
    messages were skipped because there was no file, or no permission to read it.
    """

    def __init__(self) -> None:
        self.base_names: list[bytes] = []
        self.octets = array("Q")
        self.stamps = array("Q")
        self.downgraded: dict[int, int] = {}
        self.header_only: list[int] = []
        self.vanished = False
        self.unreadable = False

    def add(self, base_name: bytes, octets: int, has_blank_line: bool, stamp: int) -> None:
        """Append a message."""
        if not has_blank_line:
            self.header_only.append(len(self.base_names))
        self.base_names.append(base_name)
        self.octets.append(octets)
        self.stamps.append(stamp)


def count_messages(
    folders: Folders,
    base_names: Iterable[bytes],
    locations: Mapping[bytes, bytes],
    duplicates: Mapping[bytes, bytes],
    downgrader: MakeDowngrader | None,
) -> Counts:
    """Count messages at the locations that a scan has found; see :func:`measure`.

    ``duplicates`` are as in :class:`~popserv.maildrops.maildir.listing.index.Index`.

    :raises OSError: a file cannot be read, for another reason than its permissions.
    """
    counts = Counts()
    suffixes = {
        location: (location[1:], folders.descriptor(location[0]))
        for location in set(locations.values())
    }
    for base_name in base_names:
        suffix, folder = suffixes[locations[base_name]]
        try:
            name = duplicates.get(base_name, base_name) + suffix
            fd = os.open(name, OPEN_FLAGS, dir_fd=folder)
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
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                counts.vanished = True
                continue
            # Always the same length, which is fastest to allocate.
            text = os.read(fd, SMALL_MESSAGE) if status.st_size < SMALL_MESSAGE else b""
            is_whole = len(text) == status.st_size and compression_of(text) is None
            if is_whole and (downgrader is None or text.isascii()):
                counts.add(base_name, *count_message(text), stamp_of(status))
            else:
                sizes, stamp = count_file(fd, downgrader)
                if sizes.downgraded is not None:
                    counts.downgraded[len(counts.base_names)] = sizes.downgraded
                counts.add(base_name, sizes.octets, sizes.has_blank_line, stamp)
        finally:
            os.close(fd)
    return counts


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
