"""A fake reactor with real sockets, a fake launcher, and base classes of the tests."""

import json
import os
import socket
from collections import Counter
from signal import SIGKILL
from types import SimpleNamespace

from twisted.internet import reactor
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import EventLoggingObserver
from twisted.internet.threads import deferToThread
from twisted.logger import LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from popserv.listening.reactor import AddressFamilyReactor
from popserv.workers import supervisor
from popserv.workers.log_forwarding import event_as_json
from popserv.workers.sockets import SocketAdopter, SocketOpener
from popserv.workers.supervisor import Supervisor

LOOPBACK = "127.0.0.1"

LAST_EVENT = event_as_json(
    {"log_format": "last event", "log_system": "-", "log_time": 1.5, "log_level": LogLevel.info}
)


class FakeReactor(Clock):
    """A reactor that reads and writes when the test calls :meth:`read` and :meth:`write`."""

    def __init__(self):
        super().__init__()
        self.readers = []
        self.writers = []
        self.triggers = []
        self.spawned = []
        self.on_run = lambda: None
        self.stopped = 0

    def addReader(self, reader):
        """See IReactorFDSet."""
        if reader not in self.readers:
            self.readers.append(reader)

    def addWriter(self, writer):
        """See IReactorFDSet."""
        if writer not in self.writers:
            self.writers.append(writer)

    def removeReader(self, reader):
        """See IReactorFDSet."""
        if reader in self.readers:
            self.readers.remove(reader)

    def removeWriter(self, writer):
        """See IReactorFDSet."""
        if writer in self.writers:
            self.writers.remove(writer)

    def read(self):
        """Call doRead of each reader once."""
        for each in list(self.readers):
            reason = each.doRead()
            if reason:
                self.removeReader(each)
                each.connectionLost(Failure(reason))

    def write(self):
        """Call doWrite of each writer once."""
        for each in list(self.writers):
            each.doWrite()

    def addSystemEventTrigger(self, *trigger):
        """See IReactorCore."""
        self.triggers.append(trigger)

    def callFromThread(self, function, *arguments):
        """See IReactorFromThreads."""
        self.callLater(0, function, *arguments)

    def callWhenRunning(self, function, *arguments):
        """See IReactorCore."""
        self.callLater(0, function, *arguments)

    def spawnProcess(self, protocol, executable, arguments, **more):
        """Record the call; no process is started."""
        process = SimpleNamespace(
            protocol=protocol, executable=executable, arguments=arguments, **more
        )
        self.spawned.append(process)
        return process

    def run(self):
        """Call ``on_run`` and return."""
        self.on_run()

    def stop(self):
        """Count the calls."""
        self.stopped += 1


class FakeProcess:
    """A worker process that the test plays; ``link`` and ``output`` are the worker's ends.

    ``covered`` is what the supervisor has sent of the workers that do not run.
    """

    pid = 4711

    def __init__(self, protocol, role, link, output):
        self.protocol = protocol
        self.role = role
        self.link = link
        self.output = output
        self.signals = []
        self.covered = []
        self.has_exited = False

    def signalProcess(self, name):
        """Record the signal."""
        if self.has_exited:
            raise ProcessExitedAlready
        self.signals.append(name)

    def messages(self):
        """Return the messages that the supervisor has sent, except those in ``covered``."""
        try:
            lines = self.link.recv(1 << 20).splitlines()
        except BlockingIOError:
            return []
        self.covered += [json.loads(line[6:]) for line in lines if line.startswith(b"cover ")]
        return [line for line in lines if not line.startswith(b"cover ")]

    def exit(self, *, code=0, signal=None):
        """Exit; what the process has written can still be read."""
        self.link.close()
        self.output.close()
        self.has_exited = True
        reason = ProcessTerminated(code, signal) if code or signal else ProcessDone(0)
        self.protocol.processEnded(Failure(reason))


class FakeLauncher:
    """Starts FakeProcesses, which send ``first_message`` and print ``output``.

    ``error`` is an exception that :meth:`launch` raises instead.  With ``ends_at_once`` a process
    has ended before :meth:`launch` returns.
    """

    def __init__(self, test):
        self.test = test
        self.started = []
        self.first_message = b"ready\n"
        self.output = b""
        self.error = None
        self.ends_at_once = False

    def launch(self, protocol, role, sockets):
        """See Launcher."""
        if self.error:
            raise self.error
        link, worker_link = socket.socketpair()
        output, worker_output = socket.socketpair()
        for each in (link, worker_link, output, worker_output):
            self.test.addCleanup(each.close)
        worker_link.sendall(self.first_message)
        worker_output.sendall(self.output)
        if not self.first_message.endswith(b"ready\n"):
            worker_link.shutdown(socket.SHUT_WR)
            worker_output.shutdown(socket.SHUT_WR)
        worker_link.setblocking(False)
        process = FakeProcess(protocol, role, worker_link, worker_output)
        self.started.append(process)
        if self.ends_at_once:
            process.exit(signal=SIGKILL)
        return process, link, output


class SupervisorTestCase(SynchronousTestCase):
    """A supervisor of three workers, whose processes the test plays."""

    def setUp(self):
        """Create the supervisor, and observe the log."""
        self.reactor = FakeReactor()
        self.launcher = FakeLauncher(self)
        self.launcher_arguments = []
        self.patch(supervisor, "Launcher", self.make_launcher)
        self.supervisor = Supervisor(3, "popserv.tap", ["--maildir", "mail"], self.reactor)
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)

    def make_launcher(self, *arguments):
        """Record the arguments, and return the fake launcher."""
        self.launcher_arguments.append(arguments)
        return self.launcher

    def start(self):
        """Start the service; return the processes."""
        self.supervisor.privilegedStartService()
        self.supervisor.startService()
        self.reactor.read()
        return list(self.launcher.started)

    def log_lines(self):
        """Return the texts in the log."""
        return [formatEvent(event) for event in self.log]


class NameProtocol(Protocol):
    """Sends the name of its factory, and closes."""

    def connectionMade(self):
        """Send it."""
        self.transport.write(self.factory.name)
        self.transport.loseConnection()


def name_factory(name):
    """Return a factory whose protocols send this name."""
    factory = Factory.forProtocol(NameProtocol)
    factory.name = name
    return factory


class SocketsTestCase(TestCase):
    """The sockets of two workers; this process is the supervisor and both workers."""

    def setUp(self):
        """Create the supervisor's SocketOpener."""
        self.opener = SocketOpener(AddressFamilyReactor(reactor), 2)
        self.addCleanup(self.opener.close)

    def close_later(self, port):
        """Close a port at the end of the test; return it."""
        self.addCleanup(port.stopListening)
        return port

    def adopter(self, number):
        """Return the SocketAdopter of a worker."""
        return SocketAdopter(
            reactor,
            number,
            [[os.dup(fileno) for fileno in each] for each in self.opener.descriptors()],
        )

    async def connect(self, address):
        """Connect, and return what the server sends."""

        def receive():
            family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
            with socket.socket(family) as client:
                client.settimeout(30)
                client.connect(address)
                return client.recv(100)

        return await deferToThread(receive)

    async def count_connections(self, address, times=100):
        """Connect many times; return how many connections each worker has accepted."""
        found = Counter()
        for _ in range(times):
            found[await self.connect(address)] += 1
        return found
