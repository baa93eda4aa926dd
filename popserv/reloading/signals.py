"""The signals that ask a server to reopen its log and to read its files again."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

RELOAD_SIGNALS = (signal.SIGHUP, signal.SIGUSR1)
"""SIGHUP, and SIGUSR1, which twistd uses to rotate its log.  Both would end the process."""


def block() -> None:
    """Hold these signals back until :func:`unblock`; one that arrives meanwhile is kept.

    It affects this thread and those that it starts, so call it before there are others.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, RELOAD_SIGNALS)


def unblock() -> None:
    """Deliver these signals, also those that were held back."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, RELOAD_SIGNALS)


def allow_full_pipe() -> None:
    """Let signals find the pipe full by which they wake the reactor, after Twisted has set it up.

    The reactor wakes anyway.  Python would print a warning from within its signal handler, for
    which it takes a lock that the interrupted code may have.
    """
    signal.set_wakeup_fd(signal.set_wakeup_fd(-1), warn_on_full_buffer=False)


@contextmanager
def blocked() -> Iterator[None]:
    """Hold these signals back; a process that is started meanwhile does so until it unblocks."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, RELOAD_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
