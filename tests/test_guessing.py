"""Guessing and flooding, over whole sessions: they do not pay, and neighbours are not hurt."""

import contextlib
from base64 import b64decode, b64encode
from ipaddress import ip_network
from unittest.mock import patch

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.logger import formatEvent
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory
from twisted.python.failure import Failure

from popserv.auth.passwords.scram_keys import derive_scram_keys
from popserv.auth.throttle.slots import MAX_CONCURRENT
from popserv.core.session import client_is_connected
from popserv.errors import POPError, TryLater
from popserv.interfaces import (
    IScramSHA256Credentials,
)
from popserv.runtime.bus import WorkerBus
from popserv.testing import MemoryTransport
from tests.auth.sasl.harness import ScramClient
from tests.commands.harness import (
    HERE,
    KINDS,
    REFUSED,
    STRANGER,
    Checker,
    Client,
    FakeChannel,
    ServerCase,
    encoded,
    password_of_ann,
)

NEIGHBOUR = IPv4Address("TCP", "192.0.2.1", 999)
OTHER = IPv4Address("TCP", "198.51.100.7", 4321)
WELCOME = b"+OK ann's maildrop has 2 messages (10 octets)\r\n"


class GuessingCase(ServerCase):
    """A server that takes passwords from everywhere, all of whose time is one clock's."""

    def setUp(self):
        """Make the clock."""
        self.clock = Clock()
        super().setUp()

    def serve(self, *checkers, **options):
        """Make the server."""
        super().serve(*checkers, allow_plaintext=True, **options)
        self.factory.throttle.penalties._now = self.clock.seconds

    def connect(self, *lines, peer=STRANGER):
        """A client that has said these lines, their answers read."""
        client = Client(self.factory, peer)
        client.clock = self.clock
        client.server.callLater = self.clock.callLater
        self.addCleanup(client.lose)
        for line in lines:
            client.send(line + b"\r\n")
        return client

    def try_password(self, password, peer=STRANGER, name=b"ann"):
        """A new client that has given it."""
        return self.connect(b"USER " + name, b"PASS " + password, peer=peer)

    def wait(self, client):
        """Return after how many seconds the client is refused."""
        for seconds in range(20):
            if client.received() == REFUSED:
                client.lose()
                return seconds
            self.clock.advance(1)
        return self.fail("never refused")

    def waits(self, *passwords, **options):
        """Return after how many seconds each password is refused, on connections of their own."""
        return [self.wait(self.try_password(password, **options)) for password in passwords]

    def lines(self):
        """Return what was logged."""
        return [formatEvent(event) for event in self.log]


