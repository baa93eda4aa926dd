"""HTTP clients that are right and wrong."""

import tempfile

from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.task import Clock
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import NOT_DONE_YET
from zope.interface.verify import verifyObject

from popserv.metrics.channel import BoundedChannel, BoundedSite
from popserv.metrics.site import Page, Root, send
from popserv.testing.client import MemoryTransport

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Waiting(Page):
    """A page that may have to wait."""

    waits = False

    def show(self, request):
        """Send the page now, or never."""
        if not self.waits:
            return send(request, b"page")
        request.notifyFinish().addErrback(lambda _: None)
        return NOT_DONE_YET


class Transport(MemoryTransport):
    """A transport that records its producer."""

    def registerProducer(self, producer, streaming):
        """See IConsumer."""
        self.producer = producer


class ChannelCase(SynchronousTestCase):
    """A site in memory."""

    def setUp(self):
        """Create the site."""
        self.clock = Clock()
        self.page = Waiting()
        root = Root()
        root.putChild(b"", self.page)
        self.site = BoundedSite(root, self.clock)
        self.site.startFactory()
        self.addCleanup(self.site.stopFactory)
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)

    def open(self, *data):
        """Return the server's end of a connection that has received these octets."""
        peer = IPv4Address("TCP", "192.0.2.1", 4321)
        channel = self.site.buildProtocol(peer)
        channel.makeConnection(Transport(peerAddress=peer))
        for each in data:
            channel.dataReceived(each)
        return channel

    def rejections(self):
        """Return the reasons in the log for which clients were disconnected."""
        before, after = "192.0.2.1:4321: metrics client disconnected: ", "; more of them"
        lines = [formatEvent(event) for event in self.log]
        self.assertTrue(all(each.startswith(before) for each in lines), lines)
        return [each.removeprefix(before).partition(after)[0] for each in lines]

    def lose(self, channel):
        """Lose a connection."""
        from twisted.internet.error import ConnectionDone
        from twisted.python.failure import Failure

        channel.connectionLost(Failure(ConnectionDone()))


class RequestTests(ChannelCase):
    """Clients that keep to the rules."""

    def test_interfaces(self):
        """The site is a factory."""
        verifyObject(IProtocolFactory, self.site)
        self.assertIsInstance(self.site.buildProtocol(None), BoundedChannel)

    def test_reactor(self):
        """By default it uses Twisted's reactor."""
        from twisted.internet import reactor

        self.assertIs(BoundedSite(self.page).reactor, reactor)

    def test_request(self):
        """A request is answered, the connection closed, and nothing logged."""
        for version in (b"1.0", b"1.1"):
            channel = self.open(GET.replace(b"1.1", version))
            head, _, body = channel.transport.value().partition(b"\r\n\r\n")
            self.assertRegex(head, rb"^HTTP/1\.[01] 200 OK\r\n")
            self.assertIn(b"Connection: close", head)
            self.assertEqual(body, b"page")
            self.assertTrue(channel.transport.disconnecting)
            self.lose(channel)
        self.assertEqual(self.rejections(), [])
        self.assertEqual(
            [call.func.__name__ for call in self.clock.getDelayedCalls()], ["_updateLogDateTime"]
        )

    def test_pieces(self):
        """A request may arrive in any pieces."""
        channel = self.open(*(GET[at : at + 1] for at in range(len(GET))))
        self.assertTrue(channel.transport.value().endswith(b"page"))

    def test_one_request(self):
        """A second request on a connection is not answered."""
        channel = self.open(GET + GET)
        channel.dataReceived(GET)
        self.assertEqual(channel.transport.value().count(b"200 OK"), 1)

    def test_lost(self):
        """A client that does not wait for the response does no harm."""
        self.page.waits = True
        channel = self.open(GET)
        self.lose(channel)
        self.assertEqual(len(self.site._connections), 0)
        self.clock.advance(100)
        self.assertEqual(self.rejections(), [])


