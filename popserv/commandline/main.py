"""The ``popserv`` command: what an operator does beside running the server."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from popserv import __version__
from popserv.auth.passwords.users_file import UsersFileError
from popserv.commandline import users


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; errors go to stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["session"]:
        return _session(arguments[1:])
    options = _parser().parse_args(arguments)
    try:
        options.act(options)
    except (UsersFileError, ValueError) as error:
        print(f"popserv: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, EOFError):
        print("popserv: nothing changed", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="popserv", description="Look after a popserv mail server (run it: twistd pop3 --help)."
    )
    parser.add_argument("--version", action="version", version=f"popserv {__version__}")
    commands = parser.add_subparsers(title="commands", required=True)
    # For the list of commands alone: its options are of the same make as those of twistd pop3.
    commands.add_parser("session", help="speak POP3 on standard input and output")
    user = commands.add_parser(
        "user",
        help="who may read mail",
        description="Edit a users file.  Passwords are asked for, or read as one line from "
        "standard input; a running server sees a change at the next login.",
    )
    users.add_commands(user)
    return parser


def _session(arguments: Sequence[str]) -> int:
    # Which takes longer to import than all that the other commands do.
    from popserv.commandline.session import main as session

    return session(arguments)
