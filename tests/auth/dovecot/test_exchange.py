"""Tests of popserv.auth.dovecot.exchange."""

from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred

from popserv.auth.dovecot.client import FIRST_DELAY, MAX_WAIT
from popserv.auth.dovecot.connection import REPLY_TIMEOUT
from popserv.auth.dovecot.exchange import Aborted, run_exchange
from popserv.auth.users.extra_fields import NO_RULES
from popserv.auth.users.outages import ServerUnavailable
from popserv.auth.users.user import User
from popserv.core.user_settings import UserSettings
from popserv.errors import BadCommand, TryLater
from tests.auth.dovecot.harness import APOP_HANDSHAKE, HANDSHAKE, DovecotCase
from tests.auth.sasl.harness import ScriptedClient

PREFIX = (
    b"service=pop3\tsecured=tls\trip=192.0.2.1\trport=4321\tlip=198.51.100.2\tlport=110\tnologin"
)


class ExchangeCase(DovecotCase):
    """Has a connection to Dovecot."""

    def setUp(self):
        """Connect."""
        super().setUp()
        self.side = self.connect()
        self.names = []

    def password(self):
        """Begin an exchange of one message."""
        return self.in_session(run_exchange, self.client, b"PLAIN", b"\0ann\0secret")

    def scram(self, *responses, initial=None):
        """Begin an exchange in which the client sends these responses."""
        self.scripted = ScriptedClient(*responses)
        return self.in_session(
            *(run_exchange, self.client, b"SCRAM-SHA-256", initial),
            *(self.scripted.send_challenge, self.names.append),
        )

    def problem(self, deferred):
        """Return why Dovecot cannot be asked."""
        return str(self.fails_with(deferred, ServerUnavailable))

    def assert_no_connection(self, deferred):
        """Check that a login fails as temporary, without a cause: it was logged before."""
        self.assertIsNone(self.fails_with(deferred, TryLater).__cause__)


class DecisionTests(ExchangeCase):
    """What Dovecot decides."""

    def test_accepted(self):
        """OK has the name of the user, and perhaps fields of popserv."""
        asked = self.password()
        request = b"AUTH\t1\tPLAIN\t%b\tresp=AGFubgBzZWNyZXQ=" % PREFIX
        self.assertEqual(self.side.received(), [request])
        self.side.send(b"OK\t1\tuser=dora\toriginal_user=ann\n")
        self.assertEqual(self.successResultOf(asked), User(b"dora", b"", NO_RULES))
        asked = self.password()
        self.side.send(b"OK\t2\tuser=dora\tallow_nets=10.0.0.0/8\tpopserv_read_only=yes\n")
        rules = NO_RULES._replace(settings=UserSettings(read_only=True))
        self.assertEqual(self.successResultOf(asked), User(b"dora", b"", rules))

    def test_not_here(self):
        """A user whose mail is elsewhere, or who may not log in, is refused."""
        for field, reason in (
            (b"nologin", "nologin is set"),
            (b"nologin=", "nologin is set"),
            (b"proxy", "the mail is on another server"),
            (b"proxy_maybe", "the mail is on another server"),
            (b"host=192.0.2.9", "the mail is on another server"),
            (b"nologin\treason=gone\x01n", "nologin is set (gone\\n)"),
        ):
            asked = self.password()
            number = self.side.received()[0].split(b"\t")[1]
            self.side.send(b"OK\t%b\tuser=ann\t%b\n" % (number, field))
            error = self.fails_with(asked, UnauthorizedLogin)
            self.assertEqual(str(error), f"refused by Dovecot: {reason}")

    def test_no_user(self):
        """OK without a user lets nobody in."""
        for line in (b"OK\t%b\n", b"OK\t%b\tuser=\n", b"OK\t%b\tuser\n"):
            asked = self.password()
            self.side.send(line % self.side.received()[0].split(b"\t")[1])
            self.assertEqual(self.problem(asked), "it has sent OK without a user")

    def test_reasons(self):
        """FAIL may have a reason, as a field or as a code."""
        for fields, reason in (
            (b"", "unknown user or wrong password"),
            (b"\tuser=ann", "unknown user or wrong password"),
            (b"\tauthz", "not authorized"),
            (b"\tcode=authz_fail", "not authorized"),
            (b"\tuser_disabled", "the account is disabled"),
            (b"\tcode=user_disabled", "the account is disabled"),
            (b"\tpass_expired", "the password has expired"),
            (b"\tpass_expired\tcode=authz_fail", "not authorized"),
            (b"\tcode=pass_expired\treason=too old", "the password has expired (too old)"),
            (b"\tcode=login_disabled", "login_disabled"),
        ):
            asked = self.password()
            self.side.send(b"FAIL\t%b%b\n" % (self.side.received()[0].split(b"\t")[1], fields))
            error = self.fails_with(asked, UnauthorizedLogin)
            self.assertEqual(str(error), f"refused by Dovecot: {reason}")

    def test_temporary(self):
        """A temporary failure of Dovecot is one of popserv."""
        for fields in (b"\ttemp", b"\tcode=temp_fail", b"\tuser=ann\ttemp\tauthz\treason=SQL"):
            asked = self.password()
            self.side.send(b"FAIL\t%b%b\n" % (self.side.received()[0].split(b"\t")[1], fields))
            self.assertIn("it reports a temporary failure", self.problem(asked))

    def test_unexpected_challenge(self):
        """A challenge after the whole response is an error, and so are data after success."""
        asked = self.password()
        self.side.received()
        self.side.send(b"CONT\t1\t\n")
        self.assertIn("has sent a challenge after the whole response", self.problem(asked))
        self.assertEqual(self.side.received(), [b"CANCEL\t1"])
        asked = self.password()
        self.side.send(b"OK\t2\tuser=ann\tresp=YWJj\n")
        self.assertIn("has sent a challenge after the whole response", self.problem(asked))


