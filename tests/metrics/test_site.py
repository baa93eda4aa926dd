"""The resources of the HTTP server."""

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import IResource
from zope.interface.verify import verifyObject

from popserv.metrics import site
from popserv.metrics.site import Health, Metrics, Page, make_site, send
from popserv.metrics.totals import Snapshot
from tests.metrics.test_channel import Transport


class SomeMetrics:
    """Stands for ServerMetrics, with the snapshot of a test."""

    def __init__(self):
        self.waiting = None
        self.change()

    def change(self, missing=(), is_draining=False):
        """Have another snapshot."""
        samples = {"popserv_connections_total": {(): 3}}
        self.taken = Snapshot(samples, missing, is_draining, 0.0)

    def snapshot(self):
        """See ServerMetrics."""
        return self.waiting or succeed(self.taken)


class Index(Page):
    """Stands for the page for people."""

    def show(self, request):
        """See Page."""
        return send(request, "index\n")


class SiteTests(SynchronousTestCase):
    """make_site."""

    def setUp(self):
        """Create the site."""
        self.metrics = SomeMetrics()
        self.site = make_site(self.metrics, Index())

    def open(self, path, *header, method=b"GET"):
        """Return the server's end of a connection that has requested a path."""
        self.site.reactor = Clock()
        channel = self.site.buildProtocol(None)
        channel.makeConnection(Transport())
        lines = [b"%b %b HTTP/1.1" % (method, path), b"Host: a", *header, b"", b""]
        channel.dataReceived(b"\r\n".join(lines))
        return channel

    def get(self, path, *header, method=b"GET"):
        """Return status, Content-Type and body of a response."""
        channel = self.open(path, *header, method=method)
        head, _, body = channel.transport.value().partition(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        values = dict(field.split(": ", 1) for field in fields)
        return int(status.split(" ")[1]), values.get("Content-Type"), body.decode()

    def test_interfaces(self):
        """The resources are resources."""
        for each in (Health(self.metrics), Metrics(self.metrics), site.Root()):
            verifyObject(IResource, each)

    def test_metrics(self):
        """/metrics has the metrics in the format that the client accepts."""
        status, content_type, body = self.get(b"/metrics")
        self.assertEqual((status, content_type), (200, "text/plain; version=0.0.4; charset=utf-8"))
        self.assertIn("\npopserv_connections_total 3.0\n", body)
        accept = b"Accept: application/openmetrics-text"
        status, content_type, body = self.get(b"/metrics?a=b", accept)
        self.assertEqual(
            (status, content_type.split(";")[0]), (200, "application/openmetrics-text")
        )
        self.assertTrue(body.endswith("# EOF\n"))

    def test_encoded_once(self):
        """A snapshot is encoded once for many requests, and again for another format."""
        encoded = []
        encode = site.encode
        self.patch(site, "encode", lambda *args: encoded.append(args[1]) or encode(*args))
        first = self.get(b"/metrics")
        self.assertEqual([self.get(b"/metrics") for _ in range(9)], [first] * 9)
        self.assertEqual(encoded, [""])
        self.assertNotEqual(self.get(b"/metrics", b"Accept: application/openmetrics-text"), first)
        self.assertEqual(self.get(b"/metrics"), first)
        self.metrics.change()
        self.assertEqual(self.get(b"/metrics"), first)
        self.assertEqual(encoded, ["", "application/openmetrics-text", "", ""])

    def test_health(self):
        """/healthz tells monitors whether all processes serve."""
        text = "text/plain; charset=utf-8"
        for change, status, body in [
            ({}, 200, "ok\n"),
            ({"missing": [2]}, 503, "not serving: worker 2\n"),
            ({"missing": [1, 3]}, 503, "not serving: worker 1, 3\n"),
            ({"missing": [1], "is_draining": True}, 503, "draining\n"),
        ]:
            self.metrics.change(**change)
            self.assertEqual(self.get(b"/healthz"), (status, text, body))

    def test_store_health(self):
        """/healthz tells whether a shared store can be reached, unless the server drains."""
        is_reachable = True
        self.site = make_site(self.metrics, Index(), lambda: is_reachable)
        self.assertEqual(self.get(b"/healthz")[0], 200)
        is_reachable = False
        self.assertEqual(self.get(b"/healthz"), (503, site.TEXT, "the store cannot be reached\n"))
        self.metrics.change(is_draining=True)
        self.assertEqual(self.get(b"/healthz"), (503, site.TEXT, "draining\n"))

    def test_index(self):
        """/ has the page that is given."""
        self.assertEqual(self.get(b"/"), (200, site.TEXT, "index\n"))

    def test_not_found(self):
        """There is nothing else."""
        for path in (b"/x", b"/metrics/x", b"/../etc/passwd", b"//", b"/%00"):
            self.assertEqual(self.get(path), (404, site.TEXT, "not found\n"), path)

    def test_methods(self):
        """HEAD has the header of GET; other methods are not allowed, whatever their body."""
        for path in (b"/", b"/metrics", b"/healthz"):
            status, content_type, body = self.get(path)
            self.assertEqual(self.get(path, method=b"HEAD"), (status, content_type, ""))
            for method in (b"POST", b"DELETE", b"X"):
                status, _, body = self.get(path, b"Content-Length: 0", method=method)
                self.assertEqual((status, body), (405, "only GET and HEAD are allowed\n"))

    def test_later(self):
        """A client is answered when the processes have answered."""
        self.metrics.waiting = Deferred()
        channel = self.open(b"/healthz")
        self.assertEqual(channel.transport.value(), b"")
        self.metrics.waiting.callback(self.metrics.taken)
        self.assertIn(b"200 OK", channel.transport.value())

    def test_gone(self):
        """A client that is gone by then does no harm."""
        from twisted.internet.error import ConnectionDone
        from twisted.python.failure import Failure

        self.metrics.waiting = Deferred()
        channel = self.open(b"/metrics")
        channel.connectionLost(Failure(ConnectionDone()))
        self.metrics.waiting.callback(self.metrics.taken)
        self.assertEqual(channel.transport.value(), b"")

    def test_fault(self):
        """A fault is logged, and nothing of it reaches the client."""
        self.metrics.waiting = Deferred()
        channel = self.open(b"/metrics")
        self.metrics.waiting.errback(ZeroDivisionError("secret"))
        self.assertIn(b" 500 ", channel.transport.value().splitlines()[0])
        self.assertNotIn(b"secret", channel.transport.value())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
