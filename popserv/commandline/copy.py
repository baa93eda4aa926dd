"""``popserv copy``: copies mail from a store or a POP3 server to another store."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from typing import Any

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

from popserv.commandline.copy_origins import make_origin
from popserv.commandline.reacting import run_in_reactor
from popserv.commandline.server_options import add_server_options
from popserv.commandline.user_lines import Progress, print_lines, print_warning, reason_of
from popserv.core.printable import printable
from popserv.core.user_settings import UnsupportedSettings, UserSettings
from popserv.interfaces import IConfigurableStore, IDeliveryStore
from popserv.maildrops.kinds import make_store
from popserv.maildrops.layout import Layout
from popserv.maildrops.settings import StoreSettings
from popserv.maildrops.stopping import stop_with_reactor
from popserv.migration.copying import Copied, Source, compare_messages, copy_messages
from popserv.runtime.threads import BoundedThreadPool

_threads = BoundedThreadPool("popserv-copy", threads=1, wait_at_shutdown=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments to the parser of ``popserv copy``.

    It sets ``run``, a function of the parsed options, which returns the exit code.
    """
    parser.add_argument(
        "source",
        metavar="SRC",
        help="the store that has the mail, as --store of twistd pop3 names it, such as "
        "maildir:/srv/mail or mbox:/var/mail; or a POP3 server, pop3s://HOST[:PORT] or "
        "pop3://HOST[:PORT], which requires --users",
    )
    parser.add_argument(
        "destination",
        metavar="DST",
        help="the store that gets it, whose directory must exist, such as maildir:/srv/mail",
    )
    parser.add_argument(
        "--user",
        metavar="NAME",
        action="append",
        default=[],
        help="the user to copy; it can be given several times, and the default is all users of "
        "SRC, or of --users",
    )
    parser.add_argument(
        "--uidl",
        metavar="FORMAT",
        default="filename",
        help="which unique-ids of SRC clients know, if SRC are Maildirs: dovecot, courier or "
        "another value of --uidl of twistd pop3; the default is filename",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say how many messages would be copied"
    )
    add_server_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Copy mail, print what was done for each user, and return the exit code."""
    try:
        return run_in_reactor(_Command(options).copy_all())
    except ValueError as error:
        print(f"popserv: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("popserv: interrupted; the same command continues the copy", file=sys.stderr)
        return 1


class _Failed(Exception):
    """A user cannot be copied; the text says why, and on which side."""


class _Command:
    """Copies the mail of the users of the options.

    :raises ValueError: an option is invalid.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._origin = make_origin(options, _threads.run)
        self._destination = _make_destination(options.destination)
        self._template = options.destination.partition(":")[2]
        self._names = [os.fsencode(name) for name in options.user]
        self._is_dry = bool(options.dry_run)

    async def copy_all(self) -> int:
        """Copy all users; return the exit code.

        :raises ValueError: the users cannot be listed, or two of them have one mailbox in DST.
        """
        for told in (*self._origin.restrictions, *self._destination.restrictions):
            print(f"popserv: note: {told}", file=sys.stderr)
        try:
            known = await self._origin.users()
        except OSError as error:
            raise ValueError(f"SRC: {reason_of(error)}; name the users") from error
        users = self._names or known
        if users is None:
            raise ValueError("SRC cannot list its users; name them")
        _check_distinct(self._template, users)
        existing = None if known is None else frozenset(known)
        progress = Progress(len(users))
        results, incomplete = [], 0
        for done, user in enumerate(users):
            with _printed_warnings(user, progress) as warnings:
                try:
                    if existing is not None and user not in existing:
                        raise _Failed("SRC: there is no such user")
                    result = await self._copy_user(user, partial(progress.show, user, done))
                except _Failed as error:
                    progress.clear()
                    print_warning(user, str(error))
                    incomplete += 1
                    continue
            progress.clear()
            self._print(user, result)
            results.append(result)
            incomplete += bool(warnings or result.left_out)
        self._print_sums(results, len(users) - len(results))
        return 1 if incomplete else 0

    async def _copy_user(self, user: bytes, show: Callable[[str], object]) -> Copied:
        """Copy the mail of a user.

        :raises _Failed: it cannot be copied.
        """
        async with AsyncExitStack() as stack:
            side = "SRC"
            try:
                show("opening")
                source = await stack.enter_async_context(self._origin.opened(user))
                side = "DST"
                if self._is_dry:
                    return await self._compare(user, source)
                delivery = await self._destination.open_delivery(user)
                stack.push_async_callback(delivery.release)
                side = "copy"
                return await copy_messages(source, delivery, partial(_show_message, show))
            except Exception as error:
                # Stores of others raise errors of their own.
                raise _Failed(f"{side}: {reason_of(error)}") from error

    async def _compare(self, user: bytes, source: Source) -> Copied:
        """Return what would be copied; nothing is written, if the store can open mailboxes so."""
        mailbox = await _open_to_read(self._destination, user)
        present = set(mailbox.messages.uids)
        await mailbox.release()
        return compare_messages(source, present)

    def _print(self, user: bytes, result: Copied) -> None:
        verb = "would be copied" if self._is_dry else "copied"
        there = f"{result.present} {'is' if result.present == 1 else 'are'} there already"
        print(f"{printable(user)}: {_messages(result.copied)} {verb}, {there}", flush=True)
        print_lines(user, result.remarks)
        print_lines(user, result.left_out)

    def _print_sums(self, results: list[Copied], failed: int) -> None:
        copied = sum(result.copied for result in results)
        present = sum(result.present for result in results)
        left_out = sum(len(result.left_out) for result in results)
        print(f"users: {len(results)} {'examined' if self._is_dry else 'copied'}, {failed} failed")
        print(
            f"messages: {copied} {'to copy' if self._is_dry else 'copied'}, "
            f"{present} there already, {left_out} left out"
        )


