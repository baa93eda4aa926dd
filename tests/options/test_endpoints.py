"""The defaults of popserv for arguments of endpoints."""

from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import ServerFactory
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase

from popserv.options.endpoints import BACKLOG, with_backlog, with_interface


class LoopbackTests(SynchronousTestCase):
    """with_interface."""

    def test_default(self):
        """A port without an interface is one of this machine."""
        for endpoint, interface in (
            ("tcp:9110", "127.0.0.1"),
            ("tcp:port=9110", "127.0.0.1"),
            ("tcp:9110:backlog=9", "127.0.0.1"),
            ("tcp6:9110", "::1"),
            ("tcp6:9110:9", "::1"),
            ("TCP6:9110", "::1"),
        ):
            self.assertEqual(self.interface(with_interface(endpoint)), interface, endpoint)

    def test_given(self):
        """An interface that is given is used, by its name or its position."""
        for endpoint, interface in (
            ("tcp:9110:interface=192.0.2.1", "192.0.2.1"),
            ("tcp:9110:interface=", ""),
            ("tcp:interface=192.0.2.1:port=9110", "192.0.2.1"),
            ("tcp:9110:192.0.2.1", "192.0.2.1"),
            (r"tcp6:9110:interface=2001\:db8\:\:1", "2001:db8::1"),
            (r"tcp6:9110:9:2001\:db8\:\:1", "2001:db8::1"),
        ):
            self.assertEqual(with_interface(endpoint), endpoint)
            self.assertEqual(self.interface(endpoint), interface, endpoint)

    def test_tls(self):
        """So it is with TLS."""
        self.assertEqual(
            with_interface("ssl:9110:key.pem:cert.pem"),
            "ssl:9110:key.pem:cert.pem:interface=127.0.0.1",
        )
        for endpoint in ("ssl:9110:interface=192.0.2.1", "ssl:9110:key.pem:cert.pem:TLS:192.0.2.1"):
            self.assertEqual(with_interface(endpoint), endpoint)

    def test_others(self):
        """Other endpoints have no interface."""
        for endpoint in ("unix:/run/popserv/metrics", "systemd:domain=INET:index=0"):
            self.assertEqual(with_interface(endpoint), endpoint)

    def interface(self, endpoint):
        """Return the interface on which a server of this endpoint listens."""
        reactor = MemoryReactor()
        self.successResultOf(serverFromString(reactor, endpoint).listen(ServerFactory()))
        return reactor.tcpServers[0][3]


class BacklogTests(SynchronousTestCase):
    """with_backlog."""

    def test_default(self):
        """A port has the longest queue that the system allows, and not Twisted's of 50."""
        self.assertGreater(BACKLOG, 50)
        for endpoint in ("tcp:9110", "tcp:port=9110", "TCP6:9110", "unix:/run/pop3.sock:600"):
            self.assertEqual(self.backlog(with_backlog(endpoint)), BACKLOG, endpoint)
        longer = with_backlog("ssl:9110:key.pem:cert.pem")
        self.assertEqual(longer, f"ssl:9110:key.pem:cert.pem:backlog={BACKLOG}")

    def test_given(self):
        """A backlog that is given is used, by its name or its position."""
        for endpoint in (
            *("tcp:9110:backlog=9", "tcp:backlog=9:port=9110", "tcp:9110:192.0.2.1:9"),
            *("tcp6:9110:9", "unix:/run/pop3.sock:backlog=9", "unix:/run/pop3.sock:600:9"),
            r"unix:/run/a\=b:600:9",
        ):
            self.assertEqual(with_backlog(endpoint), endpoint)
            self.assertEqual(self.backlog(endpoint), 9, endpoint)

    def test_others(self):
        """Other endpoints have no backlog."""
        self.assertEqual(with_backlog("systemd:domain=INET:index=0"), "systemd:domain=INET:index=0")

    def backlog(self, endpoint):
        """Return the backlog with which a server of this endpoint listens."""
        reactor = MemoryReactor()
        self.successResultOf(serverFromString(reactor, endpoint).listen(ServerFactory()))
        (server,) = [*reactor.tcpServers, *reactor.unixServers]
        return server[2]
