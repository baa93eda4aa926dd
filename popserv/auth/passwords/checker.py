"""The credentials checker for users with secrets: passwords, APOP, CRAM-MD5, SCRAM, EXTERNAL.

The password field of a user determines how the user logs in: by APOP only if it has an ``{APOP}``
secret, and never by APOP otherwise (RFC 1725 section 12).  Refusing an unknown name takes as long
as refusing a wrong password, because the password is then verified against a decoy.  A user whom
the rules of the extra fields refuse is treated like an unknown name.
"""

from __future__ import annotations

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
from popserv.auth.passwords.cram_md5 import CRAM_MD5_SCHEMES, matches_cram_md5
from popserv.auth.passwords.decoys import Decoys, machine_secret
from popserv.auth.passwords.login_methods import supports
from popserv.auth.passwords.preparation import candidate_passwords
from popserv.auth.passwords.schemes import (
    SchemeUnavailable,
    UnknownScheme,
    has_password,
    is_apop,
    scheme_of,
    split_field,
    verify,
)
from popserv.auth.passwords.scram_keys import ScramKeys
from popserv.auth.passwords.scram_selection import select_scram_keys
from popserv.auth.passwords.sources import UserSource
from popserv.auth.users.remembered import RememberedPasswords
from popserv.auth.users.user import User, UserDirectory
from popserv.core.connection_details import connection_details
from popserv.core.session import client_is_connected
from popserv.core.user_settings import ConfiguredUser
from popserv.errors import POPError, TryLater
from popserv.interfaces import (
    IAPOPCredentials,
    ICaching,
    ICertificateCredentials,
    ICredentialsSupport,
    IScramCredentials,
    IScramSHA1Credentials,
    IScramSHA256Credentials,
)
from popserv.runtime.config_files import FileError
from popserv.runtime.coroutines import run_eagerly
from popserv.runtime.threads import BoundedThreadPool

REMEMBERED = 3600.0  # Seconds: a client that polls causes one hash an hour.
_hash_threads = BoundedThreadPool("popserv-hash", threads=2, backlog=200)


def run_in_thread(function: Callable[..., Any], *args: Any) -> Deferred[Any]:
    """Call a function in a thread, unless the client has disconnected before a thread is free."""
    return _hash_threads.run(function, *args, still_needed=client_is_connected.get())