def _make_destination(description: str) -> Any:
    """Return the store that ``DST`` names.

    :raises ValueError: it is none, or messages cannot be delivered to it.
    """
    name = description.partition(":")[0]
    try:
        store = make_store(description, StoreSettings(cache_messages=0))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if not IDeliveryStore.providedBy(store):
        raise ValueError(f"{name}: messages cannot be delivered to this kind of store")
    stop_with_reactor(store)
    return store


async def _open_to_read(store: Any, user: bytes) -> Any:
    """Open a mailbox, read-only if the store has such mailboxes."""
    if IConfigurableStore.providedBy(store):
        with suppress(UnsupportedSettings):
            return await store.open_configured(user, UserSettings(read_only=True))
    return await store.open_maildrop(user)


def _check_distinct(template: str, users: Iterable[bytes]) -> None:
    """Check that no users have the same path, because equal unique-ids would be one message.

    :raises ValueError: two have.
    """
    owners: dict[bytes, bytes] = {}
    for user in users:
        # Such a name is refused when its turn comes; the argument may be no template, too.
        with suppress(ValueError):
            path = Layout(template).path(user)
            owner = owners.setdefault(path, user)
            if owner != user:
                break
    else:
        return
    raise ValueError(
        f"DST: {printable(owner)} and {printable(user)} would have the same mailbox, in which "
        "messages with equal unique-ids are one; write %u, or %d and %n, in its path"
    )


def _show_message(show: Callable[[str], object], position: int, count: int) -> None:
    show(f"message {position + 1} of {count}")


def _messages(count: int) -> str:
    return f"{count} message{'' if count == 1 else 's'}"


@contextmanager
def _printed_warnings(user: bytes, progress: Progress) -> Iterator[list[LogEvent]]:
    """Print what stores log as warnings, as of messages that they skip; yield a list of them."""
    warnings: list[LogEvent] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        level = event.get("log_level")
        if level is not None and level >= LogLevel.warn:
            warnings.append(event)
            progress.clear()
            print_warning(user, formatEvent(event))

    globalLogPublisher.addObserver(observe)
    try:
        yield warnings
    finally:
        globalLogPublisher.removeObserver(observe)
