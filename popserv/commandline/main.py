"""The ``popserv`` command: what an operator does beside running the server."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Sequence

from popserv import __version__
from popserv.auth.names import check_name, prepared_name
from popserv.auth.passwords.preparation import prepared_password
from popserv.auth.passwords.schemes import join_field, new_scram_sha256, scheme_of
from popserv.auth.passwords.users_file import (
    UsersFile,
    UsersFileError,
    default_path,
)
from popserv.auth.passwords.users_file_editing import remove_user, set_secret
from popserv.maildrops.maildir.layout import Layout


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
    kinds = user.add_subparsers(title="commands", required=True)

    file = argparse.ArgumentParser(add_help=False)
    where = file.add_mutually_exclusive_group(required=True)
    where.add_argument("--users", metavar="FILE", help="the users file")
    where.add_argument(
        "--maildir", metavar="ROOT", help="as for twistd pop3: the users file is ROOT/.users"
    )
    name = argparse.ArgumentParser(add_help=False)
    name.add_argument("name", metavar="NAME")
    secret = argparse.ArgumentParser(add_help=False)
    secret.add_argument(
        "--apop",
        action="store_true",
        help="an APOP secret: the user logs in by APOP only, and the server must keep the "
        "secret as it is; without this, SCRAM-SHA-256",
    )

    def add(command: str, act: object, text: str, *parents: argparse.ArgumentParser) -> None:
        kinds.add_parser(
            command, help=text, description=text, parents=[*parents, file]
        ).set_defaults(act=act)

    add("add", _add, "add a user", name, secret)
    add("passwd", _passwd, "change a user's password", name, secret)
    add("remove", _remove, "take a user out; the mail stays", name)
    add("list", _list, "show each user and the kind of secret")
    return parser


def _session(arguments: Sequence[str]) -> int:
    # Which takes longer to import than all that the other commands do.
    from popserv.commandline.session import main as session

    return session(arguments)


def _path(options: argparse.Namespace) -> str:
    if options.users is not None:
        return str(options.users)
    return default_path(os.fsdecode(Layout(options.maildir).root))


def _add(options: argparse.Namespace) -> None:
    _set(options, new=True)


def _passwd(options: argparse.Namespace) -> None:
    _set(options, new=False)


def _set(options: argparse.Namespace, *, new: bool) -> None:
    name = prepared_name(os.fsencode(options.name))
    check_name(name)
    secret = prepared_password(_ask_secret())
    field = join_field(b"APOP", secret) if options.apop else new_scram_sha256(secret)
    set_secret(_path(options), name, field, new=new)


def _remove(options: argparse.Namespace) -> None:
    remove_user(_path(options), os.fsencode(options.name))


def _list(options: argparse.Namespace) -> None:
    path = _path(options)
    if not os.path.exists(path):
        raise UsersFileError(f"there is no {path}; popserv user add makes it")
    for name, field in UsersFile(path).read().password_fields.items():
        print(f"{name.decode('utf-8', 'backslashreplace')}\t{scheme_of(field).decode('ascii')}")


def _ask_secret() -> bytes:
    if sys.stdin.isatty():
        secret = getpass.getpass("Password: ")
        if getpass.getpass("Once more: ") != secret:
            raise UsersFileError("the two are not the same; nothing changed")
    else:
        return _not_empty(sys.stdin.buffer.readline().rstrip(b"\r\n"))
    return _not_empty(os.fsencode(secret))


def _not_empty(secret: bytes) -> bytes:
    if not secret:
        raise UsersFileError("an empty password lets nobody in; nothing changed")
    return secret
