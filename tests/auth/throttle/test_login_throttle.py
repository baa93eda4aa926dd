"""The login throttle in whole sessions: guessing is slow, and other users are not affected."""

import contextlib
from base64 import b64decode, b64encode
from ipaddress import ip_network
from unittest.mock import patch

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import formatEvent
from zope.interface import alsoProvides

from popserv.auth.passwords.scram_keys import derive_scram_keys
from popserv.auth.throttle.slots import MAX_CONCURRENT
from popserv.core.connection_details import ConnectionDetails, connection_details
from popserv.core.session import client_is_connected
from popserv.errors import POPError, TryLater
from popserv.interfaces import (
    ICertificateCredentials,
    IScramSHA256Credentials,
    ITokenCredentials,
)
from popserv.runtime.bus import WorkerBus
from popserv.transports.peers import ITLSAtProxy
from tests.auth.sasl.harness import ScramClient
from tests.commands.harness import (
    CREDENTIALS,
    LOCAL_PEER,
    LOGIN_FAILED,
    REMOTE_PEER,
    Checker,
    Client,
    CommandTestCase,
    FakeTLSState,
    check_password,
    response_line,
)

NEIGHBOUR = IPv4Address("TCP", "192.0.2.1", 999)
OTHER = IPv4Address("TCP", "198.51.100.7", 4321)
WELCOME = b"+OK ann's maildrop has 2 messages (10 octets)\r\n"


class ThrottleCase(CommandTestCase):
    """A server that accepts passwords from any address, on a test clock."""

    def setUp(self):
        """Make the clock and the server."""
        self.clock = Clock()
        super().setUp()

    def serve(self, *checkers, **options):
        """Make the server."""
        super().serve(*checkers, allow_plaintext=True, **options)
        self.factory.throttle.penalties._now = self.clock.seconds

    def connect(self, *lines, peer=REMOTE_PEER, tls=False):
        """Return a client that has sent these lines and read the replies."""
        client = Client(self.factory, peer, tls=tls, clock=self.clock)
        self.addCleanup(client.lose)
        for line in lines:
            client.send(line + b"\r\n")
        return client

    def try_password(self, password, peer=REMOTE_PEER, name=b"ann"):
        """Return a new client that has sent a password."""
        return self.connect(b"USER " + name, b"PASS " + password, peer=peer)

    def reply_to_password(self, password, peer=REMOTE_PEER, name=b"ann"):
        """Return the reply to a password that comes at once, from a client that stays connected."""
        return self.connect(b"USER " + name, peer=peer).send(b"PASS " + password + b"\r\n")

    def seconds_until_refused(self, client):
        """Return after how many seconds the client is refused."""
        for seconds in range(20):
            if client.received() == LOGIN_FAILED:
                client.lose()
                return seconds
            self.clock.advance(1)
        return self.fail("never refused")

    def delays(self, *passwords, **options):
        """Return after how many seconds each password is refused, each on a new connection."""
        return [
            self.seconds_until_refused(self.try_password(password, **options))
            for password in passwords
        ]

    def assert_minutes(self, guesses, first, later):
        """Check how many guesses there are in the first minute, and at most in any later one."""
        self.assertEqual(sum(guesses[:60]), first)
        minutes = [sum(guesses[n : n + 60]) for n in range(1, len(guesses) - 59)]
        self.assertEqual(max(minutes), later)

    def lines(self):
        """Return the lines of the log."""
        return [formatEvent(event) for event in self.log]


