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
from itertools import groupby

from twisted.logger import Logger

from popserv.maildrops.cached_open import NotCached, open_cached
from popserv.maildrops.maildir.contents.compressed import STARTS, UnreadableContents, read_contents
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
from popserv.runtime.closing import close
from popserv.runtime.speedups import speedup

_log = Logger()

CHUNK = 1 << 17
"""The maximum octets of one read of a larger message."""

BATCH = 256
"""The maximum of files that are counted in one call."""


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

    def extend(
        self, base_names: list[bytes], locations: list[bytes], octets: bytes, stamps: bytes
    ) -> None:
        """Append messages that :func:`count_small_files` has counted."""
        self.base_names += base_names
        self.locations += locations
        self.octets.frombytes(octets)
        self.stamps.frombytes(stamps)

    def add(self, base_name: bytes, location: bytes, sizes: Sizes, stamp: int) -> None:
        """Append a message."""
        if not sizes.has_blank_line:
            self.header_only.append(len(self.base_names))
        if sizes.downgraded is not None:
            self.downgraded[len(self.base_names)] = sizes.downgraded
        self.base_names.append(base_name)
        self.locations.append(location)
        self.octets.append(sizes.octets)
        self.stamps.append(stamp)


def count_messages(
    folders: Folders,
    base_names: Iterable[bytes],
    scan: Scan,
    duplicates: Mapping[bytes, bytes],
    downgrader: MakeDowngrader | None,
    *,
    cached: bool,
) -> Counts:
    """Count messages that a scan has found; see :func:`measure`.

    ``duplicates`` are as in :class:`~popserv.maildrops.maildir.listing.index.Index`.

    :raises OSError: a file cannot be read, for another reason than its permissions.
    :raises NotCached: with ``cached``, a file may have to be read from a disk, or is large.
    """
    counts = Counts()
    files = scan.files
    for key, run in groupby(base_names, lambda base_name: files[base_name][0][0]):
        folder = folders.descriptor(key)
        run_names = list(run)
        locations = [files[each][0] for each in run_names]
        inodes = tuple([files[each][1] for each in run_names])
        names = tuple(
            [
                duplicates.get(base_name, base_name) + location[1:]
                for base_name, location in zip(run_names, locations, strict=True)
            ]
        )
        at = 0
        while at < len(names):
            octets, stamps, texts = count_small_files(
                names, inodes, at, folder, downgrader is not None, cached
            )
            first, at = at, at + len(octets) // counts.octets.itemsize
            counts.extend(run_names[first:at], locations[first:at], octets, stamps)
            counts.texts.update(zip(run_names[first:at], texts, strict=False))
            if at < min(first + BATCH, len(names)):
                # The one that has ended the batch.
                if cached:
                    raise NotCached
                _count_one(counts, folder, run_names[at], locations[at], names[at], downgrader)
                at += 1
    return counts


def _count_one(
    counts: Counts,
    folder: int,
    base_name: bytes,
    location: bytes,
    name: bytes,
    downgrader: MakeDowngrader | None,
) -> None:
    """Count a message of any kind, whose file has this name in an open folder."""
    try:
        fd = os.open(name, OPEN_FLAGS, dir_fd=folder)
    except PermissionError as error:
        problem = explain_in_directory(error, folder, name)
        _log.warn("message skipped: {problem}", problem=problem)
        counts.unreadable = True
        return
    except OSError as error:
        if error.errno not in NOT_A_FILE:
            raise explain_in_directory(error, folder, name) from error
        counts.vanished = True
        return
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            counts.add(base_name, location, *count_file(fd, downgrader))
        else:
            counts.vanished = True
    except OSError as error:
        raise explain_file(error, fd, name) from error
    finally:
        close(fd)


@speedup
def count_small_files(
    names: tuple[bytes, ...],
    inodes: tuple[int, ...],
    first: int,
    folder: int,
    ascii_only: bool,
    cached: bool,
) -> tuple[bytes, bytes, list[bytes]]:
    """Count message files in an open folder from number ``first`` on, up to ``BATCH`` of them.

    Return the octets of their wire forms and their stamps, each as the octets of an array of 64
    bits, and, with ``cached``, their contents.  The batch ends before the first file that has
    ``SMALL_MESSAGE`` octets or more, is empty, cannot be read, may be compressed, or has no blank
    line; with ``ascii_only``, also one that is not ASCII, and with ``cached``, one that may have to
    be read from a disk.
    """
    octets, stamps, texts = array("Q"), array("Q"), []
    for at in range(first, min(first + BATCH, len(names))):
        text = _read_small(names[at], folder, cached)
        if not text or text.startswith(STARTS) or (ascii_only and not text.isascii()):
            break
        count, has_blank_line = count_message(text)
        if not has_blank_line:
            break
        octets.append(count)
        stamps.append(stamp_of_small(inodes[at], len(text)))
        if cached:
            texts.append(text)
    return octets.tobytes(), stamps.tobytes(), texts


def _read_small(name: bytes, folder: int, cached: bool) -> bytes | None:
    """Return the contents of a file in an open folder, or None if it ends a batch."""
    try:
        fd = (open_cached if cached else os.open)(name, OPEN_FLAGS, dir_fd=folder)
    except OSError:
        return None
    try:
        # Always the same length, which is fastest to allocate.
        text = read_start(fd, SMALL_MESSAGE) if cached else os.pread(fd, SMALL_MESSAGE, 0)
        # The page cache may have the start of it only.
        if text is None or len(text) == SMALL_MESSAGE or len(text) < os.lseek(fd, 0, os.SEEK_END):
            return None
        return text
    except OSError:
        return None
    finally:
        close(fd)


def count_file(fd: int, downgrader: MakeDowngrader | None) -> tuple[Sizes, int]:
    """Return the sizes of an open message file, and its stamp from before it was read.

    A compressed message has the sizes of its decompressed contents.  One that cannot be
    decompressed, or is too large, has 0 octets.
    """
    status = os.fstat(fd)
    stamp = stamp_of(status)
    try:
        return measure(read_contents(fd, min(status.st_size + 1, CHUNK)), downgrader), stamp
    except UnreadableContents:
        return Sizes(0, None), stamp
