"""The commands of ``popserv``: manages users, helps to change servers, runs single sessions."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from popserv import __version__
from popserv.auth.passwords.users_file import UsersFileError

COMMANDS = {
    "user": (
        "add, change, disable, remove, list and check users",
        "Edit, list or check the users in a users file, or in the database of an "
        "SQL store. A running server sees a change at the next login.",
    ),
    "uidl": (
        "keep the unique-ids of another server",
        "Keep the unique-ids by which clients recognize mail that they leave on the server.",
    ),
    "compare": (
        "compare two POP3 servers",
        "Compare the mail of users on two POP3 servers: which messages clients that "
        "leave mail on the server would fetch again, and which differ or are missing. Nothing is "
        "changed on either server. The exit code is 0 if nothing differs, 1 if something does, "
        "and 2 if a user could not be compared.",
    ),
    "copy": (
        "copy mail to another store",
        "Copy the mail of users from a store or a POP3 server to a store, with its "
        "order, times of delivery, flags and unique-ids. What is there already is not copied "
        "again, so that a copy that was interrupted is continued by the same command. Nothing is "
        "removed. The exit code is 0 if all mail was copied, 1 if a user or a message was left "
        "out, and 2 if the command line is invalid.",
    ),
    "deliver": (
        "deliver a message from standard input",
        "Deliver the message on standard input to a user, for the pipes of mail "
        "transfer agents and of programs that fetch mail. The exit codes are those of sysexits.h: "
        "0 if the message is on disk, 75 if the same delivery may succeed later, 67 if there is no "
        "such user, 65 if the store cannot keep the message, and 64 if the command line is "
        "invalid.",
    ),
    "collect": (
        "remove objects of messages that are gone",
        "Remove the objects that no message has from the object store of an SQL store, "
        "as servers do once a minute. The exit code is 0, 1 if that could not be done, and 2 if "
        "the command line is invalid.",
    ),
    "config": (
        "show or check the options of the server",
        "Read the options of twistd pop3 as the server does, also those of --config, "
        "and show or check them. The server is not started.",
    ),
    "schema": (
        "make, upgrade or check the tables of a database",
        "Make, upgrade or check the tables of the database that several servers use "
        "as their store. The database itself must exist.",
    ),
}
"""The help texts and the descriptions of the commands, each of which has a module of its name."""

CONTROL_COMMANDS = {
    "who": "list the connections of a running server",
    "kick": "end sessions of a running server",
    "status": "show the state of a running server",
    "reload": "have a running server read changed files",
    "log-level": "show or set what a running server logs",
    "unblock": "forget the failed logins of an address",
    "drain": "stop a running server, or replace its workers, once sessions have ended",
}
"""The commands of :mod:`popserv.commandline.control`, with their help texts."""


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code: 0 on success, 1 after an error, 2 for usage.

    ``popserv user check``, ``config check``, ``schema check`` and ``uidl`` also return 1 if they
    have found a problem, ``popserv compare`` if it has found a difference, and ``popserv copy`` if
    it has left out mail.  Errors are printed to standard error.
    """
    if arguments[:1] == ["session"]:
        return _run_session(arguments[1:])
    if arguments[:1] == ["doctor"]:
        return _run_doctor(arguments[1:])
    options = parse(arguments)
    try:
        return int(options.run(options) or 0)
    except (UsersFileError, ValueError) as error:
        print(f"popserv: {error}", file=sys.stderr)
        return 1 if isinstance(error, UsersFileError) else 2
    except (KeyboardInterrupt, EOFError):
        print("popserv: interrupted", file=sys.stderr)
        return 1


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of a command line, with the function ``run`` that takes them.

    :raises SystemExit: the command line is invalid, or asks for help.
    """
    return parser(arguments[0] if arguments else "").parse_args(arguments)


class _Parser(argparse.ArgumentParser):
    """A parser that reports an invalid command line in one line; so do its subparsers."""

    usage_exit_code = 2

    def error(self, message: str) -> NoReturn:
        """Print a message, and exit."""
        self.exit(self.usage_exit_code, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the whole command, or of what ``command`` needs."""
    whole = _Parser(
        prog="popserv",
        description="Manage the users of a popserv POP3 server, keep the unique-ids of another "
        "server, compare two servers, copy mail, deliver a message, check the options of the "
        "server, serve a single session, or see and steer a running server. "
        "To run the server, see: twistd pop3 --help",
    )
    whole.add_argument(
        "--version",
        action="version",
        version=f"popserv {__version__}",
        help="print the version of popserv and exit",
    )
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    # Only for the list of commands; run() passes its arguments to the parser of Twisted.
    commands.add_parser("session", help="serve one POP3 session on standard input and output")
    # Likewise.
    commands.add_parser("doctor", help="look for everything that can be wrong with a server")
    for name, (help_text, description) in COMMANDS.items():
        each = commands.add_parser(name, help=help_text, description=description)
        if name == command == "deliver":
            # It is the whole parser that reports surplus arguments.
            whole.usage_exit_code = each.usage_exit_code = os.EX_USAGE
        if command in (None, name):
            # Only what the command needs: some take long to import, or require libraries.
            import_module(f"popserv.commandline.{name}").add_arguments(each)
    for name, help_text in CONTROL_COMMANDS.items():
        control = commands.add_parser(
            name, help=help_text, description=f"{help_text.capitalize()}."
        )
        if command in (None, name):
            from popserv.commandline import control as control_commands  # noqa: PLC0415

            control_commands.add_arguments(name, control)
    return whole


def _run_doctor(arguments: Sequence[str]) -> int:
    # Its imports take longer than the other commands need.
    from popserv.commandline.doctor import main as doctor  # noqa: PLC0415

    return doctor(arguments)


def _run_session(arguments: Sequence[str]) -> int:
    # Imported here, because its imports take longer than any other command.
    from popserv.commandline.session import main as session  # noqa: PLC0415

    return session(arguments)
