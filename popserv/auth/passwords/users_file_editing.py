"""Functions that edit a users file: set a user's secret or extra fields, remove a user.

An edit replaces the file by an edited copy, so a reader sees the whole old file or the whole new
one.  Writers in several processes exclude each other by ``flock`` on the directory.
"""

from __future__ import annotations

import codecs
import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from popserv.auth.names import check_name
from popserv.auth.passwords.users_file import UsersFileError
from popserv.auth.users.extra_fields import (
    EVALUATED,
    PREFIX,
    REFUSING,
    name_of,
    parse_rules,
    split_columns,
)
from popserv.core.printable import printable
from popserv.runtime.permissions import reason_of


def set_secret(path: str, name: bytes, field: bytes, *, new: bool) -> None:
    """Add a user (``new``), or change a user's password field and keep the rest of the line.

    ``field`` is the whole password field, with the scheme.

    :raises UsersFileError: a new user exists already, another user does not exist, or the file
        cannot be written.
    :raises ValueError: the name is not a valid user name.
    """
    check_name(name)

    def edit(lines: list[bytes]) -> list[bytes]:
        index = _find(lines, name)
        if new:
            if index is not None:
                raise UsersFileError(
                    f"user {os.fsdecode(name)} is already in {path}; "
                    "to change the password, use: popserv user passwd"
                )
            return [*lines, name + b":" + field]
        if index is None:
            raise UsersFileError(
                f"user {os.fsdecode(name)} is not in {path}; to add the user, use: popserv user add"
            )
        _, _, others = lines[index].split(b":", 1)[1].partition(b":")
        line = name + b":" + field + (b":" + others if others else b"")
        return [*lines[:index], line, *lines[index + 1 :]]

    _rewrite(path, edit)


def set_fields(path: str, name: bytes, words: Sequence[bytes]) -> None:
    """Set extra fields of a user, and keep the others and the rest of the line.

    Each of ``words`` is ``name=value`` or ``name``, or ``name=`` to remove the field.

    :raises UsersFileError: the user does not exist, the line is of an older format, or the file
        cannot be written.
    :raises ValueError: a field is not one, or refuses the user and does not mean to; the message
        says why.
    """
    for word in words:
        _check_field(word)
    changed = {name_of(word) for word in words}
    added = [word for word in words if not word.endswith(b"=")]

    def change(fields: list[bytes]) -> list[bytes]:
        return [word for word in fields if name_of(word) not in changed] + added

    _change_fields(path, name, change)


def enable_user(path: str, name: bytes) -> None:
    """Remove the extra fields by which :func:`disable_user` and others have disabled a user.

    :raises UsersFileError: as :func:`set_fields`, or another field refuses the user.
    """

    def change(fields: list[bytes]) -> list[bytes]:
        kept = [word for word in fields if name_of(word) not in DISABLING]
        refusal = parse_rules(b":::::" + b" ".join(kept)).refusal
        if refusal:
            raise UsersFileError(f"{os.fsdecode(name)} cannot log in for another reason: {refusal}")
        return kept

    _change_fields(path, name, change)


def disable_user(path: str, name: bytes) -> None:
    """Set ``nologin``, so that a user cannot log in, here and to Dovecot.

    :raises UsersFileError: as :func:`set_fields`.
    """
    set_fields(path, name, [b"nologin"])


DISABLING = ("nologin", f"{PREFIX}nologin")
"""The fields that disable a user, and are meant to."""


def effective_fields(path: str) -> dict[bytes, list[bytes]]:
    """Return the extra fields of each user that have an effect, as in the file.

    Of those that refuse whatever their value, only the name is returned: it may be a secret.

    :raises OSError: the file cannot be read.
    """
    fields: dict[bytes, list[bytes]] = {}
    with open(path, "rb") as file:
        for line in file.read().removeprefix(codecs.BOM_UTF8).split(b"\n"):
            name, _, _, columns = _split_line(line)
            words = [(name_of(word), word) for word in split_columns(columns)[1].split()]
            fields.setdefault(
                name,
                [
                    word if field in EVALUATED else field.encode()
                    for field, word in words
                    if field in EVALUATED or field in REFUSING
                ],
            )
    return fields