class PenaltyTests(GuessingCase):
    """How late a failed login is answered."""

    def test_reconnecting(self):
        """Who guesses waits longer with each guess, reconnected or not, up to a bound."""
        self.assertEqual(self.waits(b"1", b"2", b"3", b"4", b"5"), [2, 4, 8, 15, 15])
        self.assertEqual(self.waits(b"6", peer=NEIGHBOUR), [15])
        self.assertEqual(self.waits(b"1", b"2", peer=OTHER), [2, 4])
        self.clock.advance(600)
        self.assertEqual(self.waits(b"7", b"8"), [2, 4])
        told = [line for line in self.lines() if "repeated login failures" in line]
        self.assertEqual(
            told, ["192.0.2.1: repeated login failures, replies are delayed"] * len(told)
        )
        self.assertEqual(len(told), 1)

    def test_on_one_connection(self):
        """So does who stays."""
        client = self.connect()
        for n, seconds in enumerate((2, 4, 8)):
            client.send(b"USER ann\r\n")
            client.send(b"PASS %d\r\n" % n)
            self.clock.advance(seconds - 0.1)
            self.assertEqual(client.received(), b"")
            self.clock.advance(0.2)
            self.assertEqual(client.received(), REFUSED)
        self.assertTrue(client.closed)

    def test_old_password(self):
        """A program that polls with an old password waits the usual time, and costs others one."""
        self.assertEqual(self.waits(*[b"old"] * 9), [2] * 9)
        self.assertEqual(self.waits(b"typo"), [4])

    def test_success(self):
        """Who gets in neither waits nor has anything forgiven."""
        self.waits(b"1", b"2")
        client = self.connect(b"USER ann")
        self.assertEqual(client.send(b"PASS pw\r\n"), WELCOME)
        client.lose()
        self.assertEqual(self.waits(b"3"), [8])

    def test_another_door(self):
        """A guess at one of two doors counts at the other, too; each has its own login."""
        gate = self.factory.throttle
        other = object()
        self.assertIs(gate.beside(other).login, other)
        self.assertIsNot(gate.login, other)
        self.factory.throttle = gate.beside(gate.login)
        self.assertEqual(self.waits(b"1", b"2"), [2, 4])
        self.factory.throttle = gate
        self.assertEqual(self.waits(b"3"), [8])

    def test_who_stands_for_many(self):
        """From this machine, and from where many log in through, all wait the usual time."""
        self.serve(trusted_networks=[ip_network("198.51.100.0/24")])
        for peer in (HERE, UNIXAddress(b"/s"), OTHER):
            self.assertEqual(self.waits(*b"12345".hex(" ").encode().split(), peer=peer), [2] * 5)

    def test_networks(self):
        """An address of IPv6 is as good as its neighbours in the /64."""
        peers = [IPv6Address("TCP", f"2001:db8::{n}", 1) for n in range(4)]
        waits = [self.waits(b"%d" % n, peer=peer)[0] for n, peer in enumerate(peers)]
        self.assertEqual(waits, [2, 4, 8, 15])
        self.assertEqual(self.waits(b"1", peer=IPv6Address("TCP", "2001:db8:0:1::1", 1)), [2])

    def test_every_way(self):
        """Every way to log in that fails counts, also one that a mechanism refuses by itself."""
        scram = b64encode(b"n,,n=ann,r=x")
        for lines, again in [
            ([b"APOP ann " + b"0" * 32], 4),
            ([b"AUTH PLAIN " + b64encode(b"\0ann\0no")], 2),
            ([b"AUTH PLAIN " + b64encode(b"bob\0ann\0pw")], 2),
            ([b"AUTH LOGIN", b64encode(b"ann"), b64encode(b"no")], 2),
            ([b"AUTH CRAM-MD5", b64encode(b"ann 0")], 4),
            ([b"AUTH EXTERNAL " + b64encode(b"bob")], 2),
            ([b"AUTH EXTERNAL " + b64encode(b"eve")], 2),
            ([b"AUTH XOAUTH2 " + b64encode(b"user=ann\1auth=Bearer x\1\1")], 2),
            ([b"AUTH SCRAM-SHA-256 " + scram, b64encode(b"c=biws,r=x0,p=YQ==")], 4),
            ([b"AUTH SCRAM-SHA-256 " + scram, b"*"], 4),
        ]:
            self.serve(Checker(self.refuse, *KINDS))
            self.tls_state = FakeChannel([b"eve"])
            with patch("popserv.auth.sasl.scram.secrets.token_urlsafe", return_value="0"):
                waits = [self.wait(self.over_tls(*lines)) for _ in range(2)]
            self.assertEqual(waits, [2, again], lines)

    def over_tls(self, *lines):
        """A client over TLS."""
        client = Client(self.factory, STRANGER, tls=True)
        client.server.callLater = self.clock.callLater
        client.clock = self.clock
        self.addCleanup(client.lose)
        for line in lines:
            client.send(line + b"\r\n")
        if lines[0].startswith(b"AUTH SCRAM"):
            client.received()
        return client

    def refuse(self, credentials):
        """Let nobody in, by whatever dialogue."""
        if not IScramSHA256Credentials.providedBy(credentials):
            return None

        async def check():
            with contextlib.suppress(POPError):
                await credentials.check_keys(derive_scram_keys("sha256", b"pw", b"salt", 1))
            raise UnauthorizedLogin("wrong, or broken off")

        return Deferred.fromCoroutine(check())

    def test_others_checkers(self):
        """Checkers that are not popserv's get the same treatment."""
        self.serve(InMemoryUsernamePasswordDatabaseDontUse(ann=b"pw"))
        self.assertEqual(self.waits(b"1", b"2", b"3", b"4"), [2, 4, 8, 15])

    def test_trouble_is_no_guess(self):
        """What fails for another reason than the credentials counts for nothing."""

        def decide(credentials):
            raise TryLater if credentials.password == b"later" else RuntimeError

        self.serve(Checker(decide, IUsernamePassword))
        for _ in range(9):
            for password in (b"later", b"bug"):
                self.try_password(password).lose()
        self.flushLoggedErrors(RuntimeError)
        self.assertEqual(self.factory.throttle.penalties.factor("192.0.2.1"), 1)
        self.assertEqual(self.factory.throttle.turns._taken, {})

    def test_workers(self):
        """What one worker saw fail makes guesses slow at another, too."""
        told = []
        self.serve(bus=WorkerBus(lambda topic, fact: told.append((topic, fact))))
        self.waits(b"1", b"2", b"3")
        bus = WorkerBus()
        self.serve(bus=bus)
        for topic, fact in told:
            bus.receive(topic, fact)
        self.assertEqual(self.waits(b"4"), [15])

    def test_fail2ban(self):
        """Each failed login has its line in the log, which starts with the address."""
        self.waits(b"1", b"1")
        told = [line for line in self.lines() if "was refused with" in line]
        line = (
            "192.0.2.1:4321: b'ann' was refused with 'authentication failed': "
            "the checker's own words"
        )
        self.assertEqual(told, [line] * 2)

    def test_gone(self):
        """An answer that nobody waits for keeps no connection in memory."""
        client = self.try_password(b"1")
        client.lose()
        self.clock.advance(0)
        pending = self.clock.getDelayedCalls()
        self.assertEqual([call.func.func for call in pending], [self.factory.throttle.turns.end])
        self.clock.advance(2)
        self.assertEqual(self.factory.throttle.turns._taken, {})


