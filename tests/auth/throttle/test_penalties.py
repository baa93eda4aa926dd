"""Penalties for failed logins, compared with a naive model."""

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
    DELAY_FACTORS,
    FAILURE_LIFETIME,
    KNOWN_NAME_LIFETIME,
    MAX_FAILURES,
    Penalties,
    attempted_secrets,
)
from popserv.runtime.bus import WorkerBus
from tests.memory import growth_of

HERE = "192.0.2.1"
THERE = "2001:db8::/64"

NETWORKS = st.sampled_from([HERE, THERE])
ATTEMPTED = st.one_of(st.none(), st.lists(st.binary(max_size=2), max_size=2))
TIMES = st.floats(0, 1.5 * FAILURE_LIFETIME)


class Model:
    """Stores all updates, and derives the delay factor from the documented rules."""

    def __init__(self):
        self.updates = []

    def recent(self, network, now):
        """Return the digests of the failures that count."""
        seen = {}
        for kind, *update in self.updates:
            if kind == "failure" and update[0] == network:
                seen[update[1]] = max(update[2], seen.get(update[1], update[2]))
        last = sorted(seen, key=lambda digest: (seen[digest], digest))[-MAX_FAILURES:]
        return {digest for digest in last if seen[digest] > now - FAILURE_LIFETIME}

    def delay_factor(self, network, now):
        """Return the factor of the base delay for the next failure."""
        return DELAY_FACTORS[min(len(self.recent(network, now)), 3)]


class PenaltiesCase(SynchronousTestCase):
    """Has penalties on a test clock, whose updates are recorded as they are sent."""

    def setUp(self):
        """Make the penalties; record the log."""
        self.clock = Clock()
        self.published = []
        self.penalties = self.make()
        self.log = EventLoggingObserver.createWithCleanup(self, globalLogPublisher)

    def make(self, published=None, **options):
        """Return penalties that publish to a list."""
        published = self.published if published is None else published

        def send(topic, update):
            self.assertEqual(topic, "penalties")
            published.append(json.loads(json.dumps(update)))

        return Penalties(WorkerBus(send), now=self.clock.seconds, **options)

    def lines(self):
        """Return the lines of the log."""
        return [formatEvent(event) for event in self.log]


