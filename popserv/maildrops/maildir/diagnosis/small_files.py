"""The small files of a Maildir: unique-ids, sizes, and those of other servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from popserv.core.findings import Finding, error, hint, warning
from popserv.maildrops.maildir import hidden_file
from popserv.maildrops.maildir.listing import size_file
from popserv.maildrops.maildir.small_files import version
from popserv.maildrops.maildir.unique_ids import courier_sizelist, dovecot_uidlist, pinned_file
from popserv.maildrops.maildir.unique_ids.format import Source
from popserv.runtime.permissions import this_user


def diagnose_files(maildir_fd: int, path: str, source: Source) -> Iterator[Finding]:
    """Yield what is wrong with the small files of an open Maildir; it waits for the disk.

    ``path`` is that of the Maildir, for people, and ``source`` the file that ``--uidl`` needs.
    """
    yield from _unique_ids(pinned_file, maildir_fd, path)
    if source is Source.DOVECOT:
        yield from _unique_ids(dovecot_uidlist, maildir_fd, path)
        yield from _dovecot_lock(maildir_fd, path)
    elif source is Source.COURIER:
        yield from _unique_ids(courier_sizelist, maildir_fd, path)
    if source is Source.NONE and not _exists(pinned_file.NAME, maildir_fd):
        for module, server in ((dovecot_uidlist, "dovecot"), (courier_sizelist, "courier")):
            if _exists(module.NAME, maildir_fd):
                yield warning(
                    "other-unique-ids",
                    f"{path}/{module.NAME.decode()}",
                    f"{server.capitalize()} has given the messages unique-ids, and clients "
                    "that know them would fetch all mail again",
                    f"use --uidl {server}, or run: popserv uidl import --from {server}",
                )
    if _exists(size_file.NAME, maildir_fd) and size_file.load(maildir_fd) is None:
        yield hint(
            "size-file",
            f"{path}/{size_file.NAME.decode()}",
            "it is damaged or of another version, so that all messages are counted again",
            "none is needed, it is replaced after the next login",
        )
    try:
        is_damaged = hidden_file.is_damaged(maildir_fd)
    except OSError as problem:
        yield _damaged(problem, hidden_file.NAME, path)
    else:
        if is_damaged:
            yield warning(
                "hidden-file",
                f"{path}/{hidden_file.NAME.decode()}",
                "it is damaged, so that deleted messages are shown again",
                "restore it from a backup, or remove it",
            )


def _exists(name: bytes, maildir_fd: int) -> bool:
    return version(name, maildir_fd) is not None


def _unique_ids(module: Any, maildir_fd: int, path: str) -> Iterator[Finding]:
    """Yield what is wrong with a file of unique-ids, which ``module`` loads."""
    try:
        module.load(maildir_fd)
    except OSError as problem:
        yield _damaged(problem, module.NAME, path)


def _damaged(problem: OSError, name: bytes, path: str) -> Finding:
    what, _, remedy = str(problem.strerror).partition("; ")
    remedy = remedy or f"make it a regular file that {this_user()} can read"
    text = f"{what}, so that the maildrop cannot be opened"
    return error("unique-id-file", f"{path}/{name.decode()}", text, remedy)


def _dovecot_lock(maildir_fd: int, path: str) -> Iterator[Finding]:
    if dovecot_uidlist.has_stale_lock(maildir_fd):
        yield error(
            "dovecot-lock",
            f"{path}/{dovecot_uidlist.LOCK_NAME.decode()}",
            "it was left behind by a program that has ended, and new messages get no UIDs",
            "remove it",
        )
