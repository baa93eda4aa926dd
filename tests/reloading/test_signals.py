"""popserv.reloading.signals."""

import signal

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
