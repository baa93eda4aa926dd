"""Listening sockets that the supervisor opens and the workers accept on.

An endpoint is a string, and only Twisted's plugins know which sockets it opens.  Supervisor
and workers therefore pass a proxy of the reactor to the same endpoints.  In the supervisor,
``listenTCP`` and similar methods open and keep sockets.  In a worker, each call gets the socket
that the supervisor keeps for the same call; calls are matched by their order.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocolFactory
from twisted.internet.tcp import Port
from zope.interface import implementer

from popserv.listening.accepting import accept_faster
from popserv.listening.reactor import ReactorProxy
from popserv.listening.sockets import HAS_PORT_BALANCING, listening_sockets
from popserv.workers.shared_port import SharedPort, address_of


class SocketOpener(ReactorProxy):
    """The supervisor's proxy of the reactor: opens sockets, and accepts no connections."""

    def __init__(self, reactor: Any, workers: int) -> None:
        super().__init__(reactor)
        self._workers = workers
        # For each endpoint one socket for each worker, or one for all of them.
        self.endpoints: list[list[socket.socket]] = []

    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """Open one socket for each worker, or one for all without HAS_PORT_BALANCING.

        :raises CannotListenError: the port is in use, or cannot be bound for another reason.
        """
        count = self._workers if HAS_PORT_BALANCING else 1
        sockets = listening_sockets(interface, port, backlog, count)
        self.endpoints.append(sockets)
        # A port of Twisted, because its lines in the log are those of a server of one process.
        listening: Port = self._reactor.adoptStreamPort(
            sockets[0].fileno(), sockets[0].family, factory
        )
        listening.stopReading()
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
        self.endpoints.append([_duplicate(listening.fileno())])
        return listening

    def adoptStreamPort(
        self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory
    ) -> IListeningPort:
        """Keep a socket that listens already, such as one from systemd, for all workers."""
        retained = _duplicate(fileDescriptor)
        self.endpoints.append([retained])
        return _RetainedSocket(retained)

    def descriptors(self) -> list[list[int]]:
        """Return the descriptors of each endpoint: one for each worker, or one for all."""
        return [[each.fileno() for each in sockets] for sockets in self.endpoints]

    def close(self) -> None:
        """Close all sockets."""
        for sockets in self.endpoints:
            for each in sockets:
                each.close()


class SocketAdopter(ReactorProxy):
    """A worker's proxy of the reactor: listens on the sockets that the supervisor has opened.

    Its methods raise CannotListenError if the supervisor has opened no socket for the call.

    :param number: the worker's number, from 1.
    :param descriptors: what :meth:`SocketOpener.descriptors` returns, with the numbers that the
        descriptors have in this process.
    """

    def __init__(self, reactor: Any, number: int, descriptors: Iterable[Sequence[int]]) -> None:
        super().__init__(reactor)
        self._number = number
        self._endpoints = [list(map(_adopted, each)) for each in descriptors]
        self._next = iter(self._endpoints)
        self._ports: list[WorkerPort] = []

    def cover(self, numbers: Collection[int]) -> None:
        """Accept on the sockets of these workers as well, and on those of no others."""
        for port in self._ports:
            port.cover(numbers)

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
        sockets = next(self._next, None)
        if sockets is None:
            raise CannotListenError(
                "", requested, OSError("the supervisor has not opened a socket for it")
            )
        if len(sockets) > 1:
            own = sockets[self._number - 1]
            others = {at: each for at, each in enumerate(sockets, 1) if each is not own}
            port = WorkerPort(self._listen(own, factory), others, factory, self._reactor)
            self._ports.append(port)
            return port
        return self._listen(sockets[0], factory)

    def _listen(self, adopted: socket.socket, factory: IProtocolFactory) -> IListeningPort:
        if adopted.family == socket.AF_UNIX:
            return SharedPort(adopted, factory, self._reactor)
        with adopted:
            port: IListeningPort = self._reactor.adoptStreamPort(
                adopted.fileno(), adopted.family, factory
            )
        accept_faster(port)
        return port


@implementer(IListeningPort)
class WorkerPort:
    """The port of a worker, which can also accept on the sockets that other workers have.

    The kernel assigns each connection to the socket of one worker, whether or not that worker runs.
    If it does not, the others accept the connection; otherwise its client would have to wait.

    :param own: the port on the worker's own socket, which is open.
    :param others: the sockets of the other workers, by their numbers.
    """

    def __init__(
        self,
        own: IListeningPort,
        others: Mapping[int, socket.socket],
        factory: IProtocolFactory,
        reactor: Any,
    ) -> None:
        self._own = own
        self._others = others
        self._factory = factory
        self._reactor = reactor
        self._covered: dict[int, SharedPort] = {}

    def cover(self, numbers: Collection[int]) -> None:
        """Accept on the sockets of these workers as well, and on those of no others."""
        for number in set(self._covered) - set(numbers):
            self._covered.pop(number).stopListening()
        for number in self._others.keys() & set(numbers) - set(self._covered):
            copy = _duplicate(self._others[number].fileno())
            self._covered[number] = SharedPort(copy, self._factory, self._reactor)

    def startListening(self) -> None:
        """Do nothing: the port is open."""

    def stopListening(self) -> Deferred[None] | None:
        """Accept no more connections, on any socket."""
        self.cover(())
        for each in self._others.values():
            each.close()
        self._others = {}
        return self._own.stopListening()

    def getHost(self) -> IAddress:
        """Return the address to which the socket is bound."""
        return self._own.getHost()


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
        return address_of(self._socket)


def _duplicate(descriptor: int) -> socket.socket:
    return socket.socket(fileno=os.dup(descriptor))


def _adopted(descriptor: int) -> socket.socket:
    adopted = socket.socket(fileno=descriptor)
    adopted.setblocking(False)
    adopted.set_inheritable(False)
    return adopted
