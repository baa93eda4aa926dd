"""Names of users and reasons of errors, for messages about files that cannot be used."""

from __future__ import annotations

import os
import pwd


def user_name(uid: int) -> str:
    """Return the name of a user, or the uid if it has none, as below ``--chroot``."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def this_user() -> str:
    """Return the name of the user that the server runs as."""
    return user_name(os.geteuid())


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
