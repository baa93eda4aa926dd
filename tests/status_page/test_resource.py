"""The resource that serves the page."""

from types import SimpleNamespace

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import IResource
from zope.interface.verify import verifyObject

from popserv.metrics.site import make_site
from popserv.status_page.page import STYLE_HASH
from popserv.status_page.resource import HEADERS, StatusPage
from popserv.workers.questions import Questions
from tests.metrics.test_channel import Transport
from tests.status_page.harness import contents


class ResourceTests(SynchronousTestCase):
    """Requests for the page, as they arrive from a client."""

    def setUp(self):
        """Create a resource."""
        self.asked = []
        self.answer = lambda: succeed(contents())
        self.resource = StatusPage(self.contents, "Pop.Example.org", maybeDeferred)
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)

    def contents(self, refreshes):
        """Return what the test says."""
        self.asked.append(refreshes)
        return self.answer()

    def request(self, path="/", host="localhost", method="GET"):
        """Send a request; return the channel."""
        site = make_site(None, self.resource)
        site.reactor = Clock()
        channel = site.buildProtocol(None)
        channel.makeConnection(Transport())
        self.addCleanup(channel.connectionLost, Failure(ConnectionDone()))
        fields = "" if host is None else f"Host: {host}\r\n"
        version = "1.0" if host is None else "1.1"
        channel.dataReceived(f"{method} {path} HTTP/{version}\r\n{fields}\r\n".encode())
        return channel

    def response(self, *arguments, **options):
        """Return the status, the header fields in lower case, and the body of a response."""
        octets = self.request(*arguments, **options).transport.value()
        head, _, body = octets.partition(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        named = dict(field.split(": ", 1) for field in fields)
        return int(status.split()[1]), {key.lower(): named[key] for key in named}, body

    def test_interface(self):
        """It is a resource."""
        verifyObject(IResource, self.resource)

    def test_page(self):
        """The page is served whole."""
        status, fields, body = self.response()
        self.assertEqual((status, int(fields["content-length"])), (200, len(body)))
        self.assertTrue(body.startswith(b"<!DOCTYPE html>") and body.endswith(b"</html>"), body)

    def test_fields(self):
        """Nothing is loaded or sent, nothing is kept, and no other page can have it in a frame."""
        _, fields, _ = self.response()
        for name, value in HEADERS.items():
            self.assertEqual(fields[name.decode()], value.decode())
        policy = dict(each.split(" ", 1) for each in fields["content-security-policy"].split("; "))
        self.assertEqual(
            policy,
            {
                "default-src": "'none'",
                "style-src": f"'sha256-{STYLE_HASH}'",
                "base-uri": "'none'",
                "form-action": "'none'",
                "frame-ancestors": "'none'",
            },
        )
        self.assertEqual(fields["cache-control"], "no-store")
        self.assertEqual(fields["x-content-type-options"], "nosniff")
        self.assertEqual(fields["referrer-policy"], "no-referrer")

    def test_head(self):
        """HEAD has the same fields, and no body."""
        status, fields, body = self.response(method="HEAD")
        self.assertEqual((status, body), (200, b""))
        self.assertEqual(fields["content-type"], "text/html; charset=utf-8")

    def test_refresh(self):
        """The query says whether the page is loaded again."""
        for path, refreshes in (("/", False), ("/?", False), ("/?refresh=on", True)):
            self.response(path)
            self.assertEqual(self.asked.pop(), refreshes, path)

    def test_query(self):
        """A query with another value asks for the same; another one has no effect."""
        for path, refreshes in (
            ("/?refresh=1", True),
            ("/?a=b&refresh=on", True),
            ("/?refreshes", False),
            ("/?%ff", False),
        ):
            self.assertEqual(self.response(path)[0], 200)
            self.assertEqual(self.asked.pop(), refreshes, path)

    def test_hosts(self):
        """Only requests for an address, localhost or the server's name are served."""
        for host, status in (
            ("localhost:9110", 200),
            ("LOCALHOST", 200),
            ("127.0.0.1:9110", 200),
            ("192.0.2.1", 200),
            ("[::1]:9110", 200),
            ("[2001:db8::1]", 200),
            ("pop.example.org", 200),
            ("POP.example.org:443", 200),
            (None, 200),
            ("evil.example", 421),
            ("evil.example:9110", 421),
            ("localhost.evil.example", 421),
            ("127.0.0.1.evil.example", 421),
            ("pop.example.org.evil.example", 421),
            ("localhost@evil.example", 421),
            ("[localhost]", 421),
            ("", 200),
        ):
            self.assertEqual(self.response(host=host)[0], status, host)

    def test_refused(self):
        """A refusal names the remedy, and asks for nothing."""
        _, fields, body = self.response(host="evil.example")
        self.assertEqual(fields["content-type"], "text/plain; charset=utf-8")
        self.assertIn(b"--hostname", body)
        self.assertEqual(self.asked, [])

    def test_failure(self):
        """A failure is logged, and nothing of it reaches the client."""
        self.answer = lambda: fail(ValueError("secret"))
        status, fields, body = self.response()
        self.assertEqual((status, fields["content-type"]), (500, "text/plain; charset=utf-8"))
        self.assertNotIn(b"secret", body)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_failed_page(self):
        """Neither does that of a page that cannot be made."""
        self.answer = lambda: succeed(None)
        self.assertEqual(self.response()[0], 500)
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)

    def test_gone(self):
        """If the client goes while the processes are asked, nothing is logged."""
        answer, rendered = Deferred(), []
        self.answer = lambda: answer
        self.resource = StatusPage(self.contents, "pop.example.org", rendered.append)
        channel = self.request()
        channel.connectionLost(Failure(ConnectionDone()))
        answer.callback(contents())
        self.assertEqual(channel.transport.value(), b"")
        self.assertEqual((rendered, list(self.log)), ([], []))

    def test_gone_while_rendered(self):
        """Neither is it if the client goes while the page is made."""
        page = Deferred()
        self.resource = StatusPage(self.contents, "pop.example.org", lambda *_: page)
        channel = self.request()
        channel.connectionLost(Failure(ConnectionDone()))
        page.callback(b"page")
        self.assertEqual(channel.transport.value(), b"")
        self.assertEqual(list(self.log), [])

    def test_gone_before_failure(self):
        """A failure is logged, whether the client is there or not."""
        answer = Deferred()
        self.answer = lambda: answer
        channel = self.request()
        channel.connectionLost(Failure(ConnectionDone()))
        answer.errback(ValueError("secret"))
        self.assertEqual(channel.transport.value(), b"")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_gone_with_workers(self):
        """If the client goes while workers are asked, the question ends in time as any other."""
        clock = Clock()
        questions, process = Questions(clock), SimpleNamespace(send=lambda line: None)
        self.answer = lambda: questions.ask([process], "topic", None, 2.0)
        channel = self.request()
        channel.connectionLost(Failure(ConnectionDone()))
        questions.receive(process, b"[1, null]")
        clock.advance(3)
        self.assertEqual(list(self.log), [])
