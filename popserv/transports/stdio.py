"""Standard input and output as the connection of one client: a socket, a terminal, pipes, files."""

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

# mypy thinks of the one of Windows.
_Base: Any = StandardIO

_ADOPTED = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
"""The families of sockets that Twisted has a transport for."""


class NoClientError(Exception):
    """Standard input and output lead to nobody; the message says why."""


class StandardStreams:
    """Two descriptors that lead to a client, taken away from everything else in the process.

    /dev/null takes their place, and that of ``error`` if it leads to the client, too: so
    nothing but the protocol's own octets is ever sent.  Whether they block is a flag that other
    processes may share, such as a shell: terminals and pipes are opened anew, so that they have
    one of their own, and any others' is put back by :meth:`give_back`.

    :raises NoClient: one of them is closed, or a socket that nobody is connected to.
    """

    def __init__(self, in_: int = 0, out: int = 1, error: int = 2) -> None:
        check_open(in_, out)
        self.family = family_of(in_, out)
        self.address = DescriptorAddress(_name(in_), not _is_remote(in_, out))
        self._flags = [fcntl.fcntl(each, fcntl.F_GETFL) for each in (in_, out)]
        takes_error = is_client_stream(error, in_, out)
        # Beyond the standard ones, for that of errors may be free.
        self.input = _copy(in_, os.O_RDONLY, error + 1)
        self.output = _copy(out, os.O_WRONLY, error + 1)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for each in (in_, out, *([error] if takes_error else ())):
            os.dup2(null, each)
        if null != error:
            os.close(null)

    def connect(self, factory: IProtocolFactory, reactor: Any) -> None:
        """Have a protocol of the factory speak to the client.

        :raises OSError: client disconnected.
        """
        if self.family is not None:
            os.set_blocking(self.input, False)
            reactor.adoptStreamConnection(self.input, self.family, factory)
            return
        protocol: Any = factory.buildProtocol(self.address)
        StandardTransport(protocol, self, reactor)

    def give_back(self) -> None:
        """Leave the descriptors as they were found, and close them.  To be called once."""
        for each, flags in zip((self.input, self.output), self._flags, strict=True):
            # A terminal may be gone.
            with suppress(OSError):
                fcntl.fcntl(each, fcntl.F_SETFL, flags)
            os.close(each)


class StandardTransport(_Base):
    """Twisted's transport for terminals, pipes and files, which can be broken off, too."""

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
        """Return what there is in place of an address."""
        return self._address

    def abortConnection(self) -> None:
        """Send nothing more, not even what waits to be sent, and close in the next turn."""
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
            # With what waited to be sent.
            self.abortConnection()
        else:
            super()._writeConnectionLost(reason)

    def _readConnectionLost(self, reason: Failure) -> None:
        # A terminal that has hung up is none any more, and may seem to have said all.
        has_hung_up = self._is_terminal and not os.isatty(self._input)
        if has_hung_up or not reason.check(ConnectionDone):
            self.abortConnection()
        else:
            super()._readConnectionLost(reason)


def _copy(descriptor: int, access: int, least: int) -> int:
    """Return another descriptor of the same, of that number or above."""
    opened = None
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode) or os.isatty(descriptor):
        path = f"/proc/self/fd/{descriptor}"
        # It may be another user's, or nobody be at the other end any more.
        with suppress(OSError):
            # Who opens a master gets another terminal.
            if os.path.basename(os.readlink(path)) != "ptmx":
                opened = os.open(path, access | os.O_NONBLOCK | os.O_NOCTTY)
    copy = fcntl.fcntl(descriptor if opened is None else opened, fcntl.F_DUPFD_CLOEXEC, least)
    if opened is not None:
        os.close(opened)
    return copy


def check_open(*descriptors: int) -> None:
    """Raise NoClient unless all are open."""
    for each in descriptors:
        if _status(each) is None:
            raise NoClientError(f"descriptor {each} is closed, where the client should be")


def is_client_stream(error: int, *descriptors: int) -> bool:
    """Tell whether what is written there the client would read, or nobody."""
    there = _status(error)
    others = [_status(each) for each in descriptors]
    return there is None or any(each and os.path.samestat(there, each) for each in others)


def _status(descriptor: int) -> os.stat_result | None:
    try:
        return os.fstat(descriptor)
    except OSError:
        return None


def _socket(descriptor: int) -> socket.socket:
    return socket.socket(fileno=os.dup(descriptor))


def family_of(in_: int, out: int) -> int | None:
    """Return the family of the connection that both of them are, if they are one.

    :raises NoClient: they are a socket that nobody is connected to.
    """
    there = os.fstat(in_)
    if not stat.S_ISSOCK(there.st_mode):
        return None
    with _socket(in_) as client:
        try:
            client.getpeername()
        except OSError as error:
            raise NoClientError(
                f"standard input is a socket that nobody is connected to ({error.strerror}): "
                "client disconnected, or it is one to listen on (in inetd.conf, give nowait)"
            ) from None
        if (
            os.path.samestat(there, os.fstat(out))
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
