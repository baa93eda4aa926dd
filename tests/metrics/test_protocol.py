"""Connections that count logins, refusals and octets."""

from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.credentials import ExchangeAborted
from popserv.errors import (
    LoginFailed,
    LoginTooSoon,
    MaildropBusy,
    MaildropUnavailable,
    NoUser,
    POPError,
    TryLater,
)
from popserv.metrics import catalogue
from popserv.server.dismissal import dismiss
from popserv.server.preauth import PreauthenticatedFactory
from popserv.server.session_events import EndReason
from tests.commands.harness import response_line
from tests.metrics.harness import MeasuredMixin

PLAIN = response_line(b"\0ann\0pw")


class LoginTests(MeasuredMixin, SynchronousTestCase):
    """Logins are counted by method and outcome."""

    def logins(self):
        """Return the logins that were counted."""
        return self.nonzero(catalogue.LOGINS)

    def test_success(self):
        """A login is counted and measured, by command or by mechanism."""
        self.logged_in(b"QUIT")
        client = self.connect()
        client.send(b"AUTH PLAIN\r\n" + PLAIN)
        self.assertEqual(self.logins(), {("PASS", "success"): 1, ("PLAIN", "success"): 1})
        self.assertEqual(self.value(catalogue.LOGIN_SECONDS), 2)

    def test_failed(self):
        """A login that fails is counted when it is answered, and not measured."""
        client = self.connect(b"USER ann")
        client.send(b"PASS wrong\r\n")
        self.assertEqual(self.logins(), {})
        client.clock.advance(2)
        self.assertEqual(self.logins(), {("PASS", "failed"): 1})
        self.assertEqual(self.value(catalogue.LOGIN_SECONDS), 0)

    def test_lost(self):
        """A failed login of a client that is gone is counted once."""
        client = self.connect(b"USER ann")
        client.send(b"PASS wrong\r\n")
        client.lose()
        client.clock.advance(20)
        self.assertEqual(self.logins(), {("PASS", "failed"): 1})

    def test_outcomes(self):
        """Each reason for which a login fails has its outcome."""
        aborted = LoginFailed()
        aborted.__cause__ = ExchangeAborted("cancelled")
        for error, outcome in [
            (UnauthorizedLogin("no"), "failed"),
            (LoginFailed(), "failed"),
            (NoUser(), "failed"),
            (ExchangeAborted("cancelled"), "aborted"),
            (MaildropBusy(), "in-use"),
            (LoginTooSoon(7), "too-soon"),
            (MaildropUnavailable(), "unavailable"),
            (TryLater(), "error"),
            (POPError("not today"), "error"),
            (ZeroDivisionError(), "error"),
        ]:
            before = self.logins().get(("PASS", outcome), 0)

            def decide(_, error=error):
                raise error

            self.decide = decide
            self.logged_in()
            self.assertEqual(self.logins()["PASS", outcome], before + 1, repr(error))
        self.flushLoggedErrors(ZeroDivisionError)

    def test_disconnected(self):
        """A login whose client is gone before it is checked is aborted."""
        waiting = Deferred()
        self.decide = lambda _: waiting
        client = self.connect(b"USER ann", b"PASS pw")
        client.lose()
        waiting.errback(TryLater())
        self.assertEqual(self.logins(), {("PASS", "aborted"): 1})

    def test_no_login(self):
        """Other commands that are refused before the login are no logins."""
        client = self.connect(b"PASS pw", b"AUTH SING", b"AUTH PLAIN", b"*", b"STAT", b"USER", b"X")
        self.assertEqual(self.logins(), {})
        # After a failed login as well.
        for line in (b"USER ann", b"PASS wrong", b"STAT"):
            client.send_and_wait(line + b"\r\n")
        dismiss(client.server, EndReason.ADMINISTRATOR)
        self.assertEqual(self.logins(), {("PASS", "failed"): 1})

    def test_fault(self):
        """So is a fault in another command."""
        self.patch(self.factory.throttle.authenticator, "relayed_mechanisms", lambda: 1 // 0)
        self.connect(b"AUTH")
        self.assertEqual(self.logins(), {})
        self.assertEqual(self.nonzero(catalogue.REFUSALS), {("SYS/TEMP",): 1})
        self.flushLoggedErrors(ZeroDivisionError)

    def test_other_mechanism(self):
        """Mechanisms of another server have one label value."""
        client = self.connect(b"USER ann")

        def decide(credentials):
            client.server.session.method = "NTLM"
            return b"ann"

        self.decide = decide
        client.send(b"PASS pw\r\n")
        self.assertEqual(self.logins(), {("other", "success"): 1})

    def test_preauthenticated(self):
        """A client that does not log in is counted with its own method."""
        self.checker.credentialInterfaces = ()

        async def identify(_):
            if self.is_user:
                return b"ann"
            raise NoUser

        from popserv.auth.preauth import PreauthenticatedChecker

        self.checker = PreauthenticatedChecker()
        factory = self.make_factory(PreauthenticatedFactory, identify=identify)
        for self.is_user in (True, False):
            self.connect(factory=factory)
        self.assertEqual(self.logins(), {("preauth", "success"): 1, ("preauth", "failed"): 1})


class OutputTests(MeasuredMixin, SynchronousTestCase):
    """Negative replies and octets."""

    def test_codes(self):
        """Negative replies are counted by their response code."""
        self.logged_in(b"X", b"RETR 9")
        self.connect(b"USER ann", b"PASS wrong")
        self.assertEqual(self.nonzero(catalogue.REFUSALS), {("none",): 2, ("AUTH",): 1})

    def test_unknown_code(self):
        """Codes of others have one label value."""
        client = self.connect()
        for code in (b"SING", b"\xff"):
            client.server.write_error(POPError("no", code=code))
        self.assertEqual(self.nonzero(catalogue.REFUSALS), {("other",): 2})

    def test_too_many_connections(self):
        """So are clients for whom there is no room."""
        self.factory.max_connections = 1
        first = self.logged_in()
        self.connect()
        self.assertEqual(self.nonzero(catalogue.REFUSALS), {("SYS/TEMP",): 1})
        self.assertEqual(self.nonzero(catalogue.LOGINS), {("PASS", "success"): 1})
        first.lose()

    def test_octets(self):
        """The octets that are sent are counted, those of batches once."""
        client = self.connect()
        octets = len(client.greeting)
        for lines in (b"USER ann\r\n", b"PASS pw\r\n", b"STAT\r\nLIST\r\nRETR 1\r\n", b"QUIT\r\n"):
            octets += len(client.send(lines))
        self.assertEqual(self.value(catalogue.SENT_BYTES), octets)
