"""Tests of popserv.auth.services.pam, with a PAM whose results the test chooses."""

from contextvars import copy_context
from pathlib import Path
from threading import Semaphore
from unittest import mock

from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase

from popserv.auth.services import pam
from popserv.auth.services.pam import TIMEOUT, PAMChecker
from popserv.core.connection_details import ConnectionDetails, connection_details
from popserv.core.session import client_is_connected
from popserv.errors import TryLater
from popserv.runtime.threads import BoundedThreadPool
from tests.auth.harness import ask


class Library:
    """Stands for pamela: ``results`` are those of the phases."""

    PAM_USER, PAM_RHOST = 2, 4

    class PAMError(Exception):
        """See pamela."""

    def __init__(self, authentication=0, account=0, start=None):
        self.results = authentication, account
        self.start = start
        self.calls = []
        self.user = None

    def new_simple_password_conv(self, passwords, encoding):
        """See pamela."""
        return passwords

    def pam_start(self, service, name, conv_func):
        """See pamela."""
        self.calls.append(("start", service, name, conv_func))
        if self.start is not None:
            raise self.PAMError(self.start)
        self.user = self.user or name.decode("latin-1")
        return self

    def set_item(self, item, value):
        """See pamela.PamHandle."""
        self.calls.append(("set_item", item, value))

    def get_item(self, item, encoding):
        """See pamela.PamHandle."""
        return {self.PAM_USER: self.user}[item]

    def PAM_AUTHENTICATE(self, handle, flags):
        """See pamela."""
        self.calls.append(("authenticate", flags))
        return self.results[0]

    def PAM_ACCT_MGMT(self, handle, flags):
        """See pamela."""
        self.calls.append(("account", flags))
        return self.results[1]

    def PAM_END(self, handle, status):
        """See pamela."""
        self.calls.append(("end", status))

    def pam_strerror(self, handle, status):
        """See pamela."""
        return f"result {status}"


def run_now(function, *args, still_needed):
    """Call a function instead of a thread."""
    return maybeDeferred(function, *args)


