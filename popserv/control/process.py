"""What one process answers when all processes of a server are asked about their connections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import nsmallest
from typing import TYPE_CHECKING, Any

from popserv.control.sessions import Sessions
from popserv.interfaces import ICaching
from popserv.runtime.bus import WorkerBus
from popserv.server.connection_limit import CountedConnections
from popserv.server.factory import POP3Factory
from popserv.transports.peers import ProxiedAddress

if TYPE_CHECKING:
    from popserv.tls.certificates import Certificates

TOPIC = "control "
"""What the topics of the questions begin with, on the bus."""

MAX_CERTIFICATES = 20
"""The maximum number of certificates in one answer."""
MAX_NAMES = 10
"""The maximum number of names of a certificate that are shown."""


class ProcessControl:
    """Answers the questions about one process, which come over the bus.

    :param factory: its ``connections`` must be CountedConnections.
    :param caching: the store and the checkers; of those that have caches, the sizes are told.
    """

    def __init__(
        self,
        bus: WorkerBus,
        factory: POP3Factory,
        caching: Iterable[object],
        certificates: Certificates | None,
        connections: CountedConnections,
    ) -> None:
        self._factory = factory
        self._caching = [each for each in caching if ICaching.providedBy(each)]
        self._certificates = certificates
        self._connections = connections
        self._sessions = Sessions(connections)
        bus.answer(TOPIC + "status", self._status)
        bus.answer(TOPIC + "overview", self._overview)
        bus.answer(TOPIC + "sessions", lambda after: self._sessions.listed(tuple(after)))
        bus.answer(TOPIC + "certificates", self._list_certificates)
        bus.answer(TOPIC + "kick", self._sessions.kick)
        bus.answer(TOPIC + "unblock", self._unblock)

    def _status(self, _: object) -> Mapping[str, Any]:
        caches: dict[str, int] = {}
        for each in self._caching:
            for name, size in each.cache_sizes().items():
                caches[name] = caches.get(name, 0) + size
        connections = self._connections
        return {
            "connections": len(connections),
            "sessions": connections.authenticated_count,
            "accepted": connections.accepted,
            "logins": connections.logins,
            "networks_with_failures": self._factory.throttle.penalties.network_count,
            "caches": caches,
        }

    def _overview(self, maxima: Sequence[int]) -> Mapping[str, Any]:
        """Return the status, the first sessions, and the certificates that end first.

        ``maxima`` are the maximum numbers of sessions and of certificates.
        """
        sessions, certificates = maxima
        found = [] if self._certificates is None else self._certificates.overview()
        return {
            "status": self._status(None),
            "sessions": self._sessions.first(sessions),
            "certificates": [
                {**each, "names": each["names"][:MAX_NAMES]}
                for each in nsmallest(certificates, found, key=lambda each: str(each["ends"]))
            ],
            "certificate_count": len(found),
        }

    def _list_certificates(self, after: int) -> Sequence[Mapping[str, Any]]:
        """Return the certificates from a position on, each with this position."""
        if self._certificates is None:
            return []
        return [
            {"position": at, **each, "names": each["names"][:MAX_NAMES]}
            for at, each in enumerate(self._certificates.overview())
            if at > after
        ][:MAX_CERTIFICATES]

    def _unblock(self, host: str) -> int | None:
        """Forget the failed logins of a client's network; return their number.

        Return None for a network whose failed logins are not counted.
        """
        network = self._factory.networks.of(ProxiedAddress(host, 0))
        if network is None:
            return None
        return self._factory.throttle.penalties.forget(network)