class PenaltyTests(ThrottleCase):
    """The delay of the reply to a failed login."""

    def test_reconnecting(self):
        """The delay grows with each failure of a network, on any connection, up to the maximum."""
        self.assertEqual(self.delays(b"1", b"2", b"3", b"4", b"5"), [2, 4, 8, 15, 15])
        self.assertEqual(self.delays(b"6", peer=NEIGHBOUR), [15])
        self.assertEqual(self.delays(b"1", b"2", peer=OTHER), [2, 4])
        self.clock.advance(600)
        self.assertEqual(self.delays(b"7", b"8"), [2, 4])
        logged = [line for line in self.lines() if "repeated login failures" in line]
        self.assertEqual(
            logged, ["192.0.2.1: repeated login failures, replies are delayed"] * len(logged)
        )
        self.assertEqual(len(logged), 1)

    def test_on_one_connection(self):
        """The delay grows on one connection, too."""
        client = self.connect()
        for n, seconds in enumerate((2, 4, 8)):
            client.send(b"USER ann\r\n")
            client.send(b"PASS %d\r\n" % n)
            self.clock.advance(seconds - 0.1)
            self.assertEqual(client.received(), b"")
            self.clock.advance(0.2)
            self.assertEqual(client.received(), LOGIN_FAILED)
        self.assertTrue(client.closed)

    def test_time_of_check(self):
        """The delay includes the time that the check takes, so that this tells nothing."""
        check = Deferred()
        self.serve(Checker(lambda _: check, IUsernamePassword))
        for taken, seconds in ((0, 2), (0.5, 4), (3.5, 8), (8.5, 15), (20, 30)):
            check = Deferred()
            begun = self.clock.seconds()
            client = self.try_password(str(taken).encode())
            self.clock.advance(taken)
            check.errback(UnauthorizedLogin("wrong"))
            slots = self.factory.throttle.slots
            while not client.received():
                self.assertEqual(slots._shared_in_use, {"192.0.2.1": 1})
                self.clock.advance(0.25)
            self.assertEqual(self.clock.seconds() - begun, seconds)
            self.assertEqual(slots._shared_in_use, {})
            client.lose()

    def test_without_check(self):
        """A login that is refused without a check has the whole delay, whatever was before it."""
        self.serve(Checker(lambda _: fail(TryLater()), IUsernamePassword))
        client = self.try_password(b"pw")
        self.clock.advance(0.5)
        client.send(b"AUTH PLAIN " + response_line(b"bob\0ann\0pw"))
        self.clock.advance(1.75)
        self.assertEqual(client.received(), b"")
        self.clock.advance(0.25)
        self.assertEqual(client.received(), LOGIN_FAILED)

    def test_old_password(self):
        """A repeated password has the base delay, and counts once."""
        self.assertEqual(self.delays(*[b"old"] * 9), [2] * 9)
        self.assertEqual(self.delays(b"typo"), [4])

    def test_success(self):
        """A successful login is not delayed, and does not reduce the delay."""
        self.delays(b"1", b"2")
        client = self.connect(b"USER ann")
        self.assertEqual(client.send(b"PASS pw\r\n"), WELCOME)
        client.lose()
        self.assertEqual(self.delays(b"3"), [8])

    def test_other_service(self):
        """A failure at one of two services delays the replies of both."""
        throttle = self.factory.throttle
        other = object()
        self.assertIs(throttle.with_authenticator(other).authenticator, other)
        self.assertIsNot(throttle.authenticator, other)
        self.factory.throttle = throttle.with_authenticator(throttle.authenticator)
        self.assertEqual(self.delays(b"1", b"2"), [2, 4])
        self.factory.throttle = throttle
        self.assertEqual(self.delays(b"3"), [8])

    def test_trusted_networks(self):
        """Loopback, UNIX sockets and trusted networks always have the base delay."""
        self.serve(trusted_networks=[ip_network("198.51.100.0/24")])
        for peer in (LOCAL_PEER, UNIXAddress(b"/s"), OTHER):
            self.assertEqual(self.delays(*b"12345".hex(" ").encode().split(), peer=peer), [2] * 5)

    def test_networks(self):
        """The IPv6 addresses of one /64 are one network."""
        peers = [IPv6Address("TCP", f"2001:db8::{n}", 1) for n in range(4)]
        delays = [self.delays(b"%d" % n, peer=peer)[0] for n, peer in enumerate(peers)]
        self.assertEqual(delays, [2, 4, 8, 15])
        self.assertEqual(self.delays(b"1", peer=IPv6Address("TCP", "2001:db8:0:1::1", 1)), [2])

    def test_every_mechanism(self):
        """Failures of every mechanism count, also those that the mechanism itself refuses."""
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
            self.serve(Checker(self.refuse, *CREDENTIALS))
            self.tls_state = FakeTLSState([b"eve"])
            with patch("popserv.auth.sasl.scram.secrets.token_urlsafe", return_value="0"):
                delays = [self.seconds_until_refused(self.over_tls(*lines)) for _ in range(2)]
            self.assertEqual(delays, [2, again], lines)

    def over_tls(self, *lines):
        """Return a client over TLS that has sent these lines."""
        client = Client(self.factory, REMOTE_PEER, tls=True, clock=self.clock)
        self.addCleanup(client.lose)
        for line in lines:
            client.send(line + b"\r\n")
        if lines[0].startswith(b"AUTH SCRAM"):
            client.received()
        return client

    def refuse(self, credentials):
        """Refuse any credentials; with SCRAM after an exchange."""
        if not IScramSHA256Credentials.providedBy(credentials):
            return None

        async def check():
            with contextlib.suppress(POPError):
                await credentials.check_keys(derive_scram_keys("sha256", b"pw", b"salt", 1))
            raise UnauthorizedLogin("wrong, or cancelled")

        return Deferred.fromCoroutine(check())

    def test_foreign_checkers(self):
        """Failures of checkers from elsewhere count."""
        self.serve(InMemoryUsernamePasswordDatabaseDontUse(ann=b"pw"))
        self.assertEqual(self.delays(b"1", b"2", b"3", b"4"), [2, 4, 8, 15])

    def test_other_errors(self):
        """A login that fails for another reason than its credentials does not count."""

        def decide(credentials):
            raise TryLater if credentials.password == b"later" else RuntimeError

        self.serve(Checker(decide, IUsernamePassword))
        for _ in range(9):
            for password in (b"later", b"bug"):
                self.try_password(password).lose()
        self.flushLoggedErrors(RuntimeError)
        self.assertEqual(self.factory.throttle.penalties.delay_factor("192.0.2.1"), 1)
        self.assertEqual(self.factory.throttle.slots._shared_in_use, {})

    def test_workers(self):
        """A failure at one worker delays the replies of another."""
        updates = []
        self.serve(bus=WorkerBus(lambda topic, update: updates.append((topic, update))))
        self.delays(b"1", b"2", b"3")
        bus = WorkerBus()
        self.serve(bus=bus)
        for topic, update in updates:
            bus.receive(topic, update)
        self.assertEqual(self.delays(b"4"), [15])

    def test_fail2ban(self):
        """Each failed login has a line in the log, which starts with the client's address."""
        self.delays(b"1", b"1")
        logged = [line for line in self.lines() if "login of" in line]
        line = '192.0.2.1:4321: login of "ann" by PASS failed: the checker\'s own words'
        self.assertEqual(logged, [line] * 2)

    def test_disconnected(self):
        """A delayed reply does not keep a closed connection in memory."""
        client = self.try_password(b"1")
        client.lose()
        self.clock.advance(0)
        pending = self.clock.getDelayedCalls()
        self.assertEqual(
            [call.func.func for call in pending], [self.factory.throttle.slots.release]
        )
        self.clock.advance(2)
        self.assertEqual(self.factory.throttle.slots._shared_in_use, {})


