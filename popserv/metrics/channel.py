"""HTTP connections that cost little, whatever their clients do.

Rules of this file:
 1. A connection has one request and a maximum time: what it needs is bounded by one request and
    one response.
 2. A client that breaks a rule of HTTP or this one is disconnected; of too many connections, the
    oldest is closed.  Of what clients cause, one line in each LOG_INTERVAL is logged.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request
from twisted.web.resource import IResource
from twisted.web.server import Site

from popserv.transports.peers import peer_name


class BoundedChannel(HTTPChannel):
    """A connection with one request.

    Its factory is a :class:`BoundedSite`, which sets ``callLater`` and ``site``.
    """

    MAX_REQUEST = 1 << 14
    """The maximum octets of a request."""
    LIFETIME = 30.0
    """Seconds in which a client must send its request and accept the response."""

    site: BoundedSite
    callLater: Any
    # ITCPTransport, for which HTTPChannel has ITransport.
    transport: Any

    def __init__(self) -> None:
        super().__init__()
        self._received = 0
        self._is_answered = False
        self._deadline: Any = None

    def connectionMade(self) -> None:
        """Wait for the request."""
        super().connectionMade()
        self._deadline = self.callLater(self.LIFETIME, self._time_out)
        self.site.add(self)

    def dataReceived(self, data: bytes) -> None:
        """Collect the request."""
        self._received += len(data)
        if self._received > self.MAX_REQUEST:
            self._reject(f"it has sent more than {self.MAX_REQUEST} octets")
            return
        try:
            super().dataReceived(data)
        except (ValueError, OSError):
            # A Content-Length of thousands of digits, or no room for a body in a temporary file.
            self._reject("it has sent a request that cannot be read")

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Return False: the connection is closed after the response."""
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        return False

    def requestDone(self, request: Request) -> None:
        """Close, because the request is answered."""
        self._is_answered = True
        super().requestDone(request)

    def loseConnection(self) -> None:
        """Close once the response is sent, or what refuses an invalid request."""
        if not self._is_answered:
            self.site.log_rejection(self, "it does not speak HTTP")
        super().loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget the connection."""
        if self._deadline.active():
            self._deadline.cancel()
        self.site.remove(self)
        super().connectionLost(reason)

    def _time_out(self) -> None:
        self._reject(f"it has not finished within {self.LIFETIME:g} seconds")

    def _reject(self, reason: str) -> None:
        self.site.log_rejection(self, reason)
        self.transport.abortConnection()


class BoundedSite(Site):
    """A site whose connections are :class:`BoundedChannel`."""

    MAX_CONNECTIONS = 20
    """The maximum number of connections."""
    LOG_INTERVAL = 60.0
    """Seconds in which one rejected client is logged."""

    protocol: Any = BoundedChannel
    noisy = False
    _logger = Logger()

    def __init__(self, resource: IResource, reactor: Any = None) -> None:
        # The deadline of a connection replaces the time-out of an idle one.
        super().__init__(resource, parsePOSTFormSubmission=False, timeout=None, reactor=reactor)
        # The oldest first.
        self._connections: dict[BoundedChannel, None] = {}
        self._logs_again_at = 0.0

    def add(self, connection: BoundedChannel) -> None:
        """Add a connection, and close the oldest if there are too many."""
        self._connections[connection] = None
        if len(self._connections) > self.MAX_CONNECTIONS:
            oldest = next(iter(self._connections))
            self.remove(oldest)
            self.log_rejection(oldest, f"there are more than {self.MAX_CONNECTIONS} connections")
            oldest.transport.abortConnection()

    def remove(self, connection: BoundedChannel) -> None:
        """Remove a connection, if it has not been removed yet."""
        self._connections.pop(connection, None)

    def log_rejection(self, connection: BoundedChannel, reason: str) -> None:
        """Log why a client is disconnected, unless another one was of late."""
        now = self.reactor.seconds()
        if now >= self._logs_again_at:
            self._logs_again_at = now + self.LOG_INTERVAL
            self._logger.warn(
                "{peer}: metrics client disconnected: {reason}; more of them are not logged for "
                "{seconds:g} s",
                peer=peer_name(connection.transport),
                reason=reason,
                seconds=self.LOG_INTERVAL,
            )

    def log(self, request: Request) -> None:
        """Log nothing: Prometheus asks several times a minute."""
