"""Using a transport without waiting for the reactor, and counting pending output."""

from __future__ import annotations

import fcntl
import socket
import sys
import termios
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

# Only Linux has it.
_MORE = getattr(socket, "MSG_MORE", 0)


def disable_nagle(transport: Any) -> None:
    """Set TCP_NODELAY, unless the transport says by ``has_no_delay`` that it is set.

    Otherwise the kernel delays a reply until the one before it is acknowledged (RFC 1122
    section 4.2.3.4), which may take 40 ms.
    """
    if getattr(transport, "has_no_delay", False):
        return
    # Only TCP transports have the option.
    with suppress(AttributeError, OSError):
        transport.setTcpNoDelay(True)


def write_now(transport: Any, octets: bytes, *, is_last: bool = False) -> None:
    """Pass octets to the kernel immediately, if no earlier output is pending.

    A transport's ``write`` waits for the next turn of the reactor and registers the socket
    with epoll for it.  Octets that the kernel does not accept are written that way.

    If the octets are the last ones, the connection must be closed at once: the kernel waits for
    that, and sends them and the end of the connection in one packet.
    """
    flags = _MORE if is_last else 0
    try:
        sent = transport.socket.send(octets, flags) if can_use_socket(transport) else 0
    except OSError:
        # The kernel's buffer is full, or the connection is broken: the reactor finds out.
        sent = 0
    if sent < len(octets):
        transport.write(octets[sent:])


def close_now(transport: Any) -> bool:
    """Close a connection if no output is pending; return whether it is closed.

    Does the same as ``loseConnection``, but without waiting for the reactor.
    """
    if not can_use_socket(transport):
        return False
    transport.connectionLost(connectionDone)
    return True


def receive_now(transport: Any) -> bytes:
    """Return what has arrived on a transport of which :func:`can_use_socket` is true.

    It is empty if there is nothing, or if the connection has ended or is broken, which the reactor
    tells the protocol.
    """
    try:
        received: bytes = transport.socket.recv(transport.bufferSize)
    except BlockingIOError:
        return b""
    except OSError:
        # The kernel reports the error once; to the reactor, the client would have closed.
        lost = partial(transport.connectionLost, Failure(ConnectionLost()))
        transport.reactor.callLater(0, lost)
        return b""
    return received


def can_use_socket(transport: Any) -> bool:
    """Return whether a transport adds nothing to its socket, and has no pending output."""
    return (
        issubclass(type(transport), (tcp.Server, unix.Server))
        and transport.connected
        and not (transport.TLS or transport.dataBuffer or transport._tempDataBuffer)
    )


def unread_octets(transport: Any) -> int:
    """Return how many octets the client has not read yet, in the transport and the kernel.

    A terminal's buffer and octets in the network are not counted.
    """
    writer = _writer(transport)
    return 0 if writer is None else _unsent(writer) + _in_kernel(writer.fileno())


def unsent_octets(transport: Any) -> int:
    """Return how many octets the kernel has not accepted, also of a lost connection."""
    writer = _writer(transport)
    return 0 if writer is None else _unsent(writer)


def _writer(transport: Any) -> FileDescriptor | None:
    while hasattr(transport, "transport"):
        transport = transport.transport
    # A transport of standard streams has a separate one for output.
    writer = getattr(transport, "_writer", transport)
    return writer if isinstance(writer, FileDescriptor) else None


def _unsent(writer: Any) -> int:
    waiting: int = len(writer.dataBuffer) - writer.offset + writer._tempDataLen
    return waiting


def _in_kernel(fd: int) -> int:
    if fd < 0:
        return 0
    # TIOCOUTQ works on terminals and sockets, FIONREAD on pipes.
    for request in (termios.TIOCOUTQ, termios.FIONREAD):
        with suppress(OSError):
            return int.from_bytes(fcntl.ioctl(fd, request, bytes(4)), sys.byteorder)
    return 0
