"""A reactor for tests, which does only what it is told, on sockets that are real."""

from types import SimpleNamespace

from twisted.internet.task import Clock
from twisted.python.failure import Failure


class Reactor(Clock):
    """Descriptors are read and written when the test says so."""

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
        """Have everything read once that can be."""
        for each in list(self.readers):
            reason = each.doRead()
            if reason:
                self.removeReader(each)
                each.connectionLost(Failure(reason))

    def write(self):
        """Have everything written that is to be."""
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
        """Note it; there is no process."""
        process = SimpleNamespace(
            protocol=protocol, executable=executable, arguments=arguments, **more
        )
        self.spawned.append(process)
        return process

    def run(self):
        """Do what the test has for the time that the reactor runs."""
        self.on_run()

    def stop(self):
        """Count."""
        self.stopped += 1
