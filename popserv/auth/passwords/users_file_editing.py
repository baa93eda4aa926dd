"""Functions that edit a users file: change, add or remove a user.

An edit replaces the file by an edited copy, so a reader sees the whole old file or the whole new
one.  A new file replaces none: on NFS the system may say for some seconds that a file does not
exist which another machine has made.  Writers in several processes exclude each other by ``flock``
on the directory.  The copy therefore has the same name for all processes of a machine, and the next
command removes one that a killed command has left.
"""

from __future__ import annotations

import codecs
import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from popserv.auth.names import prepared_name
from popserv.auth.passwords.user_changes import Change, UserChanges
from popserv.auth.passwords.users_file import UsersFileError
from popserv.runtime.closing import close
from popserv.runtime.permissions import reason_of, this_uid, user_name

_NO_LINKS = (errno.EPERM, errno.ENOTSUP)
"""The errors of link(2) on a file system without links, such as FAT."""

_COMPONENT = re.compile("/+[^/]+")

_MAX_LINKS = 40
"""As on Linux."""

_NO_ACL = (errno.ENODATA, errno.ENOTSUP)
"""The errors of getxattr(2) on a file, or a file system, without it."""

_ACL = "system.posix_acl_access"
"""The extended attribute of Linux with the access control list of a file (acl(5))."""

_COPY = f".users-new-{os.uname().nodename}"
"""The name of the edited copy, in the directory of the users file: on NFS each machine has one."""


def set_secret(path: str, name: bytes, field: bytes, *, new: bool) -> None:
    """Add a user (``new``), or change a user's password field and keep the rest of the line.

    ``field`` is the whole password field, with the scheme.

    :raises UsersFileError: a new user exists already, another user does not exist, or the file
        cannot be written.
    :raises ValueError: the name is not a valid user name.
    """
    changes = UserChanges(name, path)
    change_user(path, name, changes.add(field) if new else changes.set_secret(field))


def remove_user(path: str, name: bytes) -> None:
    """Remove a user from the file; the maildrop stays.

    :raises UsersFileError: the user does not exist, or the file cannot be written.
    """
    change_user(path, name, UserChanges(name, path).remove())


def change_user(path: str, name: bytes, change: Change) -> None:
    """Change the first line of a user, or add one; a user who is removed loses all lines.

    If the name is not in the file, its prepared form is looked up.

    :raises UsersFileError: the change refuses, or the file cannot be written.
    """

    def edit(lines: list[bytes]) -> list[bytes]:
        start = name + b":"
        index = _find(lines, start)
        if index is None:
            # As logins do; popserv user add has written this form.
            prepared = prepared_name(name) + b":"
            index = _find(lines, prepared)
            start = start if index is None else prepared
        if index is None:
            record = change(None)
            return lines if record is None else [*lines, start + record]
        line = lines[index].removesuffix(b"\r")
        end = lines[index][len(line) :]
        record = change(line.removeprefix(start))
        if record is None:
            return [each for each in lines if not each.startswith(start)]
        return [*lines[:index], start + record + end, *lines[index + 1 :]]

    _rewrite(path, edit)


def read_records(path: str) -> dict[bytes, bytes]:
    """Return the records of the users by their names; of two lines with one name the first.

    :raises OSError: the file cannot be read.
    """
    records: dict[bytes, bytes] = {}
    with open(path, "rb") as file:
        for line in file.read().removeprefix(codecs.BOM_UTF8).split(b"\n"):
            name, _, record = line.removesuffix(b"\r").partition(b":")
            records.setdefault(name, record)
    return records


def abandoned_copy(path: str) -> str | None:
    """Return the path of a copy that a killed command has left, or None."""
    directory = os.path.dirname(os.path.realpath(path))
    copy = os.path.join(directory, _COPY)
    try:
        with _locked(directory, fcntl.LOCK_SH | fcntl.LOCK_NB):
            return copy if os.path.lexists(copy) else None
    except OSError:
        # A command is writing it, or the directory cannot be read.
        return None


def _find(lines: list[bytes], start: bytes) -> int | None:
    return next((index for index, line in enumerate(lines) if line.startswith(start)), None)


