"""The users file, in the format of Dovecot's passwd-file.

Each line is ``name:{SCHEME}secret:uid:gid:gecos:home:shell:extra_fields``; the fields after the
second may be missing.  Blank lines and lines that start with ``#`` are ignored.  Of the fields
after the second, only the extra fields ``nologin`` and ``allow_nets`` have an effect: a user with
one of them cannot log in.  The other fields are for other programs.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from twisted.logger import Logger

from popserv.auth.files import FileError, check_private, fingerprint
from popserv.auth.names import prepared_name
from popserv.auth.passwords.schemes import is_apop, is_empty, scheme_of

_log = Logger()


class UsersFileError(FileError):
    """The users file cannot be used or changed; the message names the file and the remedy."""


def default_path(root: str) -> str:
    """Return the default path of the users file for the maildrops below ``root``."""
    return os.path.join(root, ".users")


class Users(NamedTuple):
    """The content of a users file.

    ``password_fields`` maps the names of the users who can log in to their password fields.
    ``passwords`` has those of the fields that a password can match: fields with a secret of
    another scheme than APOP.  ``schemes`` has the schemes of ``passwords``.  ``has_apop`` tells
    whether a user has an APOP secret.  ``names`` has all users, also those who cannot log in.

    All of this is computed when the file is read, because each greeting depends on it.
    """

    password_fields: dict[bytes, bytes]
    passwords: list[bytes]
    schemes: frozenset[bytes]
    has_apop: bool
    names: frozenset[bytes]

    def has_only_schemes(self, schemes: frozenset[bytes]) -> bool:
        """Return whether there are passwords, and each has one of these schemes."""
        return bool(self.schemes) and self.schemes <= schemes

    def find(self, name: bytes) -> tuple[bytes | None, bytes | None]:
        """Return a user's name as in the file, and the password field; or None and None.

        ``name`` may be the name in the file or another spelling of it (RFC 8265).
        """
        for candidate in (name, prepared_name(name)):
            if candidate in self.password_fields:
                return candidate, self.password_fields[candidate]
        return None, None


_NO_USERS = Users({}, [], frozenset(), False, frozenset())


class UsersFile:
    """A users file, which is read again when it changes.  It is thread-safe."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._cached: tuple[tuple[int, ...], Users] = ((), _NO_USERS)

    def read(self) -> Users:
        """Return the current content of the file; if it has never existed, there are no users.

        :raises UsersFileError: the file cannot be read, has been removed, or is accessible to
            users other than its owner and its group.
        """
        cached_fingerprint, users = self._cached
        try:
            status = os.stat(self.path)
            if cached_fingerprint != fingerprint(status):
                with open(self.path, "rb") as file:
                    status = os.fstat(file.fileno())
                    check_private(self.path, status.st_mode)
                    users = _parse(self.path, file.read())
                    self._cached = (fingerprint(status), users)
        except FileNotFoundError:
            if cached_fingerprint:
                raise UsersFileError(f"{self.path} has been removed") from None
            return _NO_USERS
        except FileError as error:
            raise UsersFileError(str(error)) from None
        except OSError as error:
            raise UsersFileError(f"cannot read {self.path}: {error.strerror}") from error
        return users


def _parse(path: str, text: bytes) -> Users:
    password_fields: dict[bytes, bytes] = {}
    names: set[bytes] = set()
    for number, line in enumerate(text.split(b"\n"), 1):
        line = line.removesuffix(b"\r")
        if not line.strip() or line.startswith(b"#"):
            continue
        name, colon, rest = line.partition(b":")
        field, _, other_fields = rest.partition(b":")
        reason = _reason_against_login(name, colon, other_fields, names)
        names.add(name)
        if reason:
            # The line itself is not logged: it contains a secret.
            _log.warn("{path}, line {number}: {reason}", path=path, number=number, reason=reason)
        else:
            password_fields[name] = field
    # A user without a secret can log in with a client certificate.
    fields = password_fields.values()
    passwords = [field for field in fields if not (is_apop(field) or is_empty(field))]
    has_apop = any(map(is_apop, fields))
    schemes = frozenset(map(scheme_of, passwords))
    return Users(password_fields, passwords, schemes, has_apop, frozenset(names))


_NO_LOGIN = re.compile(rb"(?:^|[\s:])(nologin|allow_nets)(?:=|\s|$)")


def _reason_against_login(
    name: bytes, colon: bytes, other_fields: bytes, earlier_names: set[bytes]
) -> str | None:
    """Return why the user of a line cannot log in, or None."""
    if not colon or not name:
        return "line ignored, it must be name:{SCHEME}secret"
    if name in earlier_names:
        return f"line ignored, {name!r} is already on an earlier line"
    match = _NO_LOGIN.search(other_fields)
    if match:
        return f"{name!r} cannot log in: {match[1].decode()} is set"
    return None
