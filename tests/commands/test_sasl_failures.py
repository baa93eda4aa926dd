"""AUTH that fails: failed logins, cancelled exchanges, unexpected errors."""

from base64 import b64encode
from itertools import pairwise
from operator import attrgetter

from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword
from twisted.internet.defer import succeed

from popserv.auth.sasl.mechanisms import Mechanism
from popserv.interfaces import ICertificateCredentials, ITokenCredentials
from tests.auth.sasl.test_oauthbearer import GOOGLE_XOAUTH2, RFC_7628_RESPONSE
from tests.commands.harness import (
    CANCELLED,
    CREDENTIALS,
    LOGIN_FAILED,
    TRY_LATER,
    Checker,
    CommandTestCase,
    FakeTLSState,
    accept_all,
    response_line,
)
from tests.commands.sasl_harness import PLAIN, WELCOME, WRONG_PLAIN, reject_token


class FailedLoginTests(CommandTestCase):
    """A failed login has the same reply and the same delay with every mechanism."""

    def setUp(self):
        """Serve all mechanisms with a checker that rejects everything."""
        super().setUp()
        self.checker = Checker(lambda credentials: None, *CREDENTIALS)
        self.serve(self.checker)
        self.tls_state = FakeTLSState([b"ann"])

    FAILED_LOGINS = [
        [b"AUTH PLAIN " + b64encode(WRONG_PLAIN)],
        [b"AUTH PLAIN " + b64encode(b"bob\0ann\0pw")],
        [b"AUTH PLAIN", b64encode(WRONG_PLAIN)],
        [b"AUTH LOGIN", b"YW5u", b"cHc="],
        [b"AUTH CRAM-MD5", b64encode(b"tim b913a602c7eda7a495b4e6e7334d3890")],
        [b"AUTH EXTERNAL ="],
        [b"AUTH EXTERNAL " + b64encode(b"bob")],
        [b"AUTH OAUTHBEARER " + b64encode(RFC_7628_RESPONSE)],
        [b"AUTH XOAUTH2 " + b64encode(GOOGLE_XOAUTH2)],
        [b"AUTH SCRAM-SHA-256 " + b64encode(b"n,,n=ann,r=x")],
        [b"AUTH SCRAM-SHA-1 " + b64encode(b"n,,n=ann,r=x")],
    ]

    def fail_login(self, client, lines):
        """Send the lines of a login that fails; return the delayed reply."""
        *first, last = lines
        for line in first:
            self.assertTrue(client.send(line + b"\r\n").startswith(b"+ "))
        self.assertEqual(client.send(last + b"\r\n"), b"")
        client.clock.advance(1.9)
        self.assertEqual(client.received(), b"")
        client.clock.advance(0.2)
        return client.received()

    def test_reply(self):
        """All failures have the same reply and delay; a later login can succeed."""
        for lines in self.FAILED_LOGINS:
            client = self.connect(tls=True)
            self.assertEqual(self.fail_login(client, lines), LOGIN_FAILED, lines)
            self.assertFalse(client.closed)
            self.checker.decide = accept_all
            self.assertEqual(client.send(b"AUTH PLAIN " + response_line(PLAIN)), WELCOME)
            self.checker.decide = lambda credentials: None
            client.lose()

    def test_limit(self):
        """The third failed login closes the connection, whatever the mechanisms."""
        for first, second in pairwise(self.FAILED_LOGINS):
            client = self.connect(tls=True)
            self.assertEqual(self.fail_login(client, first), LOGIN_FAILED)
            client.send(b"USER ann\r\n")
            self.assertEqual(self.fail_login(client, [b"PASS pw"]), LOGIN_FAILED)
            self.assertFalse(client.closed)
            self.assertEqual(self.fail_login(client, second), LOGIN_FAILED)
            self.assertTrue(client.closed)

    def test_input_during_delay(self):
        """During the delay no other commands are run."""
        client = self.connect()
        self.assertEqual(
            client.send(b"AUTH PLAIN " + response_line(WRONG_PLAIN) + b"NOOP\r\n"), b""
        )
        self.assertEqual(client.send(b"NOOP\r\n"), b"")
        self.assertEqual(client.send_and_wait(), LOGIN_FAILED + b"-ERR log in first\r\n" * 2)

    def test_malformed(self):
        """Twenty consecutive malformed exchanges close the connection."""
        client = self.connect()
        for _ in range(19):
            client.send(b"AUTH PLAIN !\r\n")
        self.assertFalse(client.closed)
        client.send(b"AUTH PLAIN !\r\n")
        self.assertTrue(client.closed)

    def test_rejected_token(self):
        """A rejected token gets a challenge with the reason in JSON, then -ERR (RFC 7628)."""
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
        self.serve(Checker(reject_token(reason), ITokenCredentials))
        for name, response in ((b"OAUTHBEARER", RFC_7628_RESPONSE), (b"XOAUTH2", GOOGLE_XOAUTH2)):
            for reply in (b"AQ==", b"", b"*", b"nonsense!"):
                client = self.connect()
                line = b"AUTH %b %b" % (name, response_line(response))
                self.assertEqual(client.send(line), challenge)
                self.assertEqual(client.send(reply + b"\r\n"), b"")
                self.assertEqual(client.send_and_wait(), LOGIN_FAILED)
                self.assertFalse(client.closed)

    def test_lost_after_rejected_token(self):
        """A client may disconnect instead of answering that challenge."""
        self.serve(Checker(reject_token({"status": "x"}), ITokenCredentials))
        client = self.connect()
        client.send(b"AUTH OAUTHBEARER " + response_line(RFC_7628_RESPONSE))
        client.lose()
        client.clock.advance(3)
        self.assert_released(0)
        self.assertEqual(client.clock.getDelayedCalls(), [])

    def test_log(self):
        """The cause is logged with the name that was tried and the mechanism."""
        client = self.connect(tls=True)
        for lines, name, method, why in [
            (self.FAILED_LOGINS[0], "ann", "PLAIN", "the checker's own words"),
            (
                self.FAILED_LOGINS[1],
                "ann",
                "PLAIN",
                "the authorization identity is not the authentication identity",
            ),
            (
                self.FAILED_LOGINS[6],
                "bob",
                "EXTERNAL",
                'the client certificate is for "ann", not for the authorization identity',
            ),
        ]:
            self.log._events.clear()
            self.fail_login(client, lines)
            event = next(event for event in self.log if "cause" in event)
            logged = (event["user"], event["method"], event["cause"])
            self.assertEqual(logged, (name, method, why))

    def test_naive_checker(self):
        """EXTERNAL fails for a user without a certificate, although the checker only reads names.

        (RFC 4422 section 3.4.1)
        """
        for read in (attrgetter("username"), lambda credentials: credentials.names[0]):
            self.serve(Checker(read, ICertificateCredentials))
            client = self.connect(tls=True)
            reply = client.send_and_wait(b"AUTH EXTERNAL %b\r\n" % b64encode(b"bob"))
            self.assertEqual(reply, LOGIN_FAILED)
            reply = client.send_and_wait(b"AUTH EXTERNAL %b\r\n" % b64encode(b"ann"))
            self.assertEqual(reply, WELCOME)
            client.lose()


