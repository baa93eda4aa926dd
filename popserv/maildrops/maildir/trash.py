"""Moving messages into another folder instead of removing them: ``--deleted move:FOLDER``."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack, suppress
from pathlib import PurePath
from secrets import token_hex

from popserv.maildrops.maildir.file_names import FLAGS_INFO, split_name
from popserv.maildrops.maildir.quota_file import FOLDER_MARK

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
                stack.callback(os.close, parent)
            folder = _open_or_create(os.fsencode(name), parent)
            stack.callback(os.close, folder)
            for each in _FOLDERS[:2]:
                os.close(_open_or_create(each, folder))
            with suppress(FileExistsError):
                mark = os.open(FOLDER_MARK, os.O_WRONLY | os.O_CREAT | os.O_EXCL, dir_fd=folder)
                with open(mark, "wb"):
                    _copy_owner(folder, mark, 0o660)
            self._cur = _open_or_create(_FOLDERS[2], folder)

    def link(self, name: bytes, *, dir_fd: int) -> None:
        """Link a message file before :meth:`move`, so that one :meth:`sync` is enough for many.

        :raises OSError: it cannot be linked, or another file has its name in the folder.
        """
        self._link(name, dir_fd, b"".join(_name_in_folder(name)))

    def sync(self) -> None:
        """Write the names of the files to disk.

        :raises OSError: they cannot be written.
        """
        os.fsync(self._cur)

    def move(self, name: bytes, *, dir_fd: int) -> None:
        """Move a message file from an open folder; its flags stay, but not its keywords.

        The file has a name at each moment, on disk as well, and replaces no other: it is linked,
        and then unlinked.

        :raises OSError: it cannot be moved, and is where it was.
        """
        base_name, suffix = _name_in_folder(name)
        target = base_name + suffix
        try:
            self._link(name, dir_fd, target)
            self.sync()
        except FileExistsError:
            # It was linked before, perhaps by a session that was killed.
            there = os.stat(target, dir_fd=self._cur, follow_symlinks=False)
            if not os.path.samestat(os.stat(name, dir_fd=dir_fd, follow_symlinks=False), there):
                seconds = base_name.partition(b".")[0]
                self._link(name, dir_fd, b"%b.R%b%b" % (seconds, token_hex(10).encode(), suffix))
                self.sync()
        os.unlink(name, dir_fd=dir_fd)

    def _link(self, name: bytes, dir_fd: int, target: bytes) -> None:
        os.link(name, target, src_dir_fd=dir_fd, dst_dir_fd=self._cur, follow_symlinks=False)

    def close(self) -> None:
        """Close the folder."""
        os.close(self._cur)


def _name_in_folder(name: bytes) -> tuple[bytes, bytes]:
    """Return the base name and the info suffix of a message that is moved.

    Keywords are lower-case letters, whose meanings each folder defines.
    """
    base_name, suffix = split_name(name)
    suffix = _KEYWORDS.sub(b"", suffix) if suffix[:3] in FLAGS_INFO else suffix
    return base_name, suffix or FLAGS_INFO[0]


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
        os.close(directory)
        raise
    return directory


def _copy_owner(parent: int, fd: int, mode: int) -> None:
    status = os.fstat(parent)
    with suppress(PermissionError):
        os.fchown(fd, status.st_uid, status.st_gid)
        os.fchmod(fd, status.st_mode & mode)
