"""Counts the logins and sessions whose events are logged."""

from __future__ import annotations

from time import monotonic

from twisted.internet.interfaces import ITransport
from twisted.python.failure import Failure

from popserv.core.session import Session, State
from popserv.errors import BadCommand, NeedsUTF8, NoSuchMessage, ReadOnlyMaildrop
from popserv.metrics import catalogue
from popserv.metrics.catalogue import one_of, reason_label
from popserv.metrics.counters import Counters
from popserv.metrics.handshakes import handshake_label
from popserv.server.session_events import EndReason, SessionEvents
from popserv.transports.peers import uses_tls


class MeasuredEvents(SessionEvents):
    """Logs the events of one connection, and counts sessions and failures of the store."""

    __slots__ = ("_counters",)

    def __init__(self, transport: ITransport, counters: Counters) -> None:
        super().__init__(transport)
        self._counters = counters

    def log_failed_handshake(self, reason: str) -> None:
        """Log and count that a TLS handshake has failed."""
        super().log_failed_handshake(reason)
        self._counters.add(catalogue.FAILED_HANDSHAKES, (handshake_label(reason),))

    def log_login(self, session: Session) -> None:
        """Log and count that a session has begun."""
        super().log_login(session)
        if session.tls_state is not None:
            tls = one_of(catalogue.TLS_VERSIONS, session.tls_state.version())
        else:
            tls = "proxy" if uses_tls(self._transport) else "none"
        self._counters.add(catalogue.SESSIONS, (tls,))

    def log_end(self, session: Session) -> None:
        """Log and count that a session has ended, if it had begun."""
        super().log_end(session)
        if session.state is State.AUTHORIZATION:
            return
        reason = EndReason.QUIT if session.state is State.UPDATE else self._end_reason
        counters = self._counters
        counters.add(catalogue.ENDED_SESSIONS, (reason_label(reason),))
        counters.add(catalogue.REMOVED_MESSAGES, (), session.removed_count)
        counters.observe(catalogue.SESSION_SECONDS, monotonic() - self.login_time)

    def log_failure(self, session: Session, failure: Failure) -> None:
        """Log why a command failed, and count it if the store did."""
        super().log_failure(session, failure)
        if session.state is State.UPDATE:
            self._count_failure("remove")
        elif session.state is State.TRANSACTION and not failure.check(
            BadCommand, NoSuchMessage, NeedsUTF8, ReadOnlyMaildrop
        ):
            self._count_failure("read")

    def log_failed_body(self, session: Session, failure: Failure) -> None:
        """Log and count that a message was not sent to its end."""
        super().log_failed_body(session, failure)
        self._count_failure("read")

    def log_failed_release(self, failure: Failure) -> None:
        """Log and count that a mailbox could not be released."""
        super().log_failed_release(failure)
        self._count_failure("release")

    def _count_failure(self, operation: str) -> None:
        self._counters.add(catalogue.STORE_ERRORS, (operation,))
