"""The last hour of a server's numbers, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from popserv.status_page.plot import SPAN, Point

INTERVAL = 10
"""Seconds between two samples."""
RATE_SPAN = 60
"""Seconds over which a rate is averaged, so that a few logins are no row of spikes."""
_MAX_SAMPLES = (SPAN + RATE_SPAN) // INTERVAL + 1


class History:
    """The samples of some numbers in the last hour.

    A sample that is missing, or late by half an interval, is a gap: a rate is measured only where
    there is none.  So is a counter that has gone down, because a process has ended and its count is
    no longer in the sum.

    :param names: the numbers that samples must have.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._samples: deque[tuple[float, tuple[float, ...] | None]] = deque(maxlen=_MAX_SAMPLES)

    def add(self, time: float, sample: Mapping[str, float] | None) -> None:
        """Add the sample of a time in seconds, or None if it is not known."""
        if self._samples and time - self._samples[-1][0] > 1.5 * INTERVAL:
            self._samples.append((time - INTERVAL, None))
        values = None if sample is None else tuple(float(sample[name]) for name in self._names)
        self._samples.append((time, values))

    def values(self, name: str, now: float) -> list[Point]:
        """Return the values of a number."""
        at = self._names.index(name)
        return [
            (now - time, None if values is None else values[at]) for time, values in self._samples
        ]

    def rates(self, name: str, now: float, seconds: float = 1) -> list[Point]:
        """Return how much a counter has grown in so many seconds."""
        rates: list[Point] = []
        run: deque[tuple[float, float]] = deque()
        for age, value in self.values(name, now):
            if value is None or (run and value < run[-1][1]):
                run.clear()
            rate = None
            if value is not None:
                run.append((age, value))
                while run[0][0] - age > RATE_SPAN + INTERVAL / 2:
                    run.popleft()
                start, before = run[0]
                if start > age:
                    rate = (value - before) / (start - age) * seconds
            rates.append((age, rate))
        return rates
