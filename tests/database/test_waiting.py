"""Tests of popserv.database.waiting: a socket, and a reactor that does what a test says."""

import os
import socket
from unittest import mock

from psycopg.waiting import Ready, Wait
from twisted.internet.defer import CancelledError
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReadDescriptor, IWriteDescriptor
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.database.waiting import WatchedSocket


class WaitingTests(SynchronousTestCase):
    """WatchedSocket."""

    def setUp(self):
        """Watch one end of a connection."""
        self.reactor = MemoryReactorClock()
        self.ours, self.theirs = socket.socketpair()
        self.addCleanup(self.ours.close)
        self.addCleanup(self.theirs.close)
        self.idle = mock.Mock()
        self.watched = self.watch()

    def watch(self):
        """Return a socket that is watched."""
        watched = WatchedSocket(self.reactor, self.ours.fileno(), self.idle)
        self.addCleanup(watched.close)
        return watched

    def watching(self, watched):
        """Return whether the reactor waits to read, and to write."""
        return watched in self.reactor.getReaders(), watched in self.reactor.getWriters()

    def test_wanted(self):
        """The reactor waits for what is wanted, goes on reading, and writes once."""
        for wanted, watching in (
            (Wait.R, (True, False)),
            (Wait.W, (False, True)),
            (Wait.RW, (True, True)),
        ):
            watched = self.watch()
            waiting = watched.ready(wanted)
            self.assertEqual(self.watching(watched), watching)
            self.assertNoResult(waiting)
            if wanted & Wait.R:
                watched.doRead()
                self.assertEqual(self.successResultOf(waiting), Ready.R)
                self.assertEqual(self.watching(watched), watching)
            else:
                watched.doWrite()
                self.assertEqual(self.successResultOf(waiting), Ready.W)
                self.assertEqual(self.watching(watched), (False, False))
        self.idle.assert_not_called()

    def test_interfaces(self):
        """It is what the reactor needs."""
        verifyObject(IReadDescriptor, self.watched)
        verifyObject(IWriteDescriptor, self.watched)
        self.assertEqual(self.watched.logPrefix(), "WatchedSocket")

    def test_lost(self):
        """Who waits goes on when the reactor finds the socket broken; libpq says what is wrong."""
        waiting = self.watched.ready(Wait.R)
        self.watched.connectionLost(None)
        self.assertEqual(self.successResultOf(waiting), Ready.R)

    def test_idle(self):
        """What comes while nobody waits is told, also after one who has given up waiting."""
        waiting = self.watched.ready(Wait.R)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.watched.doRead()
        self.assertEqual(self.idle.call_count, 1)

    def test_readable(self):
        """It is known without the reactor whether octets or the end have come."""
        self.assertFalse(self.watched.is_readable())
        self.theirs.send(b"x")
        self.assertTrue(self.watched.is_readable())
        self.ours.recv(1)
        self.assertFalse(self.watched.is_readable())
        self.theirs.close()
        self.assertTrue(self.watched.is_readable())

    def test_deadline(self):
        """Who waits gives up at a time, unless somebody goes on before."""
        self.watched.give_up_at(5)
        self.watched.go_on()
        waiting = self.watched.ready(Wait.R)
        self.reactor.advance(5)
        self.assertNoResult(waiting)
        self.watched.give_up_at(7)
        self.reactor.advance(1)
        self.assertNoResult(waiting)
        self.reactor.advance(1)
        self.failureResultOf(waiting, DeferredTimeout)

    def test_end_sending(self):
        """The other side is told that nothing more comes; a connection that broke is no fault."""
        self.watched.end_sending()
        self.assertEqual(self.theirs.recv(1), b"")
        self.theirs.send(b"x")
        self.assertEqual(self.ours.recv(1), b"x")
        with socket.socket() as broken:
            watched = WatchedSocket(self.reactor, broken.fileno())
        self.addCleanup(watched.close)
        watched.end_sending()
        os.fstat(watched.fileno())

    def test_closed(self):
        """After it is closed, the reactor has nothing of it, and its number is free."""
        self.watched.ready(Wait.RW)
        self.watched.give_up_at(5)
        number = self.watched.fileno()
        self.assertNotEqual(number, self.ours.fileno())
        self.watched.close()
        self.assertEqual(self.watching(self.watched), (False, False))
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(self.watched.fileno(), -1)
        self.assertRaises(OSError, os.fstat, number)
        # Another file that gets the number is not closed.
        other = os.dup(self.ours.fileno())
        self.addCleanup(os.close, other)
        self.watched.close()
        os.fstat(other)
