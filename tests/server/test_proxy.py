"""Connections through a proxy: who may send a header, and what it changes, in whole sessions."""

from ipaddress import ip_network

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IProtocolFactory, ISSLTransport
from twisted.internet.protocol import Protocol
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from popserv.auth.throttle.slots import MAX_CONCURRENT
from popserv.auth.throttle.starts import BURST
from popserv.server import proxy
from popserv.server.connection_limit import CountedConnections
from popserv.server.proxy import ProxyFactory
from popserv.testing import MemoryTransport
from popserv.transports.networks import LOOPBACK
from popserv.transports.tls import TLSFactory
from tests.auth.throttle.test_login_throttle import ThrottleCase
from tests.commands.harness import BEGIN_TLS, LOCAL_PEER, NEEDS_TLS, REMOTE_PEER, RecordingTransport
from tests.transports.test_proxy_header import INET, TLS_12, UNIX, binary, tlv
from tests.transports.test_tls import Client as TLSClient
from tests.transports.test_tls import load

GREETING = b"+OK POP3 server ready\r\n"
LINE = b"PROXY TCP4 192.0.2.1 192.0.2.11 56324 110\r\n"
OWN_LINE = b"PROXY TCP4 127.0.0.1 127.0.0.1 56324 110\r\n"
OWN_LINE_6 = b"PROXY TCP6 ::1 ::1 56324 110\r\n"
MAPPED_LINE = b"PROXY TCP6 ::ffff:127.0.0.1 ::ffff:127.0.0.1 56324 110\r\n"
OVER_TLS = binary(INET + TLS_12)
REJECTED = "closed, no valid PROXY header"


class ProxiedClient:
    """A connection to a ProxyFactory; its transport has the protocol, as Twisted's have."""

    def __init__(self, factory, clock, peer=LOCAL_PEER):
        self.clock = clock
        self.transport = RecordingTransport(peerAddress=peer)
        receiver = factory.buildProtocol(peer)
        receiver.callLater = clock.callLater
        self.transport.protocol = receiver
        self.is_lost = False
        receiver.makeConnection(self.transport)

    @property
    def server(self):
        """The protocol that the transport has now."""
        return self.transport.protocol

    def send(self, octets):
        """Send octets as one packet; return the octets that the server has sent."""
        self.server.dataReceived(octets)
        self.clock.advance(0)
        return self.received()

    def received(self):
        """Return the octets that the server has sent since the last call."""
        octets = self.transport.value()
        self.transport.clear()
        return octets

    def lose(self, error=None):
        """Lose the connection, once."""
        if not self.is_lost:
            self.is_lost = True
            self.server.connectionLost(Failure(error or ConnectionDone()))


class ProxyCase(ThrottleCase):
    """A server behind a proxy on this machine, on a test clock."""

    allow_plaintext = True

    def serve(self, *checkers, proxies=LOOPBACK, **options):
        """Make the server."""
        super().serve(*checkers, **options)
        self.factory.allow_plaintext = self.allow_plaintext
        build = self.factory.buildProtocol

        def build_on_clock(address):
            server = build(address)
            server.callLater = self.clock.callLater
            server.seconds = self.clock.seconds
            return server

        self.factory.buildProtocol = build_on_clock
        self.proxy = ProxyFactory(self.factory, proxies, now=self.clock.seconds)

    def through_proxy(self, octets=b"", peer=LOCAL_PEER):
        """Return a client on whose connection these octets were sent."""
        client = ProxiedClient(self.proxy, self.clock, peer)
        self.addCleanup(client.lose)
        if octets:
            client.server.dataReceived(octets)
        return client

    def rejections(self):
        """Return the lines of the log about connections that were closed."""
        return [line for line in self.lines() if REJECTED in line]