class DelayTests(PenaltiesCase):
    """The delay of the reply to a failed login."""

    def test_grows(self):
        """Each different failure increases the delay, up to the maximum: 2, 4, 8, 15 seconds."""
        waits = [2 * self.penalties.record_failure(HERE, [b"ann", b"%d" % n]) for n in range(20)]
        self.assertEqual(waits, [2, 4, 8, *[15] * 17])
        self.assertEqual(self.penalties.delay_factor(HERE), 7.5)

    def test_networks_are_independent(self):
        """Failures of one network do not affect another."""
        for _ in range(9):
            self.penalties.record_failure(HERE, None)
        self.assertEqual(self.penalties.delay_factor(THERE), 1)
        self.assertEqual(self.penalties.record_failure(THERE, None), 1)

    def test_repeated(self):
        """The same name and password count once, and always have the base delay."""
        for _ in range(50):
            self.assertEqual(self.penalties.record_failure(HERE, [b"ann", b"old"]), 1)
            self.clock.advance(60)
        self.assertEqual(self.penalties.delay_factor(HERE), 2)
        self.assertEqual(self.penalties.record_failure(HERE, [b"bob", b"old"]), 2)
        self.assertEqual(self.penalties.record_failure(HERE, [b"ann", b"old"]), 1)

    def test_separated(self):
        """The boundary between name and password makes a difference."""
        pairs = [[b"ann", b"x"], [b"an", b"nx"], [b"ann", b"", b"x"], [b"annx"], [b"ann1:x"], []]
        factors = [self.penalties.record_failure(HERE, pair) for pair in pairs]
        self.assertEqual(factors, [1, 2, 4, 7.5, 7.5, 7.5])

    def test_not_repeatable(self):
        """A failure that cannot be recognized when repeated counts each time."""
        self.assertEqual(
            [self.penalties.record_failure(HERE, None) for _ in range(4)], list(DELAY_FACTORS)
        )

    def test_expiry(self):
        """A failure expires ten minutes after it last occurred."""
        for n in range(3):
            self.penalties.record_failure(HERE, [b"%d" % n])
            self.clock.advance(100)
        factors = []
        for _ in range(6):
            factors.append(self.penalties.delay_factor(HERE))
            self.clock.advance(100)
        self.assertEqual(factors, [7.5, 7.5, 7.5, 4, 2, 1])

    def test_ten_minutes(self):
        """A failure counts until ten minutes have passed."""
        self.penalties.record_failure(HERE, None)
        self.clock.advance(599.5)
        self.assertEqual(self.penalties.delay_factor(HERE), 2)
        self.clock.advance(0.5)
        self.assertEqual(self.penalties.delay_factor(HERE), 1)

    def test_success_changes_nothing(self):
        """A successful login does not reduce the delay."""
        for _ in range(3):
            self.penalties.record_failure(HERE, None)
            self.penalties.record_success(HERE, b"mallory")
        self.assertEqual(self.penalties.delay_factor(HERE), 7.5)

    def test_logged_once(self):
        """Reaching the maximum delay is logged once, until all failures have expired."""
        for _ in range(2):
            before = len(self.lines())
            for n in range(20):
                self.penalties.record_failure(HERE, None)
                self.assertEqual(len(self.lines()) - before, int(n >= 2))
            self.clock.advance(FAILURE_LIFETIME)
        self.assertEqual(
            set(self.lines()),
            {"192.0.2.1: repeated login failures, replies are delayed"},
        )

    def test_forget(self):
        """The failures of a network can be forgotten; those of others stay."""
        for network in ("192.0.2.1", "192.0.2.2"):
            for secret in (b"1", b"2"):
                self.penalties.record_failure(network, [b"ann", secret])
        self.assertEqual(self.penalties.network_count, 2)
        self.assertEqual([self.penalties.forget("192.0.2.1") for _ in range(2)], [2, 0])
        self.assertEqual(self.penalties.network_count, 1)
        self.clock.advance(FAILURE_LIFETIME)
        self.assertEqual(self.penalties.network_count, 0)

    def test_forget_one(self):
        """The other networks are delayed as before."""
        for network in ("192.0.2.1", "192.0.2.2"):
            for secret in (b"1", b"2"):
                self.penalties.record_failure(network, [b"ann", secret])
        self.penalties.forget("192.0.2.1")
        self.assertEqual(self.penalties.delay_factor("192.0.2.1"), 1)
        self.assertEqual(self.penalties.delay_factor("192.0.2.2"), 4)

    def test_forget_logged(self):
        """Reaching the maximum delay again is logged again."""
        for _ in range(2):
            for _ in range(4):
                self.penalties.record_failure(HERE, None)
            self.penalties.forget(HERE)
        self.assertEqual(len(self.lines()), 2)

    def test_memory(self):
        """The number of networks, and of the failures of each, is limited."""
        penalties = self.make(max_entries=5)
        for n in range(100):
            penalties.record_failure(f"192.0.2.{n}", None)
            penalties.record_failure(HERE, None)
        self.assertEqual(
            list(penalties._failures), [*(f"192.0.2.{n}" for n in range(96, 100)), HERE]
        )
        self.assertEqual(len(penalties._failures[HERE]), MAX_FAILURES)
        self.clock.advance(FAILURE_LIFETIME)
        penalties.record_failure(THERE, None)
        self.assertEqual(list(penalties._failures), [THERE])
        self.assertEqual(penalties._at_max_delay, set())


