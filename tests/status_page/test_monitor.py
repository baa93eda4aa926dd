"""The service that samples the metrics."""

from datetime import datetime, timezone

from twisted.application.service import IService
from twisted.internet.defer import fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.metrics.totals import Snapshot
from popserv.status_page.contents import MAX_CERTIFICATES, MAX_SESSIONS
from popserv.status_page.history import INTERVAL
from popserv.status_page.monitor import Monitor
from tests.status_page.harness import overview


class FakeServer:
    """Metrics and an overview that the test describes."""

    def __init__(self):
        self.connections = 0
        self.unanswered = 0
        self.samples_asked = 0
        self.asked = []
        self.failure = None

    def snapshot(self):
        """See ServerMetrics."""
        self.samples_asked += 1
        if self.failure is not None:
            return fail(self.failure)
        samples = {"popserv_open_connections": {(): self.connections}}
        return succeed(
            Snapshot(samples, missing=[], is_draining=False, taken_at=0, unanswered=self.unanswered)
        )

    def ask(self, *maxima):
        """See Overviews."""
        self.asked.append(maxima)
        return succeed(overview())


class MonitorTests(SynchronousTestCase):
    """Sampling, and the contents of the page."""

    def setUp(self):
        """Start to sample."""
        self.clock, self.server = Clock(), FakeServer()
        self.monitor = Monitor(self.server, self.server, "pop.example.org", self.clock)
        self.monitor.startService()
        self.addCleanup(self.monitor.stopService)

    def contents(self, refreshes=False):
        """Return the contents of the page."""
        return self.successResultOf(self.monitor.contents(refreshes))

    def connections(self):
        """Return the line of open connections."""
        return self.contents().plots[0].series[1].points

    def test_interface(self):
        """It is a service."""
        verifyObject(IService, self.monitor)

    def test_contents(self):
        """The page shows the server as it is, its name and the time."""
        before = datetime.now(timezone.utc)
        shown = self.contents(True)
        self.assertTrue(before <= shown.time <= datetime.now(timezone.utc))
        self.assertEqual(
            (shown.host, shown.overview, shown.refreshes), ("pop.example.org", overview(), True)
        )
        self.assertEqual(self.server.asked, [(MAX_SESSIONS, MAX_CERTIFICATES)])

    def test_samples(self):
        """The metrics are sampled at intervals, and not by readers of the page."""
        for connections in (3, 4):
            self.clock.advance(INTERVAL - 1)
            self.server.connections = connections
            self.clock.advance(1)
        self.clock.advance(1)
        self.assertEqual(self.connections(), [(2 * INTERVAL + 1, 0), (INTERVAL + 1, 3), (1, 4)])
        self.assertEqual(self.server.samples_asked, 3)

    def test_unanswered(self):
        """A sample without the answer of some process is a gap."""
        self.server.unanswered = 1
        self.clock.advance(INTERVAL)
        self.assertEqual(self.connections(), [(INTERVAL, 0), (0, None)])

    def test_failure(self):
        """A sample that fails is a gap, which is logged; the next one is taken."""
        self.server.failure = ValueError("no sample")
        self.clock.advance(INTERVAL)
        self.server.failure = None
        self.clock.advance(INTERVAL)
        self.assertEqual(self.connections(), [(2 * INTERVAL, 0), (INTERVAL, None), (0, 0)])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_stop(self):
        """A service that has stopped samples no more."""
        self.monitor.stopService()
        self.clock.advance(INTERVAL)
        self.assertEqual(self.server.samples_asked, 1)
        self.monitor.startService()
