"""The lookup of host names: when names are resolved, and names that cannot be resolved."""

import errno
import socket
import threading

from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from popserv.auth.credentials import RemoteUserCredentials
from popserv.auth.rhosts import resolver
from popserv.auth.rhosts.checker import LOOKUP_TIMEOUT, RhostsChecker
from popserv.auth.rhosts.resolver import HostResolver, parse_address
from popserv.core.session import client_is_connected
from popserv.errors import TryLater
from tests.auth.passwords.test_users_file import UsersFileCase
from tests.auth.rhosts.harness import CLIENTS, DNS, NOT_RESOLVED, RhostsCase


class HostResolverTests(RhostsCase):
    """HostResolver, through the checker."""

    def setUp(self):
        """Start without lookups."""
        super().setUp()
        self.held = []

    def hold(self, function, *args, still_needed):
        """Replace a thread pool whose threads are busy."""
        self.held.append((Deferred(), still_needed, *args))
        return self.held[-1][0]

    def slow(self, text):
        """Write the file, and make a checker whose lookups wait."""
        self.write(text)
        self.checker = RhostsChecker(self.path, HostResolver(self.hold, self.clock))

    def test_only_when_needed(self):
        """A name is looked up when the previous entries did not match, once for a login."""
        for text, asked in (
            (b"192.0.2.7 + +\nseven.example + +", []),
            (b"192.0.2.8 + +\nseven.example + +\nmapped.example + +", ["seven.example"]),
            (b"seven.example bob +\nseven.example + bob\nseven.example -bob +", []),
            (b"mapped.example + +\n-mapped.example + +\nB. + +", ["mapped.example", "b."]),
        ):
            self.looked_up.clear()
            self.write(text)
            self.opened(b"ann")
            self.assertEqual(self.looked_up, asked, text)

    def test_names_of_addresses(self):
        """Names of the file are looked up, and never the name of a client's address."""
        for function in ("getfqdn", "gethostbyaddr", "getnameinfo"):
            self.patch(socket, function, lambda *_: self.fail("looked up"))
        self.write(b"".join(b"%b ann ann\n" % host.encode() for host in DNS))
        clients = (*CLIENTS, "192.0.2.99")
        let_in = [client for client in clients if self.opened(b"ann", host=client)]
        self.assertEqual(let_in, [*CLIENTS])
        self.assertEqual(set(self.looked_up), set(DNS))

    def test_not_resolved(self):
        """An unresolved name matches no host to allow, and every host to deny."""
        for text, opened in (
            (b"none.example + +\n192.0.2.7 + +", b"ann"),
            (b"-none.example + +\n192.0.2.7 + +", None),
            (b"none.example -ann +\n192.0.2.7 + +", None),
            (b"none.example -bob +\n192.0.2.7 + +", b"ann"),
            (b"none.example + +", None),
        ):
            self.write(text)
            self.assertEqual(self.opened(b"ann"), opened, text)

    def test_unknown_for_now(self):
        """If a name server does not answer, a login that nothing else allows fails for now."""
        for text, reason in (
            (b"later.example + +\n192.0.2.7 + +", None),
            (b"later.example -bob +\n192.0.2.7 + +", None),
            (b"later.example + +", "no entry matches"),
            (b"-later.example + +\n192.0.2.7 + +", "denied by line 1"),
            (b"later.example + +\n-192.0.2.7 + +", "denied by line 2"),
        ):
            self.write(text)
            if reason is None:
                self.assertEqual(self.opened(b"ann"), b"ann", text)
                continue
            failure = self.failureResultOf(self.log_in(b"ann"), TryLater)
            said = f"{reason}; {NOT_RESOLVED}: 1, the first later.example"
            self.assertEqual(str(failure.value.__cause__), said)

        def fail(*_, **__):
            raise OSError(errno.EMFILE, "too many open files")

        self.patch(resolver, "getaddrinfo", fail)
        self.write(b"none.example + +")
        self.refusal(b"ann", kind=TryLater)

    def test_slow(self):
        """A login waits 10 seconds for all its host names; none is looked up after that."""
        self.slow(b"".join(b"%b.example + +\n" % name for name in (b"a", b"b", b"c")))
        outcome = self.log_in(b"ann")
        self.clock.advance(9.5)
        self.held[0][0].callback(frozenset())
        self.assertEqual(len(self.held), 2)
        self.clock.advance(0.25)
        self.assertNoResult(outcome)
        self.clock.advance(0.25)
        reason = str(self.failureResultOf(outcome, TryLater).value.__cause__)
        self.assertEqual(reason, f"no entry matches; {NOT_RESOLVED}: 2, the first b.example")
        self.assertEqual(len(self.held), 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_slow_denial(self):
        """A name that is not resolved in time denies, although a later entry would allow."""
        self.slow(b"a.example + +\n-b.example + +\n192.0.2.7 + +")
        outcome = self.log_in(b"ann")
        self.clock.advance(LOOKUP_TIMEOUT)
        failure = self.failureResultOf(outcome, TryLater)
        self.assertIn("denied by line 2", str(failure.value.__cause__))
        self.assertEqual(len(self.held), 1)
        self.slow(b"a.example + +\n192.0.2.7 + +")
        outcome = self.log_in(b"ann")
        self.clock.advance(LOOKUP_TIMEOUT)
        self.assertEqual(self.successResultOf(outcome), b"ann")

    def test_shared(self):
        """Logins that need the same name share one lookup; each has its own timeout."""
        self.slow(b"a.example + +")
        outcomes = [self.log_in(b"ann"), self.log_in(b"bob", host="192.0.2.8")]
        self.clock.advance(LOOKUP_TIMEOUT / 2)
        outcomes.append(self.log_in(b"carl"))
        self.assertEqual([args for _, _, *args in self.held], [["a.example"]])
        self.clock.advance(LOOKUP_TIMEOUT / 2)
        for outcome in outcomes[:2]:
            self.failureResultOf(outcome, TryLater)
        self.held[0][0].callback(frozenset({parse_address("192.0.2.7")}))
        self.assertEqual(self.successResultOf(outcomes[2]), b"carl")
        self.log_in(b"ann")
        self.assertEqual(len(self.held), 2)

    def test_still_needed(self):
        """A lookup is needed as long as one of the waiting clients is connected."""
        self.slow(b"a.example + +")
        connected = [True, True]
        for each in range(2):
            token = client_is_connected.set(lambda each=each: connected[each])
            self.addCleanup(self.log_in(b"ann").addErrback, lambda _: None)
            client_is_connected.reset(token)
        still_needed = self.held[0][1]
        for connected[:], expected in (
            ([True, False], True),
            ([False, True], True),
            ([False, False], False),
        ):
            self.assertIs(still_needed(), expected)

    def test_busy(self):
        """A rejected lookup fails all its logins with TryLater; the next login starts a new one."""
        self.slow(b"a.example + +")
        outcomes = [self.log_in(b"ann"), self.log_in(b"bob")]
        self.held[0][0].errback(TryLater("busy"))
        for outcome in outcomes:
            self.failureResultOf(outcome, TryLater)
        self.assertNoResult(self.log_in(b"ann"))
        self.assertEqual(len(self.held), 2)
        self.held[1][0].callback(frozenset({parse_address("192.0.2.7")}))

    def test_full(self):
        """A thread pool that raises TryLater fails the login with TryLater."""

        def full(function, *args, still_needed):
            raise TryLater

        self.write(b"a.example + +")
        self.checker = RhostsChecker(self.path, HostResolver(full, self.clock))
        for _ in range(2):
            self.refusal(b"ann", kind=TryLater)


class RealResolverTests(UsersFileCase, TestCase):
    """The checker with its thread pool and the system's resolver."""

    def checker(self, text):
        """Return a checker of a file with this text."""
        self.write(text)
        return RhostsChecker(self.path)

    async def test_localhost(self):
        """A name of this machine is looked up in a thread other than the reactor's."""
        where = []

        def getaddrinfo(*args, **more):
            where.append(threading.current_thread())
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
        self.assertEqual(["popserv-rhosts" in each.name for each in where], [True] * 3)
        # It may take a minute, for which the end of the process does not wait.
        self.assertTrue(all(each.daemon for each in where))

    async def test_not_resolved(self):
        """A name in .invalid (RFC 6761 section 6.4) is not resolved, if any name can be."""
        checker = self.checker(b"nothing.invalid ann ann")
        credentials = RemoteUserCredentials(b"ann", b"ann", "127.0.0.1", 1023)
        try:
            await checker.requestAvatarId(credentials)
        except TryLater as error:
            reason = str(error.__cause__)
        except UnauthorizedLogin as error:
            reason = str(error)
        self.assertIn("1, the first nothing.invalid", reason)

    async def test_disconnected(self):
        """A name is not looked up if the client disconnects before a thread is free."""
        self.patch(resolver, "getaddrinfo", lambda *_, **__: self.fail("looked up"))
        checker = self.checker(b"localhost ann ann")
        token = client_is_connected.set(lambda: False)
        try:
            with self.assertRaises(TryLater):
                await checker.requestAvatarId(RemoteUserCredentials(b"ann", b"ann", "::1", 1023))
        finally:
            client_is_connected.reset(token)
