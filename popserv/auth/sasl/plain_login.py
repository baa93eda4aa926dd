"""PLAIN (RFC 4616) and LOGIN."""

from __future__ import annotations

from collections.abc import Container

from twisted.cred.credentials import UsernamePassword

from popserv.core.session import SendChallenge, Session
from popserv.errors import BadCommand, LoginFailed


async def plain(
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


async def login(
    send_challenge: SendChallenge, session: Session, offered: Container[bytes]
) -> UsernamePassword:
    """LOGIN: never a standard, but what Outlook speaks."""
    name = await send_challenge(b"Username:")
    password = await send_challenge(b"Password:")
    if not name or not password or b"\0" in name + password:
        raise BadCommand("malformed LOGIN response")
    return UsernamePassword(name, password)
