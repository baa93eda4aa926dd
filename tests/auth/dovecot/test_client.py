"""Tests of popserv.auth.dovecot.client."""

import errno
import os

from twisted.internet.defer import Deferred
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import TestCase

from popserv.auth.dovecot import client as client_module
from popserv.auth.dovecot.client import FIRST_DELAY, MAX_DELAY, MAX_WAIT, AuthClient
from popserv.auth.dovecot.connection import ConnectionFailed
from popserv.core.connection_details import ConnectionDetails
from popserv.errors import TryLater
from tests.auth.dovecot.harness import APOP_HANDSHAKE, DovecotCase

REFUSED = OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
DENIED = PermissionError(errno.EACCES, os.strerror(errno.EACCES))


class AuthClientTests(DovecotCase):
    """The connection of a process."""

    def ask(self):
        """Ask for the connection."""
        return Deferred.fromCoroutine(self.client.connection())

    def test_first_need(self):
        """The connection is opened when it is first needed, and stays."""
        self.assertEqual(self.attempts, 0)
        asked, other = self.ask(), self.ask()
        self.assertEqual(self.attempts, 1)
        side = self.accept()
        for each in (asked, other, self.ask()):
            self.assertIs(self.successResultOf(each), side.protocol)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_reactor(self):
        """The default is the reactor, as it is when the connection is opened."""
        self.patch(client_module, "UNIXClientEndpoint", lambda *args, **options: self)
        self.connect = lambda factory: Deferred()
        client = AuthClient("/nowhere")
        client.start()
        self.assertGreater(client.now(), 1_500_000_000)

    def test_restart(self):
        """After a restart of Dovecot the client connects again, and has its new mechanisms."""
        side = self.connect()
        self.assertIn(b"PLAIN", self.client.mechanisms)
        side.close()
        self.assertIn(b"PLAIN", self.client.mechanisms)
        self.assertIn("connection to Dovecot lost: Dovecot has closed", self.log_lines()[-1])
        asked = self.ask()
        self.reactor.advance(FIRST_DELAY)
        self.assertEqual(self.attempts, 2)
        side = self.accept(APOP_HANDSHAKE)
        self.assertIs(self.successResultOf(asked), side.protocol)
        self.assertEqual(list(self.client.mechanisms), [b"APOP"])

    def test_back_off(self):
        """The delay between attempts doubles, up to a maximum, and begins anew later."""
        self.client.start()
        delays = []
        for _ in range(8):
            self.refuse(REFUSED)
            (call,) = self.reactor.getDelayedCalls()
            delays.append(call.getTime() - self.reactor.seconds())
            self.reactor.advance(delays[-1])
        for delay, expected in zip(delays, (0.1, 0.2, 0.4, 0.8, 1.6, 2, 2, 2), strict=True):
            self.assertAlmostEqual(delay, expected)
        self.assertEqual(delays[-1], MAX_DELAY)
        side = self.accept()
        self.reactor.advance(MAX_DELAY)
        side.close()
        (call,) = self.reactor.getDelayedCalls()
        self.assertAlmostEqual(call.getTime() - self.reactor.seconds(), FIRST_DELAY)

    def test_unstable(self):
        """If Dovecot closes each connection at once, attempts become rare; it is logged once."""
        self.client.start()
        for _ in range(10):
            self.accept().close()
            self.reactor.advance(MAX_DELAY)
        self.accept().close()
        (call,) = self.reactor.getDelayedCalls()
        self.assertEqual(call.getTime() - self.reactor.seconds(), MAX_DELAY)
        lines = [line for line in self.log_lines() if "connection to Dovecot lost" in line]
        self.assertEqual(len(lines), 1)

    def test_logged_once(self):
        """An outage is logged once for each reason, and its end, too."""
        self.client.start()
        # Of a UNIX socket, Twisted tells the number alone.
        for error in (REFUSED, REFUSED.errno, DENIED, DENIED.errno, None):
            self.refuse(error)
            self.reactor.advance(MAX_DELAY)
        first, denied, other = (line for line in self.log_lines() if "cannot connect" in line)
        self.assertIn("Connection refused; until then", first)
        self.assertRegex(denied, r"Permission denied for user \S+;")
        self.assertIn("An error occurred while connecting", other)
        self.accept().close()
        self.reactor.advance(MAX_DELAY)
        self.refuse(REFUSED)
        self.reactor.advance(MAX_DELAY)
        self.accept().close()
        self.reactor.advance(MAX_DELAY)
        self.accept()
        told = "cannot connect", "lost: ", "again"
        outages = [each for line in self.log_lines() for each in told if each in line]
        self.assertEqual(outages[3:], ["again", "lost: ", "cannot connect", "again"])

    def test_wait(self):
        """A login waits for the connection for some seconds, and then fails."""
        asked = self.ask()
        self.reactor.advance(MAX_WAIT - 1)
        later = self.ask()
        self.reactor.advance(1)
        self.assertIn("/run/dovecot/auth-client", str(self.fails_with(asked, ConnectionFailed)))
        self.assertNoResult(later)
        self.accept()
        self.successResultOf(later)

    def test_too_many(self):
        """1,000 logins can wait, whatever they wait for."""
        waiting = [self.ask() for _ in range(1000)]
        self.fails_with(self.ask(), TryLater)
        side, begun = self.accept(), []
        connection, *_ = map(self.successResultOf, waiting)
        for _ in range(1000):
            self.successResultOf(self.ask())
            request = connection.begin(b"PLAIN", ConnectionDetails(), b"")
            begun.append(Deferred.fromCoroutine(request))
        self.fails_with(self.ask(), TryLater)
        side.close()
        for each in begun:
            self.fails_with(each, ConnectionFailed)


class ReactorTests(TestCase):
    """A connection of the reactor."""

    async def test_try_once(self):
        """The reactor is the default, and an attempt of a diagnosis leaves nothing in the log."""
        log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        with self.assertRaisesRegex(ConnectionFailed, "^No such file or directory$"):
            await AuthClient("/nowhere/auth-client").try_once()
        self.assertEqual([*map(formatEvent, log)], [])
