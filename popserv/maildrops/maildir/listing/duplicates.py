"""Duplicates: several files with one base name, as a backup leaves that was restored over mail.

A base name is a message's identity in a Maildir.  Of several files one keeps it, and each other
file is renamed, as Dovecot does, but to a base name that follows from the old one and the contents.
If it cannot be renamed, its message is identified by that base name all the same.
"""

from __future__ import annotations

import os
import stat
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from hashlib import blake2b
from typing import NamedTuple

from twisted.logger import Logger

from popserv.core.printable import printable
from popserv.maildrops.file_times import FILE_CLOCK, TRUSTED_AGE
from popserv.maildrops.maildir.file_names import other_base_name
from popserv.maildrops.maildir.files import stamp_of, status_of
from popserv.maildrops.maildir.folders import Folders, Scan
from popserv.maildrops.page_cache import OPEN_FLAGS
from popserv.maildrops.path_problems import explain_change, explain_in_directory
from popserv.messages.sizes import MAX_MESSAGE
from popserv.runtime.closing import close

_log = Logger()

_CHUNK = 1 << 17


class Known(NamedTuple):
    """What an index knows of a message's file: its stamp and its location."""

    stamp: int
    location: bytes


class Separation(NamedTuple):
    """The outcome of :func:`separate`.

    ``unrenamed`` has, by the base name of a message, the one of its file.  If ``vanished``, another
    program has moved or removed a file, and the folders should be scanned again.  If not
    ``is_final``, the next session must scan them, because a file was renamed or left out.
    """

    unrenamed: dict[bytes, bytes]
    vanished: bool
    is_final: bool


def separate(
    folders: Folders,
    scan: Scan,
    known: Mapping[bytes, Known],
    unrenamed: Mapping[bytes, bytes],
    *,
    may_rename: bool,
) -> Separation:
    """Give every file a base name of its own, and enter it into ``scan.files``.

    ``known`` has the messages of an earlier index, and ``unrenamed`` is that of the separation
    before it.  A file that the index knows by its stamp keeps its base name; any other file gets
    one that the index does not have.  Unless it ``may_rename``, no file is renamed, as if the
    Maildir could not be written.

    Waits for the disk: call it in a thread.

    :raises OSError: a file cannot be examined.
    """
    separator = _Separator(folders, scan, known, may_rename)
    others = defaultdict(list)
    for name, base_name in unrenamed.items():
        others[base_name].append(name)
    for base_name in {*scan.duplicates, *others}:
        separator.separate(base_name, others[base_name])
    return separator.finish()


def duplicate_name(base_name: bytes, digest: bytes, number: int) -> bytes:
    """Return another base name for a file.

    ``digest`` is that of its contents, and ``number`` distinguishes files that are equal.
    """
    token = blake2b(b"%d\0%b\0%b" % (number, base_name, digest), digest_size=10).hexdigest()
    return other_base_name(base_name, token.encode("ascii"))


