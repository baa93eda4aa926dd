"""The mail that ``popserv copy`` copies: a store by name, or a POP3 server."""

from __future__ import annotations

import argparse
from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from popserv.commandline.server_options import read_passwords, security_of
from popserv.interfaces import IMaildropFactory, IUserListing
from popserv.maildrops.kinds import make_store
from popserv.maildrops.settings import StoreSettings
from popserv.maildrops.stopping import stop_with_reactor
from popserv.messages.details import NO_DETAILS
from popserv.migration.copying import Source, StoreSource, read_details
from popserv.migration.pop3_urls import Security, ServerAddress, is_url
from popserv.migration.remote_side import logged_in
from popserv.migration.remote_source import RemoteSource
from popserv.runtime.threads import RunInThread


class Origin(Protocol):
    """The mail of all users.

    ``restrictions`` are what it does not tell of messages, each in a line.
    """

    restrictions: Sequence[str]

    @abstractmethod
    async def users(self) -> Sequence[bytes] | None:
        """Return the users who have mail, or None if they cannot be listed.

        :raises OSError: the list cannot be read.
        """

    @abstractmethod
    def opened(self, user: bytes) -> AbstractAsyncContextManager[Source]:
        """Open the messages of a user, who is one of :meth:`users` if they can be listed.

        :raises OSError: they cannot be opened.
        :raises POPError: likewise.
        """


def make_origin(options: argparse.Namespace, run: RunInThread) -> Origin:
    """Return what ``SRC`` names.

    :raises ValueError: an option is invalid, or a file cannot be read.
    """
    if is_url(options.source):
        if options.uidl != "filename":
            raise ValueError("--uidl is for Maildirs; a POP3 server tells its unique-ids itself")
        address = ServerAddress.from_url(options.source)
        if not options.users:
            raise ValueError(f"{options.source} requires --users FILE, lines NAME:PASSWORD")
        passwords = read_passwords(options.users)
        return ServerOrigin(address, security_of(options), passwords, run)
    if options.users or options.ca_file or options.insecure:
        raise ValueError(
            "--users, --ca-file and --insecure require pop3s://HOST or pop3://HOST as SRC"
        )
    settings = StoreSettings(cache_messages=0, uidl=options.uidl)
    try:
        store = make_store(options.source, settings)
    except ValueError as error:
        # The argument may contain a password.
        raise ValueError(f"{options.source.partition(':')[0]}: {error}") from error
    stop_with_reactor(store)
    return StoreOrigin(store, run)


class StoreOrigin(Origin):
    """A store."""

    restrictions = ()

    def __init__(self, store: IMaildropFactory, run: RunInThread) -> None:
        self._store: Any = store
        self._run = run

    async def users(self) -> Sequence[bytes] | None:
        """See Origin."""
        if not IUserListing.providedBy(self._store):
            return None
        users: Sequence[bytes] = await self._store.users()
        return users

    @asynccontextmanager
    async def opened(self, user: bytes) -> AsyncIterator[Source]:
        """See Origin."""
        mailbox = await self._store.open_maildrop(user)
        try:
            details = await read_details(mailbox, self._run)
            if details is None:
                details = [NO_DETAILS] * len(mailbox.messages)
            yield StoreSource(mailbox, details)
        finally:
            await mailbox.release()


class ServerOrigin(Origin):
    """A POP3 server, with the passwords of its users."""

    restrictions = (
        "POP3 does not tell the flags of messages, which will be unread, nor when they were "
        "delivered, for which the first Received field or Date is taken; a store keeps both",
    )

    def __init__(
        self,
        address: ServerAddress,
        security: Security,
        passwords: dict[bytes, bytes],
        run: RunInThread,
    ) -> None:
        self._address = address
        self._security = security
        self._passwords = passwords
        self._run = run

    async def users(self) -> Sequence[bytes]:
        """See Origin."""
        return list(self._passwords)

    @asynccontextmanager
    async def opened(self, user: bytes) -> AsyncIterator[Source]:
        """See Origin."""
        session = logged_in(self._address, self._security, user, self._passwords[user])
        source = RemoteSource(await self._run(session.__enter__), self._run)
        try:
            yield source
        finally:
            source.close()
            await self._run(session.__exit__, None, None, None)
