"""Changes of a user's *record*, a line of a users file behind the name, wherever users are."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

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

Change = Callable[[bytes | None], bytes | None]
"""Returns a new record for the old one; None stands for no such user."""

DISABLING = ("nologin", f"{PREFIX}nologin")
"""The fields that disable a user, and are meant to."""


class UserChanges:
    """The changes that can be made of a user.

    ``where`` names the place of the users for messages.  A change raises UsersFileError if the user
    has no record that it could be made of, or has one, and should not.
    """

    def __init__(self, name: bytes, where: str) -> None:
        self.name = name
        self._shown = os.fsdecode(name)
        self._where = where

    def add(self, field: bytes) -> Change:
        """Return a change that adds the user, with a password field.

        :raises ValueError: the name is not a valid user name.
        """
        check_name(self.name)

        def change(record: bytes | None) -> bytes:
            if record is not None:
                raise UsersFileError(
                    f"user {self._shown} is already in {self._where}; "
                    "to change the password, use: popserv user passwd"
                )
            return field

        return change

    def set_secret(self, field: bytes) -> Change:
        """Return a change of the password field, which keeps the rest of the record.

        :raises ValueError: the name is not a valid user name.
        """
        check_name(self.name)

        def change(record: bytes | None) -> bytes:
            old = self._existing(record, "; to add the user, use: popserv user add")
            _, colon, columns = old.partition(b":")
            return field + (colon + columns if columns else b"")

        return change

    def set_fields(self, words: Sequence[bytes]) -> Change:
        """Return a change of extra fields, which keeps the others and the rest of the record.

        Each of ``words`` is ``name=value`` or ``name``, or ``name=`` to remove the field.

        :raises ValueError: a field is not one, or refuses the user and does not mean to; the
            message says why.
        """
        for word in words:
            _check_field(word)
        changed = {name_of(word) for word in words}
        added = [word for word in words if not word.endswith(b"=")]
        return self._change_fields(
            lambda fields: [word for word in fields if name_of(word) not in changed] + added
        )

    def enable(self) -> Change:
        """Return a change that removes the fields by which a user is disabled on purpose."""
        remove = self._change_fields(
            lambda fields: [word for word in fields if name_of(word) not in DISABLING]
        )

        def change(record: bytes | None) -> bytes:
            enabled = remove(record)
            # A field in another column refuses the user as well.
            refusal = parse_rules(enabled.partition(b":")[2]).refusal
            if refusal:
                raise UsersFileError(f"{self._shown} cannot log in for another reason: {refusal}")
            return enabled

        return change

    def disable(self) -> Change:
        """Return a change that sets ``nologin``: no login, here and to Dovecot."""
        return self.set_fields([b"nologin"])

    def remove(self) -> Change:
        """Return a change that removes the user; the maildrop stays."""

        def change(record: bytes | None) -> None:
            self._existing(record)

        return change

    def _existing(self, record: bytes | None, remedy: str = "") -> bytes:
        if record is None:
            raise UsersFileError(f"user {self._shown} is not in {self._where}{remedy}")
        return record

    def _change_fields(
        self, edit: Callable[[list[bytes]], list[bytes]]
    ) -> Callable[[bytes | None], bytes]:
        def change(record: bytes | None) -> bytes:
            field, _, columns = self._existing(record).partition(b":")
            others, extra = split_columns(columns)
            if len(others) > 5:
                raise UsersFileError(
                    f"the line of {self._shown} in {self._where} has a ninth field, and no eighth "
                    "one; remove it, or edit the file yourself"
                )
            words = edit(extra.split())
            columns = b":".join(others)
            if words:
                columns += b":" * (5 - columns.count(b":")) + b" ".join(words)
            else:
                columns = columns.rstrip(b":")
            return b":".join([field, *([columns] if columns else [])])

        return change


def effective_fields(record: bytes) -> list[bytes]:
    """Return the extra fields of a user that have an effect, as in the record.

    Of those that refuse whatever their value, only the name is returned: it may be a secret.
    """
    _, _, columns = record.partition(b":")
    words = [(name_of(word), word) for word in split_columns(columns)[1].split()]
    return [
        word if field in EVALUATED else field.encode()
        for field, word in words
        if field in EVALUATED or field in REFUSING
    ]


def _check_field(word: bytes) -> None:
    if not re.fullmatch(rb"[^\s=]+(=[^\s]*)?", word):
        shown = printable(word)
        raise ValueError(f'"{shown}" must be FIELD, FIELD=VALUE or FIELD=, without spaces')
    refusal = "" if word.endswith(b"=") else parse_rules(b":::::" + word).refusal
    if refusal and refusal not in [f"{each} is set" for each in DISABLING]:
        raise ValueError(f"{refusal}; nothing was changed")
