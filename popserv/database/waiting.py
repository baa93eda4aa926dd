"""The reactor waits for the socket of a connection to PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from psycopg.waiting import Ready, Wait
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReadDescriptor, IWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer


@implementer(IReadDescriptor, IWriteDescriptor)
class WatchedSocket:
    """A duplicate of a socket of libpq, for the reactor.

    libpq closes its own socket when the connection breaks, before the reactor could forget it; the
    number may then belong to another file.

    ``idle`` is called when octets or the end of the connection come while nobody waits.
    """

    def __init__(self, reactor: Any, fileno: int, idle: Callable[[], None] = lambda: None) -> None:
        self._reactor = reactor
        self._fileno = os.dup(fileno)
        self._idle = idle
        self._waiting: Deferred[Ready] | None = None

    def ready(self, wanted: Wait) -> Deferred[Ready]:
        """Wait until the socket can be read, written, or either."""
        # One who wanted to read goes on reading: most statements then need no system call here.
        if wanted & Wait.R:
            self._reactor.addReader(self)
        if wanted & Wait.W:
            self._reactor.addWriter(self)
        self._waiting = Deferred(self._cancelled)
        return self._waiting

    def give_up(self) -> None:
        """Raise Twisted's TimeoutError where somebody waits."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.errback(Failure(DeferredTimeout()))

    def close(self) -> None:
        """Forget the socket."""
        if self._fileno >= 0:
            self._reactor.removeReader(self)
            self._reactor.removeWriter(self)
            os.close(self._fileno)
            self._fileno = -1

    def fileno(self) -> int:
        """Return the number of the duplicate, or -1 when it is closed."""
        return self._fileno

    def logPrefix(self) -> str:
        """Return what Twisted calls this descriptor in its log."""
        return type(self).__name__

    def doRead(self) -> None:
        """Go on with who waits."""
        if self._waiting is None:
            self._idle()
        else:
            self._resume(self._waiting, Ready.R)

    def doWrite(self) -> None:
        """Go on with who waits."""
        self._reactor.removeWriter(self)
        if self._waiting is not None:
            self._resume(self._waiting, Ready.W)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has found the socket closed."""
        self.close()

    def _resume(self, waiting: Deferred[Ready], ready: Ready) -> None:
        self._waiting = None
        waiting.callback(ready)

    def _cancelled(self, waiting: Deferred[Ready]) -> None:
        self._waiting = None
