"""What joins supervisor and worker, on real sockets."""

import socket

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.workers import link
from popserv.workers.link import Link
from tests.workers.harness import Reactor


class LinkCase(SynchronousTestCase):
    """Two ends: a link, and a socket."""

    def setUp(self):
        """Join them."""
        self.reactor = Reactor()
        self.heard = []
        self.lost = []
        self.link, self.other = self.join()

    def join(self):
        """Return a new link and its other end."""
        mine, other = socket.socketpair()
        self.addCleanup(mine.close)
        self.addCleanup(other.close)
        other.settimeout(10)
        return Link(self.reactor, mine, self.heard.append, lambda: self.lost.append(True)), other


class HearingTests(LinkCase):
    """Lines that come."""

    def test_interface(self):
        """It is what a reactor wants."""
        verifyObject(IReadWriteDescriptor, self.link)
        self.assertEqual(self.link.logPrefix(), "link")
        self.assertGreater(self.link.fileno(), 2)

    def test_lines(self):
        """Each line is heard, without its end, as soon as it is whole."""
        self.other.sendall(b"one\ntw")
        self.reactor.read()
        self.assertEqual(self.heard, [b"one"])
        self.reactor.read()
        self.other.sendall(b"o\n\nthree\n")
        self.reactor.read()
        self.assertEqual(self.heard, [b"one", b"two", b"", b"three"])

    def test_end(self):
        """When the other end is gone, what is left of a line is heard, and that it is gone."""
        self.other.sendall(b"one\ntwo")
        self.other.close()
        for _ in range(3):
            self.reactor.read()
        self.assertEqual((self.heard, self.lost), ([b"one", b"two"], [True]))
        self.assertEqual(self.reactor.readers, [])

    def test_reset(self):
        """So is one that has left without reading."""
        self.link.send(b"unread")
        self.other.close()
        self.reactor.read()
        self.assertEqual(self.lost, [True])

    def test_long(self):
        """A line without an end is heard in pieces: nothing is gathered for ever."""
        self.patch(link, "LONGEST", 10)
        self.other.sendall(b"x" * 25)
        self.reactor.read()
        self.assertEqual(self.heard, [b"x" * 25])

    def test_finish(self):
        """At the end all is heard that was sent before, and nothing is told to be lost."""
        self.other.sendall(b"x" * 100_000 + b"\nlast")
        self.other.close()
        self.link.finish()
        self.assertEqual((self.heard, self.lost), ([b"x" * 100_000, b"last"], []))
        self.link.finish()

    def test_finish_open(self):
        """The other end need not be gone."""
        self.other.sendall(b"one\n")
        self.link.finish()
        self.assertEqual(self.heard, [b"one"])
        self.assertEqual(self.other.recv(10), b"")


class SendingTests(LinkCase):
    """Lines that go."""

    def fill(self):
        """Send until some wait; return how many lines."""
        sent = 0
        while not self.link.waiting:
            self.link.send(b"%07d" % sent)
            sent += 1
        return sent

    def test_at_once(self):
        """A line goes at once, if there is room."""
        self.link.send(b"one")
        self.assertEqual(self.other.recv(100), b"one\n")
        self.assertEqual((self.link.waiting, self.reactor.writers), (0, []))

    def test_waiting(self):
        """What the other end does not read waits, and is counted; nothing is lost or mixed."""
        sent = self.fill()
        self.link.send(b"behind")
        waiting = self.link.waiting
        self.assertGreaterEqual(waiting, 7)
        self.assertEqual(len(self.reactor.writers), 1)
        self.reactor.write()
        self.assertEqual(self.link.waiting, waiting)
        got = b""
        while not got.endswith(b"behind\n"):
            got += self.other.recv(1 << 16)
            self.reactor.write()
        self.assertEqual(got, b"".join(b"%07d\n" % n for n in range(sent)) + b"behind\n")
        self.assertEqual((self.link.waiting, self.reactor.writers), (0, []))

    def test_large(self):
        """A line larger than the socket takes goes piece by piece."""
        large = b"x" * 3_000_000
        self.link.send(large)
        self.assertTrue(0 < self.link.waiting < len(large))
        got = 0
        while got <= len(large):
            got += len(self.other.recv(1 << 20))
            self.reactor.write()
        self.assertEqual(got, len(large) + 1)

    def test_gone(self):
        """To nobody nothing is sent, and nothing waits."""
        self.fill()
        self.other.close()
        self.reactor.write()
        self.assertEqual((self.link.waiting, self.reactor.writers), (0, []))
        self.link.send(b"more")
        self.reactor.read()
        self.link.send(b"still more")
        self.assertEqual((self.link.waiting, self.lost), (0, [True]))

    def test_outlive(self):
        """When the reactor has ended, lines still go, without it."""
        sent = self.fill()
        self.other.settimeout(0)

        def read():
            self.got += self.other.recv(1 << 22)

        self.got = b""
        read()
        self.link.outlive()
        self.assertEqual((self.reactor.readers, self.reactor.writers), ([], []))
        self.link.send(b"last words")
        read()
        self.assertEqual(self.got, b"".join(b"%07d\n" % n for n in range(sent)) + b"last words\n")

    def test_outlive_nobody(self):
        """To one who does not read they are tried once, for a short while."""
        self.patch(link, "LAST_WORDS", 0.01)
        self.fill()
        self.link.outlive()
        self.link.send(b"more")
        self.assertEqual(self.link.waiting, 0)

    def test_outlive_closed(self):
        """One that is closed stays so."""
        self.link.close()
        self.link.close()
        self.link.outlive()
        self.link.send(b"more")
        self.assertEqual(self.link.waiting, 0)

    @given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b""))), st.data())
    def test_model(self, lines, data):
        """Whatever is sent, and however it is cut, is heard line by line."""
        del self.heard[:]
        mine, other = self.join()
        octets = b"".join(line + b"\n" for line in lines)
        while octets:
            cut = data.draw(st.integers(1, len(octets)))
            other.sendall(octets[:cut])
            octets = octets[cut:]
            self.reactor.read()
        self.assertEqual(self.heard, lines)
        mine.close()
        other.close()
