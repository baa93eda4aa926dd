"""The inactivity autologout timer (RFC 1725 section 3)."""

from __future__ import annotations

from typing import Any

from twisted.protocols.policies import TimeoutMixin

from popserv.transports.output import unread_octets

MIN_IDLE_TIMEOUT = 600
"""Seconds: "Such a timer MUST be of at least 10 minutes' duration"."""


class IdleTimeoutMixin(TimeoutMixin):
    """Closes a connection that has been inactive for too long, without a reply.

    Call :meth:`start_idle_timer` when connected, and ``resetTimeout`` when a command has arrived or
    output has drained.  When the timer expires, the timeout starts again if the client has read
    some of the pending output: a slow client stays connected, and one that stopped reading is
    disconnected after twice the timeout at most.  The timer runs while a command waits for its
    store, since a paused transport does not notice a lost peer.
    """

    CLOSE_TIMEOUT: float = 30
    """Seconds in which a connection that is being closed must read some of its output."""

    # ITCPTransport and IConsumer in one, for which there is no type.
    transport: Any
    closing = False
    _unread = 0

    def start_idle_timer(self, seconds: float) -> None:
        """Start the timer; it expires after this many seconds without activity."""
        self.setTimeout(seconds)

    def stop_idle_timer(self) -> None:
        """Stop the timer, because the connection is lost."""
        self.setTimeout(None)

    def resetTimeout(self) -> None:
        """Start the timeout again, because there was activity."""
        self._unread = 0
        super().resetTimeout()

    def close(self) -> None:
        """Close once all output is sent; abort if none of it is read for CLOSE_TIMEOUT."""
        if not self.closing:
            self.closing = True
            # An earlier deadline would cost a search among the timers of all connections.
            self.setTimeout(None)
            self.setTimeout(self.CLOSE_TIMEOUT)
            self._unread = unread_octets(self.transport)
            # A TLS connection ends when the client's close_notify is read.
            self.transport.resumeProducing()
            # A transport waits for its producer before it closes.
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def timeoutConnection(self) -> None:
        """Close, or abort a connection that did not close, unless the client still reads."""
        before, self._unread = self._unread, unread_octets(self.transport)
        if self._unread and (self._unread < before or not before):
            self.setTimeout(self.timeOut)
        elif self.closing:
            self.transport.abortConnection()
        else:
            self.timed_out()

    def timed_out(self) -> None:
        """Close the connection, which was inactive for too long."""
        self.close()
