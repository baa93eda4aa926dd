"""Tests of popserv.doctor.sockets."""

import socket

from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from popserv.doctor import sockets
from popserv.doctor.sockets import NotOpened, Socket, sockets_of
from tests.certificates import issue
from tests.doctor.harness import open_directory


class SocketsTests(SynchronousTestCase):
    """The sockets of endpoints."""

    def socket(self, endpoint, *, starts_tls=False, is_proxied=False):
        """Return the one socket of an endpoint."""
        [found] = sockets_of(endpoint, Socket("--x", starts_tls=starts_tls, is_proxied=is_proxied))
        return found

    def test_tcp(self):
        """The interface and the port are those that Twisted would listen on."""
        self.assertEqual(self.socket("tcp:110"), Socket("--x", "", 110))
        self.assertEqual(
            self.socket("tcp:110:interface=127.0.0.1", starts_tls=True, is_proxied=True),
            Socket("--x", "127.0.0.1", 110, starts_tls=True, is_proxied=True),
        )
        self.assertEqual(self.socket("tcp6:110"), Socket("--x", "::", 110))

    def test_unix(self):
        """A path is that of a UNIX socket."""
        self.assertEqual(self.socket("unix:/run/x:mode=666"), Socket("--x", path="/run/x"))

    def test_ssl(self):
        """An endpoint for TLS starts it."""
        path = open_directory(self) / "pem"
        path.write_bytes(issue("localhost").pem())
        self.assertEqual(
            self.socket(f"ssl:995:privateKey={path}:certKey={path}"),
            Socket("--x", "", 995, starts_tls=True),
        )

    def test_systemd(self):
        """A socket of systemd is open already, and is none."""
        # The endpoint closes it.
        opened = socket.create_server(("127.0.0.1", 0)).detach()

        def endpoint(reactor, description):
            return AdoptedStreamServerEndpoint(reactor, opened, socket.AF_INET)

        self.patch(sockets, "serverFromString", endpoint)
        self.assertEqual(sockets_of("x", Socket("--x")), [])

    def test_nothing(self):
        """Nothing is opened."""
        port = NotOpened()
        verifyObject(IListeningPort, port)
        port.startListening()
        port.stopListening()
        self.assertIsNone(port.getHost().name)

    def test_local(self):
        """Loopback addresses and paths are for this machine only."""
        for listening, is_local, host in (
            (Socket("", "127.0.0.1", 1), True, "127.0.0.1"),
            (Socket("", "::1", 1), True, "::1"),
            (Socket("", path="/x"), True, "127.0.0.1"),
            (Socket("", "", 1), False, "127.0.0.1"),
            (Socket("", "0.0.0.0", 1), False, "127.0.0.1"),
            (Socket("", "::", 1), False, "::1"),
            (Socket("", "192.0.2.1", 1), False, "192.0.2.1"),
        ):
            self.assertEqual((listening.is_local, listening.host), (is_local, host))
