"""Moving messages into another folder instead of removing them: ``--deleted move:FOLDER``.

Each is moved by one rename(2), so that it always has one name: never none, and never two of which
one would have to be found and undone after an error, or after another program has renamed or
expunged the message meanwhile.  File systems with a journal keep that up through a power loss.

A rename replaces a file that has the new name.  The new base name therefore has a random token, as
that of a message which is delivered.
"""

from __future__ import annotations

import os
import re
from contextlib import ExitStack, suppress
from pathlib import PurePath
from secrets import token_hex

from popserv.maildrops.maildir.file_names import FLAGS_INFO, other_base_name, split_name
from popserv.maildrops.maildir.quota_file import FOLDER_MARK
from popserv.runtime.closing import close

_FOLDERS = (b"tmp", b"new", b"cur")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEYWORDS = re.compile(rb"[a-z]")


class Trash:
    """The folder that removed messages are moved to, created if it is missing.

    ``path`` leads to it from the Maildir, such as ``.Trash`` or ``../.Trash``.  Links in it are not
    followed.  Everything here waits for the disk: call it in a thread.

    :raises OSError: the folder cannot be created or opened.
    """

    def __init__(self, maildir_fd: int, path: str) -> None:
        *parents, name = PurePath(path).parts
        with ExitStack() as stack:
            parent = maildir_fd
            for above in parents:
                parent = os.open(os.fsencode(above), _DIRECTORY, dir_fd=parent)
                stack.callback(close, parent)
            folder = _open_or_create(os.fsencode(name), parent)
            stack.callback(close, folder)
            for each in _FOLDERS[:2]:
                close(_open_or_create(each, folder))
            with suppress(FileExistsError):
                mark = os.open(FOLDER_MARK, os.O_WRONLY | os.O_CREAT | os.O_EXCL, dir_fd=folder)
                with open(mark, "wb"):
                    _copy_owner(folder, mark, 0o660)
            self._cur = _open_or_create(_FOLDERS[2], folder)

    def move(self, name: bytes, *, dir_fd: int) -> None:
        """Move a message file from an open folder; its flags stay, but not its keywords.

        :raises OSError: it cannot be moved, and is where it was.
        """
        base_name, suffix = split_name(name)
        # Keywords are lower-case letters, whose meanings each folder defines.
        flags = _KEYWORDS.sub(b"", suffix) if suffix[:3] in FLAGS_INFO else suffix
        target = other_base_name(base_name, token_hex(10).encode("ascii"))
        os.rename(name, target + (flags or FLAGS_INFO[0]), src_dir_fd=dir_fd, dst_dir_fd=self._cur)

    def sync(self) -> None:
        """Write the messages that were moved here to disk.

        :raises OSError: that failed, and they may be here or where they were.
        """
        os.fsync(self._cur)

    def close(self) -> None:
        """Close the folder."""
        close(self._cur)


def _open_or_create(name: bytes, parent: int) -> int:
    """Open a directory; one that is created has the owner and the mode of its parent."""
    with suppress(FileNotFoundError):
        return os.open(name, _DIRECTORY, dir_fd=parent)
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    directory = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        _copy_owner(parent, directory, 0o777)
        os.fsync(parent)
    except BaseException:
        close(directory)
        raise
    return directory


def _copy_owner(parent: int, fd: int, mode: int) -> None:
    status = os.fstat(parent)
    with suppress(PermissionError):
        os.fchown(fd, status.st_uid, status.st_gid)
        os.fchmod(fd, status.st_mode & mode)
