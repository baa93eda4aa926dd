"""The reactor waits for the socket of a connection to PostgreSQL."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from psycopg.waiting import Ready, Wait
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReadDescriptor, IWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from popserv.runtime.deadlines import Deadline


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
        self._poll = select.poll()
        self._poll.register(self._fileno, select.POLLIN)
        self._waiting: Deferred[Ready] | None = None
        self._deadline = Deadline(reactor, self._give_up)

    def ready(self, wanted: Wait) -> Deferred[Ready]:
        """Wait until the socket can be read, written, or either."""
        # One who wanted to read goes on reading: most statements then need no system call here.
        if wanted & Wait.R:
            self._reactor.addReader(self)
        if wanted & Wait.W:
            self._reactor.addWriter(self)
        self._waiting = Deferred(self._cancelled)
        return self._waiting

    def is_readable(self) -> bool:
        """Return whether octets or the end have come that the reactor has not yet told of."""
        return bool(self._poll.poll(0))

    def give_up_at(self, time: float) -> None:
        """Raise Twisted's TimeoutError where somebody waits at a time of the reactor's clock."""
        self._deadline.set(time)

    def go_on(self) -> None:
        """Do not give up."""
        self._deadline.clear()

    def end_sending(self) -> None:
        """Tell the other side that nothing more comes; it can still be read."""
        connection = socket.socket(fileno=self._fileno)
        try:
            # It may have broken, which reading finds.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
        finally:
            connection.detach()

    def close(self) -> None:
        """Forget the socket."""
        if self._fileno >= 0:
            self._deadline.stop()
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
        self._resume(Ready.R)

    def doWrite(self) -> None:
        """Go on with who waits."""
        self._reactor.removeWriter(self)
        self._resume(Ready.W)

    def connectionLost(self, reason: Failure) -> None:
        """Go on with who waits; libpq finds what is wrong with the socket, if it is still open."""
        self._resume(Ready.R)

    def _give_up(self) -> None:
        self._resume(Failure(DeferredTimeout()))

    def _resume(self, result: Ready | Failure) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            self._idle()
        else:
            waiting.callback(result)

    def _cancelled(self, waiting: Deferred[Ready]) -> None:
        self._waiting = None
