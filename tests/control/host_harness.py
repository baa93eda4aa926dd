"""Hosts that share a store, in memory."""

from uuid import UUID

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from popserv.control.client import ControlError
from popserv.control.host_client import HostClient
from popserv.control.host_service import HostService, StoreContact
from popserv.core.host import Host
from popserv.errors import TryLater
from popserv.interfaces import IHostDirectory
from tests.control.harness import ControlMixin


@implementer(IHostDirectory)
class MemoryHosts:
    """A directory of hosts; while ``is_away``, it cannot be reached.

    ``found`` are additional hosts, which do not answer.  ``error`` is raised by all methods.
    """

    error = None

    def __init__(self):
        self.announced = {}
        self.requests = {}
        self.given = {}
        self.found = []

    def _check(self):
        if self.error is not None:
            raise self.error

    @property
    def is_away(self):
        """Whether the store cannot be reached."""
        return isinstance(self.error, TryLater)

    @is_away.setter
    def is_away(self, is_away):
        self.error = TryLater() if is_away else None

    async def announce(self, host, name, version, is_draining):
        """See IHostDirectory."""
        self._check()
        self.announced[host] = Host(host, name, version, is_draining, 5.0, 0.5)
        return [(id_, text) for id_, (text, hosts) in self.requests.items() if host in hosts]

    async def withdraw(self, host):
        """See IHostDirectory."""
        self._check()
        self.announced.pop(host, None)

    async def answer(self, request, host, part, text):
        """See IHostDirectory."""
        self._check()
        if request in self.requests:
            self.given[request].append((host, part, text))

    async def listed(self):
        """See IHostDirectory."""
        self._check()
        return [*self.announced.values(), *self.found]

    async def ask(self, request, text, hosts):
        """See IHostDirectory."""
        self._check()
        self.requests[request] = text, set(hosts)
        self.given[request] = []

    async def answers(self, request, parts):
        """See IHostDirectory."""
        self._check()
        return [
            (host, part, text)
            for host, part, text in self.given[request]
            if part >= parts.get(host, part + 1)
        ]

    async def forget(self, request):
        """See IHostDirectory."""
        self._check()
        del self.requests[request], self.given[request]


ANN = Host(UUID(int=1 << 96), "mx9", "1.0", False, 9.0, 4.0)


class HostCase(ControlMixin, SynchronousTestCase):
    """A server that is a host of a store in memory."""

    def setUp(self):
        """Start the server."""
        super().setUp()
        self.shared = MemoryHosts()
        verifyObject(IHostDirectory, self.shared)
        self.contact = StoreContact(self.clock.seconds)
        self.is_draining = False
        self.client = HostClient(self.shared, self.clock, timeout=5)

    def start(self, name="mx1", **changes):
        """Start a host, and return its service."""
        service = HostService(
            self.shared,
            name,
            self.responder(**changes),
            lambda: self.is_draining,
            self.contact,
            self.clock,
        )
        verifyObject(IService, service)
        service.startService()
        return service

    def wait_for(self, coroutine, seconds=20):
        """Return the result of a coroutine, which waits for the clock."""
        running = Deferred.fromCoroutine(coroutine)
        self.clock.pump([0.1] * int(seconds * 10))
        return self.successResultOf(running)

    def refused(self, coroutine):
        """Return the text of the ControlError of a coroutine."""
        running = Deferred.fromCoroutine(coroutine)
        self.clock.pump([0.1] * 200)
        return str(self.failureResultOf(running, ControlError).value)

    def call(self, command, hosts=None, **arguments):
        """Return the answers by the names of the hosts."""

        async def call():
            asked = await self.client.hosts() if hosts is None else hosts
            return await self.client.call(asked, command, **arguments)

        return {host.name: answer for host, answer in self.wait_for(call())}
