"""What is wrong with an MH folder, found without a lock and without a change.

It is for ``popserv doctor``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from popserv.core.findings import Finding, error, hint, some_names, warning
from popserv.core.printable import one_line, printable
from popserv.maildrops.layout import Layout
from popserv.maildrops.mh import index_file
from popserv.maildrops.mh.folder import open_number, scan
from popserv.maildrops.path_problems import explain_in_directory
from popserv.runtime.closing import close
from popserv.runtime.permissions import can_access, this_user


def diagnose_folder(layout: Layout, user: bytes) -> Iterator[Finding]:
    """Yield what is wrong with the MH folder of a user; it waits for the disk."""
    try:
        path = one_line(os.fsdecode(layout.path(user)))
        folder = layout.open(user)
    except FileNotFoundError:
        yield hint(
            "mh-missing",
            path,
            f'"{printable(user)}" has no MH folder, and sees an empty maildrop',
            "nothing needs to be done if mail will be delivered there; else correct the path",
        )
    except ValueError as problem:
        remedy = "give the user another name, or the maildrop of another user with user="
        yield error("maildrop-name", printable(user), str(problem), remedy)
    except OSError as problem:
        remedy = "correct the path, its owner or its mode"
        yield error("maildrop-unusable", path, str(problem), remedy)
    else:
        try:
            yield from _open_folder(folder, path)
        finally:
            close(folder)


def _open_folder(folder: int, path: str) -> Iterator[Finding]:
    mode = stat.S_IMODE(os.fstat(folder).st_mode)
    if mode & stat.S_IRWXO:
        yield warning(
            "mh-exposed",
            path,
            f"its mode {mode:04o} lets other users into the mail",
            f"run: chmod o= {path}",
        )
    if not can_access(".", os.W_OK | os.X_OK, dir_fd=folder):
        yield error(
            "mh-not-writable",
            path,
            f"{this_user()} cannot write there, so that no message can be removed",
            f"let {this_user()} own it, or give its group permission to write",
        )
    try:
        is_damaged = index_file.is_damaged(folder)
        numbers = list(scan(folder).files)
    except OSError as problem:
        explained = explain_in_directory(problem, folder, problem.filename)
        yield error("maildrop-unusable", path, str(explained), "correct its owner or its mode")
        return
    if is_damaged:
        yield warning(
            "mh-index",
            f"{path}/{index_file.NAME.decode()}",
            "it is damaged, so that messages lose the unique-ids that they had on other servers",
            "restore it from a backup",
        )
    unreadable = [str(number) for number in numbers if not _is_readable(folder, number)]
    if unreadable:
        shown = some_names(iter(unreadable), len(unreadable))
        yield error(
            "message-unreadable",
            path,
            f"messages: {len(unreadable)}, which are not shown, because they cannot be read: "
            f"{shown}",
            "correct their owner or their mode",
        )


def _is_readable(folder: int, number: int) -> bool:
    """Return whether a message can be read, or is gone."""
    try:
        fd = open_number(folder, number)
    except OSError:
        return False
    if fd is not None:
        close(fd)
    return True
