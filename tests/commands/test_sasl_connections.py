"""Connections that end during AUTH."""

from base64 import b64encode

from twisted.cred.credentials import IUsernamePassword
from twisted.internet.defer import Deferred

from popserv.auth.passwords.scram_keys import derive_scram_keys
from popserv.core.session import State
from popserv.errors import LoginFailed, POPError
from popserv.interfaces import IScramSHA256Credentials, ITokenCredentials
from tests.auth.sasl.test_oauthbearer import RFC_7628_RESPONSE
from tests.commands.harness import (
    CANCELLED,
    CREDENTIALS,
    Checker,
    CommandTestCase,
    check_password,
    response_line,
)
from tests.commands.sasl_harness import PLAIN, TOO_LONG, WELCOME, reject_token


class ExchangeTests(CommandTestCase):
    """A connection that ends while a challenge is unanswered."""

    EXCHANGES = [
        [b"AUTH PLAIN"],
        [b"AUTH LOGIN"],
        [b"AUTH LOGIN", b"YW5u"],
        [b"AUTH SCRAM-SHA-256"],
        [b"AUTH SCRAM-SHA-256", b64encode(b"n,,n=ann,r=x")],
        [b"AUTH CRAM-MD5"],
        [b"AUTH OAUTHBEARER " + b64encode(RFC_7628_RESPONSE)],
    ]

    def setUp(self):
        """Serve a checker that sends challenges where the mechanism allows it."""
        super().setUp()
        self.ended = []

        def decide(credentials):
            if ITokenCredentials.providedBy(credentials):
                return reject_token({"status": "x"})(credentials)
            if IScramSHA256Credentials.providedBy(credentials):
                keys = derive_scram_keys("sha256", b"pw", b"salt", 1)
                outcome = Deferred.fromCoroutine(credentials.check_keys(keys))
                outcome.addBoth(self.ended.append)
                return outcome
            return check_password(credentials)

        self.serve(Checker(decide, *CREDENTIALS))

    def clients_in_exchange(self):
        """Yield a client for each kind of challenge, which it has not answered."""
        for lines in self.EXCHANGES:
            client = self.connect(*lines)
            self.assertIsNotNone(client.server._sasl_response, lines)
            self.assertFalse(client.closed)
            yield client

    def assert_ended(self, client):
        """Check that nothing of the connection is left."""
        client.clock.advance(5)
        self.assertEqual(client.clock.getDelayedCalls(), [])
        self.assertEqual(list(self.factory.connections), [])
        self.assertIsNone(client.server._sasl_response)
        self.assertIs(client.server.session.state, State.AUTHORIZATION)
        self.assert_released(0)

    def test_lost(self):
        """A client may disconnect during an exchange."""
        for client in self.clients_in_exchange():
            client.lose()
            self.assert_ended(client)
        self.assertEqual(len(self.ended), 1)

    def test_idle(self):
        """The idle timer runs during an exchange; later responses are ignored."""
        for client in self.clients_in_exchange():
            client.clock.advance(601)
            self.assertTrue(client.closed)
            self.assertEqual(client.send(response_line(PLAIN)), b"")
            client.lose()
            self.assert_ended(client)

    def test_response_resets_timer(self):
        """A response resets the idle timer."""
        client = self.connect(b"AUTH LOGIN")
        client.clock.advance(599)
        client.send(b"YW5u\r\n")
        client.clock.advance(599)
        self.assertEqual(client.send(b"cHc=\r\n"), WELCOME)

    def test_half_closed(self):
        """A client that closes its sending side during an exchange is disconnected."""
        for client in self.clients_in_exchange():
            client.server.readConnectionLost()
            self.assertTrue(client.closed)
            client.lose()
            self.assert_ended(client)

    def test_half_closed_after_exchange(self):
        """A client that has sent everything gets all replies."""
        self.store.slow = {"login"}
        client = self.connect()
        client.send(b"AUTH LOGIN\r\nYW5u\r\ncHc=\r\nSTAT\r\n")
        client.server.readConnectionLost()
        self.assertFalse(client.closed)
        self.store.waiting["login"].callback(None)
        self.assertEqual(client.received(), WELCOME + b"+OK 2 10\r\n")
        self.assertTrue(client.closed)
        client.lose()
        self.assert_released()

    def test_longest_response(self):
        """A response may have 100,000 octets."""
        for client in self.clients_in_exchange():
            self.assertNotEqual(client.send(b"A" * 100_000 + b"\r\n"), TOO_LONG)
            self.assertFalse(client.closed)
            client.lose()

    def test_long_response(self):
        """A response that is too long closes the connection."""
        for client in self.clients_in_exchange():
            self.assertEqual(client.send(b"A" * 100_001 + b"\r\n"), TOO_LONG)
            self.assertTrue(client.closed)
            client.lose()
            self.assert_ended(client)

    def test_write_side_lost(self):
        """A client to which nothing can be sent is disconnected."""
        for client in self.clients_in_exchange():
            client.server.writeConnectionLost()
            self.assertTrue(client.transport.aborted)
            client.lose()
            self.assert_ended(client)

    def test_evicted(self):
        """A connection with an exchange can be evicted, as it is unauthenticated."""
        self.factory.max_connections = 1
        client = self.connect(b"AUTH PLAIN")
        other = self.connect()
        self.assertTrue(client.transport.aborted)
        client.lose()
        self.assertFalse(other.closed)


