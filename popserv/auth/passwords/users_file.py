"""The users file: Dovecot's passwd-file format, ``name:{SCHEME}secret:...``, a user a line.

Lines that start with ``#`` and empty ones are passed over.  Of the fields behind
the secret only the extra fields that shut a user out count: ``nologin`` and
``allow_nets``; the rest is for other programs.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from twisted.logger import Logger

from popserv.auth.files import FileError, check_private, fingerprint
from popserv.auth.names import check_name
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


def set_secret(path: str, name: bytes, field: bytes, *, new: bool) -> None:
    """Add a user (``new``) or change one's password field; the rest of the line stays.

    :raises UsersFileError: the user is there already, or is not there.
    :raises ValueError: the name is not valid.
    """
    check_name(name)

    def edit(lines: list[bytes]) -> list[bytes]:
        at = _find(lines, name)
        if new:
            if at is not None:
                raise UsersFileError(
                    f"{os.fsdecode(name)} is in {path} already; see: popserv user passwd"
                )
            return [*lines, name + b":" + field]
        if at is None:
            raise UsersFileError(f"{os.fsdecode(name)} is not in {path}; see: popserv user add")
        _, _, others = lines[at].split(b":", 1)[1].partition(b":")
        changed = name + b":" + field + (b":" + others if others else b"")
        return [*lines[:at], changed, *lines[at + 1 :]]

    _rewrite(path, edit)


def remove_user(path: str, name: bytes) -> None:
    """Take a user out; the maildrop stays.

    :raises UsersFileError: there is no such user.
    """

    def edit(lines: list[bytes]) -> list[bytes]:
        if _find(lines, name) is None:
            raise UsersFileError(f"{os.fsdecode(name)} is not in {path}")
        return [line for line in lines if not line.startswith(name + b":")]

    _rewrite(path, edit)


def _find(lines: list[bytes], name: bytes) -> int | None:
    start = name + b":"
    return next((at for at, line in enumerate(lines) if line.startswith(start)), None)


def _rewrite(path: str, edit: Callable[[list[bytes]], list[bytes]]) -> None:
    """Replace the file by its edited lines, so that a reader sees the old or the new whole."""
    path = os.path.realpath(path)
    directory = os.path.dirname(path)
    try:
        with _locked(directory) as directory_fd:
            try:
                with open(path, "rb") as file:
                    like = os.fstat(file.fileno())
                    text = file.read()
                    lines = text.removesuffix(b"\n").split(b"\n") if text else []
                    mode = stat.S_IMODE(like.st_mode) & 0o660
            except FileNotFoundError:
                # Whoever owns the maildrops is who the server runs as.
                like, lines, mode = os.fstat(directory_fd), [], 0o600
            text = b"\n".join(edit(lines))
            _replace(path, directory, text + b"\n" if text else b"", like, mode)
            os.fsync(directory_fd)
    except OSError as error:
        raise UsersFileError(f"cannot write {path}: {error.strerror}") from error


def _replace(path: str, directory: str, text: bytes, like: os.stat_result, mode: int) -> None:
    fd, temporary = tempfile.mkstemp(prefix=".users-", dir=directory)
    try:
        with open(fd, "wb") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if os.geteuid() == 0:
                os.fchown(file.fileno(), like.st_uid, like.st_gid)
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@contextmanager
def _locked(directory: str) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)
