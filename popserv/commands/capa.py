"""CAPA: the capability list of a session in its present state (RFC 2449)."""

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
    """Return the CAPA command of a server.

    :param implementation: name and version of the server; None to announce neither.
    :param expire_days: days after which the store removes messages; None if it never does.
    :param login_delay: seconds that a user must wait between two logins, as
        :class:`popserv.auth.throttle.login_delay.LoginDelayRealm` enforces; 0 for none.
    """
    server_capabilities = [
        b"RESP-CODES",
        b"AUTH-RESP-CODE",
        b"PIPELINING",
        b"EXPIRE NEVER" if expire_days is None else b"EXPIRE %d" % expire_days,
    ]
    if login_delay:
        server_capabilities.append(b"LOGIN-DELAY %d" % login_delay)
    # nmap stops reading at a dot, even one in a version.
    last = [] if implementation is None else [b"IMPLEMENTATION %b" % implementation]

    @command(
        b"CAPA",
        (State.AUTHORIZATION, State.TRANSACTION),
        no_arguments,
        announce=lambda session: server_capabilities,
    )
    def capa(session: Session) -> Reply:
        """List the capabilities, one a line."""
        return Reply(
            Text("capability list follows"),
            [_lines([*session.capabilities(), *last])],
            ListingFramer(),
        )

    return (capa,)


def _lines(capabilities: Iterable[bytes]) -> bytes:
    # One chunk: some clients believe that the first packet is the whole list.
    return b"".join(line + b"\r\n" for line in capabilities)


COMMANDS = commands()
