"""The options of commands that log in to other servers, and the file with the passwords."""

from __future__ import annotations

import argparse
import codecs
import getpass
import os
import sys

from popserv.auth.passwords.schemes import is_supported, scheme_of
from popserv.migration.pop3_urls import Security
from popserv.runtime.config_files import FileError, check_private
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


def read_password() -> bytes:
    """Return a password from the terminal, or the first line of standard input if that is none."""
    if sys.stdin.isatty():
        return os.fsencode(getpass.getpass())
    return sys.stdin.buffer.readline().rstrip(b"\r\n")


def read_passwords(path: str) -> dict[bytes, bytes]:
    """Return the passwords in the file of ``--users``, which has lines ``name:password``, by name.

    :raises ValueError: the file cannot be read, is accessible to other users, has an invalid line
        or no user.
    """
    try:
        with open(path, "rb") as file:
            check_private(path, os.fstat(file.fileno()).st_mode)
            # Some editors write a byte order mark, which is no part of the first name.
            lines = file.read().removeprefix(codecs.BOM_UTF8).splitlines()
    except FileError as error:
        raise ValueError(f"--users: {error}") from error
    except OSError as error:
        raise ValueError(f"--users: {describe(error)}") from error
    passwords = {}
    for number, line in enumerate(lines, 1):
        name, colon, password = line.partition(b":")
        if not line or line.startswith(b"#"):
            continue
        problem = None
        if not (name and colon):
            problem = "it is not a name, a colon and a password"
        elif name in passwords:
            problem = "this user has a line already"
        elif is_supported(password) and scheme_of(password) != b"CRYPT":
            # A users file of popserv or Dovecot, whose secrets must not be sent.
            problem = "it has the secret of a users file; write the password itself"
        if problem is not None:
            raise ValueError(f"--users: {path}, line {number}: {problem}")
        passwords[name] = password
    if not passwords:
        raise ValueError(f"--users: {path} has no line NAME:PASSWORD")
    return passwords
