"""STLS: what came before it is nothing, and what comes behind it is TLS (RFC 2595 section 4)."""

from hypothesis import given
from hypothesis import strategies as st
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
from tests.commands.harness import HERE, STRANGER, Checker, ServerCase, password_of_ann
from tests.transcripts import SocketPeer

BEGIN = b"+OK begin TLS negotiation\r\n"
NOT_HERE = b"-ERR TLS is not available on this connection\r\n"
NEEDS_TLS = b"-ERR cleartext passwords are not allowed without TLS\r\n"


class STLSTests(ServerCase):
    """The server's end of it, over TLS that is none."""

    def setUp(self):
        """Make TLS possible."""
        super().setUp()
        self.tls = object()
        self.serve(tls=self.tls)

    def test_begins(self):
        """STLS is answered in the clear, then TLS begins with what the server has for it."""
        client = self.connect(peer=STRANGER)
        self.assertEqual(client.send(b"stls\r\n"), BEGIN)
        self.assertEqual(client.transport.contexts, [self.tls])
        client.server.handshakeCompleted()
        self.assertEqual(client.received(), b"", "no second greeting (section 4)")
        self.assertIn(b"maildrop has 2", client.send(b"USER ann\r\nPASS pw\r\n"))

    def test_no_argument(self):
        """STLS takes no argument (section 4)."""
        client = self.connect()
        self.assertEqual(client.send(b"STLS now\r\n"), b"-ERR no argument allowed\r\n")
        self.assertEqual(client.transport.contexts, [])

    def test_only_once(self):
        """Over TLS, by STLS or from the first octet on, there is no STLS."""
        client = self.connect()
        client.starttls()
        self.assertEqual(client.send(b"STLS\r\n"), NOT_HERE)
        self.assertEqual(self.connect(tls=True).send(b"STLS\r\n"), NOT_HERE)

    def test_not_after_login(self):
        """STLS is for the AUTHORIZATION state alone (section 4)."""
        client = self.connect(b"USER ann", b"PASS pw")
        self.assertEqual(client.send(b"STLS\r\n"), b"-ERR already logged in\r\n")
        self.assertEqual(client.transport.contexts, [])

    def test_no_certificate(self):
        """A server without a certificate has no STLS."""
        self.serve()
        self.assertEqual(self.connect().send(b"STLS\r\n"), NOT_HERE)

    def test_name_is_forgotten(self):
        """What USER said before STLS, anybody may have said (section 7)."""
        client = self.connect(b"USER ann")
        client.starttls()
        self.assertEqual(client.send(b"PASS pw\r\n"), b"-ERR send USER first\r\n")

    def test_modes_are_forgotten(self):
        """So are the language, and UTF8."""
        client = self.connect(b"LANG de", b"UTF8")
        self.assertEqual(client.send(b"NOOP\r\n"), b"-ERR zuerst anmelden\r\n")
        self.assertTrue(client.server.session.as_stored)
        client.starttls()
        self.assertEqual(client.send(b"NOOP\r\n"), b"-ERR log in first\r\n")
        self.assertFalse(client.server.session.as_stored)

    def test_timestamp_stays(self):
        """There is no second greeting, so APOP's timestamp stays that of the first."""
        self.factory.apop_available = lambda: True
        client = self.connect()
        timestamp = client.server.session.timestamp
        self.assertIn(timestamp, client.greeting)
        client.starttls()
        self.assertEqual(client.server.session.timestamp, timestamp)

    def test_guesses_stay(self):
        """STLS gives nobody more guesses."""
        client = self.connect()
        for _ in range(2):
            client.late(b"USER ann\r\nPASS no\r\n")
        client.starttls()
        client.late(b"USER ann\r\nPASS no\r\n")
        self.assertTrue(client.closed)

    def test_half_a_line_is_dropped(self):
        """Octets behind STLS are no beginning of the first line over TLS (section 7)."""
        client = self.connect()
        self.assertEqual(client.send(b"STLS\r\nUSER ann\r\nCAPA\r\nNO"), BEGIN)
        client.server.handshakeCompleted()
        self.assertEqual(client.received(), b"")
        self.assertEqual(client.send(b"OP\r\n"), b"-ERR unknown command\r\n")
        self.assertEqual(client.send(b"PASS pw\r\n"), b"-ERR send USER first\r\n")

    def test_long_line_is_dropped(self):
        """So is the beginning of a line that is too long, or would be an AUTH's."""
        for more in (b"x" * 5000, b"AUTH PLAIN " + b"A" * 5000, b"x" * 200_000):
            client = self.connect()
            self.assertEqual(client.send(b"STLS\r\n" + more), BEGIN)
            client.server.handshakeCompleted()
            self.assertEqual(client.send(b"NOOP\r\n"), b"-ERR log in first\r\n")

    def test_every_split(self):
        """Wherever packets are cut, what is in the clear behind STLS is never obeyed.

        What comes in a packet of its own comes to TLS, not to the server.
        """
        octets = b"USER ann\r\nSTLS\r\nCAPA\r\nUSER ann\r\nPASS pw\r\n"
        for at in range(octets.index(b"STLS") + 6):
            client = self.connect(peer=HERE)
            said = client.send(octets[:at]) + client.send(octets[at:])
            self.assertEqual(said, b"+OK send PASS\r\n" + BEGIN)
            client.server.handshakeCompleted()
            self.assertEqual(client.received(), b"")
            self.assertEqual(client.send(b"PASS pw\r\n"), b"-ERR send USER first\r\n")

    @given(st.integers(0, 120), st.integers(0, 120))
    def test_behind_others(self, before, behind):
        """Behind however many pipelined commands, in whatever turn of theirs, it is the same."""
        client = self.connect()
        said = client.send(b"LANG en\r\n" * before + b"STLS\r\n" + b"CAPA\r\n" * behind)
        for _ in range(5):
            client.clock.advance(0)
            said += client.received()
        self.assertEqual(said, b"+OK en language changed\r\n" * before + BEGIN)
        client.server.handshakeCompleted()
        self.assertEqual(client.send(b"NOOP\r\n"), b"-ERR log in first\r\n")

    def test_producer(self):
        """TLS has no producer while it shakes hands, or it would tell it to pause; then it has."""
        client = self.connect()
        client.send(b"STLS\r\n")
        self.assertIsNone(client.transport.producer)
        client.server.handshakeCompleted()
        self.assertIs(client.transport.producer, client.server)

    def test_full_output(self):
        """A client that had not read what was sent before is listened to over TLS."""
        client = self.connect()
        write = client.transport.write

        def full(octets):
            write(octets)
            client.server.pauseProducing()

        client.transport.write = full
        self.assertEqual(client.send(b"STLS\r\n"), BEGIN)
        client.transport.write = write
        self.assertEqual(client.transport.producerState, "producing")
        client.server.handshakeCompleted()
        self.assertEqual(client.send(b"NOOP\r\n"), b"-ERR log in first\r\n")

    def test_idle_in_the_handshake(self):
        """A handshake that does not end is ended by the idle timer."""
        client = self.connect(b"STLS")
        client.clock.advance(601)
        self.assertTrue(client.closed)
        client.server.handshakeCompleted()
        self.assertIsNone(client.transport.producer)

    def test_lost_in_the_handshake(self):
        """A connection that is lost in mid-handshake leaves nothing."""
        client = self.connect(b"STLS")
        client.lose()
        self.assertEqual(list(self.factory.connections), [])
        self.assertEqual(client.clock.getDelayedCalls(), [])
        self.assertReleased(0)


