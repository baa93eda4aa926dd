"""Failed logins and what they cost the next one, held against the plainest book of them."""

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.credentials import UsernamePassword
from twisted.internet.task import Clock
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from popserv.auth.credentials import (
    APOPCredentials,
    CertificateCredentials,
    CramMD5Credentials,
    RemoteUserCredentials,
)
from popserv.auth.sasl.oauthbearer import TokenCredentials
from popserv.auth.throttle.penalties import (
    FACTORS,
    FORGOTTEN,
    KEPT,
    KNOWN,
    Penalties,
    attempted_secrets,
)
from popserv.runtime.bus import WorkerBus

HERE = "192.0.2.1"
THERE = "2001:db8::/64"

NETWORKS = st.sampled_from([HERE, THERE])
WHAT = st.one_of(st.none(), st.lists(st.binary(max_size=2), max_size=2))
TIMES = st.floats(0, 1.5 * FORGOTTEN)


class Book:
    """All that ever failed, and no thought of what that costs."""

    def __init__(self):
        self.replay = []

    def recent(self, network, now):
        """Return the digests that count, by the rules' own words."""
        seen = {}
        for kind, *fact in self.replay:
            if kind == "failed" and fact[0] == network:
                seen[fact[1]] = max(fact[2], seen.get(fact[1], fact[2]))
        last = sorted(seen, key=lambda digest: (seen[digest], digest))[-KEPT:]
        return {digest for digest in last if seen[digest] > now - FORGOTTEN}

    def factor(self, network, now):
        """Return how much longer the next failure waits."""
        return FACTORS[min(len(self.recent(network, now)), 3)]


class PenaltiesCase(SynchronousTestCase):
    """Books on one clock, whose facts are kept as they went over the wire."""

    def setUp(self):
        """Make one."""
        self.clock = Clock()
        self.told = []
        self.penalties = self.make()
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)

    def make(self, told=None, **options):
        """A book that tells a list."""
        told = self.told if told is None else told

        def carry(topic, fact):
            self.assertEqual(topic, "penalties")
            told.append(json.loads(json.dumps(fact)))

        return Penalties(WorkerBus(carry), now=self.clock.seconds, **options)

    def lines(self):
        """Return what was logged."""
        return [formatEvent(event) for event in self.log]


class FactorTests(PenaltiesCase):
    """How much longer a failed login waits."""

    def test_grows(self):
        """Each other failure lengthens the wait, up to the bound: 2, 4, 8, 15 seconds of 2."""
        waits = [2 * self.penalties.failed(HERE, [b"ann", b"%d" % n]) for n in range(20)]
        self.assertEqual(waits, [2, 4, 8, *[15] * 17])
        self.assertEqual(self.penalties.factor(HERE), 7.5)

    def test_networks_are_apart(self):
        """What one network does is not held against another."""
        for _ in range(9):
            self.penalties.failed(HERE, None)
        self.assertEqual(self.penalties.factor(THERE), 1)
        self.assertEqual(self.penalties.failed(THERE, None), 1)

    def test_same_again(self):
        """The same name and password, again and again, counts once, and waits the usual time."""
        for _ in range(50):
            self.assertEqual(self.penalties.failed(HERE, [b"ann", b"old"]), 1)
            self.clock.advance(60)
        self.assertEqual(self.penalties.factor(HERE), 2)
        self.assertEqual(self.penalties.failed(HERE, [b"bob", b"old"]), 2)
        self.assertEqual(self.penalties.failed(HERE, [b"ann", b"old"]), 1)

    def test_parted(self):
        """Where the name ends and the password begins makes a difference."""
        pairs = [[b"ann", b"x"], [b"an", b"nx"], [b"ann", b"", b"x"], [b"annx"], [b"ann1:x"], []]
        factors = [self.penalties.failed(HERE, pair) for pair in pairs]
        self.assertEqual(factors, [1, 2, 4, 7.5, 7.5, 7.5])

    def test_never_the_same(self):
        """What cannot be the same twice counts each time."""
        self.assertEqual([self.penalties.failed(HERE, None) for _ in range(4)], list(FACTORS))

    def test_forgotten(self):
        """Ten minutes after it was last seen a failure counts no more."""
        for n in range(3):
            self.penalties.failed(HERE, [b"%d" % n])
            self.clock.advance(100)
        factors = []
        for _ in range(6):
            factors.append(self.penalties.factor(HERE))
            self.clock.advance(100)
        self.assertEqual(factors, [7.5, 7.5, 7.5, 4, 2, 1])

    def test_success_changes_nothing(self):
        """A login that succeeds takes nothing away, or an account would pay for guesses."""
        for _ in range(3):
            self.penalties.failed(HERE, None)
            self.penalties.succeeded(HERE, b"mallory")
        self.assertEqual(self.penalties.factor(HERE), 7.5)

    def test_logged_once(self):
        """That a network has come to the bound is logged once, until all is forgotten."""
        for _ in range(2):
            before = len(self.lines())
            for n in range(20):
                self.penalties.failed(HERE, None)
                self.assertEqual(len(self.lines()) - before, int(n >= 2))
            self.clock.advance(FORGOTTEN)
        self.assertEqual(
            set(self.lines()),
            {"192.0.2.1: repeated login failures, replies are delayed"},
        )

    def test_memory(self):
        """The networks that failed last are remembered, and ten failures of each."""
        penalties = self.make(most=5)
        for n in range(100):
            penalties.failed(f"192.0.2.{n}", None)
            penalties.failed(HERE, None)
        self.assertEqual(
            list(penalties._failures), [*(f"192.0.2.{n}" for n in range(96, 100)), HERE]
        )
        self.assertEqual(len(penalties._failures[HERE]), KEPT)
        self.clock.advance(FORGOTTEN)
        penalties.failed(THERE, None)
        self.assertEqual(list(penalties._failures), [THERE])
        self.assertEqual(penalties._slowest, set())


