"""Tests of popserv.auth.dovecot.checker."""

import os
from base64 import b64encode

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword, UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from popserv.auth.credentials import APOPCredentials, ExchangeAborted
from popserv.auth.dovecot import DovecotChecker
from popserv.auth.dovecot.connection import ConnectionFailed
from popserv.auth.sasl.relay import RelayedCredentials
from popserv.core.user_settings import ConfiguredUser, UserSettings
from popserv.errors import BadCommand, TryLater
from popserv.interfaces import (
    IAPOPCredentials,
    IAPOPTimestamps,
    ICredentialsSupport,
    IRelayedCredentials,
    ISASLRelay,
)
from tests.auth.dovecot.harness import APOP_HANDSHAKE, DovecotCase
from tests.auth.harness import ask
from tests.auth.sasl.harness import ScriptedClient, make_session

OFFERS = (
    b"VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nMECH\tscram-sha-1\tmutual-auth\nMECH\tGSSAPI\n"
    b"MECH\tXOAUTH2\tplaintext\nMECH\tANONYMOUS\tanonymous\nMECH\tAPOP\tprivate\n"
    b"MECH\tEXTERNAL\nMECH\tSCRAM-SHA-1-PLUS\tcbind\nMECH\t\nMECH\ta b\nMECH\t%b\nDONE\n"
) % (b"X" * 21)


