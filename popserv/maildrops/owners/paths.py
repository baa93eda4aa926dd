"""Whom a maildrop belongs to: the user who can change what is at its path.

The path is followed from the directory that the administrator has named.  The first component that
does not belong to root decides: whoever owns it can put anything there.  So nobody can have the
server reach more than they can reach themselves, whatever they put there and whenever: after the
decision, everything is opened as this user.

Root decides only what nobody else can change.  Then nothing on the way can be replaced between the
decision and the access.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterable

from popserv.maildrops.path_problems import UnusablePath
from popserv.runtime.file_credentials import NOBODY

MAX_LINKS = 40
"""The maximum number of symbolic links on a path, as on Linux."""

_ROOT = 0
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


Seen = tuple[bytes, int, int]
"""The path of a file or directory, its mode and its owner's uid."""


def is_unchanged(seen: Iterable[Seen]) -> bool:
    """Return whether all that decided about an owner has the same modes and owners as then."""
    try:
        for path, mode, uid in seen:
            status = os.lstat(path)
            if status.st_uid != uid or status.st_mode != mode or stat.S_ISLNK(mode):
                return False
    except OSError:
        return False
    return True


def owner_of_path(
    directory: bytes,
    parts: Iterable[bytes],
    inside: Iterable[bytes] = (),
    seen: list[Seen] | None = None,
) -> int:
    """Return the uid of the owner of what is at a path, 0 if only root can change it.

    The path has the components ``parts`` below ``directory``.  Links that root has made are
    followed.  ``inside`` are the names of directories that belong to a maildrop which is a
    directory.  If there is nothing at the path, it is the user who can create it, and root
    if there is no such ``directory``.

    If root is the owner, ``seen`` gets all that has decided it, for :func:`is_unchanged`.

    Waits for the disk: call it in a thread.

    :raises UnusablePath: it is root's, but others can change it.
    """
    seen = [] if seen is None else seen
    pending = deque(parts)
    try:
        path, above = directory, os.stat(directory)
    except OSError:
        seen.append((directory, 0, 0))
        return _ROOT
    # A link has another mode.
    seen.append((directory, above.st_mode, above.st_uid))
    links = 0
    while pending:
        entry = os.path.join(path, pending.popleft())
        status = _examine(entry, seen)
        if status is None:
            return _creator(above)
        if status.st_uid != _ROOT:
            return status.st_uid
        if above.st_uid != _ROOT:
            return above.st_uid
        if above.st_mode & _OTHERS_WRITE and not above.st_mode & stat.S_ISVTX:
            raise _is_shared(path)
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > MAX_LINKS:
                raise UnusablePath(errno.ELOOP, f"{os.fsdecode(entry)}: too many symbolic links")
            target = os.readlink(entry)
            if target.startswith(b"/"):
                path, above = b"/", os.stat(b"/")
            pending.extendleft(filter(None, reversed(target.split(b"/"))))
        else:
            path, above = entry, status
    return _owner_inside(path, above, inside, seen)


def _examine(path: bytes, seen: list[Seen]) -> os.stat_result | None:
    try:
        status = os.lstat(path)
    except OSError:
        seen.append((path, 0, 0))
        return None
    seen.append((path, status.st_mode, status.st_uid))
    return status


def _creator(directory: os.stat_result) -> int:
    """Return the uid of the user who can create a file in a directory; nobody's if many can."""
    if directory.st_uid == _ROOT and directory.st_mode & _OTHERS_WRITE:
        return NOBODY.uid
    return directory.st_uid


def _owner_inside(
    path: bytes, status: os.stat_result, inside: Iterable[bytes], seen: list[Seen]
) -> int:
    """Return the owner of a file or directory, or of what is in it if only that is not root's."""
    if status.st_uid != _ROOT:
        return status.st_uid
    if stat.S_ISDIR(status.st_mode) and status.st_mode & _OTHERS_WRITE:
        raise _is_shared(path)
    for entry in (os.path.join(path, name) for name in inside):
        found = _examine(entry, seen)
        if found is not None:
            owner = _owner_inside(entry, found, (), seen)
            if owner != _ROOT:
                return owner
    return _ROOT


def _is_shared(path: bytes) -> UnusablePath:
    name = os.fsdecode(path)
    return UnusablePath(
        errno.EACCES,
        f"the directory {name} belongs to root, and others can write to it, so that what root owns "
        f"there is not opened; give it the owner of the mail, or run chmod go-w {name}",
    )
