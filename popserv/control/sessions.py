"""The connections of one process, as the control socket shows and ends them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_network
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

from popserv.core.printable import printable
from popserv.core.session import State
from popserv.server.connection import Connection
from popserv.server.connection_limit import Connections
from popserv.server.dismissal import dismiss
from popserv.server.session_events import EndReason
from popserv.transports.networks import is_in, parse_address
from popserv.transports.peers import uses_tls

MAX_ITEMS = 200
"""The maximum number of connections in one answer of a process."""


class CountedConnections(Connections[Any]):
    """The connections of a process, which also counts all that there ever were."""

    accepted = 0
    logins = 0

    def add(self, connection: Any, network: str | None) -> None:
        """Add an unauthenticated connection; see Connections."""
        self.accepted += 1
        super().add(connection, network)

    def mark_authenticated(self, connection: Any) -> None:
        """Record that a connection has logged in; see Connections."""
        self.logins += 1
        super().mark_authenticated(connection)


class Sessions:
    """Lists and ends the connections of one process.

    The ID of a connection, such as ``4711.3``, is the process ID and a number, which the connection
    gets when it is first listed.  No other connection gets it later.
    """

    def __init__(
        self,
        connections: CountedConnections,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connections = connections
        self._now = now
        self._pid = os.getpid()
        self._last_number = count(1)
        self._numbers: WeakKeyDictionary[Connection, int] = WeakKeyDictionary()

    def listed(self, after: tuple[int, int]) -> list[Mapping[str, Any]]:
        """Return the connections whose IDs follow ``after``, at most MAX_ITEMS, in their order."""
        numbered = [
            (self._number(each), each)
            for each in self._each()
            if (self._pid, self._number(each)) > after
        ]
        first = sorted(numbered, key=lambda item: item[0])[:MAX_ITEMS]
        return [self._describe(number, connection) for number, connection in first]

    def kick(self, whom: str) -> int:
        """End the matching sessions and connections; return their number.

        ``whom`` is a user, as in listings or as the client has sent it, or an address, a network or
        an ID.
        """
        users = {whom, printable(whom.encode("utf-8", "surrogateescape"))}
        try:
            networks = [ip_network(whom)]
        except ValueError:
            networks = []
        kicked = 0
        for each in list(self._each()):
            host = parse_address(_host(each))
            if (
                printable(each.session.name or b"") in users
                or (host is not None and is_in(host, networks))
                or f"{self._pid}.{self._numbers.get(each)}" == whom
            ):
                dismiss(each, EndReason.ADMINISTRATOR)
                kicked += 1
        return kicked

    def _each(self) -> Iterator[Connection]:
        # Others wait for the header of a proxy.
        return (each for each in self._connections if isinstance(each, Connection))

    def _number(self, connection: Connection) -> int:
        number = self._numbers.get(connection)
        if number is None:
            number = self._numbers[connection] = next(self._last_number)
        return number

    def _describe(self, number: int, connection: Connection) -> Mapping[str, Any]:
        session, events = connection.session, connection.events
        tls = "proxy" if uses_tls(connection.transport) else None
        if session.tls_state is not None:
            tls = session.tls_state.version()
        login_time = events.login_time
        return {
            "id": f"{self._pid}.{number}",
            "user": None if session.name is None else printable(session.name),
            "address": events.peer,
            "tls": tls,
            "method": session.method if session.state is not State.AUTHORIZATION else None,
            "state": session.state.value,
            "age": round(self._now() - login_time, 1) if login_time else None,
            "idle": round(connection.idle_seconds(), 1),
            "messages": session.retrieved_count,
            "octets": session.retrieved_octets,
        }


def _host(connection: Connection) -> str:
    """Return the client's IP address, or another text if it has none."""
    return connection.events.peer.rpartition(":")[0].strip("[]")


def order_of(identifier: str) -> tuple[int, int]:
    """Return by what listings are sorted; the order of the empty text is before all others.

    :raises ValueError: it is no ID.
    """
    if not identifier:
        return (-1, -1)
    pid, _, number = identifier.partition(".")
    return int(pid), int(number)
