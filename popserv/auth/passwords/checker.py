"""The credentials checker for users with secrets: passwords, APOP, CRAM-MD5, SCRAM, EXTERNAL.

The password field of a user determines how the user logs in: by APOP only if it has an ``{APOP}``
secret, and never by APOP otherwise (RFC 1725 section 12).  Refusing an unknown name takes as long
as refusing a wrong password, because the password is then verified against a decoy.  A user whom
the rules of the extra fields refuse is treated like an unknown name.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
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
from popserv.auth.users.extra_fields import NO_RULES, Rules
from popserv.auth.users.remembered import RememberedPasswords
from popserv.auth.users.user import User, UserDirectory
from popserv.core.connection_details import connection_details
from popserv.core.session import client_is_connected
from popserv.core.user_settings import ConfiguredUser
from popserv.errors import LoginFailed, POPError, TryLater
from popserv.interfaces import (
    IAPOPCredentials,
    ICaching,
    ICertificateCredentials,
    ICredentialsSupport,
    IDecoyMaker,
    IScramCredentials,
    IScramSHA1Credentials,
    IScramSHA256Credentials,
)
from popserv.runtime.config_files import FileError
from popserv.runtime.coroutines import run_eagerly
from popserv.runtime.threads import BoundedThreadPool

_APOP_DECOY = b"{APOP}decoy"

REMEMBERED = 3600.0  # Seconds: a client that polls causes one hash an hour.
_hash_threads = BoundedThreadPool("popserv-hash", threads=2, backlog=200)


def run_in_thread(function: Callable[..., Any], *args: Any) -> Deferred[Any]:
    """Call a function in a thread, unless the client has disconnected before a thread is free."""
    return _hash_threads.run(function, *args, still_needed=client_is_connected.get())


@implementer(ICredentialsChecker, ICredentialsSupport, ICaching, IDecoyMaker)
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

    def use_decoys(self, decoys: Decoys) -> None:
        """See :class:`popserv.interfaces.IDecoyMaker`."""
        self._decoys = decoys

    def supports(self, credentials: type[Interface]) -> bool:
        """See :class:`popserv.interfaces.ICredentialsSupport`."""
        return supports(self._source.secrets(), credentials)

    def requestAvatarId(self, credentials: ICredentials) -> Any:
        """Return the user's avatar ID, or a Deferred of it; see ICredentialsChecker.

        :raises UnauthorizedLogin: the credentials are wrong.
        :raises TryLater: the users, or the secret of decoys, cannot be looked up, or too many
            logins wait for a thread.
        """
        return run_eagerly(self._check(credentials))

    async def _check(self, credentials: Any) -> bytes | ConfiguredUser:
        # Before anybody is looked up, so that a failure does not tell which names are known.
        await self._decoys.prepare()
        try:
            found, refusal = await self._find(credentials)
            # A user whom the rules refuse is treated in everything like a name that no user has,
            # so that a client cannot find out whether its password is right.
            user = None if refusal else found
            rules = NO_RULES if found is None else found.rules
            proven = await self._authenticated(credentials, user, rules)
            if proven is None:
                raise UnauthorizedLogin(refusal or "unknown user or wrong password")
        except (FileError, SchemeUnavailable) as error:
            raise TryLater from error
        except UnknownScheme as error:
            raise UnauthorizedLogin(f"password field: {error}") from None
        except ValueError:
            # Its message may quote the secret.
            raise UnauthorizedLogin("malformed password field") from None
        # For the log and the reply: the client may have sent another spelling.
        credentials.username = proven.name
        return proven.avatar_id

    async def find(self, name: bytes) -> User | None:
        """See UserDirectory."""
        try:
            return await self._source.find(name)
        except FileError as error:
            raise TryLater from error

    async def _find(self, credentials: Any) -> tuple[User | None, str]:
        """Return the user whom a client names, or None, and for the log why the rules refuse."""
        is_certificate = ICertificateCredentials.providedBy(credentials)
        names = credentials.names if is_certificate else [credentials.username]
        for name in names:
            user = await self.find(name)
            if user is not None:
                return user, self._refusal_of(user)
        return None, ""

    def _refusal_of(self, user: User) -> str:
        return user.rules.refusal_of(connection_details.get(), self._now())

    async def _authenticated(
        self, credentials: Any, user: User | None, rules: Rules
    ) -> User | None:
        """Return the user whom the credentials authenticate, or None.

        ``user`` is None if the name is unknown.

        The time of the rules is taken before the rest, as the rules are: a client of SCRAM is
        answered before it is refused.
        """
        if IUsernamePassword.providedBy(credentials):
            return await self._check_password(credentials, user, rules)
        rules.take_time(connection_details.get())
        if ICertificateCredentials.providedBy(credentials):
            return user
        if IScramCredentials.providedBy(credentials):
            is_right = await self._check_scram(credentials, user)
        else:
            by_apop = IAPOPCredentials.providedBy(credentials)
            check = self._check_apop if by_apop else self._check_cram_md5
            is_right = bool(await self._run(check, credentials, user))
        return await self._look_again(credentials, user if is_right else None)

    async def _look_again(self, credentials: Any, user: User | None) -> User | None:
        """Return the user as found now, or None if the login is no longer allowed.

        A check may have waited long, for a thread or for the client, and the user may have changed
        meanwhile.
        """
        if user is None:
            return None
        # By the name that the client has sent: a query need not find the user by ``user.name``.
        now = await self.find(credentials.username)
        if now is None or now[:2] != user[:2] or self._refusal_of(now):
            return None
        return now

    async def _check_password(
        self, credentials: IUsernamePassword, user: User | None, rules: Rules
    ) -> User | None:
        remembered, password = self._remembered, credentials.password
        # With the password, which clients send in several encodings.
        field = b"" if user is None else user.password_field
        key = b"%d:%b%b" % (len(field), field, password)
        # Looked up for an unknown name, too, which takes a while.
        if remembered.find(key, password) and user is not None:
            return user
        # Not before, so that a password that is remembered costs no more than it must.
        rules.take_time(connection_details.get())
        begun = remembered.begin()
        is_right = bool(await self._run(self._verify_password, credentials, user))
        if is_right:
            remembered.add(key, password, True, begun)
        return await self._look_again(credentials, user if is_right else None)

    def _verify_password(self, credentials: IUsernamePassword, user: User | None) -> bool:
        passwords = candidate_passwords(credentials.password)
        decoy = self._decoy(credentials.username, self._source.secrets().passwords)
        field = decoy if user is None else user.password_field
        if not has_password(field):
            # Nothing can match, for a reason that is raised.
            _take_time(decoy, passwords)
        elif user is None:
            _take_time(field, passwords)
        else:
            try:
                return _matches(field, passwords)
            except ValueError:
                _take_time(decoy, passwords)
                raise
        if user is None:
            return False
        if is_apop(field):
            raise UnauthorizedLogin("this user must log in by APOP")
        return _matches(field, passwords)

    def _decoy(self, name: bytes, fields: Sequence[bytes]) -> bytes:
        """Return the password field that stands for that of a name, or a field without a secret.

        It is chosen for each login, so that a known name takes as long as an unknown one.
        """
        return self._decoys.choose(name, fields or (b"",))

    def _check_apop(self, credentials: IAPOPCredentials, user: User | None) -> bool:
        field = _APOP_DECOY if user is None else user.password_field
        has_apop = is_apop(field)
        secret = split_field(field if has_apop else _APOP_DECOY)[1]
        is_right = credentials.check_secret(secret) and secret != b""
        if user is not None and not has_apop:
            raise UnauthorizedLogin("this user must not log in by APOP")
        return is_right and user is not None

    def _check_cram_md5(self, credentials: Any, user: User | None) -> bool:
        secrets = self._source.secrets()
        fields = secrets.passwords if secrets.has_only_schemes(CRAM_MD5_SCHEMES) else ()
        decoy = self._decoy(credentials.username, fields)
        field = decoy if user is None else user.password_field
        if scheme_of(field) in CRAM_MD5_SCHEMES and user is not None:
            return matches_cram_md5(credentials, field)
        with suppress(ValueError):
            matches_cram_md5(credentials, decoy)
        return False

    async def _check_scram(self, credentials: IScramCredentials, user: User | None) -> bool:
        known, keys, problem = await self._run(self._scram_keys, credentials, user)
        try:
            is_right = await credentials.check_keys(keys)
        except LoginFailed as error:
            raise UnauthorizedLogin(str(error.__cause__)) from error
        except POPError as error:
            # Fails like a wrong password, because it cost as much: the login must be throttled.
            raise ExchangeAborted(str(error)) from error
        if problem:
            raise UnauthorizedLogin(problem)
        return is_right and known is not None

    def _scram_keys(
        self, credentials: IScramCredentials, user: User | None
    ) -> tuple[User | None, ScramKeys, str]:
        secrets = self._source.secrets()
        if not secrets.passwords:
            raise UnauthorizedLogin("no user has a password")
        kind = "sha256" if IScramSHA256Credentials.providedBy(credentials) else "sha1"
        return select_scram_keys(kind, credentials.username, user, secrets, self._decoys)


def _matches(field: bytes, passwords: Sequence[bytes]) -> bool:
    return any(verify(field, password) for password in passwords)


def _take_time(decoy: bytes, passwords: Sequence[bytes]) -> None:
    """Take the time that verifying a user's password takes; none without a secret."""
    with suppress(ValueError):
        for password in passwords if decoy else ():
            verify(decoy, password)
