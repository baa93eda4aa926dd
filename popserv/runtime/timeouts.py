"""Timeouts of one length, for which the reactor has one call together.

Most connections end long before their timeout: a call of the reactor's for each of them would be
made, sorted in and cancelled in vain.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import Any

from twisted.python import log


class Timeout:
    """A call that is due at a time; it has these methods of IDelayedCall.

    :ivar seconds: returns the present time of the same clock.
    """

    # There is one for each connection.
    __slots__ = ("_queue", "_time", "call", "seconds")

    def __init__(self, queue: TimeoutQueue, time: float, call: Callable[[], object]) -> None:
        self._queue = queue
        self._time = time
        self.call = call
        self.seconds = queue.now

    def getTime(self) -> float:
        """Return the time at which it is due; see IDelayedCall."""
        return self._time

    def cancel(self) -> None:
        """Do not make the call, which has not been made yet; see IDelayedCall."""
        self._queue.remove(self)


class TimeoutQueue:
    """Makes calls after ``seconds``, and other calls with the same clock.

    ``clock`` is the reactor unless it is given; its time does not go back.

    :ivar now: returns the present time of the clock.
    """

    def __init__(self, seconds: float, clock: Any = None) -> None:
        if clock is None:
            # twistd chooses the reactor after everything is imported.
            from twisted.internet import reactor as clock
        # Not its present method: use_steady_clock may be called after this.
        self.now: Callable[[], float] = lambda: clock.seconds()
        self._seconds = seconds
        self._clock = clock
        # In the order in which they are due.
        self._timeouts: dict[Timeout, None] = {}
        # The reactor's call for the first of them, or for one that was cancelled since.
        self._next: Any = None

    def call_later(self, seconds: float, call: Callable[[], object]) -> Any:
        """Make a call after a number of seconds; return it, as IReactorTime.callLater does."""
        if seconds != self._seconds:
            return self._clock.callLater(seconds, call)
        timeout = Timeout(self, self.now() + seconds, call)
        self._timeouts[timeout] = None
        if self._next is None:
            self._wait_for_first()
        return timeout

    def remove(self, timeout: Timeout) -> None:
        """Cancel a timeout."""
        del self._timeouts[timeout]
        if not self._timeouts and self._next is not None:
            self._next.cancel()
            self._next = None

    def _wait_for_first(self) -> None:
        for first in self._timeouts:
            delay = max(0.0, first.getTime() - self.now())
            self._next = self._clock.callLater(delay, self._expire)
            break

    def _expire(self) -> None:
        """Make the calls that are due."""
        self._next = None
        now = self.now()
        for timeout in list(takewhile(lambda each: each.getTime() <= now, self._timeouts)):
            # A call before this one may have cancelled it.
            if timeout in self._timeouts:
                del self._timeouts[timeout]
                try:
                    timeout.call()
                except Exception:
                    log.err()
        if self._next is None:
            self._wait_for_first()
