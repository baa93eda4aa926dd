"""The base class of checkers that ask another program whether a password is right."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.logger import Logger
from zope.interface import implementer

from popserv.auth.services.cache import RememberedPasswords
from popserv.core.connection_details import connection_details
from popserv.core.session import client_address
from popserv.interfaces import IPasswordCache, IReloadable
from popserv.runtime.coroutines import run_eagerly


class Verified(NamedTuple):
    """What the other program says about a user whose password is right.

    ``user`` is the name of the user whose maildrop is opened, and ``fields`` all that it says about
    the user, by its own names.
    """

    user: bytes
    fields: Mapping[bytes, bytes]


@implementer(ICredentialsChecker, IPasswordCache, IReloadable)
class PasswordService(ABC):
    """Checks passwords by asking another program; a subclass knows how.

    What the program has said about a password is remembered for ``cache_seconds``, for clients on
    the same address.
    """

    cache_seconds = 0.0

    credentialInterfaces: tuple[Any, ...] = (IUsernamePassword,)

    log = Logger()

    def __init__(self) -> None:
        self._remembered: RememberedPasswords[Verified] = RememberedPasswords()

    def reload(self) -> None:
        """Forget the passwords that were verified; see :class:`popserv.interfaces.IReloadable`."""
        self._remembered.clear()

    def requestAvatarId(self, credentials: ICredentials) -> Any:
        """Return the user's name, or a Deferred of it; see ICredentialsChecker.

        :raises UnauthorizedLogin: the password is wrong, or the user is refused.
        :raises popserv.errors.TryLater: the other program cannot tell now.
        """
        return run_eagerly(self.check(credentials))

    async def check(self, credentials: Any) -> bytes | tuple[()]:
        """Return the user's name; a subclass with other credentials overrides this."""
        name, password = credentials.username, credentials.password
        # A system that regards an empty password as none would accept it.
        if not name or not password:
            raise UnauthorizedLogin("the name or the password is empty")
        if b"\0" in name + password:
            raise UnauthorizedLogin("the name or the password contains NUL")
        remembered = self._remembered
        key = name, client_address.get(), connection_details.get()().is_private
        verified = remembered.find(key, password, self.cache_seconds)
        if verified is None:
            begun = remembered.begin()
            verified = await self.verify(name, password)
            if self.cache_seconds:
                remembered.add(key, password, verified, begun)
        return self.accepted(credentials, verified)

    @abstractmethod
    async def verify(self, name: bytes, password: bytes) -> Verified:
        """Return what the other program says about a user whose password this is.

        The name and the password are not empty and contain no NUL.

        :raises UnauthorizedLogin: it refuses them; the message is for the log.
        :raises popserv.errors.TryLater: it cannot tell now.
        """

    def accepted(self, credentials: Any, verified: Verified) -> bytes:
        """Record the user's name in the credentials, for the log, and return it."""
        credentials.username = verified.user
        return verified.user