class HeaderTests(ProxyCase):
    """Who may send a header, when, and what comes after it."""

    def test_interfaces(self):
        """The factory provides its interface."""
        self.assertTrue(verifyObject(IProtocolFactory, self.proxy))

    def test_sent_at_once(self):
        """A header that has arrived with the connection is read before the next is accepted."""
        self.patch(proxy, "can_use_socket", lambda transport: True)
        arrived = {b"": b"", LINE[:9]: b"", LINE: GREETING, LINE + b"NOOP\r\n": GREETING}
        for octets, sent in arrived.items():
            self.patch(proxy, "receive_now", lambda transport, octets=octets: octets)
            client = self.through_proxy()
            self.assertTrue(client.received().startswith(sent), octets)
            waits = client.server.__class__ is proxy.HeaderReceiver
            self.assertEqual(waits, not sent)
            self.assertEqual(list(self.factory.connections), [client.server])
            if waits:
                self.assertEqual(client.send(LINE[len(octets) :]), GREETING)
            self.clock.advance(6)
            self.assertFalse(client.transport.aborted)
            client.lose()
        self.patch(proxy, "receive_now", lambda transport: b"NOOP\r\n")
        self.assertTrue(self.through_proxy().transport.aborted)
        self.clock.advance(6)
        self.assertEqual(len(self.rejections()), 1)
        self.assertEqual(len(self.factory.connections), 0)

    def test_start(self):
        """The factory starts and stops the other one with itself, without a line in the log."""
        calls = []
        self.factory.startFactory = lambda: calls.append("start")
        self.factory.stopFactory = lambda: calls.append("stop")
        self.proxy.doStart()
        ports = (self.factory.numPorts, self.proxy.numPorts)
        self.assertEqual((calls, ports), (["start"], (1, 1)))
        self.proxy.doStop()
        ports = (self.factory.numPorts, self.proxy.numPorts)
        self.assertEqual((calls, ports), (["start", "stop"], (0, 0)))
        self.assertEqual(self.lines(), [])

    def test_greeting(self):
        """The greeting is sent after the header, and not before."""
        client = self.through_proxy()
        self.assertEqual(client.send(LINE[:-1]), b"")
        self.assertEqual(client.send(LINE[-1:]), GREETING)

    def test_pipelined(self):
        """What follows the header in the same packet reaches the protocol, once and in order."""
        commands = b"USER ann\r\nPASS pw\r\nSTAT\r\nNO"
        for header in (LINE, OVER_TLS, binary(first=0x20, second=0)):
            client = self.through_proxy(header + commands)
            self.assertEqual(
                client.received() + client.send(b"OP\r\n"),
                GREETING
                + b"+OK send PASS\r\n+OK ann's maildrop has 2 messages (10 octets)\r\n+OK 2 10\r\n"
                + b"+OK nothing done\r\n",
            )
            client.lose()

    def test_split(self):
        """A header may come octet by octet."""
        for header in (LINE, b"PROXY UNKNOWN\r\n", OVER_TLS, binary(UNIX + TLS_12, second=0x31)):
            client = self.through_proxy()
            replies = [client.send(bytes([octet])) for octet in header + b"NOOP\r\n"]
            self.assertEqual(set(replies[: len(header) - 1]), {b""})
            self.assertEqual(replies[len(header) - 1], GREETING)
            self.assertEqual(replies[-1], b"-ERR log in first\r\n")

    def test_who(self):
        """Headers are believed from the proxies and from UNIX sockets; others are cut at once."""
        for proxies, peer, believed in [
            (LOOPBACK, LOCAL_PEER, True),
            (LOOPBACK, IPv6Address("TCP", "::1", 1), True),
            (LOOPBACK, IPv6Address("TCP", "::ffff:127.0.0.1", 1), True),
            (LOOPBACK, UNIXAddress(None), True),
            (LOOPBACK, UNIXAddress(b"/s"), True),
            (LOOPBACK, REMOTE_PEER, False),
            (LOOPBACK, object(), False),
            (LOOPBACK, None, False),
            ([ip_network("192.0.2.0/24")], REMOTE_PEER, True),
            ([ip_network("192.0.2.0/24")], IPv6Address("TCP", "::ffff:192.0.2.9", 1), True),
            ([ip_network("192.0.2.0/24")], UNIXAddress(None), True),
            ([ip_network("192.0.2.0/24")], IPv4Address("TCP", "192.0.3.1", 1), False),
            ([ip_network("192.0.2.0/24")], LOCAL_PEER, False),
            ([ip_network("fe80::/64")], IPv6Address("TCP", "fe80::1%eth0", 1), True),
            ([ip_network("2001:db8::/32")], IPv6Address("TCP", "2001:db9::1", 1), False),
        ]:
            self.serve(proxies=proxies)
            client = self.through_proxy(peer=peer)
            self.assertEqual(client.transport.aborted, not believed, (proxies, peer))
            self.assertEqual(client.received(), b"")
            if believed:
                self.assertEqual(client.send(LINE), GREETING)
        expected = "192.0.2.1:4321: closed, no valid PROXY header: this address is not a proxy of"
        self.assertIn(expected, self.rejections()[0])

    def test_garbage(self):
        """What is not a header closes the connection, with a line in the log and no reply."""
        for octets in (
            b"USER ann\r\n",
            b"\x16\x03\x01",
            LINE.replace(b".1 ", b".01 "),
            b"PROXY x\r\n",
        ):
            client = self.through_proxy(octets)
            self.assertTrue(client.transport.aborted)
            client.lose(ConnectionAborted())
            self.assertEqual(client.received(), b"")
        self.assertEqual(len(self.rejections()), 4)
        self.assertIn("the connection does not begin with a PROXY header", self.rejections()[0])
        self.assertEqual(len(self.factory.connections), 0)

    def test_no_header(self):
        """Without a whole header within 5 seconds the connection is closed."""
        for octets in (b"", LINE[:-1]):
            client = self.through_proxy()
            self.clock.advance(4)
            if octets:
                client.send(octets)
            self.assertFalse(client.transport.aborted)
            self.clock.advance(1)
            self.assertTrue(client.transport.aborted)
            client.lose(ConnectionAborted())
        self.assertEqual(
            [line.partition("header: ")[2] for line in self.rejections()],
            ["not received within 5 seconds"] * 2,
        )
        self.assertEqual(len(self.factory.connections), 0)

    def test_header_in_time(self):
        """After the header, its timer does not close the connection."""
        client = self.through_proxy(LINE)
        self.clock.advance(6)
        self.assertFalse(client.transport.disconnecting)

    def test_lost(self):
        """A connection without any octet, a health check, is not logged; a part of a header is."""
        for octets, count in ((b"", 0), (LINE[:9], 1)):
            client = self.through_proxy(octets)
            client.lose()
            self.assertEqual(len(self.rejections()), count)
        self.assertEqual(len(self.factory.connections), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_log_limit(self):
        """At most 20 rejected connections are logged in a minute, and that there were more."""
        more = "more connections without a valid PROXY header are not logged for 41 s"
        for n in range(1, 51):
            self.through_proxy(peer=REMOTE_PEER)
            self.assertEqual(len(self.rejections()), min(n, 20))
            self.clock.advance(1)
        self.assertEqual(self.lines().count(more), 1)
        self.clock.advance(10)
        self.through_proxy(peer=REMOTE_PEER)
        self.assertEqual(len(self.rejections()), 21)

    def test_rest(self):
        """What follows the header goes to the other protocol, unless that has closed at once."""
        for octets, closes, expected in (
            (LINE, False, []),
            (LINE + b"NOOP\r\n", False, [b"NOOP\r\n"]),
            (LINE + b"NOOP\r\n", True, []),
        ):
            received = []

            def build(address, received=received, closes=closes):
                protocol = Protocol()
                protocol.dataReceived = received.append
                if closes:
                    protocol.connectionMade = lambda: protocol.transport.loseConnection()
                return protocol

            self.factory.buildProtocol = build
            self.through_proxy(octets)
            self.assertEqual(received, expected)

    def test_refused(self):
        """A factory that closes a connection at once gets nothing of what follows the header."""
        self.serve(max_connections=1)
        first = self.through_proxy(LINE + b"USER ann\r\nPASS pw\r\n")
        second = self.through_proxy()
        self.assertTrue(second.transport.aborted)
        first.lose()
        third = self.through_proxy()
        # A client without a proxy takes the last place.
        self.factory.max_connections = 0
        self.assertEqual(
            third.send(LINE + b"NOOP\r\n"),
            b"-ERR [SYS/TEMP] too many connections, try again later\r\n",
        )


class EvictionTests(ProxyCase):
    """Connections that wait for a header, and the connection limit."""

    def test_waiting(self):
        """They count; if most connections wait, the one that waits longest is closed."""
        self.serve(max_connections=6)
        ann = self.through_proxy(LINE + b"USER ann\r\nPASS pw\r\n")
        other = self.through_proxy(LINE)
        waiting = [self.through_proxy() for _ in range(30)]
        self.assertEqual([each.transport.aborted for each in waiting], [True] * 26 + [False] * 4)
        self.assertEqual(waiting[-1].send(LINE), GREETING)
        for each in (ann, other, waiting[-1]):
            self.assertFalse(each.transport.aborted)
        self.assertEqual(len(self.factory.connections), 6)

    def test_counted_once(self):
        """A connection is counted when it has its header, and once, however late that is."""
        counts = CountedConnections()
        self.serve(connections=counts)
        late = [self.through_proxy() for _ in range(3)]
        self.assertEqual((counts.accepted, counts.by_number, len(counts)), (0, {}, 3))
        for each in late[:2]:
            each.send(LINE)
        at_once = self.through_proxy(LINE)
        late[2].lose()
        servers = [late[0].server, late[1].server, at_once.server]
        self.assertEqual((counts.accepted, len(counts)), (3, 3))
        self.assertEqual(list(counts.by_number.values()), servers)

    def test_client_address(self):
        """After the header the client's address counts, for eviction and for penalties."""
        self.serve(max_connections=6)
        one = self.through_proxy(b"PROXY TCP4 198.51.100.7 203.0.113.1 4711 110\r\n")
        flood = [self.through_proxy(LINE) for _ in range(20)]
        aborted = [each.transport.aborted for each in flood]
        self.assertEqual(aborted, [True] * 15 + [False] * 5)
        self.assertFalse(one.transport.aborted)
        for n in range(2):
            one.send(b"USER ann\r\nPASS %d\r\n" % n)
            self.clock.advance(5)
        penalties = self.factory.throttle.penalties
        factors = [penalties.delay_factor(each) for each in ("198.51.100.7", "192.0.2.1")]
        self.assertEqual(factors, [4, 1])

    def test_evicted(self):
        """A connection that was evicted while it waits is not logged."""
        self.serve(max_connections=1)
        evicted = self.through_proxy(LINE[:9])
        self.through_proxy()
        self.assertTrue(evicted.transport.aborted)
        evicted.lose(ConnectionAborted())
        self.assertEqual((self.rejections(), len(self.factory.connections)), ([], 1))


class ClaimTests(ProxyCase):
    """What a header changes: the client's address, and whether it uses TLS."""

    allow_plaintext = False

    def peer(self, client):
        """Return the client's address and port, as its session knows them."""
        return client.server.session.peer()

    def test_address(self):
        """The client has the address of the header; without one, that of the connection."""
        for header, peer, network in [
            (LINE, ("192.0.2.1", 56324), "192.0.2.1"),
            (b"PROXY TCP6 2001:DB8::7 :: 1023 110\r\n", ("2001:db8::7", 1023), "2001:db8::/64"),
            (OVER_TLS, ("192.0.2.1", 56324), "192.0.2.1"),
            (b"PROXY UNKNOWN\r\n", (LOCAL_PEER.host, LOCAL_PEER.port), None),
            (binary(INET, first=0x20), (LOCAL_PEER.host, LOCAL_PEER.port), None),
            (binary(second=0), (LOCAL_PEER.host, LOCAL_PEER.port), None),
            (binary(UNIX, second=0x31), (LOCAL_PEER.host, LOCAL_PEER.port), None),
        ]:
            client = self.through_proxy(header)
            self.assertEqual(self.peer(client), peer)
            self.assertEqual(client.server.throttle.network, network)

    def test_cleartext(self):
        """A password is taken over TLS, here or at the proxy, and from the proxy's own machine.

        An address of the loopback interface in a header is a client of the proxy, no more.
        """
        remote = IPv4Address("TCP", "203.0.113.1", 4711)
        own, unknown = binary(first=0x20, second=0), b"PROXY UNKNOWN\r\n"
        claims_tls = binary(INET, first=0x20) + TLS_12
        for header, peer, accepted in [
            (LINE, LOCAL_PEER, False),
            (OWN_LINE, LOCAL_PEER, False),
            (OWN_LINE_6, LOCAL_PEER, False),
            (MAPPED_LINE, LOCAL_PEER, False),
            (OWN_LINE, UNIXAddress(None), False),
            (binary(INET + tlv(0x20, b"\6\0\0\0\0")), LOCAL_PEER, False),
            (OVER_TLS, LOCAL_PEER, True),
            (OVER_TLS, remote, True),
            (binary(UNIX + TLS_12, second=0x31), remote, True),
            (unknown, LOCAL_PEER, True),
            (unknown, UNIXAddress(None), True),
            (unknown, remote, False),
            (own, LOCAL_PEER, True),
            (own, remote, False),
            (binary(TLS_12, first=0x20, second=0), remote, False),
            (claims_tls[:12] + b"\x20\x11\0\0", remote, False),
        ]:
            self.serve(proxies=[*LOOPBACK, ip_network("203.0.113.1")])
            client = self.through_proxy(header, peer)
            self.assertEqual(client.received(), GREETING)
            reply = client.send(b"USER ann\r\n")
            self.assertEqual(reply, b"+OK send PASS\r\n" if accepted else NEEDS_TLS, header)

    def test_guessing(self):
        """A loopback address in a header is throttled as any other: 4 guesses at a time."""
        self.factory.allow_plaintext = True
        for header in (LINE, OWN_LINE, OWN_LINE_6, MAPPED_LINE):
            clients = [
                self.through_proxy(header + b"USER ann\r\nPASS %d\r\n" % n) for n in range(40)
            ]
            refused = [0, 0]
            for attempt, seconds in enumerate((2, 13)):
                self.clock.advance(seconds)
                refused[attempt] = sum(b"-ERR" in client.received() for client in clients)
            self.assertIn(refused[0], range(1, MAX_CONCURRENT + 1))
            self.assertLessEqual(sum(refused), 2 * MAX_CONCURRENT)
            for client in clients:
                client.lose()

    def test_trusted(self):
        """A network of --trusted-networks may be one of a client in a header."""
        self.serve(trusted_networks=[ip_network("192.0.2.0/24")])
        self.assertIsNone(self.through_proxy(LINE).server.throttle.network)
        network = self.through_proxy(OWN_LINE).server.throttle.network
        self.assertEqual(network, "127.0.0.1")

    def test_require_tls(self):
        """TLS at the proxy satisfies --require-tls; a local connection does not."""
        self.serve(require_tls=True)
        for header, accepted in [
            (LINE, False),
            (OWN_LINE, False),
            (b"PROXY UNKNOWN\r\n", False),
            (OVER_TLS, True),
            (binary(TLS_12, second=0), True),
        ]:
            reply = self.through_proxy(header + b"USER ann\r\n").received()
            self.assertEqual(reply.endswith(b"+OK send PASS\r\n"), accepted, header)

    def test_stls(self):
        """STLS is offered, unless the client's TLS ends at the proxy; channel binding is not."""
        self.serve(tls=object())
        for header, offered in ((LINE, True), (OVER_TLS, False)):
            client = self.through_proxy(header)
            client.received()
            self.assertEqual(b"\r\nSTLS\r\n" in client.send(b"CAPA\r\n"), offered)
            self.assertEqual(client.send(b"STLS\r\n") == BEGIN_TLS, offered)
            session = client.server.session
            self.assertEqual(
                (session.can_start_tls, session.tls_state is None), (False, not offered)
            )

    def test_stls_address(self):
        """After STLS the client still has the address of the header."""
        self.serve(tls=object())
        client = self.through_proxy(OWN_LINE)
        client.send(b"STLS\r\n")
        self.assertTrue(ISSLTransport.providedBy(client.transport))
        self.assertEqual(client.server.throttle.network, "127.0.0.1")


class WrapperTests(ProxyCase):
    """Factories around a POP3Factory."""

    def test_limit(self):
        """The connection limit is that of the POP3Factory inside."""
        wrapped = WrappingFactory(WrappingFactory(self.factory))
        self.assertIs(ProxyFactory(wrapped).pop3_factory, self.factory)

    def test_declined(self):
        """A connection for which the factory has no protocol is closed."""
        self.factory.buildProtocol = lambda address: None
        client = self.through_proxy(LINE)
        self.assertTrue(client.transport.aborted)
        client.lose(ConnectionAborted())
        self.assertEqual(self.rejections(), [])

    def test_handshake_waits(self):
        """A handshake waits for its turn, also if the packet of the header begins it."""
        self.proxy = ProxyFactory(TLSFactory(load(self), self.factory), now=self.clock.seconds)
        for _ in range(BURST):
            self.factory.throttle.starts.count(self.clock)
        client = self.through_proxy(LINE + TLSClient().handshake())
        self.assertEqual(client.received(), b"")
        self.clock.advance(1)
        self.assertEqual(client.received()[:1], b"\x16")

    def wrap(self, wrapping):
        """Return the server and the transport of a connection through a wrapping factory."""
        wrapper = wrapping.buildProtocol(None)
        server = wrapper.wrappedProtocol
        transport = MemoryTransport(peerAddress=LOCAL_PEER)
        wrapper.makeConnection(transport)
        self.addCleanup(wrapper.connectionLost, Failure(ConnectionDone()))
        return server, transport

    def test_twisted(self):
        """A connection from Twisted's own endpoint haproxy: is closed, with a line in the log."""
        for wrapping in (
            HAProxyWrappingFactory(self.factory),
            HAProxyWrappingFactory(WrappingFactory(self.factory)),
        ):
            _, transport = self.wrap(wrapping)
            self.assertEqual((transport.value(), transport.disconnecting), (b"", True))
        line = (
            "connection closed: Twisted's endpoint haproxy: believes every client; "
            "use popserv.server.ProxyFactory instead"
        )
        self.assertEqual(self.lines().count(line), 2)

    def test_wrapper(self):
        """Behind another wrapper of Twisted there is no STLS, of which it would not know."""
        self.serve(tls=object())
        server, transport = self.wrap(WrappingFactory(self.factory))
        self.assertIsInstance(server.transport, ProtocolWrapper)
        self.assertEqual(transport.value(), GREETING)
        self.assertFalse(server.session.can_start_tls)
