"""The users file, in the format of Dovecot's passwd-file.

Each line is ``name:{SCHEME}secret:uid:gid:gecos:home:shell:extra_fields``; the fields after the
second may be missing.  Blank lines and lines that start with ``#`` are ignored.  Of the fields
after the second, only the extra fields have an effect; :mod:`popserv.auth.users.extra_fields`
evaluates them.
"""

from __future__ import annotations

import codecs
import math
import os
import time
from collections.abc import Callable
from typing import NamedTuple

from twisted.logger import Logger

from popserv.auth.names import CaseInsensitiveNames, prepared_name
from popserv.auth.passwords.schemes import has_password, is_apop, is_supported, scheme_of
from popserv.auth.users.extra_fields import parse_rules
from popserv.auth.users.user import User
from popserv.core.printable import printable
from popserv.runtime.config_files import FileError, check_private, fingerprint
from popserv.runtime.permissions import reason_of

_log = Logger()

MAX_AGE = 0.1
"""Seconds for which a greeting or a command may use the users without a look at the file."""


class UsersFileError(FileError):
    """The users file cannot be used or changed; the message names the file and the remedy."""


def default_path(root: str) -> str:
    """Return the default path of the users file for the maildrops below ``root``."""
    return os.path.join(root, ".users")


class Problem(NamedTuple):
    """Something in a users file that keeps a user from logging in, or that is a mistake.

    ``is_ignored`` tells whether the whole line has no effect.
    """

    line: int
    text: str
    is_ignored: bool = False


class Users:
    """The content of a users file.

    ``by_name`` has all users.  ``password_fields`` maps the names of those who can log in to their
    password fields.  ``passwords`` has those of the fields that a password can match, and
    ``schemes`` their schemes.  ``has_users`` tells whether somebody can log in, ``has_passwords``
    whether by password, and ``has_apop`` whether a user has an APOP secret.

    All of this is computed when the file is read, because each greeting depends on it.
    """

    def __init__(self, users: list[User], problems: list[Problem]) -> None:
        self.by_name = {user.name: user for user in users}
        self.problems = problems
        allowed = [user for user in users if not user.rules.refusal]
        self.password_fields = {user.name: user.password_field for user in allowed}
        # A user without a secret can log in with a client certificate.
        self.passwords = [*filter(has_password, self.password_fields.values())]
        self.schemes = frozenset(map(scheme_of, self.passwords))
        self.has_users = bool(self.password_fields)
        self.has_passwords = bool(self.passwords)
        self.has_apop = any(map(is_apop, self.password_fields.values()))
        self._names = CaseInsensitiveNames(self.by_name)

    def has_only_schemes(self, schemes: frozenset[bytes]) -> bool:
        """Return whether there are passwords, and each has one of these schemes."""
        return bool(self.schemes) and self.schemes <= schemes

    def find(self, name: bytes) -> User | None:
        """Return the user whom a client means by a name, or None.

        It is the name in the file, or another spelling of it (RFC 8265), or the only name in the
        file that differs from these in the case of ASCII letters.
        """
        # All spellings are looked up, so that a name in the file takes as long as another one.
        found = self._names.find(name, prepared_name(name))
        return None if found is None else self.by_name[found]


class UsersFile:
    """A users file, which is read again when it changes.  It is thread-safe.

    ``monotonic`` is a clock in seconds.
    """

    def __init__(self, path: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.path = os.path.abspath(path)
        self._monotonic = monotonic
        self._cached: tuple[tuple[int, ...], Users] = ((), Users([], []))
        self.expire()

    async def find(self, name: bytes) -> User | None:
        """See :class:`popserv.auth.passwords.sources.UserSource`.

        :raises UsersFileError: as :meth:`read`.
        """
        return self.read().find(name)

    def secrets(self) -> Users:
        """See :class:`popserv.auth.passwords.sources.UserSource`."""
        return self.read_recent()

    def read_recent(self) -> Users:
        """Return the content of the file as of the last ``MAX_AGE`` seconds; see :meth:`read`."""
        return self._cached[1] if self._monotonic() < self._current_until else self.read()

    def expire(self) -> None:
        """Let the next :meth:`read_recent` look at the file."""
        self._current_until = -math.inf

    def read(self) -> Users:
        """Return the current content of the file; if it has never existed, there are no users.

        :raises UsersFileError: the file cannot be read, has been removed, or is accessible to
            users other than its owner and its group.
        """
        now = self._monotonic()
        cached_fingerprint, users = self._cached
        try:
            status = os.stat(self.path)
            if cached_fingerprint != fingerprint(status):
                with open(self.path, "rb") as file:
                    status = os.fstat(file.fileno())
                    check_private(self.path, status.st_mode)
                    users = parse_users(file.read())
                    self._log_problems(users)
                    self._cached = (fingerprint(status), users)
        except FileNotFoundError:
            if cached_fingerprint:
                raise UsersFileError(f"{self.path} has been removed") from None
        except FileError as error:
            raise UsersFileError(str(error)) from None
        except OSError as error:
            raise UsersFileError(f"cannot read {self.path}: {reason_of(error)}") from error
        self._current_until = now + MAX_AGE
        return users

    def _log_problems(self, users: Users) -> None:
        for problem in users.problems:
            # The line itself is not logged: it contains a secret.
            _log.warn(
                "{path}, line {line}: {problem}",
                path=self.path,
                line=problem.line,
                problem=problem.text,
            )


def parse_users(text: bytes) -> Users:
    """Return the users of a file with this text.

    A byte order mark at its start is ignored, and of two lines with one name the second.
    """
    users: dict[bytes, User] = {}
    problems: list[Problem] = []
    lines = text.removeprefix(codecs.BOM_UTF8).split(b"\n")
    for number, line in enumerate(lines, 1):
        line = line.removesuffix(b"\r")
        if not line.strip() or line.startswith(b"#"):
            continue
        name, colon, rest = line.partition(b":")
        if not colon or not name:
            reason = "line ignored, it must be name:{SCHEME}secret"
            problems.append(Problem(number, reason, is_ignored=True))
        elif name in users:
            reason = f"line ignored, {printable(name)} is already on an earlier line"
            problems.append(Problem(number, reason, is_ignored=True))
        else:
            users[name] = user = parse_user(name, rest)
            problems += (Problem(number, f"{printable(name)} {each}") for each in problems_of(user))
    return Users(list(users.values()), problems)


def parse_user(name: bytes, record: bytes) -> User:
    """Return a user, of whom ``record`` is the line behind the name and the colon."""
    field, _, columns = record.partition(b":")
    return User(name, field, parse_rules(columns))


def problems_of(user: User) -> list[str]:
    """Return why a user cannot log in, or not as intended; texts that follow the user's name."""
    if user.rules.refusal:
        return [f"cannot log in: {user.rules.refusal}"]
    problems = [f"has a mistake: {warning}" for warning in user.rules.warnings]
    if not is_supported(user.password_field):
        scheme = scheme_of(user.password_field).decode("ascii")
        problems.append(f"cannot log in by password: unknown password scheme {scheme}")
    return problems
