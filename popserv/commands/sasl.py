"""AUTH: SASL authentication (RFC 5034)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from popserv.auth.sasl.mechanisms import DEFAULT_MECHANISMS, Mechanism
from popserv.auth.sasl.relay import RelayedCredentials, available_names
from popserv.core.command import Command, command
from popserv.core.grammar import arguments, decode_base64, word
from popserv.core.replies import Reply
from popserv.core.session import Session, State
from popserv.errors import BadCommand
from popserv.messages.framing import ListingFramer
from popserv.texts import Text


def commands(
    mechanisms: Sequence[Mechanism] = DEFAULT_MECHANISMS,
    relayed: Collection[bytes] | None = None,
) -> tuple[Command, ...]:
    """Return the AUTH command for these mechanisms, given in order of preference.

    ``relayed`` are the names of the mechanisms, in order of preference, that may be passed on to
    another server, if a checker does so; None stands for all that the other server offers.
    """
    by_name = {each.name: each for each in mechanisms}

    def names_for(session: Session) -> list[bytes]:
        return available_names(session, mechanisms, relayed)

    def announce(session: Session) -> Iterable[bytes]:
        names = names_for(session)
        return [b"SASL " + b" ".join(names)] if names else ()

    @command(
        b"AUTH",
        State.AUTHORIZATION,
        arguments(word, word, minimum=0),
        available=lambda session: session.allows_login,
        refusal=Text("login requires TLS"),
        announce=announce,
    )
    async def auth(
        session: Session, name: bytes | None = None, initial: bytes | None = None
    ) -> Reply:
        """Log in by a mechanism; without an argument, list the mechanisms, for old clients."""
        session.claimed_name = session.name = None
        if name is None:
            lines = b"".join(each + b"\r\n" for each in names_for(session))
            return Reply(Text("mechanisms follow"), [lines], ListingFramer())
        name, names = name.upper(), names_for(session)
        if name not in names:
            raise BadCommand("mechanism not available")
        session.method = name.decode("ascii")
        mechanism = by_name.get(name)
        exchange = _Exchange(session, initial)
        if mechanism is None or not mechanism.is_available(session):
            credentials: Any = RelayedCredentials(
                session, name, exchange.initial_response(), exchange.send_challenge
            )
            await session.login(b"", credentials)
            return Reply(session.login_text())
        if initial is not None and mechanism.server_first:
            raise BadCommand("mechanism does not accept an initial response")
        credentials = await mechanism.run(exchange.send_challenge, session, names)
        await session.login(credentials.username, credentials)
        return Reply(session.login_text())

    return (auth,)


class _Exchange:
    """An exchange, base64-decoded; an initial response is the response to the first challenge."""

    def __init__(self, session: Session, initial: bytes | None) -> None:
        self._session = session
        # Section 4: "=" is an initial response that is empty.
        self._initial = b"" if initial == b"=" else initial

    def initial_response(self) -> bytes | None:
        """Return the initial response, or None; the next challenge will be sent."""
        line, self._initial = self._initial, None
        return None if line is None else self._decode(line)

    async def send_challenge(self, challenge: bytes) -> bytes:
        response = self.initial_response()
        if response is not None:
            return response
        line = await self._session.send_challenge(challenge)
        if line == b"=" and not challenge:
            # curl before 8.22 sends an empty response so, as if it were an initial one.
            line = b""
        return self._decode(line)

    def _decode(self, line: bytes) -> bytes:
        if line == b"*":
            raise BadCommand("authentication cancelled")
        try:
            return decode_base64(line)
        except ValueError:
            raise BadCommand("invalid base64") from None


COMMANDS = commands()
