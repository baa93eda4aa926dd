"""The file credentials of the owners of maildrops, as they were found a short time ago."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pwd import getpwuid
from typing import NamedTuple

from popserv.maildrops.layout import Layout
from popserv.maildrops.owners.paths import Seen, is_unchanged, owner_of_path
from popserv.maildrops.path_problems import UnusablePath
from popserv.maildrops.refusals import refusal
from popserv.runtime.file_credentials import NOBODY, FileCredentials, own
from popserv.runtime.threads import RunInThread

MAX_AGE = 60.0
"""Seconds for which the credentials of a maildrop's owner are used again."""

_MAX_KNOWN = 10_000
"""The maximum number of maildrops whose owners are remembered."""

_Maildrop = tuple[bytes, bytes]


class _Known(NamedTuple):
    """Credentials that were found, until when they count, and what they depend on."""

    credentials: FileCredentials | None
    until: float
    seen: list[Seen]


class Owners:
    """Finds the credentials of the owners of maildrops.

    ``inside`` are the directories of a maildrop, as for
    :func:`~popserv.maildrops.owners.paths.owner_of_path`.
    """

    def __init__(
        self,
        layout: Layout,
        inside: Iterable[bytes],
        run: RunInThread,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._layout = layout
        self._inside = tuple(inside)
        self._run = run
        self._clock = clock
        self._known: dict[_Maildrop, _Known] = {}

    async def find(self, user: bytes, path: bytes) -> FileCredentials | None:
        """Return the credentials for a user's maildrop, or None for those of the process.

        ``path`` is that of the maildrop, or empty for the path by the template.  Whoever has owned
        a maildrop within ``MAX_AGE`` is not looked up again; they reach what they may reach.  If it
        was the process, each login looks whether that has changed, because others could own it
        meanwhile.

        :raises popserv.errors.POPError: the maildrop must not be opened.
        """
        known = self._known.get((user, path))
        found: FileCredentials | None = None
        if known is None or known.until <= self._clock():
            found, seen = await self._run(self._find, user, path)
        elif known.credentials is not None:
            return known.credentials
        # What was looked at a short time ago is in the kernel's cache.
        elif is_unchanged(known.seen):
            seen = known.seen
        else:
            found, seen = self._find(user, path)
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        # Others need not be looked at again, and a process may know many.
        seen = [] if found else seen
        if found != NOBODY:
            # What is missing may come to exist, and belong to somebody.
            self._known[user, path] = _Known(found, self._clock() + MAX_AGE, seen)
        return found

    def forget(self, user: bytes, path: bytes) -> None:
        """Look up the owner of a maildrop at its next login."""
        self._known.pop((user, path), None)

    def look_up(self, user: bytes, path: bytes) -> FileCredentials | None:
        """Return the same as :meth:`find`, and remember nothing; it waits for the disk.

        :raises UnusablePath: the maildrop must not be opened.
        """
        return self._examine(user, path, [])

    def _find(self, user: bytes, path: bytes) -> tuple[FileCredentials | None, list[Seen]]:
        seen: list[Seen] = []
        try:
            return self._examine(user, path, seen), seen
        except UnusablePath as error:
            raise refusal(error) from error

    def _examine(self, user: bytes, path: bytes, seen: list[Seen]) -> FileCredentials | None:
        layout = self._layout.at(path) if path else self._layout
        try:
            uid = owner_of_path(*layout.below_trusted(user), self._inside, seen)
        except UnusablePath:
            if own().uid == 0:
                raise
            return None
        except ValueError:
            # There is no such path, and the store says why.
            return NOBODY
        return None if uid in (0, own().uid) else credentials_of(uid)


def credentials_of(uid: int) -> FileCredentials:
    """Return the credentials of a user with a uid; one without an entry is in no group.

    A directory may have given its group to a maildrop, so that group is not the owner's.
    """
    try:
        entry = getpwuid(uid)
    except KeyError:
        return FileCredentials(uid, NOBODY.gid)
    groups = set(os.getgrouplist(entry.pw_name, entry.pw_gid)) - {entry.pw_gid}
    return FileCredentials(uid, entry.pw_gid, tuple(sorted(groups)))
