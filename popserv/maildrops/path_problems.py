"""Errors of directories and files that name the whole path, and say what is there.

A path is examined again after the error.  The result is for the log only; nothing depends on it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from popserv.core.printable import one_line
from popserv.runtime.permissions import can_search, reason_of, this_uid, this_user, user_name

_ABOUT_PATHS = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM)
"""The errors that a path explains; any other, such as EIO, says itself what is wrong."""


class UnusablePath(OSError):
    """A file or directory cannot be used; the text is the path and the reason."""

    def __str__(self) -> str:
        # A path may contain any octet; other users can make files.
        return one_line(str(self.strerror))


def explain_maildrop(error: OSError, root: bytes, parts: Sequence[bytes]) -> UnusablePath:
    """Return the error for a maildrop that cannot be opened because of ``error``.

    The maildrop is below the directory ``root``, at the path with the components ``parts``.
    """
    path = os.fsdecode(root)
    if error.errno not in _ABOUT_PATHS:
        path = os.path.join(path, *map(os.fsdecode, parts))
        return UnusablePath(error.errno, f"{path}: {reason_of(error)}")
    problem = explain_directory(path)
    for number, part in enumerate(parts, 1):
        path = os.path.join(path, os.fsdecode(part))
        problem = problem or _explain_below_root(path, is_maildrop=number == len(parts))
    return UnusablePath(error.errno, problem or explain_open(error, path))


def explain_in_directory(error: OSError, directory: int, name: object = None) -> UnusablePath:
    """Return the error for a name in a directory that cannot be read.

    The directory is given by its descriptor.  A ``name`` that is not of type bytes stands for the
    directory itself.  An UnusablePath is returned as it is.
    """
    if isinstance(error, UnusablePath):
        return error
    return UnusablePath(error.errno, explain_open(error, _path_in(directory, name)))


def explain_change(error: OSError, directory: int, name: object = None) -> UnusablePath:
    """Return the error for a name in a directory that cannot be created, changed or removed.

    The arguments are as for :func:`explain_in_directory`.
    """
    if isinstance(error, UnusablePath):
        return error
    return UnusablePath(error.errno, _explain(error, _path_in(directory, name)))


def explain_file(error: OSError, descriptor: int, name: bytes = b"an open file") -> UnusablePath:
    """Return the error for an open file; ``name`` is for systems that do not tell its path.

    An UnusablePath is returned as it is.
    """
    if isinstance(error, UnusablePath):
        return error
    path = path_of(descriptor) or os.fsdecode(name)
    return UnusablePath(error.errno, _explain(error, path))


def _path_in(directory: int, name: object) -> str:
    path = path_of(directory)
    if isinstance(name, bytes):
        return os.path.join(path, os.fsdecode(name))
    return path or "an open directory"


def path_of(descriptor: int) -> str:
    """Return the path of an open file or directory; empty if the system does not tell."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        # Other systems, and a --chroot directory, have no /proc.
        return ""


def explain_directory(path: str) -> str | None:
    """Return why a directory, or what a link leads to, cannot be searched; None if it can be."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            return f"{path} is a symbolic link to {os.path.realpath(path)}, which does not exist"
        return f"the directory {path} does not exist; create it"
    except PermissionError:
        return _explain_search(os.path.dirname(os.path.realpath(path)))
    except OSError as error:
        return f"{path}: {reason_of(error)}"
    if not stat.S_ISDIR(status.st_mode):
        return f"{path} {_describe(status)}"
    try:
        # Unlike access(2) for Python, this says why it cannot be searched.
        os.stat(os.path.join(path, "."))
    except PermissionError:
        return _explain_search(path)
    except OSError as error:
        return f"{path}: {reason_of(error)}"
    return None


def _explain_below_root(path: str, *, is_maildrop: bool) -> str | None:
    try:
        status = os.lstat(path)
    except PermissionError:
        return _explain_search(os.path.dirname(path))
    except OSError as error:
        return f"{path}: {reason_of(error)}"
    if stat.S_ISDIR(status.st_mode):
        return None
    problem = f"{path} {_describe(status)}"
    if not stat.S_ISLNK(status.st_mode):
        return problem
    if not is_maildrop:
        return f"{problem}; links above a maildrop are not followed"
    if status.st_uid not in (0, this_uid()):
        return f"{problem}; a link must belong to root or to {this_user()} to be followed"
    return explain_directory(path)


def explain_open(error: OSError, path: str) -> str:
    """Return why a path cannot be opened, of which the directories can be searched."""
    if error.errno == errno.EACCES:
        return f"{path} cannot be read by user {this_user()}{_permissions(path)}"
    return _explain(error, path)


def _explain(error: OSError, path: str) -> str:
    """Return why a path cannot be used, for any reason but missing permission to read it."""
    if error.errno in (errno.ENOTDIR, errno.ELOOP):
        try:
            return f"{path} {_describe(os.lstat(path))}"
        except OSError:
            pass
    return f"{path}: {reason_of(error)}"


def _explain_search(path: str) -> str:
    """Return which directory cannot be searched: a path, or one on the way to it."""
    way = [*map(str, reversed(Path(path).parents)), path]
    directory = next((each for each in way if not can_search(each)), path)
    return (
        f"the directory {directory} cannot be searched by user {this_user()}"
        f"{_permissions(directory)}"
    )


def _describe(status: os.stat_result) -> str:
    """Return what something is that should be a directory."""
    if stat.S_ISLNK(status.st_mode):
        return f"is a symbolic link that belongs to {user_name(status.st_uid)}"
    return "is a file, an mbox perhaps" if stat.S_ISREG(status.st_mode) else "is not a directory"


def _permissions(path: str) -> str:
    """Return the end of a message: who owns a path, and its mode, if this user can find out."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    owner, mode = user_name(status.st_uid), stat.S_IMODE(status.st_mode)
    return f"; it belongs to {owner} and has mode {mode:04o}"
