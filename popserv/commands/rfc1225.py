"""RPOP, and what else RFC 1225 and the draft before it had otherwise (RFC 1225, "POP (revised)").

Those texts have no sections: USER and QUIT are in "The AUTHORIZATION State" and "The
UPDATE State", RPOP in "Optional POP3 Commands".
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, cast

from popserv.auth.credentials import RESERVED, RemoteUserCredentials
from popserv.command import Command, command
from popserv.commands import rfc1725
from popserv.errors import BadCommand, LoginFailed
from popserv.interfaces import IRemoteUserCredentials
from popserv.session import Session, State, tellable
from popserv.texts import Text
from popserv.wire import Reply, nothing, word, words


def _takes_remote_users(session: Session) -> bool:
    return session.takes_logins and session.offers(IRemoteUserCredentials)


@command(
    b"USER",
    State.AUTHORIZATION,
    words(word),
    available=lambda session: rfc1725.user.available(session) or _takes_remote_users(session),
    refusal=rfc1725.user.refusal,
)
def user(session: Session, name: bytes) -> Reply:
    """Take the name to log in with; every name is as welcome as the texts' own."""
    session.claimed_name = name
    return Reply(Text("%s is a real hoopy frood", tellable(name) or "this"))


@command(
    b"RPOP",
    State.AUTHORIZATION,
    words(word),
    available=_takes_remote_users,
    refusal=Text("RPOP is not offered here"),
)
async def rpop(session: Session, remote_user: bytes) -> Reply:
    """Log in as who the client's host says that its user is, without a password."""
    name = session.claimed_name
    if name is None:
        raise BadCommand("USER comes first")
    host, port = session.peer() or ("", 0)
    if not 0 < port < RESERVED:
        raise BadCommand("RPOP is for clients on a reserved port")
    try:
        await session.login(name, RemoteUserCredentials(name, remote_user, host, port))
    except LoginFailed as failed:
        raise LoginFailed("permission denied") from failed.__cause__
    return Reply(session.welcome())


def signing_off_as(service: str) -> Command:
    """Return QUIT of a server that calls itself that, and its host by the short name."""

    @command(b"QUIT", (State.AUTHORIZATION, State.TRANSACTION), nothing)
    async def quit_(session: Session) -> Reply:
        """Say goodbye; after a login, remove what is marked first."""
        reply = await cast("Coroutine[Any, Any, Reply]", rfc1725.quit_.run(session))
        modern = session.host.decode("ascii") + " POP3 server"
        told = str(reply.text).replace(modern, f"{_short(session.host)} {service} server", 1)
        return reply._replace(text=told.encode("ascii"))

    return quit_


def greeting_as(service: str, host: bytes) -> bytes:
    """Return the text of the greeting of a server that calls itself that."""
    _, _, domain = host.decode("ascii").partition(".")
    whom = domain or _short(host)
    return f"{_short(host)} {service} server ready (Comments to: PostMaster@{whom})".encode("ascii")


def _short(host: bytes) -> str:
    return host.decode("ascii").partition(".")[0]


quit_ = signing_off_as("POP3")

COMMANDS = (user, rpop, quit_)
