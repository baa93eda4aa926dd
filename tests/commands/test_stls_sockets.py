"""STLS with TCP connections and real TLS."""

from functools import partial

from twisted.cred.credentials import IUsernamePassword
from twisted.cred.portal import Portal
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.ssl import (
    PrivateCertificate,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.internet.task import deferLater
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import TestCase

from popserv.auth.realm import MaildropRealm
from popserv.commands import capa, rfc1725, stls
from popserv.core.command import CommandTable, command
from popserv.core.grammar import no_arguments
from popserv.core.replies import Reply
from popserv.core.session import State
from popserv.maildrops.memory import MemoryMaildrops
from popserv.server.factory import POP3Factory
from popserv.server.protocol import POP3Server
from popserv.server.proxy import ProxyFactory
from popserv.tls.certificates import Certificates
from popserv.transports.liveness import HAS_PROBES
from popserv.transports.peers import peer_name
from popserv.transports.tls import TLSFactory
from tests.certificates import issue, make_authority
from tests.commands.harness import BEGIN_TLS, NEEDS_TLS, NO_TLS, Checker, check_password
from tests.transcripts import SocketPeer
from tests.transports.test_liveness import vanish, wait

CA = make_authority()


SERVER = issue("pop.example.org", issuer=CA)


class Big:
    """Counts the chunks of BIG's body that were generated."""

    generated = 0


@command(b"BIG", State.TRANSACTION, no_arguments)
def big(session):
    """Return a body of 64 MiB."""

    def body():
        for _ in range(1024):
            Big.generated += 1
            yield b"x" * 65534 + b"\r\n"

    return Reply(b"big", body())


class STLSSocketTests(TestCase):
    """STLS over TCP, with a TLS client."""

    def setUp(self):
        """Create the server's certificate, and the client's trust in it."""
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(SERVER.pem())
        self.store = MemoryMaildrops()
        self.store.deliver(b"ann", b"one\n")
        self.certificates = Certificates(path)
        self.options = optionsForClientTLS(
            "pop.example.org",
            trustRootFromCertificates([PrivateCertificate.loadPEM(CA.pem())]),
        )
        self.serve()

    def serve(self, **options):
        """Create the factory; record its protocols, and when a connection is lost."""
        portal = Portal(MaildropRealm(self.store), [Checker(check_password, IUsernamePassword)])
        commands = CommandTable(rfc1725.COMMANDS, capa.COMMANDS, stls.COMMANDS, [big])
        self.factory = POP3Factory(commands, portal, tls=self.certificates, **options)
        self.servers, self.lost = [], Deferred()
        build, over = self.factory.buildProtocol, self.lost

        def build_recorded(address):
            server = build(address)
            lost = server.connectionLost

            def connection_lost(reason):
                lost(reason)
                over.callback(None)

            server.connectionLost = connection_lost
            self.servers.append(server)
            return server

        self.factory.buildProtocol = build_recorded

    async def connect(self, factory=None, first=b"", tls=False):
        """Return a client that has sent ``first``, perhaps started TLS, and read the greeting."""
        endpoint = serverFromString(reactor, "tcp:0:interface=127.0.0.1")
        port = await endpoint.listen(factory or self.factory)
        self.addCleanup(port.stopListening)
        peer = await SocketPeer.connect(port.getHost().port)
        peer.transport.write(first)
        if tls:
            peer.transport.startTLS(self.options)
        await self.expect(peer, b"+OK POP3 server ready\r\n")
        return peer

    async def expect(self, peer, octets):
        """Check the next octets that the client reads."""
        self.assertEqual(await peer.read(len(octets)), octets)

    async def exchange(self, peer, octets, reply):
        """Send octets, and check the reply."""
        peer.transport.write(octets)
        await self.expect(peer, reply)

    async def start_tls(self, peer, octets=b"STLS\r\n"):
        """Send STLS, and start TLS."""
        await self.exchange(peer, octets, BEGIN_TLS)
        peer.transport.startTLS(self.options)

    async def quit(self, peer):
        """Send QUIT, and wait until both ends are closed."""
        peer.transport.write(b"QUIT\r\n")
        self.assertRegex(await peer.closed(), rb"^\+OK [^\r]+signing off[^\r]*\r\n$")
        await self.lost

    async def test_session(self):
        """A session after STLS is like any other, with pipelining."""
        peer = await self.connect()
        await self.start_tls(peer)
        await self.exchange(
            peer,
            b"USER ann\r\nPASS pw\r\nSTAT\r\nRETR 1\r\nNOOP\r\n",
            b"+OK send PASS\r\n+OK ann's maildrop has 1 message (5 octets)\r\n+OK 1 5\r\n"
            b"+OK 5 octets\r\none\r\n.\r\n+OK nothing done\r\n",
        )
        await self.quit(peer)
        self.assertEqual(self.store.locked, set())

    async def test_injected(self):
        """Commands that were injected after STLS are neither run nor answered (section 7)."""
        peer = await self.connect()
        await self.start_tls(peer, b"STLS\r\nUSER ann\r\nCAPA\r\nNO")
        await self.exchange(peer, b"OP\r\nPASS pw\r\n", b"-ERR unknown command\r\n")
        await self.expect(peer, b"-ERR send USER first\r\n")
        await self.quit(peer)

    async def test_early_client_hello(self):
        """A ClientHello in the same packet as STLS is discarded."""
        self.serve(idle_timeout=0.2)
        peer = await self.connect()
        peer.transport.write(b"STLS\r\n" + b"\x16\x03\x01\x00\x05hello")
        await self.expect(peer, BEGIN_TLS)
        await self.lost
        self.assertEqual(await peer.closed(), b"")

    async def test_garbage(self):
        """Data that is not TLS closes the connection, and the reason is logged."""
        log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        for garbage in (b"USER ann\r\n", b"\0" * 4096, b"\x16\x03\x01" + b"\xff" * 600):
            self.serve()
            peer = await self.connect()
            await self.exchange(peer, b"STLS\r\n", BEGIN_TLS)
            peer.transport.write(garbage)
            await self.lost
            self.assertNotIn(b"OK", await peer.closed())
            self.assertEqual(list(self.factory.connections), [])
        reasons = [
            formatEvent(event) for event in log if "TLS handshake failed" in formatEvent(event)
        ]
        self.assertEqual(len(reasons), 3)
        self.assertRegex(reasons[0], r"^127\.0\.0\.1:\d+: TLS handshake failed: [a-z ]+$")

    async def test_no_handshake(self):
        """The idle timer closes a connection whose handshake does not start or not end."""
        for octets in (b"", b"\x16\x03\x01\x02\x00\x01"):
            self.serve(idle_timeout=0.2)
            peer = await self.connect()
            await self.exchange(peer, b"STLS\r\n", BEGIN_TLS)
            peer.transport.write(octets)
            await self.lost
            self.assertEqual(await peer.closed(), b"")
            self.assertEqual(list(self.factory.connections), [])

    async def test_lost_in_handshake(self):
        """A client may disconnect during the handshake."""
        peer = await self.connect()
        await self.exchange(peer, b"STLS\r\n", BEGIN_TLS)
        await peer.lose()
        await self.lost
        self.assertEqual(list(self.factory.connections), [])

    async def test_vanished(self):
        """A client that has vanished after STLS is found."""
        peer = await self.connect()
        await self.start_tls(peer)
        await self.exchange(peer, b"USER ann\r\n", b"+OK send PASS\r\n")
        vanish(peer.transport.socket)
        await wait(1.1)
        (server,) = self.servers
        self.assertTrue(await server.is_gone())
        server.replace()
        await self.lost
        peer.transport.abortConnection()
        await peer.closed()

    test_vanished.skip = None if HAS_PROBES else "Linux is required"

    async def test_slow_reader(self):
        """A body is generated as fast as the client reads it over TLS."""
        peer = await self.connect()
        await self.start_tls(peer)
        await self.check_slow_reader(peer)

    async def check_slow_reader(self, peer):
        """Check that a body is generated as fast as the client reads it."""
        Big.generated = 0
        await self.exchange(peer, b"USER ann\r\n", b"+OK send PASS\r\n")
        await self.exchange(
            peer, b"PASS pw\r\n", b"+OK ann's maildrop has 1 message (5 octets)\r\n"
        )
        peer.transport.pauseProducing()
        peer.transport.write(b"BIG\r\nNOOP\r\n")
        (server,) = self.servers
        while not server.output.is_paused and Big.generated < 1024:
            await deferLater(reactor, 0.001)
        before = -1
        while before != Big.generated:
            before = Big.generated
            await deferLater(reactor, 0.05)
        self.assertLess(Big.generated, 512)
        read, done = bytearray(), Deferred()
        tail = b".\r\n+OK nothing done\r\n"

        def data_received(data):
            read.extend(data)
            if read.endswith(tail):
                done.callback(None)

        peer.dataReceived = data_received
        peer.transport.resumeProducing()
        await done
        self.assertEqual(read, b"+OK big\r\n" + (b"x" * 65534 + b"\r\n") * 1024 + tail)
        peer.transport.loseConnection()
        await peer.disconnected
        await self.lost

    async def test_proxy(self):
        """TLS works behind a proxy that sends the client's address."""
        first = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
        peer = await self.connect(ProxyFactory(self.factory), first=first)
        await self.exchange(peer, b"USER ann\r\n", NEEDS_TLS)
        await self.start_tls(peer, b"STLS\r\nUSER ann\r\nCAPA\r\nNO")
        await self.exchange(peer, b"PASS pw\r\n", b"-ERR send USER first\r\n")
        await self.exchange(peer, b"STLS\r\n", NO_TLS)
        (server,) = self.servers
        self.assertEqual(
            (peer_name(server.transport), server.session.allows_cleartext), ("192.0.2.1:1", True)
        )
        self.assertEqual(list(self.factory.connections), [server])
        await self.exchange(
            peer,
            b"USER ann\r\nPASS pw\r\nRETR 1\r\n",
            b"+OK send PASS\r\n+OK ann's maildrop has 1 message (5 octets)\r\n"
            b"+OK 5 octets\r\none\r\n.\r\n",
        )
        await self.quit(peer)
        self.assertEqual(list(self.factory.connections), [])
        self.serve()
        over_tls = TLSFactory(self.certificates, self.factory)
        peer = await self.connect(ProxyFactory(over_tls), tls=True, first=first)
        (server,) = self.servers
        self.assertEqual(
            (peer_name(server.transport), server.session.allows_cleartext), ("192.0.2.1:1", True)
        )
        await self.quit(peer)

    async def test_tls_port_slow_reader(self):
        """A body is generated as fast as the client reads it on a TLS port."""
        over_tls = TLSFactory(self.certificates, self.factory)
        await self.check_slow_reader(await self.connect(over_tls, tls=True))

    async def test_tls_port_no_tls(self):
        """On a TLS port, data that is not TLS closes the connection; the reason is logged."""
        log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        endpoint = serverFromString(reactor, "tcp:0:interface=127.0.0.1")
        port = await endpoint.listen(TLSFactory(self.certificates, self.factory))
        self.addCleanup(port.stopListening)
        peer = await SocketPeer.connect(port.getHost().port)
        peer.transport.write(b"USER ann\r\n")
        await self.lost
        self.assertNotIn(b"OK", await peer.closed())
        self.assertTrue([each for each in log if "TLS handshake failed" in formatEvent(each)])
        self.assertEqual(list(self.factory.connections), [])

    async def test_tls_port_full(self):
        """If all connections have logged in, a new one does not wait for a handshake."""
        log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        self.serve(max_connections=1)
        over_tls = TLSFactory(self.certificates, self.factory)
        first = await self.connect(over_tls, tls=True)
        await self.exchange(first, b"USER ann\r\n", b"+OK send PASS\r\n")
        welcome = b"+OK ann's maildrop has 1 message (5 octets)\r\n"
        await self.exchange(first, b"PASS pw\r\n", welcome)
        second = await SocketPeer.connect(first.transport.getPeer().port)
        self.assertEqual(await second.closed(), b"")
        await self.lost
        self.assertEqual(len(self.factory.connections), 1)
        self.assertEqual([each for each in log if "handshake" in formatEvent(each)], [])
        self.servers[0].connectionLost = partial(POP3Server.connectionLost, self.servers[0])
        await first.lose()
        while self.store.locked:
            await wait(0.01)

    async def test_tls_port(self):
        """On a TLS port the greeting is sent over TLS, and there is no STLS."""
        over_tls = TLSFactory(self.certificates, self.factory)
        peer = await self.connect(over_tls, tls=True)
        await self.exchange(peer, b"STLS\r\n", NO_TLS)
        await self.quit(peer)
