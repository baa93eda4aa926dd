"""A number of places, and the queue of those who wait for one."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.defer import TimeoutError as DeferredTimeout

from popserv.runtime.deadlines import Deadline


class NoPlaces(Exception):
    """There are no places any more, whether free or not."""


class PlaceQueue:
    """Places that are taken in the order in which they were asked for.

    :ivar places: how many there are now; see :meth:`close_place`.
    :ivar unfinished: the statements that are not finished; the caller counts them.
    """

    __slots__ = ("_deadline", "_reactor", "_taken", "_waiting", "places", "unfinished")

    def __init__(self, places: int, reactor: Any) -> None:
        self.places = places
        self.unfinished = 0
        self._taken = 0
        self._reactor = reactor
        # Who waits, in order, and until when.  The first of a thousand keys of a dict is found in
        # half a microsecond, whatever was deleted before it.
        self._waiting: dict[Deferred[None], float] = {}
        self._deadline = Deadline(reactor, self._leave_late)

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def take(self) -> bool:
        """Take a place if one is free; return whether it was."""
        if self._taken >= self.places:
            return False
        self._taken += 1
        return True

    def wait(self, deadline: float) -> Deferred[None]:
        """Wait for a place until a time of the reactor's clock; it is taken then.

        It fails with Twisted's TimeoutError when that time has come, and with :exc:`NoPlaces` if
        the last place is closed.
        """
        if not self.places:
            return fail(NoPlaces())
        waiting: Deferred[None] = Deferred(self._waiting.__delitem__)
        self._waiting[waiting] = deadline
        # Those that are tried again have less time than those before them.
        if deadline < self._deadline.time:
            self._deadline.set(deadline)
        return waiting

    def leave(self) -> None:
        """Free a place, which the first in the queue takes."""
        self._taken -= 1
        self._let_in()

    def close_place(self) -> None:
        """Remove a place that is taken; if it was the last one, nobody waits any longer."""
        self.places -= 1
        if not self.places:
            self._end([*self._waiting], NoPlaces)

    def open_place(self) -> None:
        """Open one again that was closed."""
        self.places += 1
        self._let_in()

    def stop(self) -> None:
        """Cancel the delayed call of the reactor."""
        self._deadline.stop()

    def _let_in(self) -> None:
        if self._waiting and self.take():
            waiting = next(iter(self._waiting))
            del self._waiting[waiting]
            waiting.callback(None)

    def _leave_late(self) -> None:
        now = self._reactor.seconds()
        late = [each for each, deadline in self._waiting.items() if deadline <= now]
        self._end(late, DeferredTimeout)
        if self._waiting:
            self._deadline.set(min(self._waiting.values()))

    def _end(self, ended: list[Deferred[None]], reason: type[Exception]) -> None:
        for waiting in ended:
            # One before it may have cancelled it.
            if self._waiting.pop(waiting, None) is not None:
                waiting.errback(reason())
