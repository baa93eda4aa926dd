"""CAPA: what this session can do, here and now (RFC 2449)."""

from __future__ import annotations

from collections.abc import Iterable

from popserv.core.command import Command, command
from popserv.core.grammar import no_arguments
from popserv.core.replies import Reply
from popserv.core.session import Session, State
from popserv.messages.framing import ListingFramer
from popserv.texts import Text


def commands(
    *,
    implementation: bytes | None = None,
    expire_days: int | None = None,
    login_delay: int = 0,
) -> tuple[Command, ...]:
    """Return the command, for a server of these traits.

    ``expire_days`` are the days after which the store removes messages by itself, None
    if it never does; ``login_delay`` the seconds between two logins of one user that
    :class:`popserv.auth.throttle.login_delay.LoginDelayRealm` enforces;
    ``implementation`` a name and a version, None to keep them private.
    """
    traits = [
        b"RESP-CODES",
        b"AUTH-RESP-CODE",
        b"PIPELINING",
        b"EXPIRE NEVER" if expire_days is None else b"EXPIRE %d" % expire_days,
    ]
    if login_delay:
        traits.append(b"LOGIN-DELAY %d" % login_delay)
    if implementation is not None:
        traits.append(b"IMPLEMENTATION %b" % implementation)

    @command(
        b"CAPA",
        (State.AUTHORIZATION, State.TRANSACTION),
        no_arguments,
        announce=lambda session: traits,
    )
    def capa(session: Session) -> Reply:
        """List the capabilities, a line each."""
        return Reply(
            Text("capability list follows"), [_lines(session.capabilities())], ListingFramer()
        )

    return (capa,)


def _lines(capabilities: Iterable[bytes]) -> bytes:
    # One chunk: some clients take what comes in the first packet for all.
    return b"".join(line + b"\r\n" for line in capabilities)


COMMANDS = commands()
