"""Where the users of ``popserv user`` are: in a users file, or in the database of a store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from popserv.auth.passwords.user_changes import Change
from popserv.auth.passwords.users_file import Users, UsersFile, UsersFileError
from popserv.auth.passwords.users_file_editing import change_user, read_records
from popserv.runtime.permissions import reason_of


class Listing(NamedTuple):
    """All users, and their records by their names."""

    users: Users
    records: Mapping[bytes, bytes]


class UserPlace(Protocol):
    """Where users are; each method raises UsersFileError if it cannot be used."""

    @property
    def where(self) -> str:
        """The file of the place, for messages."""

    def change(self, name: bytes, change: Change, *, creates: bool = False) -> None:
        """Change a user; with ``creates`` the place may be new."""

    def read(self) -> Listing:
        """Return the users."""


class UsersFilePlace:
    """The users file at a path."""

    def __init__(self, path: str) -> None:
        self.where = path

    def change(self, name: bytes, change: Change, *, creates: bool = False) -> None:
        """See UserPlace."""
        if not creates:
            self._records()
        change_user(self.where, name, change)

    def read(self) -> Listing:
        """See UserPlace."""
        records = self._records()
        return Listing(UsersFile(self.where).read(), records)

    def _records(self) -> dict[bytes, bytes]:
        try:
            return read_records(self.where)
        except FileNotFoundError:
            problem = f"{self.where} does not exist; popserv user add creates it"
            raise UsersFileError(problem) from None
        except OSError as error:
            raise UsersFileError(f"cannot read {self.where}: {reason_of(error)}") from error
