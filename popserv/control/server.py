"""The server's end of the control socket.

Rules of this file:
 1. A client sends one command, and the next one after the answer: what a connection needs is
    bounded by one command and one answer.
 2. A client that breaks a rule of AMP or this one, or that stalls, is disconnected; of too many
    connections, the oldest is closed.
"""

from __future__ import annotations

from typing import Any, ClassVar

from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure
from zope.interface import implementer

from popserv.control.responder import Responder


@implementer(amp.IBoxReceiver, IPushProducer)
class ControlProtocol(amp.BinaryBoxProtocol, TimeoutMixin):
    """One connection of a control client."""

    MAX_COMMAND = 4096
    """The maximum octets of a command."""
    TIMEOUT = 30
    """Seconds in which a client must send a command and accept the answer to the last one."""

    # ITCPTransport and IConsumer in one, for which there is no type.
    transport: Any

    def __init__(self, factory: ControlFactory) -> None:
        super().__init__(self)
        self._factory = factory
        self._dispatcher = amp.BoxDispatcher(factory.responder)
        self._received = 0
        self._is_busy = False

    def connectionMade(self) -> None:
        """Wait for a command."""
        self._factory.add(self)
        self.setTimeout(self.TIMEOUT)
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        """Collect a command."""
        self._received += len(data)
        if self._is_busy:
            self.disconnect("it has sent a command before the answer to the last one")
        elif self._received > self.MAX_COMMAND:
            self.disconnect(f"it has sent a command of more than {self.MAX_COMMAND} octets")
        else:
            super().dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget the connection."""
        self.setTimeout(None)
        self._factory.remove(self)
        super().connectionLost(reason)

    def timeoutConnection(self) -> None:
        """Disconnect a client that stalls."""
        self.disconnect(
            f"it has sent no command for {self.TIMEOUT} seconds, or has not read the answer"
        )

    # IBoxReceiver and IBoxSender, between the transport and the dispatcher

    def startReceivingBoxes(self, sender: amp.IBoxSender) -> None:
        """See IBoxReceiver."""
        self._dispatcher.startReceivingBoxes(self)

    def ampBoxReceived(self, box: amp.AmpBox) -> None:
        """Carry out a command."""
        if self not in self._factory.connections:
            # It follows another one that was rejected.
            return
        if self._is_busy:
            self.disconnect("it has sent a command before the answer to the last one")
        elif {amp.COMMAND, amp.ASK, amp.ANSWER, amp.ERROR} & {*box} != {amp.COMMAND, amp.ASK}:
            self.disconnect("it has sent something else than a command")
        else:
            self._is_busy = True
            self.setTimeout(None)
            self._dispatcher.ampBoxReceived(box)

    def stopReceivingBoxes(self, reason: Failure) -> None:
        """See IBoxReceiver."""
        self._dispatcher.stopReceivingBoxes(reason)

    def sendBox(self, box: amp.AmpBox) -> None:
        """Send an answer, and wait for the next command once this one is processed."""
        super().sendBox(box)
        self._factory.reactor.callLater(0, self._answered)

    def lengthLimitExceeded(self, length: int) -> None:
        """Disconnect: this is not AMP."""
        self.disconnect("it does not speak AMP")

    def _answered(self) -> None:
        if self in self._factory.connections:
            self._is_busy = False
            self._received = 0
            self.setTimeout(self.TIMEOUT)

    def disconnect(self, reason: str) -> None:
        """Disconnect the client, for a reason that is logged."""
        self._factory.log_disconnect(reason)
        self._factory.remove(self)
        self.transport.abortConnection()

    # IPushProducer: a client that does not read an answer can send no more commands

    def pauseProducing(self) -> None:
        """Read no more, because the client does not read."""
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Read on, because the client has read."""
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """Do nothing: connectionLost follows."""


class ControlFactory(ServerFactory):
    """Makes a :class:`ControlProtocol` for each connection."""

    MAX_CONNECTIONS = 20
    """The maximum number of connections."""
    LOG_INTERVAL = 60.0
    """Seconds in which clients that are disconnected for one reason are logged once."""

    log: ClassVar[Logger] = Logger()

    noisy = False

    def __init__(self, responder: Responder, reactor: Any = None) -> None:
        if reactor is None:
            from twisted.internet import reactor
        self.reactor: Any = reactor
        self.responder = responder
        # The oldest first.
        self.connections: dict[ControlProtocol, None] = {}
        # When clients were last logged, for each reason; there are few of them.
        self._logged: dict[str, float] = {}

    def buildProtocol(self, address: object) -> ControlProtocol:
        """Return the protocol of a connection."""
        return ControlProtocol(self)

    def add(self, connection: ControlProtocol) -> None:
        """Add a connection, and close the oldest if there are too many."""
        self.connections[connection] = None
        if len(self.connections) > self.MAX_CONNECTIONS:
            oldest = next(iter(self.connections))
            oldest.disconnect(f"there are more than {self.MAX_CONNECTIONS}, and it is the oldest")

    def remove(self, connection: ControlProtocol) -> None:
        """Remove a connection, if it has not been removed yet."""
        self.connections.pop(connection, None)

    def log_disconnect(self, reason: str) -> None:
        """Log why a client is disconnected, unless others were so just before."""
        now = self.reactor.seconds()
        if now - self._logged.get(reason, -self.LOG_INTERVAL) >= self.LOG_INTERVAL:
            self._logged[reason] = now
            self.log.warn("control client disconnected: {reason}", reason=reason)