class _Separator:
    """Collects the outcome of a separation."""

    def __init__(
        self, folders: Folders, scan: Scan, known: Mapping[bytes, Known], may_rename: bool
    ) -> None:
        self._folders = folders
        self._found = scan.files
        self._duplicates = scan.duplicates
        self._known = known
        self._may_rename = may_rename
        self._unrenamed: dict[bytes, bytes] = {}
        self._renamed: list[tuple[bytes, bytes]] = []
        self._errors: list[OSError] = []
        self._vanished = False
        self._left_out = False

    def finish(self) -> Separation:
        if self._renamed:
            old, new = map(printable, self._renamed[0])
            _log.warn(
                'file "{old}" renamed to "{new}", another one has its base name; files: {count}',
                old=old,
                new=new,
                count=len(self._renamed),
            )
        if self._errors:
            _log.warn(
                "file not renamed, though another one has its base name: {error}; files: {count}",
                error=self._errors[0],
                count=len(self._errors),
            )
        is_final = not (self._renamed or self._vanished or self._left_out)
        return Separation(self._unrenamed, self._vanished, is_final)

    def separate(self, base_name: bytes, others: list[bytes]) -> None:
        """Separate the files with a base name; ``others`` are those that messages had instead."""
        files = self._files(base_name)
        self._found.pop(base_name, None)
        known = {name: self._known[name] for name in (base_name, *others) if name in self._known}
        for name, (stamp, location) in list(known.items()):
            if location in files and stamp_of(files[location]) == stamp:
                del known[name]
                self._enter(name, base_name, location, files.pop(location))
        by_stamp = defaultdict(list)
        for location, status in files.items():
            by_stamp[stamp_of(status)].append(location)
        for name, (stamp, _) in known.items():
            if by_stamp[stamp]:
                location = by_stamp[stamp].pop()
                self._enter(name, base_name, location, files.pop(location))
        # The oldest first; a time is the same whatever other programs rename.
        new = [
            (status.st_mtime_ns, digest, location)
            for location, status in files.items()
            if (digest := self._digest(base_name, location))
        ]
        # With others, the base name was that of a message that has vanished.
        is_used = base_name in self._found or base_name in self._known or bool(others)
        numbers = Counter[bytes]()
        for _, digest, location in sorted(new):
            name = base_name
            while is_used and (name == base_name or self._is_used(name)):
                name = duplicate_name(base_name, digest, numbers[digest])
                numbers[digest] += 1
            is_used = True
            self._enter(name, base_name, location, files[location])

    def _is_used(self, name: bytes) -> bool:
        return name in self._found or name in self._known

    def _files(self, base_name: bytes) -> dict[bytes, os.stat_result]:
        """Return the files with a base name, by their locations."""
        found = self._found.get(base_name)
        files: dict[bytes, os.stat_result] = {}
        inodes: dict[tuple[int, int], bytes] = {}
        for location in sorted(self._duplicates.get(base_name, () if found is None else found[:1])):
            folder = self._folders.descriptor(location[0])
            status = status_of(base_name + location[1:], folder)
            if status is None or not stat.S_ISREG(status.st_mode):
                self._vanished = True
                continue
            age = time.clock_gettime_ns(FILE_CLOCK) - status.st_ctime_ns
            other = inodes.setdefault((status.st_dev, status.st_ino), location)
            if other != location and age < TRUSTED_AGE:
                # Two links to one file: a program may be moving it by link(2) and unlink(2).
                self._left_out = True
            else:
                files[location] = status
        return files

    def _digest(self, base_name: bytes, location: bytes) -> bytes | None:
        """Return the digest of a file's contents, or None if it cannot be opened."""
        folder = self._folders.descriptor(location[0])
        name = base_name + location[1:]
        digest = blake2b(digest_size=20)
        try:
            fd = os.open(name, OPEN_FLAGS, dir_fd=folder)
            try:
                length = os.fstat(fd).st_size
                if length > MAX_MESSAGE:
                    # Nobody is sent its contents.
                    digest.update(b"%d" % length)
                    return digest.digest()
                # It may grow, to any length.
                while chunk := os.read(fd, min(length, _CHUNK)):
                    length -= len(chunk)
                    digest.update(chunk)
            finally:
                close(fd)
        except FileNotFoundError:
            self._vanished = True
            return None
        except OSError as error:
            problem = explain_in_directory(error, folder, name)
            if not isinstance(error, PermissionError):
                raise problem from error
            _log.warn("message skipped: {problem}", problem=problem)
            self._left_out = True
            return None
        return digest.digest()

    def _enter(
        self, name: bytes, base_name: bytes, location: bytes, status: os.stat_result
    ) -> None:
        """Enter a file by a base name, and rename the file if that is another than its own."""
        if name == base_name or self._rename(name, base_name, location):
            self._found[name] = (location, status.st_ino)

    def _rename(self, name: bytes, base_name: bytes, location: bytes) -> bool:
        """Rename a file if possible; return whether it is still there."""
        if not self._may_rename:
            self._unrenamed[name] = base_name
            return True
        folder = self._folders.descriptor(location[0])
        old, new = base_name + location[1:], name + location[1:]
        try:
            os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)
            self._renamed.append((old, new))
        except FileNotFoundError:
            self._vanished = True
            return False
        except OSError as error:
            self._unrenamed[name] = base_name
            if name not in self._known:
                self._errors.append(explain_change(error, folder, old))
        return True
