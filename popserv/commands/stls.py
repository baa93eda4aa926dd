"""STLS: starting TLS on an open connection (RFC 2595 section 4)."""

from __future__ import annotations

from collections.abc import Iterable

from popserv.core.command import command
from popserv.core.grammar import no_arguments
from popserv.core.replies import After, Reply
from popserv.core.session import Session, State
from popserv.texts import Text


def _announce(session: Session) -> Iterable[bytes]:
    # RFC 2595 section 4: announced in the AUTHORIZATION state only.
    return [b"STLS"] if session.state is State.AUTHORIZATION else ()


@command(
    b"STLS",
    State.AUTHORIZATION,
    no_arguments,
    available=lambda session: session.can_start_tls,
    refusal=Text("TLS is not available on this connection"),
    announce=_announce,
)
def stls(session: Session) -> Reply:
    """Start TLS after this reply; the server then starts a new session."""
    return Reply(Text("begin TLS negotiation"), after=After.START_TLS)


COMMANDS = (stls,)
