"""The checker of ``--auth ldap:FILE``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from popserv.auth.files import FileError
from popserv.auth.ldap.config import LDAPConfig
from popserv.auth.ldap.directory import Directory
from popserv.auth.passwords.extra_fields import Client
from popserv.auth.passwords.look_ups import LookUps
from popserv.auth.passwords.preparation import prepared_password
from popserv.auth.passwords.records import name_parts
from popserv.auth.passwords.sources import SourceUnavailable
from popserv.auth.passwords.users_file import User
from popserv.core.user_settings import ConfiguredUser
from popserv.errors import TryLater
from popserv.interfaces import IReloadable
from popserv.runtime.coroutines import run_eagerly

_log = Logger()


@implementer(ICredentialsChecker, IReloadable)
class LDAPChecker:
    """Checks passwords by binding to a directory as the user.

    ``now`` is a clock in seconds since the epoch; ``reactor`` and ``run`` are as for
    :class:`popserv.auth.passwords.look_ups.LookUps`.
    """

    credentialInterfaces = (IUsernamePassword,)

    def __init__(
        self,
        config: LDAPConfig,
        now: Callable[[], float] = time.time,
        reactor: Any = None,
        run: Callable[..., Deferred[Any]] | None = None,
    ) -> None:
        self._now = now
        self._path = config.path
        self._reactor = reactor
        self._run = run
        self._use(config)

    @classmethod
    def from_file(cls, path: str) -> LDAPChecker:
        """Return a checker after reading its file; the directory is asked at the first login.

        :raises FileError: the file cannot be used.
        """
        return cls(LDAPConfig(path))

    def _use(self, config: LDAPConfig) -> None:
        self._directory = Directory(config)
        self._look_ups = LookUps(
            config.path, "directory", config.timeout, config.connections, self._reactor, self._run
        )

    def reload(self) -> None:
        """See :class:`popserv.interfaces.IReloadable`."""
        try:
            self._use(LDAPConfig(self._path))
        except FileError as error:
            _log.critical("{error}; the old settings stay in use", error=error)

    def requestAvatarId(self, credentials: IUsernamePassword) -> Any:
        """Return the user's avatar ID, or a Deferred of it; see ICredentialsChecker.

        :raises UnauthorizedLogin: the credentials are wrong.
        :raises TryLater: the directory cannot be asked, or too many logins wait for it.
        """
        return run_eagerly(self._check(credentials))

    async def _check(self, credentials: Any) -> bytes | ConfiguredUser:
        user = await self._authenticate(credentials)
        if user is None:
            raise UnauthorizedLogin("unknown user or wrong password")
        # Only now, so that a client without the password learns nothing.
        refusal = user.rules.refusal_of(Client.current(), self._now())
        if refusal:
            raise UnauthorizedLogin(refusal)
        credentials.username = user.name
        return user.avatar_id

    async def _authenticate(self, credentials: Any) -> User | None:
        parts = name_parts(credentials.username)
        password = prepared_password(credentials.password)
        # Servers accept an empty password from everybody, as an anonymous bind.
        if parts is None or not password or b"\0" in password:
            return None
        try:
            return await self._look_ups.run(self._directory.authenticate, parts, password)
        except SourceUnavailable:
            raise TryLater from None
