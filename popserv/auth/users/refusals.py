"""How long refusals take: the time must not tell which names there are, and where."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

from twisted.cred.error import UnauthorizedLogin
from twisted.internet.task import deferLater

T = TypeVar("T")

PERIOD = 600.0
"""Seconds for which a slow refusal delays the others, at least."""

MAX_DELAY = 20.0
"""Seconds that a refusal is delayed at most, which is more than Dovecot's own delay."""


class EvenRefusals:
    """Lets each refusal take as long as the slowest one of late.

    ``clock`` is the reactor unless it is given.
    """

    def __init__(self, clock: Any = None) -> None:
        self._clock = clock
        self._slowest = SlowestRefusal()

    async def watch(self, checking: Awaitable[T]) -> T:
        """Return the result of a check, or refuse later than it does.

        :raises UnauthorizedLogin: it has refused.
        """
        if self._clock is None:
            # twistd chooses the reactor after everything is imported.
            from twisted.internet import reactor

            self._clock = reactor
        clock = self._clock
        started = clock.seconds()
        try:
            return await checking
        except UnauthorizedLogin:
            now = clock.seconds()
            taken = now - started
            delay = self._slowest.record(taken, now) - taken
            if delay > 0:
                await deferLater(clock, delay)
            raise


class SlowestRefusal:
    """How long the slowest refusal of late has taken, up to ``MAX_DELAY``."""

    def __init__(self) -> None:
        self._began = 0.0
        self._present = self._previous = 0.0

    def record(self, seconds: float, now: float) -> float:
        """Record how long a refusal has taken, and return how long it is to take."""
        if now - self._began >= PERIOD:
            is_recent = now - self._began < 2 * PERIOD
            self._previous = self._present if is_recent else 0.0
            self._present, self._began = 0.0, now
        self._present = max(self._present, min(seconds, MAX_DELAY))
        return max(self._present, self._previous)