@implementer(ICredentialsChecker, ICredentialsSupport, ICaching)
class SecretsChecker(UserDirectory):
    """Checks credentials against the secrets of users, who are looked up at each login.

    ``source`` has the users.  ``run`` calls a function with arguments in a thread and returns an
    awaitable of its result; the default is a pool of two threads, which all checkers share.
    ``now`` is a clock in seconds since the epoch.
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
        source: UserSource,
        run: Callable[..., Awaitable[Any]] = run_in_thread,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._run = run
        self._now = now
        self._remembered: RememberedPasswords[bool] = RememberedPasswords(REMEMBERED)
        self.cache_sizes = self._remembered.sizes
        self._decoys = Decoys(machine_secret())

    def supports(self, credentials: type[Interface]) -> bool:
        """See :class:`popserv.interfaces.ICredentialsSupport`."""
        return supports(self._source.secrets(), credentials)

    def requestAvatarId(self, credentials: ICredentials) -> Any:
        """Return the user's avatar ID, or a Deferred of it; see ICredentialsChecker.

        :raises UnauthorizedLogin: the credentials are wrong.
        :raises TryLater: the users cannot be looked up, or too many logins wait for a thread.
        """
        return run_eagerly(self._check(credentials))

    async def _check(self, credentials: Any) -> bytes | ConfiguredUser:
        try:
            user, refusal = await self._find(credentials)
            # A user whom the rules refuse is treated in everything like a name that no user has,
            # so that a client cannot find out whether its password is right.
            if not await self._is_right(credentials, user) or user is None:
                raise UnauthorizedLogin(refusal or "unknown user or wrong password")
        except (FileError, SchemeUnavailable) as error:
            raise TryLater from error
        except UnknownScheme as error:
            raise UnauthorizedLogin(f"password field: {error}") from None
        except ValueError:
            # Its message may quote the secret.
            raise UnauthorizedLogin("malformed password field") from None
        # For the log and the reply: the client may have sent another spelling.
        credentials.username = user.name
        return user.avatar_id

    async def find(self, name: bytes) -> User | None:
        """See UserDirectory."""
        try:
            return await self._source.find(name)
        except FileError as error:
            raise TryLater from error

    async def _find(self, credentials: Any) -> tuple[User | None, str]:
        """Return the user who may log in, or None, and for the log why one may not."""
        is_certificate = ICertificateCredentials.providedBy(credentials)
        names = credentials.names if is_certificate else [credentials.username]
        for name in names:
            user = await self.find(name)
            if user is not None:
                refusal = self._refusal_of(user)
                return (None if refusal else user), refusal
        return None, ""

    def _refusal_of(self, user: User) -> str:
        return user.rules.refusal_of(connection_details.get(), self._now())

    async def _is_right(self, credentials: Any, user: User | None) -> bool:
        """Return whether credentials prove that a client is the user; None is an unknown user."""
        if IUsernamePassword.providedBy(credentials):
            return await self._check_password(credentials, user)
        if IScramCredentials.providedBy(credentials):
            return await self._check_scram(credentials, user)
        if ICertificateCredentials.providedBy(credentials):
            return True
        by_apop = IAPOPCredentials.providedBy(credentials)
        check = self._check_apop if by_apop else self._check_cram_md5
        return bool(await self._run(check, credentials, user))

    async def _check_password(self, credentials: IUsernamePassword, user: User | None) -> bool:
        remembered, password = self._remembered, credentials.password
        # With the password, which clients send in several encodings.
        field = b"" if user is None else user.password_field
        key = b"%d:%b%b" % (len(field), field, password)
        if user is not None and remembered.find(key, password):
            return True
        begun = remembered.begin()
        is_right = bool(await self._run(self._verify_password, credentials, user))
        if is_right:
            remembered.add(key, password, True, begun)
        return is_right

    def _verify_password(self, credentials: IUsernamePassword, user: User | None) -> bool:
        passwords = candidate_passwords(credentials.password)
        if user is None or not has_password(user.password_field):
            self._verify_against_decoy(credentials.username, passwords)
        if user is None:
            return False
        if is_apop(user.password_field):
            raise UnauthorizedLogin("this user must log in by APOP")
        return any(verify(user.password_field, password) for password in passwords)

    def _verify_against_decoy(self, name: bytes, passwords: list[bytes]) -> None:
        """Take the time that verifying a user's password takes."""
        if fields := self._source.secrets().passwords:
            decoy = self._decoys.choose(name, fields)
            with suppress(ValueError):
                for password in passwords:
                    verify(decoy, password)

    def _check_apop(self, credentials: IAPOPCredentials, user: User | None) -> bool:
        has_apop = user is not None and is_apop(user.password_field)
        secret = split_field(user.password_field)[1] if user is not None and has_apop else b""
        is_right = credentials.check_secret(secret) and secret != b""
        if user is not None and not has_apop:
            raise UnauthorizedLogin("this user must not log in by APOP")
        return is_right

    def _check_cram_md5(self, credentials: Any, user: User | None) -> bool:
        if user is not None and scheme_of(user.password_field) in CRAM_MD5_SCHEMES:
            return matches_cram_md5(credentials, user.password_field)
        secrets = self._source.secrets()
        if secrets.has_only_schemes(CRAM_MD5_SCHEMES) and secrets.passwords:
            # Takes the time that the digest of a user takes.
            decoy = self._decoys.choose(credentials.username, secrets.passwords)
            with suppress(ValueError):
                matches_cram_md5(credentials, decoy)
        return False

    async def _check_scram(self, credentials: IScramCredentials, user: User | None) -> bool:
        known: User | None
        known, keys = await self._run(self._scram_keys, credentials, user)
        try:
            is_right = await credentials.check_keys(keys)
        except POPError as error:
            # Fails like a wrong password, because it cost as much: the login must be throttled.
            raise ExchangeAborted(str(error)) from error
        if not is_right or known is None:
            return False
        # The exchange may have taken minutes, and the user may have changed meanwhile.
        return await self.find(known.name) == known and not self._refusal_of(known)

    def _scram_keys(
        self, credentials: IScramCredentials, user: User | None
    ) -> tuple[User | None, ScramKeys]:
        secrets = self._source.secrets()
        if not secrets.passwords:
            raise UnauthorizedLogin("no user has a password")
        kind = "sha256" if IScramSHA256Credentials.providedBy(credentials) else "sha1"
        return select_scram_keys(kind, credentials.username, user, secrets, self._decoys)