class PAMCheckerTests(SynchronousTestCase):
    """What the results of PAM mean."""

    def ask(self, library, name=b"ann", run=run_now, address="192.0.2.1"):
        """Ask a checker that uses this library."""
        self.patch(pam, "pamela", library)
        self.clock = Clock()
        self.checker = PAMChecker("pop3", run, self.clock)

        def call():
            remote = None if address is None else (address, 4321)
            connection_details.set(lambda: ConnectionDetails(remote))
            self.credentials = UsernamePassword(name, b"secret")
            return ask(self.checker, self.credentials)

        return copy_context().run(call)

    def test_accepted(self):
        """Both phases must succeed; modules are told the client's address."""
        library = Library()
        self.assertEqual(self.successResultOf(self.ask(library)), b"ann")
        self.assertEqual(
            library.calls,
            [
                ("start", "pop3", b"ann", (b"secret",)),
                ("set_item", 4, "192.0.2.1"),
                ("authenticate", 0x8001),
                ("account", 0x8001),
                ("end", 0),
            ],
        )
        self.assertEqual(self.checker._running, {})

    def test_no_address(self):
        """On a UNIX socket there is no address."""
        library = Library()
        self.successResultOf(self.ask(library, address=None))
        self.assertNotIn("set_item", [call[0] for call in library.calls])

    def test_name(self):
        """A module may change the name; names are octets."""
        library = Library()
        library.user = "dora"
        self.assertEqual(self.successResultOf(self.ask(library)), b"dora")
        self.assertEqual(self.credentials.username, b"dora")
        self.assertEqual(self.successResultOf(self.ask(Library(), b"\xff\xc3")), b"\xff\xc3")

    def test_refused(self):
        """A wrong password refuses, and so does an account that may not be used."""
        for results, reason, phases in (
            ((7, 0), "unknown user or wrong password", 1),
            ((4, 0), "a module or its program has failed", 1),
            ((8, 0), "unknown user or wrong password", 1),
            ((10, 0), "unknown user or wrong password", 1),
            ((11, 0), "too many attempts", 1),
            ((0, 13), "the account has expired", 2),
            ((0, 12), "the password has expired", 2),
            ((0, 16), "the password has expired", 2),
            ((0, 27), "the password has expired", 2),
            ((0, 6), "permission denied", 2),
        ):
            library = Library(*results)
            error = self.failureResultOf(self.ask(library), UnauthorizedLogin).value
            self.assertEqual(str(error), f"refused by PAM: {reason}")
            self.assertEqual(len(library.calls), 3 + phases)
            self.assertEqual(library.calls[-1], ("end", sum(results)))

    def test_cannot_tell(self):
        """Any other result is a temporary failure, which is logged once."""
        for library, reason in (
            (Library(9), "result 9"),
            (Library(28), "result 28"),
            (Library(0, 4), "result 4"),
            (Library(start="broken"), "PAM cannot be started: broken"),
        ):
            log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)
            self.assertIsNone(self.failureResultOf(self.ask(library), TryLater).value.__cause__)
            again = ask(self.checker, UsernamePassword(b"bob", b"secret"))
            self.failureResultOf(again, TryLater)
            (line,) = map(formatEvent, log)
            start = "the service pop3 of PAM cannot be asked, and logins are refused until it can: "
            self.assertEqual(line, start + reason)

    def test_ended(self):
        """PAM is ended also if it cannot be told the address."""
        library = Library()
        self.patch(library, "set_item", mock.Mock(side_effect=MemoryError))
        self.failureResultOf(self.ask(library), MemoryError)
        self.assertEqual(library.calls[1:], [("end", 0)])

    def test_timeout(self):
        """A login does not wait for ever; a check that has not begun is then not needed."""
        jobs = []

        def run(function, *args, still_needed):
            jobs.append(still_needed)
            return Deferred()

        asked = self.ask(Library(), run=run)
        self.clock.advance(TIMEOUT - 1)
        self.assertEqual([each() for each in jobs], [True])
        self.clock.advance(1)
        self.failureResultOf(asked, TryLater)
        self.assertEqual([each() for each in jobs], [False])

    def test_disconnected(self):
        """A check whose client has disconnected is not needed."""
        jobs = []

        def run(function, *args, still_needed):
            jobs.append(still_needed())
            return Deferred()

        token = client_is_connected.set(lambda: False)
        self.addCleanup(client_is_connected.reset, token)
        self.ask(Library(), run=run)
        self.assertEqual(jobs, [False])

    def test_service(self):
        """The service must have a file."""
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / "pop3").touch()
        with mock.patch.object(pam, "DIRECTORIES", ("/nowhere", str(directory))):
            self.assertEqual(PAMChecker.from_service("pop3")._service, "pop3")
            for name in ("", "../pop3", ".", "a b"):
                error = self.assertRaises(ValueError, PAMChecker.from_service, name)
                self.assertIn("missing or invalid; use pam:pop3", str(error))
            error = self.assertRaises(ValueError, PAMChecker.from_service, "imap")
            self.assertIn("there is no file /nowhere/imap,", str(error))


async def until(condition):
    """Let the reactor run until a condition is true."""
    for _ in range(1000):
        if condition():
            return
        await deferLater(reactor, 0.01)
    raise AssertionError("timed out")


class HangingTests(TestCase):
    """Modules that hang."""

    async def test_others(self):
        """A name whose modules hang occupies two threads, and others are served."""
        released = Semaphore(0)

        class Hanging(Library):
            def pam_start(self, service, name, conv_func):
                started = Library()
                return started.pam_start(service, name, conv_func)

            def PAM_AUTHENTICATE(self, handle, flags):
                if handle.user == "stuck":
                    released.acquire(timeout=60)
                return 0

        self.patch(pam, "pamela", Hanging())
        pool = BoundedThreadPool("test-pam", threads=4, wait_at_shutdown=False)
        self.addCleanup(pool._stop)
        checker = PAMChecker("pop3", pool.run)
        names, failed = [], []

        def ask_stuck():
            asked = ask(checker, UsernamePassword(b"stuck", b"secret"))
            return asked.addCallbacks(names.append, lambda failure: failed.append(failure.value))

        hanging = [ask_stuck() for _ in range(5)]
        self.assertEqual(await ask(checker, UsernamePassword(b"ann", b"secret")), b"ann")
        released.release()
        await until(lambda: names)
        self.assertEqual(len(failed), 3)
        hanging += [ask_stuck() for _ in range(2)]
        await until(lambda: len(failed) == 4)
        released.release(2)
        await gatherResults(hanging)
        self.assertEqual((names, len(failed)), ([b"stuck"] * 3, 4))
        self.assertEqual({str(error.__cause__) for error in failed}, {STUCK})
        self.assertEqual(checker._running, {})


STUCK = "the modules of PAM do not answer for this name"
