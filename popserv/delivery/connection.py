"""A connection that processes its input in order, and reads none while it waits.

Rules of this file:
 1. While a coroutine runs, or the client does not read what was sent, no input is read.
 2. So at most one read of input is in memory.
 3. A client that closes its sending half gets a reply to each command that it has sent.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure
from zope.interface import implementer

from popserv.delivery.outcomes import Reply
from popserv.transports.peers import peer_name

CLOSE_TIMEOUT = 30.0
"""Seconds in which a client must read what is left when the connection is closed."""

_log = Logger()


@implementer(IHalfCloseableProtocol, IPushProducer)
class OrderedConnection(TimeoutMixin, Protocol):
    """A connection whose subclass processes the input.

    :ivar unprocessed: the input that was not processed yet.
    :ivar peer: the client's address, for the log.
    :ivar is_closing: whether the connection is closed, or will be once the last reply is read.
    """

    transport: Any
    idle_timeout: float
    """Seconds after which a silent client is disconnected."""

    peer = ""
    _is_busy = False
    _is_full = False
    _input_is_over = False
    is_closing = False

    def __init__(self) -> None:
        self.unprocessed = b""

    @abstractmethod
    def process_some(self) -> bool:
        """Process some of the input; return false if more is needed for that."""

    @abstractmethod
    def drop(self) -> None:
        """Release what the connection has, because it is closed and nothing runs any more."""

    def connectionMade(self) -> None:
        """Start the timer; a subclass then sends its greeting."""
        self.peer = peer_name(self.transport)
        if ITCPTransport.providedBy(self.transport):
            # Replies are written one by one.
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        self.setTimeout(self.idle_timeout)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Release what the connection has, once nothing runs any more."""
        self.is_closing = True
        self.setTimeout(None)
        if not self._is_busy:
            self.drop()

    def readConnectionLost(self) -> None:
        """Note that the client will send no more; what it has sent is still answered."""
        self._input_is_over = True
        self._process()

    def writeConnectionLost(self) -> None:
        """Abort the connection, because the client reads no more."""
        self.transport.abortConnection()

    def timeoutConnection(self) -> None:
        """Close, because the client has been silent, or has not closed, for too long."""
        if self.is_closing:
            self.transport.abortConnection()
        else:
            self.close(Reply(421, "4.4.2", "timeout, closing the connection"))

    def pauseProducing(self) -> None:
        """Process no more input, because the client does not read the replies."""
        self._is_full = True
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Process input again, because the client has read replies."""
        self._is_full = False
        self._continue()

    def stopProducing(self) -> None:
        """Do nothing; the connection is lost."""

    def dataReceived(self, data: bytes) -> None:
        """Process input."""
        self.resetTimeout()
        self.unprocessed += data
        self._process()

    @property
    def _is_waiting(self) -> bool:
        return self._is_busy or self._is_full or self.is_closing

    def _process(self) -> None:
        while self.unprocessed and not self._is_waiting and self.process_some():
            pass
        if self._input_is_over and not self._is_waiting:
            self._close()

    def _continue(self) -> None:
        if not self._is_waiting:
            self.transport.resumeProducing()
            self._process()

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine, and process no input until it has ended."""
        self._is_busy = True
        done = Deferred.fromCoroutine(coroutine)
        done.addErrback(self._failed)
        if done.called:
            self._is_busy = False
            return
        # It takes as long as the store needs.
        self.setTimeout(None)
        self.transport.pauseProducing()
        done.addCallback(lambda _: self._resume())

    def _resume(self) -> None:
        self._is_busy = False
        if self.is_closing:
            self.drop()
        else:
            self.setTimeout(self.idle_timeout)
            self._continue()

    def _failed(self, failure: Failure) -> None:
        """Close, because of a fault of this program: what the client may assume is not known."""
        _log.failure("{peer}: unexpected error", failure, peer=self.peer)
        self.close(Reply(421, "4.3.0", "internal error, closing the connection"))

    def reply(self, reply: Reply) -> None:
        """Send a reply."""
        self.transport.write(reply.encode())

    def close(self, reply: Reply) -> None:
        """Close after a last reply, if it was not closed before; abort if it is not read."""
        if not self.is_closing:
            self.reply(reply)
            self._close()

    def _close(self) -> None:
        self.is_closing = True
        self.setTimeout(CLOSE_TIMEOUT)
        # A transport waits for its producer before it closes.
        self.transport.unregisterProducer()
        self.transport.loseConnection()