class PendingTests(CommandTestCase):
    """A connection that ends while the checker or the store is busy."""

    def start_login(self):
        """Return a client that waits for its checker, and the checker's Deferred."""
        waiting = Deferred()
        self.serve(Checker(lambda credentials: waiting, IUsernamePassword))
        client = self.connect()
        self.assertEqual(client.send(b"AUTH PLAIN " + response_line(PLAIN) + b"STAT\r\n"), b"")
        return client, waiting

    def test_lost(self):
        """The login is completed, and the maildrop is released."""
        for end in (lambda waiting: waiting.callback(b"ann"), lambda w: w.errback(LoginFailed())):
            self.store.released = 0
            client, waiting = self.start_login()
            client.lose()
            end(waiting)
            # The reply to a failed login is not delayed then.
            for call in client.clock.getDelayedCalls():
                self.assertEqual(call.getTime(), client.clock.seconds())
            client.clock.advance(0)
            self.assertEqual(self.store.locked, set())
            self.assertLessEqual(self.store.released, 1)
            self.assertEqual(client.clock.getDelayedCalls(), [])

    def test_idle(self):
        """The idle timer closes a connection whose checker does not respond."""
        client, waiting = self.start_login()
        client.clock.advance(601)
        self.assertTrue(client.closed)
        waiting.callback(b"ann")
        client.lose()
        self.assert_released()

    def test_lost_during_open(self):
        """A maildrop that is opened after the client has disconnected is released."""
        self.store.slow = {"login"}
        client = self.connect()
        client.send(b"AUTH PLAIN " + response_line(PLAIN))
        client.lose()
        self.store.waiting["login"].callback(None)
        self.assert_released()

    def test_late_challenge(self):
        """A response that has arrived before its challenge is read when that is sent."""
        waiting = Deferred()

        async def check(credentials):
            await waiting
            await credentials.check_keys(derive_scram_keys("sha256", b"pw", b"salt", 1))

        self.serve(Checker(lambda c: Deferred.fromCoroutine(check(c)), IScramSHA256Credentials))
        client = self.connect()
        client.send(b"AUTH SCRAM-SHA-256 " + response_line(b"n,,n=ann,r=x") + b"*\r\n")
        waiting.callback(None)
        reply = client.received()
        self.assertEqual((reply[:2], reply[-len(CANCELLED) :]), (b"+ ", CANCELLED))

    def test_lost_challenge(self):
        """A checker may go on without the response; the maildrop is released after that."""
        waiting = Deferred()

        async def check(credentials):
            try:
                await credentials.check_keys(derive_scram_keys("sha256", b"pw", b"salt", 1))
            except POPError:
                await waiting
            return b"ann"

        self.serve(Checker(lambda c: Deferred.fromCoroutine(check(c)), IScramSHA256Credentials))
        client = self.connect()
        client.send(b"AUTH SCRAM-SHA-256 " + response_line(b"n,,n=ann,r=x"))
        client.lose()
        self.assert_released(0)
        waiting.callback(None)
        self.assert_released()

    def test_challenge_after_disconnect(self):
        """A challenge for a client that has disconnected fails."""
        waiting, ended = Deferred(), []

        async def check(credentials):
            await waiting
            try:
                await credentials.check_keys(derive_scram_keys("sha256", b"pw", b"salt", 1))
            finally:
                ended.append(True)

        self.serve(Checker(lambda c: Deferred.fromCoroutine(check(c)), IScramSHA256Credentials))
        client = self.connect()
        client.send(b"AUTH SCRAM-SHA-256 " + response_line(b"n,,n=ann,r=x"))
        client.lose()
        waiting.callback(None)
        self.assertEqual(ended, [True])
        client.clock.advance(3)
        self.assert_released(0)
        self.assertEqual(client.clock.getDelayedCalls(), [])
