"""A rate limit for starting connections of networks from which nobody has logged in.

Somebody who guesses passwords from thousands of addresses reaches no limit of a single network, and
each connection costs a greeting, each guess the hash of a password.  Therefore at most one such
connection in each ``INTERVAL`` is started, after ``BURST`` of them.  A login that succeeds is not
counted, and one that fails counts like another connection.  The others wait in a queue.

Networks from which somebody has logged in within a day have no such limit: their users neither wait
in that queue nor find the processor occupied by what comes from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

INTERVAL = 1 / 256
"""Seconds in which one more connection may be started."""

BURST = 256
"""The connections that may be started at once, if there were none for a second."""

MAX_DELAY = 1 / 64
"""The maximum delay in seconds of the next start, however many logins fail."""

MAX_STARTS = 8
"""The maximum of connections that are started before others are served."""

_HEADROOM = (BURST - 1) * INTERVAL
_ROUNDING = 1e-6


class Starter(Protocol):
    """The interface of a connection that a start queue requires."""

    def is_connected(self) -> bool:
        """Return whether the client is still connected; may be called in any thread."""

    def callLater(self, seconds: float, function: Callable[[], object]) -> object:
        """Call a function after a number of seconds."""

    def seconds(self) -> float:
        """Return the time of the clock of ``callLater``."""


class StartQueue:
    """The connections of a process that wait to be started."""

    def __init__(self) -> None:
        # When as many as BURST may be started at once again.
        self._clear_at = 0.0
        self._waiting: dict[Starter, Callable[[], object]] = {}
        self._has_timer = False

    def __len__(self) -> int:
        """Return how many connections wait."""
        return len(self._waiting)

    def may_start(self, client: Starter, start: Callable[[], object]) -> bool:
        """Return whether a connection may be started now; otherwise ``start`` is called later."""
        if not self._waiting and self._delay(client) <= 0:
            self.count(client)
            return True
        self._waiting[client] = start
        if not self._has_timer:
            self._wait(client)
        return False

    def remove(self, client: Starter) -> None:
        """Forget a connection that is lost, if it waits."""
        self._waiting.pop(client, None)

    def count(self, client: Starter) -> None:
        """Count a connection, or a login that has failed."""
        self._clear_at = max(self._clear_at, client.seconds()) + INTERVAL

    def discount(self) -> None:
        """Do not count a connection any more, because its login has succeeded."""
        self._clear_at -= INTERVAL

    def _delay(self, client: Starter) -> float:
        """Return the seconds before the next start."""
        now = client.seconds()
        # Many logins may have failed, or the clock was set back.
        self._clear_at = min(self._clear_at, now + _HEADROOM + MAX_DELAY)
        return self._clear_at - _HEADROOM - now

    def _wait(self, client: Starter) -> None:
        self._has_timer = True
        client.callLater(max(0.0, self._delay(client)), partial(self._start_next, client))

    def _start_next(self, client: Starter) -> None:
        self._has_timer = False
        for each in [*self._waiting][:MAX_STARTS]:
            if self._delay(client) > _ROUNDING:
                break
            # One that is gone ends when it is started.
            if each.is_connected():
                self.count(client)
            # Apart, so that one that fails holds up no other.
            each.callLater(0, self._waiting.pop(each))
        if self._waiting:
            self._wait(client)
