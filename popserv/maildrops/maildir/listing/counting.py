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

from popserv.maildrops.cached_open import NotCached, open_cached
from popserv.maildrops.maildir.contents.compressed import (
    START,
    CannotDecompress,
    compression_of,
    read_contents,
)
from popserv.maildrops.maildir.files import (
    NOT_A_FILE,
    SMALL_MESSAGE,
    stamp_of,
    stamp_of_small,
)
from popserv.maildrops.maildir.folders import Folders, Scan
from popserv.maildrops.page_cache import OPEN_FLAGS, read_start
from popserv.maildrops.path_problems import explain_file, explain_in_directory
from popserv.messages.octets import count_message
from popserv.messages.sizes import MakeDowngrader, Sizes, measure
from popserv.runtime.speedups import speedup

_log = Logger()

CHUNK = 1 << 17
"""The maximum octets of one read of a larger message."""


class Counts:
    """Columns of the messages that were counted: base names, locations, sizes and stamps.

    ``downgraded`` and ``header_only`` are by position, as in
    :class:`~popserv.core.snapshot.Snapshot`.  ``vanished`` and ``unreadable`` tell whether
    messages were skipped because there was no file, or no permission to read it.  ``texts`` has, by
    base name, those messages whose files were read without waiting.
    """

    def __init__(self) -> None:
        self.base_names: list[bytes] = []
        self.locations: list[bytes] = []
        self.octets = array("Q")
        self.stamps = array("Q")
        self.downgraded: dict[int, int] = {}
        self.header_only: list[int] = []
        self.texts: dict[bytes, bytes] = {}
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

    ``duplicates`` are as in :class:`~popserv.maildrops.maildir.listing.index.Index`.

    :raises OSError: a file cannot be read, for another reason than its permissions.
    :raises NotCached: with ``cached``, a file may have to be read from a disk, or is large.
    """
    counts = Counts()
    add = counts.add
    files = scan.files
    suffixes: dict[bytes, tuple[bytes, int]] = {}
    for base_name in base_names:
        location, inode = files[base_name]
        if location not in suffixes:
            suffixes[location] = location[1:], folders.descriptor(location[0])
        suffix, folder = suffixes[location]
        name = duplicates.get(base_name, base_name) + suffix
        small = count_small_file(name, folder, cached)
        if small is not None:
            length, octets, has_blank_line, is_ascii, start = small
            if compression_of(start) is None and (downgrader is None or is_ascii):
                stamp = stamp_of_small(inode, length)
                add(base_name, location, octets, has_blank_line, stamp)
                if cached:
                    counts.texts[base_name] = start
                continue
        if cached:
            raise NotCached
        try:
            fd = os.open(name, OPEN_FLAGS, dir_fd=folder)
        except PermissionError as error:
            problem = explain_in_directory(error, folder, base_name + suffix)
            _log.warn("message skipped: {problem}", problem=problem)
            counts.unreadable = True
            continue
        except OSError as error:
            if error.errno not in NOT_A_FILE:
                raise explain_in_directory(error, folder, name) from error
            counts.vanished = True
            continue
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                sizes, stamp = count_file(fd, downgrader)
                if sizes.downgraded is not None:
                    counts.downgraded[len(counts.base_names)] = sizes.downgraded
                add(base_name, location, sizes.octets, sizes.has_blank_line, stamp)
            else:
                counts.vanished = True
        except OSError as error:
            raise explain_file(error, fd, name) from error
        finally:
            os.close(fd)
    return counts


@speedup
def count_small_file(
    name: bytes, folder: int, cached: bool
) -> tuple[int, int, bool, bool, bytes] | None:
    """Read a message file of less than ``SMALL_MESSAGE`` octets in an open folder, and count it.

    Return its length, the octets of its wire form, whether it has a blank line, whether it is
    ASCII, and its first 16 octets; with ``cached``, all of them.  Return None if it is larger or
    empty, or cannot be read; with ``cached``, also if it may have to be read from a disk.
    """
    try:
        fd = (open_cached if cached else os.open)(name, OPEN_FLAGS, dir_fd=folder)
    except OSError:
        return None
    try:
        # Always the same length, which is fastest to allocate.
        text = read_start(fd, SMALL_MESSAGE) if cached else os.pread(fd, SMALL_MESSAGE, 0)
        # The page cache may have the start of it only.
        if not text or len(text) == SMALL_MESSAGE or len(text) < os.lseek(fd, 0, os.SEEK_END):
            return None
    except OSError:
        return None
    finally:
        os.close(fd)
    return len(text), *count_message(text), text.isascii(), text if cached else text[:START]


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
