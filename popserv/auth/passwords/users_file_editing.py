"""Changes to a users file: a user's secret is set, a user is removed."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from popserv.auth.names import check_name
from popserv.auth.passwords.users_file import UsersFileError


def set_secret(path: str, name: bytes, field: bytes, *, new: bool) -> None:
    """Add a user (``new``) or change one's password field; the rest of the line stays.

    :raises UsersFileError: the user is there already, or is not there.
    :raises ValueError: the name is not valid.
    """
    check_name(name)

    def edit(lines: list[bytes]) -> list[bytes]:
        at = _find(lines, name)
        if new:
            if at is not None:
                raise UsersFileError(
                    f"{os.fsdecode(name)} is in {path} already; see: popserv user passwd"
                )
            return [*lines, name + b":" + field]
        if at is None:
            raise UsersFileError(f"{os.fsdecode(name)} is not in {path}; see: popserv user add")
        _, _, others = lines[at].split(b":", 1)[1].partition(b":")
        changed = name + b":" + field + (b":" + others if others else b"")
        return [*lines[:at], changed, *lines[at + 1 :]]

    _rewrite(path, edit)


def remove_user(path: str, name: bytes) -> None:
    """Take a user out; the maildrop stays.

    :raises UsersFileError: there is no such user.
    """

    def edit(lines: list[bytes]) -> list[bytes]:
        if _find(lines, name) is None:
            raise UsersFileError(f"{os.fsdecode(name)} is not in {path}")
        return [line for line in lines if not line.startswith(name + b":")]

    _rewrite(path, edit)


def _find(lines: list[bytes], name: bytes) -> int | None:
    start = name + b":"
    return next((at for at, line in enumerate(lines) if line.startswith(start)), None)


def _rewrite(path: str, edit: Callable[[list[bytes]], list[bytes]]) -> None:
    """Replace the file by its edited lines, so that a reader sees the old or the new whole."""
    path = os.path.realpath(path)
    directory = os.path.dirname(path)
    try:
        with _locked(directory) as directory_fd:
            try:
                with open(path, "rb") as file:
                    like = os.fstat(file.fileno())
                    text = file.read()
                    lines = text.removesuffix(b"\n").split(b"\n") if text else []
                    mode = stat.S_IMODE(like.st_mode) & 0o660
            except FileNotFoundError:
                # Whoever owns the maildrops is who the server runs as.
                like, lines, mode = os.fstat(directory_fd), [], 0o600
            text = b"\n".join(edit(lines))
            _replace(path, directory, text + b"\n" if text else b"", like, mode)
            os.fsync(directory_fd)
    except OSError as error:
        raise UsersFileError(f"cannot write {path}: {error.strerror}") from error


def _replace(path: str, directory: str, text: bytes, like: os.stat_result, mode: int) -> None:
    fd, temporary = tempfile.mkstemp(prefix=".users-", dir=directory)
    try:
        with open(fd, "wb") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if os.geteuid() == 0:
                os.fchown(file.fileno(), like.st_uid, like.st_gid)
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
