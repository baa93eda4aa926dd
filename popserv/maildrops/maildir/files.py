"""Opens, unlinks and renames the message files of one session, at their present locations.

Other programs rename messages at any time.  If a file is not at its last known location, a scan
finds it by its base name.
"""

from __future__ import annotations

import errno
import os
import stat

from popserv.maildrops.maildir.folders import FOLDER_NAMES, Folders
from popserv.maildrops.maildir.path_problems import explain_in_directory

OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""The flags to open a message file: links are not followed, and a FIFO does not block."""

NOT_A_FILE = (errno.ENOENT, errno.ELOOP, errno.ENXIO)
"""The errors of opening a name that is missing, a symbolic link, or a socket."""


class MessageFiles:
    """The files of a session's messages, by the position of the message in the snapshot.

    ``locations`` has the last known location of each file, or None if it has vanished.
    """

    __slots__ = ("_base_names", "_duplicates", "folders", "locations")

    def __init__(
        self,
        folders: Folders,
        base_names: tuple[bytes, ...],
        locations: tuple[bytes, ...],
        duplicates: frozenset[bytes],
    ) -> None:
        self.folders = folders
        self.locations: tuple[bytes | None, ...] = locations
        self._base_names = base_names
        self._duplicates = duplicates

    def has_duplicate(self, position: int) -> bool:
        """Return whether there was another file with the same base name at login."""
        return self._base_names[position] in self._duplicates

    def open(self, position: int) -> tuple[int, os.stat_result] | None:
        """Open a file and return its descriptor and status, or None if it is not at its location.

        Anything but a regular file counts as missing.  This is called without a thread,
        although the kernel may have to read the directory entry or the inode from disk.

        :raises UnusablePath: the file cannot be opened.
        """
        location = self.locations[position]
        if location is None:
            return None
        name, folder = self._base_names[position] + location[1:], location[0]
        try:
            fd = os.open(name, OPEN_FLAGS, dir_fd=self.folders.descriptor(folder))
        except OSError as error:
            if error.errno in NOT_A_FILE:
                return None
            path = os.path.join(FOLDER_NAMES[folder], name)
            raise explain_in_directory(error, self.folders.maildir_fd, path) from error
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            return fd, status
        os.close(fd)
        return None

    def unlink(self, position: int) -> bool:
        """Remove a file; return False if it is not at its location.

        :raises OSError: the file cannot be removed.
        """
        location = self.locations[position]
        if location is None:
            return False
        name = self._base_names[position] + location[1:]
        try:
            os.unlink(name, dir_fd=self.folders.descriptor(location[0]))
        except FileNotFoundError:
            return False
        return True

    def move(self, position: int, location: bytes, to: bytes) -> bool:
        """Rename a file from one location to another; return False if it is not at the first.

        Does nothing and returns True if the new name is the old one, or is taken.

        :raises OSError: the file cannot be renamed.
        """
        base_name = self._base_names[position]
        name, folder = base_name + to[1:], self.folders.descriptor(to[0])
        if to == location or _exists(name, folder):
            return True
        try:
            os.rename(
                base_name + location[1:],
                name,
                src_dir_fd=self.folders.descriptor(location[0]),
                dst_dir_fd=folder,
            )
        except FileNotFoundError:
            return False
        return True

    def update_locations(self) -> bool:
        """Scan the folders for the files; return whether those not found have certainly vanished.

        Waits for the disk: call it in a thread.

        :raises OSError: a folder cannot be read.
        """
        scan = self.folders.scan()
        self.locations = tuple(
            # A file with duplicates keeps its location: a scan may find another one.
            location if base_name in self._duplicates else scan.locations.get(base_name)
            for base_name, location in zip(self._base_names, self.locations, strict=True)
        )
        return scan.is_settled


def _exists(name: bytes, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
