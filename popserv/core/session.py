"""The session of a client: its state, its mailbox and its maildrop (RFC 1725 sections 3 to 6).

:meth:`Session.login` changes the state from AUTHORIZATION to TRANSACTION, and
:meth:`Session.update` from TRANSACTION to UPDATE; nothing else changes it.
:meth:`Session.end` releases the exclusive-access lock, in whatever state the session ends.
The list of the attributes makes the module long; it is in one place because commands use them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from enum import Enum
from inspect import isawaitable
from typing import Protocol

from twisted.cred.credentials import ICredentials
from zope.interface import Interface

from popserv.core.access_record import AccessRecord
from popserv.core.maildrop import Maildrop
from popserv.core.read_ahead import ReadAhead, ReadAheadLimit
from popserv.core.snapshot import Message
from popserv.errors import BadCommand, RemovalFailed
from popserv.interfaces import ICachedMessages, IMailbox, IReadOnlyMailbox, ISizeCache
from popserv.messages.sizes import MakeDowngrader
from popserv.messages.workarounds import OE_NS_EOH
from popserv.texts import ENGLISH, Text

Release = Callable[[], object]
"""Releases a mailbox and its lock; the result must be awaited if it is awaitable."""


SendChallenge = Callable[[bytes], Awaitable[bytes]]
"""Sends a SASL challenge and returns the client's response, both without their base64.

It raises a POPError if the client cancels the exchange, or sends an invalid response.
"""


client_is_connected: ContextVar[Callable[[], bool]] = ContextVar(
    "client_is_connected", default=lambda: True
)
"""A function that returns whether the client that is logging in is still connected.

A checker reads the variable when it is called.  It may call the function later, in any thread.
"""


class TLSConnectionState(Protocol):
    """The state of a TLS connection, for SASL mechanisms that depend on it."""

    def channel_binding(self, kind: bytes) -> bytes | None:
        """Return the channel binding of a type such as ``tls-exporter``, if it is available."""

    def certificate_names(self) -> Sequence[bytes]:
        """Return the user names in the client's certificate; none if it has sent none."""

    def version(self) -> str:
        """Return the version of TLS, such as ``TLSv1.3``."""


class State(Enum):
    """The three states of a session (RFC 1725 section 3)."""

    AUTHORIZATION = "AUTHORIZATION"
    TRANSACTION = "TRANSACTION"
    UPDATE = "UPDATE"


class Authenticator(Protocol):
    """Authenticates the clients of sessions."""

    async def authenticate(self, credentials: ICredentials) -> tuple[IMailbox, Release]:
        """Return the mailbox that the credentials open, and the function that releases it.

        :raises popserv.errors.POPError: the login fails.
        """

    def supports(self, credentials: type[Interface]) -> bool:
        """Return whether a user can log in with this kind of credentials now."""

    def relayed_mechanisms(self) -> Mapping[bytes, bool]:
        """Return the mechanisms of :meth:`popserv.interfaces.ISASLRelay.mechanisms`, or none."""


async def _reject_challenge(challenge: bytes) -> bytes:
    raise BadCommand("challenges are not supported on this connection")


