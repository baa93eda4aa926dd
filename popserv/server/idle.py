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
    is completed, or output has drained.  When the timer expires, the timeout starts again if the
    client has read some of the output: a slow client stays connected, and one that stopped reading
    is disconnected after twice the timeout at most.  The timer runs while a command waits for its
    store, since a paused transport does not notice a lost peer.
    """

    CLOSE_TIMEOUT: float = 30
    """Seconds in which a connection that is being closed must read some of its output."""

    # ITCPTransport and IConsumer in one, for which there is no type.
    transport: Any
    closing = False
    timeOut: float | None  # type: ignore[assignment]
    # The unread octets minus those written of the body, when the timer last expired; None after
    # activity.
    _balance: int | None = None
    _timer: Any = None
    _deadline: float

    def start_idle_timer(self, seconds: float) -> None:
        """Start the timer; it expires after this many seconds without activity."""
        self.setTimeout(seconds)

    def stop_idle_timer(self) -> None:
        """Stop the timer, because the connection is lost."""
        self.setTimeout(None)

    def idle_seconds(self) -> float:
        """Return the seconds since the last activity; 0 if the timer does not run."""
        timer = self._timer
        if timer is None or self.timeOut is None:
            return 0.0
        expiry = self._deadline or timer.getTime()
        return max(0.0, float(timer.seconds() - (expiry - self.timeOut)))

    def setTimeout(self, period: float | None) -> float | None:
        """Start the timer with another timeout in seconds, or stop it; see TimeoutMixin."""
        previous, self.timeOut = self.timeOut, period
        # To move it to an earlier time, Twisted would search the timers of all connections.
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._deadline = 0.0
        if period is not None:
            self._timer = self.callLater(period, self._timer_expired)
        return previous

    def resetTimeout(self) -> None:
        """Start the timeout again, because there was activity; see TimeoutMixin."""
        self._balance = None
        timer = self._timer
        if timer is not None:
            # The timer itself stays as it is until it expires: there is activity all the time.
            self._deadline = timer.seconds() + self.timeOut

    def _timer_expired(self) -> None:
        remaining = self._deadline - self._timer.seconds()
        self._timer = None
        if remaining > 0:
            self._timer = self.callLater(remaining, self._timer_expired)
        else:
            self.timeoutConnection()

    def close(self) -> None:
        """Close once all output is sent; abort if none of it is read for CLOSE_TIMEOUT."""
        if not self.closing:
            self.closing = True
            self.setTimeout(self.CLOSE_TIMEOUT)
            self._balance = unread_octets(self.transport) or None
            # A TLS connection ends when the client's close_notify is read.
            self.transport.resumeProducing()
            # A transport waits for its producer before it closes.
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def timeoutConnection(self) -> None:
        """Close, or abort a connection that did not close, unless the client still reads."""
        unread = unread_octets(self.transport)
        # Writing the body makes both numbers larger; the difference shrinks only if it is read.
        written = 0 if self.closing else self.body_octets()
        before, self._balance = self._balance, unread - written
        if (unread or written) and (before is None or self._balance < before):
            self.setTimeout(self.timeOut)
        elif self.closing:
            self.transport.abortConnection()
        else:
            self.timed_out()

    def body_octets(self) -> int:
        """Return how many octets of the body that is being sent were written."""
        return 0

    def timed_out(self) -> None:
        """Close the connection, which was inactive for too long."""
        self.close()
