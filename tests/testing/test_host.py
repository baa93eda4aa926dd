"""Tests of popserv.testing.host, in the process of the tests."""

import os
from multiprocessing import Pipe
from types import SimpleNamespace
from unittest.mock import patch

from twisted.internet import reactor
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from popserv.testing import Faults, host
from popserv.testing.host import Host
from popserv.testing.hosted_server import HostedServer
from popserv.testing.settings import ServerSettings, ServerState

SETTINGS = ServerSettings({b"ann": b"secret"}, {}, {b"ann": [b"one\n"]}, None, Faults())


class FakeReactor:
    """A reactor that records what it is asked for."""

    def __init__(self):
        self.readers = []
        self.calls = []
        self.addReader = self.readers.append
        self.removeReader = self.readers.remove

    def run(self):
        """Note that it runs, and for whom."""
        self.calls.append(("run", list(self.readers)))

    def stop(self):
        """Note that it is stopped."""
        self.calls.append("stop")


class HostTests(TestCase):
    """A host answers requests; its servers run in the reactor of the tests."""

    def setUp(self):
        """Make a host, and the program's end of its connection."""
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)
        self.connection, other = Pipe()
        self.addCleanup(self.connection.close)
        self.addCleanup(other.close)
        self.host = Host(reactor, other, self.directory)

    async def request(self, *request):
        """Return the answer to a request."""
        self.connection.send(request)
        self.host.doRead()
        while not self.connection.poll():
            await deferLater(reactor, 0)
        return self.connection.recv()

    async def start(self, settings=SETTINGS):
        """Start a server, and return the answer; the server is stopped after the test."""
        succeeded, started = await self.request("start", settings)
        self.assertTrue(succeeded)
        self.addCleanup(self.host._servers[started.number].stop)
        return started

    def test_interface(self):
        """The host is a descriptor that the reactor reads."""
        self.assertTrue(verifyObject(IReadDescriptor, self.host))
        self.assertEqual(self.host.fileno(), self.host._connection.fileno())
        self.assertEqual(self.host.logPrefix(), "host")
        self.host.connectionLost(None)

    async def test_requests(self):
        """A server is started, used and stopped; the answer to stop is its last state."""
        started = await self.start()
        self.assertEqual((started.tls_port, started.ca_file), (None, None))
        number = started.number
        self.assertEqual(await self.request("deliver", number, b"ann", b"two\n"), (True, b"m2"))
        faults = Faults(lock_held=True)
        self.assertEqual(await self.request("set_faults", number, faults), (True, None))
        self.assertEqual(self.host._servers[number].faults.current, faults)
        state = ServerState([], {b"ann": {b"m1": b"one\n", b"m2": b"two\n"}}, [])
        self.assertEqual(await self.request("state", number), (True, state))
        self.assertEqual(await self.request("stop", number), (True, state))
        self.assertEqual(self.host._servers, {})

    async def test_authority(self):
        """All servers of a process have one authority, and the answer names its file."""
        with_tls = SETTINGS._replace(certificate="valid")
        first, second = await self.start(with_tls), await self.start(with_tls)
        self.assertEqual(first.ca_file, second.ca_file)
        self.assertTrue(os.path.exists(first.ca_file))
        self.assertIsNone((await self.start()).ca_file)

    async def test_errors(self):
        """An error is answered with its traceback; one that tells all, with its text."""
        succeeded, text = await self.request("state", 5)
        self.assertFalse(succeeded)
        self.assertIn("Traceback", text)
        self.assertIn("KeyError: 5", text)
        for kind in (OSError, ImportError):
            with patch.object(HostedServer, "__init__", side_effect=kind("no room")):
                answer = await self.request("start", SETTINGS)
            self.assertEqual(answer, (False, "no room"))

    async def test_log(self):
        """Errors in the log belong to the servers that run; other events do not matter."""
        await self.start()
        log = Logger(observer=self.host.observe)
        log.warn("not an error")
        log.critical("no certificate")
        try:
            raise ValueError("unexpected")
        except ValueError:
            log.failure("{peer}: error in a command", peer="127.0.0.1:1")
            self.host._servers[1].factory.peers.add("127.0.0.1:1")
            log.failure("{peer}: error in a command", peer="127.0.0.1:1")
        first, second = self.host._servers[1].state().errors
        self.assertIn("no certificate", first)
        self.assertIn("127.0.0.1:1: error in a command", second)
        self.assertIn("ValueError: unexpected", second)

    def test_end(self):
        """The process ends when the program closes the connection, or has ended."""
        fake = FakeReactor()
        self.host._reactor = fake
        fake.addReader(self.host)
        self.connection.close()
        self.host.doRead()
        self.assertEqual((fake.calls, fake.readers), (["stop"], []))
        self.host.check_parent()
        self.assertEqual(fake.calls, ["stop"])
        with patch("os.getppid", return_value=1):
            self.host.check_parent()
        self.assertEqual(fake.calls, ["stop", "stop"])

    def test_main(self):
        """The process observes its log, reads requests, and removes its directory at the end."""
        fake, logs, directories = FakeReactor(), [], []

        def begin(observers, discardBuffer, redirectStandardIO):
            logs.extend(observers)
            self.assertTrue(discardBuffer)
            self.assertFalse(redirectStandardIO)

        def run():
            (reader,) = fake.readers
            directories.append(reader._directory)
            self.assertTrue(os.path.isdir(reader._directory))

        fake.run = run
        self.patch(host, "globalLogBeginner", SimpleNamespace(beginLoggingTo=begin))
        self.patch(host, "LoopingCall", lambda call: SimpleNamespace(start=lambda seconds: None))
        ours, theirs = Pipe()
        self.addCleanup(ours.close)
        descriptor = os.dup(theirs.fileno())
        theirs.close()
        with patch("twisted.internet.reactor", fake):
            host.main(descriptor)
        self.assertEqual(len(logs), 1)
        self.assertFalse(os.path.exists(directories[0]))
        self.assertRaises(EOFError, ours.recv)
