"""The one session of a ``popserv session`` process."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ReactorNotRunning
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from popserv.auth.realm import MaildropRealm
from popserv.commandline.factories import make_factory, make_preauthenticated
from popserv.commandline.session_options import SessionOptions
from popserv.core.replies import After, Reply
from popserv.core.session import State
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.server.factory import POP3Factory
from popserv.server.preauth import Identify, PreauthenticatedServer
from popserv.server.protocol import POP3Server
from popserv.transports.output import unsent_octets
from popserv.transports.stdio import StandardStreams

_log = Logger()

_END = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class OneSession:
    """The one session of this process."""

    def __init__(self, options: SessionOptions, standard: StandardStreams, reactor: Any) -> None:
        self._standard = standard
        self._reactor = reactor
        self._server: POP3Server | None = None
        self._code = 1
        self._factory = self._make_factory(options)

    def run(self) -> int:
        """Have the session, until it is over or a signal ends it; return the exit code."""
        # What was ignored before, as by nohup, still is.
        heeded = [each for each in _END if signal.getsignal(each) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._ended) for number in heeded}
        self._reactor.callWhenRunning(self._begin)
        try:
            # Twisted's handlers know no SIGHUP.
            self._reactor.run(installSignalHandlers=False)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return self._code

    def _make_factory(self, options: SessionOptions) -> POP3Factory:
        realm = MaildropRealm(MaildirMaildrops(options["maildir"]))
        if options["login"]:
            factory = make_factory(options, realm)
            factory.protocol = partial(self._make_server, _WatchedSession)
        else:
            factory = make_preauthenticated(options, realm, _identify_as(options["user"]))
            factory.protocol = partial(self._make_server, _KnownSession)
        return factory

    def _make_server(self, kind: type[_WatchedSession]) -> POP3Server:
        self._server = kind(self._over)
        # No other client needs what a slow one keeps.
        self._server.CLOSE_TIMEOUT = self._factory.idle_timeout
        return self._server

    def _begin(self) -> None:
        try:
            self._standard.connect(self._factory, self._reactor)
        except OSError as error:
            _log.warn("cannot start the session: {error}", error=error)
            self._stop()

    def _over(self, went_well: bool) -> None:
        self._code = 0 if went_well else 1
        self._stop()

    def _stop(self) -> None:
        self._standard.restore()
        with suppress(ReactorNotRunning):
            self._reactor.stop()

    def _ended(self, number: int, frame: object) -> None:
        # A second one need not wait for a disk that does not answer.
        signal.signal(number, signal.SIG_DFL)
        self._reactor.callFromThread(self._abort)

    def _abort(self) -> None:
        if self._server is not None:
            self._server.transport.abortConnection()


def _identify_as(name: bytes) -> Identify:
    async def identify(transport: ITransport) -> bytes:
        return name

    return identify


class _WatchedSession(POP3Server):
    """Says when it is over, all of it, and whether it went well."""

    _said_goodbye = _closed = _closed_in_order = False

    def __init__(self, over: Callable[[bool], None]) -> None:
        self._over = over

    def send_reply(self, reply: Reply) -> None:
        self._said_goodbye = reply.after is After.CLOSE and not self.is_disconnected
        super().send_reply(reply)

    def close(self) -> None:
        self._closed = True
        super().close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reason.check(ConnectionAborted) or unsent_octets(self.transport):
            self._said_goodbye = False
        by_client = self.input_is_over or not self._closed
        self._closed_in_order = by_client and reason.check(ConnectionDone) is not None
        super().connectionLost(reason)

    def _went_well(self) -> bool:
        return self._said_goodbye or self._closed_in_order

    def end_session(self) -> Deferred[None]:
        ended = super().end_session()
        return ended.addCallback(lambda _: self._over(self._went_well()))


class _KnownSession(_WatchedSession, PreauthenticatedServer):
    """A session that begins in TRANSACTION, or not at all."""

    def _went_well(self) -> bool:
        return super()._went_well() and self.session.state is not State.AUTHORIZATION
