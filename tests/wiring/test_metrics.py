"""The parts of --metrics in processes of any role."""

import os
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import patch

from twisted.application import strports
from twisted.application.service import IService, Service
from twisted.internet.defer import succeed
from twisted.internet.error import CannotListenError
from zope.interface import implementer
from zope.interface.verify import verifyObject

from popserv import tap
from popserv.interfaces import IMeasuredStore
from popserv.listening.listeners import CannotStart
from popserv.listening.reactor import AddressFamilyReactor
from popserv.metrics import totals
from popserv.metrics.channel import BoundedSite
from popserv.metrics.lmtp import MeasuredLMTPServer
from popserv.metrics.process import TOPIC
from popserv.metrics.protocol import MeasuredServer
from popserv.runtime.bus import Answers
from popserv.wiring import endpoints
from popserv.workers.role import WorkerRole
from tests.options.harness import OptionsCase

METRICS = ("--metrics=tcp:9110:interface=127.0.0.1", "-l", "tcp:0")


class MetricsTests(OptionsCase):
    """What tap makes of --metrics."""

    def setUp(self):
        """Leave endpoints as they are given."""
        super().setUp()
        self.patch(endpoints, "with_backlog", str)

    def make(self, *arguments, role=None):
        """Return the service, and the endpoints and factories on which it would listen."""
        opened = {}

        def listen(endpoint, factory, reactor):
            opened[endpoint] = factory
            self.reactors[endpoint] = reactor
            return Service()

        self.reactors = {}
        with patch.object(strports, "service", listen):
            service = tap.makeService(self.parse(*METRICS, *arguments), role)
        return service, opened

    def snapshot(self, site):
        """Return a snapshot of the metrics that a site serves."""
        return self.successResultOf(site.resource.children[b"metrics"]._metrics.snapshot())

    def test_database(self):
        """The main process asks the database of a store what only that knows."""

        @implementer(IMeasuredStore)
        class Store:
            def measure(self, observe):
                observe("done", 0.1)

            def counts(self):
                return {"waiting": 0, "leases": 4, "collected": 0}

            async def survey(self):
                return {"maildrops": 7}

        options = self.parse(*METRICS)
        options.store = Store()
        opened = []
        with patch.object(strports, "service") as make_service:
            make_service.side_effect = lambda _, factory, **__: opened.append(factory) or Service()
            service = tap.makeService(options)
        service.startService()
        samples = self.snapshot(opened[-1]).samples
        self.assertEqual(samples["popserv_database_maildrops"], {(): 7})
        self.assertEqual(samples["popserv_leases"], {(): 4})
        self.assertEqual(samples["popserv_database_statements_total"]["done",], 1)
        self.successResultOf(service.stopService())

    def test_lmtp(self):
        """Deliveries are counted, and so are the connections that are open."""
        _, opened = self.make("--lmtp=tcp:24:interface=127.0.0.1")
        *_, lmtp, site = opened.values()
        self.assertTrue(issubclass(lmtp.protocol, MeasuredLMTPServer))
        lmtp.connections.add(object())
        samples = self.snapshot(site).samples
        self.assertEqual(samples["popserv_open_lmtp_connections"], {(): 1})

    def test_one_process(self):
        """A single process counts its clients, and serves its metrics."""
        service, opened = self.make("--preauth=unix:x")
        verifyObject(IService, service)
        self.assertEqual(list(opened), ["tcp:0", "unix:x", "tcp:9110:interface=127.0.0.1"])
        for endpoint in ("tcp:0", "unix:x"):
            self.assertIsInstance(opened[endpoint].buildProtocol(None), MeasuredServer)
        self.assertIs(opened["unix:x"].connections, opened["tcp:0"].connections)
        self.assertIsInstance(opened["tcp:9110:interface=127.0.0.1"], BoundedSite)
        # It opens a UNIX socket again that a server in a container has left.
        for endpoint in opened:
            self.assertIsInstance(self.reactors[endpoint], AddressFamilyReactor)
        snapshot = self.snapshot(opened["tcp:9110:interface=127.0.0.1"])
        self.assertEqual((snapshot.missing, snapshot.is_draining), ([], False))
        self.assertIn(("maildrops",), snapshot.samples["popserv_cache_entries"])
        service.startService()
        self.successResultOf(service.stopService())

    def test_draining(self):
        """A server that drains says so."""
        self.patch(totals, "MAX_AGE", 0)
        service, opened = self.make("--drain=60")
        service.startService()
        opened["tcp:0"].connections.add("client", None)
        stopped = service.stopService()
        snapshot = self.snapshot(opened["tcp:9110:interface=127.0.0.1"])
        self.assertEqual((snapshot.missing, snapshot.is_draining), ([1], True))
        opened["tcp:0"].connections.remove("client")
        return stopped

    def test_worker(self):
        """A worker answers, and serves nothing."""
        role = WorkerRole(2, 3)
        _, opened = self.make("--workers=3", role=role)
        self.assertEqual(list(opened), ["tcp:0"])
        (answer,) = self.successResultOf(role.bus.ask_here(TOPIC, None)).given
        self.assertEqual((answer["worker"], answer["is_serving"]), (2, True))

    def test_supervisor(self):
        """A supervisor asks its workers, and knows which processes there are."""
        service, opened = self.make("--workers=2")
        supervisor = service._listeners
        asked = []

        def ask(topic, question):
            asked.append(topic)
            answer = {"worker": 2, "pid": 7, "started": 1.0, "is_serving": True}
            samples = [["popserv_connections_total", [], 3]]
            return succeed(Answers([{**answer, "samples": samples}], 1))

        site = opened["tcp:9110:interface=127.0.0.1"]
        metrics = site.resource.children[b"metrics"]._metrics
        self.assertEqual(metrics._ask, supervisor.ask)
        self.patch(metrics, "_ask", ask)
        snapshot = self.snapshot(site)
        self.assertEqual((asked, snapshot.missing), ([TOPIC], [1]))
        self.assertEqual(metrics._counted, {})
        self.assertEqual(snapshot.samples["popserv_connections_total"], {(): 3})
        self.patch(supervisor, "overview", lambda: [{"pid": 7}, {"pid": 8}])
        self.assertEqual(metrics._pids(), {7, 8})

    def test_own_process(self):
        """A single process knows its own ID."""
        _, opened = self.make()
        metrics = opened["tcp:9110:interface=127.0.0.1"].resource.children[b"metrics"]._metrics
        self.assertEqual(metrics._pids(), {os.getpid()})

    def test_page(self):
        """The page knows who is on, and the name of the server, without a control socket."""
        _, opened = self.make("--hostname=pop.example.org")
        opened["tcp:0"].buildProtocol(None)
        page = opened["tcp:9110:interface=127.0.0.1"].resource.children[b""]
        shown = self.successResultOf(page._contents(False))
        self.assertEqual((shown.host, shown.overview.missing), ("pop.example.org", 0))
        self.assertEqual(shown.overview.status["sessions"], 0)

    def test_port_in_use(self):
        """A port that cannot be opened is a clear error, with the option."""

        def listen(endpoint, *_, **__):
            return Failing() if endpoint == "tcp:9110:interface=127.0.0.1" else Service()

        with patch.object(strports, "service", listen):
            service = tap.makeService(self.parse(*METRICS))
        error = self.assertRaises(CannotStart, service.privilegedStartService)
        self.assertRegex(str(error), "Choose another port with --metrics$")

    def test_nothing_loaded(self):
        """A server without --metrics loads nothing of them, and counts nothing."""
        code = (
            "import sys, popserv.tap\n"
            "print(*(n for n in sys.modules if 'metrics' in n or 'prometheus' in n))"
        )
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        self.assertEqual(loaded.stdout.split(), [])


class Failing(Service):
    """A service whose port is in use."""

    def privilegedStartService(self):
        """See IService."""
        raise CannotListenError("any", 9110, SimpleNamespace(errno=98, args=(98,)))
