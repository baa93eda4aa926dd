"""The log lines about the logins and the session of a connection.

Each line begins with the client's address, and names are in quotation marks and escaped, so that no
name can look like another field, or like another line: programs such as fail2ban read these lines.
``docs/reference/log-messages.rst`` describes them, and ``docs/reference/log-fields.rst`` the fields
of their events, whose names :data:`popserv.logs.records.FIELDS` repeats.
"""

from __future__ import annotations

from enum import Enum
from time import monotonic

from twisted.internet.interfaces import ITransport
from twisted.python.failure import Failure

from popserv.auth.credentials import ExchangeAborted
from popserv.core.printable import one_line, printable
from popserv.core.session import Session, State
from popserv.errors import LoginFailed, LoginTooSoon, MaildropBusy, MessageChanged, POPError
from popserv.logs.rendered import RenderedLogger
from popserv.transports.peers import peer_name, uses_tls

_MAX_CAUSE = 1000
"""The maximum characters of the cause of a failure."""


# Administrators name it in the filters of other programs.
_log = RenderedLogger("popserv.session")


class EndReason(Enum):
    """Why a session has ended, as the log says it."""

    QUIT = "QUIT"
    CLOSED = "closed by the client"
    LOST = "lost"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    ADMINISTRATOR = "by the administrator"
    REPLACED = "replaced by a new login"
    BAD_COMMANDS = "bad commands"
    ERROR = "error"


class SessionEvents:
    """Logs the events of one connection.

    :ivar login_time: when the session has begun, by ``time.monotonic``; 0 before.
    """

    MAX_FAILURES = 100
    """The maximum number of refused commands that are logged, besides failed logins."""

    __slots__ = ("_end_reason", "_failures", "_peer_name", "_tls", "_transport", "login_time")

    def __init__(self, transport: ITransport) -> None:
        self._transport = transport
        self._peer_name: str | None = None
        self._end_reason = EndReason.LOST
        self.login_time = 0.0
        self._tls = ""
        self._failures = 0

    @property
    def peer(self) -> str:
        """The client's address and port, of which most connections need none."""
        if self._peer_name is None:
            self._peer_name = peer_name(self._transport)
        return self._peer_name

    def note_end(self, reason: EndReason) -> None:
        """Note why the connection will end; the first reason counts."""
        if self._end_reason is EndReason.LOST:
            self._end_reason = reason

    def log_failed_handshake(self, reason: str) -> None:
        """Log that a TLS handshake has failed."""
        _log.info(
            "{peer}: TLS handshake failed: {reason}",
            peer=self.peer,
            reason=reason,
            event="handshake-failed",
        )

    def log_login(self, session: Session) -> None:
        """Log that a session has begun."""
        self.login_time = monotonic()
        if session.tls_state is not None:
            self._tls = session.tls_state.version()
        else:
            self._tls = "TLS at the proxy" if uses_tls(self._transport) else "no TLS"
        _log.info(
            '{peer}: "{user}" logged in by {method}, {tls}',
            peer=self.peer,
            user=printable(session.name or b""),
            method=session.method,
            tls=self._tls,
            event="login",
        )

    def log_end(self, session: Session) -> None:
        """Log that a session has ended, if it had begun."""
        if session.state is State.AUTHORIZATION:
            return
        reason = EndReason.QUIT if session.state is State.UPDATE else self._end_reason
        _log.info(
            '{peer}: session of "{user}" ended, {reason}: {seconds:.1f} s, '
            "{retrieved} retrieved ({octets} octets), {removed} removed, {left} left",
            peer=self.peer,
            user=printable(session.name or b""),
            reason=reason.value,
            seconds=round(monotonic() - self.login_time, 3),
            retrieved=session.retrieved_count,
            octets=session.retrieved_octets,
            removed=session.removed_count,
            left=len(session.mailbox.messages) - session.removed_count,
            event="session",
            method=session.method,
            tls=self._tls,
        )

    def log_failure(self, session: Session, failure: Failure) -> None:
        """Log what the reply to a failed command does not tell the client."""
        error, peer = failure.value, self.peer
        if isinstance(error, LoginFailed) and not isinstance(error.__cause__, ExchangeAborted):
            log_failed_login(peer, session.name, session.method, error.__cause__)
            return
        self._failures += 1
        if self._failures > self.MAX_FAILURES:
            return
        if not isinstance(error, POPError):
            _log.failure("{peer}: unexpected error in a command", failure, peer=peer, event="error")
        elif isinstance(error, LoginFailed):
            _log.info(
                '{peer}: login of "{user}" by {method} aborted: {cause}',
                peer=peer,
                user=printable(session.name or b""),
                method=session.method,
                cause=_text_of(error.__cause__),
                event="login-aborted",
            )
        elif isinstance(error, MaildropBusy | LoginTooSoon) and error.__cause__ is None:
            _log.info(
                '{peer}: login of "{user}" by {method} refused: {text}',
                peer=peer,
                user=printable(session.name or b""),
                method=session.method,
                text=one_line(str(error.text)),
                event="login-refused",
            )
        elif error.__cause__ is not None:
            _log.warn(
                '{peer}: "{user}" was refused with "{text}": {cause}',
                peer=peer,
                user=printable(session.name or b""),
                text=one_line(str(error.text)),
                cause=_text_of(error.__cause__),
                event="command-rejected",
            )

    def log_failed_body(self, session: Session, failure: Failure) -> None:
        """Log why a body was not sent to its end."""
        error, peer = failure.value, self.peer
        if isinstance(error, MessageChanged):
            _log.warn(
                '{peer}: a message of "{user}" has changed, connection aborted: {cause}',
                peer=peer,
                user=printable(session.name or b""),
                cause=_text_of(error.__cause__),
                event="message-changed",
            )
        else:
            _log.failure(
                "{peer}: reading a message failed, connection aborted",
                failure,
                peer=peer,
                event="error",
            )

    def log_failed_discard(self, failure: Failure) -> None:
        """Log that wrong sizes could not be discarded."""
        _log.failure(
            "{peer}: cannot discard the sizes of messages",
            failure,
            peer=self.peer,
            event="error",
        )

    def log_failed_release(self, failure: Failure) -> None:
        """Log that a mailbox could not be released."""
        _log.failure("{peer}: cannot release a maildrop", failure, peer=self.peer, event="error")


def log_failed_login(
    peer: str, user: bytes | None, method: str, cause: BaseException | None
) -> None:
    """Log that a client could not prove who it is: the line that programs such as fail2ban count.

    ``user`` is the name that the client has sent, and ``cause`` says what was wrong.
    """
    _log.warn(
        '{peer}: login of "{user}" by {method} failed: {cause}',
        peer=peer,
        user=printable(user or b""),
        method=method,
        cause=_text_of(cause),
        event="login-failed",
    )


def _text_of(cause: BaseException | None) -> str:
    return one_line("rejected" if cause is None else str(cause)[:_MAX_CAUSE])
