"""IP addresses of clients, and the lookup of host names in threads."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import SOCK_STREAM, getaddrinfo
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from popserv.core.session import client_is_connected
from popserv.runtime.threads import BoundedThreadPool, StillNeeded

# getaddrinfo may block for a minute, which is too long to wait for at shutdown.
_resolver_threads = BoundedThreadPool(
    "popserv-rhosts", threads=4, backlog=200, wait_at_shutdown=False
)

Address = IPv4Address | IPv6Address
Addresses = frozenset[Address]


# EAI_NODATA does not exist everywhere.
_NO_SUCH_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


class Unresolved(Enum):
    """Why a host name has no addresses."""

    NO_SUCH_HOST = "the name does not exist"
    TEMPORARY_FAILURE = "no name server has answered in time"


def parse_address(text: str) -> Address:
    """Return an IP address without its zone; an IPv4-mapped IPv6 address becomes IPv4.

    :raises ValueError: the text is not an IP address.
    """
    address = ip_address(text)
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or IPv6Address(int(address))


def look_up(host: str) -> Addresses:
    """Return all addresses of a host name.  This blocks.

    :raises OSError: the name cannot be resolved.
    """
    found = getaddrinfo(host.encode("ascii"), None, type=SOCK_STREAM)
    return frozenset(parse_address(str(address[0])) for *_, address in found)


class _PendingLookup:
    """The lookup of one name, and the logins that wait for its result."""

    def __init__(self) -> None:
        self._waiters: list[tuple[Deferred[Addresses | Unresolved], StillNeeded]] = []

    def add_waiter(self) -> Deferred[Addresses | Unresolved]:
        """Return a Deferred of the result for the login in progress."""
        waiter: Deferred[Addresses | Unresolved] = Deferred()
        self._waiters.append((waiter, client_is_connected.get()))
        return waiter

    def is_still_needed(self) -> bool:
        """Return whether a waiting login's client is connected; callable from any thread."""
        return any(is_connected() for _, is_connected in tuple(self._waiters))

    def finish(self, result: Addresses | Unresolved | Failure) -> None:
        """Pass the result to all waiting logins."""
        for waiter, _ in self._waiters:
            waiter.callback(result)


class HostResolver:
    """Looks up host names in threads.

    Logins that need the same name at the same time share one lookup.  A resolver that does not
    respond therefore blocks at most one thread for each name in the file.
    """

    def __init__(
        self,
        run: Callable[..., Awaitable[Addresses]] = _resolver_threads.run,
        clock: Any = None,
    ) -> None:
        self._run = run
        self._clock = clock
        self._lookups: dict[str, _PendingLookup] = {}

    def now(self) -> float:
        """Return the time on the clock of deadlines, in seconds."""
        return float(self._reactor().seconds())

    def resolve(self, host: str, deadline: float) -> Deferred[Addresses | Unresolved]:
        """Return the addresses of a host name, or why it has none.

        :raises popserv.errors.TryLater: too many lookups are waiting.
        """
        seconds = deadline - self.now()
        if seconds <= 0:
            return succeed(Unresolved.TEMPORARY_FAILURE)
        lookup = self._lookups.get(host)
        if lookup is not None:
            waiter = lookup.add_waiter()
        else:
            lookup = self._lookups[host] = _PendingLookup()
            waiter = lookup.add_waiter()
            Deferred.fromCoroutine(self._run_lookup(host, lookup)).addBoth(self._finish, host)
        return waiter.addTimeout(seconds, self._reactor(), lambda *_: Unresolved.TEMPORARY_FAILURE)

    async def _run_lookup(self, host: str, lookup: _PendingLookup) -> Addresses | Unresolved:
        try:
            return await self._run(look_up, host, still_needed=lookup.is_still_needed)
        except OSError as error:
            is_certain = isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_HOST
            return Unresolved.NO_SUCH_HOST if is_certain else Unresolved.TEMPORARY_FAILURE

    def _finish(self, result: Addresses | Unresolved | Failure, host: str) -> None:
        self._lookups.pop(host).finish(result)

    def _reactor(self) -> Any:
        if self._clock is None:
            from twisted.internet import reactor

            self._clock = reactor
        return self._clock
