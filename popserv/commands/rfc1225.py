"""RPOP, and the commands that differ in RFC 1225 and in the draft "POP (revised)".

These specifications have no section numbers: USER is in "The AUTHORIZATION State", RSET in
"The TRANSACTION State", QUIT in "The UPDATE State", and RPOP in "Optional POP3 Commands".
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.cred.error import UnauthorizedLogin

from popserv.auth.credentials import IPPORT_RESERVED, RemoteUserCredentials
from popserv.commands import rfc1725
from popserv.core.command import Command, Outcome, command
from popserv.core.grammar import arguments, no_arguments, word
from popserv.core.replies import Reply
from popserv.core.session import Session, State, printable_name
from popserv.errors import BadCommand, LoginFailed
from popserv.interfaces import IRemoteUserCredentials
from popserv.texts import Text


def _remote_login_available(session: Session) -> bool:
    return session.allows_login and session.supports(IRemoteUserCredentials)


@command(
    b"USER",
    State.AUTHORIZATION,
    arguments(word),
    available=lambda session: rfc1725.user.available(session) or _remote_login_available(session),
    refusal=rfc1725.user.refusal,
)
def user(session: Session, name: bytes) -> Reply:
    """Record the name to log in with; the reply is that of the examples in the specifications."""
    session.claimed_name = name
    return Reply(Text("%s is a real hoopy frood", printable_name(name) or "this"))


@command(
    b"RPOP",
    State.AUTHORIZATION,
    arguments(word),
    available=_remote_login_available,
    refusal=Text("RPOP is not available"),
)
async def rpop(session: Session, remote_user: bytes) -> Reply:
    """Log in without a password, as the user that the client's host vouches for."""
    name = session.claimed_name
    if name is None:
        raise BadCommand("send USER first")
    # For the log, if the login is refused.
    session.name = name
    host, port = session.peer() or ("", 0)
    if not 0 < port < IPPORT_RESERVED:
        cause = "the client's port is not reserved" if host else "the client has no IP address"
        raise BadCommand("RPOP requires a reserved client port") from UnauthorizedLogin(cause)
    try:
        await session.login(name, RemoteUserCredentials(name, remote_user, host, port))
    except LoginFailed as failed:
        raise LoginFailed("permission denied") from failed.__cause__
    return Reply(session.login_text())


@command(b"RSET", State.TRANSACTION, no_arguments)
def rset(session: Session) -> Outcome:
    """Remove all deletion marks; LAST returns the same number as at the start of the session."""
    if session.access is not None:
        session.access.reset_to_start()
    return rfc1725.rset.run(session)


def quit_command(service: str) -> Command:
    """Return a QUIT command whose reply names the service and the host's short name."""

    @command(b"QUIT", (State.AUTHORIZATION, State.TRANSACTION), no_arguments)
    def quit_(session: Session) -> Coroutine[Any, Any, Reply]:
        """End the session; after a login, remove the marked messages first."""
        return rfc1725.sign_off(session, _short_name(session.host), service)

    return quit_


def greeting(service: str, host: bytes) -> bytes:
    """Return the text of a greeting that names the service and the host's short name."""
    short_name = _short_name(host)
    _, _, domain = host.decode("ascii").partition(".")
    text = f"{short_name} {service} server ready (Comments to: PostMaster@{domain or short_name})"
    return text.encode("ascii")


def _short_name(host: bytes) -> str:
    return host.decode("ascii").partition(".")[0]


quit_ = quit_command("POP3")
