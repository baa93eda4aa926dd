"""AUTH that fails: refused, cancelled, or by a bug."""

from base64 import b64encode
from itertools import pairwise

from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword
from twisted.internet.defer import succeed

from popserv.auth.sasl.mechanisms import Mechanism
from popserv.interfaces import ITokenCredentials
from tests.auth.sasl.test_mechanisms import GOOGLES, RFC_7628
from tests.commands.harness import (
    CANCELLED,
    KINDS,
    REFUSED,
    TRY_LATER,
    Checker,
    FakeChannel,
    ServerCase,
    anybody,
    encoded,
)
from tests.commands.sasl_harness import PLAIN, WELCOME, WRONG, token_refused


class RefusalTests(ServerCase):
    """A login that fails is a guess, whichever way it was tried."""

    def setUp(self):
        """A server with all mechanisms, whose checker knows nobody."""
        super().setUp()
        self.checker = Checker(lambda credentials: None, *KINDS)
        self.serve(self.checker)
        self.tls_state = FakeChannel([b"ann"])

    GUESSES = [
        [b"AUTH PLAIN " + b64encode(WRONG)],
        [b"AUTH PLAIN " + b64encode(b"bob\0ann\0pw")],
        [b"AUTH PLAIN", b64encode(WRONG)],
        [b"AUTH LOGIN", b"YW5u", b"cHc="],
        [b"AUTH CRAM-MD5", b64encode(b"tim b913a602c7eda7a495b4e6e7334d3890")],
        [b"AUTH EXTERNAL ="],
        [b"AUTH EXTERNAL " + b64encode(b"bob")],
        [b"AUTH OAUTHBEARER " + b64encode(RFC_7628)],
        [b"AUTH XOAUTH2 " + b64encode(GOOGLES)],
        [b"AUTH SCRAM-SHA-256 " + b64encode(b"n,,n=ann,r=x")],
        [b"AUTH SCRAM-SHA-1 " + b64encode(b"n,,n=ann,r=x")],
    ]

    def guess(self, client, lines):
        """Make a guess; return the answer to its last line, which is late."""
        *first, last = lines
        for line in first:
            self.assertTrue(client.send(line + b"\r\n").startswith(b"+ "))
        self.assertEqual(client.send(last + b"\r\n"), b"")
        client.clock.advance(1.9)
        self.assertEqual(client.received(), b"")
        client.clock.advance(0.2)
        return client.received()

    def test_alike(self):
        """All fail with one text, after the same time; AUTH can be tried again."""
        for lines in self.GUESSES:
            client = self.connect(tls=True)
            self.assertEqual(self.guess(client, lines), REFUSED, lines)
            self.assertFalse(client.closed)
            self.checker.decide = anybody
            self.assertEqual(client.send(b"AUTH PLAIN " + encoded(PLAIN)), WELCOME)
            self.checker.decide = lambda credentials: None
            client.lose()

    def test_counted(self):
        """The third ends the connection, whatever they were, PASS among them."""
        for first, second in pairwise(self.GUESSES):
            client = self.connect(tls=True)
            self.assertEqual(self.guess(client, first), REFUSED)
            client.send(b"USER ann\r\n")
            self.assertEqual(self.guess(client, [b"PASS pw"]), REFUSED)
            self.assertFalse(client.closed)
            self.assertEqual(self.guess(client, second), REFUSED)
            self.assertTrue(client.closed)

    def test_no_input_meanwhile(self):
        """While a refusal is late nothing else is answered."""
        client = self.connect()
        self.assertEqual(client.send(b"AUTH PLAIN " + encoded(WRONG) + b"NOOP\r\n"), b"")
        self.assertEqual(client.send(b"NOOP\r\n"), b"")
        self.assertEqual(client.late(), REFUSED + b"-ERR log in first\r\n" * 2)

    def test_malformed_is_a_blunder(self):
        """Twenty malformed exchanges in a row end the connection."""
        client = self.connect()
        for _ in range(19):
            client.send(b"AUTH PLAIN !\r\n")
        self.assertFalse(client.closed)
        client.send(b"AUTH PLAIN !\r\n")
        self.assertTrue(client.closed)

    def test_token_dialogue(self):
        """A refused token is answered with its reason in JSON, then -ERR (RFC 7628 section 4.3)."""
        reason = {
            "status": "invalid_token",
            "scope": "example_scope",
            "openid-configuration": "https://example.com/.well-known/openid-configuration",
        }
        challenge = (
            b"+ eyJzdGF0dXMiOiAiaW52YWxpZF90b2tlbiIsICJzY29wZSI6ICJleGFtcGxlX3Njb3BlIiwgIm9wZW5pZC1"
            b"jb25maWd1cmF0aW9uIjogImh0dHBzOi8vZXhhbXBsZS5jb20vLndlbGwta25vd24vb3BlbmlkLWNvbmZpZ3VyYXR"
            b"pb24ifQ==\r\n"
        )
        self.serve(Checker(token_refused(reason), ITokenCredentials))
        for name, response in ((b"OAUTHBEARER", RFC_7628), (b"XOAUTH2", GOOGLES)):
            for answer in (b"AQ==", b"", b"*", b"nonsense!"):
                client = self.connect()
                line = b"AUTH %b %b" % (name, encoded(response))
                self.assertEqual(client.send(line), challenge)
                self.assertEqual(client.send(answer + b"\r\n"), b"")
                self.assertEqual(client.late(), REFUSED)
                self.assertFalse(client.closed)

    def test_lost_in_the_token_dialogue(self):
        """A client that goes instead of answering why is not missed."""
        self.serve(Checker(token_refused({"status": "x"}), ITokenCredentials))
        client = self.connect()
        client.send(b"AUTH OAUTHBEARER " + encoded(RFC_7628))
        client.lose()
        client.clock.advance(3)
        self.assertReleased(0)
        self.assertEqual(client.clock.getDelayedCalls(), [])

    def test_reason_is_logged(self):
        """Why is in the log, with the name that was tried."""
        client = self.connect(tls=True)
        for lines, name, why in [
            (self.GUESSES[0], b"ann", "the checker's own words"),
            (
                self.GUESSES[1],
                b"ann",
                "the authorization identity is not the authentication identity",
            ),
            (self.GUESSES[6], b"bob", "the certificate is for b'ann', not for that"),
        ]:
            self.log._events.clear()
            self.guess(client, lines)
            event = next(event for event in self.log if "cause" in event)
            self.assertEqual((event["user"], str(event["cause"])), (name, why))


