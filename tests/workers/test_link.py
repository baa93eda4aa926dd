"""The link between supervisor and worker, with real sockets."""

import socket

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.workers import link
from popserv.workers.link import Link
from tests.workers.harness import FakeReactor


class LinkTestCase(SynchronousTestCase):
    """A link, and a socket as its other end."""

    def setUp(self):
        """Connect them."""
        self.reactor = FakeReactor()
        self.lines = []
        self.disconnects = []
        self.link, self.other = self.connect()

    def connect(self, **options):
        """Return a new link and its other end."""
        own, other = socket.socketpair()
        self.addCleanup(own.close)
        self.addCleanup(other.close)
        other.settimeout(10)
        new = Link(
            self.reactor,
            own,
            self.lines.append,
            lambda: self.disconnects.append(True),
            **options,
        )
        return new, other


class ReceivingTests(LinkTestCase):
    """Lines that a link receives."""

    def test_interface(self):
        """A link provides the interface that a reactor requires."""
        verifyObject(IReadWriteDescriptor, self.link)
        self.assertEqual(self.link.logPrefix(), "link")
        self.assertGreater(self.link.fileno(), 2)

    def test_lines(self):
        """A line is passed on, without its line end, when it is complete."""
        self.other.sendall(b"one\ntw")
        self.reactor.read()
        self.assertEqual(self.lines, [b"one"])
        self.reactor.read()
        self.other.sendall(b"o\n\nthree\n")
        self.reactor.read()
        self.assertEqual(self.lines, [b"one", b"two", b"", b"three"])

    def test_closed(self):
        """When the other end has closed, an incomplete line is dropped."""
        self.other.sendall(b"one\ntwo")
        self.other.close()
        for _ in range(3):
            self.reactor.read()
        self.assertEqual((self.lines, self.disconnects), ([b"one"], [True]))
        self.assertEqual(self.reactor.readers, [])

    def test_closed_text(self):
        """If the lines are text, it is passed on as well."""
        _, other = self.connect(accepts_unterminated=True)
        other.sendall(b"one\ntwo")
        other.close()
        for _ in range(3):
            self.reactor.read()
        self.assertEqual((self.lines, self.disconnects), ([b"one", b"two"], [True]))

    def test_reset(self):
        """An other end that closes with unread octets is reported as closed, too."""
        self.link.send(b"unread")
        self.other.close()
        self.reactor.read()
        self.assertEqual(self.disconnects, [True])

    def test_long_line(self):
        """A line without an end is passed on in parts, and not stored without limit."""
        self.patch(link, "MAX_LINE", 10)
        self.other.sendall(b"x" * 10)
        self.reactor.read()
        self.assertEqual(self.lines, [])
        self.other.sendall(b"x" * 15)
        self.reactor.read()
        self.assertEqual(self.lines, [b"x" * 25])

    def test_read_and_close(self):
        """read_and_close passes on everything that was sent, and does not report the end."""
        for accepts_unterminated, last in ((False, []), (True, [b"last"])):
            self.lines.clear()
            new, other = self.connect(accepts_unterminated=accepts_unterminated)
            other.sendall(b"x" * 100_000 + b"\nlast")
            other.close()
            new.read_and_close()
            self.assertEqual((self.lines, self.disconnects), ([b"x" * 100_000, *last], []))
            new.read_and_close()

    def test_read_and_close_open(self):
        """read_and_close does not wait for the other end to close."""
        self.other.sendall(b"one\n")
        self.link.read_and_close()
        self.assertEqual(self.lines, [b"one"])
        self.assertEqual(self.other.recv(10), b"")

    @given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b""))), st.data())
    def test_model(self, lines, data):
        """Lines arrive unchanged, however the kernel divides the octets."""
        del self.lines[:]
        new, other = self.connect()
        octets = b"".join(line + b"\n" for line in lines)
        while octets:
            cut = data.draw(st.integers(1, len(octets)))
            other.sendall(octets[:cut])
            octets = octets[cut:]
            self.reactor.read()
        self.assertEqual(self.lines, lines)
        new.close()
        other.close()


class SendingTests(LinkTestCase):
    """Lines that a link sends."""

    def fill(self):
        """Send until the kernel accepts no more; return how many lines were sent."""
        sent = 0
        while not self.link.unsent_octets:
            self.link.send(b"%07d" % sent)
            sent += 1
        return sent

    def test_immediate(self):
        """A line is sent without the reactor if the kernel accepts it."""
        self.link.send(b"one")
        self.assertEqual(self.other.recv(100), b"one\n")
        self.assertEqual((self.link.unsent_octets, self.reactor.writers), (0, []))

    def test_unsent(self):
        """Lines that the kernel does not accept are counted, and sent later in order."""
        sent = self.fill()
        self.link.send(b"behind")
        unsent = self.link.unsent_octets
        self.assertGreaterEqual(unsent, 7)
        self.assertEqual(len(self.reactor.writers), 1)
        self.reactor.write()
        self.assertEqual(self.link.unsent_octets, unsent)
        received = b""
        while not received.endswith(b"behind\n"):
            received += self.other.recv(1 << 16)
            self.reactor.write()
        self.assertEqual(received, b"".join(b"%07d\n" % n for n in range(sent)) + b"behind\n")
        self.assertEqual((self.link.unsent_octets, self.reactor.writers), (0, []))

    def test_large_line(self):
        """A line that is larger than the kernel's buffer is sent in parts."""
        large = b"x" * 3_000_000
        self.link.send(large)
        self.assertTrue(0 < self.link.unsent_octets < len(large))
        received = 0
        while received <= len(large):
            received += len(self.other.recv(1 << 20))
            self.reactor.write()
        self.assertEqual(received, len(large) + 1)

    def test_disconnected(self):
        """When the other end has closed, lines are dropped."""
        self.fill()
        self.other.close()
        self.reactor.write()
        self.assertEqual((self.link.unsent_octets, self.reactor.writers), (0, []))
        self.link.send(b"more")
        self.reactor.read()
        self.link.send(b"still more")
        self.assertEqual((self.link.unsent_octets, self.disconnects), (0, [True]))

    def test_without_reactor(self):
        """After stop_using_reactor, lines are sent without the reactor."""
        sent = self.fill()
        self.other.settimeout(0)

        def read():
            self.received += self.other.recv(1 << 22)

        self.received = b""
        read()
        self.link.stop_using_reactor()
        self.assertEqual((self.reactor.readers, self.reactor.writers), ([], []))
        self.link.send(b"last line")
        read()
        expected = b"".join(b"%07d\n" % n for n in range(sent)) + b"last line\n"
        self.assertEqual(self.received, expected)

    def test_without_reactor_timeout(self):
        """Without the reactor, the link closes if the other end does not read in time."""
        self.patch(link, "FINAL_SEND_TIMEOUT", 0.01)
        self.fill()
        self.link.stop_using_reactor()
        self.link.send(b"more")
        self.assertEqual(self.link.unsent_octets, 0)

    def test_without_reactor_closed(self):
        """A closed link drops lines, with or without the reactor."""
        self.link.close()
        self.link.close()
        self.link.stop_using_reactor()
        self.link.send(b"more")
        self.assertEqual(self.link.unsent_octets, 0)
