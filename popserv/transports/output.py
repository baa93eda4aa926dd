"""Output of a transport: written without a turn of the reactor, and how much of it is pending."""

from __future__ import annotations

import fcntl
import sys
import termios
from contextlib import suppress
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.abstract import FileDescriptor
from twisted.internet.main import CONNECTION_DONE
from twisted.python.failure import Failure


def disable_nagle(transport: Any) -> None:
    """Have each reply sent when it is written.

    Or the kernel keeps it back until the one before it is acknowledged (RFC 1122 section
    4.2.3.4), which may take 40 ms.
    """
    # What is no TCP has nothing to switch off.
    with suppress(AttributeError, OSError):
        transport.setTcpNoDelay(True)


def write_now(transport: Any, octets: bytes) -> None:
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


def close_now(transport: Any) -> bool:
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


def unread_octets(transport: Any) -> int:
    """Return how many octets the client has not taken yet, in all buffers that can be seen.

    Those of a terminal cannot, nor those on the way.
    """
    writer = _writer(transport)
    return 0 if writer is None else _unsent(writer) + _in_kernel(writer.fileno())


def unsent_octets(transport: Any) -> int:
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
