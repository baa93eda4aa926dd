"""The log events of a worker, on their way to the supervisor."""

import socket
from threading import Thread

from twisted.internet.testing import EventLoggingObserver
from twisted.logger import ILogObserver, Logger, LogLevel, eventFromJSON, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.workers import log_forwarding
from popserv.workers.link import Link
from popserv.workers.log_forwarding import BATCH_DELAY, MAX_EVENT, LogForwarder, event_as_json
from tests.workers.harness import FakeReactor


class LogForwarderTests(SynchronousTestCase):
    """LogForwarder, as the observer of a logger."""

    def setUp(self):
        """Create a forwarder and a logger."""
        self.reactor = FakeReactor()
        own, self.other = socket.socketpair()
        self.other.setblocking(False)
        self.addCleanup(self.other.close)
        self.link = Link(self.reactor, own, lambda line: None, lambda: None)
        self.addCleanup(self.link.close)
        self.forwarder = LogForwarder(self.reactor, self.link)
        self.logger = Logger("popserv.somewhere", observer=self.forwarder)

    def events(self):
        """Return the events that the supervisor has received."""
        try:
            lines = self.other.recv(1 << 22).splitlines()
        except BlockingIOError:
            return []
        self.assertEqual({line[:4] for line in lines}, {b"log "})
        return [eventFromJSON(line[4:].decode()) for line in lines]

    def formats(self):
        """Return the formats of the events that the supervisor has received."""
        return [event["log_format"] for event in self.events()]

    def test_batches(self):
        """Events are sent together after a delay; a warning is sent without one."""
        verifyObject(ILogObserver, self.forwarder)
        self.logger.info("one {what!r}", what=b"thing")
        self.logger.info("two")
        self.reactor.advance(0)
        self.assertEqual(self.events(), [])
        self.reactor.advance(BATCH_DELAY)
        self.assertEqual([formatEvent(each) for each in self.events()], ["one b'thing'", "two"])
        self.logger.info("three")
        self.logger.warn("four")
        self.reactor.advance(0)
        self.assertEqual(self.formats(), ["three", "four"])
        self.reactor.advance(1)
        self.assertEqual(self.events(), [])

    def test_thread(self):
        """An event that is logged in a thread is sent in the reactor's thread."""
        thread = Thread(target=self.logger.warn, args=("from a thread",))
        thread.start()
        thread.join()
        self.assertEqual(self.events(), [])
        self.reactor.advance(0)
        self.assertEqual(self.formats(), ["from a thread"])

    def test_reentrant(self):
        """An event that is logged while another one is sent is sent after it."""
        send = socket.socket.send
        interrupt = [True]

        def interrupted(end, data):
            if interrupt:
                interrupt.pop()
                self.logger.warn("two")
                self.forwarder.flush()
            return send(end, data)

        self.patch(socket.socket, "send", interrupted)
        self.logger.warn("one")
        self.reactor.advance(0)
        self.assertEqual(self.formats(), ["one", "two"])

    def test_unread(self):
        """Events that the supervisor does not read are dropped, and their number is logged."""
        self.patch(log_forwarding, "MAX_UNSENT", 1000)
        for _ in range(2000):
            self.logger.warn("{text}", text="x" * 1000)
            self.reactor.advance(0)
        self.assertLess(self.link.unsent_octets, 5000)
        while self.link.unsent_octets:
            self.other.recv(1 << 20)
            self.reactor.write()
        self.other.recv(1 << 22)
        log = EventLoggingObserver()
        self.patch(log_forwarding, "_log", Logger("popserv.workers", observer=log))
        for text in ("again", "and again"):
            self.logger.warn(text)
            self.reactor.advance(0)
        self.assertEqual(self.formats(), ["again", "and again"])
        (event,) = log
        self.assertRegex(formatEvent(event), r"\d+ earlier log events were dropped")

    def test_stop_batching(self):
        """After stop_batching, each event is sent without delay and without the reactor."""
        self.logger.info("before")
        self.assertEqual(self.events(), [])
        self.forwarder.stop_batching()
        self.logger.info("after")
        self.assertEqual(self.formats(), ["before", "after"])

    def test_failure(self):
        """A failure is sent as text, with its traceback and the message of the exception."""
        try:
            raise ZeroDivisionError("the secret of arithmetic")
        except ZeroDivisionError:
            self.logger.failure("it {what}", what="failed")
        self.reactor.advance(0)
        (event,) = self.events()
        self.assertEqual(event["log_level"], LogLevel.critical)
        text = formatEvent(event)
        self.assertTrue(text.startswith("it failed\nTraceback"), text)
        self.assertIn("ZeroDivisionError: the secret of arithmetic", text)


class JSONTests(SynchronousTestCase):
    """event_as_json."""

    def test_long(self):
        """A long event is cut; its level and its time are kept."""
        event = {
            "log_format": "{text}",
            "text": "ü" * 1_000_000,
            "log_level": LogLevel.warn,
            "log_time": 1.5,
        }
        line = event_as_json(event)
        self.assertLess(len(line), MAX_EVENT)
        read = eventFromJSON(line.decode())
        self.assertEqual((read["log_level"], read["log_time"]), (LogLevel.warn, 1.5))
        self.assertEqual(formatEvent(read)[:3], "üüü")

    def test_not_json(self):
        """An event that JSON cannot represent is sent as text."""
        loop = []
        loop.append(loop)
        event = {"log_format": "{loop}", "loop": loop, "log_level": LogLevel.info}
        self.assertEqual(formatEvent(eventFromJSON(event_as_json(event).decode())), "[[...]]")
