"""Commands, and the table in which a server finds them by keyword.

A command is an entry of the table and not a method, so no octets from a client ever reach
``getattr``.  The predicate ``available`` of a command decides whether a session has it.  The
dispatch of commands and CAPA both use it, so CAPA announces only commands that are accepted.
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

Outcome = bytes | Reply | Coroutine[Any, Any, Reply]
"""The octets of a whole positive response, a reply, or a coroutine that returns a reply."""

Handler = Callable[..., Outcome]
"""Runs a command: called with the session and the parsed arguments; may raise a POPError."""

Announce = Callable[[Session], Iterable[bytes]]
"""Returns the lines that a command adds to a session's capability list."""


def always_available(session: Session) -> bool:
    """Return True: the command is available in every session."""
    return True


def announce_nothing(session: Session) -> Iterable[bytes]:
    """Return no lines for the capability list."""
    return ()


_NOT_AVAILABLE = Text("command not available")

UNKNOWN_COMMAND = Text("unknown command")
"""The reply to a keyword that is not in the table."""


@dataclass(frozen=True)
class Command:
    """An entry of the command table.

    :ivar keyword: the keyword in upper case.
    :ivar states: the states in which the command is valid.
    :ivar parse: parses the arguments.
    :ivar run: runs the command.
    :ivar available: returns whether a session has the command.
    :ivar refusal: the text of the reply if the command is not available.
    :ivar announce: returns the lines for the capability list if the command is available.  The
        list is the same in AUTHORIZATION and TRANSACTION state (RFC 2449 section 5).
    """

    keyword: bytes
    states: tuple[State, ...]
    parse: ArgumentParser
    run: Handler
    available: Callable[[Session], bool] = always_available
    refusal: Text = _NOT_AVAILABLE
    announce: Announce = announce_nothing


def command(
    keyword: bytes,
    states: State | tuple[State, ...],
    parse: ArgumentParser,
    *,
    available: Callable[[Session], bool] = always_available,
    refusal: Text = _NOT_AVAILABLE,
    announce: Announce | bytes = announce_nothing,
) -> Callable[[Handler], Command]:
    """Return a decorator that makes a handler a :class:`Command`.

    ``announce`` may be the one line for the capability list.
    """
    lines: Announce = (lambda session: [announce]) if isinstance(announce, bytes) else announce

    def decorate(run: Handler) -> Command:
        all_states = states if isinstance(states, tuple) else (states,)
        return Command(keyword, all_states, parse, run, available, refusal, lines)

    return decorate


_WRONG_STATE = {
    State.AUTHORIZATION: Text("log in first"),
    State.TRANSACTION: Text("already logged in"),
    State.UPDATE: Text("session has ended"),
}


class CommandTable:
    """The commands that a server accepts, by keyword.

    :raises ValueError: two commands have the same keyword.
    """

    def __init__(self, *groups: Iterable[Command]) -> None:
        self._commands: dict[bytes, Command] = {}
        for entry in (entry for group in groups for entry in group):
            if entry.keyword in self._commands:
                raise ValueError(f"two commands have the keyword {entry.keyword.decode()}")
            self._commands[entry.keyword] = entry

    def __iter__(self) -> Iterator[Command]:
        return iter(self._commands.values())

    def __contains__(self, keyword: object) -> bool:
        return keyword in self._commands

    def find(self, session: Session, keyword: bytes) -> Command:
        """Return the command with this keyword, which is in upper case.

        :raises BadCommand: there is no such command, or it is not valid in the session's state,
            or not available in the session.
        """
        found = self._commands.get(keyword)
        if found is None:
            raise BadCommand(UNKNOWN_COMMAND)
        if session.state not in found.states:
            raise BadCommand(_WRONG_STATE[session.state])
        # Most commands always are, and a call takes longer than to see that.
        if found.available is not always_available and not found.available(session):
            name = keyword.decode("ascii", "replace")
            raise BadCommand(found.refusal) from LookupError(
                f"{name} is not available on this connection"
            )
        return found

    def capabilities(self, session: Session) -> list[bytes]:
        """Return the lines of the session's capability list at this moment."""
        return [
            line for entry in self if entry.available(session) for line in entry.announce(session)
        ]
