"""The credentials checker for a users file, for passwords, APOP, CRAM-MD5, SCRAM and EXTERNAL.

The password field of a user determines how the user logs in: by APOP only if it has an ``{APOP}``
secret, and never by APOP otherwise (RFC 1725 section 12).  Refusing an unknown name takes as long
as refusing a wrong password, because the password is then verified against a decoy.

SCRAM and CRAM-MD5 are supported only while every password in the file works with them.  Clients
choose the strongest mechanism offered, and do not try another one if it fails.
"""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials, IUsernameHashedPassword, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import Interface, implementer

from popserv.auth.names import prepared_name
from popserv.auth.passwords.cache import VerifiedPasswordCache
from popserv.auth.passwords.decoys import Decoys, machine_secret
from popserv.auth.passwords.preparation import candidate_passwords, prepared_password
from popserv.auth.passwords.schemes import (
    CLEARTEXT_SCHEMES,
    SchemeUnavailable,
    UnknownScheme,
    is_apop,
    is_empty,
    scheme_of,
    split_field,
    verify,
)
from popserv.auth.passwords.scram_keys import (
    SCRAM_ITERATIONS,
    ScramKeys,
    derive_scram_keys,
    parse_scram_keys,
)
from popserv.auth.passwords.users_file import Users, UsersFile, UsersFileError
from popserv.core.session import client_is_connected
from popserv.errors import POPError, TryLater
from popserv.interfaces import (
    IAPOPCredentials,
    ICertificateCredentials,
    ICredentialsSupport,
    IScramCredentials,
    IScramSHA1Credentials,
    IScramSHA256Credentials,
)
from popserv.runtime.threads import BoundedThreadPool

_hash_threads = BoundedThreadPool("popserv-hash", threads=2, backlog=200)


def _run_in_thread(function: Callable[..., Any], *args: Any) -> Deferred[Any]:
    """Call a function in a thread, unless the client has disconnected before a thread is free."""
    return _hash_threads.run(function, *args, still_needed=client_is_connected.get())