class NameTests(PenaltiesCase):
    """Names that are known in a network."""

    def test_known(self):
        """A name is known where it has logged in, for a day after the last login."""
        self.assertFalse(self.penalties.is_known_name(HERE, b"ann"))
        self.penalties.record_success(HERE, b"ann")
        for network, name in ((THERE, b"ann"), (HERE, b"bob")):
            self.assertFalse(self.penalties.is_known_name(network, name))
        for _ in range(2):
            self.penalties.record_success(HERE, b"ann")
            self.clock.advance(86_399.5)
            self.assertTrue(self.penalties.is_known_name(HERE, b"ann"))
        self.clock.advance(0.5)
        self.assertFalse(self.penalties.is_known_name(HERE, b"ann"))

    def test_networks(self):
        """A network is known as long as one of its names is; the number of them is limited."""
        penalties = self.make(max_entries=2)
        self.assertFalse(penalties.is_known_network(HERE))
        for _ in range(2):
            penalties.record_success(HERE, b"ann")
            self.clock.advance(1)
            penalties.record_success(HERE, b"bob")
            self.assertFalse(penalties.is_known_network(THERE))
            self.clock.advance(86_399.5)
            self.assertTrue(penalties.is_known_network(HERE))
        self.clock.advance(0.5)
        self.assertFalse(penalties.is_known_network(HERE))
        for network in (HERE, THERE, HERE, "192.0.2.99"):
            penalties.record_success(network, b"ann")
        self.assertTrue(penalties.is_known_network(HERE))
        self.assertFalse(penalties.is_known_network(THERE))

    def test_memory(self):
        """The number of names is limited; the least recent is evicted."""
        penalties = self.make(max_entries=2)
        for name in (b"ann", b"bob", b"ann", b"carl"):
            penalties.record_success(HERE, name)
        self.assertTrue(penalties.is_known_name(HERE, b"ann"))
        self.assertFalse(penalties.is_known_name(HERE, b"bob"))

    def test_published_where_needed(self):
        """A success is published only if logins of the network have failed."""
        self.published.clear()
        self.penalties.record_success(HERE, b"ann")
        self.assertEqual(self.published, [])
        self.penalties.record_failure(HERE, None)
        self.penalties.record_success(HERE, b"\xffnn")
        self.penalties.record_success(THERE, b"bob")
        self.assertEqual(
            [update[:3] for update in self.published[1:]], [["known-name", HERE, "\xffnn"]]
        )
        other = self.make([])
        other.receive(self.published[1])
        self.assertTrue(other.is_known_name(HERE, b"\xffnn"))


class SecretTests(PenaltiesCase):
    """Secrets that have been right in a network."""

    ANN = UsernamePassword(b"ann", b"pw")

    def known(self, network=HERE, name=b"ann", credentials=ANN):
        """Return whether a secret is known."""
        return self.penalties.known_secret_hash(network, name, credentials) is not None

    def test_known(self):
        """A secret is known with its name where it has logged in, for a day after the last time."""
        self.assertFalse(self.known())
        for _ in range(2):
            self.penalties.record_success(HERE, b"ann", [b"ann", b"pw"])
            self.clock.advance(KNOWN_NAME_LIFETIME - 1)
            self.assertTrue(self.known())
        self.assertFalse(self.known(network=THERE))
        self.assertFalse(self.known(name=b"bob"))
        self.assertFalse(self.known(credentials=UsernamePassword(b"ann", b"no")))
        self.clock.advance(1)
        self.assertFalse(self.known())

    def test_not_repeatable(self):
        """A response to a challenge is not known."""
        response = APOPCredentials(b"ann", b"<1@h>", b"d")
        self.penalties.record_success(HERE, b"ann", attempted_secrets(b"ann", response))
        self.assertFalse(self.known(credentials=response))
        self.assertEqual(self.penalties._known_secrets, {})
        self.penalties.forget_secret(HERE, attempted_secrets(b"ann", response))

    def test_forget(self):
        """A secret that is refused is forgotten, and no other one."""
        self.penalties.record_success(HERE, b"ann", [b"ann", b"pw"])
        for network, secret in ((HERE, b"no"), (THERE, b"pw")):
            self.penalties.forget_secret(network, [b"ann", secret])
            self.assertTrue(self.known())
        self.penalties.forget_secret(HERE, [b"ann", b"pw"])
        self.assertFalse(self.known())

    def test_memory(self):
        """The number of secrets is limited; the least recent is evicted."""
        self.penalties = self.make(max_entries=2)
        for secret in (b"1", b"pw", b"1", b"2"):
            self.penalties.record_success(HERE, b"ann", [b"ann", secret])
        self.assertFalse(self.known())
        self.assertTrue(self.known(credentials=UsernamePassword(b"ann", b"1")))

    def test_private(self):
        """No right secret leaves the process, nor its hash."""
        self.penalties.record_failure(HERE, None)
        self.published.clear()
        self.penalties.record_success(HERE, b"ann", [b"ann", b"pw"])
        list(self.penalties.replay())
        digest = self.penalties.known_secret_hash(HERE, b"ann", self.ANN)
        told = json.dumps([*self.published, *map(list, self.penalties.replay())])
        self.assertNotIn(str(digest), told)


