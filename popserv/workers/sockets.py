"""Listening sockets, opened by the supervisor and listened on by the workers.

Endpoints are strings, and only Twisted knows what they mean.  So both are reactors to them:
the one to which they say ``listenTCP`` in the supervisor keeps the socket, the one in a worker
takes what the supervisor has for the same call, the first for the first and so on.
"""

from __future__ import annotations

import os
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocolFactory
from twisted.internet.tcp import Port
from zope.interface import directlyProvides, implementer, providedBy

from popserv.workers.unix_port import SharedUNIXPort

BALANCED = sys.platform.startswith("linux") and hasattr(socket, "SO_REUSEPORT")
"""Whether the kernel shares out connections among sockets of one port (SO_REUSEPORT)."""


@dataclass(frozen=True)
class Listener:
    """What the supervisor holds of one endpoint's call: a socket for each worker."""

    sockets: list[socket.socket]
    """One for each worker, or one that all share."""
    backlog: int | None
    """None: the socket is to be left as it is."""

    def of(self, number: int) -> socket.socket:
        """Return a worker's, which are counted from 1."""
        return self.sockets[(number - 1) % len(self.sockets)]


class _StandIn(ABC):
    """A reactor to endpoints."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        directlyProvides(self, providedBy(reactor))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    @abstractmethod
    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """Listen, as IReactorTCP has it."""

    def listenSSL(
        self,
        port: int,
        factory: IProtocolFactory,
        contextFactory: Any,
        backlog: int = 50,
        interface: str = "",
    ) -> IListeningPort:
        """Listen for TLS, as IReactorSSL has it."""
        from twisted.protocols.tls import TLSMemoryBIOFactory

        over_tls = TLSMemoryBIOFactory(contextFactory, False, factory)
        return self.listenTCP(port, over_tls, backlog, interface)


class SocketOpener(_StandIn):
    """The supervisor's: sockets are opened, and nothing is accepted."""

    def __init__(self, reactor: Any, workers: int) -> None:
        super().__init__(reactor)
        self._workers = workers
        self.listeners: list[Listener] = []

    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """Open a socket for each worker if the kernel shares out connections, else one.

        :raises CannotListenError: anybody else listens there, or another reason.
        """
        # Twisted's own port, which tells its mistakes, and takes no port that others share.
        listening: Port = self._reactor.listenTCP(port, factory, backlog, interface)
        listening.stopReading()
        first = _dup(listening.fileno())
        sockets = [first]
        if BALANCED:
            sockets = [_beside(first, backlog) for _ in range(self._workers)]
            # The others have what was bound; this one would collect clients.
            first.shutdown(socket.SHUT_RD)
            first.close()
        self.listeners.append(Listener(sockets, backlog))
        return listening

    def listenUNIX(
        self,
        address: str,
        factory: IProtocolFactory,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: int = 0,
    ) -> IListeningPort:
        """Open one socket for all, as IReactorUNIX has it."""
        listening: Port = self._reactor.listenUNIX(address, factory, backlog, mode, wantPID)
        listening.stopReading()
        self.listeners.append(Listener([_dup(listening.fileno())], backlog))
        return listening

    def adoptStreamPort(
        self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory
    ) -> IListeningPort:
        """Keep a socket that somebody else has opened."""
        kept = _dup(fileDescriptor)
        self.listeners.append(Listener([kept], None))
        return _Kept(kept)

    def descriptors(self, number: int) -> list[tuple[int, int | None]]:
        """Return the socket and the backlog of each listener, for a worker to adopt."""
        return [(each.of(number).fileno(), each.backlog) for each in self.listeners]

    def pause(self, number: int) -> None:
        """Have the kernel send clients to others, until the worker listens again."""
        for listener in self.listeners:
            if len(listener.sockets) > 1:
                # No longer in LISTEN, and still bound.  Clients in its queue are reset.
                with suppress(OSError):
                    listener.of(number).shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close all."""
        for listener in self.listeners:
            for each in listener.sockets:
                each.close()


class SocketAdopter(_StandIn):
    """A worker's: listens on what the supervisor has opened."""

    def __init__(self, reactor: Any, descriptors: Iterable[tuple[int, int | None]]) -> None:
        super().__init__(reactor)
        self._descriptors = iter(descriptors)

    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """Listen on the next."""
        return self._adopt(factory, port)

    def listenUNIX(
        self,
        address: str,
        factory: IProtocolFactory,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: int = 0,
    ) -> IListeningPort:
        """Listen on the next."""
        return self._adopt(factory, address)

    def adoptStreamPort(
        self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory
    ) -> IListeningPort:
        """Listen on the next."""
        return self._adopt(factory, fileDescriptor)

    def _adopt(self, factory: IProtocolFactory, asked: object) -> IListeningPort:
        descriptor, backlog = next(self._descriptors, (None, None))
        if descriptor is None:
            raise CannotListenError("", asked, OSError("the supervisor has opened no such socket"))
        taken = socket.socket(fileno=descriptor)
        taken.setblocking(False)
        os.set_inheritable(descriptor, False)
        if backlog is not None:
            # It may have been paused.
            taken.listen(backlog)
        if taken.family == socket.AF_UNIX:
            return SharedUNIXPort(taken, factory, self._reactor)
        with taken:
            port: IListeningPort = self._reactor.adoptStreamPort(descriptor, taken.family, factory)
        return port


@implementer(IListeningPort)
class _Kept:
    """A socket that nobody listens on here."""

    def __init__(self, kept: socket.socket) -> None:
        self._socket = kept

    def startListening(self) -> None:
        """Do nothing."""

    def stopListening(self) -> Deferred[None]:
        """Do nothing: the Opener closes it."""
        return succeed(None)

    def getHost(self) -> IAddress:
        """Return where it is bound."""
        return _address(self._socket)


def _dup(descriptor: int) -> socket.socket:
    return socket.socket(fileno=os.dup(descriptor))


def _beside(first: socket.socket, backlog: int) -> socket.socket:
    """Return another socket that listens where the first one does."""
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    another = socket.socket(first.family)
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        another.setsockopt(socket.SOL_SOCKET, option, 1)
    another.bind(first.getsockname())
    another.listen(backlog)
    another.setblocking(False)
    return another


def _address(bound: socket.socket) -> IAddress:
    name = bound.getsockname()
    if bound.family == socket.AF_UNIX:
        return UNIXAddress(name)
    return (IPv6Address if bound.family == socket.AF_INET6 else IPv4Address)("TCP", *name)
