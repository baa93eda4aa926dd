"""The credentials checker for the users of a users file."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from twisted.cred.credentials import IUsernamePassword
from zope.interface import Interface, implementer

from popserv.auth.passwords.checker import SecretsChecker, run_in_thread
from popserv.auth.passwords.diagnosis import diagnose_users_file
from popserv.auth.passwords.login_methods import supports
from popserv.auth.passwords.users_file import UsersFile, UsersFileError
from popserv.core.findings import Finding
from popserv.core.user_settings import ConfiguredUser
from popserv.interfaces import IDiagnosed, IReloadable, IUserNames


@implementer(IDiagnosed, IReloadable, IUserNames)
class PasswdFileChecker(SecretsChecker):
    """Checks credentials against a users file, which is read again when it changes.

    ``path`` is the path of the users file, ``monotonic`` a clock that nobody sets, and the other
    arguments are as for :class:`SecretsChecker`.
    """

    def __init__(
        self,
        path: str,
        run: Callable[..., Awaitable[Any]] = run_in_thread,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._users_file = UsersFile(path, monotonic)
        super().__init__(self._users_file, run, now)
        self._last_reported_error = ""

    @classmethod
    def from_file(cls, path: str) -> PasswdFileChecker:
        """Return a checker after reading the file once; log a warning if there are no users.

        :raises UsersFileError: the file cannot be used.
        """
        if not path:
            raise UsersFileError("the path of the users file is empty; use passwd-file:PATH")
        path = os.path.abspath(path)
        checker = cls(path)
        if not checker._users_file.read().password_fields:
            cls.log.warn(
                "no users in {path} yet; add the first: popserv user add --users {quoted} NAME",
                path=path,
                quoted=shlex.quote(path),
            )
        return checker

    def reload(self) -> None:
        """See :class:`popserv.interfaces.IReloadable`."""
        self._last_reported_error = ""
        self._users_file.expire()
        self.supports(IUsernamePassword)

    def supports(self, credentials: type[Interface]) -> bool:
        """See :class:`popserv.interfaces.ICredentialsSupport`.

        While the file cannot be used, only passwords are supported, and a login by password is
        refused with TryLater.
        """
        try:
            is_supported = supports(self._users_file.read_recent(), credentials)
        except UsersFileError as error:
            # Logged once: each greeting and each CAPA calls this method.
            if self._last_reported_error != str(error):
                self._last_reported_error = str(error)
                self.log.critical("{error}", error=error)
            return credentials is IUsernamePassword
        self._last_reported_error = ""
        return is_supported

    def users(self) -> Iterable[tuple[bytes, bytes | ConfiguredUser]]:
        """See :class:`popserv.interfaces.IUserNames`."""
        users = self._users_file.read()
        return [(name, users.by_name[name].avatar_id) for name in users.password_fields]

    async def diagnose(self) -> Iterable[Finding]:
        """See :class:`popserv.interfaces.IDiagnosed`."""
        findings: Iterable[Finding] = await self._run(diagnose_users_file, self._users_file)
        return findings