USER_FIRST = b"-ERR send USER first\r\n"


class AbortTests(CommandTestCase):
    """An exchange that fails or is cancelled does not affect later ones."""

    def test_name(self):
        """Neither the name of USER nor that of AUTH is used after an exchange."""
        for lines in (
            [b"AUTH"],
            [b"AUTH X"],
            [b"AUTH PLAIN", b"*"],
            [b"AUTH PLAIN !"],
            [b"AUTH LOGIN YW5u", b"*"],
            [b"AUTH LOGIN YW5u", b"!"],
            [b"AUTH PLAIN " + b64encode(WRONG_PLAIN)],
        ):
            client = self.connect(b"USER ann", *lines)
            client.clock.advance(2)
            client.received()
            self.assertEqual(client.send(b"PASS pw\r\n"), USER_FIRST, lines)

    def test_state(self):
        """After a cancelled exchange the state is AUTHORIZATION, and a new exchange can start."""
        client = self.connect()
        for _ in range(5):
            self.assertEqual(client.send(b"AUTH LOGIN YW5u\r\n"), b"+ UGFzc3dvcmQ6\r\n")
            self.assertEqual(client.send(b"*\r\n"), CANCELLED)
            self.assertEqual(client.send(b"STAT\r\n"), b"-ERR log in first\r\n")
            # The earlier name is not used as an initial response.
            self.assertEqual(client.send(b"AUTH LOGIN\r\n"), b"+ VXNlcm5hbWU6\r\n")
            self.assertEqual(client.send(b"*\r\n"), CANCELLED)
        self.assertEqual(client.send(b"AUTH PLAIN " + response_line(PLAIN)), WELCOME)

    def test_challenge(self):
        """Each exchange has a new challenge."""
        seen = []
        self.serve(Checker(lambda credentials: seen.append(credentials), IUsernameHashedPassword))
        client = self.connect()
        challenges = set()
        for line in (b"*", b"!", b"YSBi"):
            challenges.add(client.send(b"AUTH CRAM-MD5\r\n"))
            client.send_and_wait(line + b"\r\n")
        self.assertEqual((len(challenges), len(seen)), (3, 1))

    def test_commands(self):
        """During an exchange no line is a command."""
        for line in (b"QUIT\r\n", b"CAPA\r\n", b"USER ann\r\n"):
            client = self.connect(b"AUTH PLAIN")
            reply = client.send(line)
            self.assertIn(b"-ERR", reply)
            self.assertNotIn(b"+OK", reply)
            self.assertFalse(client.closed)


