"""What is wrong with an mbox file, found without a lock and without a change.

It is for ``popserv doctor``.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator

from popserv.core.findings import Finding, error, hint, warning
from popserv.core.printable import one_line, printable
from popserv.maildrops.layout import Layout
from popserv.maildrops.mbox.appending import has_journal
from popserv.maildrops.mbox.locks import STALE_AGE, dotlock_age
from popserv.maildrops.mbox.parser import Format, NotAnMbox, parse
from popserv.maildrops.mbox.spool import describe_failure
from popserv.maildrops.mbox.spool_group import in_spool_group
from popserv.maildrops.mbox.window import Window
from popserv.runtime.closing import close
from popserv.runtime.permissions import can_access, this_user

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


def diagnose_mbox(layout: Layout, user: bytes, mbox_format: Format) -> Iterator[Finding]:
    """Yield what is wrong with the mbox file of a user; it waits for the disk.

    Only the first message is read.
    """
    try:
        path = one_line(os.fsdecode(layout.path(user)))
        parent, fd = layout.open_file(user, _FLAGS)
    except FileNotFoundError:
        yield hint(
            "mbox-missing",
            path,
            f'"{printable(user)}" has no mbox file, and sees an empty maildrop',
            "nothing needs to be done if mail will be delivered there; else correct --mbox",
        )
    except ValueError as problem:
        remedy = "give the user another name, or the maildrop of another user with user="
        yield error("maildrop-name", printable(user), str(problem), remedy)
    except OSError as problem:
        what = describe_failure(problem, os.fsdecode(layout.path(user)))
        remedy = "correct the path, its owner or its mode, or --mbox"
        yield error("maildrop-unusable", path, one_line(what), remedy)
    else:
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISREG(mode):
                yield from _permissions(parent, fd, path)
                name = layout.path_parts(user)[-1]
                yield from _contents(parent, name, fd, path, mbox_format)
            else:
                is_directory = stat.S_ISDIR(mode)
                what = "a directory, a Maildir perhaps" if is_directory else "not a regular file"
                yield error(
                    "maildrop-unusable", path, f"it is {what}", "correct the path, or --mbox"
                )
        finally:
            close(fd)
            close(parent)


def _permissions(parent: int, fd: int, path: str) -> Iterator[Finding]:
    status = os.fstat(fd)
    if status.st_mode & stat.S_IRWXO:
        yield warning(
            "mbox-exposed",
            path,
            f"its mode {stat.S_IMODE(status.st_mode):04o} lets other users into the mail",
            f"run: chmod o= {path}",
        )
    if status.st_nlink > 1:
        yield error(
            "maildrop-unusable",
            path,
            "it has more than one name, so that it is not opened",
            "remove the other hard links",
        )
    if not can_access(os.path.basename(path), os.W_OK, dir_fd=parent):
        yield error(
            "mbox-not-writable",
            path,
            f"{this_user()} cannot write it, so that no message can be removed",
            f"let {this_user()} own it, or give its group permission to write",
        )
    with in_spool_group(parent):
        can_lock = can_access(".", os.W_OK, dir_fd=parent)
    if not can_lock:
        yield hint(
            "mbox-no-dotlock",
            os.path.dirname(path),
            f"{this_user()} cannot make dotlocks there, so that only programs with fcntl locks "
            "are excluded",
            "give the server permission to create files there, such as with --gid mail",
        )


def _contents(
    parent: int, name: bytes, fd: int, path: str, mbox_format: Format
) -> Iterator[Finding]:
    size = os.fstat(fd).st_size
    try:
        next(parse(Window(fd, size), 0, mbox_format), None)
    except NotAnMbox:
        yield error(
            "not-an-mbox",
            path,
            "it does not start with a From_ line",
            "restore it from a backup, or move it away",
        )
    except OSError as problem:
        yield error("maildrop-unusable", path, str(problem.strerror), "restore it from a backup")
    if has_journal(parent, name):
        yield hint(
            "mbox-interrupted",
            path,
            "a copy to it was interrupted, and the next login removes what is incomplete",
            "run popserv copy again",
        )
    age = dotlock_age(parent, name, time.time())
    if age is not None and age > STALE_AGE:
        yield warning(
            "mbox-dotlock",
            f"{path}.lock",
            f"the lock is {age // 60:.0f} minutes old; programs that do not know stale locks wait",
            "remove it if no program uses the file",
        )