class TurnTests(GuessingCase):
    """A few logins of one network at a time."""

    def setUp(self):
        """A checker that takes its time."""
        super().setUp()
        self.waiting = []
        self.checker = Checker(self.decide, IUsernamePassword)
        self.serve(self.checker)

    def decide(self, credentials):
        """Answer when the test says so, ann's password at once."""
        if password_of_ann(credentials):
            return b"ann"
        self.waiting.append(Deferred())
        return self.waiting[-1].addCallback(lambda _: password_of_ann(credentials))

    def refuse(self):
        """Have the checker refuse all that it was asked."""
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            each.errback(TryLater())

    def guess(self):
        """Have the checker find all wrong that it was asked."""
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            each.errback(UnauthorizedLogin("wrong"))

    def test_few_at_once(self):
        """However many log in from one network, the checker is asked about a few at a time."""
        clients = [self.try_password(b"%d" % n) for n in range(50)]
        self.assertEqual(len(self.waiting), MAX_CONCURRENT)
        self.assertEqual(self.connect(b"USER ann", peer=OTHER).send(b"PASS pw\r\n"), WELCOME)
        while self.waiting:
            self.refuse()
            self.assertLessEqual(len(self.waiting), MAX_CONCURRENT)
        answers = {client.received()[:15] for client in clients}
        self.assertEqual(answers, {b"-ERR [SYS/TEMP]"})

    def test_gone_in_line(self):
        """The checker is never asked about who went before their turn came."""
        clients = [self.try_password(b"%d" % n) for n in range(50)]
        for client in clients:
            client.lose()
        seen = len(self.checker.seen)
        self.assertEqual(seen, MAX_CONCURRENT)
        self.refuse()
        self.assertEqual(len(self.checker.seen), seen)
        self.assertEqual(
            (self.factory.throttle.turns._taken, self.factory.throttle.turns._lines), ({}, {})
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_not_waiting_for_answers(self):
        """Who goes away instead of waiting for the answer guesses no faster."""
        guesses = []
        for second in range(300):
            passwords = [b"%d.%d" % (second, n) for n in range(MAX_CONCURRENT + 1)]
            for client in [self.try_password(password) for password in passwords]:
                client.lose()
            guesses.append(len(self.waiting))
            self.guess()
            self.clock.advance(1)
        self.assertLessEqual(sum(guesses[30:]), 270 / 15 * MAX_CONCURRENT + MAX_CONCURRENT)
        self.assertGreater(sum(guesses[30:]), 0)

    def test_neighbour(self):
        """Behind an address that others guess from, a user who was in before need not wait."""
        self.connect(b"USER ann", b"PASS pw").lose()
        for n in range(20):
            self.try_password(b"%d" % n, name=b"bob")
        for _ in range(3):
            client = self.connect(b"USER ann", peer=NEIGHBOUR)
            self.assertEqual(client.send(b"PASS pw\r\n"), WELCOME)
            client.lose()
        self.assertEqual(self.try_password(b"pw", peer=NEIGHBOUR, name=b"carl").received(), b"")

    def test_own_account(self):
        """To be known for one's own account lets nobody guess another's sooner."""
        self.connect(b"USER ann", b"PASS pw").lose()
        for n in range(20):
            self.try_password(b"%d" % n, name=b"bob")
        self.connect(b"USER ann", b"PASS pw").lose()
        self.assertEqual(len(self.waiting), MAX_CONCURRENT)
        for n in range(5):
            self.try_password(b"%d" % n, name=b"ann")
        self.assertEqual(len(self.waiting), MAX_CONCURRENT + 1)

    def test_who_stands_for_many(self):
        """From where many log in through all log in at once."""
        for n in range(50):
            self.try_password(b"%d" % n, peer=HERE)
        self.assertEqual(len(self.waiting), 50)
        self.refuse()

    def test_still_there(self):
        """A checker can find out whether the client is still there."""
        asked = []

        def decide(credentials):
            asked.append(client_is_connected.get())
            return Deferred()

        self.assertTrue(client_is_connected.get()())
        self.serve(Checker(decide, IUsernamePassword))
        clients = [self.try_password(b"1", peer=peer) for peer in (HERE, STRANGER, OTHER)]
        clients[1].lose()
        self.assertEqual([is_there() for is_there in asked], [True, False, True])


class DialogueTurnTests(GuessingCase):
    """Turns where the checker asks the client."""

    def setUp(self):
        """A checker of SCRAM."""
        super().setUp()
        self.serve(Checker(self.decide, IScramSHA256Credentials))

    def decide(self, credentials):
        """Let in whose password is pw."""

        async def check():
            if not await credentials.check_keys(derive_scram_keys("sha256", b"pw", b"salt", 1)):
                raise UnauthorizedLogin("wrong")
            return b"ann"

        return Deferred.fromCoroutine(check())

    def begin(self, password, **options):
        """Return a client that was sent its salt, and its proof."""
        scram = ScramClient("sha256", password, name=b"ann")
        client = self.connect(**options)
        answer = client.send(b"AUTH SCRAM-SHA-256 " + encoded(scram(b"")))
        return client, encoded(scram(b64decode(answer.removeprefix(b"+ "))))

    def test_dawdling(self):
        """Clients that take their time to answer hold nobody up."""
        for _ in range(3 * MAX_CONCURRENT):
            self.begin(b"pw")
        client, proof = self.begin(b"pw")
        self.assertEqual(client.send(proof)[:2], b"+ ")
        self.assertEqual(client.send(b"\r\n"), WELCOME)

    def test_guessing(self):
        """Proofs take turns: of those that are wrong a few are looked at until they are answered.

        The others wait, and can go meanwhile.
        """
        begun = [self.begin(b"%d" % n) for n in range(20)]
        for client, proof in begun:
            client.send(proof)
        factors = len(self.factory.throttle.penalties._recent("192.0.2.1"))
        self.assertEqual(factors, MAX_CONCURRENT)
        for client, _ in begun[::2]:
            client.lose()
        self.assertLessEqual(
            len(self.factory.throttle.penalties._recent("192.0.2.1")), MAX_CONCURRENT + 8
        )
        for _ in range(200):
            self.clock.advance(1)
        for client, _ in begun[1::2]:
            self.assertEqual(client.received(), REFUSED)
        self.assertEqual(
            (self.factory.throttle.turns._taken, self.factory.throttle.turns._lines), ({}, {})
        )


class RoomTests(GuessingCase):
    """Who makes room when there are too many connections."""

    def test_flood(self):
        """A network that floods makes room by itself; who is in, or alone, is let alone."""
        self.serve(max_connections=6)
        ann = self.connect(b"USER ann", b"PASS pw")
        other = self.connect(peer=OTHER)
        flood = [self.connect() for _ in range(30)]
        self.assertEqual([client.transport.aborted for client in flood], [True] * 26 + [False] * 4)
        newcomer = self.connect(peer=IPv4Address("TCP", "203.0.113.9", 1))
        self.assertTrue(flood[26].transport.aborted)
        for client in (ann, other, newcomer):
            self.assertFalse(client.transport.aborted)

    def test_many_behind_one(self):
        """Strangers through a webmail are not taken for a flood; the oldest of all goes."""
        self.serve(max_connections=6)
        clients = [self.connect(peer=HERE) for _ in range(5)]
        one = self.connect(peer=OTHER)
        self.connect(peer=HERE)
        aborted = [client.transport.aborted for client in (*clients, one)]
        self.assertEqual(aborted, [True, *[False] * 5])

    def proxied(self, source):
        """A connection through a proxy that has told of its client, and then said NOOP."""
        wrapper = HAProxyWrappingFactory(self.factory).buildProtocol(None)
        wrapper.wrappedProtocol.callLater = self.clock.callLater
        transport = MemoryTransport(peerAddress=IPv4Address("TCP", "203.0.113.1", 1))
        wrapper.makeConnection(transport)
        self.addCleanup(wrapper.connectionLost, Failure(ConnectionDone()))
        wrapper.dataReceived(b"PROXY TCP4 %b 203.0.113.1 4711 110\r\nNOOP\r\n" % source)
        return wrapper, transport

    def test_proxied(self):
        """Behind a proxy, too, clients are of their own networks: for room, and for penalties."""
        self.serve(max_connections=6)
        one, alone = self.proxied(b"198.51.100.7")
        flood = [self.proxied(b"192.0.2.1")[1] for _ in range(20)]
        self.assertEqual([each.aborted for each in flood], [True] * 15 + [False] * 5)
        self.assertFalse(alone.aborted)
        for n in range(2):
            one.dataReceived(b"USER ann\r\nPASS %d\r\n" % n)
            self.clock.advance(5)
        factors = [
            self.factory.throttle.penalties.factor(f"{each}")
            for each in ("198.51.100.7", "192.0.2.1")
        ]
        self.assertEqual(factors, [4, 1])
