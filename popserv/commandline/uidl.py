"""``popserv uidl``: commands that keep the unique-ids of another server."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from popserv.commandline.logged_warnings import logged_warnings
from popserv.commandline.server_options import add_server_options
from popserv.commandline.uidl_sources import make_source
from popserv.commandline.user_lines import print_lines, print_problem, print_warnings
from popserv.core.printable import printable
from popserv.errors import POPError
from popserv.maildrops.layout import Layout
from popserv.maildrops.maildir.unique_ids.format import UniqueIdFormat
from popserv.maildrops.maildir.unique_ids.pinning import pin
from popserv.migration import unique_id_file
from popserv.migration.maildir_side import Maildirs, MaildirSide
from popserv.migration.unique_id_sources import Source
from popserv.runtime.permissions import describe

_RunForUser = Callable[[bytes, MaildirSide, Source], bool]


def add_arguments(uidl: argparse.ArgumentParser) -> None:
    """Add the commands to the parser of ``popserv uidl``.

    Each sets ``run``, a function of the parsed options, which returns the exit code.  It raises
    ValueError if the command line is wrong.
    """
    commands = uidl.add_subparsers(title="commands", metavar="COMMAND", required=True)
    maildirs = argparse.ArgumentParser(add_help=False)
    maildirs.add_argument(
        "--maildir", metavar="PATH", required=True, help="the value of --maildir of twistd pop3"
    )
    maildirs.add_argument(
        "--uidl",
        metavar="FORMAT",
        default="filename",
        help="the value of --uidl of twistd pop3; the default is filename",
    )
    maildirs.add_argument(
        "user", metavar="USER", nargs="*", help="the names of users; the default is all users"
    )
    source = argparse.ArgumentParser(add_help=False)
    source.add_argument(
        "--from",
        dest="source",
        metavar="SOURCE",
        required=True,
        help="what has the unique-ids that clients know: dovecot or courier, whose files are in "
        "each Maildir, a template such as %%v.%%u if Dovecot had that pop3_uidl_format, a file of "
        "popserv uidl export, or another server: pop3s://HOST or pop3://HOST:PORT",
    )
    add_server_options(source)
    for name, run, parents, text, description in (
        (
            "import",
            _import,
            [source, maildirs],
            "pin the unique-ids of another server",
            "Pin the unique-ids that clients know, so that no client fetches a message again. "
            "Prints a line for each user. The exit code is 1 if a user, a message of the "
            "Maildir, or a message of the source is left out, or anything else is warned of.",
        ),
        (
            "export",
            _export,
            [maildirs],
            "print the unique-ids of all messages",
            "Print a line for each message: the user, the unique-id and the base name, separated "
            "by tabs. popserv uidl import --from FILE reads it.",
        ),
        (
            "diff",
            _diff,
            [source, maildirs],
            "show which messages clients would fetch again",
            "Compare the unique-ids that clients know with those that popserv shows, and pin "
            "nothing. Prints a line for each user. The exit code is 1 if a message would be "
            "fetched again, or not at all.",
        ),
    ):
        commands.add_parser(name, help=text, description=description, parents=parents).set_defaults(
            run=run
        )


def _import(options: argparse.Namespace) -> int:
    try:
        return _for_each_user(options, _import_user)
    except KeyboardInterrupt:
        print("popserv: interrupted; the same command continues the import", file=sys.stderr)
        return 1


def _import_user(user: bytes, maildir: MaildirSide, source: Source) -> bool:
    found = source.find(user, maildir)
    names = maildir.mailbox.base_names
    pinned = pin(maildir.mailbox.maildir_fd, found.unique_ids, names)
    others = len(names) - pinned.messages - len(pinned.refused)
    print(
        f"{printable(user)}: {pinned.messages} of {len(names)} messages have their old unique-ids"
        + (f", {others} {'is' if others == 1 else 'are'} new" if others else "")
    )
    refused = [f"{printable(name)}: {reason}" for name, reason in pinned.refused.items()]
    print_lines(user, [*found.unmatched, *refused])
    return not (found.unmatched or refused)


def _diff(options: argparse.Namespace) -> int:
    return _for_each_user(options, _diff_user)


def _diff_user(user: bytes, maildir: MaildirSide, source: Source) -> bool:
    found = source.find(user, maildir)
    shown = maildir.unique_ids
    known = {name: uid for name, uid in found.unique_ids.items() if name in shown}
    owners = {unique_id: name for name, unique_id in shown.items()}
    again = [name for name, unique_id in known.items() if shown[name] != unique_id]
    wrong = [
        (name, owners[unique_id])
        for name, unique_id in found.unique_ids.items()
        if owners.get(unique_id, name) != name
    ]
    number = "none" if not again else "all" if len(again) == len(known) else str(len(again))
    print(f"{printable(user)}: clients would fetch {number} of {len(known)} messages again")
    print_lines(
        user,
        [
            *found.unmatched,
            *(
                f"{printable(owner)}: clients would take it for {printable(name)}, and not fetch it"
                for name, owner in wrong
            ),
        ],
    )
    return not (again or wrong or found.unmatched)


def _export(options: argparse.Namespace) -> int:
    maildirs = _maildirs(options)
    return _run_for(_users(options, maildirs), maildirs, _export_user)


def _export_user(user: bytes, maildir: MaildirSide) -> bool:
    for name, unique_id in maildir.unique_ids.items():
        print(unique_id_file.encode_line(user, unique_id, name).decode("ascii"))
    return True


def _for_each_user(options: argparse.Namespace, run: _RunForUser) -> int:
    maildirs = _maildirs(options)
    source, source_users = make_source(options)
    return _run_for(
        _users(options, maildirs, source_users),
        maildirs,
        lambda user, maildir: run(user, maildir, source),
    )


def _run_for(
    users: Sequence[bytes], maildirs: Maildirs, run: Callable[[bytes, MaildirSide], bool]
) -> int:
    """Run a function, which tells whether all is well, for users; return the exit code.

    What is logged as a warning, such as of a message that is skipped, is printed.
    """
    succeeded = True
    for user in users:
        with logged_warnings() as warnings:
            try:
                with maildirs.opened(user) as maildir:
                    succeeded = run(user, maildir) and succeeded
            except (OSError, POPError, ValueError) as error:
                succeeded = False
                print_problem(user, error)
        print_warnings(user, warnings)
        succeeded = succeeded and not warnings
    return 0 if succeeded else 1


def _maildirs(options: argparse.Namespace) -> Maildirs:
    for option, check in (("maildir", Layout), ("uidl", UniqueIdFormat)):
        value = getattr(options, option)
        try:
            check(value)
        except ValueError as error:
            raise ValueError(f"--{option} {value}: {error}") from error
    return Maildirs(options.maildir, options.uidl)


def _users(
    options: argparse.Namespace, maildirs: Maildirs, source_users: Sequence[bytes] | None = None
) -> Sequence[bytes]:
    """Return the users of the command line; or else of the source, or all that have a Maildir."""
    if options.user:
        return [os.fsencode(name) for name in options.user]
    if source_users is not None:
        return source_users
    try:
        users = maildirs.users()
    except OSError as error:
        raise ValueError(f"--maildir: {describe(error)}") from error
    if not users:
        raise ValueError(f"--maildir {options.maildir}: no user has a Maildir there")
    return users
