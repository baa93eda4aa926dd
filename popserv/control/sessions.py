"""The connections of one process, as the control socket shows and ends them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from heapq import nsmallest
from itertools import islice
from typing import Any

from popserv.core.printable import printable
from popserv.core.session import State
from popserv.server.connection import Connection
from popserv.server.connection_limit import CountedConnections
from popserv.server.dismissal import dismiss
from popserv.server.session_events import EndReason
from popserv.transports.networks import parse_address, parse_network
from popserv.transports.peers import ITLSAtProxy

MAX_ITEMS = 100
"""The maximum number of connections in one answer of a process."""


class Sessions:
    """Lists and ends the connections of one process.

    The ID of a connection, such as ``4711.3``, is the process ID and the number of the connection.
    """

    def __init__(
        self,
        connections: CountedConnections,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connections = connections
        self._now = now
        self._pid = os.getpid()

    def listed(self, after: tuple[int, int]) -> Mapping[str, Any]:
        """Return the ``pid`` of this process and, if it is the first of ``after``, ``sessions``.

        These are the connections whose numbers follow the second of ``after``, in their order, at
        most MAX_ITEMS.  All processes are asked, and only one of them has to list.
        """
        pid, number = after
        answer: dict[str, Any] = {"pid": self._pid}
        if pid == self._pid:
            following = (item for item in self._numbered() if item[0] > number)
            first = islice(following, MAX_ITEMS)
            answer["sessions"] = [self._describe(*item) for item in first]
        return answer

    def first(self, maximum: int) -> list[Mapping[str, Any]]:
        """Return the connections that are logged in, then others, at most ``maximum``.

        Both are in the order of their IDs.
        """
        ranked = (
            (each.session.state is State.AUTHORIZATION, number, each)
            for number, each in self._numbered()
        )
        first = nsmallest(maximum, ranked, key=lambda item: item[:2])
        return [self._describe(number, connection) for _, number, connection in first]

    def kick(self, whom: str) -> int:
        """End the matching sessions and connections; return their number.

        ``whom`` is a user, as in listings or as the client has sent it, or an address, a network or
        an ID.
        """
        users = {whom, printable(whom.encode("utf-8", "surrogateescape"))}
        network = parse_network(whom)
        kicked = 0
        for number, each in list(self._numbered()):
            host, name = parse_address(_host(each)), each.session.name
            if (
                (name is not None and printable(name) in users)
                or (network is not None and host is not None and host in network)
                or f"{self._pid}.{number}" == whom
            ):
                dismiss(each, EndReason.ADMINISTRATOR)
                kicked += 1
        return kicked

    def _numbered(self) -> Iterator[tuple[int, Connection]]:
        return iter(self._connections.by_number.items())

    def _describe(self, number: int, connection: Connection) -> Mapping[str, Any]:
        session, events = connection.session, connection.events
        is_at_proxy = ITLSAtProxy.providedBy(connection.transport)
        login_time = events.login_time
        return {
            "id": f"{self._pid}.{number}",
            "user": None if session.name is None else printable(session.name),
            "address": events.peer,
            "tls": connection.tls_version() or ("proxy" if is_at_proxy else None),
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
    """Return the process ID and the number of an ID; of the empty text, what precedes all others.

    :raises ValueError: it is no ID.
    """
    if not identifier:
        return (0, 0)
    pid, _, number = identifier.partition(".")
    return int(pid), int(number)
