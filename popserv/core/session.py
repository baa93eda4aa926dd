"""The RFC's state machine, and what each state owns (RFC 1725 sections 3 to 6).

AUTHORIZATION -> TRANSACTION by :meth:`Session.login`, -> UPDATE by
:meth:`Session.update`; nothing else assigns ``state``.  Whatever way a session
ends, :meth:`Session.end` gives the lock back, once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextvars import ContextVar
from enum import Enum
from inspect import isawaitable
from typing import Protocol

from twisted.cred.credentials import ICredentials
from zope.interface import Interface

from popserv.core.access import AccessRecord
from popserv.core.maildrop import Maildrop
from popserv.errors import BadCommand, RemovalFailed
from popserv.interfaces import IMailbox
from popserv.messages.workarounds import OE_NS_EOH
from popserv.texts import ENGLISH, Text

Release = Callable[[], object]
"""Gives up a mailbox and its lock; what it returns may have to be awaited."""


SendChallenge = Callable[[bytes], Awaitable[bytes]]
"""Sends a SASL challenge and returns the client's response, both decoded; raises a POPError
if the client breaks the exchange off, or answers with what is no response."""


client_is_connected: ContextVar[Callable[[], bool]] = ContextVar(
    "client_is_connected", default=lambda: True
)
"""Tells, in any thread, whether the client is still there whose login a checker is asked about;
to be read when it is asked."""


class TLSConnectionState(Protocol):
    """What the TLS under a connection knows, for the mechanisms that build on it."""

    def channel_binding(self, kind: bytes) -> bytes | None:
        """Return the channel binding data of a kind, such as ``tls-exporter``, if to be had."""

    def certificate_names(self) -> Sequence[bytes]:
        """Return the users' names that the client's certificate vouches for, if it sent one."""


class State(Enum):
    """The three states of RFC 1725 section 3."""

    AUTHORIZATION = "AUTHORIZATION"
    TRANSACTION = "TRANSACTION"
    UPDATE = "UPDATE"


class Authenticator(Protocol):
    """Where sessions log in."""

    async def authenticate(self, credentials: ICredentials) -> tuple[IMailbox, Release]:
        """Return the mailbox that the credentials open, and what gives it up.

        :raises popserv.errors.POPError: they open none.
        """

    def supports(self, credentials: type[Interface]) -> bool:
        """Tell whether some user can log in by credentials of this kind now."""


async def _no_ask(challenge: bytes) -> bytes:
    raise BadCommand("challenges are not supported on this connection")


class Session:
    """One client's session, from greeting to end.

    What it needs to know of its connection:
    ``host`` is the server's name; ``timestamp`` the one in the greeting, or None
    where APOP is not offered; ``takes_logins`` tells whether a login may be tried
    over this connection, ``takes_passwords`` whether one with a password in the clear
    may, ``can_start_tls`` whether STLS is possible; ``channel`` is what TLS knows, or
    None without TLS.  ``capabilities`` returns the lines of this session's capability
    list, ``ask`` carries SASL's dialogue, and ``peer`` the client's IP address and port, or
    None where there are none.  ``workarounds`` are those of
    :mod:`popserv.messages.workarounds` that the client may need.

    What it knows of itself: ``claimed_name`` is what USER said, ``name`` the one that
    the last login was tried with; ``as_stored`` tells whether messages are sent as they
    are stored, or internationalized ones downgraded (RFC 6856 section 2); ``language``
    is that of the replies' texts.  Since TRANSACTION there are ``mailbox`` and
    ``maildrop``; where commands keep it, ``access`` is what of that was accessed.
    """

    # One for each client, and many clients are idle.
    __slots__ = (
        *("_authenticator", "_capabilities", "_end_callback", "_release", "access"),
        *("allows_cleartext", "allows_login", "as_stored", "can_start_tls", "claimed_name"),
        *("host", "language", "mailbox", "maildrop", "name", "peer", "removed"),
        *("send_challenge", "state", "timestamp", "tls_state", "workarounds"),
    )

    mailbox: IMailbox
    maildrop: Maildrop

    def __init__(
        self,
        authenticator: Authenticator,
        *,
        host: bytes = b"localhost",
        timestamp: bytes | None = None,
        allows_login: bool = True,
        allows_cleartext: bool = True,
        can_start_tls: bool = False,
        as_stored: bool = True,
        workarounds: Collection[str] = (),
        tls_state: TLSConnectionState | None = None,
        capabilities: Callable[[Session], Sequence[bytes]] = lambda session: (),
        send_challenge: SendChallenge = _no_ask,
        peer: Callable[[], tuple[str, int] | None] = lambda: None,
    ) -> None:
        self.host = host
        self.timestamp = timestamp
        self.allows_login = allows_login
        self.allows_cleartext = allows_cleartext and allows_login
        self.can_start_tls = can_start_tls
        self.as_stored = as_stored
        self.workarounds = workarounds
        self.tls_state = tls_state
        self.send_challenge = send_challenge
        self.peer = peer
        self.state = State.AUTHORIZATION
        self.language = ENGLISH
        self.claimed_name: bytes | None = None
        self.name: bytes | None = None
        self.removed = 0
        self.access: AccessRecord | None = None
        self._authenticator = authenticator
        self._capabilities = capabilities
        self._end_callback: Callable[[], Awaitable[None]] | None = None
        self._release: Release | None = None

    def supports(self, credentials: type[Interface]) -> bool:
        """Tell whether some user can log in by credentials of this kind now."""
        return self._authenticator.supports(credentials)

    def capabilities(self) -> Sequence[bytes]:
        """Return the lines of the capability list, as it is now (RFC 2449 section 5)."""
        return self._capabilities(self)

    async def login(self, name: bytes, credentials: ICredentials) -> None:
        """Enter TRANSACTION with the maildrop that the credentials open.

        :raises popserv.errors.POPError: they open none; the state stays.
        """
        self.name = name
        self.claimed_name = None
        self.mailbox, self._release = await self._authenticator.authenticate(credentials)
        self.name = getattr(credentials, "username", name)
        self.maildrop = Maildrop(
            self.mailbox.messages,
            as_stored=self.as_stored,
            adds_blank_lines=OE_NS_EOH in self.workarounds,
        )
        self.state = State.TRANSACTION

    def welcome(self) -> Text:
        """Return the text that answers a login."""
        contents = self.maildrop.contents()
        name = printable_name(self.name)
        return (
            Text("%s's maildrop has %s", name, contents)
            if name
            else Text("maildrop has %s", contents)
        )

    def send_as_stored(self) -> None:
        """Send messages as they are stored from now on; octets follow."""
        self.as_stored = True
        if self.state is State.TRANSACTION:
            self.maildrop.show_as_stored()

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

    def on_end(self, act: Callable[[], Awaitable[None]]) -> None:
        """Await this at the end, in whatever way that comes, while the lock is still held.

        There is one such act; a later one takes the place of it.
        """
        self._end_callback = act

    async def end(self) -> None:
        """Give up the lock, if there is one still to give up."""
        act, self._end_callback = self._end_callback, None
        release, self._release = self._release, None
        try:
            if act is not None:
                await act()
        finally:
            if release is not None:
                await call_release(release)


def printable_name(name: bytes | None) -> str:
    """Return a user's name as it may stand in a reply, empty if it may not."""
    told = (name or b"").decode("ascii", "replace")
    # RFC 1725 section 3: status lines are printable ASCII, arguments up to 40 characters.
    return told if told.isascii() and told.isprintable() and len(told) <= 40 else ""


async def call_release(release: Release) -> None:
    """Call what gives up a mailbox."""
    outcome = release()
    # cred asks for no result of a logout; ours is awaitable, others' are None.
    if isawaitable(outcome):
        await outcome
