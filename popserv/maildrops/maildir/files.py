"""Opens, unlinks and renames the message files of one session, at their present locations.

Other programs rename messages at any time.  If a file is not at its last known location, a scan
finds it by its base name, and by its stamp if there are several with that name.

Another program may also put a file under the name of a message that it has renamed, for example
when it restores a backup.  A file with another stamp than the message's is therefore not taken for
the message, unless it is the only one of that base name; and it is not removed, unless it is also
under the name that the message had at login.

The module has more than 300 lines, because all that opens, renames or removes a message must agree
about where it is.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from popserv.maildrops.maildir.folders import FOLDER_NAMES, Folders, Scan, open_folder
from popserv.maildrops.maildir.quota_file import may_be_recorded
from popserv.maildrops.page_cache import OPEN_FLAGS
from popserv.maildrops.path_problems import explain_change, explain_file, explain_in_directory
from popserv.runtime.closing import close
from popserv.runtime.speedups import speedup
from popserv.runtime.threads import RunInThread

NOT_A_FILE = (errno.ENOENT, errno.ELOOP, errno.ENXIO)
"""The errors of opening a name that is missing, a symbolic link, or a socket."""

SMALL_MESSAGE = 1 << 16
"""Octets below which the time of modification is no part of a stamp."""

_LENGTH_FACTOR = 0x9E37_79B9_7F4A_7C15
_TIME_FACTOR = 0xC2B2_AE3D_27D4_EB4F
_64_BITS = 0xFFFF_FFFF_FFFF_FFFF


def stamp_of(status: os.stat_result) -> int:
    """Return the stamp of a file as 64 bits, the same in every process.

    Another file has another stamp, and a large one also after a change of its contents.
    """
    if status.st_size < SMALL_MESSAGE:
        return stamp_of_small(status.st_ino, status.st_size)
    stamp = status.st_ino + status.st_size * _LENGTH_FACTOR + status.st_mtime_ns * _TIME_FACTOR
    return stamp & _64_BITS


def stamp_of_small(inode: int, octets: int) -> int:
    """Return the stamp of a file of less than ``SMALL_MESSAGE`` octets."""
    return (inode + octets * _LENGTH_FACTOR) & _64_BITS


MAX_AT_ONCE = 1000
"""The maximum number of files that are removed by a call that the reactor's thread prepares."""

_NO_FILE: tuple[bytes | None, int] = (None, 0)


class _Removal(NamedTuple):
    """The arguments of :func:`unlink_unchanged`."""

    names: tuple[bytes, ...]
    folder: bytes
    stamps: tuple[int, ...]
    maildir_fd: int
    unless_recorded: bool


