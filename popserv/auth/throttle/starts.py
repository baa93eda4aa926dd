"""A rate limit for starting connections of networks from which nobody has logged in.

Somebody who guesses passwords from thousands of addresses reaches no limit of a single network, and
each connection costs a greeting, each guess the hash of a password.  Therefore at most one such
connection in each ``INTERVAL`` is started, after ``BURST`` of them.  A login that succeeds is not
counted, and one that fails counts like another connection.  The others wait in a queue.

Networks from which somebody has logged in within a day have no such limit: their users neither wait
in that queue nor find the processor occupied by what comes from elsewhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

INTERVAL = 1 / 256
"""Seconds in which one more connection may be started."""

BURST = 256
"""The connections that may be started at once, if there were none for a second."""

MAX_DELAY = 1 / 8
"""The maximum delay in seconds of the next start, however many logins fail."""

_HEADROOM = (BURST - 1) * INTERVAL


class Starter(Protocol):
    """The interface of a connection that a start queue requires; see Client."""

    def callLater(self, seconds: float, function: Callable[[], object]) -> object:
        """Call a function after a number of seconds."""

    def seconds(self) -> float:
        """Return the time of the clock of ``callLater``."""


class StartQueue:
    """The connections of a process that wait to be started."""

    def __init__(self) -> None:
        # When as many as BURST may be started at once again.
        self._clear_at = 0.0
        self._waiting: deque[tuple[Starter, Callable[[], object]]] = deque()

    def __len__(self) -> int:
        """Return how many connections wait."""
        return len(self._waiting)

    def may_start(self, client: Starter, start: Callable[[], object]) -> bool:
        """Return whether a connection may be started now; otherwise ``start`` is called later.

        That is also done if the client has disconnected meanwhile.
        """
        if not self._waiting and self._delay(client) <= 0:
            self.count(client)
            return True
        self._waiting.append((client, start))
        if len(self._waiting) == 1:
            self._wait()
        return False

    def count(self, client: Starter) -> None:
        """Count a connection, or a login that has failed."""
        now = client.seconds()
        clear_at = max(now, self._clear_at) + INTERVAL
        self._clear_at = min(clear_at, now + _HEADROOM + MAX_DELAY)

    def discount(self) -> None:
        """Do not count a connection any more, because its login has succeeded."""
        self._clear_at -= INTERVAL

    def _delay(self, client: Starter) -> float:
        return self._clear_at - _HEADROOM - client.seconds()

    def _wait(self) -> None:
        client, _ = self._waiting[0]
        client.callLater(max(0.0, self._delay(client)), self._start_first)

    def _start_first(self) -> None:
        client, start = self._waiting.popleft()
        self.count(client)
        if self._waiting:
            self._wait()
        start()
