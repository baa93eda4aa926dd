"""What a command is, and the table that dispatch and CAPA read.

A command is an entry, not a method: no name from the wire ever reaches ``getattr``.
Its ``available`` predicate is the only word on whether a session has it, so what
CAPA announces is what is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from popserv.core.grammar import ArgumentParser
from popserv.core.replies import Reply
from popserv.core.session import Session, State
from popserv.errors import BadCommand
from popserv.texts import Text

Outcome = Reply | Coroutine[Any, Any, Reply]

Handler = Callable[..., Outcome]
"""Called with the session and the parsed arguments; may raise a POPError."""

Announce = Callable[[Session], Iterable[bytes]]
"""From a session to the lines that a command adds to its capability list."""


def always_available(session: Session) -> bool:
    """Offer the command in every session."""
    return True


def announce_nothing(session: Session) -> Iterable[bytes]:
    """Announce nothing."""
    return ()


_NOT_OFFERED = Text("command not available")


@dataclass(frozen=True)
class Command:
    """One entry of the table.

    ``states`` are those it may be given in, ``parse`` reads its arguments,
    ``refusal`` is what a client is told where ``available`` says no, and
    ``announce`` is asked for lines of the capability list where it says yes
    (RFC 2449 section 5), in the AUTHORIZATION and the TRANSACTION state alike.
    """

    keyword: bytes
    states: tuple[State, ...]
    parse: ArgumentParser
    run: Handler
    available: Callable[[Session], bool] = always_available
    refusal: Text = _NOT_OFFERED
    announce: Announce = announce_nothing


def command(
    keyword: bytes,
    states: State | tuple[State, ...],
    parse: ArgumentParser,
    *,
    available: Callable[[Session], bool] = always_available,
    refusal: Text = _NOT_OFFERED,
    announce: Announce | bytes = announce_nothing,
) -> Callable[[Handler], Command]:
    """Make a function the entry that runs it; ``announce`` may be the one line."""
    lines: Announce = (lambda session: [announce]) if isinstance(announce, bytes) else announce

    def entry(run: Handler) -> Command:
        given_in = states if isinstance(states, tuple) else (states,)
        return Command(keyword, given_in, parse, run, available, refusal, lines)

    return entry


_NOT_NOW = {
    State.AUTHORIZATION: Text("log in first"),
    State.TRANSACTION: Text("already logged in"),
    State.UPDATE: Text("session has ended"),
}


class CommandTable:
    """The commands that a server understands, by keyword."""

    def __init__(self, *groups: Iterable[Command]) -> None:
        self._commands: dict[bytes, Command] = {}
        for entry in (entry for group in groups for entry in group):
            if entry.keyword in self._commands:
                raise ValueError(f"two commands are called {entry.keyword.decode()}")
            self._commands[entry.keyword] = entry

    def __iter__(self) -> Iterator[Command]:
        return iter(self._commands.values())

    def __contains__(self, keyword: object) -> bool:
        return keyword in self._commands

    def find(self, session: Session, keyword: bytes) -> Command:
        """Return the command of that keyword, given in upper case.

        :raises BadCommand: there is none, or none in this state or this session.
        """
        found = self._commands.get(keyword)
        if found is None:
            raise BadCommand("unknown command")
        if session.state not in found.states:
            raise BadCommand(_NOT_NOW[session.state])
        if not found.available(session):
            told = keyword.decode("ascii", "replace")
            raise BadCommand(found.refusal) from LookupError(
                f"{told} is not available on this connection"
            )
        return found

    def capabilities(self, session: Session) -> list[bytes]:
        """Return the lines of the capability list of this session, as it is now."""
        return [
            line for entry in self if entry.available(session) for line in entry.announce(session)
        ]