class WorkersTests(PenaltiesCase):
    """Penalties of several workers that share a bus."""

    def workers(self, count, **options):
        """Return workers each of which receives the updates of all others immediately."""
        workers = []

        def sender(n):
            def send(topic, update):
                update = json.loads(json.dumps(update))
                self.published.append(update)
                for other, (_, bus) in enumerate(workers):
                    if other != n:
                        bus.receive(topic, update)

            return send

        for n in range(count):
            bus = WorkerBus(sender(n))
            workers.append((Penalties(bus, now=self.clock.seconds, **options), bus))
            # As the supervisor does for a new worker.
            list(workers[0][1].replay_all())
        return workers

    def test_failures(self):
        """A failure at one worker counts at all, whatever octets it has."""
        (one, _), (other, _) = self.workers(2)
        for n in range(3):
            one.record_failure(HERE, [b"\xff\0", b"%d" % n])
        self.assertEqual((one.delay_factor(HERE), other.delay_factor(HERE)), (7.5, 7.5))

    def test_one_key(self):
        """A repeated failure counts once, whichever worker the client reaches."""
        for _ in range(9):
            workers = [worker for worker, _ in self.workers(3)]
            for n in range(9):
                self.assertEqual(workers[n % 3].record_failure(HERE, [b"ann", b"old"]), 1)
            self.assertEqual([worker.delay_factor(HERE) for worker in workers], [2, 2, 2])

    def test_other_hosts(self):
        """With the key of all hosts, a failure counts on each, by the clock of each."""
        (one, _), (other, _) = self.workers(1)[0], self.workers(1)[0]
        for penalties in (one, other):
            penalties.use_key(b"k" * 32)
        other.receive(["key", "00" * 32])
        self.published.clear()
        one.record_failure(HERE, [b"ann", b"old"])
        one.record_success(HERE, b"ann")
        ahead = KNOWN_NAME_LIFETIME
        self.clock.advance(ahead)
        for update in self.published:
            other.receive(update, ahead)
        self.clock.advance(FAILURE_LIFETIME - 1)
        self.assertTrue(other.is_known_name(HERE, b"ann"))
        self.assertEqual(other.delay_factor(HERE), 2)
        self.assertEqual(other.record_failure(HERE, [b"ann", b"old"]), 1)

    def test_new_worker(self):
        """A new worker receives all that has not expired."""
        (one, bus), (other, _) = self.workers(2)
        one.record_failure(HERE, [b"ann", b"old"])
        self.clock.advance(FAILURE_LIFETIME)
        one.record_failure(HERE, [b"ann", b"new"])
        one.record_failure(THERE, None)
        one.record_success(HERE, b"ann")
        one.record_success("192.0.2.9", b"bob")
        self.published.clear()
        list(bus.replay_all())
        kinds = [update[0] for update in self.published if update[0] != "key"]
        self.assertEqual(sorted(kinds), ["failure", "failure", "known-name"])
        for key in (b"\0" * 32, b"\xff" * 32):
            new = self.make([])
            new._key = key
            for update in self.published:
                new.receive(update)
            self.assertEqual([new.delay_factor(network) for network in (HERE, THERE)], [2, 2])
            self.assertTrue(new.is_known_name(HERE, b"ann"))
        self.assertFalse(other.is_known_name(THERE, b"ann"))

    def test_late_update(self):
        """An update that has expired is not stored."""
        self.clock.advance(FAILURE_LIFETIME)
        self.penalties.receive(["failure", HERE, 1, 0.0])
        self.assertEqual(self.penalties._failures, {})

    def test_keys_spread(self):
        """All workers adopt the smallest key; a worker that has it publishes it again."""
        self.published.clear()
        one = self.make()
        self.assertEqual([kind for kind, _ in self.published], ["key"])
        other = self.make([])
        one._key, other._key = b"\1" * 32, b"\2" * 32
        self.published.clear()
        one.receive(["key", other._key.hex()])
        self.assertEqual(self.published, [["key", "01" * 32]])
        other.receive(self.published[0])
        self.assertEqual(one._key, other._key)

    @given(st.data())
    def test_merging(self, data):
        """The same updates in any order, also repeated, have the same result."""
        updates = data.draw(
            st.lists(
                st.tuples(
                    st.just("failure"), NETWORKS, st.integers(0, 15), st.floats(0, FAILURE_LIFETIME)
                ),
                max_size=60,
            )
        )
        again = data.draw(st.permutations(updates + updates[: len(updates) // 2]))
        one, other = self.make([]), self.make([])
        for update in updates:
            one.receive(list(update))
        for update in again:
            other.receive(list(update))
        now = self.clock.seconds()
        model = Model()
        model.updates = updates
        for seconds in (0, FAILURE_LIFETIME / 2, FAILURE_LIFETIME):
            self.clock.rightNow = now + seconds
            for network in (HERE, THERE):
                self.assertEqual(one._recent_failures(network), other._recent_failures(network))
                self.assertEqual(
                    set(one._recent_failures(network)), model.recent(network, now + seconds)
                )
        self.clock.rightNow = now


class ModelTests(PenaltiesCase):
    """Any sequence of events, compared with the model."""

    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("failed"), NETWORKS, ATTEMPTED),
                st.tuples(st.just("succeeded"), NETWORKS, st.binary(max_size=2)),
                st.tuples(st.just("waits"), TIMES, st.none()),
                st.tuples(st.just("receives"), st.integers(0, 50), TIMES),
            )
        )
    )
    def test_model(self, steps):
        """The delay factors are those of the model, and 1 when all failures have expired."""
        clock = self.clock
        clock.rightNow = 0.0
        published, received, model = [], [], Model()
        penalties = self.make(published)
        # Another worker, whose updates may be received repeatedly.
        other = self.make(received)
        other._key = penalties._key = b"k" * 32
        for step, first, second in steps:
            before = {network: model.recent(network, clock.seconds()) for network in (HERE, THERE)}
            if step == "failed":
                published.clear()
                expected = model.delay_factor(first, clock.seconds())
                factor = penalties.record_failure(first, second)
                model.updates += published
                is_repeated = published[0][2] in before[first]
                self.assertEqual(factor, DELAY_FACTORS[0] if is_repeated else expected)
            elif step == "succeeded":
                penalties.record_success(first, second)
                self.assertTrue(penalties.is_known_name(first, second))
            elif step == "waits":
                clock.advance(first)
            else:
                other.record_failure(HERE if first % 2 else THERE, [b"%d" % (first % 5)])
                update = received[first % len(received)]
                penalties.receive(update)
                model.updates.append(update)
            for network in (HERE, THERE):
                factor = penalties.delay_factor(network)
                self.assertIn(factor, DELAY_FACTORS)
                self.assertEqual(factor, model.delay_factor(network, clock.seconds()))
        clock.advance(FAILURE_LIFETIME + 1)
        self.assertEqual([penalties.delay_factor(network) for network in (HERE, THERE)], [1, 1])


