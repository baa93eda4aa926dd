"""``popserv user``: commands that edit, list or check users."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Callable

from popserv.auth.names import check_name, prepared_name
from popserv.auth.passwords.preparation import prepared_password
from popserv.auth.passwords.schemes import join_field, new_scram_sha256, scheme_of
from popserv.auth.passwords.user_changes import Change, UserChanges, effective_fields
from popserv.auth.passwords.users_file import UsersFileError, default_path
from popserv.commandline.schema import PREFIX
from popserv.commandline.user_places import UserPlace, UsersFilePlace
from popserv.commandline.users_check import UsersCheck
from popserv.core.printable import one_line, printable
from popserv.maildrops.layout import Layout
from popserv.runtime.closing import close
from popserv.runtime.extras import how_to_install

_INPUT_HELP = (
    "The password is read twice from the terminal, or as one line from standard input if that is "
    "not a terminal."
)


def add_arguments(user: argparse.ArgumentParser) -> None:
    """Add the commands to the parser of ``popserv user``.

    Each sets ``run``, a function of the parsed options.  It returns the exit code, or None for 0,
    and raises UsersFileError or ValueError if the command fails.
    """
    commands = user.add_subparsers(title="commands", metavar="COMMAND", required=True)

    file = argparse.ArgumentParser(add_help=False)
    paths = file.add_mutually_exclusive_group(required=True)
    paths.add_argument("--users", metavar="FILE", help="the users file")
    paths.add_argument(
        "--maildir",
        metavar="PATH",
        help="the value of --maildir of twistd pop3; the users file is .users in that directory, "
        "or in the part of the path before the first variable",
    )
    paths.add_argument(
        "--store",
        metavar="STORE",
        help="the value of --store of twistd pop3, sql:FILE; the users are in that database",
    )
    name = argparse.ArgumentParser(add_help=False)
    name.add_argument("name", metavar="NAME", help="the user name")
    secret = argparse.ArgumentParser(add_help=False)
    secret.add_argument(
        "--apop",
        action="store_true",
        help="store an APOP secret in cleartext, with which the user can log in by APOP only; "
        "the default is to store a SCRAM-SHA-256 secret",
    )

    def add(
        command: str,
        run: Callable[[argparse.Namespace], int | None],
        text: str,
        description: str,
        *parents: argparse.ArgumentParser,
    ) -> None:
        commands.add_parser(
            command, help=text, description=description, parents=[*parents, file]
        ).set_defaults(run=run)

    add(
        "add",
        _add_user,
        "add a user",
        f"Add a user, and create the users file if it does not exist. {_INPUT_HELP}",
        name,
        secret,
    )
    add(
        "passwd",
        _change_password,
        "change the password of a user",
        f"Change the password of a user. {_INPUT_HELP}",
        name,
        secret,
    )
    add(
        "remove",
        _remove_user,
        "remove a user",
        "Remove a user. The mail of the user is not removed.",
        name,
    )
    add(
        "disable",
        _disable_user,
        "refuse the logins of a user",
        "Set the extra field nologin: the user cannot log in, and not to Dovecot either if it "
        "reads the same file. A session that has begun goes on.",
        name,
    )
    add(
        "enable",
        _enable_user,
        "allow the logins of a user again",
        "Remove the extra fields nologin and popserv_nologin of a user.",
        name,
    )
    fields = argparse.ArgumentParser(add_help=False)
    fields.add_argument(
        "fields",
        metavar="FIELD",
        nargs="+",
        help="FIELD=VALUE, FIELD for a field without a value, or FIELD= to remove the field",
    )
    add(
        "set",
        _set_fields,
        "set extra fields of a user",
        "Set or remove extra fields of a user, such as popserv_since=30d or "
        "allow_nets=192.0.2.0/24. The others stay.",
        name,
        fields,
    )
    add(
        "list",
        _list_users,
        "list the users",
        "Print the name, the password scheme and the extra fields of each user, separated by tabs.",
    )
    domain = argparse.ArgumentParser(add_help=False)
    domain.add_argument(
        "--default-domain",
        metavar="DOMAIN",
        default="",
        help="the value of --default-domain of twistd pop3",
    )
    add(
        "check",
        _check_users,
        "show how each user can log in, or why not",
        "Print a line for each user: the name, the ways to log in or the word refused, and "
        "remarks, separated by tabs. The exit code is 1 if a user cannot log in, if a secret has "
        "an unsupported scheme, or if the file has a mistake.",
        domain,
    )


def _place(options: argparse.Namespace) -> UserPlace:
    """Return where the users are.

    :raises ValueError: the store has no users.
    """
    if options.store is not None:
        return _database_place(options.store)
    if options.users is not None:
        return UsersFilePlace(os.path.abspath(str(options.users)))
    return UsersFilePlace(default_path(os.fsdecode(Layout(options.maildir).root)))


def _database_place(store: str) -> UserPlace:
    """Return the database of a store, which is named as ``--store`` names it.

    :raises ValueError: it is no ``sql:FILE``.
    :raises UsersFileError: a library is missing.
    """
    if not store.startswith(PREFIX):
        raise ValueError(f"--store {store}: only the store sql:FILE has users")
    try:
        from popserv.commandline.database_users import DatabasePlace  # noqa: PLC0415
    except ImportError as error:
        raise UsersFileError(f"{error}; run: {how_to_install('sql')}") from error
    return DatabasePlace(store.removeprefix(PREFIX))


def _add_user(options: argparse.Namespace) -> None:
    name = _write_secret(options, new=True)
    if options.maildir is not None:
        _report_missing_maildir(Layout(options.maildir), name)


def _report_missing_maildir(layout: Layout, name: bytes) -> None:
    try:
        close(layout.open(name))
    except FileNotFoundError:
        path = one_line(os.fsdecode(layout.path(name)))
        print(
            f"{printable(name)} has no Maildir at {path} yet, and sees an empty maildrop until "
            "mail is delivered there; if the mail is elsewhere, correct --maildir",
            file=sys.stderr,
        )
    except (OSError, ValueError) as error:
        print(f"maildrop of {printable(name)}: {error}", file=sys.stderr)


def _change_password(options: argparse.Namespace) -> None:
    _write_secret(options, new=False)


def _write_secret(options: argparse.Namespace, *, new: bool) -> bytes:
    name = prepared_name(os.fsencode(options.name))
    # Checked first, so that no password is typed for an invalid name.
    check_name(name)
    place = _place(options)
    password = prepared_password(_read_password())
    field = join_field(b"APOP", password) if options.apop else new_scram_sha256(password)
    changes = UserChanges(name, place.where)
    change = changes.add(field) if new else changes.set_secret(field)
    _change(place, name, change, creates=True)
    return name


def _remove_user(options: argparse.Namespace) -> None:
    place, changes = _user(options)
    _change(place, changes.name, changes.remove(), creates=True)


def _disable_user(options: argparse.Namespace) -> None:
    place, changes = _user(options)
    _change(place, changes.name, changes.disable())


def _enable_user(options: argparse.Namespace) -> None:
    place, changes = _user(options)
    _change(place, changes.name, changes.enable())


def _set_fields(options: argparse.Namespace) -> None:
    place, changes = _user(options)
    words = [os.fsencode(word) for word in options.fields]
    _change(place, changes.name, changes.set_fields(words))


def _user(options: argparse.Namespace) -> tuple[UserPlace, UserChanges]:
    place = _place(options)
    return place, UserChanges(os.fsencode(options.name), place.where)


def _check_users(options: argparse.Namespace) -> int:
    place = _place(options)
    domain = os.fsencode(options.default_domain)
    users, _ = place.read()
    check = UsersCheck(place.where, users, Layout(options.maildir or "/"), domain)
    for line in check.mistakes():
        print(f"popserv: {line}", file=sys.stderr)
    for columns in check.rows():
        print("\t".join(columns).rstrip("\t"))
    return 1 if check.has_problems else 0


def _list_users(options: argparse.Namespace) -> None:
    users, records = _place(options).read()
    for name, user in users.by_name.items():
        scheme = scheme_of(user.password_field).decode("ascii")
        columns = (name.decode("utf-8", "backslashreplace"), scheme)
        words = [printable(word, 1000) for word in effective_fields(records.get(name, b""))]
        print("\t".join([*columns, " ".join(words)]).rstrip("\t"))


def _change(place: UserPlace, name: bytes, change: Change, *, creates: bool = False) -> None:
    try:
        place.change(name, change, creates=creates)
    except KeyboardInterrupt:
        told = "whether the user was changed is unknown, see: popserv user list"
        raise UsersFileError(f"interrupted; {told}") from None


def _read_password() -> bytes:
    """Read a password twice from the terminal, or as one line from standard input.

    :raises UsersFileError: the passwords differ or are empty.
    """
    if sys.stdin.isatty():
        text = getpass.getpass("New password: ")
        if getpass.getpass("Retype new password: ") != text:
            raise UsersFileError("passwords do not match; nothing was changed")
        password = os.fsencode(text)
    else:
        password = sys.stdin.buffer.readline().rstrip(b"\r\n")
    if not password:
        raise UsersFileError("an empty password is not allowed; nothing was changed")
    return password
