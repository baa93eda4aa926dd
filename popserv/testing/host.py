"""The process in which the servers of a program's tests run.

The program sends requests through a pair of sockets, each a tuple of a name and arguments, and
gets an answer to each: whether it succeeded, and the result or the text of the error.  The process
ends when the program does.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Awaitable, Callable
from itertools import count
from multiprocessing.connection import Connection
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.task import LoopingCall
from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText, globalLogBeginner
from twisted.python.failure import Failure
from zope.interface import implementer

from popserv.testing.faulty.faults import Faults
from popserv.testing.hosted_server import HostedServer
from popserv.testing.settings import ServerSettings, ServerState, Started

if TYPE_CHECKING:
    from popserv.testing.authority import Authority

CHECK_INTERVAL = 1.0
"""Seconds between two checks whether the program still runs."""


def main(descriptor: int) -> None:
    """Run the process; the descriptor is this end of the pair of sockets."""
    from twisted.internet import reactor

    with TemporaryDirectory(prefix="popserv-") as directory:
        host = Host(reactor, Connection(descriptor), directory)
        globalLogBeginner.beginLoggingTo(
            [cast(ILogObserver, host.observe)], discardBuffer=True, redirectStandardIO=False
        )
        host.run()


@implementer(IReadDescriptor)
class Host:
    """Runs servers at the request of another process."""

    def __init__(self, reactor: Any, connection: Connection, directory: str) -> None:
        self._reactor = reactor
        self._connection = connection
        self._directory = directory
        self._parent = os.getppid()
        self._numbers = count(1)
        self._servers: dict[int, HostedServer] = {}
        self._authority: Authority | None = None
        self._requests: dict[str, Callable[..., Awaitable[object]]] = {
            "start": self.start,
            "deliver": self.deliver,
            "set_faults": self.set_faults,
            "state": self.state,
            "stop": self.stop,
        }

    def run(self) -> None:
        """Answer requests until the other process ends."""
        self._reactor.addReader(self)
        # A process that the other one has forked keeps the connection open.
        LoopingCall(self.check_parent).start(CHECK_INTERVAL)
        self._reactor.run()
        self._connection.close()

    def check_parent(self) -> None:
        """Stop if the process that has started this one has ended."""
        if os.getppid() != self._parent:
            self._reactor.stop()

    def observe(self, event: LogEvent) -> None:
        """Keep the text of an event that is logged as an error; see ILogObserver."""
        if event.get("log_level") in (LogLevel.error, LogLevel.critical):
            for server in self._servers.values():
                server.add_error(eventAsText(event, includeTimestamp=False), event.get("peer"))

    # IReadDescriptor

    def fileno(self) -> int:
        """See IReadDescriptor."""
        return self._connection.fileno()

    def logPrefix(self) -> str:
        """See IReadDescriptor."""
        return "host"

    def doRead(self) -> None:
        """Read a request, and answer it."""
        try:
            name, *arguments = self._connection.recv()
        except (EOFError, OSError):
            self._reactor.removeReader(self)
            self._reactor.stop()
            return
        answer = Deferred.fromCoroutine(self._answer(name, arguments))
        answer.addCallbacks(lambda result: (True, result), _describe)
        answer.addCallback(self._connection.send)

    def connectionLost(self, reason: Failure) -> None:
        """See IReadDescriptor."""

    async def _answer(self, name: str, arguments: list[Any]) -> object:
        return await self._requests[name](*arguments)

    # Requests

    async def start(self, settings: ServerSettings) -> Started:
        """Start a server."""
        number = next(self._numbers)
        directory = os.path.join(self._directory, str(number))
        os.mkdir(directory)
        server = HostedServer(settings, directory, self._get_authority, self._reactor)
        self._servers[number] = server
        ca_file = self._authority.ca_file if settings.certificate and self._authority else None
        return Started(number, server.port, server.tls_port, ca_file)

    def _get_authority(self) -> Authority:
        if self._authority is None:
            from popserv.testing.authority import Authority  # noqa: PLC0415

            self._authority = Authority(self._directory)
        return self._authority

    async def deliver(self, number: int, user: bytes, message: bytes) -> bytes:
        """Deliver a message; return its unique-id."""
        return self._servers[number].maildrops.deliver(user, message)

    async def set_faults(self, number: int, faults: Faults) -> None:
        """Set the faults of a server."""
        self._servers[number].faults.set(faults)

    async def state(self, number: int) -> ServerState:
        """Return the state of a server."""
        return self._servers[number].state()

    async def stop(self, number: int) -> ServerState:
        """Stop a server; return its state."""
        server = self._servers[number]
        await server.stop()
        del self._servers[number]
        return server.state()


def _describe(failure: Failure) -> tuple[bool, str]:
    """Return the answer to a request that has failed."""
    error = failure.value
    if isinstance(error, (ImportError, OSError)):
        return False, str(error)
    return False, "".join(traceback.format_exception(error))
