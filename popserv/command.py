"""What a command is, and the table that dispatch reads.

A command is an entry, not a method: no name from the wire ever reaches ``getattr``.
Its ``available`` predicate is the only word on whether a session has it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from popserv.errors import BadCommand
from popserv.session import Session, State
from popserv.wire import Parse, Reply

Run = Callable[..., "Reply | Coroutine[Any, Any, Reply]"]
"""Called with the session and the parsed arguments; may raise a POPError."""


def always(session: Session) -> bool:
    """Offer the command in every session."""
    return True


@dataclass(frozen=True)
class Command:
    """One entry of the table.

    ``states`` are those it may be given in, ``parse`` reads its arguments,
    ``refusal`` is what a client is told where ``available`` says no.
    """

    keyword: bytes
    states: tuple[State, ...]
    parse: Parse
    run: Run
    available: Callable[[Session], bool] = always
    refusal: bytes = b"command not offered here"


def command(
    keyword: bytes,
    states: State | tuple[State, ...],
    parse: Parse,
    *,
    available: Callable[[Session], bool] = always,
    refusal: bytes = Command.refusal,
) -> Callable[[Run], Command]:
    """Make a function the entry that runs it."""

    def entry(run: Run) -> Command:
        given_in = states if isinstance(states, tuple) else (states,)
        return Command(keyword, given_in, parse, run, available, refusal)

    return entry


_NOT_NOW = {
    State.AUTHORIZATION: b"log in first",
    State.TRANSACTION: b"already logged in",
    State.UPDATE: b"the session is over",
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

    def find(self, session: Session, keyword: bytes) -> Command:
        """Return the command of that keyword, given in upper case.

        :raises BadCommand: there is none, or none in this state or this session.
        """
        found = self._commands.get(keyword)
        if found is None:
            raise BadCommand(b"unknown command")
        if session.state not in found.states:
            raise BadCommand(_NOT_NOW[session.state])
        if not found.available(session):
            raise BadCommand(found.refusal)
        return found
