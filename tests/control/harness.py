"""A server of one process with a control socket, in memory."""

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.internet.defer import succeed
from twisted.internet.task import Clock
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import formatEvent, globalLogPublisher

from popserv.auth.realm import MaildropRealm
from popserv.commands import rfc1725
from popserv.control.operations import Operations
from popserv.control.process import ProcessControl
from popserv.control.responder import Responder
from popserv.core.command import CommandTable
from popserv.maildrops.memory import MemoryMaildrops
from popserv.reloading.log_level import LevelFilter
from popserv.runtime.bus import Answers, WorkerBus
from popserv.server.connection_limit import CountedConnections
from popserv.server.factory import POP3Factory
from popserv.testing import MemoryClient


class ControlMixin:
    """A test case with a server, on which ann and b\u00f6b have a message, and its operations."""

    workers = None
    certificates = None
    caching = ()

    def setUp(self):
        """Create the server."""
        self.store = MemoryMaildrops()
        for name in (b"ann", "b\u00f6b".encode()):
            self.store.deliver(name, b"one\n")
        checker = InMemoryUsernamePasswordDatabaseDontUse()
        checker.users = {b"ann": b"pw", "b\u00f6b".encode(): b"pw"}
        self.connections = CountedConnections()
        self.factory = POP3Factory(
            CommandTable(rfc1725.COMMANDS),
            Portal(MaildropRealm(self.store), [checker]),
            allow_plaintext=True,
            connections=self.connections,
        )
        self.bus = WorkerBus()
        self.process = ProcessControl(
            self.bus, self.factory, self.caching, self.certificates, self.connections
        )
        self.calls = []
        self.log_level = LevelFilter(lambda event: None)
        self.clock = Clock()
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)

    def operations(self, **changes):
        """Return operations that record what is done."""
        return Operations(
            **{
                "ask": self.bus.ask_here,
                "workers": self.workers,
                "reload": lambda: self.calls.append("reload"),
                "log_level": self.log_level,
                "drain_seconds": 0,
                "allow_drain": self.allow_drain,
                "stop": lambda seconds: self.calls.append(("stop", seconds)),
                **changes,
            }
        )

    def allow_drain(self, seconds):
        """Record a call."""
        self.calls.append(("drain", seconds))
        return succeed(Answers(()))

    def responder(self, **changes):
        """Return a responder with these operations."""
        return Responder(self.operations(**changes))

    def connect(self, *lines, peer=None):
        """Return a client that has sent these lines."""
        client = MemoryClient(self.factory, peer)
        for line in lines:
            client.send(line + b"\r\n")
        client.received()
        return client

    def logged_in(self, name="ann", *lines, peer=None):
        """Return a client that is logged in."""
        return self.connect(b"USER " + name.encode(), b"PASS pw", *lines, peer=peer)

    def log_lines(self):
        """Return the texts in the log."""
        return [formatEvent(event) for event in self.log]