CA = make_authority()
SERVER = issue("pop.example.org", issuer=CA)


@command(b"BIG", State.TRANSACTION, no_arguments)
def big(session):
    """A body of 64 MiB, which counts what was taken of it."""

    def body():
        for _ in range(1024):
            Big.taken += 1
            yield b"x" * 65534 + b"\r\n"

    return Reply(b"big", body())


class Big:
    """How many of BIG's chunks were made."""

    taken = 0


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
        await self.talk(peer, octets, BEGIN)
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
        await self.expect(peer, BEGIN)
        await self.over
        self.assertEqual(await peer.closed(), b"")

    async def test_garbage(self):
        """What is no ClientHello ends the connection, and the log says why."""
        log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
        for garbage in (b"USER ann\r\n", b"\0" * 4096, b"\x16\x03\x01" + b"\xff" * 600):
            self.serve()
            peer = await self.connect()
            await self.talk(peer, b"STLS\r\n", BEGIN)
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
            await self.talk(peer, b"STLS\r\n", BEGIN)
            peer.transport.write(octets)
            await self.over
            self.assertEqual(await peer.closed(), b"")
            self.assertEqual(list(self.factory.connections), [])

    async def test_lost_in_the_handshake(self):
        """A client that goes away in mid-handshake is not missed."""
        peer = await self.connect()
        await self.talk(peer, b"STLS\r\n", BEGIN)
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
        await self.talk(peer, b"STLS\r\n", NOT_HERE)
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
        await self.talk(peer, b"STLS\r\n", NOT_HERE)
        await self.leave(peer)
