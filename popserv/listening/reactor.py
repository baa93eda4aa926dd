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

    A socket that was opened by systemd stays as it is.

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
            return listening
        try:
            opened = _listen_on_ipv6(interface, port, backlog)
        except OSError as error:
            raise CannotListenError(interface, port, error) from error
        with opened:
            adopted: IListeningPort = self._reactor.adoptStreamPort(
                opened.fileno(), socket.AF_INET6, factory
            )
        return adopted

    def adoptStreamPort(
        self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory
    ) -> IListeningPort:
        """Listen on an open socket; its own address family counts, as systemd has opened it."""
        with socket.socket(fileno=os.dup(fileDescriptor)) as opened:
            adopted: IListeningPort = self._reactor.adoptStreamPort(
                fileDescriptor, opened.family, factory
            )
        return adopted


def _listen_on_ipv6(interface: str, port: int, backlog: int) -> socket.socket:
    """Return a socket that listens; it is not blocking.

    :raises OSError: the address cannot be bound.
    """
    # An address may have a zone, such as fe80::1%eth0.
    ((*_, address), *_) = socket.getaddrinfo(
        interface, port, socket.AF_INET6, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST
    )
    opened = socket.socket(socket.AF_INET6)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(address)
        opened.listen(backlog)
    except OSError:
        opened.close()
        raise
    return opened


def has_ipv6() -> bool:
    """Return whether sockets of this machine can have IPv6 addresses."""
    try:
        _listen_on_ipv6("::", 0, 1).close()
    except OSError:
        return False
    return True
