"""Helpers for tests that change how the process of the tests handles signals."""

import signal

from popserv.reloading.signals import RELOAD_SIGNALS


def preserve_signals(test):
    """Restore the handlers and the mask of RELOAD_SIGNALS after a test."""
    for number in RELOAD_SIGNALS:
        test.addCleanup(signal.signal, number, signal.getsignal(number))
    # Runs first: a signal that the test has left blocked meets the handler of the test.
    test.addCleanup(signal.pthread_sigmask, signal.SIG_SETMASK, signal.pthread_sigmask(0, ()))


def blocked_signals():
    """Return those of RELOAD_SIGNALS that are blocked."""
    return set(RELOAD_SIGNALS) & set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