@implementer(ICredentialsChecker, ICredentialsSupport)
class PasswdFileChecker:
    """Checks credentials against a users file, which is read again when it changes.

    ``path`` is the path of the users file.  ``run`` calls a function with arguments in a thread
    and returns an awaitable of its result; the default is a pool of two threads, which all
    checkers share.
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

    def __init__(self, path: str, run: Callable[..., Awaitable[Any]] = _run_in_thread) -> None:
        self._users_file = UsersFile(path)
        self._run = run
        self._cache = VerifiedPasswordCache()
        self._decoys = Decoys(machine_secret())
        self._last_reported_error = ""

    @classmethod
    def from_file(cls, path: str) -> PasswdFileChecker:
        """Return a checker after reading the file once; log a warning if there are no users.

        :raises UsersFileError: the file cannot be used.
        """
        if not path:
            raise UsersFileError("the path of the users file is empty; use passwd-file:PATH")
        checker = cls(path)
        if not checker._users_file.read().password_fields:
            cls.log.warn(
                "no users in {path} yet; add the first: popserv user add --users {quoted} NAME",
                path=path,
                quoted=shlex.quote(path),
            )
        return checker

    def supports(self, credentials: type[Interface]) -> bool:
        """See :class:`popserv.interfaces.ICredentialsSupport`.

        While the file cannot be used, only passwords are supported, and a login by password is
        refused with TryLater.
        """
        is_password = credentials is IUsernamePassword
        try:
            users = self._users_file.read()
        except UsersFileError as error:
            # Logged once: each greeting and each CAPA calls this method.
            if self._last_reported_error != str(error):
                self._last_reported_error = str(error)
                self.log.critical("{error}", error=error)
            return is_password
        self._last_reported_error = ""
        if is_password:
            # If all users have APOP secrets, clients must not choose PLAIN.
            return bool(users.passwords) or not users.password_fields
        if credentials is IAPOPCredentials:
            return users.has_apop
        if credentials is ICertificateCredentials:
            return bool(users.password_fields)
        return users.has_only_schemes(_SUITABLE_SCHEMES[credentials])

    def requestAvatarId(self, credentials: ICredentials) -> Deferred[bytes | tuple[()]]:
        """Return the user's name as in the file; see ICredentialsChecker.

        It fails with UnauthorizedLogin if the credentials are wrong, and with
        :class:`popserv.errors.TryLater` if the file cannot be used or too many logins wait for a
        thread.
        """
        return Deferred.fromCoroutine(self._check(credentials))

    async def _check(self, credentials: Any) -> bytes | tuple[()]:
        try:
            name = await self._authenticated_name(credentials)
        except (UsersFileError, SchemeUnavailable) as error:
            raise TryLater from error
        except UnknownScheme as error:
            raise UnauthorizedLogin(f"password field: {error}") from None
        except ValueError:
            # The message of the error may quote the secret.
            raise UnauthorizedLogin("malformed password field") from None
        if name is None:
            raise UnauthorizedLogin("unknown user or wrong password")
        return name

    async def _authenticated_name(self, credentials: Any) -> bytes | None:
        name: bytes | None
        check: Callable[[Any], bytes | None]
        if IScramCredentials.providedBy(credentials):
            return await self._check_scram(credentials)
        if IUsernamePassword.providedBy(credentials):
            return await self._check_password(credentials)
        if IAPOPCredentials.providedBy(credentials):
            check = self._check_apop
        elif ICertificateCredentials.providedBy(credentials):
            check = self._check_certificate
        else:
            check = self._check_cram_md5
        name = await self._run(check, credentials)
        return name

    async def _check_password(self, credentials: IUsernamePassword) -> bytes | None:
        name, field = self._users_file.read().find(credentials.username)
        if field is None or not self._cache.contains(field, credentials.password):
            name, field = await self._run(self._verify_password, credentials)
            if field is not None:
                self._cache.add(field, credentials.password)
        return name

    def _verify_password(self, credentials: IUsernamePassword) -> tuple[bytes | None, bytes | None]:
        """Return the user's name and password field; or None and None if the password is wrong."""
        users = self._users_file.read()
        name, field = users.find(credentials.username)
        passwords = candidate_passwords(credentials.password)
        if field is None or is_apop(field):
            self._verify_against_decoy(users, credentials.username, passwords)
            if field is not None:
                raise UnauthorizedLogin("this user must log in by APOP")
            return None, None
        is_right = any(verify(field, password) for password in passwords)
        return (name, field) if is_right else (None, None)

    def _verify_against_decoy(self, users: Users, name: bytes, passwords: list[bytes]) -> None:
        """Take the time that verifying a user's password takes."""
        if users.passwords:
            decoy = self._decoys.password_field(prepared_name(name), users.passwords)
            with suppress(ValueError):
                for password in passwords:
                    verify(decoy, password)

    def _check_apop(self, credentials: IAPOPCredentials) -> bytes | None:
        name, field = self._users_file.read().find(credentials.username)
        secret = split_field(field)[1] if field is not None and is_apop(field) else b""
        is_right = credentials.check_secret(secret) and secret != b""
        if field is not None and not is_apop(field):
            raise UnauthorizedLogin("this user must not log in by APOP")
        return name if is_right else None

    def _check_cram_md5(self, credentials: IUsernameHashedPassword) -> bytes | None:
        name, field = self._users_file.read().find(credentials.username)
        is_cleartext = field is not None and scheme_of(field) in CLEARTEXT_SCHEMES
        secret = split_field(field)[1] if field is not None and is_cleartext else b""
        return name if credentials.checkPassword(secret) and secret else None

    def _check_certificate(self, credentials: ICertificateCredentials) -> bytes | None:
        users = self._users_file.read()
        requested = [credentials.username] if credentials.username else credentials.names
        found = (users.find(name)[0] for name in requested if name in credentials.names)
        name = next((name for name in found if name is not None), None)
        if name is not None:
            credentials.username = name
        return name

    async def _check_scram(self, credentials: IScramCredentials) -> bytes | None:
        name: bytes | None
        users = self._users_file.read()
        name, keys = await self._run(self._scram_keys, credentials)
        try:
            is_right = await credentials.check_keys(keys)
        except POPError as error:
            # Fails like a wrong password, because it cost as much: the login must be throttled.
            raise UnauthorizedLogin(f"SCRAM exchange aborted: {error}") from error
        if not is_right or name is None:
            return None
        # The exchange may have taken minutes, and the user may have changed meanwhile.
        current = self._users_file.read()
        is_same = current.password_fields.get(name) == users.password_fields.get(name)
        return name if is_same else None

    def _scram_keys(self, credentials: IScramCredentials) -> tuple[bytes | None, ScramKeys]:
        """Return the user's name and keys; or None and decoy keys if the user cannot use SCRAM."""
        users = self._users_file.read()
        is_sha256 = IScramSHA256Credentials.providedBy(credentials)
        hash_name, scheme = ("sha256", b"SCRAM-SHA-256") if is_sha256 else ("sha1", b"SCRAM-SHA-1")
        name, field = users.find(credentials.username)
        if not users.passwords:
            raise UnauthorizedLogin("no user has a password")
        # A user has the same salt in all spellings of the name, so a decoy must have it, too.
        prepared = prepared_name(credentials.username)
        decoy_keys = self._decoys.scram_keys(hash_name, prepared, SCRAM_ITERATIONS)
        can_use_scram = (
            field is not None
            and not is_empty(field)
            and scheme_of(field) in {scheme, *CLEARTEXT_SCHEMES}
        )
        decoy_field = self._decoys.password_field(prepared, users.passwords)
        chosen = field if field is not None and can_use_scram else decoy_field
        # Decoy keys, too, must take the time of a user's keys and have their iteration count.
        if scheme_of(chosen) == scheme:
            keys = parse_scram_keys(split_field(chosen)[1])
        else:
            password = prepared_password(split_field(chosen)[1])
            keys = derive_scram_keys(hash_name, password, decoy_keys.salt, SCRAM_ITERATIONS)
        if can_use_scram:
            return name, keys
        return None, decoy_keys._replace(iterations=keys.iterations)


_SUITABLE_SCHEMES: dict[type[Interface], frozenset[bytes]] = {
    IScramSHA256Credentials: CLEARTEXT_SCHEMES | {b"SCRAM-SHA-256"},
    IScramSHA1Credentials: CLEARTEXT_SCHEMES | {b"SCRAM-SHA-1"},
    IUsernameHashedPassword: CLEARTEXT_SCHEMES,
}
"""The password schemes that work with each kind of credentials."""
