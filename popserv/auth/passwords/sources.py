"""What a checker of secrets needs of the place where its users are: a file, a database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from popserv.auth.users.user import User


class Secrets(Protocol):
    """What is known of the secrets of all users, without a look-up of each."""

    @property
    def has_users(self) -> bool:
        """Whether there may be users."""

    @property
    def has_passwords(self) -> bool:
        """Whether a password may match."""

    @property
    def has_apop(self) -> bool:
        """Whether a user may have an APOP secret."""

    @property
    def passwords(self) -> Sequence[bytes]:
        """Password fields of users, or fields like them, from which decoys are chosen."""

    def has_only_schemes(self, schemes: frozenset[bytes]) -> bool:
        """Return whether there are passwords, and each has one of these schemes."""


class UserSource(Protocol):
    """The users of a checker."""

    async def find(self, name: bytes) -> User | None:
        """Return the user whom a client means by a name, or None.

        :raises popserv.errors.TryLater: the users cannot be looked up.
        :raises popserv.runtime.config_files.FileError: likewise, for a reason that is logged at
            each login.
        """

    def secrets(self) -> Secrets:
        """Return what is known of all secrets; it waits for nothing.

        :raises popserv.runtime.config_files.FileError: they cannot be known.
        """
