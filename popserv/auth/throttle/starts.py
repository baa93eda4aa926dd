"""A rate limit for starting connections of networks from which nobody has logged in.

Somebody who guesses passwords from thousands of addresses reaches no limit of a single network,
although each connection costs the server a greeting and each guess a password hash.  Therefore at
most ``BURST`` connections of such networks are started at once, and then one every ``INTERVAL``
seconds; the others wait in a queue.  The networks take turns, so that one with many connections
does not hold up the others.  A connection whose login succeeds is no longer counted, and each
failed login counts like another connection.

Connections of networks from which somebody has logged in within a day are not limited and do not
wait.  The limit also leaves the processor time for them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Protocol

INTERVAL = 1 / 128
"""Seconds between two starts, once ``BURST`` connections have been started."""

BURST = 256
"""The maximum number of connections that are started at once, after two seconds without any."""

MAX_DELAY = 1 / 64
"""The maximum number of seconds until the next start, however many logins fail."""

MAX_STARTS = 8
"""The maximum number of waiting connections that are started in one turn of the reactor."""

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
    """The connections of a process that wait to be started.

    The first connection of each network is started, one network after the other, and then the
    second ones.  Every method takes constant time, however many connections wait.
    """

    def __init__(self) -> None:
        # When as many as BURST may be started at once again.
        self._clear_at = 0.0
        # The network of each connection.
        self._waiting: dict[Starter, str] = {}
        # The networks in the order of their turns, and their connections in that of their arrival.
        # The first key of a dict is not found in constant time if keys before it were deleted.
        self._turns: OrderedDict[str, OrderedDict[Starter, Callable[[], object]]] = OrderedDict()
        self._has_timer = False

    def __len__(self) -> int:
        """Return how many connections wait."""
        return len(self._waiting)

    def may_start(self, client: Starter, network: str, start: Callable[[], object]) -> bool:
        """Return whether a connection may be started now; otherwise ``start`` is called later."""
        if not self._waiting and self._delay(client) <= 0:
            self.count(client)
            return True
        self._waiting[client] = network
        self._turns.setdefault(network, OrderedDict())[client] = start
        if not self._has_timer:
            self._wait(client)
        return False

    def remove(self, client: Starter) -> None:
        """Forget a connection that is lost, if it waits."""
        network = self._waiting.pop(client, None)
        if network is not None:
            del self._turns[network][client]
            if not self._turns[network]:
                del self._turns[network]

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
        for _ in range(min(MAX_STARTS, len(self))):
            if self._delay(client) > _ROUNDING:
                break
            network, connections = self._turns.popitem(last=False)
            each, start = connections.popitem(last=False)
            del self._waiting[each]
            if connections:
                self._turns[network] = connections
            # If the client is gone, starting its connection ends it, which is not counted.
            if each.is_connected():
                self.count(client)
            # Each in a call of its own, so that an exception in one does not stop the others.
            each.callLater(0, start)
        if self._waiting:
            self._wait(client)
