"""The checker of a users file, for all ways to log in that a record in it can serve.

A user's record decides how the user logs in: one with an ``{APOP}`` secret by APOP
only, every other never by APOP (RFC 1725 section 12).  Whoever is refused has cost
what a user costs: an unknown name is checked against somebody's secret, too.

SCRAM and CRAM-MD5 are offered only if every password in the file can serve them:
clients take the best that they are offered, and do not try another if it fails.
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
from popserv.auth.passwords.preparation import password_forms, prepared_password
from popserv.auth.passwords.schemes import (
    PLAIN_SCHEMES,
    UnknownScheme,
    is_apop,
    is_empty,
    scheme_of,
    split_field,
    verify,
)
from popserv.auth.passwords.scram_keys import (
    SCRAM_ROUNDS,
    ScramKeys,
    parse_scram_keys,
    scram_keys,
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

_hashing = BoundedThreadPool("popserv-hash", threads=2, backlog=200)


def _in_thread(function: Callable[..., Any], *args: Any) -> Deferred[Any]:
    """Run it in a thread, if the client is still there when it could begin."""
    return _hashing.run(function, *args, still_needed=client_is_connected.get())


@implementer(ICredentialsChecker, ICredentialsSupport)
class PasswdFileChecker:
    """Checks credentials against a users file, hashing in threads of its own."""

    credentialInterfaces = (
        IUsernamePassword,
        IAPOPCredentials,
        IScramSHA256Credentials,
        IScramSHA1Credentials,
        IUsernameHashedPassword,
        ICertificateCredentials,
    )

    log = Logger()

    def __init__(self, path: str, run: Callable[..., Awaitable[Any]] = _in_thread) -> None:
        self._users = UsersFile(path)
        self._run = run
        self._verified = VerifiedPasswordCache()
        self._decoys = Decoys(machine_secret())
        self._trouble = ""

    @classmethod
    def from_file(cls, path: str) -> PasswdFileChecker:
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

    def supports(self, credentials: type[Interface]) -> bool:
        """See IOfferingChecker.

        A file in disorder offers passwords alone: who gives one is told to try later.
        """
        by_password = credentials is IUsernamePassword
        try:
            users = self._users.read()
        except UsersFileError as error:
            # Once, for clients ask as often as they like.
            if self._trouble != str(error):
                self._trouble = str(error)
                self.log.critical("{error}", error=error)
            return by_password
        self._trouble = ""
        if by_password:
            # Not where APOP alone lets users in, or clients would take PLAIN there.
            return bool(users.passwords) or not users.secrets
        if credentials is IAPOPCredentials:
            return users.has_apop
        if credentials is ICertificateCredentials:
            return bool(users.secrets)
        return users.all_of(_CAN_SERVE[credentials])

    def requestAvatarId(self, credentials: ICredentials) -> Deferred[bytes | tuple[()]]:
        """Return the name, as cred wants it, or fail with UnauthorizedLogin."""
        return Deferred.fromCoroutine(self._check(credentials))

    async def _check(self, credentials: Any) -> bytes | tuple[()]:
        try:
            name = await self._name(credentials)
        except UsersFileError as error:
            raise TryLater from error
        except UnknownScheme as error:
            raise UnauthorizedLogin(f"the user's secret: {error}") from None
        except ValueError:
            # What is wrong with a secret might quote it.
            raise UnauthorizedLogin("malformed password field") from None
        if name is None:
            raise UnauthorizedLogin("unknown user or wrong password")
        return name

    async def _name(self, credentials: Any) -> bytes | None:
        """Return the name of the user that the credentials are right for."""
        name: bytes | None
        check: Callable[[Any], bytes | None]
        if IScramCredentials.providedBy(credentials):
            return await self._by_scram(credentials)
        if IUsernamePassword.providedBy(credentials):
            return await self._by_password(credentials)
        if IAPOPCredentials.providedBy(credentials):
            check = self._by_apop
        elif ICertificateCredentials.providedBy(credentials):
            check = self._by_certificate
        else:
            check = self._by_cram
        name = await self._run(check, credentials)
        return name

    async def _by_scram(self, credentials: IScramCredentials) -> bytes | None:
        name: bytes | None
        before = self._users.read()
        name, keys = await self._run(self._scram_keys, credentials)
        try:
            is_right = await credentials.check_keys(keys)
        except POPError as error:
            # It may have cost as much as a wrong password, and must not be had for less.
            raise UnauthorizedLogin(f"SCRAM exchange aborted: {error}") from error
        if not is_right or name is None:
            return None
        # The dialogue may have been open for minutes.
        is_same = self._users.read().secrets.get(name) == before.secrets.get(name)
        return name if is_same else None

    async def _by_password(self, credentials: IUsernamePassword) -> bytes | None:
        found = self._users.read().find(credentials.username)
        if found[1] is None or not self._verified.holds(found[1], credentials.password):
            found = await self._run(self._hashed, credentials)
            if found[1] is not None:
                self._verified.add(found[1], credentials.password)
        return found[0]

    def _hashed(self, credentials: IUsernamePassword) -> tuple[bytes | None, bytes | None]:
        """Return the user's name and password field if the password is right, or None and None."""
        users = self._users.read()
        name, field = users.find(credentials.username)
        forms = password_forms(credentials.password)
        if field is None or is_apop(field):
            self._waste_time(users, credentials.username, forms)
            if field is not None:
                raise UnauthorizedLogin("this user must log in by APOP")
            return None, None
        is_right = any(verify(field, form) for form in forms)
        return (name, field) if is_right else (None, None)

    def _waste_time(self, users: Users, name: bytes, forms: list[bytes]) -> None:
        """Check against some user's secret."""
        if users.passwords:
            decoy = self._decoys.password_field(prepared_name(name), users.passwords)
            with suppress(ValueError):
                for form in forms:
                    verify(decoy, form)

    def _by_apop(self, credentials: IAPOPCredentials) -> bytes | None:
        name, field = self._users.read().find(credentials.username)
        secret = split_field(field)[1] if field is not None and is_apop(field) else b""
        matches = credentials.check_secret(secret) and secret != b""
        if field is not None and not is_apop(field):
            raise UnauthorizedLogin("this user must not log in by APOP")
        return name if matches else None

    def _by_cram(self, credentials: IUsernameHashedPassword) -> bytes | None:
        name, field = self._users.read().find(credentials.username)
        is_plain = field is not None and scheme_of(field) in PLAIN_SCHEMES
        secret = split_field(field)[1] if field is not None and is_plain else b""
        return name if credentials.checkPassword(secret) and secret else None

    def _by_certificate(self, credentials: ICertificateCredentials) -> bytes | None:
        users = self._users.read()
        wanted = [credentials.username] if credentials.username else credentials.names
        found = (users.find(name)[0] for name in wanted if name in credentials.names)
        name = next((name for name in found if name is not None), None)
        if name is not None:
            credentials.username = name
        return name

    def _scram_keys(self, credentials: IScramCredentials) -> tuple[bytes | None, ScramKeys]:
        """Return the user's name and keys; no name, and keys that nothing fits, for no user."""
        users = self._users.read()
        by_hash = IScramSHA256Credentials.providedBy(credentials)
        hash_name, scheme = ("sha256", b"SCRAM-SHA-256") if by_hash else ("sha1", b"SCRAM-SHA-1")
        name, field = users.find(credentials.username)
        if not users.passwords:
            raise UnauthorizedLogin("there are no passwords")
        # A user has one salt in all spellings of the name, so nobody must have two.
        spelt = prepared_name(credentials.username)
        nobodys = self._decoys.scram_keys(hash_name, spelt, SCRAM_ROUNDS)
        is_user = (
            field is not None
            and not is_empty(field)
            and scheme_of(field) in {scheme, *PLAIN_SCHEMES}
        )
        decoy = self._decoys.password_field(spelt, users.passwords)
        model = field if field is not None and is_user else decoy
        if scheme_of(model) == scheme:
            keys = parse_scram_keys(split_field(model)[1])
        else:
            password = prepared_password(split_field(model)[1])
            keys = scram_keys(hash_name, password, nobodys.salt, SCRAM_ROUNDS)
        return (name, keys) if is_user else (None, nobodys._replace(rounds=keys.rounds))


_CAN_SERVE: dict[type[Interface], frozenset[bytes]] = {
    IScramSHA256Credentials: PLAIN_SCHEMES | {b"SCRAM-SHA-256"},
    IScramSHA1Credentials: PLAIN_SCHEMES | {b"SCRAM-SHA-1"},
    IUsernameHashedPassword: PLAIN_SCHEMES,
}
"""The schemes whose secrets can serve each kind of credentials."""
