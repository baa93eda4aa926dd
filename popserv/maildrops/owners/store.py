"""A store that accesses each maildrop as the user whom it belongs to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, BinaryIO, TypeVar

from zope.interface import alsoProvides, implementer

from popserv.core.findings import Finding, error
from popserv.core.printable import printable
from popserv.core.user_settings import UserSettings
from popserv.interfaces import (
    IConfigurableStore,
    IFinalDelivery,
    IMailbox,
    IMaildropFactory,
)
from popserv.maildrops.layout import Layout
from popserv.maildrops.owners.credentials import Owners
from popserv.maildrops.owners.mailbox import OwnedMailbox
from popserv.maildrops.path_problems import UnusablePath
from popserv.maildrops.wrapping import share_interfaces
from popserv.runtime.file_credentials import FileCredentials, acting_as, obstacle, run_as
from popserv.runtime.threads import BoundedThreadPool, RunInThread

T = TypeVar("T")

_threads = BoundedThreadPool("popserv-owners", threads=4)


def acts_as_owners(store: IMaildropFactory) -> bool:
    """Return whether a store accesses maildrops as their owners in this process."""
    return isinstance(store, OwnersStore) and not obstacle()


@implementer(IMaildropFactory)
class OwnersStore:
    """Another store, whose maildrops are accessed as the users who own their paths.

    ``layout`` has the paths of the maildrops, and ``inside`` are the directories in each of them,
    as for :func:`~popserv.maildrops.owners.paths.owner_of_path`.  What the store does in threads it
    must pass on to pools of :mod:`popserv.runtime.threads`.

    In a process that cannot become other users, it does what the other store does.
    """

    def __init__(
        self,
        store: IMaildropFactory,
        layout: Layout,
        inside: Iterable[bytes] = (),
        *,
        run: RunInThread = _threads.run,
    ) -> None:
        self._store: Any = store
        self._owners = Owners(layout, inside, run)
        share_interfaces(self, store)
        for interface in (IConfigurableStore, IFinalDelivery):
            if interface.providedBy(store):
                alsoProvides(self, interface)

    async def open_maildrop(self, user: bytes) -> IMailbox:
        """See IMaildropFactory."""
        return await self._open(user, b"", partial(self._store.open_maildrop, user))

    async def open_configured(self, user: bytes, settings: UserSettings) -> IMailbox:
        """See IConfigurableStore."""
        open_ = partial(self._store.open_configured, user, settings)
        return await self._open(user, settings.maildrop, open_)

    def diagnose_maildrop(self, user: bytes, settings: UserSettings) -> Iterable[Finding]:
        """See IDiagnosedStore."""
        try:
            credentials = None if obstacle() else self._owners.look_up(user, settings.maildrop)
        except UnusablePath as problem:
            what, _, remedy = str(problem).partition("; ")
            where = f'the maildrop of "{printable(user)}"'
            return [error("maildrop-unusable", where, what, remedy or "remove the links")]
        with acting_as(credentials):
            return list(self._store.diagnose_maildrop(user, settings))

    async def _open(
        self, user: bytes, path: bytes, open_: Callable[[], Awaitable[IMailbox]]
    ) -> IMailbox:
        mailbox, credentials = await self._run_as_owner(user, path, open_)
        return mailbox if credentials is None else IMailbox(OwnedMailbox(mailbox, credentials))

    async def deliver_new(
        self, user: bytes, settings: UserSettings, message: BinaryIO
    ) -> bytes | None:
        """See IFinalDelivery."""
        deliver = partial(self._store.deliver_new, user, settings, message)
        unique_id: bytes | None
        unique_id, _ = await self._run_as_owner(user, settings.maildrop, deliver)
        return unique_id

    async def has_maildrop(self, user: bytes, settings: UserSettings) -> bool:
        """See IFinalDelivery."""
        find = partial(self._store.has_maildrop, user, settings)
        found: bool
        found, _ = await self._run_as_owner(user, settings.maildrop, find)
        return found

    async def _run_as_owner(
        self, user: bytes, path: bytes, function: Callable[[], Awaitable[T]]
    ) -> tuple[T, FileCredentials | None]:
        """Return the result of a function that is run as the owner, and the owner's credentials."""
        credentials = None if obstacle() else await self._owners.find(user, path)
        if credentials is None:
            return await function(), None
        try:
            return await run_as(credentials, function), credentials
        except BaseException:
            # The owner may have changed.
            self._owners.forget(user, path)
            raise