class _Access(NamedTuple):
    """Who has access to a file: the owner and the group of ``owner``, the mode, and the ACL."""

    owner: os.stat_result
    mode: int
    acl: bytes | None = None

    @classmethod
    def of(cls, fd: int) -> _Access:
        """Return that of a file, without the permissions of others."""
        status = os.fstat(fd)
        return cls(status, stat.S_IMODE(status.st_mode) & 0o660, _acl(fd))

    def give(self, fd: int) -> None:
        """Give it to a new file, whose owner stays unless this process is root.

        :raises OSError: the file cannot be changed; also if a group has access of which this user
            is no member.
        """
        group = self.owner.st_gid
        if os.geteuid() == 0:
            os.fchown(fd, self.owner.st_uid, group)
        elif self.mode & stat.S_IRWXG and os.fstat(fd).st_gid != group:
            # Another group must not read secrets, and the server may need this one.
            try:
                os.fchown(fd, -1, group)
            except PermissionError:
                problem = (
                    f"group {group} has access to it, of which {user_name(this_uid())} is no "
                    "member; run the command as root"
                )
                raise OSError(errno.EINVAL, problem) from None
        if self.acl is not None:
            os.setxattr(fd, _ACL, self.acl)
        elif _acl(fd) is not None:
            # The default of the directory for new files.
            os.removexattr(fd, _ACL)
        # The last, because with an ACL it limits what that permits.
        os.fchmod(fd, self.mode)


def _acl(fd: int) -> bytes | None:
    """Return the access control list of a file, or None if there is none."""
    try:
        return os.getxattr(fd, _ACL)
    except AttributeError:
        # This is not Linux.
        return None
    except OSError as error:
        if error.errno not in _NO_ACL:
            raise
        return None


def _rewrite(path: str, edit: Callable[[list[bytes]], list[bytes]]) -> None:
    """Replace the file by its edited lines, atomically."""
    publish: Callable[[str, str], None] = os.rename
    try:
        path = _followed(path)
        directory = os.path.dirname(path)
        with _locked(directory, fcntl.LOCK_EX) as directory_fd:
            try:
                with open(path, "rb", opener=_open_no_link) as file:
                    access = _Access.of(file.fileno())
                    text = file.read()
                    mark = codecs.BOM_UTF8 if text.startswith(codecs.BOM_UTF8) else b""
                    text = text.removeprefix(mark)
                    lines = text.removesuffix(b"\n").split(b"\n") if text else []
            except FileNotFoundError:
                # A new file belongs to the owner of the directory: the server's user.
                access, mark, lines = _Access(os.fstat(directory_fd), 0o600), b"", []
                publish = _link
            text = b"\n".join(edit(lines))
            text = mark + (text + b"\n" if text else b"")
            with _written(directory, text, access) as copy:
                publish(copy, path)
            os.fsync(directory_fd)
    except OSError as error:
        raise UsersFileError(f"cannot write {path}: {reason_of(error)}") from error


def _followed(path: str) -> str:
    """Return where a path leads by links of root or of this user, also to directories.

    Links of others could lead root to any file.

    :raises UsersFileError: there is another link.
    :raises OSError: the path cannot be examined, or there are too many links.
    """
    # As the server does.  What links add is not normalized: there, ".." may follow a link.
    path = os.path.abspath(path)
    for _ in range(_MAX_LINKS):
        prefixes = (path[: match.end()] for match in _COMPONENT.finditer(path))
        link = next(filter(os.path.islink, prefixes), None)
        if link is None:
            return path
        status, target = os.lstat(link), os.readlink(link)
        # If it was replaced in between, the time is another one.
        if status.st_uid not in (0, this_uid()) or os.lstat(link).st_ctime_ns != status.st_ctime_ns:
            raise UsersFileError(
                f"{link} is a symbolic link of the user {user_name(status.st_uid)}, and is not "
                "followed; name the file itself"
            )
        path = os.path.join(os.path.dirname(link), target) + path[len(link) :]
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


@contextmanager
def _written(directory: str, text: bytes, access: _Access) -> Iterator[str]:
    """Write the copy, and yield its path; after an error it is removed."""
    copy = os.path.join(directory, _COPY)
    with suppress(FileNotFoundError):
        os.unlink(copy)
    fd = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(text)
            file.flush()
            access.give(file.fileno())
            os.fsync(file.fileno())
        yield copy
    except BaseException:
        with suppress(OSError):
            os.unlink(copy)
        raise


def _link(copy: str, path: str) -> None:
    """Rename a file, unless there is one of the new name, as far as the file system can do that."""
    try:
        os.link(copy, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.rename(copy, path)
    else:
        os.unlink(copy)


@contextmanager
def _locked(directory: str, operation: int) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, operation)
        yield fd
    finally:
        close(fd)
