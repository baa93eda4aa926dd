"""A clock for the reactor's timers that goes on when somebody sets the time of the machine."""

from __future__ import annotations

import time
from typing import Any


class SteadyClock:
    """Returns the time at which it was created, plus the seconds that have passed since.

    It starts at the time of day, the clock of Twisted's reactors, so that calls that are already
    pending remain in order.
    """

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def __call__(self) -> float:
        """Return the time in seconds since the epoch."""
        return time.monotonic() + self._offset


def use_steady_clock(reactor: Any) -> None:
    """Give the reactor a SteadyClock, unless it has one.

    Twisted's reactors use the time of day: if it is set forward, all timers expire at once, and if
    it is set back, none expires for as long.  Call this before or while the reactor runs; it
    applies to all timers of the process.
    """
    if not isinstance(reactor.seconds, SteadyClock):
        reactor.seconds = SteadyClock()
