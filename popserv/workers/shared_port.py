"""A listening port on a socket on which several processes accept."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocolFactory
from twisted.logger import Logger
from zope.interface import implementer

_log = Logger()


@implementer(IListeningPort)
class SharedPort(FileDescriptor):
    """A port on a socket that the supervisor has opened.  It owns this process's copy.

    Twisted's own ports accept in batches, and log when they start and stop; its UNIX port would
    also change the mode of the socket, and remove it from the file system when this process stops
    listening.
    """

    ACCEPT_RETRY_DELAY = 1.0
    """Seconds between a failed accept and the next one."""

    def __init__(self, shared: socket.socket, factory: IProtocolFactory, reactor: Any) -> None:
        super().__init__(reactor)
        self._reactor = reactor
        self._socket = shared
        self._factory = factory
        factory.doStart()
        self.startListening()

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._socket.fileno()

    def startListening(self) -> None:
        """Accept connections."""
        self.connected = True
        self.startReading()

    def stopListening(self) -> Deferred[None]:
        """Close this process's copy of the socket."""
        if self.connected:
            self.connected = False
            self.stopReading()
            self._socket.close()
            self._factory.doStop()
        return succeed(None)

    def connectionLost(self, reason: object) -> None:
        """Stop listening, because the reactor has stopped."""
        self.stopListening()

    def getHost(self) -> IAddress:
        """Return the address of the socket."""
        return address_of(self._socket)

    def doRead(self) -> None:
        """Accept one connection, and leave the next to the other workers."""
        try:
            accepted, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            # Another worker was faster, or the client has disconnected.
            return
        except OSError as error:
            _log.warn("cannot accept a connection: {error}", error=error)
            self.stopReading()
            self._reactor.callLater(self.ACCEPT_RETRY_DELAY, self._retry)
            return
        with accepted:
            accepted.setblocking(False)
            try:
                # A client that has disconnected has no address; Twisted would leave its socket
                # open.
                accepted.getpeername()
            except OSError:
                return
            try:
                self._reactor.adoptStreamConnection(
                    accepted.fileno(), self._socket.family, self._factory
                )
            except Exception:
                # The reactor would close this port.
                _log.failure("an accepted connection cannot be served")

    def _retry(self) -> None:
        if self.connected:
            self.startReading()


def address_of(listening: socket.socket) -> IAddress:
    """Return the address to which a socket is bound."""
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return UNIXAddress(name)
    is_ipv6 = listening.family == socket.AF_INET6
    return (IPv6Address if is_ipv6 else IPv4Address)("TCP", *name)
