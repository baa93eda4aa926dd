"""STLS over sockets, with real TLS."""

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
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase

from popserv.auth.realm import MaildropRealm
from popserv.commands import capa, rfc1725, stls
from popserv.core.command import CommandTable, command
from popserv.core.grammar import no_arguments
from popserv.core.replies import Reply
from popserv.core.session import State
from popserv.maildrops.memory import MemoryMaildrops
from popserv.server.factory import POP3Factory
from popserv.tls.certificates import Certificates
from popserv.transports.peers import peer_name
from tests.certificates import issue, make_authority
from tests.commands.harness import BEGIN_TLS, NEEDS_TLS, NO_TLS, Checker, password_of_ann
from tests.transcripts import SocketPeer

CA = make_authority()


SERVER = issue("pop.example.org", issuer=CA)


class Big:
    """How many of BIG's chunks were made."""

    taken = 0


@command(b"BIG", State.TRANSACTION, no_arguments)
def big(session):
    """A body of 64 MiB, which counts what was taken of it."""

    def body():
        for _ in range(1024):
            Big.taken += 1
            yield b"x" * 65534 + b"\r\n"

    return Reply(b"big", body())


class SocketTests(TestCase):
    """Over sockets, with real TLS."""

    def setUp(self):
        """A server with a certificate, and what a client needs to believe in it."""
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
        """Make the factory; note its connections' servers, and when they are over."""
        portal = Portal(MaildropRealm(self.store), [Checker(password_of_ann, IUsernamePassword)])
        commands = CommandTable(rfc1725.COMMANDS, capa.COMMANDS, stls.COMMANDS, [big])
        self.factory = POP3Factory(commands, portal, tls=self.certificates, **options)
        self.servers, self.over = [], Deferred()
        build, over = self.factory.buildProtocol, self.over

        def build_noted(address):
            server = build(address)
            lost = server.connectionLost

            def noted(reason):
                lost(reason)
                over.callback(None)

            server.connectionLost = noted
            self.servers.append(server)
            return server

        self.factory.buildProtocol = build_noted

    async def connect(self, factory=None, kind="tcp", first=b"", tls=False):
        """A client that has said this, perhaps begun TLS, and read the greeting."""
        endpoint = serverFromString(reactor, f"{kind}:0:interface=127.0.0.1")
        port = await endpoint.listen(factory or self.factory)
        self.addCleanup(port.stopListening)
        peer = await SocketPeer.connect(port.getHost().port)
        peer.transport.write(first)
        if tls:
            peer.transport.startTLS(self.options)
        await self.expect(peer, b"+OK POP3 server ready\r\n")
        return peer

    async def expect(self, peer, octets):
        """The next octets that the client reads are these."""
        self.assertEqual(await peer.read(len(octets)), octets)

    async def talk(self, peer, octets, answer):
        """Send octets, and read the answer."""
        peer.transport.write(octets)
        await self.expect(peer, answer)

    async def starttls(self, peer, octets=b"STLS\r\n"):
        """Have TLS, by STLS."""
        await self.talk(peer, octets, BEGIN_TLS)
        peer.transport.startTLS(self.options)

    async def leave(self, peer):
        """Quit; both ends are over."""
        peer.transport.write(b"QUIT\r\n")
        self.assertRegex(await peer.closed(), rb"^\+OK [^\r]+signing off[^\r]*\r\n$")
        await self.over

    async def test_session(self):
        """A session over STLS is one as any other, pipelining and all."""
        peer = await self.connect()
        await self.starttls(peer)
        await self.talk(
            peer,
            b"USER ann\r\nPASS pw\r\nSTAT\r\nRETR 1\r\nNOOP\r\n",
            b"+OK send PASS\r\n+OK ann's maildrop has 1 message (5 octets)\r\n+OK 1 5\r\n"
            b"+OK 5 octets\r\none\r\n.\r\n+OK nothing done\r\n",
        )
        await self.leave(peer)
        self.assertEqual(self.store.locked, set())

    async def test_injected(self):
        """What somebody put behind STLS is neither answered nor obeyed (section 7)."""
        peer = await self.connect()
        await self.starttls(peer, b"STLS\r\nUSER ann\r\nCAPA\r\nNO")
        await self.talk(peer, b"OP\r\nPASS pw\r\n", b"-ERR unknown command\r\n")
        await self.expect(peer, b"-ERR send USER first\r\n")
        await self.leave(peer)

    async def test_eager(self):
        """A ClientHello in STLS's own packet goes the way of all that came with it."""
        self.serve(idle_timeout=0.2)
        peer = await self.connect()
        peer.transport.write(b"STLS\r\n" + b"\x16\x03\x01\x00\x05hello")
        await self.expect(peer, BEGIN_TLS)
        await self.over
        self.assertEqual(await peer.closed(), b"")

    async def test_garbage(self):
        """What is no ClientHello ends the connection, and the log says why."""
        log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        for garbage in (b"USER ann\r\n", b"\0" * 4096, b"\x16\x03\x01" + b"\xff" * 600):
            self.serve()
            peer = await self.connect()
            await self.talk(peer, b"STLS\r\n", BEGIN_TLS)
            peer.transport.write(garbage)
            await self.over
            self.assertNotIn(b"OK", await peer.closed())
            self.assertEqual(list(self.factory.connections), [])
        told = [formatEvent(event) for event in log if "TLS handshake failed" in formatEvent(event)]
        self.assertEqual(len(told), 3)
        self.assertRegex(told[0], r"^127\.0\.0\.1:\d+: TLS handshake failed: [a-z ]+$")

    async def test_never_shakes_hands(self):
        """A client that begins no handshake, or never ends one, is cut off by the idle timer."""
        for octets in (b"", b"\x16\x03\x01\x02\x00\x01"):
            self.serve(idle_timeout=0.2)
            peer = await self.connect()
            await self.talk(peer, b"STLS\r\n", BEGIN_TLS)
            peer.transport.write(octets)
            await self.over
            self.assertEqual(await peer.closed(), b"")
            self.assertEqual(list(self.factory.connections), [])

    async def test_lost_in_the_handshake(self):
        """A client that goes away in mid-handshake is not missed."""
        peer = await self.connect()
        await self.talk(peer, b"STLS\r\n", BEGIN_TLS)
        await peer.lose()
        await self.over
        self.assertEqual(list(self.factory.connections), [])

    async def test_slow_reader(self):
        """Over STLS a server makes no more of a body than the client takes, and loses nothing."""
        Big.taken = 0
        peer = await self.connect()
        await self.starttls(peer)
        await self.talk(peer, b"USER ann\r\n", b"+OK send PASS\r\n")
        await self.talk(peer, b"PASS pw\r\n", b"+OK ann's maildrop has 1 message (5 octets)\r\n")
        peer.transport.pauseProducing()
        peer.transport.write(b"BIG\r\nNOOP\r\n")
        (server,) = self.servers
        while not server.output.is_paused and Big.taken < 1024:
            await deferLater(reactor, 0.001)
        before = -1
        while before != Big.taken:
            before = Big.taken
            await deferLater(reactor, 0.05)
        self.assertLess(Big.taken, 512)
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
        await self.over

    async def test_behind_a_proxy(self):
        """Behind a proxy that says whom it speaks for there is TLS as everywhere."""
        behind = {"kind": "haproxy:tcp", "first": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"}
        peer = await self.connect(**behind)
        await self.talk(peer, b"USER ann\r\n", NEEDS_TLS)
        await self.starttls(peer, b"STLS\r\nUSER ann\r\nCAPA\r\nNO")
        await self.talk(peer, b"PASS pw\r\n", b"-ERR send USER first\r\n")
        await self.talk(peer, b"STLS\r\n", NO_TLS)
        (server,) = self.servers
        self.assertEqual(
            (peer_name(server.transport), server.session.allows_cleartext), ("192.0.2.1:1", True)
        )
        self.assertEqual(list(self.factory.connections), [server])
        await self.talk(
            peer,
            b"USER ann\r\nPASS pw\r\nRETR 1\r\n",
            b"+OK send PASS\r\n+OK ann's maildrop has 1 message (5 octets)\r\n"
            b"+OK 5 octets\r\none\r\n.\r\n",
        )
        await self.leave(peer)
        self.assertEqual(list(self.factory.connections), [])
        self.serve()
        over_tls = TLSMemoryBIOFactory(self.certificates, False, self.factory)
        peer = await self.connect(over_tls, tls=True, **behind)
        (server,) = self.servers
        self.assertEqual(
            (peer_name(server.transport), server.session.allows_cleartext), ("192.0.2.1:1", True)
        )
        await self.leave(peer)

    async def test_from_the_first_octet(self):
        """A port for TLS has the greeting over it, and no STLS."""
        over_tls = TLSMemoryBIOFactory(self.certificates, False, self.factory)
        peer = await self.connect(over_tls, tls=True)
        await self.talk(peer, b"STLS\r\n", NO_TLS)
        await self.leave(peer)
