"""The credentials checker for a users file, for passwords, APOP, CRAM-MD5, SCRAM and EXTERNAL.

The password field of a user determines how the user logs in: by APOP only if it has an ``{APOP}``
secret, and never by APOP otherwise (RFC 1725 section 12).  Refusing an unknown name takes as long
as refusing a wrong password, because the password is then verified against a decoy.  A user whom
the rules of the extra fields refuse is treated like an unknown name.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials, IUsernameHashedPassword, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import Interface, implementer

from popserv.auth.credentials import ExchangeAborted
from popserv.auth.passwords.cache import VerifiedPasswordCache
from popserv.auth.passwords.cram_md5 import CRAM_MD5_SCHEMES, matches_cram_md5
from popserv.auth.passwords.decoys import Decoys, machine_secret
from popserv.auth.passwords.extra_fields import Client
from popserv.auth.passwords.login_methods import supports
from popserv.auth.passwords.preparation import candidate_passwords
from popserv.auth.passwords.schemes import (
    SchemeUnavailable,
    UnknownScheme,
    is_apop,
    scheme_of,
    split_field,
    verify,
)
from popserv.auth.passwords.scram_keys import ScramKeys
from popserv.auth.passwords.scram_selection import select_scram_keys
from popserv.auth.passwords.users_file import User, UsersFile, UsersFileError
from popserv.core.session import client_is_connected
from popserv.core.user_settings import ConfiguredUser
from popserv.errors import POPError, TryLater
from popserv.interfaces import (
    IAPOPCredentials,
    ICaching,
    ICertificateCredentials,
    ICredentialsSupport,
    IReloadable,
    IScramCredentials,
    IScramSHA1Credentials,
    IScramSHA256Credentials,
)
from popserv.runtime.coroutines import run_eagerly
from popserv.runtime.threads import BoundedThreadPool

_hash_threads = BoundedThreadPool("popserv-hash", threads=2, backlog=200)


def _run_in_thread(function: Callable[..., Any], *args: Any) -> Deferred[Any]:
    """Call a function in a thread, unless the client has disconnected before a thread is free."""
    return _hash_threads.run(function, *args, still_needed=client_is_connected.get())


@implementer(ICredentialsChecker, ICredentialsSupport, IReloadable, ICaching)
class PasswdFileChecker:
    """Checks credentials against a users file, which is read again when it changes.

    ``path`` is the path of the users file.  ``run`` calls a function with arguments in a thread
    and returns an awaitable of its result; the default is a pool of two threads, which all
    checkers share.  ``now`` is a clock in seconds since the epoch, and ``monotonic`` one that
    nobody sets.
    """

    credentialInterfaces = (
        IUsernamePassword,
        IAPOPCredentials,
        IScramSHA256Credentials,
        IScramSHA1Credentials,
        IUsernameHashedPassword,
        ICertificateCredentials,
    )

    log = Logger()

    def __init__(
        self,
        path: str,
        run: Callable[..., Awaitable[Any]] = _run_in_thread,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._users_file = UsersFile(path, monotonic)
        self._run = run
        self._now = now
        self._cache = VerifiedPasswordCache()
        self.cache_sizes = self._cache.sizes
        self._decoys = Decoys(machine_secret())
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
            users = self._users_file.read_recent()
        except UsersFileError as error:
            # Logged once: each greeting and each CAPA calls this method.
            if self._last_reported_error != str(error):
                self._last_reported_error = str(error)
                self.log.critical("{error}", error=error)
            return credentials is IUsernamePassword
        self._last_reported_error = ""
        return supports(users, credentials)

    def requestAvatarId(self, credentials: ICredentials) -> Any:
        """Return the user's avatar ID, or a Deferred of it; see ICredentialsChecker.

        :raises UnauthorizedLogin: the credentials are wrong.
        :raises TryLater: the file cannot be used, or too many logins wait for a thread.
        """
        return run_eagerly(self._check(credentials))

    def find(self, name: bytes) -> User | None:
        """Return the user in the file whom a client means by a name, or None.

        :raises TryLater: the file cannot be used.
        """
        try:
            return self._users_file.read().find(name)
        except UsersFileError as error:
            raise TryLater from error

    async def _check(self, credentials: Any) -> bytes | ConfiguredUser:
        client = Client.current()
        try:
            user = await self._authenticated_user(credentials, client)
            if user is None:
                raise UnauthorizedLogin(self._reason(credentials.username, client))
        except (UsersFileError, SchemeUnavailable) as error:
            raise TryLater from error
        except UnknownScheme as error:
            raise UnauthorizedLogin(f"password field: {error}") from None
        except ValueError:
            # The message of the error may quote the secret.
            raise UnauthorizedLogin("malformed password field") from None
        # For the log and the reply: the client may have sent another spelling.
        credentials.username = user.name
        return user.avatar_id

    def _find(self, name: bytes, client: Client) -> User | None:
        """Return the user who may log in now by this name, as this client; otherwise None.

        A user whom the rules refuse is treated in everything like a name that no user has, so
        that a client cannot find out whether its password is right.
        """
        user = self._users_file.read().find(name)
        if user is None or user.rules.refusal_of(client, self._now()):
            return None
        return user

    def _reason(self, name: bytes, client: Client) -> str:
        """Return the reason for the log why a user was refused."""
        user = self._users_file.read().find(name)
        refusal = "" if user is None else user.rules.refusal_of(client, self._now())
        return refusal or "unknown user or wrong password"

    async def _authenticated_user(self, credentials: Any, client: Client) -> User | None:
        user: User | None
        check: Callable[[Any, Client], User | None]
        if IScramCredentials.providedBy(credentials):
            return await self._check_scram(credentials, client)
        if IUsernamePassword.providedBy(credentials):
            return await self._check_password(credentials, client)
        if IAPOPCredentials.providedBy(credentials):
            check = self._check_apop
        elif ICertificateCredentials.providedBy(credentials):
            check = self._check_certificate
        else:
            check = self._check_cram_md5
        user = await self._run(check, credentials, client)
        return user

    async def _check_password(self, credentials: IUsernamePassword, client: Client) -> User | None:
        user = self._find(credentials.username, client)
        password = credentials.password
        if user is None or not self._cache.contains(user.password_field, password):
            user = await self._run(self._verify_password, credentials, client)
            if user is not None:
                self._cache.add(user.password_field, password)
        return user

    def _verify_password(self, credentials: IUsernamePassword, client: Client) -> User | None:
        user = self._find(credentials.username, client)
        passwords = candidate_passwords(credentials.password)
        if user is None or not user.has_password():
            self._verify_against_decoy(credentials.username, passwords)
        if user is None:
            return None
        if is_apop(user.password_field):
            raise UnauthorizedLogin("this user must log in by APOP")
        is_right = any(verify(user.password_field, password) for password in passwords)
        return user if is_right else None

    def _verify_against_decoy(self, name: bytes, passwords: list[bytes]) -> None:
        """Take the time that verifying a user's password takes."""
        users = self._users_file.read()
        if users.passwords:
            decoy = self._decoys.password_field(name, users.passwords)
            with suppress(ValueError):
                for password in passwords:
                    verify(decoy, password)

    def _check_apop(self, credentials: IAPOPCredentials, client: Client) -> User | None:
        user = self._find(credentials.username, client)
        has_apop = user is not None and is_apop(user.password_field)
        secret = split_field(user.password_field)[1] if user is not None and has_apop else b""
        is_right = credentials.check_secret(secret) and secret != b""
        if user is not None and not has_apop:
            raise UnauthorizedLogin("this user must not log in by APOP")
        return user if is_right else None

    def _check_cram_md5(self, credentials: Any, client: Client) -> User | None:
        user = self._find(credentials.username, client)
        if user is not None and scheme_of(user.password_field) in CRAM_MD5_SCHEMES:
            is_right = matches_cram_md5(credentials, user.password_field)
            return user if is_right else None
        users = self._users_file.read()
        if users.has_only_schemes(CRAM_MD5_SCHEMES):
            # Takes the time that the digest of a user takes.
            decoy = self._decoys.password_field(credentials.username, users.passwords)
            with suppress(ValueError):
                matches_cram_md5(credentials, decoy)
        return None

    def _check_certificate(
        self, credentials: ICertificateCredentials, client: Client
    ) -> User | None:
        users = self._users_file.read()
        found = map(users.find, credentials.names)
        user = next((user for user in found if user is not None), None)
        refusal = "" if user is None else user.rules.refusal_of(client, self._now())
        if refusal:
            raise UnauthorizedLogin(refusal)
        return user

    async def _check_scram(self, credentials: IScramCredentials, client: Client) -> User | None:
        user: User | None
        user, keys = await self._run(self._scram_keys, credentials, client)
        try:
            is_right = await credentials.check_keys(keys)
        except POPError as error:
            # Fails like a wrong password, because it cost as much: the login must be throttled.
            raise ExchangeAborted(str(error)) from error
        if not is_right or user is None:
            return None
        # The exchange may have taken minutes, and the user may have changed meanwhile.
        return user if self._find(user.name, client) == user else None

    def _scram_keys(
        self, credentials: IScramCredentials, client: Client
    ) -> tuple[User | None, ScramKeys]:
        users = self._users_file.read()
        if not users.passwords:
            raise UnauthorizedLogin("no user has a password")
        user = self._find(credentials.username, client)
        is_sha256 = IScramSHA256Credentials.providedBy(credentials)
        return select_scram_keys(
            "sha256" if is_sha256 else "sha1", credentials.username, user, users, self._decoys
        )
