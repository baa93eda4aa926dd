"""The RFC's state machine, and what each state owns (RFC 1725 sections 3 to 6).

AUTHORIZATION -> TRANSACTION by :meth:`Session.login`, -> UPDATE by
:meth:`Session.update`; nothing else assigns ``state``.  Whatever way a session
ends, :meth:`Session.end` gives the lock back, once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import Protocol

from twisted.cred.credentials import ICredentials

from popserv.errors import RemovalFailed
from popserv.interfaces import IMailbox
from popserv.maildrop import Maildrop

Release = Callable[[], Awaitable[None]]
Authenticate = Callable[[ICredentials], Awaitable[tuple[IMailbox, Release]]]
"""From credentials to an open mailbox and what gives it up; raises a POPError."""


Ask = Callable[[bytes], Awaitable[bytes]]
"""Sends a SASL challenge and returns the client's response, both decoded; raises a POPError
if the client breaks the exchange off, or answers with what is no response."""


class Channel(Protocol):
    """What the TLS under a connection knows, for the mechanisms that build on it."""

    def binding(self, kind: bytes) -> bytes | None:
        """Return the channel binding data of a kind, such as ``tls-exporter``; None if not to be had."""

    def certified_names(self) -> Sequence[bytes]:
        """Return the users' names that the client's certificate vouches for, if it sent one."""


class State(Enum):
    """The three states of RFC 1725 section 3."""

    AUTHORIZATION = "AUTHORIZATION"
    TRANSACTION = "TRANSACTION"
    UPDATE = "UPDATE"


class Session:
    """One client's session, from greeting to end.

    ``host`` is the server's name; ``timestamp`` the one in the greeting, or None
    where APOP is not offered; ``takes_passwords`` tells whether a password may be
    sent in the clear over this connection.  ``claimed_name`` is what USER said,
    ``name`` the one that the last login was tried with.  Since TRANSACTION there
    are ``mailbox`` and ``maildrop``.
    """

    mailbox: IMailbox
    maildrop: Maildrop

    def __init__(
        self,
        authenticate: Authenticate,
        *,
        host: bytes = b"localhost",
        timestamp: bytes | None = None,
        takes_passwords: bool = True,
    ) -> None:
        self.host = host
        self.timestamp = timestamp
        self.takes_passwords = takes_passwords
        self.state = State.AUTHORIZATION
        self.claimed_name: bytes | None = None
        self.name: bytes | None = None
        self.removed = 0
        self._authenticate = authenticate
        self._release: Release | None = None

    async def login(self, name: bytes, credentials: ICredentials) -> None:
        """Enter TRANSACTION with the maildrop that the credentials open.

        :raises popserv.errors.POPError: they open none; the state stays.
        """
        self.name = name
        self.mailbox, self._release = await self._authenticate(credentials)
        self.maildrop = Maildrop(self.mailbox.messages)
        self.state = State.TRANSACTION

    async def update(self) -> None:
        """Enter UPDATE: remove what is marked, then give up the lock (RFC 1725 section 6).

        :raises popserv.errors.RemovalFailed: some marked messages remain.
        """
        self.state = State.UPDATE
        marked = self.maildrop.marked
        try:
            if marked:
                await self.mailbox.remove(marked)
            self.removed = len(marked)
        except RemovalFailed as failed:
            self.removed = len(marked) - failed.remaining
            raise
        finally:
            await self.end()

    async def end(self) -> None:
        """Give up the lock, if there is one still to give up."""
        release, self._release = self._release, None
        if release is not None:
            await release()
