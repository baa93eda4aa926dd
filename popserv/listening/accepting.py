"""Accepting TCP connections as Twisted does, with less work for each of them."""

from __future__ import annotations

import socket
import sys
from functools import partial
from typing import Any

from twisted.internet import tcp
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IListeningPort
from twisted.python import log

MAX_ACCEPTS = 8
"""The maximum of connections that are accepted before others are served.

Twisted accepts 20 more each time that there were as many as the last time.  In a rush that lasts,
each of them with a login that fails, the others would wait for seconds.
"""


class ServerTransport(tcp.Server):
    """The transport of an accepted connection.

    Twisted's class names each connection for log events, in two texts that popserv's events do not
    have: they begin with the client's address.
    """

    logstr = "POP3"
    # No other process has the socket, so that close(2) alone ends the connection.
    _shouldShutdown = False
    has_no_delay = sys.platform == "linux"
    """Whether the socket has TCP_NODELAY from the listening socket, as on Linux."""
    server: Any

    def __init__(
        self,
        sock: socket.socket,
        protocol: Any,
        client: tuple[Any, ...],
        server: Any,
        sessionno: int,
        reactor: Any,
    ) -> None:
        # Not that of tcp.Server, which makes the texts.
        tcp.Connection.__init__(self, sock, protocol, reactor)
        self._addressType = IPv4Address if len(client) == 2 else IPv6Address
        self.server = server
        self.client = client
        self.sessionno = sessionno
        self.hostname = client[0]
        self.startReading()
        self.connected = 1

    def __repr__(self) -> str:
        return f"<connection {self.sessionno} of {self.hostname}>"


def accept_faster(port: IListeningPort) -> None:
    """Let a TCP port of Twisted's make transports of this module; others stay as they are."""
    if type(port) is not tcp.Port:
        return
    port.transport = ServerTransport
    port.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    port.numberAccepts = MAX_ACCEPTS
    accept = _accept if port.addressFamily == socket.AF_INET else _accept_as_twisted
    # The reactor calls it as an attribute of the port.
    port.doRead = partial(accept, port)  # type: ignore[method-assign]


def _accept_as_twisted(port: Any) -> None:
    tcp.Port.doRead(port)
    port.numberAccepts = min(port.numberAccepts, MAX_ACCEPTS)


def _accept(port: Any) -> None:
    """Do what ``Port.doRead`` does, without a logger, a context and a generator each time.

    An error of accept(2) is left to that, such as a lack of file descriptors.
    """
    listening, accepted = port.socket, 0
    while accepted < port.numberAccepts:
        try:
            # As socket.accept, which also looks up names for the constants of the socket.
            fd, client = listening._accept()
            connected = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fd)
        except BlockingIOError:
            break
        except OSError:
            _accept_as_twisted(port)
            return
        accepted += 1
        try:
            _serve(port, connected, client)
        except Exception:
            log.deferr()
    # There may be more clients in the queue, or fewer.
    is_full = accepted == port.numberAccepts
    port.numberAccepts = MAX_ACCEPTS if is_full else max(1, accepted)


def _serve(port: Any, connected: socket.socket, client: tuple[str, int]) -> None:
    protocol = None
    try:
        protocol = port.factory.buildProtocol(IPv4Address("TCP", *client))
    finally:
        if protocol is None:
            connected.close()
    if protocol is None:
        return
    number = port.sessionno
    port.sessionno = number + 1
    transport = port.transport(connected, protocol, client, port, number, port.reactor)
    protocol.makeConnection(transport)
