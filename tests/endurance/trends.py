"""What the server takes after each round of a long run, and how much of it may grow."""

from statistics import median
from typing import NamedTuple

WARM_UP = 0.2
"""The part of the rounds that is not looked at: caches are filled, and threads started."""

MINIMUM = 10
"""The number of rounds that are needed."""


class Sample(NamedTuple):
    """What was measured in a round, or after it, while no client was connected.

    Memory, in MiB, descriptors, threads and CPU time, in milliseconds a session, are those of the
    processes that live from the start to the end.  Latencies are those of polls, in milliseconds,
    from the connection to its end.
    """

    sessions: int
    seconds: float
    rate: float
    p50: float
    p99: float
    cpu: float
    memory: float
    descriptors: int
    threads: int
    kills: int
    broken: int


class Bound(NamedTuple):
    """What a figure may have become at the end: so many times what it was, and so much more."""

    title: str
    more: float = 0
    times: float = 1

    def allows(self, before, after):
        """Tell whether a figure may have become another one."""
        return after <= before * self.times + self.more

    def __str__(self):
        return f"{self.times:g} times" if self.times > 1 else f"{self.more:g} more"


BOUNDS = {
    "memory": Bound("resident memory, MiB", more=4),
    "descriptors": Bound("open files", more=8),
    "threads": Bound("threads", more=4),
    "cpu": Bound("CPU time of a session, ms", times=1.5),
    "p50": Bound("half of the polls took less than, ms", times=2.5),
    "p99": Bound("99 % of the polls took less than, ms", times=2.5),
}
"""The bounds by the names of fields of :class:`Sample`.

The medians are those of rounds that 0.6 of all sessions separate: memory that grows by 7 octets a
session exceeds its bound after a million sessions, and by 14 octets after half a million.  With two
workers it is twice as much, since the one that is measured serves half of them.  What else runs on
the machine changes latencies; one that grows with the number of sessions becomes three times as
long from the first quarter to the last one.
"""


class Trend(NamedTuple):
    """A figure's medians, of the first and of the last quarter of the rounds after the warm-up."""

    name: str
    before: float
    after: float

    @property
    def is_allowed(self):
        """Tell whether it is within its bound."""
        return BOUNDS[self.name].allows(self.before, self.after)


def trends(samples):
    """Return the trends of all figures, of at least :data:`MINIMUM` samples."""
    rest = samples[int(len(samples) * WARM_UP) :]
    quarter = len(rest) // 4
    found = []
    for name in BOUNDS:
        values = [getattr(sample, name) for sample in rest]
        found.append(Trend(name, median(values[:quarter]), median(values[-quarter:])))
    return found
