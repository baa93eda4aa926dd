"""``popserv session``: one session on standard input and output.

Its exit code is

* 0 if the client has said QUIT and was told that all is done, or has closed in order;
* 1 if the session could not begin, or ended in another way;
* 2 if the command line is wrong.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import ClassVar

from twisted.python import usage

from popserv.auth.precis import prepared_name
from popserv.commandline import session_log
from popserv.commandline.factories import warn_of_timeout
from popserv.commandline.session_options import SessionOptions
from popserv.commandline.single_session import OneSession
from popserv.maildrops.maildir.layout import Layout
from popserv.transports.stdio import (
    NoClientError,
    StandardStreams,
    check_open,
    family_of,
    is_client_stream,
)

_REACTOR = "select" if sys.platform == "darwin" else "poll"
"""Which of Twisted's: epoll takes no files, and kqueue no terminals."""

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
                Layout(self["maildir"]).place(self["user"])
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
