"""The users file: Dovecot's passwd-file format, ``name:{SCHEME}secret:...``, a user a line.

Lines that start with ``#`` and empty ones are passed over.  Of the fields behind
the secret only the extra fields that shut a user out count: ``nologin`` and
``allow_nets``; the rest is for other programs.
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
    """The users file cannot be used; the message says what mends it."""


def default_path(root: str) -> str:
    """Return where the users of the maildrops below ``root`` are, unless said otherwise."""
    return os.path.join(root, ".users")


class Users(NamedTuple):
    """What a users file said.

    ``secrets`` is each user's password field, ``passwords`` those fields that are for
    passwords, and ``schemes`` what schemes these are of; ``has_apop`` tells whether some
    user has an APOP secret.  ``names`` are all users, with those who cannot log in.
    All is known once and for all, for it is asked at each greeting.
    """

    secrets: dict[bytes, bytes]
    passwords: list[bytes]
    schemes: frozenset[bytes]
    has_apop: bool
    names: frozenset[bytes]

    def all_of(self, schemes: frozenset[bytes]) -> bool:
        """Tell whether there are passwords, and all are of one of these schemes."""
        return bool(self.schemes) and self.schemes <= schemes

    def find(self, name: bytes) -> tuple[bytes | None, bytes | None]:
        """Return the name that a user has in the file, and the password field; or None and None."""
        for form in (name, prepared_name(name)):
            if form in self.secrets:
                return form, self.secrets[form]
        return None, None


_NOBODY = Users({}, [], frozenset(), False, frozenset())


class UsersFile:
    """The users, re-read whenever the file changes.  Safe to ask from any thread."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._known: tuple[tuple[int, ...], Users] = ((), _NOBODY)

    def read(self) -> Users:
        """Return the users as the file has them now; no file is no users.

        :raises UsersFileError: the file cannot be read, or everybody can.
        """
        stamp, users = self._known
        try:
            found = os.stat(self.path)
            if stamp != fingerprint(found):
                with open(self.path, "rb") as file:
                    found = os.fstat(file.fileno())
                    check_private(self.path, found.st_mode)
                    users = _parse(self.path, file.read())
                    self._known = (fingerprint(found), users)
        except FileNotFoundError:
            if stamp:
                raise UsersFileError(f"{self.path} has been removed") from None
            return _NOBODY
        except FileError as error:
            raise UsersFileError(str(error)) from None
        except OSError as error:
            raise UsersFileError(f"cannot read {self.path}: {error.strerror}") from error
        return users


def _parse(path: str, text: bytes) -> Users:
    secrets: dict[bytes, bytes] = {}
    seen: set[bytes] = set()
    for number, line in enumerate(text.split(b"\n"), 1):
        line = line.removesuffix(b"\r")
        if not line.strip() or line.startswith(b"#"):
            continue
        name, colon, fields = line.partition(b":")
        secret, _, others = fields.partition(b":")
        problem = _problem(name, colon, others, seen)
        seen.add(name)
        if problem:
            # Never the line itself: it holds a secret.
            _log.warn("{path}, line {number}: {why}", path=path, number=number, why=problem)
        else:
            secrets[name] = secret
    # A record without a secret is for a client certificate.
    passwords = [field for field in secrets.values() if not (is_apop(field) or is_empty(field))]
    has_apop = any(map(is_apop, secrets.values()))
    return Users(
        secrets, passwords, frozenset(map(scheme_of, passwords)), has_apop, frozenset(seen)
    )


_SHUT_OUT = re.compile(rb"(?:^|[\s:])(nologin|allow_nets)(?:=|\s|$)")


def _problem(name: bytes, colon: bytes, others: bytes, known: set[bytes]) -> str | None:
    """Return why a line gives nobody a login, or None."""
    if not colon or not name:
        return "not of the form name:{SCHEME}secret, passed over"
    if name in known:
        return f"{name!r} stands further up already, passed over"
    shut_out = _SHUT_OUT.search(others)
    if shut_out:
        return f"{name!r} cannot log in: {shut_out[1].decode()} is set"
    return None
