"""A user as checkers know one: the name, the secret, and the rules of the extra fields."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from zope.interface import implementer

from popserv.auth.users.extra_fields import Rules
from popserv.core.user_settings import ConfiguredUser, avatar_id
from popserv.interfaces import IUserLookup


class User(NamedTuple):
    """A user: the name, the password field as in the users file, and the rules for logins.

    The password field is empty if another program verifies the password.
    """

    name: bytes
    password_field: bytes
    rules: Rules

    @property
    def maildrop(self) -> bytes:
        """The name of the user whose maildrop is opened."""
        return self.rules.maildrop or self.name

    @property
    def avatar_id(self) -> bytes | ConfiguredUser:
        """What a checker returns for the user."""
        return avatar_id(self.maildrop, self.rules.settings)


@implementer(IUserLookup)
class UserDirectory(ABC):
    """A checker that can look users up, and knows their rules."""

    async def knows(self, name: bytes) -> bool:
        """See :class:`popserv.interfaces.IUserLookup`."""
        return await self.find(name) is not None

    @abstractmethod
    async def find(self, name: bytes) -> User | None:
        """Return the user whom a client means by a name, or None.

        :raises popserv.errors.TryLater: the users cannot be looked up.
        """
