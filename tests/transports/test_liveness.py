"""Clients that are there, and clients that are gone."""

import ctypes
import socket
import struct
import sys
from types import SimpleNamespace

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.protocols.policies import ProtocolWrapper
from twisted.trial.unittest import TestCase

from popserv.transports import liveness
from popserv.transports.liveness import is_gone


def vanish(client):
    """Have a TCP socket ignore all packets, as if it had vanished from the network."""
    # A filter of one instruction: accept no octets (BPF_RET).
    program = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
    client.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HP", 1, ctypes.addressof(program)))


def wait(seconds):
    """Wait."""
    return deferLater(reactor, seconds)


class LivenessTests(TestCase):
    """Real connections, on which the client does not do anything by itself."""

    if not sys.platform.startswith("linux"):
        skip = "Linux is required"

    def connect(self, age=1.2):
        """Return the server's end as a transport, and the client's."""
        listening = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
        listening.close()
        for each in (client, accepted):
            self.addCleanup(each.close)
        transport = SimpleNamespace(fileno=accepted.fileno, socket=accepted)
        return transport, accepted, client

    async def test_idle(self):
        """A client that is idle acknowledges the probe, and receives no octets."""
        transport, accepted, client = self.connect()
        await wait(1.1)
        self.assertFalse(await is_gone(transport, wait))
        client.setblocking(False)
        self.assertRaises(BlockingIOError, client.recv, 1)
        self.assertEqual(accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), 0)

    async def test_recent(self):
        """A client that has acknowledged something within a second is not probed."""
        transport, _, client = self.connect()
        vanish(client)
        self.assertFalse(await is_gone(transport, None))

    async def test_vanished(self):
        """A client that does not acknowledge the probes is gone."""
        transport, accepted, client = self.connect()
        vanish(client)
        await wait(1.1)
        self.assertTrue(await is_gone(transport, wait))
        self.assertEqual(accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), 0)

    async def test_vanished_while_sending(self):
        """A client that does not acknowledge what is being sent to it is gone."""
        transport, accepted, client = self.connect()
        vanish(client)
        accepted.send(b"x" * 1000)
        await wait(1.1)
        self.assertTrue(await is_gone(transport, wait))

    async def test_not_reading(self):
        """A client that has stopped reading is there: its kernel acknowledges what is sent."""
        self.patch(liveness, "PROBE_SECONDS", 1.0)
        transport, accepted, _ = self.connect()
        accepted.setblocking(False)
        with self.assertRaises(BlockingIOError):
            while True:
                accepted.send(b"x" * 65536)
        # The kernel asks ever more rarely whether there is room again.
        await wait(2.5)
        self.assertFalse(await is_gone(transport, wait))

    async def test_reset(self):
        """A connection that the client has reset is gone, before the probe and after it."""
        for seconds in (0, 1.1):
            transport, _, client = self.connect()
            await wait(seconds)
            found = Deferred.fromCoroutine(is_gone(transport, wait)) if seconds else None
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            self.assertTrue(await (found or is_gone(transport, wait)))

    async def test_closed_here(self):
        """A connection that is closed meanwhile is gone."""
        transport, accepted, _ = self.connect()
        await wait(1.1)

        def close(seconds):
            transport.fileno = lambda: client.fileno()
            accepted.close()
            return wait(0)

        _, _, client = self.connect()
        self.assertTrue(await is_gone(transport, close))

    async def test_unknown(self):
        """Of a transport that is not of TCP, or without probes, only the kernel's word counts."""
        transport, _, client = self.connect()
        vanish(client)
        ours, theirs = socket.socketpair()
        for each in (ours, theirs):
            self.addCleanup(each.close)
        local = SimpleNamespace(fileno=ours.fileno, socket=ours)
        self.assertFalse(await is_gone(local, None))
        self.assertFalse(await is_gone(StringTransport(), None))
        self.assertFalse(await is_gone(SimpleNamespace(socket=None), None))
        self.patch(liveness, "HAS_PROBES", False)
        await wait(1.1)
        self.assertFalse(await is_gone(transport, None))

    async def test_over_tls(self):
        """A TLS transport has the socket of the one below it."""
        transport, _, client = self.connect()
        vanish(client)
        wrapper = ProtocolWrapper(None, None)
        wrapper.transport = transport
        await wait(1.1)
        self.assertTrue(await is_gone(wrapper, wait))