def _split_line(line: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Return the name, the password field, the line end and the columns after them."""
    text = line.removesuffix(b"\r")
    name, _, rest = text.partition(b":")
    field, _, columns = rest.partition(b":")
    return name, field, line[len(text) :], columns


def _check_field(word: bytes) -> None:
    if not re.fullmatch(rb"[^\s=]+(=[^\s]*)?", word):
        shown = printable(word)
        raise ValueError(f'"{shown}" must be FIELD, FIELD=VALUE or FIELD=, without spaces')
    refusal = "" if word.endswith(b"=") else parse_rules(b":::::" + word).refusal
    if refusal and refusal not in [f"{each} is set" for each in DISABLING]:
        raise ValueError(f"{refusal}; nothing was changed")


def _change_fields(path: str, name: bytes, change: Callable[[list[bytes]], list[bytes]]) -> None:
    def edit(lines: list[bytes]) -> list[bytes]:
        index = _find(lines, name)
        if index is None:
            raise UsersFileError(f"user {os.fsdecode(name)} is not in {path}")
        _, field, end, columns = _split_line(lines[index])
        others, extra = split_columns(columns)
        if len(others) > 5:
            raise UsersFileError(
                f"the line of {os.fsdecode(name)} in {path} has a ninth field, and no eighth one; "
                "remove it, or edit the file yourself"
            )
        words = change(extra.split())
        columns = b":".join(others)
        if words:
            columns += b":" * (5 - columns.count(b":")) + b" ".join(words)
        else:
            columns = columns.rstrip(b":")
        line = b":".join([name, field, *([columns] if columns else [])]) + end
        return [*lines[:index], line, *lines[index + 1 :]]

    _rewrite(path, edit)


def remove_user(path: str, name: bytes) -> None:
    """Remove a user from the file; the maildrop stays.

    :raises UsersFileError: the user does not exist, or the file cannot be written.
    """

    def edit(lines: list[bytes]) -> list[bytes]:
        if _find(lines, name) is None:
            raise UsersFileError(f"user {os.fsdecode(name)} is not in {path}")
        return [line for line in lines if not line.startswith(name + b":")]

    _rewrite(path, edit)


def _find(lines: list[bytes], name: bytes) -> int | None:
    start = name + b":"
    return next((index for index, line in enumerate(lines) if line.startswith(start)), None)


def _rewrite(path: str, edit: Callable[[list[bytes]], list[bytes]]) -> None:
    """Replace the file by its edited lines, atomically."""
    path = os.path.realpath(path)
    directory = os.path.dirname(path)
    try:
        with _locked(directory) as directory_fd:
            try:
                with open(path, "rb") as file:
                    owner = os.fstat(file.fileno())
                    text = file.read()
                    mark = codecs.BOM_UTF8 if text.startswith(codecs.BOM_UTF8) else b""
                    text = text.removeprefix(mark)
                    lines = text.removesuffix(b"\n").split(b"\n") if text else []
                    mode = stat.S_IMODE(owner.st_mode) & 0o660
            except FileNotFoundError:
                # A new file belongs to the owner of the directory: the server's user.
                owner, mark, lines, mode = os.fstat(directory_fd), b"", [], 0o600
            text = b"\n".join(edit(lines))
            _replace(path, directory, mark + (text + b"\n" if text else b""), owner, mode)
            os.fsync(directory_fd)
    except OSError as error:
        raise UsersFileError(f"cannot write {path}: {reason_of(error)}") from error


def _replace(path: str, directory: str, text: bytes, owner: os.stat_result, mode: int) -> None:
    fd, temporary = tempfile.mkstemp(prefix=".users-", dir=directory)
    try:
        with open(fd, "wb") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if os.geteuid() == 0:
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
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