USER_FIRST = b"-ERR send USER first\r\n"


class AbortTests(ServerCase):
    """Nothing survives an exchange that came to no good end."""

    def test_name(self):
        """The name that USER gave does not outlive an AUTH, nor AUTH's own any exchange."""
        for lines in (
            [b"AUTH"],
            [b"AUTH X"],
            [b"AUTH PLAIN", b"*"],
            [b"AUTH PLAIN !"],
            [b"AUTH LOGIN YW5u", b"*"],
            [b"AUTH LOGIN YW5u", b"!"],
            [b"AUTH PLAIN " + b64encode(WRONG)],
        ):
            client = self.connect(b"USER ann", *lines)
            client.clock.advance(2)
            client.received()
            self.assertEqual(client.send(b"PASS pw\r\n"), USER_FIRST, lines)

    def test_state(self):
        """An aborted exchange leaves the AUTHORIZATION state, and the next begins anew."""
        client = self.connect()
        for _ in range(5):
            self.assertEqual(client.send(b"AUTH LOGIN YW5u\r\n"), b"+ UGFzc3dvcmQ6\r\n")
            self.assertEqual(client.send(b"*\r\n"), CANCELLED)
            self.assertEqual(client.send(b"STAT\r\n"), b"-ERR log in first\r\n")
            # The name of before would be taken for an initial response.
            self.assertEqual(client.send(b"AUTH LOGIN\r\n"), b"+ VXNlcm5hbWU6\r\n")
            self.assertEqual(client.send(b"*\r\n"), CANCELLED)
        self.assertEqual(client.send(b"AUTH PLAIN " + encoded(PLAIN)), WELCOME)

    def test_challenge(self):
        """A challenge is good for the exchange that it belongs to."""
        seen = []
        self.serve(Checker(lambda credentials: seen.append(credentials), IUsernameHashedPassword))
        client = self.connect()
        challenges = set()
        for line in (b"*", b"!", b"YSBi"):
            challenges.add(client.send(b"AUTH CRAM-MD5\r\n"))
            client.late(line + b"\r\n")
        self.assertEqual((len(challenges), len(seen)), (3, 1))

    def test_commands_are_no_responses(self):
        """In a dialogue no line is a command, QUIT neither."""
        for line in (b"QUIT\r\n", b"CAPA\r\n", b"USER ann\r\n"):
            client = self.connect(b"AUTH PLAIN")
            answer = client.send(line)
            self.assertIn(b"-ERR", answer)
            self.assertNotIn(b"+OK", answer)
            self.assertFalse(client.closed)


