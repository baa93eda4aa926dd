"""Connections through a proxy, which begin with a header of the PROXY protocol."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import TimeoutMixin, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import alsoProvides

from popserv.server.factory import POP3Factory
from popserv.transports.networks import LOOPBACK, Network, is_in, parse_address
from popserv.transports.output import can_use_socket, receive_now
from popserv.transports.peers import ITLSAtProxy, ProxiedAddress, peer_name
from popserv.transports.proxy_header import InvalidHeader, ProxyHeader, parse_header


class ProxyFactory(ServerFactory):
    """Receives the header of the PROXY protocol, then connects a protocol of another factory.

    A header is accepted only from a proxy of ``proxies``, or on a UNIX socket; every other
    connection is closed.  The transport must be one that an endpoint of TCP or UNIX sockets makes.

    :param factory: a :class:`POP3Factory`, or one that wraps it: with TLSFactory, TLS
        starts after the header.
    :param proxies: the networks of the proxies; the default is this machine.
    :param now: a clock in seconds.
    """

    HEADER_TIMEOUT: float = 5
    """Seconds in which a proxy must send the header."""
    LOG_INTERVAL: float = 60
    """Seconds in which at most MAX_LOGGED rejected connections are logged."""
    MAX_LOGGED = 20

    log = Logger()
    noisy = False

    def __init__(
        self,
        factory: IProtocolFactory,
        proxies: Iterable[Network] = LOOPBACK,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.factory = factory
        self._proxies = tuple(proxies)
        self._now = now
        self._interval_end = now()
        self._logged = 0
        inner: Any = factory
        while isinstance(inner, WrappingFactory):
            inner = inner.wrappedFactory
        self.pop3_factory: POP3Factory = inner

    def doStart(self) -> None:
        """Start both factories."""
        self.factory.doStart()
        super().doStart()

    def doStop(self) -> None:
        """Stop both factories."""
        self.factory.doStop()
        super().doStop()

    def buildProtocol(self, address: object) -> HeaderReceiver:
        """Return a protocol that receives the header."""
        return HeaderReceiver(self)

    def is_proxy(self, address: object) -> bool:
        """Return whether headers from an address are accepted."""
        host = parse_address(getattr(address, "host", None))
        return is_in(host, self._proxies) if host else isinstance(address, UNIXAddress)

    def log_rejection(self, peer: str, reason: str) -> None:
        """Log why a connection was closed, unless there were too many: clients cause them."""
        now = self._now()
        if now >= self._interval_end:
            self._interval_end = now + self.LOG_INTERVAL
            self._logged = 0
        self._logged += 1
        if self._logged <= self.MAX_LOGGED:
            self.log.warn(
                "{peer}: closed, no valid PROXY header: {reason}", peer=peer, reason=reason
            )
        if self._logged == self.MAX_LOGGED:
            self.log.warn(
                "more connections without a valid PROXY header are not logged for {seconds:.0f} s",
                seconds=self._interval_end - now,
            )


class HeaderReceiver(Protocol, TimeoutMixin):
    """Receives a header of the PROXY protocol, and then leaves the transport to another protocol.

    The transport itself has that protocol then, and not a wrapper, so that output, STLS and
    back-pressure are as without a proxy.
    """

    # ITCPTransport, with the attributes of Twisted's own transports.
    transport: Any

    def __init__(self, factory: ProxyFactory) -> None:
        self._factory = factory
        self._received = bytearray()

    def connectionMade(self) -> None:
        """Read the header, or wait for it, counted among the connections that have not logged in.

        Most proxies send it at once.  If it was not read before the next connection is accepted, a
        rush at the connection limit would let each connection evict the one before it.
        """
        pop3_factory = self._factory.pop3_factory
        if not self._factory.is_proxy(self.transport.getPeer()):
            self._reject("this address is not a proxy of --proxies")
            return
        if can_use_socket(self.transport):
            self._received += receive_now(self.transport)
            if self._received and self._use_header():
                return
        if not pop3_factory.admit():
            self.transport.abortConnection()
        else:
            # One group for all: if it is the largest, its oldest member is one that hangs.
            pop3_factory.connections.add_waiting(self, "waiting for a PROXY header")
            self.setTimeout(self._factory.HEADER_TIMEOUT)

    def dataReceived(self, data: bytes) -> None:
        """Collect the header; what follows it belongs to the other protocol."""
        self._received += data
        self._use_header()

    def _use_header(self) -> bool:
        """Go on after the header; return false if more of it is to come."""
        try:
            parsed = parse_header(self._received)
        except InvalidHeader as error:
            self._reject(str(error))
            return True
        if parsed is None:
            return False
        header, length = parsed
        self._stop_waiting()
        self._connect(header, bytes(self._received[length:]))
        return True

    def timeoutConnection(self) -> None:
        """Close, because the header has not come in time."""
        self._reject(f"not received within {self._factory.HEADER_TIMEOUT:g} seconds")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Log a header that has not ended; a connection without any octet is a health check."""
        self._stop_waiting()
        # Otherwise it was evicted, or rejected and logged already.
        if self._received and not reason.check(ConnectionAborted):
            self._log("the proxy has closed the connection within the header")

    def _reject(self, reason: str) -> None:
        self._log(reason)
        self.transport.abortConnection()

    def _log(self, reason: str) -> None:
        self._factory.log_rejection(peer_name(self.transport), reason)

    def _stop_waiting(self) -> None:
        self.setTimeout(None)
        self._factory.pop3_factory.connections.remove(self)

    def _connect(self, header: ProxyHeader, rest: bytes) -> None:
        transport = self.transport
        if header.source is not None:
            peer = ProxiedAddress(*header.source)
            # Twisted's startTLS replaces methods of a transport in the same way.
            transport.getPeer = lambda: peer
        if header.over_tls:
            alsoProvides(transport, ITLSAtProxy)
        protocol: Any = self._factory.factory.buildProtocol(transport.getPeer())
        if protocol is None:
            # As a Twisted port does.
            transport.abortConnection()
            return
        transport.protocol = protocol
        protocol.makeConnection(transport)
        if rest and transport.connected and not transport.disconnecting:
            protocol.dataReceived(rest)
