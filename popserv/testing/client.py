"""A client in memory, and its transport."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from popserv.server.factory import POP3Factory
from popserv.server.protocol import POP3Server


class MemoryTransport(StringTransport):
    """A transport in memory, which records whether the connection was aborted."""

    aborted = False

    def unregisterProducer(self) -> None:
        """Unregister the producer, if there is one; StringTransport raises if there is none."""
        self.producer = None

    def abortConnection(self) -> None:
        """Record that the connection was aborted, and close it."""
        self.aborted = True
        self.loseConnection()


class MemoryClient:
    """A client that is connected to a server in memory.

    Time passes only when the test calls ``clock.advance(seconds)``.  ``peer`` is the client's
    address; the default is an address of the loopback interface.
    """

    def __init__(self, factory: POP3Factory, peer: object = None) -> None:
        self.clock = Clock()
        self.transport = MemoryTransport(
            peerAddress=cast(Any, peer or IPv4Address("TCP", "127.0.0.1", 54321))
        )
        self.server = cast(POP3Server, factory.buildProtocol(None))
        cast(Any, self.server).callLater = self.clock.callLater
        cast(Any, self.server).seconds = self.clock.seconds
        self.server.makeConnection(self.transport)

    def send(self, octets: bytes) -> bytes:
        """Send octets as one packet, and return the octets that the server has sent."""
        self.server.dataReceived(octets)
        # Run the calls that the server has scheduled for the next turn of the reactor.
        self.clock.advance(0)
        return self.received()

    def received(self) -> bytes:
        """Return the octets that the server has sent since the last call."""
        octets: bytes = self.transport.value()
        self.transport.clear()
        return octets

    def lose(self) -> None:
        """Lose the connection, as if the client had disconnected."""
        self.server.connectionLost(Failure(ConnectionDone()))

    @property
    def closed(self) -> bool:
        """Whether the server has closed the connection."""
        return self.transport.disconnecting
