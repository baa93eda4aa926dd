"""The SASL mechanisms that the command AUTH can offer (RFC 4422, RFC 5034).

``MECHANISMS`` lists them.  The exchange of each is a coroutine function in a module beside this
one.  It sends challenges, parses the client's responses, and returns credentials for a checker of
twisted.cred.

The exchange of SCRAM is different: its second challenge contains the salt of the user, which only
the checker knows.  Therefore its credentials continue the exchange when the checker calls them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass
from functools import partial
from typing import Any

from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword
from zope.interface import Interface

from popserv.auth.sasl.cram_md5 import cram_md5_exchange
from popserv.auth.sasl.external import external_exchange, has_certificate_names
from popserv.auth.sasl.oauthbearer import oauthbearer_exchange, xoauth2_exchange
from popserv.auth.sasl.plain_login import login_exchange, plain_exchange
from popserv.auth.sasl.scram import scram_exchange
from popserv.core.session import SendChallenge, Session
from popserv.interfaces import (
    ICertificateCredentials,
    IScramSHA1Credentials,
    IScramSHA256Credentials,
    ITokenCredentials,
)

Exchange = Callable[[SendChallenge, Session, Container[bytes]], Awaitable[Any]]
"""An authentication exchange (RFC 4422 section 3), as a coroutine function.

Its arguments are a function that sends a challenge and returns the response, the session, and the
names of the mechanisms that the session is offered.  It returns credentials with a ``username``,
and raises a :class:`popserv.errors.POPError` if the exchange fails.
"""


def _always(session: Session) -> bool:
    return True


@dataclass(frozen=True)
class Mechanism:
    """One SASL mechanism.

    ``name`` is the registered name, in upper case.  ``credentials`` is the interface of the
    credentials that the exchange ``run`` returns.  ``cleartext`` is true if an eavesdropper can
    read a password or a token; the mechanism then requires a connection that allows cleartext.
    ``server_first`` is true if the server sends data first, so that the client must not send an
    initial response.  ``is_possible`` tells whether the connection of a session has what the
    mechanism requires, such as a client certificate; the default is that it always has.
    """

    name: bytes
    credentials: type[Interface]
    run: Exchange
    cleartext: bool
    server_first: bool = False
    is_possible: Callable[[Session], bool] = _always

    def is_available(self, session: Session) -> bool:
        """Return whether a session is offered this mechanism now.

        The connection must allow the mechanism, and a checker must support its credentials.
        """
        return (
            (session.allows_cleartext if self.cleartext else session.allows_login)
            and self.is_possible(session)
            and session.supports(self.credentials)
        )


_CHANNEL_BINDINGS = (b"tls-exporter", b"tls-server-end-point")


def _has_channel_binding(session: Session) -> bool:
    tls_state = session.tls_state
    return tls_state is not None and any(
        tls_state.channel_binding(cb_name) is not None for cb_name in _CHANNEL_BINDINGS
    )


def _scram(name: bytes, hash_name: str, credentials: type[Interface]) -> tuple[Mechanism, ...]:
    """Return the two mechanisms of a hash, the first of them with channel binding."""
    plus_name = name + b"-PLUS"

    async def run(
        plus: bool, send_challenge: SendChallenge, session: Session, offered: Container[bytes]
    ) -> Any:
        return await scram_exchange(
            hash_name,
            send_challenge,
            session.tls_state,
            plus=plus,
            plus_offered=plus_name in offered,
        )

    return (
        Mechanism(
            plus_name,
            credentials,
            partial(run, True),
            cleartext=False,
            is_possible=_has_channel_binding,
        ),
        Mechanism(name, credentials, partial(run, False), cleartext=False),
    )


def external(default_domain: bytes = b"", folder_delimiter: bytes = b"") -> Mechanism:
    """Return EXTERNAL for names with a default domain and with folders; see external_exchange."""
    return Mechanism(
        b"EXTERNAL",
        ICertificateCredentials,
        partial(external_exchange, default_domain, folder_delimiter),
        cleartext=False,
        is_possible=has_certificate_names,
    )


MECHANISMS = (
    *_scram(b"SCRAM-SHA-256", "sha256", IScramSHA256Credentials),
    *_scram(b"SCRAM-SHA-1", "sha1", IScramSHA1Credentials),
    external(),
    Mechanism(b"OAUTHBEARER", ITokenCredentials, oauthbearer_exchange, cleartext=True),
    Mechanism(b"XOAUTH2", ITokenCredentials, xoauth2_exchange, cleartext=True),
    Mechanism(
        b"CRAM-MD5",
        IUsernameHashedPassword,
        cram_md5_exchange,
        cleartext=False,
        server_first=True,
    ),
    Mechanism(b"PLAIN", IUsernamePassword, plain_exchange, cleartext=True),
    Mechanism(b"LOGIN", IUsernamePassword, login_exchange, cleartext=True),
)
"""All mechanisms, in order of preference."""

DEFAULT_MECHANISMS = tuple(
    each for each in MECHANISMS if each.name != b"CRAM-MD5" and not each.name.endswith(b"-PLUS")
)
"""The mechanisms that are offered by default: all but CRAM-MD5 and those with channel binding.

CRAM-MD5 requires passwords that are stored in cleartext, and only old clients need it.  Mutt and
NeoMutt of 2022 choose a mechanism with channel binding although they cannot bind to TLS 1.3, fail,
and try no other mechanism.
"""
