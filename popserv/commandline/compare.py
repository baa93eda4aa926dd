"""``popserv compare``: what clients notice when one POP3 server replaces another."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from popserv.commandline.server_options import (
    add_server_options,
    read_password,
    read_passwords,
    security_of,
)
from popserv.commandline.user_lines import Progress, print_lines, print_problem
from popserv.core.printable import printable
from popserv.migration.comparison import Comparison, Listed, compare, read
from popserv.migration.pop3_client import POP3ClientError
from popserv.migration.pop3_urls import ServerAddress
from popserv.migration.remote_side import logged_in


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments to the parser of ``popserv compare``.

    It sets ``run``, a function of the parsed options, which returns the exit code.
    """
    form = "pop3://HOST[:PORT] or pop3s://HOST[:PORT]"
    parser.add_argument("old", metavar="OLD", help=f"the server that clients use: {form}")
    parser.add_argument("new", metavar="NEW", help=f"the server that replaces it: {form}")
    parser.add_argument(
        "--user",
        metavar="NAME",
        action="append",
        default=[],
        help="the user to compare; with --users, it can be given several times, and the default is "
        "all users of the file. Without --users, the password is read from the terminal, or as a "
        "line from standard input",
    )
    add_server_options(parser)
    parser.add_argument(
        "--sizes-only",
        action="store_true",
        help="compare the size and the header of each message, and not all of its octets",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compare two servers, print what differs, and return the exit code."""
    try:
        return _compare_all(options)
    except KeyboardInterrupt:
        # 1 would mean that all users were compared.
        print("popserv: interrupted", file=sys.stderr)
        return 2


def _compare_all(options: argparse.Namespace) -> int:
    try:
        comparer = _Comparer(options)
        users = _passwords(options)
    except ValueError as error:
        print(f"popserv: {error}", file=sys.stderr)
        return 2
    results, failed = [], 0
    progress = Progress(len(users))
    for done, (user, password) in enumerate(users.items()):
        try:
            result = comparer.compare(user, password, partial(progress.show, user, done))
        except POP3ClientError as error:
            failed += 1
            progress.clear()
            print_problem(user, error)
            continue
        finally:
            progress.clear()
        results.append(result.comparison)
        _print_result(user, result)
    _print_summary(results, failed)
    if failed:
        return 2
    return 0 if all(each.is_equal for each in results) else 1


class _Result:
    """The comparison for one user, and what the servers have shown."""

    def __init__(self, old: Listed, new: Listed) -> None:
        self.old = old.messages
        self.new = new.messages
        self.comparison = compare(old, new)
        self.remarks = [
            *(f"old server: {remark}" for remark in old.remarks),
            *(f"new server: {remark}" for remark in new.remarks),
        ]


class _Comparer:
    """Compares the servers of the options.

    :raises ValueError: an option is invalid.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._servers = [
            (name, ServerAddress.from_url(url))
            for name, url in (("old server", options.old), ("new server", options.new))
        ]
        self._security = security_of(options)
        self._sizes_only = bool(options.sizes_only)

    def compare(self, user: bytes, password: bytes, report: Callable[[str], object]) -> _Result:
        """Compare the servers for one user.

        The sessions are one after the other, because both servers may lock the same maildrop.

        :raises POP3ClientError: a server cannot be used.
        """
        listed = []
        for name, address in self._servers:
            report(name)
            with logged_in(address, self._security, user, password) as maildrop:
                listed.append(
                    read(
                        maildrop,
                        sizes_only=self._sizes_only,
                        report=partial(_report_message, report, name),
                    )
                )
        return _Result(*listed)


def _report_message(report: Callable[[str], object], name: str, at: int, count: int) -> None:
    report(f"{name}, message {at + 1} of {count}")


def _passwords(options: argparse.Namespace) -> Mapping[bytes, bytes]:
    """Return the users to compare, with their passwords.

    :raises ValueError: no user is named, or one has no password.
    """
    names = [os.fsencode(name) for name in options.user]
    if options.users is None:
        if len(names) != 1:
            raise ValueError("give --user NAME once, or --users FILE with lines NAME:PASSWORD")
        return {names[0]: read_password()}
    passwords = read_passwords(options.users)
    for name in names:
        if name not in passwords:
            raise ValueError(f"--users: {options.users} has no password of {printable(name)}")
    return {name: passwords[name] for name in names} if names else passwords


def _print_result(user: bytes, result: _Result) -> None:
    found = result.comparison
    print(f"{printable(user)}: clients would fetch {_again(found)} messages again", flush=True)
    lines = [
        *(
            f"message {at + 1} of the new server: clients would take it for another message with "
            f"unique-id {printable(result.new[at].unique_id)}, and not fetch it"
            for at in found.never
        ),
        *(
            f"message {old + 1}, on the new server {new + 1}: it is not the same on both"
            for old, new in found.different
        ),
        *(
            f"message {at + 1}, unique-id {printable(result.old[at].unique_id)}: "
            "the new server does not have it"
            for at in found.missing
        ),
        *(
            f"message {at + 1} of the new server, unique-id "
            f"{printable(result.new[at].unique_id)}: the old server does not have it"
            for at in found.added
        ),
    ]
    if found.moved:
        print_lines(user, [f"the order differs: {_messages(found.moved)} in another place"])
    print_lines(user, [*result.remarks, *lines])


def _again(found: Comparison) -> str:
    again, both = len(found.again), len(found.pairs)
    number = "none" if not again else "all" if again == both else str(again)
    return f"{number} of {both}"


def _messages(count: int) -> str:
    return f"{count} message{'' if count == 1 else 's'}"


def _print_summary(results: Sequence[Comparison], failed: int) -> None:
    """Print the sums, and which capabilities are missing for how many users."""
    lost = Counter(capability for found in results for capability in found.lost)
    for capability, users in lost.items():
        print(
            f"the new server does not have the capability {printable(capability)} "
            f"({users} of {len(results)} users)"
        )
    sums = [
        sum(len(numbers) for numbers in column)
        for column in zip(*(found[:6] for found in results), strict=True)
    ] or [0] * 6
    both, different, missing, added, again, never = sums
    print(f"users: {len(results)} compared, {failed} failed")
    print(
        f"messages: {both} on both servers, {again} of them fetched again, {different} different; "
        f"{missing} missing on the new server, {added} on the old one; {never} never fetched"
    )
