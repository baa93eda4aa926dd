"""popserv.reloading.signals."""

import contextlib
import signal
import socket
import sys

from twisted.trial.unittest import SynchronousTestCase

from popserv.reloading import signals
from tests.signals import blocked_signals, preserve_signals


class SignalTests(SynchronousTestCase):
    """SIGHUP and SIGUSR1 can be held back."""

    def setUp(self):
        """Record the signals that arrive."""
        preserve_signals(self)
        self.received = []
        for number in signals.RELOAD_SIGNALS:
            signal.signal(number, lambda number, _: self.received.append(number))

    def test_full_pipe(self):
        """If the pipe that wakes the reactor is full, a signal is handled without a warning."""
        reader, writer = socket.socketpair()
        self.addCleanup(reader.close)
        self.addCleanup(writer.close)
        writer.setblocking(False)
        self.addCleanup(signal.set_wakeup_fd, signal.set_wakeup_fd(writer.fileno()))
        with contextlib.suppress(BlockingIOError):
            while writer.send(b"x" * 1000):
                pass
        problems = []
        self.patch(sys, "unraisablehook", problems.append)
        for is_allowed in (False, True):
            if is_allowed:
                signals.allow_full_pipe()
            signal.raise_signal(signal.SIGHUP)
            self.assertEqual(len(problems), 1)
        self.assertEqual(self.received, [signal.SIGHUP] * 2)

    def test_block(self):
        """A blocked signal arrives when it is unblocked."""
        signals.block()
        for number in signals.RELOAD_SIGNALS:
            signal.raise_signal(number)
        self.assertEqual(self.received, [])
        signals.unblock()
        self.assertEqual(sorted(self.received), [signal.SIGHUP, signal.SIGUSR1])

    def test_blocked(self):
        """The context restores the previous state, also after an exception."""
        for is_blocked in (False, True):
            if is_blocked:
                signals.block()
            before = blocked_signals()
            with self.assertRaises(ZeroDivisionError), signals.blocked():
                self.assertEqual(blocked_signals(), {signal.SIGHUP, signal.SIGUSR1})
                raise ZeroDivisionError
            self.assertEqual(blocked_signals(), before)
