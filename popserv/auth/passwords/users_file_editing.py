"""Functions that edit a users file: set a user's secret, remove a user.

An edit replaces the file by an edited copy, so a reader sees the whole old file or the whole new
one.  Writers in several processes exclude each other by ``flock`` on the directory.
"""

from __future__ import annotations

import codecs
import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from popserv.auth.names import check_name
from popserv.auth.passwords.users_file import UsersFileError
from popserv.runtime.permissions import reason_of


def set_secret(path: str, name: bytes, field: bytes, *, new: bool) -> None:
    """Add a user (``new``), or change a user's password field and keep the rest of the line.

    ``field`` is the whole password field, with the scheme.

    :raises UsersFileError: a new user exists already, another user does not exist, or the file
        cannot be written.
    :raises ValueError: the name is not a valid user name.
    """
    check_name(name)

    def edit(lines: list[bytes]) -> list[bytes]:
        index = _find(lines, name)
        if new:
            if index is not None:
                raise UsersFileError(
                    f"user {os.fsdecode(name)} is already in {path}; "
                    "to change the password, use: popserv user passwd"
                )
            return [*lines, name + b":" + field]
        if index is None:
            raise UsersFileError(
                f"user {os.fsdecode(name)} is not in {path}; to add the user, use: popserv user add"
            )
        _, _, others = lines[index].split(b":", 1)[1].partition(b":")
        line = name + b":" + field + (b":" + others if others else b"")
        return [*lines[:index], line, *lines[index + 1 :]]

    _rewrite(path, edit)


def remove_user(path: str, name: bytes) -> None:
    """Remove a user from the file; the maildrop stays.

    :raises UsersFileError: the user does not exist, or the file cannot be written.
    """

    def edit(lines: list[bytes]) -> list[bytes]:
        if _find(lines, name) is None:
            raise UsersFileError(f"user {os.fsdecode(name)} is not in {path}")
        return [line for line in lines if not line.startswith(name + b":")]

    _rewrite(path, edit)


def _find(lines: list[bytes], name: bytes) -> int | None:
    start = name + b":"
    return next((index for index, line in enumerate(lines) if line.startswith(start)), None)


def _rewrite(path: str, edit: Callable[[list[bytes]], list[bytes]]) -> None:
    """Replace the file by its edited lines, atomically."""
    path = os.path.realpath(path)
    directory = os.path.dirname(path)
    try:
        with _locked(directory) as directory_fd:
            try:
                with open(path, "rb") as file:
                    owner = os.fstat(file.fileno())
                    text = file.read()
                    mark = codecs.BOM_UTF8 if text.startswith(codecs.BOM_UTF8) else b""
                    text = text.removeprefix(mark)
                    lines = text.removesuffix(b"\n").split(b"\n") if text else []
                    mode = stat.S_IMODE(owner.st_mode) & 0o660
            except FileNotFoundError:
                # A new file belongs to the owner of the directory: the server's user.
                owner, mark, lines, mode = os.fstat(directory_fd), b"", [], 0o600
            text = b"\n".join(edit(lines))
            _replace(path, directory, mark + (text + b"\n" if text else b""), owner, mode)
            os.fsync(directory_fd)
    except OSError as error:
        raise UsersFileError(f"cannot write {path}: {reason_of(error)}") from error


def _replace(path: str, directory: str, text: bytes, owner: os.stat_result, mode: int) -> None:
    fd, temporary = tempfile.mkstemp(prefix=".users-", dir=directory)
    try:
        with open(fd, "wb") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if os.geteuid() == 0:
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@contextmanager
def _locked(directory: str) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)
