"""``popserv session``: one session on standard input and output.

Its exit code is

* 0 if the client has said QUIT and was told that all is done, or has closed in order;
* 1 if the session could not begin, or ended in another way;
* 2 if the command line is wrong.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any, ClassVar

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ReactorNotRunning
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure

from popserv.auth.names import prepared_name
from popserv.auth.realm import MaildropRealm
from popserv.commandline import session_log
from popserv.commandline.factories import make_factory, make_preauthenticated, warn_of_timeout
from popserv.commandline.session_options import SessionOptions
from popserv.core.replies import After, Reply
from popserv.core.session import State
from popserv.maildrops.maildir.layout import Layout
from popserv.maildrops.maildir.store import MaildirMaildrops
from popserv.server.factory import POP3Factory
from popserv.server.preauth import Identify, PreauthenticatedServer
from popserv.server.protocol import POP3Server
from popserv.transports.output import unsent_octets
from popserv.transports.stdio import (
    NoClientError,
    StandardStreams,
    check_open,
    family_of,
    is_client_stream,
)

_log = Logger()

_REACTOR = "select" if sys.platform == "darwin" else "poll"
"""Which of Twisted's: epoll takes no files, and kqueue no terminals."""

_END = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

_EXAMPLES = """
Examples:
  popserv session --user ann --maildir /home/%u/Maildir
  popserv session --login --maildir /var/mail --certificate /etc/popserv/cert.pem

Exit codes: 0 after QUIT or when the client has closed, 1 if the session could not begin or
was cut off, 2 for a wrong command line.
"""


class Options(SessionOptions):
    """The command line of ``popserv session``."""

    synopsis = "Usage: popserv session {--user NAME | --login} --maildir ROOT [options]"
    longdesc = (
        "Speak POP3 on standard input and output, for one session: as a command of ssh, as a "
        "login shell, on a terminal line, under inetd."
    )

    optParameters: ClassVar[list[list[str | None]]] = [
        [
            "user",
            "u",
            None,
            "Whose session it is: who the client is was found out by others, and it begins "
            "without a login.",
        ],
    ]
    optFlags: ClassVar[list[list[str | None]]] = [
        ["login", None, "Have the client log in, as on a port of the server."],
        [
            "syslog",
            None,
            "Log to syslog; without this, warnings and errors go to standard error, if that is "
            "not the client's.",
        ],
    ]

    def parseArgs(self) -> None:
        """Take no arguments."""

    def allows_login(self) -> bool:
        """Tell whether the client logs in."""
        return bool(self["login"])

    def postOptions(self) -> None:
        """Check everything that can be checked before the session begins."""
        if bool(self["login"]) == (self["user"] is not None):
            raise usage.UsageError(
                "give one of --user NAME, whose session begins at once, and --login"
            )
        super().postOptions()
        if self["user"] is not None:
            self["user"] = prepared_name(os.fsencode(self["user"]))
            try:
                Layout(self["maildir"]).path_parts(self["user"])
            except ValueError as error:
                raise usage.UsageError(f"--user: {error}") from error

    def getUsage(self, width: int | None = None) -> str:
        """Return the help text, with examples at its end."""
        return super().getUsage(width) + _EXAMPLES


def main(arguments: Sequence[str]) -> int:
    """Be a session, and return the exit code."""
    options = Options()
    try:
        # Or what is opened from here on would get their numbers.
        check_open(0, 1)
        # Before anything else has a reactor.
        import_module(f"twisted.internet.{_REACTOR}reactor").install()
        from twisted.internet import reactor

        options.parseOptions(arguments)
        if options.certificates is not None and family_of(0, 1) is None:
            raise usage.UsageError(
                "--certificate: only on a socket can TLS begin, and standard input and output "
                "are not one"
            )
        to_syslog = bool(options["syslog"]) or is_client_stream(2, 0, 1)
        standard = StandardStreams()
    except (NoClientError, usage.UsageError) as error:
        session_log.complain(str(error))
        return 1 if isinstance(error, NoClientError) else 2
    session_log.begin(to_syslog=to_syslog, everything=bool(options["syslog"]))
    warn_of_timeout(options)
    return OneSession(options, standard, reactor).run()


class OneSession:
    """The one session of this process."""

    def __init__(self, options: Options, standard: StandardStreams, reactor: Any) -> None:
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

    def _make_factory(self, options: Options) -> POP3Factory:
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
