"""The metrics of one process that serves, which answers for itself over the bus."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import TYPE_CHECKING, Any

from popserv.core.printable import one_line
from popserv.interfaces import ICaching, IMeasuredStore, IScanCounts
from popserv.metrics import catalogue
from popserv.metrics.counters import Counters
from popserv.metrics.samples import Samples, to_plain
from popserv.runtime.bus import WorkerBus
from popserv.runtime.threads import thread_jobs
from popserv.server.connection_limit import CountedConnections
from popserv.server.factory import POP3Factory

if TYPE_CHECKING:
    from popserv.tls.certificates import Certificates

TOPIC = "metrics"
"""The topic of the question on the bus."""

MAX_CERTIFICATES = 100
"""The maximum number of certificates in the metrics; those that expire first are chosen."""
MAX_PATH = 200
"""The maximum characters of the path of a certificate in a label; the last ones are kept."""

_COUNTS = {
    "waiting": catalogue.WAITING_STATEMENTS,
    "leases": catalogue.LEASES,
    "collected": catalogue.COLLECTED,
}
"""The metrics of what a store counts."""

_OF_DATABASES = frozenset(
    each.name
    for each in (catalogue.DATABASE_STATEMENTS, catalogue.DATABASE_SECONDS, catalogue.COLLECTED)
)


class ProcessMetrics:
    """Answers the question for the metrics of one process.

    :param worker: the number of the process.
    :param factory: its ``connections`` must be CountedConnections.
    :param parts: the store and the checkers; those that have caches or scan tell of it.
    :param is_draining: returns whether the process accepts no more connections.
    :param lmtp: the connections of ``--lmtp``.
    """

    def __init__(
        self,
        bus: WorkerBus,
        worker: int,
        counters: Counters,
        factory: POP3Factory,
        connections: CountedConnections,
        parts: Iterable[object],
        certificates: Certificates | None,
        is_draining: Callable[[], bool],
        lmtp: Sized = (),
    ) -> None:
        self._worker = worker
        self._counters = counters
        self._factory = factory
        self._connections = connections
        parts = list(parts)
        self._caching = [each for each in parts if ICaching.providedBy(each)]
        self._measured = [each for each in parts if IMeasuredStore.providedBy(each)]
        self._scanning = [each for each in parts if IScanCounts.providedBy(each)]
        self._certificates = certificates
        self._is_draining = is_draining
        self._lmtp = lmtp
        self._started = time.time()
        bus.answer(TOPIC, self._answer)

    def _answer(self, _: object) -> Mapping[str, Any]:
        return {
            "worker": self._worker,
            "pid": os.getpid(),
            "started": self._started,
            "is_serving": not self._is_draining(),
            "samples": to_plain({**self._counted(), **self._present()}),
        }

    def _counted(self) -> Samples:
        """Return what is counted; of databases only if there is one."""
        samples = self._counters.samples
        if self._measured:
            return samples
        return {name: values for name, values in samples.items() if name not in _OF_DATABASES}

    def _present(self) -> Samples:
        """Return what is not counted when it happens."""
        connections, throttle = self._connections, self._factory.throttle
        scans = [each.scan_counts() for each in self._scanning]
        samples: dict[catalogue.Metric, Any] = {
            catalogue.CONNECTIONS: {(): connections.accepted},
            catalogue.EVICTED: {(): connections.evicted},
            catalogue.OPEN_CONNECTIONS: {(): len(connections)},
            catalogue.MAX_CONNECTIONS: {(): self._factory.max_connections},
            catalogue.OPEN_SESSIONS: {(): connections.authenticated_count},
            catalogue.OPEN_LMTP_CONNECTIONS: {(): len(self._lmtp)},
            catalogue.THROTTLED_NETWORKS: {(): throttle.penalties.network_count},
            catalogue.WAITING_LOGINS: {(): throttle.slots.waiting_count},
            catalogue.WAITING_CONNECTIONS: {(): len(throttle.starts)},
            catalogue.SCANS: {(): sum(each[0] for each in scans)},
            catalogue.COUNTED_MESSAGES: {(): sum(each[1] for each in scans)},
            catalogue.THREAD_JOBS: {(pool,): jobs for pool, jobs in thread_jobs().items()},
            catalogue.CACHE_ENTRIES: self._cache_entries(),
            catalogue.CERTIFICATE_END: self._certificate_ends(),
        }
        for each in self._measured:
            counts = each.counts()
            for name, metric in _COUNTS.items():
                samples[metric] = {(): counts[name]}
        return {metric.name: values for metric, values in samples.items()}

    def _cache_entries(self) -> Mapping[tuple[str, ...], float]:
        entries: dict[tuple[str, ...], float] = {}
        for each in self._caching:
            for name, size in each.cache_sizes().items():
                entries[name,] = entries.get((name,), 0) + size
        return entries

    def _certificate_ends(self) -> Mapping[tuple[str, ...], float]:
        if self._certificates is None:
            return {}
        ends: dict[tuple[str, ...], float] = {}
        for file, end in sorted(self._certificates.ends(), key=lambda each: each[1]):
            if len(ends) < MAX_CERTIFICATES:
                # Of several with one label, the one that expires first.
                ends.setdefault((one_line(file)[-MAX_PATH:],), end)
        return ends
