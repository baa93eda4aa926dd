"""A deadline that is set again and again, and rarely reached."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


class Deadline:
    """Makes a call when a time has come, unless it is set to another one before, or cleared.

    When the deadline is cleared or set to a later time, the call of the reactor's that waits for it
    is not cancelled; it looks at the deadline when its time has come, and waits again if need be.
    To make and cancel a call for each deadline would cost more.  ``clock`` provides IReactorTime.

    :ivar time: when the call will be made; ``inf``: never.
    """

    __slots__ = ("_call", "_clock", "_due", "_next", "time")

    def __init__(self, clock: Any, call: Callable[[], object]) -> None:
        self._clock = clock
        self._call = call
        self.time = math.inf
        # The reactor's call, and its time.
        self._next: Any = None
        self._due = math.inf

    def set(self, time: float) -> None:
        """Make the call at a time of the clock, in seconds."""
        self.time = time
        if time < self._due:
            if self._next is not None:
                self._next.cancel()
            self._wait()

    def clear(self) -> None:
        """Do not make the call."""
        self.time = math.inf

    def stop(self) -> None:
        """Do not make the call, and leave none of the reactor's."""
        self.time = self._due = math.inf
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _wait(self) -> None:
        self._due = self.time
        left = max(0.0, self.time - self._clock.seconds())
        self._next = self._clock.callLater(left, self._look)

    def _look(self) -> None:
        self._next = None
        self._due = math.inf
        if self.time <= self._clock.seconds():
            self.time = math.inf
            self._call()
        elif self.time < math.inf:
            self._wait()
