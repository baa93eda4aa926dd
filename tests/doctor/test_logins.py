"""Tests of popserv.doctor.logins."""

from twisted.trial.unittest import SynchronousTestCase

from popserv.doctor.client_session import Trip
from popserv.doctor.conversation import ServerFailed
from popserv.doctor.logins import MAX_ATTEMPTS, LoginCheck
from tests.doctor.harness import ScriptedServer, codes, target_of
from tests.migration.harness import FakeServer


def login(session):
    """Log in as a simple program does."""
    session.user_pass()
    session.stat()


class LoginCheckTests(SynchronousTestCase):
    """Logins as several programs."""

    def check(self, clients=None, **options):
        """Check a server; return the check."""
        replies = {b"STAT": b"+OK 0 0\r\n", **options.pop("replies", {})}
        self.server = FakeServer(self, replies=replies, **options)
        self.slept, self.reported = [], []
        return LoginCheck(
            target_of(("localhost", self.server.port)),
            b"ann",
            b"x",
            allows_cleartext=True,
            clients={"one": login, "two": login} if clients is None else clients,
            report=self.reported.append,
            sleep=self.slept.append,
            timeouts=(0.5, 5),
        )

    def test_right(self):
        """All programs pass, and QUIT is tried at last."""
        check = self.check()
        self.assertEqual(codes(check.findings()), [])
        self.assertEqual(check.passed, ["one", "two", "QUIT"])
        self.assertEqual(self.reported, ["greeting", "one", "two", "QUIT"])
        self.assertIn(b"QUIT", self.server.commands)

    def test_default(self):
        """The programs are those that are known."""
        check = LoginCheck(target_of(("localhost", 1)), b"", b"", allows_cleartext=True)
        self.assertEqual(codes(check.findings()), ["e server"])

    def test_silent(self):
        """A server that does not greet is told, and nothing else is tried."""
        server = ScriptedServer(self, lambda connection: connection.recv(100))
        check = LoginCheck(
            target_of(server.address), b"", b"", allows_cleartext=True, timeouts=(0.1, 0.1)
        )
        self.assertEqual(codes(check.findings()), ["e server"])

    def test_trips(self):
        """A program that cannot go on does not stop the others."""

        def trips(session):
            login(session)
            raise Trip("client-uidl", "no UIDL", "have UIDL")

        check = self.check({"one": login, "bad": trips, "two": login})
        [finding] = check.findings()
        self.assertEqual(finding[1:4], ("client-uidl", "server", "bad: no UIDL"))
        self.assertEqual(check.passed, ["one", "two", "QUIT"])

    def test_lesser(self):
        """What concerns some users is a warning."""

        def trips(session):
            raise Trip("client-tls", "no STLS", "use TLS")

        self.assertEqual(codes(self.check({"bad": trips}).findings()), ["w client-tls"])

    def test_password(self):
        """A wrong password is tried once."""
        check = self.check(replies={b"PASS": b"-ERR [AUTH] no\r\n"})
        self.assertEqual(codes(check.findings()), ["e client-login", "u clients"])
        self.assertEqual(self.server.commands.count(b"PASS x"), 1)

    def test_one_way(self):
        """If another way to log in works, only that one is told."""

        def plain(session):
            session.auth_plain(initial=True)

        replies = {b"AUTH": b"-ERR [AUTH] no\r\n"}
        check = self.check({"one": login, "plain": plain}, replies=replies)
        self.assertEqual(codes(check.findings()), ["e client-login"])
        self.assertEqual(check.passed, ["one", "QUIT"])

    def test_closed(self):
        """A server that closes the connection is told."""
        check = self.check(replies={b"PASS": None})
        self.assertEqual(codes(check.findings()), ["e server", "u clients"])

    def test_later(self):
        """A server that fails with one program is tried with the next one."""

        def fails(session):
            raise ServerFailed("RETR: no answer in time")

        check = self.check({"one": login, "bad": fails, "two": login})
        [finding] = check.findings()
        self.assertEqual(finding.what, "bad: RETR: no answer in time")
        self.assertEqual(check.passed, ["one", "two", "QUIT"])

    def test_locked(self):
        """A maildrop that the session before still has is waited for, and not forever."""
        replies = {b"PASS": b"-ERR [IN-USE] locked\r\n"}
        check = self.check({"one": login}, replies=replies)
        self.assertEqual(codes(check.findings()), ["e client-login", "u clients"])
        self.assertEqual(self.server.commands.count(b"PASS x"), MAX_ATTEMPTS)
        self.assertEqual(len(self.slept), MAX_ATTEMPTS - 1)

    def test_delay(self):
        """A short LOGIN-DELAY is waited for; with a long one, one program is tried."""
        check = self.check(capa=[b"LOGIN-DELAY 3"])
        self.assertEqual(codes(check.findings()), [])
        self.assertEqual(self.slept, [3, 3])
        check = self.check(capa=[b"LOGIN-DELAY 300"])
        [finding] = check.findings()
        self.assertEqual(finding.code, "login-delay")
        self.assertIn("300 seconds, so that only one was tried", finding.what)
        check = self.check(capa=[b"LOGIN-DELAY " + b"9" * 5000])
        self.assertEqual(codes(check.findings()), ["u login-delay"])
        check = self.check(capa=[b"LOGIN-DELAY x"])
        self.assertEqual(codes(check.findings()), [])
        self.assertEqual(self.slept, [0, 0])
