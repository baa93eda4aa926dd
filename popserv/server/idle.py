"""The inactivity autologout timer (RFC 1725 section 3)."""

from __future__ import annotations

from typing import Any

from twisted.protocols.policies import TimeoutMixin

from popserv.transports.output import unread_octets

MINIMUM_TIMEOUT = 600
"""Seconds: "Such a timer MUST be of at least 10 minutes' duration"."""


class IdleTimeoutMixin(TimeoutMixin):
    """End a connection on which nothing moves, without a word.

    Call :meth:`start_idle_timer` once connected and ``resetTimeout`` where
    something moved: a command came in, or output drained.  When the time is over it is
    looked whether the client has taken something of what waits for it: one that reads
    slowly stays, and one that stopped reading goes, after twice the time at the latest.
    The timer runs on while a command waits for its store, since a paused transport does
    not notice a lost peer.
    """

    CLOSE_TIMEOUT: float = 30
    """Seconds in which a closing connection must take some of its last octets."""

    # ITCPTransport and IConsumer in one, for which there is no type.
    transport: Any
    closing = False
    _untaken = 0

    def start_idle_timer(self, seconds: float) -> None:
        """Close the connection once nothing has moved for that long."""
        self.setTimeout(seconds)

    def stop_idle_timer(self) -> None:
        """Leave the connection alone; it is gone."""
        self.setTimeout(None)

    def resetTimeout(self) -> None:
        """Something has moved."""
        self._untaken = 0
        super().resetTimeout()

    def close(self) -> None:
        """Close once all output is out; break the connection once none is taken for LINGER."""
        if not self.closing:
            self.closing = True
            # A call put forward is looked for among those of all connections.
            self.setTimeout(None)
            self.setTimeout(self.CLOSE_TIMEOUT)
            self._untaken = unread_octets(self.transport)
            # A TLS connection is over once the client's close_notify was read.
            self.transport.resumeProducing()
            # A transport with a producer would wait for it.
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def timeoutConnection(self) -> None:
        """Close, or break a connection that would not close, unless the client still reads."""
        before, self._untaken = self._untaken, unread_octets(self.transport)
        if self._untaken and (self._untaken < before or not before):
            self.setTimeout(self.timeOut)
        elif self.closing:
            self.transport.abortConnection()
        else:
            self.timed_out()

    def timed_out(self) -> None:
        """Close, for nothing has moved for too long."""
        self.close()