class WrongClientTests(ChannelCase):
    """Clients that stall, lie, or send megabytes."""

    def test_garbage(self):
        """What is not HTTP is refused."""
        for data in (
            b"\r\n\r\n\r\n",
            b"USER ann\r\n",
            b"\x16\x03\x01\x02\r\n",
            b"GET / HTTP/1.1\r\nx\r\n\r\n",
        ):
            channel = self.open(data)
            self.assertTrue(channel.transport.disconnecting, data)
            self.assertTrue(channel.transport.value().startswith(b"HTTP/1.1 400"))
            self.lose(channel)
            self.clock.advance(BoundedSite.LOG_INTERVAL)
        self.assertEqual(self.rejections(), ["it does not speak HTTP"] * 4)

    def test_megabytes(self):
        """A request that does not end is refused before it takes memory or a file."""
        for start in (
            b"",
            b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 400,
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\n",
        ):
            channel = self.open(start)
            for _ in range(20):
                if not channel.transport.aborted:
                    channel.dataReceived(b"x" * 1000)
            self.assertTrue(channel.transport.aborted)
            self.assertEqual(self.rejections()[-1:], ["it has sent more than 16384 octets"])
            self.lose(channel)
            self.clock.advance(BoundedSite.LOG_INTERVAL)

    def test_large(self):
        """A request that is too large is not answered, even if all of it has come."""
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n"
        channel = self.open(head, b"x" * 20_000)
        self.assertTrue(channel.transport.aborted)
        self.assertEqual(channel.transport.value(), b"")

    def test_unreadable(self):
        """A length that Python does not read, or a body that cannot be stored, is no error."""
        self.patch(tempfile, "TemporaryFile", self.no_room)
        for field in (
            b"Content-Length: " + b"9" * 5000,
            b"Content-Length: 200000",
            b"Transfer-Encoding: chunked",
        ):
            channel = self.open(b"POST / HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n\r\n")
            self.assertTrue(channel.transport.aborted, field)
            self.lose(channel)
            self.clock.advance(BoundedSite.LOG_INTERVAL)
        self.assertEqual(self.rejections(), ["it has sent a request that cannot be read"] * 3)

    def no_room(self):
        """Stand for tempfile.TemporaryFile on a full disk, or in a chroot jail."""
        raise FileNotFoundError

    def test_silent(self):
        """A client that sends no request, or stops within one, is disconnected after a time."""
        for data in (b"", GET[:-1]):
            channel = self.open(data)
            self.clock.advance(BoundedChannel.LIFETIME - 1)
            self.assertFalse(channel.transport.aborted)
            self.clock.advance(1)
            self.assertTrue(channel.transport.aborted)
            self.assertEqual(self.rejections()[-1:], ["it has not finished within 30 seconds"])
            self.lose(channel)
            self.clock.advance(BoundedSite.LOG_INTERVAL)

    def test_not_reading(self):
        """So is one that does not read the response, and one that sends an octet a second."""
        channel = self.open(GET)
        channel.pauseProducing()
        dripping = self.open()
        for at in range(int(BoundedChannel.LIFETIME)):
            dripping.dataReceived(GET[at % 3 : at % 3 + 1])
            self.clock.advance(1)
        self.assertTrue(channel.transport.aborted)
        self.assertTrue(dripping.transport.aborted)

    def test_many(self):
        """Of too many connections, the oldest is closed."""
        channels = [self.open() for _ in range(BoundedSite.MAX_CONNECTIONS + 3)]
        self.assertEqual(
            [each.transport.aborted for each in channels],
            [True] * 3 + [False] * BoundedSite.MAX_CONNECTIONS,
        )
        self.assertEqual(self.rejections(), ["there are more than 20 connections"])
        for each in channels:
            self.lose(each)
        self.assertEqual(len(self.site._connections), 0)

    def test_logged_once(self):
        """Of many bad clients, one in a minute is logged."""
        for _ in range(3):
            for _ in range(100):
                self.lose(self.open(b"x\r\n"))
            self.clock.advance(BoundedSite.LOG_INTERVAL)
        self.assertEqual(len(self.rejections()), 3)
