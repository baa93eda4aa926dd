"""A server in memory for inputs, of which every unexpected error is a failure."""

from contextlib import contextmanager

from twisted.cred.portal import Portal
from twisted.logger import formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from popserv.auth.realm import MaildropRealm
from popserv.core.command import CommandTable
from popserv.maildrops.memory import MemoryMaildrops
from popserv.messages.downgrade import Downgrader
from popserv.server.factory import POP3Factory
from popserv.testing import MemoryClient

MESSAGES = (b"one\n", b"Subject: \xc3\xbc\n\n.\n..\nx", b"", b"a: b\r\n\r\n" + b"line\r\n" * 9)
"""Ann's mail."""

_NEVER = 1e6
"""Seconds: no session is idle for so long."""


@contextmanager
def no_errors():
    """Check that no exception is logged, and nothing that looks like another line."""
    failures = []

    def observe(event):
        if "log_failure" in event:
            failures.append(event["log_failure"])
        text = formatEvent(event)
        if not text.isprintable():
            failures.append(Failure(ValueError(text)))

    globalLogPublisher.addObserver(observe)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(observe)
    if failures:
        failures[0].raiseException()


class Server:
    """A server on which ann has mail; ``checkers`` log her in."""

    def __init__(self, commands, checkers):
        self.store = MemoryMaildrops(Downgrader)
        for message in MESSAGES:
            self.store.deliver(b"ann", message)
        self.factory = POP3Factory(
            CommandTable(commands),
            Portal(MaildropRealm(self.store), checkers),
            host=b"dewey",
            downgrader=Downgrader,
            idle_timeout=_NEVER,
        )

    def connect(self):
        """Return a client that has read the greeting."""
        client = MemoryClient(self.factory)
        greeting = client.received()
        assert greeting.startswith(b"+OK "), greeting
        return client

    def end(self, client):
        """Lose the connection; nothing may be locked afterwards."""
        client.lose()
        assert not self.store.locked, self.store.locked


def pass_time(client):
    """Advance the clock to the next call of the server; return whether there was one.

    The reply to a failed login is delayed.
    """
    clock = client.clock
    now = clock.seconds()
    waits = [call.getTime() - now for call in clock.getDelayedCalls()]
    waits = [seconds for seconds in waits if seconds < _NEVER / 2]
    if waits and not client.closed:
        clock.advance(min(waits))
    return bool(waits) and not client.closed


def wait(client):
    """Return what the server sends until it waits for the client."""
    while pass_time(client):
        pass
    return client.received()


def reply_to(client, line):
    """Send a line; return the reply."""
    reply = client.send(line)
    while not reply and pass_time(client):
        reply = client.received()
    return reply or client.received()