class DovecotCheckerTests(DovecotCase):
    """The checker, with a Dovecot that the test plays."""

    def setUp(self):
        """Create the checker."""
        super().setUp()
        self.checker = DovecotChecker(self.client)

    def ask(self, credentials):
        """Ask the checker as a portal does."""
        return self.in_session(self.begin, credentials)

    async def begin(self, credentials):
        """Ask the checker as a portal does."""
        return await ask(self.checker, credentials)

    def test_interfaces(self):
        """It is a checker, a relay, and makes timestamps."""
        for each in (ICredentialsChecker, ICredentialsSupport, ISASLRelay, IAPOPTimestamps):
            verifyObject(each, self.checker)

    def test_path(self):
        """The path must be given; it is made absolute, as twistd changes its directory."""
        checker = DovecotChecker.from_path("auth-client")
        self.assertEqual(checker._client.path, os.path.abspath("auth-client"))
        with self.assertRaisesRegex(ValueError, "dovecot:/run/dovecot/auth-client"):
            DovecotChecker.from_path("")
        for path in ("/" + "x" * 107, "x" * 107):
            with self.assertRaisesRegex(ValueError, "x has more than 107 octets; use a shorter"):
                DovecotChecker.from_path(path)

    def test_offer(self):
        """The mechanisms for clients are offered, with true for those in cleartext."""
        self.assertEqual(self.checker.mechanisms(), {})
        self.assertEqual(self.attempts, 1)
        self.accept(OFFERS)
        self.assertEqual(
            list(self.checker.mechanisms().items()),
            [(b"PLAIN", True), (b"SCRAM-SHA-1", False), (b"GSSAPI", False), (b"XOAUTH2", True)],
        )

    def test_supports(self):
        """PASS requires PLAIN, and APOP that there is no PLAIN (RFC 1725 section 12)."""
        kinds = (IUsernamePassword, IAPOPCredentials, IRelayedCredentials)
        self.assertEqual([self.checker.supports(kind) for kind in kinds], [True, False, True])
        side = self.accept(OFFERS)
        self.assertEqual([self.checker.supports(kind) for kind in kinds], [True, False, True])
        side.close()
        self.assertEqual([self.checker.supports(kind) for kind in kinds], [True, False, True])
        self.reactor.advance(1)
        self.accept(APOP_HANDSHAKE)
        self.assertEqual([self.checker.supports(kind) for kind in kinds], [False, True, True])

    def test_password(self):
        """A password is checked by PLAIN; the maildrop is that of the user whom Dovecot names."""
        side = self.connect()
        credentials = UsernamePassword(b"Ann", b"secret")
        asked = self.ask(credentials)
        (line,) = side.received()
        self.assertIn(b"\tPLAIN\t", line)
        self.assertTrue(line.endswith(b"\tresp=" + b64encode(b"\0Ann\0secret")))
        side.send(b"OK\t1\tuser=ann\n")
        self.assertEqual(self.successResultOf(asked), b"ann")
        self.assertEqual(credentials.username, b"ann")
        asked = self.ask(UsernamePassword(b"ann", b"wrong"))
        side.send(b"FAIL\t2\tuser=ann\n")
        self.fails_with(asked, UnauthorizedLogin)

    def test_tab(self):
        """A TAB in a name or a password does not become a parameter."""
        side = self.connect()
        self.ask(UsernamePassword(b"ann", b"secret"))
        self.ask(UsernamePassword(b"ann\tnologin", b"x\tskip_password_check=\n"))
        usual, line = side.received()
        self.assertEqual(line.count(b"\t"), usual.count(b"\t"))
        self.assertTrue(
            line.endswith(b"\tresp=" + b64encode(b"\0ann\tnologin\0x\tskip_password_check=\n"))
        )

    def test_apop(self):
        """Dovecot gets the timestamp, the name and the digest, and recognizes the timestamp."""
        self.assertIsNone(self.checker.make_timestamp(b"dewey"))
        side = self.connect(APOP_HANDSHAKE)
        self.reactor.advance(255)
        timestamp = self.checker.make_timestamp(b"dewey")
        self.assertRegex(timestamp, rb"^<b\.a\.ff\.[0-9a-f]{16}@dewey>$")
        self.assertNotEqual(timestamp, self.checker.make_timestamp(b"dewey"))
        asked = self.ask(APOPCredentials(b"ann", timestamp, b"0" * 32))
        (line,) = side.received()
        self.assertIn(b"\tAPOP\t", line)
        response = b"%b\0ann\0%b" % (timestamp, b"\0" * 16)
        self.assertTrue(line.endswith(b64encode(response)))
        side.send(b"OK\t1\tuser=ann\n")
        self.assertEqual(self.successResultOf(asked), b"ann")
        for digest in (b"zz", b"0" * 30, b"0" * 34, b"0 " * 16, b"g" * 32):
            asked = self.ask(APOPCredentials(b"ann", timestamp, digest))
            self.failureResultOf(asked, UnauthorizedLogin)

    def test_anonymous_dovecot(self):
        """A timestamp has 0 for what Dovecot does not tell about its process and connection."""
        self.connect(b"VERSION\t1\t1\nMECH\tAPOP\tprivate\nDONE\n")
        self.assertRegex(self.checker.make_timestamp(b"dewey"), rb"^<0\.0\.0\.")

    def test_fields(self):
        """Fields of popserv in Dovecot's reply hold for every way to log in."""
        side = self.connect()
        kinds = (
            UsernamePassword(b"ann", b"secret"),
            RelayedCredentials(make_session(), b"SCRAM-SHA-256", b"x", None),
        )
        for number, credentials in enumerate(kinds, 1):
            asked = self.ask(credentials)
            side.send(b"OK\t%d\tuser=ann\tpopserv_read_only\n" % number)
            expected = ConfiguredUser(b"ann", UserSettings(read_only=True))
            self.assertEqual(self.successResultOf(asked), expected)
        asked = self.ask(kinds[1])
        side.send(b"OK\t3\tuser=ann\tpopserv_nologin\n")
        error = self.fails_with(asked, UnauthorizedLogin)
        self.assertEqual(str(error), "popserv_nologin is set")

    def test_temporary(self):
        """That Dovecot reports a temporary failure is logged once, until it decides again."""
        side = self.connect()
        kinds = (
            UsernamePassword(b"ann", b"secret"),
            RelayedCredentials(make_session(), b"SCRAM-SHA-256", b"x", None),
        )
        for number, credentials in enumerate(kinds, 1):
            asked = self.ask(credentials)
            side.send(b"FAIL\t%d\tuser=ann\ttemp\n" % number)
            self.assertIsNone(self.fails_with(asked, TryLater).__cause__)
        asked = self.ask(kinds[0])
        side.send(b"FAIL\t3\tuser=ann\n")
        self.fails_with(asked, UnauthorizedLogin)
        path = self.client.path
        self.assertEqual(
            self.log_lines()[-2:],
            [
                f"Dovecot at {path} cannot be asked, and logins are refused until it can: it "
                "reports a temporary failure",
                f"Dovecot at {path} answers again",
            ],
        )

    def test_old_timestamp(self):
        """A timestamp of an earlier connection to Dovecot is refused for now."""
        side = self.connect(APOP_HANDSHAKE)
        timestamp = self.checker.make_timestamp(b"dewey")
        side.close()
        credentials = APOPCredentials(b"ann", timestamp, b"0" * 32)
        error = self.fails_with(self.ask(credentials), TryLater)
        self.assertIsInstance(error.__cause__, ConnectionFailed)
        self.reactor.advance(1)
        side = self.accept(APOP_HANDSHAKE.replace(b"CUID\t10", b"CUID\t11"))
        self.fails_with(self.ask(credentials), TryLater)
        self.assertEqual(side.received(), [])

    def relay(self, *responses):
        """Begin an exchange; return the session, and a Deferred of the outcome."""
        session = make_session()
        client = ScriptedClient(*responses)
        credentials = RelayedCredentials(session, b"SCRAM-SHA-256", None, client.send_challenge)
        return session, self.ask(credentials)

    def test_relayed(self):
        """An exchange is passed on, and the session gets the user's name."""
        side = self.connect()
        session, asked = self.relay(b"response")
        side.send(b"CONT\t1\tYWJj\n")
        side.send(b"OK\t1\tuser=ann\n")
        self.assertEqual((self.successResultOf(asked), session.name), (b"ann", b"ann"))
        session, asked = self.relay(b"response")
        side.send(b"CONT\t2\tYWJj\n")
        side.send(b"FAIL\t2\tuser=bob\n")
        self.fails_with(asked, UnauthorizedLogin)
        self.assertEqual(session.name, b"bob")

    def test_aborted(self):
        """An exchange that the client aborts is a failed login, and is throttled like one."""
        side = self.connect()
        _, asked = self.relay(BadCommand("authentication cancelled"))
        side.send(b"CONT\t1\tYWJj\n")
        error = self.fails_with(asked, ExchangeAborted)
        self.assertEqual(str(error), "authentication cancelled")

    def test_log(self):
        """No password is in the log, and nothing else that Dovecot tells in confidence."""
        side = self.connect()
        asked = Deferred.fromCoroutine(self.begin(UsernamePassword(b"ann", b"tanstaaf")))
        side.send(b"OK\t1\tuser=ann\tpass=tanstaaf\ttoken=tanstaaf\n")
        self.successResultOf(asked)
        side.close()
        self.assertNotIn("tanstaaf", repr(self.log))
