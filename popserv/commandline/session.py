"""``popserv session``: serves one session on standard input and output.

Its exit code is

* 0 if QUIT was answered ``+OK``, or if the client closed the connection in order;
* 1 if the session could not start, or ended in another way;
* 2 if the command line is invalid.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from typing import ClassVar

from twisted.python import usage

from popserv.auth.names import prepared_name, with_domain
from popserv.commandline import session_log
from popserv.commandline.single_session import SingleSession
from popserv.core.printable import one_line
from popserv.options import completions
from popserv.options.kinds import Kind, option_kinds
from popserv.options.session import SessionOptions
from popserv.options.table import LOGIN_OPTIONS
from popserv.runtime.clock import use_steady_clock
from popserv.transports.stdio import (
    NoClientError,
    StandardStreams,
    check_open,
    family_of,
)
from popserv.wiring.factories import warn_about_short_timeout
from popserv.wiring.process import forbid_cores

_REACTOR = "select" if sys.platform == "darwin" else "poll"
"""A reactor that supports files and terminals: epoll rejects files, and kqueue terminals."""

_EPILOGUE = """
Examples:
  popserv session --user ann --maildir /home/%u/Maildir
  popserv session --login --maildir /srv/mail --certificate /etc/popserv/cert.pem

Exit codes: 0 after QUIT, or if the client closed the connection in order; 1 if the session
could not start or was aborted; 2 if the command line is invalid.
"""


class Options(SessionOptions):
    """The command line of ``popserv session``.

    After parsing, ``user`` is the prepared name of the user in octets, or None.
    """

    synopsis = (
        "Usage: popserv session {--user NAME | --login} {--maildir PATH | --store STORE} [options]"
    )
    longdesc = (
        "Serve one POP3 session on standard input and output: as a command of ssh, as a login "
        "shell, on a terminal line, or under inetd. --certificate requires that standard input and "
        "output are one socket."
    )

    optParameters: ClassVar[list[list[str | None]]] = [
        [
            "user",
            "u",
            None,
            "The user whose maildrop is opened. The session starts without a login; the command "
            "trusts its caller. Either --user or --login is required.",
        ],
    ]
    optFlags: ClassVar[list[list[str | None]]] = [
        [
            "login",
            None,
            "The client logs in, as on a port of the server. Either --user or --login is required.",
        ],
        [
            "syslog",
            None,
            "Send the whole log to syslog, facility mail. The default is to write warnings and "
            "errors to standard error, or to send them to syslog if the client would read them.",
        ],
    ]
    compData = completions.SINGLE_SESSION
    login_remedy = "use --login instead of --user"

    def config_kinds(self) -> Mapping[str, Kind]:
        """Return the kinds of the options of the server, whose file a session can share."""
        # Its imports take longer than those of a session.
        from popserv.options.server import Options as ServerOptions  # noqa: PLC0415

        return option_kinds(ServerOptions())

    def uses_from_config(self, name: str, given: Collection[str]) -> bool:
        """Return whether the session has an option, and needs it."""
        is_for_login = name in ("auth", *LOGIN_OPTIONS)
        return name in option_kinds(self) and ("login" in given or not is_for_login)

    def allows_login(self) -> bool:
        """Return whether the client logs in."""
        return bool(self["login"])

    def postOptions(self) -> None:
        """Convert the values, and check those that depend on each other.

        :raises UsageError: an option is invalid.
        """
        if bool(self["login"]) == (self["user"] is not None):
            raise usage.UsageError("either --user NAME or --login is required, but not both")
        super().postOptions()
        if self["user"] is not None:
            self["user"] = prepared_name(os.fsencode(self["user"]))
            self["user"] = with_domain(self["user"], self["default-domain"])

    def getUsage(self, width: int | None = None) -> str:
        """Return the help text, followed by examples and the exit codes."""
        return super().getUsage(width) + _EPILOGUE


def main(arguments: Sequence[str]) -> int:
    """Serve the session, and return the exit code of the process."""
    options = Options()
    forbid_cores()
    try:
        # Files that are opened from here on would otherwise take the place of a closed stream.
        check_open(0, 1)
        # Before any import of twisted.internet.reactor installs the default reactor.
        import_module(f"twisted.internet.{_REACTOR}reactor").install()
        from twisted.internet import reactor

        use_steady_clock(reactor)
        options.parseOptions(arguments)
        if options.certificates is not None and family_of(0, 1) is None:
            raise usage.UsageError(
                "--certificate requires that standard input and output are one connected stream "
                "socket, because TLS cannot start on pipes, files and terminals; remove "
                "--certificate"
            )
        to_syslog = bool(options["syslog"]) or not session_log.is_stderr_usable()
        streams = StandardStreams()
    except (NoClientError, usage.UsageError) as error:
        is_usage_error = isinstance(error, usage.UsageError)
        hint = "; see popserv session --help" if is_usage_error else ""
        session_log.report_error(one_line(str(error)) + hint)
        return 2 if is_usage_error else 1
    session_log.start(to_syslog=to_syslog, include_info=bool(options["syslog"]))
    warn_about_short_timeout(options)
    return SingleSession(options, streams, reactor).run()