class TroubleTests(ServerCase):
    """What nobody foresaw is a temporary failure, and the client learns no more."""

    def test_checker(self):
        """An exception in a checker, at once or later."""

        def later(credentials):
            return succeed(None).addCallback(at_once)

        def at_once(credentials):
            raise RuntimeError("a secret of the server's")

        for decide in (at_once, later):
            self.serve(Checker(decide, IUsernamePassword))
            client = self.connect()
            self.assertEqual(client.late(b"AUTH PLAIN " + encoded(PLAIN)), TRY_LATER)
            self.assertEqual(
                client.late(b"USER ann\r\nPASS pw\r\n"), b"+OK send PASS\r\n" + TRY_LATER
            )
            self.assertFalse(client.closed)
            self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)

    def test_mechanism(self):
        """An exception in a mechanism, before it asks and after."""
        for asks in range(2):

            async def run(send_challenge, session, offered, asks=asks):
                for _ in range(asks):
                    await send_challenge(b"?")
                raise RuntimeError("a secret of the server's")

            self.serve(mechanisms=[Mechanism(b"X", IUsernamePassword, run, cleartext=True)])
            client = self.connect()
            answer = client.send(b"AUTH X\r\n" + b"\r\n" * asks)
            self.assertEqual(answer, b"+ Pw==\r\n" * asks + TRY_LATER)
            self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_store(self):
        """What the store says is passed on by its kind."""
        first = self.connect()
        first.send(b"AUTH PLAIN " + encoded(PLAIN))
        client = self.connect()
        self.assertEqual(
            client.send(b"AUTH PLAIN " + encoded(PLAIN)),
            b"-ERR [IN-USE] maildrop already locked\r\n",
        )
        self.assertFalse(client.closed)
        first.lose()
        self.assertEqual(client.send(b"AUTH PLAIN " + encoded(PLAIN)), WELCOME)

    def test_canary(self):
        """No password or token is in the log, in base64 neither, whatever becomes of it."""
        secret = b"canary-4711"

        def broken(credentials):
            raise RuntimeError("a bug")

        exchanges = [
            [b"AUTH PLAIN " + b64encode(b"\0ann\0" + secret)],
            [b"AUTH PLAIN " + b64encode(b"bob\0ann\0" + secret)],
            [b"AUTH PLAIN " + b64encode(b"\0ann\0" + secret) + b"!"],
            [b"AUTH PLAIN " + b64encode(b"ann\0" + secret)],
            [b"AUTH PLAIN", b64encode(b"\0ann\0" + secret)],
            [b"AUTH X " + b64encode(secret)],
            [b"AUTH LOGIN YW5u", b64encode(secret)],
            [b"AUTH OAUTHBEARER " + b64encode(b"n,,\1auth=Bearer " + secret + b"\1\1"), b"AQ=="],
            [b"AUTH XOAUTH2 " + b64encode(b"user=ann\1auth=Bearer " + secret + b"\1\1"), b"AQ=="],
            [b"AUTH OAUTHBEARER " + b64encode(b"n,,\1auth=Basic " + secret + b"\1\1")],
            [b"AUTH PLAIN " + b64encode(secret * 20_000)],
        ]
        for decide in (lambda credentials: None, broken, anybody):
            self.serve(Checker(decide, *KINDS))
            for lines in exchanges:
                client = self.connect()
                for line in lines:
                    client.late(line + b"\r\n")
                client.send(b"QUIT\r\n")
                client.lose()
            self.flushLoggedErrors(RuntimeError)
        logged = self.logged()
        self.assertIn("'ann'", logged)
        self.assertNotIn("canary", logged)
        for at in range(3):
            self.assertNotIn(b64encode(b"x" * at + secret)[4:12].decode(), logged)
