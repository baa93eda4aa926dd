"""The resolver of host names."""

import socket
import threading

from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from popserv.auth.credentials import RemoteUserCredentials
from popserv.auth.rhosts import resolver as resolver
from popserv.auth.rhosts.checker import LOOKUP_TIMEOUT, RhostsChecker
from popserv.auth.rhosts.resolver import HostResolver, parse_address
from popserv.core.session import client_is_connected
from popserv.errors import TryLater
from tests.auth.passwords.test_users_file import UsersFileCase
from tests.auth.rhosts.harness import NOT_FOUND, RhostsCase


class HostNamesTests(RhostsCase):
    """When names are looked up, and what becomes of those that are not found."""

    def setUp(self):
        """Hold back what is looked up."""
        super().setUp()
        self.held = []

    def hold(self, function, *args, still_needed):
        """Stand in for a pool of threads that are busy."""
        self.held.append((Deferred(), still_needed, *args))
        return self.held[-1][0]

    def slow(self, text):
        """Write the file, and have a checker whose lookups are held back."""
        self.write(text)
        self.checker = RhostsChecker(self.path, HostResolver(self.hold, self.clock))

    def test_only_when_needed(self):
        """A name is looked up when its entry is the next that may fit, once for a login."""
        for text, asked in (
            (b"192.0.2.7 + +\nseven.example + +", []),
            (b"192.0.2.8 + +\nseven.example + +\nmapped.example + +", ["seven.example"]),
            (b"seven.example bob +\nseven.example + bob\nseven.example -bob +", []),
            (b"mapped.example + +\n-mapped.example + +\nB. + +", ["mapped.example", "b."]),
        ):
            self.asked.clear()
            self.write(text)
            self.opened(b"ann")
            self.assertEqual(self.asked, asked, text)

    def test_not_found(self):
        """A name that is not found is nobody where an entry lets in, everybody where it denies."""
        for text, opened in (
            (b"none.example + +\n192.0.2.7 + +", b"ann"),
            (b"-none.example + +\n192.0.2.7 + +", None),
            (b"none.example -ann +\n192.0.2.7 + +", None),
            (b"none.example -bob +\n192.0.2.7 + +", b"ann"),
            (b"none.example + +", None),
        ):
            self.write(text)
            self.assertEqual(self.opened(b"ann"), opened, text)

    def test_slow(self):
        """A login waits ten seconds for names, for all together; none is looked up after that."""
        self.slow(b"".join(b"%b.example + +\n" % name for name in (b"a", b"b", b"c")))
        outcome = self.send_challenge(b"ann")
        self.clock.advance(LOOKUP_TIMEOUT * 0.75)
        self.held[0][0].callback(frozenset())
        self.assertEqual(len(self.held), 2)
        self.clock.advance(LOOKUP_TIMEOUT * 0.24)
        self.assertNoResult(outcome)
        self.clock.advance(LOOKUP_TIMEOUT * 0.02)
        reason = str(self.failureResultOf(outcome, UnauthorizedLogin).value)
        self.assertEqual(reason, f"no entry matches; {NOT_FOUND}: 2, the first b.example")
        self.assertEqual(len(self.held), 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_slow_denial(self):
        """A name that denies and is not found in time denies, though an address would let in."""
        self.slow(b"a.example + +\n-b.example + +\n192.0.2.7 + +")
        outcome = self.send_challenge(b"ann")
        self.clock.advance(LOOKUP_TIMEOUT)
        self.assertIn("denied by line 2", str(self.failureResultOf(outcome).value))
        self.assertEqual(len(self.held), 1)
        self.slow(b"a.example + +\n192.0.2.7 + +")
        outcome = self.send_challenge(b"ann")
        self.clock.advance(LOOKUP_TIMEOUT)
        self.assertEqual(self.successResultOf(outcome), b"ann")

    def test_at_once(self):
        """Many who wait for one name are answered by one lookup, each with its own time."""
        self.slow(b"a.example + +")
        outcomes = [self.send_challenge(b"ann"), self.send_challenge(b"bob", host="192.0.2.8")]
        self.clock.advance(LOOKUP_TIMEOUT / 2)
        outcomes.append(self.send_challenge(b"carl"))
        self.assertEqual([args for _, _, *args in self.held], [["a.example"]])
        self.clock.advance(LOOKUP_TIMEOUT / 2)
        for outcome in outcomes[:2]:
            self.failureResultOf(outcome, UnauthorizedLogin)
        self.held[0][0].callback(frozenset({parse_address("192.0.2.7")}))
        self.assertEqual(self.successResultOf(outcomes[2]), b"carl")
        self.send_challenge(b"ann")
        self.assertEqual(len(self.held), 2)

    def test_wanted(self):
        """A lookup is wanted as long as one of those who asked is still there."""
        self.slow(b"a.example + +")
        there = [True, True]
        for each in range(2):
            token = client_is_connected.set(lambda each=each: there[each])
            self.addCleanup(self.send_challenge(b"ann").addErrback, lambda _: None)
            client_is_connected.reset(token)
        wanted = self.held[0][1]
        for there[:], expected in (
            ([True, False], True),
            ([False, True], True),
            ([False, False], False),
        ):
            self.assertIs(wanted(), expected)

    def test_busy(self):
        """Threads that take no more are a TryLater for all who wait, and the next may ask again."""
        self.slow(b"a.example + +")
        outcomes = [self.send_challenge(b"ann"), self.send_challenge(b"bob")]
        self.held[0][0].errback(TryLater("busy"))
        for outcome in outcomes:
            self.failureResultOf(outcome, TryLater)
        self.assertNoResult(self.send_challenge(b"ann"))
        self.assertEqual(len(self.held), 2)
        self.held[1][0].callback(frozenset({parse_address("192.0.2.7")}))

    def test_full(self):
        """A pool that is full at once is a TryLater."""

        def full(function, *args, still_needed):
            raise TryLater

        self.write(b"a.example + +")
        self.checker = RhostsChecker(self.path, HostResolver(full, self.clock))
        for _ in range(2):
            self.refusal(b"ann", kind=TryLater)


class RealNamesTests(UsersFileCase, TestCase):
    """The checker on its own pool of threads, and with the system's resolver."""

    def checker(self, text):
        """Return a checker of such a file."""
        self.write(text)
        return RhostsChecker(self.path)

    async def test_localhost(self):
        """A name of this machine is looked up in a thread that is not the reactor's."""
        where = []

        def getaddrinfo(*args, **more):
            where.append(threading.current_thread().name)
            return socket.getaddrinfo(*args, **more)

        self.patch(resolver, "getaddrinfo", getaddrinfo)
        checker = self.checker(b"LocalHost ann ann")
        for host, right in (("127.0.0.1", True), ("::ffff:127.0.0.1", True), ("192.0.2.7", False)):
            credentials = RemoteUserCredentials(b"ann", b"ann", host, 1023)
            try:
                self.assertEqual(await checker.requestAvatarId(credentials), b"ann")
            except UnauthorizedLogin:
                self.assertFalse(right)
            else:
                self.assertTrue(right)
        self.assertEqual(["popserv-rhosts" in name for name in where], [True] * 3)

    async def test_not_found(self):
        """A name that cannot be (RFC 6761 section 6.4) is not found."""
        checker = self.checker(b"nothing.invalid ann ann")
        credentials = RemoteUserCredentials(b"ann", b"ann", "127.0.0.1", 1023)
        with self.assertRaisesRegex(UnauthorizedLogin, "1, the first nothing.invalid"):
            await checker.requestAvatarId(credentials)

    async def test_gone(self):
        """A name whose client has gone before a thread was free is not looked up."""
        self.patch(resolver, "getaddrinfo", lambda *_, **__: self.fail("looked up"))
        checker = self.checker(b"localhost ann ann")
        token = client_is_connected.set(lambda: False)
        try:
            with self.assertRaises(TryLater):
                await checker.requestAvatarId(RemoteUserCredentials(b"ann", b"ann", "::1", 1023))
        finally:
            client_is_connected.reset(token)
