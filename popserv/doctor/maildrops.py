"""The checks of a store, and of the maildrops of all users that can be listed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from itertools import islice
from typing import Any

from popserv.core.findings import Finding, error, hint, some_names, unchecked
from popserv.core.printable import one_line, printable
from popserv.core.user_settings import NO_SETTINGS, ConfiguredUser, UserSettings
from popserv.interfaces import (
    IDiagnosed,
    IDiagnosedStore,
    IMaildropFactory,
    IUserListing,
    IUserNames,
)
from popserv.runtime.threads import RunInThread

BATCH = 20
"""The maildrops that are examined in one call of a thread."""

Users = dict[bytes, UserSettings]
"""The settings of users by their names, which are those of maildrops."""


def users_of_checkers(
    checkers: Iterable[Any], default_domain: bytes, found: list[Finding]
) -> Users:
    """Return the users whom checkers can list; append what is wrong to ``found``."""
    users: Users = {}
    for checker in checkers:
        if not IUserNames.providedBy(checker):
            continue
        try:
            listed = list(checker.users())
        except Exception as problem:
            # What the checker's own check has found.
            found.append(unchecked("users", "users", one_line(str(problem)), "correct this first"))
            continue
        for name, avatar in listed:
            if default_domain and b"@" not in name:
                found.append(
                    error(
                        "default-domain",
                        f"--default-domain {default_domain.decode('utf-8', 'replace')}",
                        f'"{printable(name)}" cannot log in, because the domain is added to names '
                        "without @",
                        "give the user a name with a domain, or remove the option",
                    )
                )
            if isinstance(avatar, ConfiguredUser):
                users[avatar.name] = avatar.settings.of_mailbox()
            else:
                users[avatar] = NO_SETTINGS
    return users


class MaildropCheck:
    """The check of a store; ``examined`` is the number of maildrops.

    ``option`` names the store in findings, and ``users`` are those whom checkers know, which are
    all if it ``knows_all``.  ``run`` calls a function in a thread.  ``report`` is called with the
    user, how many were examined before, and how many there are.
    """

    def __init__(
        self,
        option: str,
        store: IMaildropFactory,
        users: Mapping[bytes, UserSettings],
        run: RunInThread,
        report: Callable[[bytes, int, int], object],
        *,
        knows_all: bool,
    ) -> None:
        self.examined = 0
        self._option = option
        self._store: Any = store
        self._users = users
        self._run = run
        self._report = report
        self._knows_all = knows_all

    async def findings(self) -> AsyncIterator[Finding]:
        """Yield what is wrong with the store, and with each maildrop if it can examine them."""
        if not IDiagnosed.providedBy(self._store):
            what = "this store has no checks of its own"
            yield unchecked("store", self._option, what, "see the documentation of the store")
            return
        for finding in await self._store.diagnose():
            yield finding
        if not IDiagnosedStore.providedBy(self._store):
            return
        users = dict(self._users)
        if IUserListing.providedBy(self._store):
            try:
                listed = await self._store.users()
            except OSError as problem:
                what = f"the users who have mail cannot be listed: {one_line(str(problem))}"
                yield unchecked("users", self._option, what, "run the command as root")
            else:
                strangers = [name for name in listed if name not in users]
                if strangers and self._knows_all:
                    yield _unused(self._option, strangers)
                users.update((name, NO_SETTINGS) for name in listed if name not in users)
        if not users:
            what = "no users can be listed, so that no maildrop was examined"
            yield unchecked("users", self._option, what, "add users, or look at the store")
        todo = iter(sorted(users.items()))
        while batch := list(islice(todo, BATCH)):
            self._report(batch[0][0], self.examined, len(users))
            for finding in await self._run(self._examine, batch):
                yield finding
            self.examined += len(batch)

    def _examine(self, batch: Iterable[tuple[bytes, UserSettings]]) -> list[Finding]:
        return [
            finding
            for user, settings in batch
            for finding in self._store.diagnose_maildrop(user, settings)
        ]


def _unused(option: str, names: list[bytes]) -> Finding:
    shown = some_names(map(printable, names), len(names))
    what = f"nobody can log in to {len(names)} of the maildrops: {shown}"
    return hint("maildrop-unused", option, what, "add the users, or move the maildrops away")