class OctetsTests(SynchronousTestCase):
    """The memory that is taken."""

    def test_failures(self):
        """A network takes less than 1.5 KB."""
        penalties = Penalties()
        networks = 1000

        def fail():
            for n in range(networks):
                for password in range(MAX_FAILURES):
                    penalties.record_failure(f"2001:db8:{n:x}::/64", [b"%d" % password])

        self.assertLess(growth_of(fail) / networks, 1500)

    def test_names(self):
        """A name takes less than 300 octets, and a network less than 150."""
        logins = 5000
        for network, limit in (("192.0.2.1", 300), ("2001:db8:{:x}::/64", 300 + 150)):
            penalties = Penalties()

            def log_in(network=network, penalties=penalties):
                for n in range(logins):
                    penalties.record_success(network.format(n), b"user%d@example.org" % n)

            self.assertLess(growth_of(log_in) / logins, limit)

    def test_secrets(self):
        """A right secret takes less than 200 octets."""
        penalties = Penalties()
        logins = 5000

        def log_in():
            for n in range(logins):
                penalties.record_success("192.0.2.1", b"ann", [b"ann", b"%d" % n])

        self.assertLess(growth_of(log_in) / logins, 200)


class AttemptedSecretsTests(SynchronousTestCase):
    """attempted_secrets."""

    def test_kinds(self):
        """Passwords, tokens and certificates can be recognized, responses to challenges cannot."""
        for name, credentials, attempted in [
            (b"ann", UsernamePassword(b"ann", b"pw"), [b"ann", b"pw"]),
            (None, TokenCredentials(b"", b"token", None), [b"", b"token"]),
            (b"ann", CertificateCredentials([b"bob", b"eve"], b"ann"), [b"ann", b"bob", b"eve"]),
            (None, CertificateCredentials([b"bob"], b"ann"), [b"", b"bob"]),
            (b"ann", RemoteUserCredentials(b"ann", b"anne", "192.0.2.7", 1), [b"ann", b"anne"]),
            (b"ann", APOPCredentials(b"ann", b"<1@h>", b"d"), None),
            (b"ann", CramMD5Credentials(b"ann", b"<1@h>", b"d"), None),
            (b"ann", UsernamePassword(b"ann", "of no octets"), None),
            (b"ann", None, [b"ann"]),
            (None, None, [b""]),
        ]:
            self.assertEqual(attempted_secrets(name, credentials), attempted)
