"""What a server must know of a connection's transport, and do with it, whatever kind it is."""

from __future__ import annotations

import fcntl
import select
import sys
import termios
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, cast

from twisted.internet import tcp, unix
from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import (
    IAddress,
    IOpenSSLServerConnectionCreator,
    IProtocol,
    ISSLTransport,
    ITransport,
)
from twisted.internet.main import CONNECTION_DONE
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from zope.interface import implementer

from popserv.core.session import Channel


@implementer(IAddress)
@dataclass(frozen=True)
class DescriptorAddress:
    """Where a client is that came with two open descriptors: a terminal, a pipe, a file.

    ``is_local`` tells whether they lead to another process of this machine, or to a line that
    is plugged into it; what is behind that process nobody here can see.
    """

    name: str
    is_local: bool

    def __str__(self) -> str:
        return self.name


def is_private(transport: ITransport) -> bool:
    """Tell whether nobody else can read along: TLS, or a client on this very machine."""
    if ISSLTransport.providedBy(transport):
        return True
    peer = transport.getPeer()
    host = getattr(peer, "host", None)
    if host is not None:
        return _is_loopback(host)
    return isinstance(peer, UNIXAddress) or getattr(peer, "is_local", False)


@lru_cache(1000)
def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def has_gone(transport: Any) -> bool:
    """Tell, in any thread, whether the connection is broken, though nothing is read from it.

    A client that has closed it in order cannot be told from one that has said all and waits
    for its answers; that one has not gone.
    """
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    if not hasattr(transport, "fileno"):
        return False
    try:
        poll = select.poll()
        poll.register(transport.fileno(), 0)
        return bool(poll.poll(0))
    except (OSError, ValueError):
        return True


def peer_name(transport: ITransport) -> str:
    """Return the client's address and port for the log, or what it has in their place."""
    peer: Any = transport.getPeer()
    if isinstance(peer, UNIXAddress):
        # Of clients hardly one has a name.
        return "UNIX socket"
    return f"{peer.host}:{peer.port}" if hasattr(peer, "port") else str(peer)


def send_at_once(transport: Any) -> None:
    """Have each reply sent when it is written.

    Or the kernel keeps it back until the one before it is acknowledged (RFC 1122 section
    4.2.3.4), which may take 40 ms.
    """
    # What is no TCP has nothing to switch off.
    with suppress(AttributeError, OSError):
        transport.setTcpNoDelay(True)


def send(transport: Any, octets: bytes) -> None:
    """Give octets to the kernel at once, if none wait before them.

    A transport's own ``write`` leaves that to a turn of the reactor, before and after which
    epoll must be told what to watch.  What the kernel does not take goes that way, too.
    """
    sent = 0
    if _can_send(transport):
        # Or what ended the connection, which the reactor will find out.
        taken = transport.writeSomeData(octets)
        sent = taken if isinstance(taken, int) else 0
    if sent < len(octets):
        transport.write(octets[sent:])


def lose_at_once(transport: Any) -> bool:
    """Close a connection if nothing waits to be sent; tell whether it is closed.

    What ``loseConnection`` does, without turns of the reactor in which to find that out.
    """
    if not _can_send(transport):
        return False
    transport.stopReading()
    transport.stopWriting()
    transport.connectionLost(Failure(CONNECTION_DONE))
    return True


def _can_send(transport: Any) -> bool:
    """Tell whether nothing is between a transport and its socket, and everything was sent."""
    return (
        type(transport) in (tcp.Server, unix.Server)
        and transport.connected
        and not (transport.TLS or transport.dataBuffer or transport._tempDataBuffer)
    )


def untaken(transport: Any) -> int:
    """Return how many octets the client has not taken yet, in all buffers that can be seen.

    Those of a terminal cannot, nor those on the way.
    """
    writer = _writer(transport)
    return 0 if writer is None else _unsent(writer) + _in_kernel(writer.fileno())


def unsent(transport: Any) -> int:
    """Return how many octets the kernel has not taken yet, also of a connection that is lost."""
    writer = _writer(transport)
    return 0 if writer is None else _unsent(writer)


def _writer(transport: Any) -> FileDescriptor | None:
    while hasattr(transport, "transport"):
        transport = transport.transport
    # Standard output has one of its own.
    writer = getattr(transport, "_writer", transport)
    return writer if isinstance(writer, FileDescriptor) else None


def _unsent(writer: Any) -> int:
    waiting: int = len(writer.dataBuffer) - writer.offset + writer._tempDataLen
    return waiting


def _in_kernel(fd: int) -> int:
    if fd < 0:
        return 0
    # The first is for terminals and sockets, the second for pipes.
    for request in (termios.TIOCOUTQ, termios.FIONREAD):
        with suppress(OSError):
            return int.from_bytes(fcntl.ioctl(fd, request, bytes(4)), sys.byteorder)
    return 0


def start_tls(
    transport: Any, tls: IOpenSSLServerConnectionCreator | None, protocol: IProtocol
) -> None:
    """Begin TLS below the protocol, whose ``transport`` may be another one then."""
    if not isinstance(transport, ProtocolWrapper):
        transport.startTLS(tls)
        return
    # A wrapper such as haproxy: would pass startTLS on to the transport below it, and hear
    # of no TLS.  The library is optional.
    from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol

    factory: Any = TLSMemoryBIOFactory(cast(Any, tls), False, cast(Any, None))
    transport.wrappedProtocol = TLSMemoryBIOProtocol(factory, cast(Any, protocol))
    transport.wrappedProtocol.makeConnection(transport)


def make_channel(transport: Any) -> Channel:
    """Return what TLS knows of a connection."""
    from popserv.tls.connection import TLSChannel

    return TLSChannel(transport.getHandle())


def in_short(error: BaseException | None) -> str:
    """Return what an error says; of OpenSSL's tuples the reasons alone."""
    told = error.args[0] if error is not None and error.args else ""
    if isinstance(told, list):
        told = "; ".join(str(each[-1]) for each in told)
    return str(told) or type(error).__name__
