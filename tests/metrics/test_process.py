"""What one process answers."""

import json
import os

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from popserv.auth.throttle.starts import BURST
from popserv.core.printable import one_line
from popserv.interfaces import ICaching, IMeasuredStore, IScanCounts
from popserv.metrics import catalogue, process
from popserv.metrics.process import MAX_CERTIFICATES, MAX_PATH, TOPIC, ProcessMetrics
from popserv.metrics.samples import from_plain
from popserv.runtime.bus import WorkerBus
from popserv.workers.questions import MAX_ANSWER
from tests.auth.throttle.test_starts import Arrival
from tests.metrics.harness import MeasuredMixin


@implementer(ICaching, IScanCounts)
class Store:
    """A store with caches that scans."""

    def cache_sizes(self):
        """See ICaching."""
        return {"maildrops": 3, "messages": 70}

    def scan_counts(self):
        """See IScanCounts."""
        return 5, 900


@implementer(IMeasuredStore)
class DatabaseStore:
    """A store with a database."""

    def counts(self):
        """See IMeasuredStore."""
        return {"waiting": 1, "leases": 2, "collected": 500}


class SomeCertificates:
    """Stands for Certificates, with the files and ends of a test."""

    def __init__(self, *ends):
        self._ends = ends

    def ends(self):
        """See Certificates."""
        return self._ends


class ProcessTests(MeasuredMixin, SynchronousTestCase):
    """ProcessMetrics."""

    def setUp(self):
        """Create the server."""
        super().setUp()
        self.is_draining = False

    def ask(self, certificates=None, parts=()):
        """Return the answer of a process, as another one gets it."""
        bus = WorkerBus()
        ProcessMetrics(
            bus,
            3,
            self.instruments.counters,
            self.factory,
            self.connections,
            parts,
            certificates,
            lambda: self.is_draining,
        )
        (answer,) = self.successResultOf(bus.ask_here(TOPIC, None)).given
        line = json.dumps(answer)
        self.assertLess(len(line), MAX_ANSWER)
        return json.loads(line)

    def samples(self, *arguments):
        """Return the samples of the answer."""
        return from_plain(self.ask(*arguments)["samples"])

    def test_process(self):
        """The process tells who it is, and whether it serves."""
        answer = self.ask()
        self.assertEqual((answer["worker"], answer["pid"]), (3, os.getpid()))
        self.assertTrue(answer["is_serving"])
        self.is_draining = True
        self.assertFalse(self.ask()["is_serving"])

    def test_connections(self):
        """Connections are told as they are now, and how many there were."""
        self.factory.max_connections = 2
        self.logged_in()
        for _ in range(2):
            self.connect()
        samples = self.samples()
        self.assertEqual(
            [
                samples[each.name][()]
                for each in (
                    *(catalogue.CONNECTIONS, catalogue.EVICTED, catalogue.OPEN_CONNECTIONS),
                    *(catalogue.MAX_CONNECTIONS, catalogue.OPEN_SESSIONS),
                )
            ],
            [3, 1, 2, 2, 1],
        )

    def test_counted(self):
        """What was counted is in the answer, and every metric but those of the whole server."""
        self.logged_in(b"RETR 1")
        samples = self.samples(SomeCertificates(("x", 1.0)), [Store(), DatabaseStore()])
        self.assertEqual(samples[catalogue.COMMANDS.name]["RETR",], 1)
        of_server = (
            *(catalogue.WORKER_UP, catalogue.DRAINING),
            *(catalogue.START_TIME, catalogue.BUILD_INFO),
            *(catalogue.MAILDROPS, catalogue.MESSAGES),
            *(catalogue.COLLECTION_DELAY, catalogue.STANDBYS),
        )
        self.assertEqual(
            set(samples), {each.name for each in catalogue.METRICS if each not in of_server}
        )

    def test_throttle(self):
        """Networks with failed logins are told, and the logins and connections that wait."""
        throttle = self.factory.throttle
        throttle.penalties.record_failure("192.0.2.1", None)
        self.patch(throttle.slots, "_queues", {"a": {1: 2, 3: 4}, "b": {5: 6}})
        clock = Clock()
        for _ in range(BURST + 2):
            throttle.starts.may_start(Arrival(clock), "192.0.2.1", lambda: None)
        samples = self.samples()
        self.assertEqual(samples[catalogue.THROTTLED_NETWORKS.name], {(): 1})
        self.assertEqual(samples[catalogue.WAITING_LOGINS.name], {(): 3})
        self.assertEqual(samples[catalogue.WAITING_CONNECTIONS.name], {(): 2})

    def test_parts(self):
        """Caches of one name are added up, and scans of all stores."""
        for interface in (ICaching, IScanCounts):
            verifyObject(interface, Store())
        samples = self.samples(None, [Store(), object(), Store()])
        self.assertEqual(
            samples[catalogue.CACHE_ENTRIES.name], {("maildrops",): 6, ("messages",): 140}
        )
        self.assertEqual(samples[catalogue.SCANS.name], {(): 10})
        self.assertEqual(samples[catalogue.COUNTED_MESSAGES.name], {(): 1800})

    def test_database(self):
        """What a store with a database counts is told."""
        samples = self.samples(None, [DatabaseStore()])
        self.assertEqual(samples[catalogue.LEASES.name], {(): 2})
        self.assertEqual(samples[catalogue.WAITING_STATEMENTS.name], {(): 1})
        self.assertEqual(samples[catalogue.COLLECTED.name], {(): 500})
        self.assertIn(catalogue.DATABASE_SECONDS.name, samples)
        for metric in (catalogue.LEASES, catalogue.COLLECTED, catalogue.DATABASE_SECONDS):
            self.assertNotIn(metric.name, self.samples(None, [Store()]))

    def test_pools(self):
        """The jobs of each pool of threads are told."""
        self.patch(process, "thread_jobs", lambda: {"popserv-hash": 7})
        self.assertEqual(self.samples()[catalogue.THREAD_JOBS.name], {("popserv-hash",): 7})

    def test_certificates(self):
        """Each certificate is told with its end; of two with one label, the first end."""
        long = "/" + "d" * 5000
        ends = [("/b.pem", 7.5), ("/a.pem", 8), (long + "a\n", 5), (long + "a\n", 4)]
        self.assertEqual(
            self.samples(SomeCertificates(*ends))[catalogue.CERTIFICATE_END.name],
            {("/b.pem",): 7.5, ("/a.pem",): 8, (one_line(long + "a\n")[-MAX_PATH:],): 4},
        )

    def test_many_certificates(self):
        """Of many certificates, those are told that end first."""
        ends = [(f"/etc/{at}.pem", float(at)) for at in range(300, 0, -1)]
        told = self.samples(SomeCertificates(*ends))[catalogue.CERTIFICATE_END.name]
        self.assertEqual(sorted(told.values()), list(range(1, MAX_CERTIFICATES + 1)))
