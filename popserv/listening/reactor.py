"""A reactor for endpoints, which decides how their sockets are opened.

Endpoints are strings, and only Twisted's plugins know which sockets they open.  To change that, a
proxy of the reactor is passed to them.
"""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from typing import Any

from twisted.internet.abstract import isIPv6Address
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from zope.interface import directlyProvides, providedBy

from popserv.listening.accepting import accept_faster
from popserv.listening.sockets import listening_sockets
from popserv.listening.unix_locks import remove_stale_lock


class ReactorProxy(ABC):
    """A reactor for endpoints, with its own ``listen`` methods."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        directlyProvides(self, providedBy(reactor))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    @abstractmethod
    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """Listen on a TCP port; see IReactorTCP."""

    def listenSSL(
        self,
        port: int,
        factory: IProtocolFactory,
        contextFactory: Any,
        backlog: int = 50,
        interface: str = "",
    ) -> IListeningPort:
        """Listen on a TCP port for TLS; see IReactorSSL."""
        # TLS is an extra.
        from twisted.protocols.tls import TLSMemoryBIOFactory  # noqa: PLC0415

        over_tls = TLSMemoryBIOFactory(contextFactory, False, factory)
        return self.listenTCP(port, over_tls, backlog, interface)


class AddressFamilyReactor(ReactorProxy):
    """Opens IPv6 sockets that accept no IPv4 connections, so that both can use the same port.

    A socket that was opened by systemd stays as it is.  A UNIX socket that an earlier process has
    left is opened anew, also if that had the process ID of this one.

    Linux lets an IPv6 socket accept IPv4 as well, unless it has the option IPV6_V6ONLY, which
    Twisted never sets.
    """

    def listenTCP(
        self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """Listen on a TCP port.

        :raises CannotListenError: the address cannot be bound.
        """
        if not isIPv6Address(interface):
            listening: IListeningPort = self._reactor.listenTCP(port, factory, backlog, interface)
            accept_faster(listening)
            return listening
        (opened,) = listening_sockets(interface, port, backlog)
        with opened:
            adopted: IListeningPort = self._reactor.adoptStreamPort(
                opened.fileno(), socket.AF_INET6, factory
            )
        accept_faster(adopted)
        return adopted

    def listenUNIX(
        self,
        address: str,
        factory: IProtocolFactory,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: int = 0,
    ) -> IListeningPort:
        """Listen on a UNIX socket; see IReactorUNIX.

        :raises CannotListenError: it cannot be opened, or another process uses it.
        """
        if wantPID:
            remove_stale_lock(address)
        listening: IListeningPort = self._reactor.listenUNIX(
            address, factory, backlog, mode, wantPID
        )
        return listening

    def adoptStreamPort(
        self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory
    ) -> IListeningPort:
        """Listen on an open socket; its own address family counts, as systemd has opened it."""
        with socket.socket(fileno=os.dup(fileDescriptor)) as opened:
            adopted: IListeningPort = self._reactor.adoptStreamPort(
                fileDescriptor, opened.family, factory
            )
        accept_faster(adopted)
        return adopted


def has_ipv6() -> bool:
    """Return whether sockets of this machine can have IPv6 addresses."""
    try:
        (opened,) = listening_sockets("::", 0, 1)
    except CannotListenError:
        return False
    opened.close()
    return True
