"""The checker of a users file, for passwords and for APOP.

A user's record decides how the user logs in: one with an ``{APOP}`` secret by APOP
only, every other never by APOP (RFC 1725 section 12).  Whoever is refused has cost
what a user costs: an unknown name is checked against somebody's secret, too.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import blake2b
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from popserv.auth.schemes import UnknownScheme, is_apop, split_field, verify
from popserv.auth.users_file import UsersFile, UsersFileError
from popserv.errors import TryLater
from popserv.interfaces import IAPOPChecker, IAPOPCredentials
from popserv.threads import Threads

_hashing = Threads("popserv-hash", threads=2, backlog=200)


@implementer(ICredentialsChecker, IAPOPChecker)
class PasswdFileChecker:
    """Checks credentials against a users file, hashing in threads of its own."""

    credentialInterfaces = (IUsernamePassword, IAPOPCredentials)

    log = Logger()

    def __init__(self, path: str, run: Callable[..., Awaitable[Any]] = _hashing.run) -> None:
        self._users = UsersFile(path)
        self._run = run
        self._key = os.urandom(16)

    @classmethod
    def at_start(cls, path: str) -> PasswdFileChecker:
        """Return a checker whose file is in order, or not there yet, which the log says.

        :raises UsersFileError: what is wrong with the file, and what mends it.
        """
        if not path:
            raise UsersFileError("the users file has no name; give it as passwd-file:PATH")
        checker = cls(path)
        if not checker._users.read().secrets:
            cls.log.warn(
                "no users in {path} yet; add the first: popserv user add --users {quoted} NAME",
                path=path,
                quoted=shlex.quote(path),
            )
        return checker

    def offers_apop(self) -> bool:
        """Tell whether some user has an APOP secret; a file in disorder offers none."""
        try:
            return self._users.read().offers_apop
        except UsersFileError as error:
            self.log.critical("{error}", error=error)
            return False

    def requestAvatarId(self, credentials: ICredentials) -> Deferred[bytes | tuple[()]]:
        """Return the name, as cred wants it, or fail with UnauthorizedLogin."""
        return Deferred.fromCoroutine(self._check(credentials))

    async def _check(self, credentials: Any) -> bytes | tuple[()]:
        name: bytes = credentials.username
        by_apop = IAPOPCredentials.providedBy(credentials)
        check = self._apop_matches if by_apop else self._password_matches
        try:
            matches = await self._run(check, credentials)
        except UsersFileError as error:
            raise TryLater from error
        except UnknownScheme as error:
            raise UnauthorizedLogin(f"the user's secret: {error}") from None
        except ValueError:
            # What is wrong with a secret might quote it.
            raise UnauthorizedLogin("the user's secret is malformed") from None
        if not matches:
            raise UnauthorizedLogin("no such user, or a wrong secret")
        return name

    def _password_matches(self, credentials: IUsernamePassword) -> bool:
        users = self._users.read()
        field = users.secrets.get(credentials.username)
        if field is None or is_apop(field):
            self._waste_time(users.passwords, credentials)
            if field is not None:
                raise UnauthorizedLogin("this user logs in by APOP alone")
            return False
        return verify(field, credentials.password)

    def _waste_time(self, passwords: list[bytes], credentials: IUsernamePassword) -> None:
        """Check against some user's secret, always the same for one unknown name."""
        if passwords:
            digest = blake2b(credentials.username, key=self._key, digest_size=8).digest()
            decoy = passwords[int.from_bytes(digest, "big") % len(passwords)]
            with suppress(ValueError):
                verify(decoy, credentials.password)

    def _apop_matches(self, credentials: IAPOPCredentials) -> bool:
        field = self._users.read().secrets.get(credentials.username)
        secret = split_field(field)[1] if field is not None and is_apop(field) else b""
        matches = credentials.check_secret(secret) and secret != b""
        if field is not None and not is_apop(field):
            raise UnauthorizedLogin("this user logs in by password alone")
        return matches
