"""The credentials checker that asks Dovecot, as Postfix and Exim do.

Dovecot decides about everything: the passwords, the networks of a user, the name of the maildrop.
popserv tells it the ends of the connection, and whether nobody can eavesdrop on it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from secrets import token_hex
from typing import Any

from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from zope.interface import Interface, implementer

from popserv.auth.credentials import ExchangeAborted
from popserv.auth.dovecot.client import AuthClient
from popserv.auth.dovecot.connection import ConnectionFailed
from popserv.auth.dovecot.exchange import Aborted, run_exchange
from popserv.auth.users.service import PasswordService
from popserv.auth.users.user import User
from popserv.core.findings import Finding, error
from popserv.core.user_settings import ConfiguredUser
from popserv.errors import TryLater
from popserv.interfaces import (
    IAPOPCredentials,
    IAPOPTimestamps,
    ICredentialsSupport,
    IDiagnosed,
    IRelayedCredentials,
    ISASLRelay,
)
from popserv.runtime.unix_paths import MAX_PATH, is_too_long

_DIGEST = re.compile(rb"[0-9A-Fa-f]{32}")


@implementer(ICredentialsSupport, IDiagnosed, ISASLRelay, IAPOPTimestamps)
class DovecotChecker(PasswordService):
    """Asks Dovecot about passwords and APOP, and passes SASL exchanges on to it.

    See :func:`popserv.auth.dovecot.exchange.run_exchange` for what happens when Dovecot restarts.
    """

    credentialInterfaces = (IUsernamePassword, IRelayedCredentials, IAPOPCredentials)

    def __init__(self, client: AuthClient) -> None:
        super().__init__(f"Dovecot at {client.path}")
        self._client = client

    @classmethod
    def from_path(cls, path: str) -> DovecotChecker:
        """Return a checker for the socket with this path; Dovecot need not run yet.

        :raises ValueError: the path is empty or too long.
        """
        if not path:
            raise ValueError(
                "the path of Dovecot's socket is missing; use dovecot:/run/dovecot/auth-client"
            )
        path = os.path.abspath(path)
        if is_too_long(path):
            raise ValueError(
                f"{path} has more than {MAX_PATH} octets; use a shorter path for Dovecot's socket"
            )
        return cls(AuthClient(path))

    def supports(self, credentials: type[Interface]) -> bool:
        """See :class:`popserv.interfaces.ICredentialsSupport`.

        Until Dovecot has told what it offers, passwords are supported, and such a login waits.
        APOP is supported only without PLAIN: RFC 1725 section 12 forbids both for one user, and
        Dovecot accepts both.
        """
        self._client.start()
        offered = self._client.mechanisms
        if credentials is IUsernamePassword:
            return offered is None or b"PLAIN" in offered
        if credentials is IAPOPCredentials:
            return offered is not None and b"APOP" in offered and b"PLAIN" not in offered
        return True

    def mechanisms(self) -> Mapping[bytes, bool]:
        """See :class:`popserv.interfaces.ISASLRelay`.

        Without those that are not for clients, those that let everybody in, EXTERNAL, which
        requires a client certificate, and those with channel binding, which the protocol does not
        pass on.
        """
        self._client.start()
        return {
            name: b"plaintext" in flags
            for name, flags in (self._client.mechanisms or {}).items()
            if not flags & {b"private", b"anonymous"}
            and name != b"EXTERNAL"
            and not name.endswith(b"-PLUS")
            and re.fullmatch(rb"[A-Z0-9_-]{1,20}", name)
        }

    def make_timestamp(self, host: bytes) -> bytes | None:
        """See :class:`popserv.interfaces.IAPOPTimestamps`: Dovecot recognizes its connection."""
        connection = self._client.current
        if connection is None:
            return None
        prefix = b"%b%x" % (connection.apop_prefix, self._client.now())
        return b"%b.%b@%b>" % (prefix, token_hex(8).encode("ascii"), host)

    async def diagnose(self) -> Iterable[Finding]:
        """See :class:`popserv.interfaces.IDiagnosed`."""
        path = self._client.path
        try:
            mechanisms = await self._client.try_once()
        except ConnectionFailed as problem:
            what = f"Dovecot cannot be asked: {problem}"
            remedy = "start Dovecot, or correct the path or the mode of its auth-client socket"
            return [error("dovecot-auth", path, what, remedy)]
        if b"PLAIN" not in mechanisms:
            what = "Dovecot does not offer PLAIN, so that nobody can log in by PASS"
            return [error("dovecot-auth", path, what, "add plain to its auth_mechanisms")]
        return []

    async def check(self, credentials: Any) -> bytes | ConfiguredUser:
        """See :class:`PasswordService`."""
        if IRelayedCredentials.providedBy(credentials):
            user = await self._outages.watch(self._relay(credentials))
        elif IAPOPCredentials.providedBy(credentials):
            user = await self._outages.watch(self._check_apop(credentials))
        else:
            return await super().check(credentials)
        return self.admitted(credentials, user)

    async def verify(self, name: bytes, password: bytes) -> User:
        """See :class:`PasswordService`."""
        return await run_exchange(self._client, b"PLAIN", b"\0%b\0%b" % (name, password))

    async def _check_apop(self, credentials: IAPOPCredentials) -> User:
        timestamp, connection = credentials.timestamp, self._client.current
        if connection is None or not timestamp.startswith(connection.apop_prefix):
            # A new connection to popserv gets a timestamp that Dovecot accepts.
            raise TryLater from ConnectionFailed("the timestamp is of an earlier connection")
        if not _DIGEST.fullmatch(credentials.digest):
            raise UnauthorizedLogin("the digest does not have 32 hexadecimal digits")
        digest = bytes.fromhex(credentials.digest.decode("ascii"))
        response = b"%b\0%b\0%b" % (timestamp, credentials.username, digest)
        return await run_exchange(self._client, b"APOP", response)

    async def _relay(self, credentials: IRelayedCredentials) -> User:
        try:
            return await run_exchange(
                self._client,
                credentials.mechanism,
                credentials.initial_response,
                credentials.send_challenge,
                credentials.identify,
            )
        except Aborted as error:
            # Fails like a wrong password, because it cost as much: the login must be throttled.
            raise ExchangeAborted(str(error.__cause__)) from error
