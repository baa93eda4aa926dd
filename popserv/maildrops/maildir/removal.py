"""Removing messages at QUIT (RFC 1725 section 6), while other programs rename and remove them."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextlib import closing

from popserv.errors import TryLater
from popserv.maildrops.maildir.files import MessageFiles
from popserv.maildrops.maildir.quota_file import record_removals
from popserv.maildrops.maildir.trash import Trash
from popserv.maildrops.path_problems import explain_change
from popserv.runtime.threads import RunInThread

RETRY_DELAYS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Seconds to wait, after each attempt, for another program to finish its renames."""


async def remove_files(
    files: MessageFiles, positions: list[int], run: RunInThread, trash: str = ""
) -> tuple[int, Exception | None]:
    """Remove message files; return the number of those that remain, and the first error.

    With ``trash`` they are moved there, see :class:`~popserv.maildrops.maildir.trash.Trash`.
    ``run`` calls a function with arguments where it may wait for the disk.

    If a file is not at its location, a scan searches for it.  The file counts as removed only if a
    scan that no rename can have disturbed does not find it.  If the removals cannot be written to
    disk, all of them count as remaining.

    :raises popserv.errors.TryLater: ``run`` has raised it, and nothing is removed.
    """
    removed: list[tuple[bytes, int]] = []
    maildir_fd = files.folders.maildir_fd
    try:
        # Nearly always all of them.
        if not trash and await files.unlink_at_once(positions, removed, run):
            return 0, None
    except OSError as error:
        return len(positions), explain_change(error, maildir_fd)
    result: tuple[int, Exception | None]
    try:
        result = await run(_remove_others, files, positions, removed, trash)
    except TryLater as error:
        if not removed:
            raise
        # One at least: the removal as a whole has failed.
        result = len(positions) - len(removed) or 1, error
    except OSError as error:
        result = len(positions) - len(removed) or 1, explain_change(error, maildir_fd)
    return result


def _remove_others(
    files: MessageFiles, positions: list[int], removed: list[tuple[bytes, int]], trash: str
) -> tuple[int, Exception | None]:
    """Remove files of which the first ones, or none, were removed; see :func:`remove_files`.

    Waits for the disk: call it in a thread.
    """
    try:
        if trash:
            with closing(Trash(files.folders.maildir_fd, trash)) as folder:
                return _remove(files, positions, removed, folder)
        return _remove(files, positions[len(removed) :], removed, None)
    except OSError as error:
        name = os.fsencode(trash) if trash else None
        return len(positions), explain_change(error, files.folders.maildir_fd, name)


def _remove(
    files: MessageFiles,
    positions: list[int],
    removed: list[tuple[bytes, int]],
    folder: Trash | None,
) -> tuple[int, OSError | None]:
    if folder is None and not removed:
        # In one call, so that this thread need not wait again and again until that of the reactor
        # passes on the interpreter's lock.
        positions, is_done = files.unlink_unchanged(positions, removed)
        if is_done:
            return 0, None
    errors: list[OSError] = []
    scan_error: OSError | None = None
    remove = folder.move if folder else os.unlink
    for delay in RETRY_DELAYS:
        positions = [at for at in positions if not _remove_one(files, at, remove, removed, errors)]
        if not positions:
            break
        time.sleep(delay)
        try:
            is_settled = files.update_locations()
        except OSError as error:
            scan_error = error
            break
        if is_settled:
            positions = [at for at in positions if files.locations[at] is not None]
    if positions and scan_error is None:
        busy = OSError(errno.EBUSY, "messages are never where they were found")
        scan_error = explain_change(busy, files.folders.maildir_fd)
    if folder is None:
        record_removals(files.folders.maildir_fd, removed)
    else:
        # First: without a journal, a message could be gone where it was, and not be here yet.
        folder.sync()
    files.folders.sync()
    return len(errors) + len(positions), [*errors, scan_error][0]


def _remove_one(
    files: MessageFiles,
    position: int,
    remove: Callable[..., None],
    removed: list[tuple[bytes, int]],
    errors: list[OSError],
) -> bool:
    """Remove one file, or add the error; return False if the file is not at its location."""
    try:
        file = files.remove(position, remove)
    except OSError as error:
        errors.append(error)
        return True
    if file is not None:
        removed.append(file)
    return file is not None
