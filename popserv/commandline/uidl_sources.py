"""The source of unique-ids that ``--from`` of ``popserv uidl`` names."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import AbstractContextManager

from popserv.commandline.server_options import read_passwords, security_of
from popserv.core.printable import printable
from popserv.maildrops.maildir.unique_ids.format import UniqueIdFormat
from popserv.migration import unique_id_file
from popserv.migration.pop3_urls import ServerAddress
from popserv.migration.remote_side import RemoteMaildrop, logged_in
from popserv.migration.unique_id_sources import (
    FileSource,
    ListSource,
    RemoteSide,
    ServerSource,
    Source,
)
from popserv.runtime.permissions import describe


def make_source(options: argparse.Namespace) -> tuple[Source, Sequence[bytes] | None]:
    """Return the source, and the users that it has; None if it has any.

    :raises ValueError: an option is invalid, or a file cannot be read.
    """
    name = options.source
    if "://" in name:
        return _server(options)
    if options.users or options.ca_file or options.insecure:
        raise ValueError(
            "--users, --ca-file and --insecure require --from pop3s://HOST or pop3://HOST"
        )
    if name in ("dovecot", "courier") or "%" in name:
        try:
            return ListSource(UniqueIdFormat(name)), None
        except ValueError as error:
            raise ValueError(f"--from {name}: {error}") from error
    try:
        with open(name, "rb") as file:
            users = unique_id_file.decode(file.read().splitlines())
    except FileNotFoundError as error:
        raise ValueError(
            f"--from {name}: {describe(error)}; give the file of popserv uidl export, dovecot, "
            "courier, a template such as %v.%u, or pop3s://HOST"
        ) from error
    except (OSError, ValueError) as error:
        text = describe(error) if isinstance(error, OSError) else str(error)
        raise ValueError(f"--from {name}: {text}") from error
    if not users:
        raise ValueError(f"--from {name}: the file has no line")
    return FileSource(users), sorted(users)


def _server(options: argparse.Namespace) -> tuple[Source, Sequence[bytes]]:
    try:
        address = ServerAddress.from_url(options.source)
    except ValueError as error:
        raise ValueError(f"--from: {error}") from error
    if not options.users:
        raise ValueError(f"--from {options.source} requires --users FILE, lines NAME:PASSWORD")
    security = security_of(options)
    passwords = read_passwords(options.users)

    def connect(user: bytes) -> AbstractContextManager[RemoteSide]:
        if user not in passwords:
            raise ValueError(f"--users: {options.users} has no password of {printable(user)}")
        session: AbstractContextManager[RemoteMaildrop] = logged_in(
            address, security, user, passwords[user]
        )
        return session

    return ServerSource(connect), list(passwords)
