"""The source of unique-ids that ``--from`` of ``popserv uidl`` names."""

from __future__ import annotations

import argparse
import os
import ssl
from collections.abc import Sequence
from contextlib import AbstractContextManager

from popserv.auth.files import FileError, check_private
from popserv.core.printable import printable
from popserv.maildrops.maildir.unique_ids.format import UniqueIdFormat
from popserv.migration import unique_id_file
from popserv.migration.remote_side import RemoteMaildrop, logged_in, parse_url
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
        users = unique_id_file.decode(_read(name).splitlines())
    except ValueError as error:
        raise ValueError(f"--from {name}: {error}") from error
    return FileSource(users), sorted(users)


def _server(options: argparse.Namespace) -> tuple[Source, Sequence[bytes]]:
    if not options.users:
        raise ValueError(f"--from {options.source} requires --users FILE, lines NAME:PASSWORD")
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
    except OSError as error:
        raise ValueError(f"--ca-file {options.ca_file}: {error.strerror or error}") from error
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        server = parse_url(options.source, context, allows_plaintext=options.insecure)
    except ValueError as error:
        raise ValueError(f"--from: {error}") from error
    passwords = read_passwords(options.users)

    def connect(user: bytes) -> AbstractContextManager[RemoteSide]:
        if user not in passwords:
            raise ValueError(f"{options.users} has no password of {printable(user)}")
        session: AbstractContextManager[RemoteMaildrop] = logged_in(server, user, passwords[user])
        return session

    return ServerSource(connect), list(passwords)


def read_passwords(path: str) -> dict[bytes, bytes]:
    """Return the passwords in a file with lines ``name:password``, by name.

    :raises ValueError: the file cannot be read, is accessible to other users, or has an invalid
        line.
    """
    try:
        check_private(path, os.stat(path).st_mode)
    except FileError as error:
        raise ValueError(str(error)) from error
    except OSError as error:
        raise ValueError(describe(error)) from error
    passwords = {}
    for number, line in enumerate(_read(path).splitlines(), 1):
        name, colon, password = line.partition(b":")
        if not line or line.startswith(b"#"):
            continue
        if not (name and colon):
            raise ValueError(f"{path}, line {number}: it is not a name, a colon and a password")
        passwords[name] = password
    return passwords


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ValueError(describe(error)) from error
