"""Tests of popserv.runtime.polling."""

import os
from unittest import mock, skipUnless

from twisted.internet.pollreactor import PollReactor
from twisted.python import log
from twisted.trial.unittest import SynchronousTestCase

from popserv.runtime.polling import poll_faster

try:
    from twisted.internet.epollreactor import EPollReactor
except ImportError:
    EPollReactor = None


class Broken(Exception):
    """A fault of what is notified."""


class Reader:
    """One end of a pipe, which calls a function when it can be read."""

    def __init__(self, fd, read):
        self.fd = fd
        self.doRead = read
        self.lost = []

    def fileno(self):
        """Return the descriptor."""
        return self.fd

    def logPrefix(self):
        """Return a name for the log of Twisted's own loop."""
        return "reader"

    def connectionLost(self, reason):
        """Record the reason."""
        self.lost.append(reason.type)


@skipUnless(EPollReactor, "there is no epoll here")
class PollingTests(SynchronousTestCase):
    """Events of an epoll reactor, with Twisted's loop and with that of popserv."""

    def setUp(self):
        """Make both reactors, which never run."""
        self.reactors = [EPollReactor(), EPollReactor()]
        for reactor in self.reactors:
            self.addCleanup(self.close, reactor)
        poll_faster(self.reactors[1])

    def close(self, reactor):
        """Close the descriptors of a reactor."""
        for reader in reactor.removeAll():
            if not isinstance(reader, Reader):
                reader.connectionLost(None)
        reactor._poller.close()

    def pipe(self):
        """Return the ends of a pipe, of which the first can be read."""
        ends = os.pipe()
        for end in ends:
            self.addCleanup(os.close, end)
        os.write(ends[1], b"x")
        return ends

    def test_events(self):
        """What can be read is read, unless an event before has removed it."""
        for reactor in self.reactors:
            calls = []
            first, second = (Reader(self.pipe()[0], mock.Mock(return_value=None)) for _ in "12")
            first.doRead.side_effect = lambda: calls.append(reactor.removeReader(second))  # noqa: B023
            second.doRead.side_effect = lambda: calls.append(reactor.removeReader(first))  # noqa: B023
            reactor.addReader(first)
            reactor.addReader(second)
            reactor.doIteration(None)
            self.assertEqual(len(calls), 1)
            reactor.doIteration(0)
            self.assertEqual(len(calls), 2)
            remaining = [each for each in reactor.getReaders() if isinstance(each, Reader)]
            self.assertEqual(len(remaining), 1)
            reactor.removeReader(remaining[0])
            reactor.doIteration(0.001)
            self.assertEqual(len(calls), 2)

    def test_timeouts(self):
        """Without a timeout it waits until there is an event."""
        for reactor in self.reactors:
            poller = mock.Mock()
            poller.poll.return_value = []
            with mock.patch.object(reactor, "_poller", poller):
                reactor.doIteration(None)
                reactor.doIteration(0.5)
            self.assertEqual([call.args[0] for call in poller.poll.mock_calls], [-1, 0.5])

    def test_broken(self):
        """An exception in a read ends the connection; one in its end is logged as well."""
        for reactor in self.reactors:
            reader = Reader(self.pipe()[0], mock.Mock(side_effect=Broken))
            reactor.addReader(reader)
            reactor.doIteration(0)
            self.assertEqual(reader.lost, [Broken])
            reader = Reader(self.pipe()[0], mock.Mock(return_value=OSError()))
            reader.connectionLost = mock.Mock(side_effect=Broken)
            reactor.addReader(reader)
            reactor.doIteration(0)
            self.assertEqual(len(self.flushLoggedErrors(Broken)), 2)

    def test_no_context(self):
        """Nothing is done for a log context."""
        with mock.patch.object(log, "callWithLogger") as called:
            reader = Reader(self.pipe()[0], mock.Mock(return_value=None))
            self.reactors[1].addReader(reader)
            self.reactors[1].doIteration(0)
        self.reactors[1].removeReader(reader)
        reader.doRead.assert_called_once_with()
        called.assert_not_called()

    def test_others(self):
        """Other reactors, and subclasses, stay as they are."""

        class Other(EPollReactor):
            """A reactor that may have its own way."""

        for kind in (PollReactor, Other):
            reactor = kind()
            poll_faster(reactor)
            self.assertNotIn("doIteration", vars(reactor))
            for reader in reactor.removeAll():
                reader.connectionLost(None)