class ConversationTests(ExchangeCase):
    """An exchange of several messages."""

    def test_relayed(self):
        """Challenges and responses are passed on unchanged; the user's name is told."""
        asked = self.scram(b"first", b"final", b"")
        self.assertEqual(self.side.received(), [b"AUTH\t1\tSCRAM-SHA-256\t" + PREFIX])
        self.side.send(b"CONT\t1\t\n")
        self.assertEqual(self.side.received(), [b"CONT\t1\tZmlyc3Q="])
        self.side.send(b"CONT\t1\tcj14\n")
        self.side.send(b"CONT\t1\tdj14\n")
        self.assertEqual(self.side.received(), [b"CONT\t1\tZmluYWw=", b"CONT\t1\t"])
        self.side.send(b"OK\t1\tuser=ann\n")
        self.assertEqual(self.successResultOf(asked).name, b"ann")
        self.assertEqual(self.scripted.challenges, [b"", b"r=x", b"v=x"])
        self.assertEqual(self.names, [b"ann"])

    def test_initial(self):
        """An initial response is sent with AUTH, even if it is empty."""
        for initial, sent in ((b"first", b"Zmlyc3Q="), (b"", b"")):
            self.scram(initial=initial)
            self.assertTrue(self.side.received()[0].endswith(b"\tnologin\tresp=" + sent))

    def test_refused_name(self):
        """The name of a user who is refused is told, too."""
        asked = self.scram(initial=b"first")
        self.side.send(b"FAIL\t1\tuser=ann\n")
        self.fails_with(asked, UnauthorizedLogin)
        self.assertEqual(self.names, [b"ann"])

    def test_data_after_success(self):
        """Data with OK are sent as a challenge, whose response must be empty (RFC 5034)."""
        asked = self.scram(b"", initial=b"first")
        self.side.send(b"OK\t1\tuser=ann\tresp=dj14\n")
        self.assertEqual(self.successResultOf(asked).name, b"ann")
        self.assertEqual(self.scripted.challenges, [b"v=x"])
        asked = self.scram(b"more", initial=b"first")
        self.side.send(b"OK\t2\tuser=ann\tresp=dj14\n")
        self.assertIsInstance(self.fails_with(asked, Aborted).__cause__, BadCommand)

    def test_cancelled(self):
        """If the client cancels, Dovecot is told."""
        asked = self.scram(BadCommand("authentication cancelled"))
        self.side.received()
        self.side.send(b"CONT\t1\t\n")
        self.assertIsInstance(self.fails_with(asked, Aborted).__cause__, BadCommand)
        self.assertEqual(self.side.received(), [b"CANCEL\t1"])

    def test_too_long(self):
        """A response for which Dovecot would break the connection is not sent."""
        for length in (6145, 75_000):
            self.fails_with(self.scram(initial=b"x" * length), UnauthorizedLogin)
        self.assertEqual(self.side.received(), [])
        asked = self.scram(b"x" * 6145)
        self.side.received()
        self.side.send(b"CONT\t1\t\n")
        self.fails_with(asked, UnauthorizedLogin)
        self.assertEqual(self.side.received(), [b"CANCEL\t1"])
        self.scram(initial=b"x" * 6144)
        self.assertLess(len(self.side.received()[0]), 16_384)


class RestartTests(ExchangeCase):
    """What happens to exchanges when Dovecot restarts."""

    def restart(self, handshake=HANDSHAKE):
        """Close the connection, and accept the next."""
        self.side.close()
        self.reactor.advance(FIRST_DELAY)
        self.side = self.accept(handshake)

    def test_repeated(self):
        """A request without a reply is repeated on the next connection."""
        asked = self.password()
        self.restart()
        self.assertEqual(len(self.side.received()), 1)
        self.side.send(b"OK\t1\tuser=ann\n")
        self.assertEqual(self.successResultOf(asked).name, b"ann")

    def test_once(self):
        """It is repeated once: a request that ends Dovecot must not end it again and again."""
        asked = self.password()
        self.restart()
        self.side.close()
        self.assert_no_connection(asked)

    def test_away(self):
        """If Dovecot does not come back soon, the login fails as temporary."""
        asked = self.password()
        self.side.close()
        self.assertNoResult(asked)
        self.reactor.advance(MAX_WAIT)
        self.assert_no_connection(asked)

    def test_in_conversation(self):
        """A new connection does not know the challenge, so that the exchange fails."""
        waiting = Deferred()
        self.scripted = ScriptedClient()

        async def send_challenge(challenge):
            return await waiting

        asked = self.in_session(
            run_exchange, self.client, b"SCRAM-SHA-256", None, send_challenge, self.names.append
        )
        self.side.send(b"CONT\t1\t\n")
        self.restart()
        waiting.callback(b"response")
        self.assert_no_connection(asked)
        self.assertEqual(self.side.received(), [])

    def test_mechanism_gone(self):
        """A mechanism that Dovecot offers no more is not requested: it would disconnect."""
        asked = self.password()
        self.restart(APOP_HANDSHAKE)
        self.assertIn("does not offer PLAIN", self.problem(asked))
        self.assertEqual(self.side.received(), [])

    def test_stalled(self):
        """A request that Dovecot does not answer is not repeated."""
        asked = self.password()
        self.reactor.advance(REPLY_TIMEOUT)
        self.assertEqual(self.problem(asked), "it did not reply in 60 seconds")
        self.assertEqual(self.attempts, 1)
