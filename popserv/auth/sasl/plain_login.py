"""The mechanisms PLAIN (RFC 4616) and LOGIN, which send the password in cleartext."""

from __future__ import annotations

from collections.abc import Container

from twisted.cred.credentials import UsernamePassword

from popserv.core.session import SendChallenge, Session
from popserv.errors import BadCommand, LoginFailed


async def plain_exchange(
    send_challenge: SendChallenge, session: Session, offered: Container[bytes]
) -> UsernamePassword:
    """Run an exchange of PLAIN; see :data:`popserv.auth.sasl.mechanisms.Exchange`.

    The response has the authorization identity, the authentication identity and the password,
    separated by NUL.  The authorization identity must be empty or the authentication identity.
    """
    parts = (await send_challenge(b"")).split(b"\0")
    if len(parts) != 3 or not all(parts[1:]):
        raise BadCommand("malformed PLAIN response")
    authzid, name, password = parts
    session.name = name
    if authzid not in (b"", name):
        raise LoginFailed from PermissionError(
            "the authorization identity is not the authentication identity"
        )
    return UsernamePassword(name, password)


async def login_exchange(
    send_challenge: SendChallenge, session: Session, offered: Container[bytes]
) -> UsernamePassword:
    """Run an exchange of LOGIN, which has no RFC; Outlook uses it.

    See :data:`popserv.auth.sasl.mechanisms.Exchange`.
    """
    name = await send_challenge(b"Username:")
    password = await send_challenge(b"Password:")
    if not name or not password or b"\0" in name + password:
        raise BadCommand("malformed LOGIN response")
    return UsernamePassword(name, password)
