"""Listening sockets that the supervisor opens and the workers accept on.

An endpoint is a string, and only Twisted's plugins know which sockets it opens.  Supervisor
and workers therefore pass a proxy of the reactor to the same endpoints.  In the supervisor,
``listenTCP`` and similar methods open and keep sockets.  In a worker, each call gets the socket
that the supervisor keeps for the same call; calls are matched by their order.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocolFactory
from twisted.internet.tcp import Port
from zope.interface import implementer

from popserv.listening.reactor import ReactorProxy
from popserv.workers.unix_port import SharedUNIXPort

HAS_PORT_BALANCING = sys.platform.startswith("linux") and hasattr(socket, "SO_REUSEPORT")
"""Whether the kernel distributes connections among the sockets of one port (SO_REUSEPORT)."""


@dataclass(frozen=True)
class OpenEndpoint:
    """The sockets that the supervisor keeps for one endpoint."""

    sockets: list[socket.socket]
    """One socket for each worker, or one socket for all of them."""
    backlog: int | None
    """The backlog with which a worker listens; None if the socket listens already."""

    def socket_of(self, number: int) -> socket.socket:
        """Return the socket of a worker; workers are numbered from 1."""
        return self.sockets[(number - 1) % len(self.sockets)]


class SocketOpener(ReactorProxy):
    """The supervisor's proxy of the reactor: opens sockets, and accepts no connections."""

    def __init__(self, reactor: Any, workers: int) -> None:
        super().__init__(reactor)
        self._workers = workers
        self.endpoints: list[OpenEndpoint] = []

    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """Open one socket for each worker, or one for all without HAS_PORT_BALANCING.

        :raises CannotListenError: the port is in use, or cannot be bound for another reason.
        """
        # Twisted's own port refuses a port that is in use, even by sockets with SO_REUSEPORT,
        # and has the error messages that users know.
        listening: Port = self._reactor.listenTCP(port, factory, backlog, interface)
        listening.stopReading()
        first = _duplicate(listening.fileno())
        sockets = [first]
        if HAS_PORT_BALANCING:
            sockets = [_listen_beside(first, backlog) for _ in range(self._workers)]
            # The kernel would also assign connections to this socket, on which no process accepts.
            first.shutdown(socket.SHUT_RD)
            first.close()
        self.endpoints.append(OpenEndpoint(sockets, backlog))
        return listening

    def listenUNIX(
        self,
        address: str,
        factory: IProtocolFactory,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: int = 0,
    ) -> IListeningPort:
        """Open one UNIX socket for all workers; see IReactorUNIX."""
        listening: Port = self._reactor.listenUNIX(address, factory, backlog, mode, wantPID)
        listening.stopReading()
        self.endpoints.append(OpenEndpoint([_duplicate(listening.fileno())], backlog))
        return listening

    def adoptStreamPort(
        self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory
    ) -> IListeningPort:
        """Keep a socket that listens already, such as one from systemd, for all workers."""
        retained = _duplicate(fileDescriptor)
        self.endpoints.append(OpenEndpoint([retained], None))
        return _RetainedSocket(retained)

    def descriptors(self, number: int) -> list[tuple[int, int | None]]:
        """Return the descriptor and the backlog of each endpoint for a worker."""
        return [(each.socket_of(number).fileno(), each.backlog) for each in self.endpoints]

    def pause(self, number: int) -> None:
        """Stop the kernel from assigning connections to a worker until it listens again.

        Sockets that all workers share are not changed.
        """
        for endpoint in self.endpoints:
            if len(endpoint.sockets) > 1:
                # The socket stays bound, but leaves the state LISTEN; the kernel resets the
                # connections in its queue.
                with suppress(OSError):
                    endpoint.socket_of(number).shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close all sockets."""
        for endpoint in self.endpoints:
            for each in endpoint.sockets:
                each.close()


class SocketAdopter(ReactorProxy):
    """A worker's proxy of the reactor: listens on the sockets that the supervisor has opened.

    ``descriptors`` is what :meth:`SocketOpener.descriptors` returns, with the numbers that the
    descriptors have in this process.

    Its methods raise CannotListenError if the supervisor has opened no socket for the call.
    """

    def __init__(self, reactor: Any, descriptors: Iterable[tuple[int, int | None]]) -> None:
        super().__init__(reactor)
        self._descriptors = iter(descriptors)

    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """Listen on the next socket."""
        return self._adopt(factory, port)

    def listenUNIX(
        self,
        address: str,
        factory: IProtocolFactory,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: int = 0,
    ) -> IListeningPort:
        """Listen on the next socket."""
        return self._adopt(factory, address)

    def adoptStreamPort(
        self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory
    ) -> IListeningPort:
        """Listen on the next socket."""
        return self._adopt(factory, fileDescriptor)

    def _adopt(self, factory: IProtocolFactory, requested: object) -> IListeningPort:
        descriptor, backlog = next(self._descriptors, (None, None))
        if descriptor is None:
            raise CannotListenError(
                "", requested, OSError("the supervisor has not opened a socket for it")
            )
        adopted = socket.socket(fileno=descriptor)
        adopted.setblocking(False)
        os.set_inheritable(descriptor, False)
        if backlog is not None:
            # Ends a pause.
            adopted.listen(backlog)
        if adopted.family == socket.AF_UNIX:
            return SharedUNIXPort(adopted, factory, self._reactor)
        with adopted:
            port: IListeningPort = self._reactor.adoptStreamPort(
                descriptor, adopted.family, factory
            )
        return port


@implementer(IListeningPort)
class _RetainedSocket:
    """A port that accepts no connections: the socket is kept for the workers."""

    def __init__(self, retained: socket.socket) -> None:
        self._socket = retained

    def startListening(self) -> None:
        """Do nothing."""

    def stopListening(self) -> Deferred[None]:
        """Do nothing; the SocketOpener closes the socket."""
        return succeed(None)

    def getHost(self) -> IAddress:
        """Return the address to which the socket is bound."""
        name = self._socket.getsockname()
        if self._socket.family == socket.AF_UNIX:
            return UNIXAddress(name)
        is_ipv6 = self._socket.family == socket.AF_INET6
        return (IPv6Address if is_ipv6 else IPv4Address)("TCP", *name)


def _duplicate(descriptor: int) -> socket.socket:
    return socket.socket(fileno=os.dup(descriptor))


def _listen_beside(first: socket.socket, backlog: int) -> socket.socket:
    """Return another socket that listens on the address of the first one."""
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    another = socket.socket(first.family)
    if first.family == socket.AF_INET6:
        another.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        another.setsockopt(socket.SOL_SOCKET, option, 1)
    another.bind(first.getsockname())
    another.listen(backlog)
    another.setblocking(False)
    return another
