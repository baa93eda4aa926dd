"""A port on a UNIX socket that several processes share."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocolFactory
from twisted.logger import Logger
from zope.interface import implementer

_log = Logger()


@implementer(IListeningPort)
class SharedUNIXPort(FileDescriptor):
    """A port on a UNIX socket that other processes listen on, too.

    Twisted's would set its mode anew, and remove it from the file system at its end.
    """

    EMFILE_DELAY = 1.0
    """Seconds without an accept when that has failed."""

    def __init__(self, shared: socket.socket, factory: IProtocolFactory, reactor: Any) -> None:
        super().__init__(reactor)
        self._reactor = reactor
        self._socket = shared
        self._factory = factory
        factory.doStart()
        self.startListening()

    def fileno(self) -> int:
        """Return the socket's."""
        return self._socket.fileno()

    def startListening(self) -> None:
        """Accept connections."""
        self.connected = True
        self.startReading()

    def stopListening(self) -> Deferred[None]:
        """Accept no more."""
        if self.connected:
            self.connected = False
            self.stopReading()
            self._socket.close()
            self._factory.doStop()
        return succeed(None)

    def connectionLost(self, reason: object) -> None:
        """The reactor has ended."""
        self.stopListening()

    def getHost(self) -> IAddress:
        """Return where it is bound."""
        return UNIXAddress(self._socket.getsockname())

    def doRead(self) -> None:
        """Accept one connection: others who share it want the next."""
        try:
            accepted, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            # Another worker was faster, or client disconnected.
            return
        except OSError as error:
            _log.warn("cannot accept a connection: {error}", error=error)
            self.stopReading()
            self._reactor.callLater(self.EMFILE_DELAY, self._read_on)
            return
        with accepted:
            accepted.setblocking(False)
            self._reactor.adoptStreamConnection(accepted.fileno(), socket.AF_UNIX, self._factory)

    def _read_on(self) -> None:
        if self.connected:
            self.startReading()
