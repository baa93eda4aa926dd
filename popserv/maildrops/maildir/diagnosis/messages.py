"""The message files of a Maildir: which cannot be read or sent, and which have odd names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from popserv.core.findings import MAX_NAMES, Finding, error, hint, some_names, warning
from popserv.core.printable import printable
from popserv.maildrops.maildir.contents.compressed import START, compression_of
from popserv.maildrops.maildir.files import NOT_A_FILE
from popserv.maildrops.maildir.listing.base_names import delivery_order, unique_ids
from popserv.maildrops.page_cache import OPEN_FLAGS
from popserv.runtime.closing import close

FUTURE = 86_400
"""Seconds by which the time of a message may be ahead of the clock."""


class Messages:
    """What is wrong with messages: how many there are of each kind, and the first names."""

    def __init__(self, now: float) -> None:
        self._future = now + FUTURE
        self._found: dict[str, tuple[int, list[bytes]]] = {}
        self._reasons: dict[str, str] = {}

    def note(self, code: str, base_name: bytes, reason: str = "") -> None:
        """Count a message; ``reason`` is told once."""
        count, names = self._found.setdefault(code, (0, []))
        if count < MAX_NAMES:
            names.append(base_name)
        self._found[code] = count + 1, names
        self._reasons.setdefault(code, reason)

    def examine(self, base_name: bytes, name: bytes, folder: int) -> None:
        """Examine a file in an open folder."""
        delivered = delivery_order(base_name)[0]
        if not delivered:
            self.note("message-undated", base_name)
        if unique_ids((base_name,)) != (base_name,):
            self.note("message-name", base_name)
        try:
            fd = os.open(name, OPEN_FLAGS, dir_fd=folder)
        except OSError as problem:
            if problem.errno not in NOT_A_FILE:
                self.note("message-unreadable", base_name, str(problem.strerror))
            return
        try:
            start = os.read(fd, START)
            if max(delivered, os.fstat(fd).st_mtime) > self._future:
                self.note("message-future", base_name)
        except OSError as problem:
            self.note("message-unreadable", base_name, str(problem.strerror))
            return
        finally:
            close(fd)
        if not start:
            self.note("message-empty", base_name)
        compression = compression_of(start)
        if compression is not None and compression.make is None:
            self.note("message-compressed", base_name, compression.reason)

    def findings(self, path: str) -> Iterator[Finding]:
        """Yield a finding for each kind."""
        for code, (count, names) in self._found.items():
            make, what, remedy = MESSAGE_KINDS[code]
            reason = self._reasons[code]
            shown = some_names(map(printable, names), count)
            what = f"messages: {count}, {what}{f' ({reason})' if reason else ''}: {shown}"
            yield make(code, path, what, remedy)


_Make = Callable[[str, str, str, str], Finding]

MESSAGE_KINDS: dict[str, tuple[_Make, str, str]] = {
    "message-unreadable": (
        error,
        "which are not shown, because they cannot be read",
        "correct their owner or their mode",
    ),
    "message-compressed": (
        error,
        "which are compressed and cannot be sent",
        "install what is missing, or decompress them",
    ),
    "message-empty": (
        warning,
        "whose files are empty, perhaps because the disk was full",
        "restore them from a backup, or remove them",
    ),
    "message-future": (
        warning,
        "whose times are in the future, so that they stay the last ones",
        "correct the clock of the machine that delivers, and then the names and times of the files",
    ),
    "message-duplicate": (
        warning,
        "whose base names several files have; the next login renames all files but one",
        "find the program that copies messages, such as the restore of a backup",
    ),
    "message-name": (
        hint,
        "whose names are not valid unique-ids, and are replaced by digests",
        "none is needed",
    ),
    "message-undated": (
        hint,
        "whose names have no time, so that they are the first ones, in the order of their names",
        "none is needed, if the order does not matter",
    ),
}
