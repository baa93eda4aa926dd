"""Connections that count what happens on them; only servers with ``--metrics`` have them."""

from __future__ import annotations

from time import perf_counter

from twisted.cred.credentials import ICredentials
from twisted.internet.interfaces import ITransport

from popserv.auth.credentials import ExchangeAborted
from popserv.core.session import Release, State
from popserv.errors import (
    BadCommand,
    LoginFailed,
    LoginTooSoon,
    MaildropBusy,
    MaildropUnavailable,
    NoUser,
    POPError,
)
from popserv.interfaces import IMailbox
from popserv.metrics import catalogue
from popserv.metrics.catalogue import one_of
from popserv.metrics.counters import Counters
from popserv.metrics.events import MeasuredEvents
from popserv.server.protocol import POP3Server
from popserv.server.reply_writer import ReplyWriter

_OTHER_COMMANDS = {"", *catalogue.COMMAND_NAMES} - set(catalogue.METHODS)
"""What the method of a session is in the AUTHORIZATION state when nobody logs in."""


class MeasuredServer(POP3Server):
    """A POP3 connection that counts logins, refusals and octets.

    :ivar counters: the counters of the process; a subclass sets them.
    """

    counters: Counters

    def make_events(self, transport: ITransport) -> MeasuredEvents:
        """Return what logs and counts the events of the connection."""
        return MeasuredEvents(transport, self.counters)

    def make_writer(self) -> ReplyWriter:
        """Return the writer of the connection's output."""
        return MeasuredWriter(self.transport, self.counters)

    async def authenticate(self, credentials: ICredentials) -> tuple[IMailbox, Release]:
        """Log in; see Authenticator."""
        started = perf_counter()
        opened = await super().authenticate(credentials)
        self.counters.observe(catalogue.LOGIN_SECONDS, perf_counter() - started)
        self._count_login("success")
        return opened

    def write_error(self, error: POPError) -> None:
        """Write ``-ERR``, and count the refusal."""
        code = "none" if error.code is None else error.code.decode("ascii", "replace")
        self.counters.add(catalogue.REFUSALS, (one_of(catalogue.CODES, code),))
        # Without a pending command, the server ends the connection.
        if self.command_pending and self.session.state is State.AUTHORIZATION:
            outcome = self._outcome_of(error)
            if outcome and self.session.method not in _OTHER_COMMANDS:
                self._count_login(outcome)
        super().write_error(error)

    def _count_login(self, outcome: str) -> None:
        # Another server may have mechanisms of its own.
        method = one_of(catalogue.METHODS, self.session.method)
        self.counters.add(catalogue.LOGINS, (method, outcome))

    def _outcome_of(self, error: POPError) -> str | None:
        """Return the outcome of a login that has failed; None if it was none."""
        if isinstance(error, BadCommand):
            return None
        if isinstance(error, LoginFailed | NoUser):
            return "aborted" if isinstance(error.__cause__, ExchangeAborted) else "failed"
        if self.is_disconnected:
            return "aborted"
        for kind, outcome in _OUTCOMES.items():
            if isinstance(error, kind):
                return outcome
        return "error"


_OUTCOMES: dict[type[POPError], str] = {
    MaildropBusy: "in-use",
    LoginTooSoon: "too-soon",
    MaildropUnavailable: "unavailable",
}


class MeasuredWriter(ReplyWriter):
    """A writer that counts the octets that it writes."""

    __slots__ = ("_sent",)

    def __init__(self, transport: object, counters: Counters) -> None:
        super().__init__(transport)
        self._sent = counters.values(catalogue.SENT_BYTES)

    def write(self, octets: bytes) -> None:
        """Write, and count; see ReplyWriter."""
        self._sent[()] += len(octets)
        super().write(octets)
