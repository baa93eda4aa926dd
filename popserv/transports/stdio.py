"""Standard input and output as a connection: a socket, a terminal, pipes or files."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from contextlib import suppress
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.stdio import StandardIO
from twisted.python.failure import Failure

from popserv.transports.peers import DescriptorAddress

# mypy takes the class for Windows.
_Base: Any = StandardIO

_ADOPTED = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
"""The address families of sockets that Twisted can adopt."""


class NoClientError(Exception):
    """Standard input and output do not lead to a client; the message says why."""


class StandardStreams:
    """The descriptors of standard input and output, reserved for one client.

    /dev/null replaces them, and ``error`` as well if it leads to the client, so that nothing
    but the protocol's octets can be sent.  O_NONBLOCK may be shared with other processes, such
    as a shell: terminals and pipes are therefore opened anew, and the flags of other
    descriptors are restored by :meth:`restore`.

    :raises NoClientError: a descriptor is closed, or a socket that is not connected.
    """

    def __init__(self, in_: int = 0, out: int = 1, error: int = 2) -> None:
        check_open(in_, out)
        self.family = family_of(in_, out)
        self.address = DescriptorAddress(_name(in_), not _is_remote(in_, out))
        self._flags = [fcntl.fcntl(each, fcntl.F_GETFL) for each in (in_, out)]
        replaces_error = is_client_stream(error, in_, out)
        # Above the standard descriptors, because that of standard error may be closed.
        self.input = _copy(in_, os.O_RDONLY, error + 1)
        self.output = _copy(out, os.O_WRONLY, error + 1)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for each in (in_, out, *([error] if replaces_error else ())):
            os.dup2(null, each)
        if null != error:
            os.close(null)

    def connect(self, factory: IProtocolFactory, reactor: Any) -> None:
        """Connect a protocol of the factory to the client.

        :raises OSError: the client has disconnected.
        """
        if self.family is not None:
            os.set_blocking(self.input, False)
            reactor.adoptStreamConnection(self.input, self.family, factory)
            return
        protocol: Any = factory.buildProtocol(self.address)
        StandardTransport(protocol, self, reactor)

    def restore(self) -> None:
        """Restore the flags of the descriptors, and close them; call it once."""
        for each, flags in zip((self.input, self.output), self._flags, strict=True):
            # The terminal may have hung up.
            with suppress(OSError):
                fcntl.fcntl(each, fcntl.F_SETFL, flags)
            os.close(each)


class StandardTransport(_Base):
    """Twisted's transport for terminals, pipes and files, with ``abortConnection``."""

    _reader: Any
    _writer: Any
    _aborting = False

    def __init__(self, protocol: IProtocol, standard: StandardStreams, reactor: Any) -> None:
        self._address = standard.address
        self._input = standard.input
        self._is_terminal = os.isatty(standard.input)
        self._reactor = reactor
        super().__init__(protocol, standard.input, standard.output, reactor)

    def getPeer(self) -> DescriptorAddress:
        """Return the name of the terminal, or ``standard input``."""
        return self._address

    def abortConnection(self) -> None:
        """Drop pending output, and close in the next turn of the reactor."""
        if self.disconnected or self._aborting:
            return
        self._aborting = True
        halves = (self._reader, self._writer)
        self._reader = self._writer = None
        for half in halves:
            if half is not None:
                half.stopReading()
                half.stopWriting()
        self._reactor.callLater(0, self.connectionLost, Failure(ConnectionAborted()))

    def _writeConnectionLost(self, reason: Failure) -> None:
        if self.disconnecting and not reason.check(ConnectionDone):
            # Pending output is lost.
            self.abortConnection()
        else:
            super()._writeConnectionLost(reason)

    def _readConnectionLost(self, reason: Failure) -> None:
        # A terminal that has hung up is no longer a terminal, and may look like end of file.
        has_hung_up = self._is_terminal and not os.isatty(self._input)
        if has_hung_up or not reason.check(ConnectionDone):
            self.abortConnection()
        else:
            super()._readConnectionLost(reason)


def _copy(descriptor: int, access: int, minimum: int) -> int:
    """Return a copy of a descriptor, with the least free number that is allowed."""
    opened = None
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode) or os.isatty(descriptor):
        path = f"/proc/self/fd/{descriptor}"
        # It may belong to another user, or its other end may be closed.
        with suppress(OSError):
            # Opening a pseudoterminal master creates another terminal.
            if os.path.basename(os.readlink(path)) != "ptmx":
                opened = os.open(path, access | os.O_NONBLOCK | os.O_NOCTTY)
    copy = fcntl.fcntl(descriptor if opened is None else opened, fcntl.F_DUPFD_CLOEXEC, minimum)
    if opened is not None:
        os.close(opened)
    return copy


def check_open(*descriptors: int) -> None:
    """Raise NoClientError unless all descriptors are open."""
    for each in descriptors:
        if _status(each) is None:
            raise NoClientError(f"file descriptor {each} is closed; it must lead to the client")


def is_client_stream(error: int, *descriptors: int) -> bool:
    """Return whether ``error`` is closed, or the same file as one of the descriptors."""
    status = _status(error)
    others = [_status(each) for each in descriptors]
    return status is None or any(each and os.path.samestat(status, each) for each in others)


def _status(descriptor: int) -> os.stat_result | None:
    try:
        return os.fstat(descriptor)
    except OSError:
        return None


def _socket(descriptor: int) -> socket.socket:
    return socket.socket(fileno=os.dup(descriptor))


def family_of(in_: int, out: int) -> int | None:
    """Return the address family if both are one stream socket that Twisted can adopt, else None.

    :raises NoClientError: the socket is not connected.
    """
    status = os.fstat(in_)
    if not stat.S_ISSOCK(status.st_mode):
        return None
    with _socket(in_) as client:
        try:
            client.getpeername()
        except OSError as error:
            raise NoClientError(
                f"standard input is a socket that is not connected ({error.strerror}): the client "
                "has disconnected, or it is a listening socket (use nowait in inetd.conf)"
            ) from None
        if (
            os.path.samestat(status, os.fstat(out))
            and client.type == socket.SOCK_STREAM
            and client.family in _ADOPTED
        ):
            return int(client.family)
    return None


def _is_remote(*descriptors: int) -> bool:
    for each in descriptors:
        if stat.S_ISSOCK(os.fstat(each).st_mode):
            with _socket(each) as client:
                if client.family != socket.AF_UNIX:
                    return True
    return False


def _name(descriptor: int) -> str:
    try:
        return os.ttyname(descriptor)
    except OSError:
        return "standard input"
