"""The SASL mechanisms: from a dialogue with the client to credentials for cred.

Each is an entry of ``MECHANISMS``, and a function that is handed ``ask`` and the
session.  What a mechanism must know of a user before it can go on, the checker tells
the credentials, which talk for themselves then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass
from functools import partial
from typing import Any

from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword
from zope.interface import Interface

from popserv.auth.sasl.cram_md5 import cram_md5
from popserv.auth.sasl.external import external, is_certified
from popserv.auth.sasl.oauthbearer import oauthbearer, xoauth2
from popserv.auth.sasl.plain_login import login, plain
from popserv.auth.sasl.scram import scram
from popserv.core.session import SendChallenge, Session
from popserv.interfaces import (
    ICertificateCredentials,
    IScramSHA1Credentials,
    IScramSHA256Credentials,
    ITokenCredentials,
)

Run = Callable[[SendChallenge, Session, Container[bytes]], Awaitable[Any]]
"""From a dialogue, a session and the mechanisms that it is offered to credentials with a
``username``; raises a POPError."""


def _always(session: Session) -> bool:
    return True


@dataclass(frozen=True)
class Mechanism:
    """One SASL mechanism.

    ``credentials`` is the interface of what ``run`` returns; ``in_the_clear`` tells
    whether who reads along learns a secret, ``server_first`` whether the server has the
    first word, so that there is no initial response; ``usable`` whether a session's
    connection has what the mechanism builds on.
    """

    name: bytes
    credentials: type[Interface]
    run: Run
    cleartext: bool
    server_first: bool = False
    usable: Callable[[Session], bool] = _always

    def available(self, session: Session) -> bool:
        """Tell whether a session is offered this mechanism now."""
        return (
            (session.allows_cleartext if self.cleartext else session.allows_login)
            and self.usable(session)
            and session.supports(self.credentials)
        )


_BINDINGS = (b"tls-exporter", b"tls-server-end-point")


def _can_bind(session: Session) -> bool:
    tls_state = session.tls_state
    return tls_state is not None and any(
        tls_state.channel_binding(kind) is not None for kind in _BINDINGS
    )


def _scram(name: bytes, hash_name: str, credentials: type[Interface]) -> tuple[Mechanism, ...]:
    bound = name + b"-PLUS"

    async def run(
        plus: bool, send_challenge: SendChallenge, session: Session, offered: Container[bytes]
    ) -> Any:
        return await scram(
            hash_name, send_challenge, session.tls_state, plus=plus, plus_offered=bound in offered
        )

    return (
        Mechanism(bound, credentials, partial(run, True), cleartext=False, usable=_can_bind),
        Mechanism(name, credentials, partial(run, False), cleartext=False),
    )


MECHANISMS = (
    *_scram(b"SCRAM-SHA-256", "sha256", IScramSHA256Credentials),
    *_scram(b"SCRAM-SHA-1", "sha1", IScramSHA1Credentials),
    Mechanism(b"EXTERNAL", ICertificateCredentials, external, cleartext=False, usable=is_certified),
    Mechanism(b"OAUTHBEARER", ITokenCredentials, oauthbearer, cleartext=True),
    Mechanism(b"XOAUTH2", ITokenCredentials, xoauth2, cleartext=True),
    Mechanism(b"CRAM-MD5", IUsernameHashedPassword, cram_md5, cleartext=False, server_first=True),
    Mechanism(b"PLAIN", IUsernamePassword, plain, cleartext=True),
    Mechanism(b"LOGIN", IUsernamePassword, login, cleartext=True),
)
"""All there are, in order of preference."""

DEFAULT_MECHANISMS = tuple(
    each for each in MECHANISMS if each.name != b"CRAM-MD5" and not each.name.endswith(b"-PLUS")
)
"""All but CRAM-MD5, which is for old clients of users whose passwords stand in the clear, and
but those with channel binding: Mutt and NeoMutt of 2022 choose them, cannot bind to TLS 1.3,
and lose their way then instead of trying another."""