class NameTests(PenaltiesCase):
    """Names that have logged in from a network."""

    def test_known(self):
        """A name is known where it logged in, for a day after the last time."""
        self.assertFalse(self.penalties.knows(HERE, b"ann"))
        self.penalties.succeeded(HERE, b"ann")
        for network, name in ((THERE, b"ann"), (HERE, b"bob")):
            self.assertFalse(self.penalties.knows(network, name))
        self.clock.advance(KNOWN - 1)
        self.assertTrue(self.penalties.knows(HERE, b"ann"))
        self.penalties.succeeded(HERE, b"ann")
        self.clock.advance(KNOWN - 1)
        self.assertTrue(self.penalties.knows(HERE, b"ann"))
        self.clock.advance(2)
        self.assertFalse(self.penalties.knows(HERE, b"ann"))

    def test_memory(self):
        """The names that logged in last are remembered."""
        penalties = self.make(most=2)
        for name in (b"ann", b"bob", b"ann", b"carl"):
            penalties.succeeded(HERE, name)
        self.assertTrue(penalties.knows(HERE, b"ann"))
        self.assertFalse(penalties.knows(HERE, b"bob"))

    def test_told_where_it_matters(self):
        """Others are told of a success only where logins have failed."""
        self.told.clear()
        self.penalties.succeeded(HERE, b"ann")
        self.assertEqual(self.told, [])
        self.penalties.failed(HERE, None)
        self.penalties.succeeded(HERE, b"\xffnn")
        self.penalties.succeeded(THERE, b"bob")
        self.assertEqual([fact[:3] for fact in self.told[1:]], [["known", HERE, "\xffnn"]])
        other = self.make([])
        other.receive(self.told[1])
        self.assertTrue(other.knows(HERE, b"\xffnn"))


