"""The checkers of ``--auth ldap:FILE``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.cred.error import UnauthorizedLogin
from twisted.logger import Logger
from zope.interface import implementer

from popserv.auth.ldap.config import LDAPConfig
from popserv.auth.ldap.directory import Directory
from popserv.auth.passwords.preparation import prepared_password
from popserv.auth.users.look_ups import LookUps
from popserv.auth.users.outages import NotAsked, ServerUnavailable
from popserv.auth.users.records import name_parts
from popserv.auth.users.refusals import EvenRefusals
from popserv.auth.users.service import PasswordService
from popserv.auth.users.user import User, UserDirectory
from popserv.core.findings import Finding, error, warning
from popserv.core.printable import one_line
from popserv.core.user_settings import ConfiguredUser
from popserv.interfaces import IDiagnosed
from popserv.runtime.config_files import FileError

_log = Logger()


@implementer(IDiagnosed)
class LDAPChecker(PasswordService):
    """Checks passwords by binding to a directory as the user.

    A refusal takes as long as the slowest one of late: most directories refuse a DN that no entry
    has sooner than a wrong password.
    """

    def __init__(self, config: LDAPConfig) -> None:
        super().__init__(f"{config.path}: the directory")
        self._refusals = EvenRefusals()
        self._use(config)

    @classmethod
    def from_file(cls, path: str) -> LDAPChecker:
        """Return a checker after reading its file; the directory is asked at the first login.

        :raises FileError: the file cannot be used.
        """
        config = LDAPConfig(path)
        return cls(config) if config.user_dn else LDAPSearchChecker(config)

    def _use(self, config: LDAPConfig) -> None:
        self._config = config
        self._directory = Directory(config)
        self._look_ups = LookUps("popserv-directory", config.timeout, config.connections)

    async def diagnose(self) -> Iterable[Finding]:
        """See :class:`popserv.interfaces.IDiagnosed`."""
        urls = self._config.urls
        try:
            problems = await self._look_ups.run(self._directory.try_servers)
        except ServerUnavailable as problem:
            problems = [(url, str(problem)) for url in urls]
        make = error if len(problems) == len(urls) else warning
        remedy = "start the directory, or correct the file"
        return [
            make("ldap", self._config.path, f"{url} cannot be used: {one_line(text)}", remedy)
            for url, text in problems
        ]

    def reload(self) -> None:
        """Read the file again, and forget passwords; see :class:`popserv.interfaces.IReloadable`.

        Whether the checker searches for users cannot change: others may be asked after it.
        """
        super().reload()
        try:
            config = LDAPConfig(self._config.path)
            if bool(config.user_dn) != bool(self._config.user_dn):
                raise FileError(f"{config.path}: restart the server to begin or end using user-dn")
        except FileError as error:
            _log.critical("{error}; the old settings stay in use", error=error)
        else:
            self._use(config)

    async def check(self, credentials: Any) -> bytes | ConfiguredUser:
        """See :class:`PasswordService`."""
        return await self._refusals.watch(super().check(credentials))

    async def verify(self, name: bytes, password: bytes) -> User:
        """See :class:`PasswordService`."""
        parts = name_parts(name)
        if parts is None:
            raise NotAsked("unknown user or wrong password")
        user: User | None = await self._look_ups.run(
            self._directory.authenticate, parts, prepared_password(password)
        )
        if user is None:
            raise UnauthorizedLogin("unknown user or wrong password")
        if user.rules.refusal:
            # Not remembered, so that a correction is seen at once.
            raise UnauthorizedLogin(user.rules.refusal)
        return user


class LDAPSearchChecker(LDAPChecker, UserDirectory):
    """Searches for the entry of a user, and can therefore tell which names it knows."""

    async def find(self, name: bytes) -> User | None:
        """See UserDirectory."""
        parts = name_parts(name)
        if parts is None:
            return None
        user: User | None = await self._outages.watch(
            self._look_ups.run(self._directory.find, parts)
        )
        return user
