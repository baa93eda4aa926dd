"""Whether the socket of a client is read again after a reply, before the reactor waits for it.

If a process sleeps until the next command, to fall asleep and to be woken takes more CPU time than
most commands, and the client waits as well.  Only a client on the same machine, such as a webmail
or a proxy that terminates TLS, sends its next command within microseconds.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from popserv.transports.output import receive_now

MAX_RECEPTIONS = 16
"""How often the socket is read again at most; each time takes about a microsecond."""

MAX_SECONDS = 50e-6
"""The seconds after which the socket is not read again, because another thread has run."""

MIN_ALONE = 8
"""How many packets in a row must be of one client, before it counts as the only one."""

MAX_SERIES = 10
"""The maximum number of packets of a quick client before other clients are served."""

MAX_SKIPPED = 63
"""The maximum number of replies after which no socket is read again, because that was in vain."""


class QuickClients:
    """What is known of the clients of a factory."""

    def __init__(self) -> None:
        # The id of the connection that has received last, and its packets since another one did.
        self._last = self._alone = 0
        self._skipped = 0
        self._max_skipped = 0

    def series(self, connection: object) -> int:
        """Return how many packets to process before others are served.

        It is called with a connection that has received the first of them.  If others are served
        as well, the process does not sleep until the next command, and it is one.
        """
        if self._last != id(connection):
            self._last, self._alone = id(connection), 0
            return 1
        self._alone += 1
        return MAX_SERIES if self._alone >= MIN_ALONE else 1

    def may_be_quick(self) -> bool:
        """Return whether it is worth reading a socket again after this reply."""
        if self._skipped:
            self._skipped -= 1
            return False
        return True

    def receive(self, transport: Any) -> bytes:
        """Return what a client sends within some microseconds, or nothing."""
        end = perf_counter() + MAX_SECONDS
        for _ in range(MAX_RECEPTIONS):
            received = receive_now(transport)
            if received:
                self._max_skipped = 0
                return received
            if perf_counter() > end:
                break
        self._skipped = self._max_skipped
        self._max_skipped = min(2 * self._max_skipped + 1, MAX_SKIPPED)
        return b""