class WorkersTests(PenaltiesCase):
    """Several books that tell each other."""

    def workers(self, count, **options):
        """Return that many, each of which hears all that others tell, as soon as it is told."""
        workers = []

        def carrier(n):
            def carry(topic, fact):
                fact = json.loads(json.dumps(fact))
                self.told.append(fact)
                for other, (_, bus) in enumerate(workers):
                    if other != n:
                        bus.receive(topic, fact)

            return carry

        for n in range(count):
            bus = WorkerBus(carrier(n))
            workers.append((Penalties(bus, now=self.clock.seconds, **options), bus))
            # As whoever brings workers up does for one that has just begun.
            list(workers[0][1].replay_all())
        return workers

    def test_failures(self):
        """All count what one of them saw, as binary as it may be."""
        (one, _), (other, _) = self.workers(2)
        for n in range(3):
            one.failed(HERE, [b"\xff\0", b"%d" % n])
        self.assertEqual((one.factor(HERE), other.factor(HERE)), (7.5, 7.5))

    def test_one_key(self):
        """A program with an old password counts once, whichever worker it meets."""
        for _ in range(9):
            workers = [worker for worker, _ in self.workers(3)]
            for n in range(9):
                self.assertEqual(workers[n % 3].failed(HERE, [b"ann", b"old"]), 1)
            self.assertEqual([worker.factor(HERE) for worker in workers], [2, 2, 2])

    def test_new_worker(self):
        """One that begins anew is told all that still counts."""
        (one, bus), (other, _) = self.workers(2)
        one.failed(HERE, [b"ann", b"old"])
        self.clock.advance(FORGOTTEN)
        one.failed(HERE, [b"ann", b"new"])
        one.failed(THERE, None)
        one.succeeded(HERE, b"ann")
        one.succeeded("192.0.2.9", b"bob")
        self.told.clear()
        list(bus.replay_all())
        kinds = [fact[0] for fact in self.told if fact[0] != "key"]
        self.assertEqual(sorted(kinds), ["failed", "failed", "known"])
        for key in (b"\0" * 32, b"\xff" * 32):
            anew = self.make([])
            anew._key = key
            for fact in self.told:
                anew.receive(fact)
            self.assertEqual([anew.factor(network) for network in (HERE, THERE)], [2, 2])
            self.assertTrue(anew.knows(HERE, b"ann"))
        self.assertFalse(other.knows(THERE, b"ann"))

    def test_late_news(self):
        """What is told when it counts no more is not remembered."""
        self.clock.advance(FORGOTTEN)
        self.penalties.receive(["failed", HERE, 1, 0.0])
        self.assertEqual(self.penalties._failures, {})

    def test_keys_spread(self):
        """Whoever began first, all end with the least key; who has it tells who has not."""
        one = self.make()
        other = self.make([])
        one._key, other._key = b"\1" * 32, b"\2" * 32
        self.told.clear()
        one.receive(["key", other._key.hex()])
        self.assertEqual(self.told, [["key", "01" * 32]])
        other.receive(self.told[0])
        self.assertEqual(one._key, other._key)

    @given(st.data())
    def test_merging(self, data):
        """The same facts, in any order and however often, make the same book."""
        facts = data.draw(
            st.lists(
                st.tuples(st.just("failed"), NETWORKS, st.integers(0, 15), st.floats(0, FORGOTTEN)),
                max_size=60,
            )
        )
        again = data.draw(st.permutations(facts + facts[: len(facts) // 2]))
        one, other = self.make([]), self.make([])
        for fact in facts:
            one.receive(list(fact))
        for fact in again:
            other.receive(list(fact))
        now = self.clock.seconds()
        book = Book()
        book.replay = facts
        for seconds in (0, FORGOTTEN / 2, FORGOTTEN):
            self.clock.rightNow = now + seconds
            for network in (HERE, THERE):
                self.assertEqual(one._recent(network), other._recent(network))
                self.assertEqual(set(one._recent(network)), book.recent(network, now + seconds))
        self.clock.rightNow = now


class ModelTests(PenaltiesCase):
    """Any sequence of events, against the naive book."""

    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("failed"), NETWORKS, WHAT),
                st.tuples(st.just("succeeded"), NETWORKS, st.binary(max_size=2)),
                st.tuples(st.just("waits"), TIMES, st.none()),
                st.tuples(st.just("hears"), st.integers(0, 50), TIMES),
            )
        )
    )
    def test_model(self, steps):
        """Waits are those of the naive book, bounded, and gone when nothing has failed for long."""
        clock = self.clock
        clock.rightNow = 0.0
        told, heard, book = [], [], Book()
        penalties = self.make(told)
        # What another worker tells, and tells again.
        other = self.make(heard)
        other._key = penalties._key = b"k" * 32
        for step, first, second in steps:
            before = {network: book.recent(network, clock.seconds()) for network in (HERE, THERE)}
            if step == "failed":
                told.clear()
                expected = book.factor(first, clock.seconds())
                factor = penalties.failed(first, second)
                book.replay += told
                is_again = told[0][2] in before[first]
                self.assertEqual(factor, FACTORS[0] if is_again else expected)
            elif step == "succeeded":
                penalties.succeeded(first, second)
                self.assertTrue(penalties.knows(first, second))
            elif step == "waits":
                clock.advance(first)
            else:
                other.failed(HERE if first % 2 else THERE, [b"%d" % (first % 5)])
                fact = heard[first % len(heard)]
                penalties.receive(fact)
                book.replay.append(fact)
            for network in (HERE, THERE):
                factor = penalties.factor(network)
                self.assertIn(factor, FACTORS)
                self.assertEqual(factor, book.factor(network, clock.seconds()))
        clock.advance(FORGOTTEN + 1)
        self.assertEqual([penalties.factor(network) for network in (HERE, THERE)], [1, 1])


class WhatFailedTests(SynchronousTestCase):
    """what_failed: whether two logins were the same."""

    def test_what(self):
        """Names with passwords, tokens and certificates can be, digests and proofs cannot."""
        for name, credentials, what in [
            (b"ann", UsernamePassword(b"ann", b"pw"), [b"ann", b"pw"]),
            (None, TokenCredentials(b"", b"token", None), [b"", b"token"]),
            (b"ann", CertificateCredentials([b"bob", b"eve"], b"ann"), [b"ann", b"bob", b"eve"]),
            (b"ann", RemoteUserCredentials(b"ann", b"anne", "192.0.2.7", 1), [b"ann", b"anne"]),
            (b"ann", APOPCredentials(b"ann", b"<1@h>", b"d"), None),
            (b"ann", CramMD5Credentials(b"ann", b"<1@h>", b"d"), None),
            (b"ann", UsernamePassword(b"ann", "of no octets"), None),
            (b"ann", None, [b"ann"]),
            (None, None, [b""]),
        ]:
            self.assertEqual(attempted_secrets(name, credentials), what)
