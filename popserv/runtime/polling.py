"""A reactor whose events are handled without a log context for each of them."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.python import log


def poll_faster(reactor: Any) -> None:
    """Let an epoll reactor of Twisted's handle its events with less work; others stay as they are.

    For each event Twisted copies a log context that names the connection, which takes as long as
    many a command.  Only messages of ``twisted.python.log`` show it; those of popserv begin with
    the client's address.
    """
    kind = type(reactor)
    # Without epoll there is no such module.
    if (kind.__module__, kind.__name__) == ("twisted.internet.epollreactor", "EPollReactor"):
        # The reactor calls it as an attribute, which its subclasses set.
        reactor.doIteration = partial(_poll, reactor)


def _poll(reactor: Any, timeout: float | None) -> None:
    """Do what ``EPollReactor.doPoll`` does; see IReactorCore.iterate."""
    selectables = reactor._selectables
    # The maximum number of events is that of Twisted.
    events = reactor._poller.poll(-1 if timeout is None else timeout, len(selectables))
    for fd, event in events:
        selectable = selectables.get(fd)
        # An event before this one may have closed it.
        if selectable is not None:
            try:
                reactor._doReadOrWrite(selectable, fd, event)
            except Exception:
                log.err()
