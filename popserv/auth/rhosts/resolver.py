"""Addresses of hosts, and the names that are looked up for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import SOCK_STREAM, getaddrinfo
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from popserv.core.session import client_is_connected
from popserv.runtime.threads import BoundedThreadPool, StillNeeded

# A resolver may take a minute.
_resolving = BoundedThreadPool("popserv-rhosts", threads=4, backlog=200, wait_at_shutdown=False)

Address = IPv4Address | IPv6Address
Addresses = frozenset[Address]


def address_of(text: str) -> Address:
    """Return an address, without a zone, and an IPv4 one that is mapped to IPv6 as itself.

    :raises ValueError: it is none.
    """
    address = ip_address(text)
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or IPv6Address(int(address))


def addresses_of(host: str) -> Addresses:
    """Return all addresses that a name has; this may take long.

    :raises OSError: it cannot be looked up.
    """
    found = getaddrinfo(host.encode("ascii"), None, type=SOCK_STREAM)
    return frozenset(address_of(str(address[0])) for *_, address in found)


class _Lookup:
    """A name that is being looked up, and those who wait for it."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Deferred[Addresses | None], StillNeeded]] = []

    def join(self) -> Deferred[Addresses | None]:
        """Return what will be the answer."""
        answer: Deferred[Addresses | None] = Deferred()
        self._waiting.append((answer, client_is_connected.get()))
        return answer

    def is_wanted(self) -> bool:
        """Tell, in any thread, whether somebody still waits."""
        return any(is_there() for _, is_there in tuple(self._waiting))

    def answer(self, found: Addresses | Failure | None) -> None:
        """Give it to all."""
        for answer, _ in self._waiting:
            answer.callback(found)


class HostNames:
    """Looks names up in threads; one that many ask for at a time, once for all of them.

    So a resolver that hangs holds up no more threads than there are names in the file.
    """

    def __init__(
        self, run: Callable[..., Awaitable[Addresses]] = _resolving.run, clock: Any = None
    ) -> None:
        self._run = run
        self._clock = clock
        self._lookups: dict[str, _Lookup] = {}

    def now(self) -> float:
        """Return the time, in seconds, that deadlines are of."""
        return float(self._reactor().seconds())

    def addresses(self, host: str, deadline: float) -> Deferred[Addresses | None]:
        """Return the addresses of a name; None if it cannot be looked up, or not until then.

        :raises TryLater: too many names are waiting.
        """
        seconds = deadline - self.now()
        if seconds <= 0:
            return succeed(None)
        lookup = self._lookups.get(host)
        if lookup is not None:
            answer = lookup.join()
        else:
            lookup = self._lookups[host] = _Lookup()
            answer = lookup.join()
            Deferred.fromCoroutine(self._look_up(host, lookup)).addBoth(self._tell, host)
        return answer.addTimeout(seconds, self._reactor(), lambda *_: None)

    async def _look_up(self, host: str, lookup: _Lookup) -> Addresses | None:
        try:
            return await self._run(addresses_of, host, still_needed=lookup.is_wanted)
        except OSError:
            return None

    def _tell(self, found: Addresses | Failure | None, host: str) -> None:
        self._lookups.pop(host).answer(found)

    def _reactor(self) -> Any:
        if self._clock is None:
            from twisted.internet import reactor

            self._clock = reactor
        return self._clock
