"""Names of users and reasons of errors, for messages about files that cannot be used."""

from __future__ import annotations

import os
import pwd

from popserv.runtime.file_credentials import current


def user_name(uid: int) -> str:
    """Return the name of a user, or the uid if it has none, as below ``--chroot``."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def this_uid() -> int:
    """Return the uid of the user as whom this thread accesses files."""
    credentials = current()
    return os.geteuid() if credentials is None else credentials.uid


def this_user() -> str:
    """Return the name of the user as whom this thread accesses files."""
    return user_name(this_uid())


def can_access(path: str | bytes, mode: int, *, dir_fd: int | None = None) -> bool:
    """Return whether that user can access a path, with a mode as of os.access."""
    # Without it, the answer is about the user who has started the process.
    effective_ids = os.access in os.supports_effective_ids
    return os.access(path, mode, dir_fd=dir_fd, effective_ids=effective_ids)


def can_search(directory: str) -> bool:
    """Return whether that user can search a directory."""
    return can_access(directory, os.X_OK)


def reason_of(error: OSError) -> str:
    """Return the reason of an error; if permission is missing, with the user who needs it."""
    if isinstance(error, PermissionError):
        return f"{error.strerror} for user {this_user()}"
    return error.strerror or str(error)


def describe(error: OSError) -> str:
    """Return the reason of an error, after the whole path that it is about, if there is one."""
    path = error.filename2 or error.filename
    if isinstance(path, str | bytes):
        return f"{os.path.abspath(os.fsdecode(path))}: {reason_of(error)}"
    return reason_of(error)
