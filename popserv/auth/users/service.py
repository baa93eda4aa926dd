"""The base class of checkers that ask another program or server whether a password is right."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.logger import Logger
from zope.interface import implementer

from popserv.auth.names import MAX_NAME
from popserv.auth.users.outages import Outages
from popserv.auth.users.remembered import RememberedPasswords
from popserv.auth.users.user import User
from popserv.core.connection_details import connection_details
from popserv.core.user_settings import ConfiguredUser
from popserv.interfaces import ICaching, IPasswordCache, IReloadable
from popserv.runtime.coroutines import run_eagerly


@implementer(ICredentialsChecker, ICaching, IPasswordCache, IReloadable)
class PasswordService(ABC):
    """Checks passwords by asking a program or a server; a subclass knows how.

    What was said about a password is remembered for ``cache_seconds``, for clients on the same
    address.  ``server`` says what is asked, for the log.
    """

    credentialInterfaces: tuple[Any, ...] = (IUsernamePassword,)

    log = Logger()

    def __init__(self, server: str) -> None:
        self._remembered: RememberedPasswords[User] = RememberedPasswords()
        self.cache_sizes = self._remembered.sizes
        self._outages = Outages(server)

    @property
    def cache_seconds(self) -> float:
        """See :class:`popserv.interfaces.IPasswordCache`."""
        return self._remembered.seconds

    @cache_seconds.setter
    def cache_seconds(self, seconds: float) -> None:
        self._remembered.seconds = seconds

    def reload(self) -> None:
        """Forget the passwords that were verified; see :class:`popserv.interfaces.IReloadable`."""
        self._remembered.clear()

    def requestAvatarId(self, credentials: ICredentials) -> Any:
        """Return the user's avatar ID, or a Deferred of it; see ICredentialsChecker.

        :raises UnauthorizedLogin: the password is wrong, or the user is refused.
        :raises popserv.errors.TryLater: nobody can tell now.
        """
        return run_eagerly(self.check(credentials))

    async def check(self, credentials: Any) -> bytes | ConfiguredUser:
        """Return the user's avatar ID; a subclass with other credentials overrides this."""
        name, password = credentials.username, credentials.password
        # A system that regards an empty password as none would accept it.
        if not name or not password:
            raise UnauthorizedLogin("the name or the password is empty")
        if b"\0" in name + password:
            raise UnauthorizedLogin("the name or the password contains NUL")
        if len(name) > MAX_NAME:
            raise UnauthorizedLogin(f"the name is longer than {MAX_NAME} octets")
        remembered, details = self._remembered, connection_details.get()()
        # All that may be asked about besides the password; a port of the client is used once.
        asked = details.address, details.local, details.uses_tls, details.is_private
        key = b"%b\0%b" % (name, repr(asked).encode("utf-8", "backslashreplace"))
        user = remembered.find(key, password)
        if user is None:
            begun = remembered.begin()
            user = await self._outages.watch(self.verify(name, password))
            remembered.add(key, password, user, begun)
        return self.admitted(credentials, user)

    @abstractmethod
    async def verify(self, name: bytes, password: bytes) -> User:
        """Return the user whose password this is.

        The name and the password are not empty and contain no NUL.

        :raises UnauthorizedLogin: they are refused; the message is for the log.
        :raises popserv.auth.users.outages.ServerUnavailable: nobody can be asked.
        :raises popserv.errors.TryLater: this login cannot be decided now.
        """

    def admitted(self, credentials: Any, user: User) -> bytes | ConfiguredUser:
        """Return the avatar ID of a user, and record the name in the credentials, for the log.

        :raises UnauthorizedLogin: the user's rules do not permit this login.
        """
        # Only now, so that a client without the password learns nothing.
        refusal = user.rules.refusal_of(connection_details.get(), time.time())
        if refusal:
            raise UnauthorizedLogin(refusal)
        credentials.username = user.name
        return user.avatar_id
