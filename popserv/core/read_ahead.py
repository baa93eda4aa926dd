"""Responses that are made before their clients ask for them.

A client that has retrieved message n will probably retrieve n + 1.  While it processes n, the
server has nothing to do for it, so that reading n + 1 takes no time.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from popserv.texts import Language

if TYPE_CHECKING:
    from popserv.core.session import Session

MAX_OCTETS = 1 << 14
"""The maximum octets of a message that is read ahead."""


class ReadAhead(NamedTuple):
    """A response to RETR or TOP.

    ``request`` is the message-number, the argument ``lines`` of TOP or None for RETR, and the
    language of the status line.
    """

    request: tuple[int, int | None, Language]
    response: bytes


class ReadAheadLimit:
    """Limits the number of sessions that keep a response, and so the memory that it takes.

    ``maximum`` is that number.
    """

    def __init__(self, maximum: int = 64) -> None:
        self._maximum = maximum
        self._sessions: OrderedDict[Session, None] = OrderedDict()

    def keep(self, session: Session, response: ReadAhead) -> None:
        """Keep a response in its session; if there are too many, the oldest one is dropped."""
        session.ahead = response
        self._sessions[session] = None
        self._sessions.move_to_end(session)
        if len(self._sessions) > self._maximum:
            oldest, _ = self._sessions.popitem(last=False)
            oldest.ahead = None

    def drop(self, session: Session) -> None:
        """Drop the response that a session keeps, if there is one."""
        session.ahead = None
        self._sessions.pop(session, None)
