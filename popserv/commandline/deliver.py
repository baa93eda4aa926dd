"""``popserv deliver``: delivers a message from standard input, for pipes of other programs.

These programs understand the exit codes of sysexits.h, and may send what is printed to whoever has
sent the message: why a delivery has failed is in the system's log, and on a terminal.
"""

from __future__ import annotations

import argparse
import os
import sys
import syslog
from shutil import copyfileobj
from typing import Any, BinaryIO

from popserv.auth.names import check_name
from popserv.commandline.reacting import run_in_reactor
from popserv.core.printable import one_line
from popserv.core.user_settings import NO_SETTINGS
from popserv.delivery.events import cause_of
from popserv.delivery.incoming import return_path
from popserv.delivery.outcomes import NO_SUCH_USER, REFUSED, TOO_LARGE, reply_to
from popserv.errors import TryLater, UnknownRecipient
from popserv.interfaces import IFinalDelivery
from popserv.maildrops.kinds import make_store
from popserv.maildrops.settings import StoreSettings
from popserv.maildrops.spooling import spool_file

EXIT_CODES = {NO_SUCH_USER: os.EX_NOUSER, REFUSED: os.EX_DATAERR, TOO_LARGE: os.EX_DATAERR}
"""The exit codes of permanent failures; all others are temporary."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments to the parser of ``popserv deliver``.

    It sets ``run``, a function of the parsed options, which returns the exit code.
    """
    parser.add_argument("user", metavar="USER", help="the user whose maildrop gets the message")
    stores = parser.add_mutually_exclusive_group(required=True)
    stores.add_argument(
        "--maildir", metavar="PATH", help="the directory, or the path, of the Maildirs"
    )
    stores.add_argument("--mbox", metavar="PATH", help="those of the mbox files")
    stores.add_argument(
        "--store", metavar="STORE", help="the store, as --store of twistd pop3 names it"
    )
    parser.add_argument(
        "--sender",
        metavar="ADDRESS",
        help="the sender for the field Return-Path, empty for a bounce; the default is to add no "
        "such field",
    )
    parser.add_argument(
        "--create",
        action="store_true",
        help="create the maildrop if there is none; the default is that there is no such user then",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Deliver the message on standard input, and return the exit code."""
    try:
        sender = _parse_sender(options.sender)
    except ValueError as error:
        print(f"popserv: {error}", file=sys.stderr)
        return os.EX_USAGE
    try:
        store = _make_store(options)
        with spool_file() as message:
            _read(sys.stdin.buffer, message, sender)
            user = os.fsencode(options.user)
            run_in_reactor(_deliver(store, user, message, is_created=options.create))
    except (Exception, KeyboardInterrupt) as error:
        return _report(options.user, error)
    return os.EX_OK


def _report(user: str, error: BaseException) -> int:
    """Say that a delivery has failed, and return the exit code."""
    failure = error if isinstance(error, Exception) else InterruptedError("interrupted")
    reply, cause = reply_to(failure), cause_of(failure)
    syslog.openlog("popserv", syslog.LOG_PID, syslog.LOG_MAIL)
    syslog.syslog(syslog.LOG_WARNING, one_line(f'message not delivered to "{user}": {cause}'))
    print(f"{reply.status} {reply.text}", file=sys.stderr)
    if _is_on_terminal():
        print(f"popserv: {cause}", file=sys.stderr)
    return EXIT_CODES.get(reply, os.EX_TEMPFAIL)


def _is_on_terminal() -> bool:
    return sys.stderr.isatty()


def _parse_sender(sender: str | None) -> bytes | None:
    if sender is None:
        return None
    octets = os.fsencode(sender.removeprefix("<").removesuffix(">"))
    if any(octet < 0x20 or octet == 0x7F for octet in octets) or b">" in octets:
        raise ValueError(f"--sender: {one_line(sender)} is not an address")
    return octets


def _make_store(options: argparse.Namespace) -> Any:
    """Return the store of the options.

    :raises TryLater: it cannot be made, or takes no new mail.  Mail must not be returned because
        the file system of the store is not there, or because of a mistake in the configuration.
    """
    description = options.store
    for kind in ("maildir", "mbox"):
        path = getattr(options, kind)
        if path is not None:
            description = f"{kind}:{path}"
    name = description.partition(":")[0]
    try:
        store = make_store(description, StoreSettings(cache_messages=0, as_owners=True))
    except ValueError as error:
        raise TryLater from OSError(f"{name}: {error}")
    if not IFinalDelivery.providedBy(store):
        raise TryLater from OSError(f"{name}: this kind of store takes no new mail")
    return store


def _read(source: BinaryIO, message: BinaryIO, sender: bytes | None) -> None:
    """Read the message, without the From_ line that some programs put before it."""
    if sender is not None:
        message.write(return_path(sender))
    first = source.readline()
    if not first.startswith(b"From "):
        message.write(first)
    copyfileobj(source, message)


async def _deliver(store: Any, user: bytes, message: BinaryIO, *, is_created: bool) -> None:
    try:
        check_name(user)
    except ValueError as error:
        raise UnknownRecipient(str(error)) from error
    if not (is_created or await store.has_maildrop(user, NO_SETTINGS)):
        raise UnknownRecipient("there is no maildrop; give --create for a new user")
    await store.deliver_new(user, NO_SETTINGS, message)
