"""The options of commands that log in to other servers, and the file with the passwords."""

from __future__ import annotations

import argparse
import os

from popserv.auth.files import FileError, check_private
from popserv.migration.pop3_urls import Security
from popserv.runtime.permissions import describe


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Add the options ``--users``, ``--ca-file`` and ``--insecure``."""
    parser.add_argument(
        "--users",
        metavar="FILE",
        help="a file with lines NAME:PASSWORD, for the logins to another server",
    )
    parser.add_argument(
        "--ca-file",
        metavar="FILE",
        help="a PEM file of CA certificates for the other server; the default is those of the "
        "system",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="do not verify the certificate of the other server, and log in without TLS if the "
        "server does not offer it",
    )


def security_of(options: argparse.Namespace) -> Security:
    """Return how connections are secured.

    :raises ValueError: the file of ``--ca-file`` cannot be used.
    """
    security = Security(options.ca_file, options.insecure)
    # So that a bad file is told once, and not for each user.
    security.context()
    return security


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
    for number, line in enumerate(read_octets(path).splitlines(), 1):
        name, colon, password = line.partition(b":")
        if not line or line.startswith(b"#"):
            continue
        if not (name and colon):
            raise ValueError(f"{path}, line {number}: it is not a name, a colon and a password")
        passwords[name] = password
    return passwords


def read_octets(path: str) -> bytes:
    """Return the contents of a file.

    :raises ValueError: it cannot be read; the message names it.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ValueError(describe(error)) from error
