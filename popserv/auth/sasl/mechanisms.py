"""The SASL mechanisms: from a dialogue with the client to credentials for cred.

Each is an entry of ``MECHANISMS``, and a function that is handed ``ask`` and the
session.  What a mechanism must know of a user before it can go on, the checker tells
the credentials, which talk for themselves then.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword, UsernamePassword
from zope.interface import Interface, implementer

from popserv.auth.credentials import CertificateCredentials, CramMD5Credentials
from popserv.auth.sasl.scram import scram, unescape
from popserv.core.session import SendChallenge, Session
from popserv.errors import BadCommand, LoginFailed, POPError
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


async def _plain(
    send_challenge: SendChallenge, session: Session, offered: Container[bytes]
) -> UsernamePassword:
    """PLAIN (RFC 4616): who to be, who one is, and the password, parted by NUL."""
    parts = (await send_challenge(b"")).split(b"\0")
    if len(parts) != 3 or not all(parts[1:]):
        raise BadCommand("malformed PLAIN response")
    act_as, name, password = parts
    session.name = name
    if act_as not in (b"", name):
        raise LoginFailed from PermissionError(
            "the authorization identity is not the authentication identity"
        )
    return UsernamePassword(name, password)


async def _login(
    send_challenge: SendChallenge, session: Session, offered: Container[bytes]
) -> UsernamePassword:
    """LOGIN: never a standard, but what Outlook speaks."""
    name = await send_challenge(b"Username:")
    password = await send_challenge(b"Password:")
    if not name or not password or b"\0" in name + password:
        raise BadCommand("malformed LOGIN response")
    return UsernamePassword(name, password)


async def _cram_md5(
    send_challenge: SendChallenge, session: Session, offered: Container[bytes]
) -> CramMD5Credentials:
    """CRAM-MD5 (RFC 2195): a digest of a challenge that is never repeated."""
    challenge = b"<%d.%d@%b>" % (secrets.randbits(64), time.time_ns(), session.host)
    name, _, digest = (await send_challenge(challenge)).rpartition(b" ")
    if not name:
        raise BadCommand("malformed CRAM-MD5 response")
    return CramMD5Credentials(name, challenge, digest)


async def _external(
    send_challenge: SendChallenge, session: Session, offered: Container[bytes]
) -> CertificateCredentials:
    """EXTERNAL (RFC 4422 appendix A): TLS has vouched for the client."""
    name = await send_challenge(b"")
    names = session.tls_state.certificate_names() if session.tls_state else ()
    session.name = name
    if name and name not in names:
        told = ", ".join(map(repr, names)) or "nobody"
        raise LoginFailed from PermissionError(f"the certificate is for {told:.500}, not for that")
    return CertificateCredentials(names, name)


def _is_certified(session: Session) -> bool:
    return session.tls_state is not None and bool(session.tls_state.certificate_names())


@implementer(ITokenCredentials)
class TokenCredentials:
    """A bearer token, and the dialogue to refuse it in."""

    def __init__(self, username: bytes, token: bytes, send_challenge: SendChallenge) -> None:
        self.username = username
        self.token = token
        self._ask = send_challenge

    async def refuse(self, reason: Mapping[str, str]) -> None:
        """See ITokenCredentials; whatever the client answers, the login has failed."""
        with suppress(POPError):
            await self._ask(json.dumps(dict(reason)).encode("ascii"))


# RFC 5801 section 4, without channel binding; as in SCRAM an authzid may be empty.
_GS2_HEADER = re.compile(rb"[ny],(?:a=((?:[^\x00,=]|=2C|=3D)*))?,")


async def _oauthbearer(
    send_challenge: SendChallenge, session: Session, offered: Container[bytes]
) -> TokenCredentials:
    """OAUTHBEARER (RFC 7628 section 3.1)."""
    header, *pairs = (await send_challenge(b"")).split(b"\x01")
    found = _GS2_HEADER.fullmatch(header)
    if found is None:
        raise BadCommand("malformed OAUTHBEARER response")
    return TokenCredentials(unescape(found[1] or b""), _bearer(pairs), send_challenge)


async def _xoauth2(
    send_challenge: SendChallenge, session: Session, offered: Container[bytes]
) -> TokenCredentials:
    """XOAUTH2: what OAUTHBEARER grew from, and what Microsoft's and Google's clients speak."""
    first, *pairs = (await send_challenge(b"")).split(b"\x01")
    if not first.startswith(b"user="):
        raise BadCommand("malformed XOAUTH2 response")
    return TokenCredentials(first.removeprefix(b"user="), _bearer(pairs), send_challenge)


def _bearer(pairs: Sequence[bytes]) -> bytes:
    """Return the token among key=value pairs, the last of which have nothing behind them."""
    found = [pair.removeprefix(b"auth=") for pair in pairs if pair.startswith(b"auth=")]
    kind, _, token = found[0].partition(b" ") if len(found) == 1 else (b"", b"", b"")
    if list(pairs[-2:]) != [b"", b""] or kind.lower() != b"bearer" or not token.strip():
        raise BadCommand("malformed bearer token")
    return token.strip()


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
    Mechanism(
        b"EXTERNAL", ICertificateCredentials, _external, cleartext=False, usable=_is_certified
    ),
    Mechanism(b"OAUTHBEARER", ITokenCredentials, _oauthbearer, cleartext=True),
    Mechanism(b"XOAUTH2", ITokenCredentials, _xoauth2, cleartext=True),
    Mechanism(b"CRAM-MD5", IUsernameHashedPassword, _cram_md5, cleartext=False, server_first=True),
    Mechanism(b"PLAIN", IUsernamePassword, _plain, cleartext=True),
    Mechanism(b"LOGIN", IUsernamePassword, _login, cleartext=True),
)
"""All there are, in order of preference."""

DEFAULT_MECHANISMS = tuple(
    each for each in MECHANISMS if each.name != b"CRAM-MD5" and not each.name.endswith(b"-PLUS")
)
"""All but CRAM-MD5, which is for old clients of users whose passwords stand in the clear, and
but those with channel binding: Mutt and NeoMutt of 2022 choose them, cannot bind to TLS 1.3,
and lose their way then instead of trying another."""