class SlotTests(ThrottleCase):
    """Concurrent logins of one network."""

    def setUp(self):
        """Serve with a checker that answers when the test says so."""
        super().setUp()
        self.pending = []
        self.checker = Checker(self.decide, IUsernamePassword)
        self.serve(self.checker)

    def decide(self, credentials):
        """Accept ann's password at once; otherwise answer later."""
        if check_password(credentials):
            return b"ann"
        self.pending.append(Deferred())
        return self.pending[-1].addCallback(lambda _: check_password(credentials))

    def fail_pending(self):
        """Let the pending checks fail for another reason than the credentials."""
        pending, self.pending = self.pending, []
        for each in pending:
            each.errback(TryLater())

    def refuse_pending(self):
        """Let the pending checks refuse the credentials."""
        pending, self.pending = self.pending, []
        for each in pending:
            each.errback(UnauthorizedLogin("wrong"))

    def test_limit(self):
        """At most four logins of a network are checked at the same time."""
        clients = [self.try_password(b"%d" % n) for n in range(50)]
        self.assertEqual(len(self.pending), 4)
        self.assertEqual(self.connect(b"USER ann", peer=OTHER).send(b"PASS pw\r\n"), WELCOME)
        while self.pending:
            self.fail_pending()
            self.assertLessEqual(len(self.pending), 4)
        answers = {client.received()[:15] for client in clients}
        self.assertEqual(answers, {b"-ERR [SYS/TEMP]"})

    def test_disconnected_in_queue(self):
        """A login whose client disconnects in the queue is not checked."""
        clients = [self.try_password(b"%d" % n) for n in range(50)]
        for client in clients:
            client.lose()
        self.assertEqual(self.factory.throttle.slots.waiting_count, 0)
        seen = len(self.checker.seen)
        self.assertEqual(seen, MAX_CONCURRENT)
        self.fail_pending()
        self.assertEqual(len(self.checker.seen), seen)
        self.assertEqual(
            (self.factory.throttle.slots._shared_in_use, self.factory.throttle.slots._queues),
            ({}, {}),
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def guesses(self, name=b"bob"):
        """Return how many passwords are checked in each of 300 seconds, of a client in a hurry."""
        guesses = []
        for second in range(300):
            passwords = [b"%d.%d" % (second, n) for n in range(MAX_CONCURRENT + 2)]
            clients = [self.try_password(password, name=name) for password in passwords]
            # It does not wait for the replies.
            for client in clients:
                client.lose()
            guesses.append(len(self.pending))
            self.refuse_pending()
            self.clock.advance(1)
        return guesses

    def test_not_waiting_for_replies(self):
        """A client that does not wait for the replies cannot guess faster."""
        self.assert_minutes(self.guesses(), 19, 16)

    def test_known_name(self):
        """At a name that is known, four guesses a minute more are possible."""
        self.connect(b"USER ann", b"PASS pw").lose()
        self.assert_minutes(self.guesses(), 19, 16)
        self.clock.advance(600)
        self.assert_minutes(self.guesses(b"ann"), 23, 20)

    def test_known_user(self):
        """A user who has logged in from an address need not wait for others who guess there."""
        self.connect(b"USER ann", b"PASS pw").lose()
        for n in range(20):
            self.try_password(b"%d" % n, name=b"bob")
        for _ in range(3):
            client = self.connect(b"USER ann", peer=NEIGHBOUR)
            self.assertEqual(client.send(b"PASS pw\r\n"), WELCOME)
            client.lose()
        seen = len(self.checker.seen)
        self.assertEqual(self.reply_to_password(b"pw", peer=NEIGHBOUR, name=b"carl"), b"")
        self.assertEqual(len(self.checker.seen), seen)

    def test_known_password(self):
        """A user with the last password does not wait, even if others guess the user's password."""
        self.connect(b"USER ann", b"PASS pw").lose()
        for second in range(100):
            for n in range(9):
                self.try_password(b"%d.%d" % (second, n))
            self.refuse_pending()
            client = self.connect(b"USER ann", peer=NEIGHBOUR)
            self.assertEqual(client.send(b"PASS pw\r\n"), WELCOME)
            client.lose()
            self.clock.advance(1)
        # The password of ann is neither known to be that of others, nor elsewhere.
        self.serve(self.checker)
        self.connect(b"USER ann", b"PASS pw").lose()
        for peer in (REMOTE_PEER, OTHER):
            for n in range(9):
                self.try_password(b"%d" % n, peer=peer)
        self.assertEqual(self.reply_to_password(b"pw"), WELCOME)
        seen = len(self.checker.seen)
        for options in ({"name": b"bob"}, {"peer": OTHER}):
            self.assertEqual(self.reply_to_password(b"pw", **options), b"")
        self.assertEqual(len(self.checker.seen), seen)

    def test_own_account(self):
        """The reserved slot of one account cannot be used to guess another's password."""
        self.connect(b"USER ann", b"PASS pw").lose()
        for n in range(20):
            self.try_password(b"%d" % n, name=b"bob")
        self.connect(b"USER ann", b"PASS pw").lose()
        self.assertEqual(len(self.pending), MAX_CONCURRENT)
        for n in range(5):
            self.try_password(b"%d" % n, name=b"ann")
        self.assertEqual(len(self.pending), MAX_CONCURRENT + 1)

    def test_trusted_networks(self):
        """Logins of trusted networks are not limited."""
        for n in range(50):
            self.try_password(b"%d" % n, peer=LOCAL_PEER)
        self.assertEqual(len(self.pending), 50)
        self.fail_pending()

    def test_client_is_connected(self):
        """A checker can find out whether the client is still connected."""
        asked = []

        def decide(credentials):
            asked.append(client_is_connected.get())
            return Deferred()

        self.assertTrue(client_is_connected.get()())
        self.serve(Checker(decide, IUsernamePassword))
        clients = [self.try_password(b"1", peer=peer) for peer in (LOCAL_PEER, REMOTE_PEER, OTHER)]
        clients[1].lose()
        self.assertEqual([is_connected() for is_connected in asked], [True, False, True])

    def test_details(self):
        """A checker can find out the ends of the connection, and how it is protected."""
        asked = []

        def decide(credentials):
            asked.append(connection_details.get()())
            return Deferred()

        self.assertEqual(connection_details.get()(), ConnectionDetails())
        self.serve(Checker(decide, IUsernamePassword))
        for peer in (LOCAL_PEER, REMOTE_PEER, UNIXAddress("")):
            self.try_password(b"1", peer=peer)
        self.assertEqual(
            [(each.remote, each.is_private) for each in asked],
            [
                ((LOCAL_PEER.host, LOCAL_PEER.port), True),
                ((REMOTE_PEER.host, REMOTE_PEER.port), False),
                (None, True),
            ],
        )
        self.assertEqual({type(each.local) for each in asked}, {tuple})
        self.assertEqual([each.address for each in asked], ["127.0.0.1", REMOTE_PEER.host, None])
        client = self.connect(b"USER ann")
        alsoProvides(client.server.transport, ITLSAtProxy)
        client.send(b"PASS 1\r\n")
        self.assertEqual([each.uses_tls for each in asked], [False, False, False, True])
        self.assertTrue(asked[-1].is_private)

    def test_details_later(self):
        """A checker can still find them out when the client has disconnected, but for one end."""
        asked = []

        def decide(credentials):
            asked.append(connection_details.get())
            return Deferred()

        self.serve(Checker(decide, IUsernamePassword))
        client = self.try_password(b"1", peer=REMOTE_PEER)
        client.server.transport.getHost = lambda: client.server.transport.socket.getsockname()
        client.lose()
        self.assertEqual(asked[0](), ConnectionDetails((REMOTE_PEER.host, REMOTE_PEER.port)))


class OldPasswordTests(ThrottleCase):
    """The password of a user's last login, if it is not right any more."""

    def setUp(self):
        """Log in as ann; then her password changes, while others guess it."""
        super().setUp()
        self.serve(Checker(lambda _: self.answer, IUsernamePassword))
        self.answer = b"ann"
        self.try_password(b"pw").lose()
        self.answer = None

    def occupy(self):
        """Occupy all slots but that of ann's password for 15 seconds."""
        for _ in range(MAX_CONCURRENT):
            self.factory.throttle.penalties.record_failure("192.0.2.1", None)
        for n in range(MAX_CONCURRENT + 1):
            self.try_password(b"%d at %d" % (n, self.clock.seconds())).lose()

    def seconds_until_reply(self, password):
        """Return after how many seconds the reply to a password comes, from now on."""
        begun = self.clock.seconds()
        client = self.try_password(password)
        while not client.received():
            self.clock.advance(0.5)
        client.lose()
        return self.clock.seconds() - begun

    def test_time(self):
        """It is refused after the same time as one that was never right."""
        for password in (b"pw", b"no"):
            self.occupy()
            self.clock.advance(4)
            self.assertEqual(self.seconds_until_reply(password), 26)
            self.clock.advance(30)
        self.assertEqual(self.factory.throttle.slots._shared_in_use, {})

    def test_own_slots(self):
        """If a slot is free, the time of the check is a part of the delay, as always."""
        self.answer = Deferred()
        client = self.try_password(b"pw")
        self.clock.advance(1.5)
        self.answer.errback(UnauthorizedLogin("wrong"))
        self.clock.advance(0.25)
        self.assertEqual(client.received(), b"")
        self.clock.advance(0.25)
        self.assertEqual(client.received(), LOGIN_FAILED)

    def test_once(self):
        """It is forgotten when it is refused."""
        self.delays(b"pw")
        self.occupy()
        self.answer = b"ann"
        self.assertEqual(self.reply_to_password(b"pw"), b"")

    def test_queue_full(self):
        """It is answered as another one if the queue is full."""
        self.occupy()
        with patch("popserv.auth.throttle.slots.MAX_QUEUED", 1):
            self.try_password(b"1")
            replies = [self.reply_to_password(each) for each in (b"pw", b"no")]
        text = b"-ERR [SYS/TEMP] too many logins from your network, try again later\r\n"
        self.assertEqual(replies, [text] * 2)

    def test_disconnected(self):
        """A client that disconnects while its login waits leaves no slot occupied."""
        self.occupy()
        client = self.try_password(b"pw")
        client.lose()
        self.assertTrue(client.server._has_ended)
        self.clock.advance(15)
        slots = self.factory.throttle.slots
        self.assertEqual(
            (slots._shared_in_use, slots._extra_in_use, slots._reserved_in_use, slots._queues),
            ({}, {}, set(), {}),
        )

    def test_disconnected_in_check(self):
        """So does one that disconnects while its password is checked."""
        self.occupy()
        self.answer = Deferred()
        client = self.try_password(b"pw")
        client.lose()
        self.answer.errback(UnauthorizedLogin("wrong"))
        self.clock.advance(15)
        self.assertTrue(client.server._has_ended)
        slots = self.factory.throttle.slots
        self.assertEqual(
            (slots._shared_in_use, slots._extra_in_use, slots._reserved_in_use, slots._queues),
            ({}, {}, set(), {}),
        )


class ChallengeTests(ThrottleCase):
    """Slots during SASL exchanges."""

    def setUp(self):
        """Serve with a checker of SCRAM."""
        super().setUp()
        self.checks = 0
        self.serve(Checker(self.decide, IScramSHA256Credentials))

    def decide(self, credentials):
        """Accept the password "pw"."""
        self.checks += 1

        async def check():
            try:
                keys = derive_scram_keys("sha256", b"pw", b"salt", 1)
                is_right = await credentials.check_keys(keys)
            except POPError:
                is_right = False
            if not is_right:
                raise UnauthorizedLogin("wrong, or cancelled")
            return b"ann"

        return Deferred.fromCoroutine(check())

    def assert_no_slots(self):
        """Check that no slot is in use, and that no login waits."""
        slots = self.factory.throttle.slots
        self.assertEqual(
            (slots._shared_in_use, slots._extra_in_use, slots._reserved_in_use, slots._queues),
            ({}, {}, set(), {}),
        )

    def begin(self, password, **options):
        """Return a client that was sent the salt, and its proof."""
        scram = ScramClient("sha256", password, name=b"ann")
        client = self.connect(**options)
        answer = client.send(b"AUTH SCRAM-SHA-256 " + response_line(scram(b"")))
        return client, response_line(scram(b64decode(answer.removeprefix(b"+ "))))

    def test_slow_clients(self):
        """A client that does not answer a challenge does not keep a slot."""
        for _ in range(3 * MAX_CONCURRENT):
            self.begin(b"pw")
        client, proof = self.begin(b"pw")
        self.assertEqual(client.send(proof)[:2], b"+ ")
        self.assertEqual(client.send(b"\r\n"), WELCOME)

    def test_time_of_answers(self):
        """The time that a client takes to answer a challenge is no part of the delay."""
        client, proof = self.begin(b"no")
        self.clock.advance(0.5)
        client.send(proof)
        self.clock.advance(1.75)
        self.assertEqual(client.received(), b"")
        self.clock.advance(0.25)
        self.assertEqual(client.received(), LOGIN_FAILED)

    def test_guessing(self):
        """Wrong proofs keep their slots until they are answered; the others wait, or disconnect."""
        clients = [self.begin(b"%d" % n) for n in range(20)]
        for client, proof in clients:
            client.send(proof)
        failures = len(self.factory.throttle.penalties._recent_failures("192.0.2.1"))
        self.assertEqual(failures, MAX_CONCURRENT)
        for client, _ in clients[::2]:
            client.lose()
        self.assertLessEqual(
            len(self.factory.throttle.penalties._recent_failures("192.0.2.1")), MAX_CONCURRENT + 8
        )
        for _ in range(200):
            self.clock.advance(1)
        for client, _ in clients[1::2]:
            self.assertEqual(client.received(), LOGIN_FAILED)
        self.assertEqual(
            (self.factory.throttle.slots._shared_in_use, self.factory.throttle.slots._queues),
            ({}, {}),
        )

    def test_disconnected(self):
        """A client that disconnects instead of answering has failed, and occupies a slot."""
        checks = []
        for _ in range(300):
            before = self.checks
            for _ in range(MAX_CONCURRENT + 1):
                client = self.connect()
                client.send(b"AUTH SCRAM-SHA-256 " + response_line(b"n,,n=ann,r=x"))
                client.lose()
            checks.append(self.checks - before)
            self.clock.advance(1)
        self.assert_minutes(checks, 19, 16)
        self.clock.advance(15)
        self.assert_no_slots()

    def test_disconnected_together(self):
        """Many that disconnect at once occupy more than the maximum, all at the same time."""
        for client in [self.begin(b"pw")[0] for _ in range(20)]:
            client.lose()
        other = self.connect()
        line = b"AUTH SCRAM-SHA-256 " + response_line(b"n,,n=ann,r=x")
        self.assertEqual(other.send(line), b"")
        self.clock.advance(1)
        self.assertEqual(other.received(), b"")
        self.clock.advance(1)
        self.assertEqual(other.received()[:2], b"+ ")
        self.clock.advance(13)
        self.assert_no_slots()

    def test_disconnected_in_turn(self):
        """Those that disconnect again and again hold up a login for one delay at a challenge."""
        clients = [self.begin(b"pw")[0] for _ in range(40)]

        def lose_some():
            for _ in range(MAX_CONCURRENT):
                clients.pop().lose()
            self.clock.advance(7.5)

        lose_some()
        lose_some()
        scram = ScramClient("sha256", b"pw", name=b"ann")
        other = self.connect(b"AUTH SCRAM-SHA-256 " + b64encode(scram(b"")))
        lose_some()
        lose_some()
        challenge = other.received()
        self.assertEqual(challenge[:2], b"+ ")
        proof = scram(b64decode(challenge.removeprefix(b"+ ")))
        self.assertEqual(other.send(response_line(proof)), b"")
        lose_some()
        lose_some()
        self.assertEqual(other.received()[:2], b"+ ")

    def test_disconnected_late(self):
        """The time for which a client has not answered is no part of the delay."""
        client, _ = self.begin(b"pw")
        self.clock.advance(1.75)
        client.lose()
        self.clock.advance(1.75)
        self.assertEqual(self.factory.throttle.slots._extra_in_use, {"192.0.2.1": 1})
        self.clock.advance(0.25)
        self.assert_no_slots()

    def test_disconnected_in_queue(self):
        """A client that disconnects when its answer waits for a slot has failed, too."""
        clients = [self.begin(b"no") for _ in range(MAX_CONCURRENT + 3)]
        for client, proof in clients:
            client.send(proof)
        for client, _ in clients:
            client.lose()
        slots = self.factory.throttle.slots
        self.assertEqual(slots._shared_in_use, {"192.0.2.1": MAX_CONCURRENT})
        self.assertEqual(slots._extra_in_use, {"192.0.2.1": 3})
        self.clock.advance(15)
        self.assert_no_slots()

    def test_cancelled(self):
        """A client that cancels the exchange has its slot, and no other."""
        client, _ = self.begin(b"no")
        client.send(b"*\r\n")
        self.assertEqual(self.factory.throttle.slots._shared_in_use, {"192.0.2.1": 1})
        self.clock.advance(2)
        self.assertEqual(client.received(), LOGIN_FAILED)
        self.assert_no_slots()


class TokenTests(ThrottleCase):
    """Tokens: a client learns from a challenge that its token is refused."""

    def setUp(self):
        """Serve with a checker of tokens."""
        super().setUp()
        self.error = UnauthorizedLogin("the token is wrong")
        self.right = b"right"
        self.checker = Checker(self.decide, ITokenCredentials, ICertificateCredentials)
        self.serve(self.checker)
        self.tls_state = FakeTLSState([b"eve"])

    def decide(self, credentials):
        """Accept one token."""
        if credentials.token == self.right:
            return b"ann"

        async def refuse():
            await credentials.refuse({"status": "invalid_token"})
            raise self.error

        return Deferred.fromCoroutine(refuse())

    def send_token(self, token, **options):
        """Return a client that has sent a token, and what it reads then."""
        client = self.connect(**options)
        line = b"user=ann\1auth=Bearer %b\1\1" % token
        return client, client.send(b"AUTH XOAUTH2 " + response_line(line))

    def assert_no_slots(self):
        """Check that no slot is in use."""
        slots = self.factory.throttle.slots
        self.assertEqual(
            (slots._shared_in_use, slots._extra_in_use, slots._reserved_in_use, slots._queues),
            ({}, {}, set(), {}),
        )

    def assert_refused_after(self, client, seconds):
        """Check when a client is refused."""
        self.clock.advance(seconds - 0.25)
        self.assertEqual(client.received(), b"")
        self.clock.advance(0.25)
        self.assertEqual(client.received(), LOGIN_FAILED)

    def test_time(self):
        """The reply comes after the delay from the check, which a fast client cannot shorten."""
        for answer_after, reply_after in ((0, 2), (1, 4), (3, 8)):
            client, challenge = self.send_token(b"%d" % answer_after)
            self.assertEqual(challenge[:2], b"+ ")
            self.clock.advance(answer_after)
            self.assertEqual(client.send(b"\r\n"), b"")
            self.assert_refused_after(client, reply_after - answer_after)
            self.assert_no_slots()
            client.lose()

    def test_slow_client(self):
        """A client that answers later is refused at once; its next login has the whole delay."""
        client, _ = self.send_token(b"1")
        self.clock.advance(9)
        self.assert_no_slots()
        self.assertEqual(client.send(b"\r\n"), LOGIN_FAILED)
        self.clock.advance(0.5)
        client.send(b"AUTH XOAUTH2 " + response_line(b"user=ann\1auth=Bearer 2\1\1"))
        client.send(b"\r\n")
        self.assert_refused_after(client, 4)

    def test_overdue(self):
        """A reply that is overdue is due now, since no clock takes a time that is past."""
        client, _ = self.send_token(b"1")
        self.clock.advance(9)
        self.assertEqual(client.server.throttle.record_failure(b"ann", 2), 0)

    def test_refused_without_check(self):
        """The delay of a login that the server refuses without a check is whole, too."""
        client, _ = self.send_token(b"1", tls=True)
        self.clock.advance(9)
        self.assertEqual(client.send(b"\r\n"), LOGIN_FAILED)
        self.clock.advance(0.5)
        client.send(b"AUTH EXTERNAL " + response_line(b"bob"))
        self.assert_refused_after(client, 4)

    def test_not_answering(self):
        """A client that does not answer, but stays, cannot try tokens faster."""
        tokens = []
        for second in range(300):
            before = len(self.checker.seen)
            for n in range(MAX_CONCURRENT + 1):
                client, challenge = self.send_token(b"%d.%d" % (second, n))
                if not challenge:
                    client.lose()
            tokens.append(len(self.checker.seen) - before)
            self.clock.advance(1)
        self.assert_minutes(tokens, 19, 16)
        self.clock.advance(15)
        self.assert_no_slots()

    def test_disconnected(self):
        """A client that disconnects instead cannot, either; each token counts once."""
        client, _ = self.send_token(b"0")
        client.lose()
        penalties = self.factory.throttle.penalties
        self.assertEqual(len(penalties._recent_failures("192.0.2.1")), 1)
        self.clock.advance(1.75)
        self.assertEqual(self.factory.throttle.slots._shared_in_use, {"192.0.2.1": 1})
        self.clock.advance(0.25)
        self.assert_no_slots()

    def test_other_error(self):
        """A login that fails for another reason after all is answered at once."""
        self.error = TryLater()
        client, _ = self.send_token(b"1")
        self.assertIn(b"-ERR [SYS/TEMP]", client.send(b"\r\n"))
        self.assertEqual(self.factory.throttle.slots._shared_in_use, {"192.0.2.1": 1})
        self.clock.advance(9)
        self.error = UnauthorizedLogin("wrong")
        client.send(b"AUTH XOAUTH2 " + response_line(b"user=ann\1auth=Bearer 2\1\1"))
        client.send(b"\r\n")
        self.assert_refused_after(client, 4)
        self.assert_no_slots()

    def test_trusted_networks(self):
        """For trusted networks the delay begins with the answer."""
        client, _ = self.send_token(b"1", peer=LOCAL_PEER)
        self.clock.advance(9)
        client.send(b"\r\n")
        self.assert_refused_after(client, 2)

    def test_known_token(self):
        """A token that was right before does not wait; it is forgotten when it is refused."""
        self.send_token(b"right")[0].lose()
        for n in range(MAX_CONCURRENT + 1):
            self.send_token(b"%d" % n)
        client, reply = self.send_token(b"right")
        self.assertEqual(reply, WELCOME)
        client.lose()
        self.right = b"other"
        client, challenge = self.send_token(b"right")
        self.assertEqual(challenge[:2], b"+ ")
        client.send(b"\r\n")
        self.assert_refused_after(client, 15)
        self.assert_no_slots()
        for n in range(MAX_CONCURRENT + 1):
            self.send_token(b"again %d" % n)
        self.right = b"right"
        self.assertEqual(self.send_token(b"right")[1], b"")


class NamelessTests(ThrottleCase):
    """Logins without a name before the check."""

    def test_found_name(self):
        """The name that the checker finds is known, and so is a login without a name."""

        def decide(credentials):
            credentials.username = b"ann"
            return b"ann"

        self.serve(Checker(decide, ITokenCredentials))
        self.connect(b"AUTH XOAUTH2 " + b64encode(b"user=\1auth=Bearer 1\1\1")).lose()
        is_known = self.factory.throttle.penalties.is_known_name
        self.assertTrue(is_known("192.0.2.1", b"ann"))
        self.assertTrue(is_known("192.0.2.1", b""))

    def test_given_name(self):
        """Otherwise the name is known that the client has given, in whatever spelling."""

        def decide(credentials):
            credentials.username = b"ann"
            return b"ann"

        self.serve(Checker(decide, IUsernamePassword))
        self.try_password(b"pw", name=b"Ann").lose()
        known = list(self.factory.throttle.penalties._known_names)
        self.assertEqual(known, [("192.0.2.1", b"Ann")])

    def test_no_name(self):
        """A checker need not find one."""
        self.serve(Checker(lambda _: b"ann", ITokenCredentials))
        self.connect(b"AUTH XOAUTH2 " + b64encode(b"user=\1auth=Bearer 1\1\1")).lose()
        self.assertEqual(list(self.factory.throttle.penalties._known_names), [("192.0.2.1", b"")])

    def test_no_attribute(self):
        """Credentials of others need not have a name at all."""

        async def accept(credentials):
            return None

        self.patch(self.factory.throttle.authenticator, "authenticate", accept)
        logging_in = self.connect().server.throttle.authenticate(b"", object())
        self.successResultOf(Deferred.fromCoroutine(logging_in))
        self.assertEqual(list(self.factory.throttle.penalties._known_names), [("192.0.2.1", b"")])