class Session:
    """The session of one client, from the greeting to the end.

    These attributes describe the connection:

    :ivar host: the host name of the server.
    :ivar timestamp: the timestamp in the greeting, or None if APOP is not available.
    :ivar allows_login: whether the client may log in over this connection.
    :ivar allows_cleartext: whether the client may log in with a cleartext password.
    :ivar can_start_tls: whether STLS is available.
    :ivar tls_state: the state of the TLS connection, or None without TLS.
    :ivar send_challenge: sends a SASL challenge.
    :ivar peer: returns the client's IP address and port, or None if it has none.
    :ivar logged_in: called when the state has become TRANSACTION.
    :ivar read_ahead: limits how many sessions keep a response in ``ahead``.
    :ivar downgrader: makes a filter that downgrades a message, for clients that have not sent
        UTF8 (RFC 6856); None if all messages are sent as stored.
    :ivar workarounds: the names of the client workarounds that are enabled; see
        :mod:`popserv.messages.workarounds`.

    These attributes describe the session:

    :ivar state: the state.
    :ivar language: the language of the replies.
    :ivar as_stored: whether messages are sent as stored: always without ``downgrader``, and
        otherwise from UTF8 on (RFC 6856 section 2).
    :ivar claimed_name: the name from USER.
    :ivar name: the name of the last login or login attempt.
    :ivar method: the command of the last login attempt, or its SASL mechanism.
    :ivar ahead: the response that the client will probably request next, if it is known.
    :ivar prepare: prepares the reply to the command that will probably follow the present one at
        once; it is called while the client processes the present reply, or never.
    :ivar mailbox: the mailbox, since TRANSACTION.
    :ivar maildrop: the session's view of the mailbox, since TRANSACTION.
    :ivar read_cached: the method of the mailbox, or None if it does not provide ICachedMessages.
    :ivar access: the messages accessed, if a command records them.
    :ivar removed_count: the number of messages that UPDATE has removed.
    :ivar retrieved_count: how many times RETR has sent a message whole.
    :ivar retrieved_octets: the octets of those messages.
    """

    # There is one session for each connection, and most connections are idle.
    __slots__ = (
        *("_authenticator", "_capabilities", "_end_callback", "_logged_in", "_release"),
        *("access", "ahead", "allows_cleartext", "allows_login", "as_stored", "can_start_tls"),
        *("claimed_name", "downgrader", "host", "language", "mailbox", "maildrop", "method"),
        *("name", "peer", "prepare", "read_ahead", "read_cached", "removed_count"),
        *("retrieved_count", "retrieved_octets", "send_challenge", "state", "timestamp"),
        *("tls_state", "workarounds"),
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
        downgrader: MakeDowngrader | None = None,
        workarounds: Collection[str] = (),
        tls_state: TLSConnectionState | None = None,
        capabilities: Callable[[Session], Sequence[bytes]] = lambda session: (),
        send_challenge: SendChallenge = _reject_challenge,
        peer: Callable[[], tuple[str, int] | None] = lambda: None,
        logged_in: Callable[[], object] = lambda: None,
        read_ahead: ReadAheadLimit | None = None,
    ) -> None:
        self.host = host
        self.timestamp = timestamp
        self.allows_login = allows_login
        self.allows_cleartext = allows_cleartext and allows_login
        self.can_start_tls = can_start_tls
        self.downgrader = downgrader
        self.as_stored = downgrader is None
        self.workarounds = workarounds
        self.tls_state = tls_state
        self.send_challenge = send_challenge
        self.peer = peer
        self.read_ahead = read_ahead or ReadAheadLimit()
        self.ahead: ReadAhead | None = None
        self.prepare: Callable[[], object] | None = None
        self.read_cached: Callable[[Message, int], bytes | None] | None = None
        self.state = State.AUTHORIZATION
        self.language = ENGLISH
        self.claimed_name: bytes | None = None
        self.name: bytes | None = None
        self.method = ""
        self.removed_count = 0
        self.retrieved_count = 0
        self.retrieved_octets = 0
        self.access: AccessRecord | None = None
        self._authenticator = authenticator
        self._capabilities = capabilities
        self._logged_in = logged_in
        self._end_callback: Callable[[], Awaitable[None]] | None = None
        self._release: Release | None = None

    def supports(self, credentials: type[Interface]) -> bool:
        """Return whether a user can log in with this kind of credentials now."""
        return self._authenticator.supports(credentials)

    def relayed_mechanisms(self) -> Mapping[bytes, bool]:
        """Return the mechanisms that another server offers now, with true for cleartext."""
        return self._authenticator.relayed_mechanisms()

    def capabilities(self) -> Sequence[bytes]:
        """Return the lines of the capability list at this moment (RFC 2449 section 5)."""
        return self._capabilities(self)

    async def login(self, name: bytes, credentials: ICredentials) -> None:
        """Log in, and change the state to TRANSACTION.

        :raises popserv.errors.POPError: the login fails; the state stays AUTHORIZATION.
        """
        self.name = name
        self.claimed_name = None
        self.mailbox, self._release = await self._authenticator.authenticate(credentials)
        self.name = getattr(credentials, "username", name)
        self.maildrop = Maildrop(
            self.mailbox.messages,
            as_stored=self.as_stored,
            adds_blank_lines=OE_NS_EOH in self.workarounds,
            is_read_only=IReadOnlyMailbox.providedBy(self.mailbox),
        )
        if ICachedMessages.providedBy(self.mailbox):
            self.read_cached = self.mailbox.read_cached
        self.state = State.TRANSACTION
        self._logged_in()

    def login_text(self) -> Text:
        """Return the text of the reply to a login: the user's name, and the maildrop's summary."""
        summary = self.maildrop.summary()
        name = printable_name(self.name)
        return (
            Text("%s's maildrop has %s", name, summary)
            if name
            else Text("maildrop has %s", summary)
        )

    def send_as_stored(self) -> None:
        """From now on, send messages and count their octets as stored."""
        if self.as_stored:
            # To count anew would take time for each mark.
            return
        self.as_stored = True
        self.read_ahead.drop(self)
        if self.state is State.TRANSACTION:
            self.maildrop.use_stored_form()

    async def discard_sizes(self) -> None:
        """Discard the sizes that the store has cached: a message did not have its octets."""
        cache = ISizeCache(self.mailbox, None)
        if cache is not None:
            await cache.discard_sizes()

    def record_retrieval(self, message: Message) -> None:
        """Record that RETR has sent a message whole."""
        self.retrieved_count += 1
        self.retrieved_octets += message.octets
        if self.access is not None:
            self.access.record_retrieval(message)

    async def update(self) -> None:
        """Change the state to UPDATE (RFC 1725 section 6).

        The messages with a deletion mark are removed, then the lock is released.

        :raises popserv.errors.RemovalFailed: some of these messages could not be removed.
        """
        self.state = State.UPDATE
        marked = self.maildrop.marked
        try:
            if marked:
                await self.mailbox.remove(marked)
            self.removed_count = len(marked)
        except RemovalFailed as failed:
            self.removed_count = len(marked) - failed.remaining
            raise
        finally:
            await self.end()

    def on_end(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Set the callback that is awaited when the session ends, while the lock is held.

        It is called with or without UPDATE.  There is one callback: a later one replaces it.
        """
        self._end_callback = callback

    async def end(self) -> None:
        """End the session: release the lock, if it is still held."""
        self.read_ahead.drop(self)
        callback, self._end_callback = self._end_callback, None
        release, self._release = self._release, None
        try:
            if callback is not None:
                await callback()
        finally:
            if release is not None:
                await call_release(release)

    def detach(self) -> None:
        """Drop what belongs to the connection, after the end; no command may run any more."""
        del self._authenticator, self._logged_in, self.peer, self.send_challenge


def printable_name(name: bytes | None) -> str:
    """Return a user's name if it can be part of a reply, otherwise an empty string."""
    text = (name or b"").decode("ascii", "replace")
    # RFC 1725 section 3: status lines are printable ASCII, arguments up to 40 characters.
    return text if text.isascii() and text.isprintable() and len(text) <= 40 else ""


async def call_release(release: Release) -> None:
    """Release a mailbox."""
    outcome = release()
    # cred ignores the result of a logout: ours is awaitable, that of other realms is None.
    if isawaitable(outcome):
        await outcome