class MessageFiles:
    """The files of a session's messages, by the position of the message in the snapshot.

    ``locations`` has the last known location of each file, or None if it has vanished.
    ``duplicates`` are as in :class:`~popserv.maildrops.maildir.listing.index.Index`.
    """

    __slots__ = (
        "_at_login",
        "_base_names",
        "_duplicates",
        "_shared",
        "_stamps",
        "folders",
        "locations",
    )

    def __init__(
        self,
        folders: Folders,
        base_names: tuple[bytes, ...],
        locations: tuple[bytes, ...],
        stamps: Sequence[int],
        duplicates: Mapping[bytes, bytes],
    ) -> None:
        self.folders = folders
        self.locations: tuple[bytes | None, ...] = locations
        self._at_login = locations
        self._base_names = base_names
        self._stamps = stamps
        self._duplicates = duplicates
        # The base names of several files; None before a scan.
        self._shared: set[bytes] | None = None

    def locate(self, position: int) -> tuple[bytes, int] | None:
        """Return the name of a file and the descriptor of its folder, or None if it has vanished.

        :raises UnusablePath: the folder cannot be opened.
        """
        location = self.locations[position]
        if location is None:
            return None
        return self._base_name(position) + location[1:], self._folder(location[0])

    def status(self, position: int) -> os.stat_result | None:
        """Return the status of what is at the location of a file, or None if nothing is.

        :raises UnusablePath: it cannot be examined.
        """
        located = self.locate(position)
        return None if located is None else status_of(*located)

    def open(self, position: int) -> tuple[int, os.stat_result] | None:
        """Open a file and return its descriptor and status, or None if it is not at its location.

        Anything but a regular file counts as missing.  This is called without a thread,
        although the kernel may have to read the directory entry or the inode from disk.

        :raises UnusablePath: the file cannot be opened.
        """
        location = self.locations[position]
        if location is None:
            return None
        name, folder = self._base_name(position) + location[1:], location[0]
        try:
            fd = os.open(name, OPEN_FLAGS, dir_fd=self.folders.descriptor(folder))
        except OSError as error:
            if error.errno in NOT_A_FILE:
                return None
            path = os.path.join(FOLDER_NAMES[folder], name)
            raise explain_in_directory(error, self.folders.maildir_fd, path) from error
        try:
            status = os.fstat(fd)
        except OSError as error:
            problem = explain_file(error, fd, name)
            close(fd)
            raise problem from error
        if stat.S_ISREG(status.st_mode) and (
            stamp_of(status) == self._stamps[position] or self._is_sole(position)
        ):
            return fd, status
        close(fd)
        return None

    def remove(self, position: int, remove: Callable[..., None]) -> tuple[bytes, int] | None:
        """Remove a file and return its name and length, or None if it is not at its location.

        ``remove`` is ``os.unlink``, or a function with its parameters.

        :raises UnusablePath: the file cannot be removed.
        """
        located = self.locate(position)
        if located is None:
            return None
        name, folder = located
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stamp_of(status) != self._stamps[position] and not (
                self._is_sole(position) and self.locations[position] == self._at_login[position]
            ):
                return None
            remove(name, dir_fd=folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise explain_change(error, folder, name) from error
        return name, status.st_size

    async def unlink_at_once(
        self, positions: Sequence[int], removed: list[tuple[bytes, int]], run: RunInThread
    ) -> bool:
        """Remove files as :meth:`unlink_unchanged` does, if one call is enough.

        It is not if they are in both folders, or have vanished, or are very many, or if removals
        must be recorded in a quota file.  Return whether all are removed, and need not be recorded;
        otherwise ``removed`` has the first ones that are.  What is removed is synced.

        :raises OSError: the removals cannot be synced.
        """
        if len(positions) > MAX_AT_ONCE:
            return False
        folders = {(self.locations[at] or b"")[:1] for at in positions}
        if len(folders) != 1 or b"" in folders:
            return False
        removal = self._removal(positions, folders.pop()[0], unless_recorded=True)
        lengths, is_done = await run(unlink_unchanged, *removal)
        removed += zip(removal.names, lengths, strict=False)
        return bool(is_done)

    def unlink_unchanged(
        self, positions: Iterable[int], removed: list[tuple[bytes, int]]
    ) -> tuple[list[int], bool]:
        """Remove files that are at their locations and unchanged, as :meth:`remove` does.

        Their names and lengths are added to ``removed``.  Return the positions of the other files:
        those with a problem, and some that were not tried.  If there are none, return also whether
        the removals are synced, and need not be recorded in a quota file.

        :raises OSError: the removals cannot be synced.
        """
        others: list[int] = []
        is_done = True
        by_folder: dict[int, list[int]] = defaultdict(list)
        for position in positions:
            location = self.locations[position]
            (others if location is None else by_folder[location[0]]).append(position)
        for number, members in by_folder.items():
            try:
                # It stays open, so that the folder will be synced.
                self.folders.descriptor(number)
            except OSError:
                others += members
                continue
            removal = self._removal(members, number, unless_recorded=False)
            lengths, is_synced = unlink_unchanged(*removal)
            removed += zip(removal.names, lengths, strict=False)
            others += members[len(lengths) :]
            is_done = is_done and is_synced
        return sorted(others), is_done and not others

    def _removal(self, positions: Sequence[int], number: int, *, unless_recorded: bool) -> _Removal:
        """Return what removes files of one folder, whose locations are known."""
        names = tuple([self._base_name(at) + (self.locations[at] or b"")[1:] for at in positions])
        stamps = tuple([self._stamps[at] for at in positions])
        folder = FOLDER_NAMES[number]
        return _Removal(names, folder, stamps, self.folders.maildir_fd, unless_recorded)

    def move(self, position: int, location: bytes, to: bytes) -> bool:
        """Rename a file from one location to another; return False if it is not at the first.

        Does nothing and returns True if the new name is the old one, or is taken.

        :raises UnusablePath: the file cannot be renamed.
        """
        base_name = self._base_name(position)
        old, new = base_name + location[1:], base_name + to[1:]
        old_folder, new_folder = self._folder(location[0]), self._folder(to[0])
        try:
            if to == location or status_of(new, new_folder):
                return True
            os.rename(old, new, src_dir_fd=old_folder, dst_dir_fd=new_folder)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise explain_change(error, old_folder, old) from error
        return True

    def _folder(self, number: int) -> int:
        try:
            return self.folders.descriptor(number)
        except OSError as error:
            raise explain_change(error, self.folders.maildir_fd, FOLDER_NAMES[number]) from error

    def update_locations(self) -> bool:
        """Scan the folders for the files; return whether those not found have certainly vanished.

        Waits for the disk: call it in a thread.

        :raises UnusablePath: a folder cannot be read.
        """
        try:
            scan = self.folders.scan()
        except OSError as error:
            raise explain_in_directory(error, self.folders.maildir_fd, error.filename) from error
        shared = self._shared = {*scan.duplicates, *self._duplicates.values()}
        found = [scan.files.get(base_name, _NO_FILE)[0] for base_name in self._base_names]
        files = {base_name: self._by_stamp(base_name, scan) for base_name in shared}
        for position in range(len(found)) if shared else ():
            base_name = self._base_name(position)
            if base_name in shared and base_name in scan.files:
                same = files[base_name].get(self._stamps[position])
                found[position] = same.pop() if same else self.locations[position]
        self.locations = tuple(found)
        return scan.is_settled

    def _by_stamp(self, base_name: bytes, scan: Scan) -> dict[int, list[bytes]]:
        """Return the locations of the files with a base name, by their stamps."""
        files = defaultdict(list)
        found = scan.files.get(base_name)
        for location in scan.duplicates.get(base_name, () if found is None else found[:1]):
            status = status_of(base_name + location[1:], self.folders.descriptor(location[0]))
            if status:
                files[stamp_of(status)].append(location)
        return files

    def _base_name(self, position: int) -> bytes:
        """Return the base name of a file, which is another than its message's for a duplicate."""
        base_name = self._base_names[position]
        return self._duplicates.get(base_name, base_name)

    def _is_sole(self, position: int) -> bool:
        """Return whether the last scan has found no other file with the base name of this one."""
        return self._shared is not None and self._base_name(position) not in self._shared


@speedup
def unlink_unchanged(
    names: tuple[bytes, ...],
    folder: bytes,
    stamps: tuple[int, ...],
    maildir_fd: int,
    unless_recorded: bool,
) -> tuple[list[int], bool]:
    """Remove files of a folder as long as each has its stamp; return their lengths.

    Stops at a file that has another stamp or cannot be removed.  If all are removed, and need not
    be recorded in a quota file, the folder is synced; return whether that was done.  With
    ``unless_recorded`` none are removed if they must be recorded, and some are synced as well.

    :raises OSError: the folder cannot be synced.
    """
    lengths: list[int] = []
    if unless_recorded and may_be_recorded(maildir_fd):
        return lengths, False
    try:
        folder_fd = open_folder(folder, maildir_fd)
    except OSError:
        return lengths, False
    try:
        with suppress(OSError):
            for name, stamp in zip(names, stamps, strict=True):
                status = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
                if stamp_of(status) != stamp:
                    break
                os.unlink(name, dir_fd=folder_fd)
                lengths.append(status.st_size)
        is_done = len(lengths) == len(names) and not may_be_recorded(maildir_fd)
        if is_done or (unless_recorded and lengths):
            os.fsync(folder_fd)
        return lengths, is_done
    finally:
        close(folder_fd)


def status_of(name: bytes, folder: int) -> os.stat_result | None:
    """Return the status of a file in an open folder, or None if there is none.

    :raises UnusablePath: the status cannot be read.
    """
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise explain_in_directory(error, folder, name) from error
