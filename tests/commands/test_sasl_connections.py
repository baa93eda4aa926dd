"""Connections that end during AUTH."""

from base64 import b64encode

from twisted.cred.credentials import IUsernamePassword
from twisted.internet.defer import Deferred

from popserv.auth.passwords.schemes import scram_keys
from popserv.core.grammar import MAX_SASL_LINE
from popserv.core.session import State
from popserv.errors import LoginFailed
from popserv.interfaces import IScramSHA256Credentials, ITokenCredentials
from tests.auth.sasl.test_mechanisms import RFC_7628
from tests.commands.harness import (
    KINDS,
    Checker,
    ServerCase,
    encoded,
    password_of_ann,
)
from tests.commands.sasl_harness import PLAIN, TOO_LONG, WELCOME, token_refused


class EndTests(ServerCase):
    """A connection may end at any step."""

    DIALOGUES = [
        [b"AUTH PLAIN"],
        [b"AUTH LOGIN"],
        [b"AUTH LOGIN", b"YW5u"],
        [b"AUTH SCRAM-SHA-256"],
        [b"AUTH SCRAM-SHA-256", b64encode(b"n,,n=ann,r=x")],
        [b"AUTH CRAM-MD5"],
        [b"AUTH OAUTHBEARER " + b64encode(RFC_7628)],
    ]

    def setUp(self):
        """A checker that talks on where it can."""
        super().setUp()
        self.ended = []

        def decide(credentials):
            if ITokenCredentials.providedBy(credentials):
                return token_refused({"status": "x"})(credentials)
            if IScramSHA256Credentials.providedBy(credentials):
                keys = scram_keys("sha256", b"pw", b"salt", 1)
                outcome = Deferred.fromCoroutine(credentials.check_keys(keys))
                outcome.addBoth(self.ended.append)
                return outcome
            return password_of_ann(credentials)

        self.serve(Checker(decide, *KINDS))

    def dialogues(self):
        """Yield clients that were asked something, in every dialogue there is."""
        for lines in self.DIALOGUES:
            client = self.connect(*lines)
            self.assertIsNotNone(client.server._sasl_response, lines)
            self.assertFalse(client.closed)
            yield client

    def assertOver(self, client):
        """Nothing of the connection is left."""
        client.clock.advance(5)
        self.assertEqual(client.clock.getDelayedCalls(), [])
        self.assertEqual(list(self.factory.connections), [])
        self.assertIsNone(client.server._sasl_response)
        self.assertIs(client.server.session.state, State.AUTHORIZATION)
        self.assertReleased(0)

    def test_lost(self):
        """A client that goes away in mid-dialogue leaves nothing behind."""
        for client in self.dialogues():
            client.lose()
            self.assertOver(client)
        self.assertEqual(len(self.ended), 1)

    def test_idle(self):
        """A dialogue is no reason to stay; what comes after the end is not heard."""
        for client in self.dialogues():
            client.clock.advance(601)
            self.assertTrue(client.closed)
            self.assertEqual(client.send(encoded(PLAIN)), b"")
            client.lose()
            self.assertOver(client)

    def test_answers_keep_awake(self):
        """An answer is a sign of life."""
        client = self.connect(b"AUTH LOGIN")
        client.clock.advance(599)
        client.send(b"YW5u\r\n")
        client.clock.advance(599)
        self.assertEqual(client.send(b"cHc=\r\n"), WELCOME)

    def test_half_closed(self):
        """A client that will answer no more is gone."""
        for client in self.dialogues():
            client.server.readConnectionLost()
            self.assertTrue(client.closed)
            client.lose()
            self.assertOver(client)

    def test_half_closed_behind_the_dialogue(self):
        """A client that has said all gets all its answers."""
        self.store.slow = {"login"}
        client = self.connect()
        client.send(b"AUTH LOGIN\r\nYW5u\r\ncHc=\r\nSTAT\r\n")
        client.server.readConnectionLost()
        self.assertFalse(client.closed)
        self.store.waiting["login"].callback(None)
        self.assertEqual(client.received(), WELCOME + b"+OK 2 10\r\n")
        self.assertTrue(client.closed)
        client.lose()
        self.assertReleased()

    def test_too_long_an_answer(self):
        """A response that is too long ends the connection, and with it the dialogue."""
        for client in self.dialogues():
            self.assertEqual(client.send(b"A" * (MAX_SASL_LINE + 2)), TOO_LONG)
            self.assertTrue(client.closed)
            client.lose()
            self.assertOver(client)

    def test_write_side_lost(self):
        """A client that cannot be asked is let go."""
        for client in self.dialogues():
            client.server.writeConnectionLost()
            self.assertTrue(client.transport.aborted)
            client.lose()
            self.assertOver(client)

    def test_crowded_out(self):
        """A dialogue makes room for others, as every session does that has not logged in."""
        self.factory.max_connections = 1
        client = self.connect(b"AUTH PLAIN")
        other = self.connect()
        self.assertTrue(client.transport.aborted)
        client.lose()
        self.assertFalse(other.closed)


class PendingTests(ServerCase):
    """The checker, or the store, is still at it when the connection ends."""

    def pend(self):
        """A client whose login waits for its checker; how to go on with it."""
        waiting = Deferred()
        self.serve(Checker(lambda credentials: waiting, IUsernamePassword))
        client = self.connect()
        self.assertEqual(client.send(b"AUTH PLAIN " + encoded(PLAIN) + b"STAT\r\n"), b"")
        return client, waiting

    def test_lost(self):
        """The login goes on to its end, and the lock is given up then."""
        for end in (lambda waiting: waiting.callback(b"ann"), lambda w: w.errback(LoginFailed())):
            self.store.released = 0
            client, waiting = self.pend()
            client.lose()
            end(waiting)
            client.clock.advance(3)
            self.assertEqual(self.store.locked, set())
            self.assertLessEqual(self.store.released, 1)
            self.assertEqual(client.clock.getDelayedCalls(), [])

    def test_idle(self):
        """A checker that does not answer keeps no connection."""
        client, waiting = self.pend()
        client.clock.advance(601)
        self.assertTrue(client.closed)
        waiting.callback(b"ann")
        client.lose()
        self.assertReleased()

    def test_lost_in_the_store(self):
        """A lock that is got after client disconnected is given up at once."""
        self.store.slow = {"login"}
        client = self.connect()
        client.send(b"AUTH PLAIN " + encoded(PLAIN))
        client.lose()
        self.store.waiting["login"].callback(None)
        self.assertReleased()

    def test_checker_asks_the_gone(self):
        """Who is asked something after it has gone has broken the exchange off."""
        waiting, ended = Deferred(), []

        async def check(credentials):
            await waiting
            try:
                await credentials.check_keys(scram_keys("sha256", b"pw", b"salt", 1))
            finally:
                ended.append(True)

        self.serve(Checker(lambda c: Deferred.fromCoroutine(check(c)), IScramSHA256Credentials))
        client = self.connect()
        client.send(b"AUTH SCRAM-SHA-256 " + encoded(b"n,,n=ann,r=x"))
        client.lose()
        waiting.callback(None)
        self.assertEqual(ended, [True])
        client.clock.advance(3)
        self.assertReleased(0)
        self.assertEqual(client.clock.getDelayedCalls(), [])
