"""The single session of a ``popserv session`` process, from the greeting to the exit code."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ReactorNotRunning
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from popserv.auth.realm import MaildropRealm
from popserv.core.replies import After, Reply
from popserv.core.session import State
from popserv.maildrops.stopping import stop_with_reactor
from popserv.options.session import SessionOptions
from popserv.server.factory import POP3Factory
from popserv.server.preauth import Identify, PreauthenticatedServer
from popserv.server.protocol import POP3Server
from popserv.server.session_events import EndReason
from popserv.transports.output import unsent_octets
from popserv.transports.stdio import StandardStreams
from popserv.wiring.factories import make_factory, make_preauthenticated_factory, start_polling

_log = Logger()

_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
"""The signals that end a session without UPDATE."""


class SingleSession:
    """Runs the reactor for one session on the standard streams."""

    def __init__(self, options: SessionOptions, streams: StandardStreams, reactor: Any) -> None:
        self._streams = streams
        self._reactor = reactor
        self._server: POP3Server | None = None
        self._exit_code = 1
        self._options = options
        self._factory = self._make_factory(options)

    def run(self) -> int:
        """Serve until the session or a signal ends it; return the exit code of the process."""
        # A signal that was ignored before, as by nohup, stays ignored.
        handled = [each for each in _SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
        previous = {number: signal.signal(number, self._handle_signal) for number in handled}
        self._reactor.callWhenRunning(self._start)
        # A signal just before the reactor waits, or in another thread, must wake it.
        waker = signal.set_wakeup_fd(self._reactor.waker.o, warn_on_full_buffer=False)
        try:
            # Twisted's signal handlers do not include SIGHUP.
            self._reactor.run(installSignalHandlers=False)
        finally:
            signal.set_wakeup_fd(waker)
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self._exit_code

    def _make_factory(self, options: SessionOptions) -> POP3Factory:
        stop_with_reactor(options.store, self._reactor)
        realm = MaildropRealm(options.store)
        if options["login"]:
            factory = make_factory(options, realm)
            factory.protocol = partial(self._make_server, _ReportingServer)
        else:
            factory = make_preauthenticated_factory(options, realm, _identify_as(options["user"]))
            factory.protocol = partial(self._make_server, _PreauthenticatedReportingServer)
        return factory

    def _make_server(self, server_class: type[_ReportingServer]) -> POP3Server:
        self._server = server_class(self._session_ended)
        # A slow client delays no other client.
        self._server.CLOSE_TIMEOUT = self._factory.idle_timeout
        return self._server

    def _start(self) -> None:
        start_polling(self._options)
        try:
            self._streams.connect(self._factory, self._reactor)
        except OSError as error:
            _log.warn("cannot start the session: {error}", error=error)
            self._stop()

    def _session_ended(self, succeeded: bool) -> None:
        self._exit_code = 0 if succeeded else 1
        self._stop()

    def _stop(self) -> None:
        self._streams.restore()
        with suppress(ReactorNotRunning):
            self._reactor.stop()

    def _handle_signal(self, number: int, frame: object) -> None:
        # A second signal ends the process even if a disk does not respond.
        signal.signal(number, signal.SIG_DFL)
        self._reactor.callFromThread(self._abort)

    def _abort(self) -> None:
        if self._server is not None:
            self._server.abort(EndReason.SHUTDOWN)


def _identify_as(name: bytes) -> Identify:
    async def identify(transport: ITransport) -> bytes:
        return name

    return identify


class _ReportingServer(POP3Server):
    """A POP3Server that reports the end of its session.

    ``on_end`` is called when the session has ended, with True if it succeeded: QUIT was
    answered ``+OK`` and the reply was sent, or the client closed the connection in order.
    """

    _quit_replied = _closed_by_server = _closed_by_client = False

    def __init__(self, on_end: Callable[[bool], None]) -> None:
        self._on_end = on_end

    def send_reply(self, reply: Reply) -> None:
        self._quit_replied = reply.after is After.CLOSE and not self.is_disconnected
        super().send_reply(reply)

    def close(self) -> None:
        self._closed_by_server = True
        super().close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reason.check(ConnectionAborted) or unsent_octets(self.transport):
            self._quit_replied = False
        by_client = self.input_is_over or not self._closed_by_server
        self._closed_by_client = by_client and reason.check(ConnectionDone) is not None
        super().connectionLost(reason)

    def _succeeded(self) -> bool:
        return self._quit_replied or self._closed_by_client

    def session_ended(self) -> None:
        self._on_end(self._succeeded())


class _PreauthenticatedReportingServer(_ReportingServer, PreauthenticatedServer):
    """A session that logs in its user before the greeting, and fails if it cannot."""

    def _succeeded(self) -> bool:
        return super()._succeeded() and self.session.state is not State.AUTHORIZATION