class UnexpectedErrorTests(CommandTestCase):
    """Unexpected errors are temporary failures, and their text is not sent."""

    def test_checker(self):
        """A checker may raise an exception, or return a Deferred that fails."""

        def deferred(credentials):
            return succeed(None).addCallback(immediate)

        def immediate(credentials):
            raise RuntimeError("a secret of the server's")

        for decide in (immediate, deferred):
            self.serve(Checker(decide, IUsernamePassword))
            client = self.connect()
            self.assertEqual(client.send_and_wait(b"AUTH PLAIN " + response_line(PLAIN)), TRY_LATER)
            self.assertEqual(
                client.send_and_wait(b"USER ann\r\nPASS pw\r\n"), b"+OK send PASS\r\n" + TRY_LATER
            )
            self.assertFalse(client.closed)
            self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)

    def test_mechanism(self):
        """A mechanism may raise an exception before or after a challenge."""
        for challenges_sent in range(2):

            async def run(send_challenge, session, offered, challenges_sent=challenges_sent):
                for _ in range(challenges_sent):
                    await send_challenge(b"?")
                raise RuntimeError("a secret of the server's")

            self.serve(mechanisms=[Mechanism(b"X", IUsernamePassword, run, cleartext=True)])
            client = self.connect()
            reply = client.send(b"AUTH X\r\n" + b"\r\n" * challenges_sent)
            self.assertEqual(reply, b"+ Pw==\r\n" * challenges_sent + TRY_LATER)
            self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_store(self):
        """An error of the store is sent with its response code."""
        first = self.connect()
        first.send(b"AUTH PLAIN " + response_line(PLAIN))
        client = self.connect()
        self.assertEqual(
            client.send(b"AUTH PLAIN " + response_line(PLAIN)),
            b"-ERR [IN-USE] maildrop already locked\r\n",
        )
        self.assertFalse(client.closed)
        first.lose()
        self.assertEqual(client.send(b"AUTH PLAIN " + response_line(PLAIN)), WELCOME)

    def test_secrets_in_log(self):
        """Passwords and tokens are never logged, not even in base64."""
        secret = b"canary-4711"

        def raise_error(credentials):
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
        for decide in (lambda credentials: None, raise_error, accept_all):
            self.serve(Checker(decide, *CREDENTIALS))
            for lines in exchanges:
                client = self.connect()
                for line in lines:
                    client.send_and_wait(line + b"\r\n")
                client.send(b"QUIT\r\n")
                client.lose()
            self.flushLoggedErrors(RuntimeError)
        logged = self.log_text()
        self.assertIn("'ann'", logged)
        self.assertNotIn("canary", logged)
        for at in range(3):
            self.assertNotIn(b64encode(b"x" * at + secret)[4:12].decode(), logged)
