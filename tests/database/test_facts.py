"""Tests of popserv.database.facts: two hosts with one database, and clocks of their own."""

from unittest import mock

from twisted.internet import reactor
from twisted.internet.task import deferLater

from popserv.auth.throttle.login_delay import LoginDelayRealm
from popserv.auth.throttle.penalties import FAILURE_LIFETIME, Penalties
from popserv.database import facts
from popserv.database.errors import DatabaseUnavailable, OutcomeUnknown
from popserv.database.facts import LIFETIME, MAX_PENDING, READ, WRITE, SharedFacts
from popserv.database.schema import create_schema
from popserv.database.settings import shared_secret
from popserv.errors import LoginTooSoon
from popserv.runtime.bus import WorkerBus
from tests.database.harness import DatabaseCase

NETWORK = "192.0.2.1"


class Host:
    """A process of a host, whose clock is ahead of that of this machine."""

    def __init__(self, database, ahead=0.0):
        self.database = database
        self.ahead = ahead
        self.bus = WorkerBus()
        self.penalties = Penalties(self.bus, now=self.now)
        self.received = []
        self.bus.subscribe("colours", self)
        self.facts = SharedFacts(database, self.bus, self.penalties.use_key, self.now)

    def now(self):
        """Return the time of its clock."""
        return reactor.seconds() + self.ahead

    def receive(self, update, offset):
        """Keep an update."""
        self.received.append(update)

    def record_failure(self, secret):
        """Record a failed login; return the factor of its delay."""
        return self.penalties.record_failure(NETWORK, [b"ann", secret])


class FactsTests(DatabaseCase):
    """What one host publishes reaches the other."""

    async def setUp(self):
        """Start two hosts, whose machines have been up for different times."""
        super().setUp()
        await create_schema(self.database)
        self.one, self.two = self.host(1e6), self.host(-5e5)
        await self.exchange()

    def host(self, ahead=0.0):
        """Return a host."""
        return Host(self.connect(), ahead)

    async def exchange(self):
        """Let each host write and read, and read what the other has written."""
        for host in (self.one, self.two, self.one):
            await host.facts.exchange()

    async def test_penalties(self):
        """A failure on one host counts on the other, and once if it is repeated there."""
        self.assertEqual([self.one.record_failure(secret) for secret in (b"1", b"2")], [1, 2])
        await self.exchange()
        self.assertEqual(self.two.penalties.delay_factor(NETWORK), 4)
        self.assertEqual(self.two.record_failure(b"1"), 1)
        self.assertEqual(self.two.record_failure(b"3"), 4)
        await self.exchange()
        self.assertEqual(self.one.penalties.delay_factor(NETWORK), 7.5)

    async def test_expiry(self):
        """Failures expire everywhere ten minutes after they have occurred."""
        self.one.record_failure(b"1")
        await self.exchange()
        for host in (self.one, self.two):
            host.ahead += FAILURE_LIFETIME - 5
            self.assertEqual(host.penalties.delay_factor(NETWORK), 2)
            host.ahead += 10
            self.assertEqual(host.penalties.delay_factor(NETWORK), 1)

    async def test_known_name(self):
        """A name that has logged in from a network with failures is known on all hosts."""
        self.one.record_failure(b"1")
        self.one.penalties.record_success(NETWORK, b"\xffnn")
        await self.exchange()
        self.assertTrue(self.two.penalties.is_known_name(NETWORK, b"\xffnn"))

    async def test_key(self):
        """The key of digests is that of all hosts, and is not told; that of a worker is ignored."""
        secret = await shared_secret(self.database, "facts")
        self.assertEqual([host.penalties._key for host in (self.one, self.two)], [secret, secret])
        self.one.bus.receive("penalties", ["key", "00" * 32])
        self.assertEqual(self.one.penalties._key, secret)
        self.assertEqual(await self.database.execute("SELECT id FROM fact"), [])

    async def test_login_delay(self):
        """Other components get their times by their own clock as well."""
        realms = [
            LoginDelayRealm(None, 60, host.now, bus=host.bus) for host in (self.one, self.two)
        ]
        realms[0]._record_login(None, b"ann")
        await self.exchange()
        with self.assertRaises(LoginTooSoon):
            realms[1].requestAvatar(b"ann", None)
        self.two.ahead += 61
        realms[1]._evict_expired(self.two.now())
        self.assertEqual(list(realms[1].replay()), [])

    async def test_once(self):
        """An update is received once, not by its own host, and in order."""
        for number in range(3):
            self.one.bus.publish("colours", number)
            await self.exchange()
            await self.exchange()
        self.assertEqual((self.one.received, self.two.received), ([], [0, 1, 2]))

    async def test_nothing(self):
        """Where nothing was published, nothing is written."""
        await self.exchange()
        self.assertEqual(await self.database.execute("SELECT id FROM fact"), [])

    async def test_newcomer(self):
        """A process that has just started learns what was told in the last ten minutes."""
        self.one.record_failure(b"1")
        self.one.bus.publish("colours", "red")
        await self.exchange()
        minute = "UPDATE fact SET at = at - interval '1 minute'"
        await self.database.execute(minute)
        three = self.host(7.0)
        await three.facts.exchange()
        self.assertEqual(three.received, ["red"])
        self.assertEqual(three.record_failure(b"1"), 1)
        self.assertEqual(three.penalties.delay_factor(NETWORK), 2)
        three.ahead += FAILURE_LIFETIME - 30
        await self.database.execute(minute)
        four = self.host()
        await four.facts.exchange()
        self.assertEqual(four.penalties.delay_factor(NETWORK), 2)
        four.ahead += FAILURE_LIFETIME - 115
        self.assertEqual(four.penalties.delay_factor(NETWORK), 1)

    async def test_late(self):
        """A row that appears some seconds after it was made is read, too."""
        self.one.bus.publish("colours", "red")
        await self.one.facts.exchange()
        await self.database.execute("UPDATE fact SET at = at - interval '3 seconds'")
        await self.two.facts.exchange()
        self.assertEqual(self.two.received, ["red"])

    async def test_deleted(self):
        """What is older than ten minutes is deleted when something is written."""
        self.one.bus.publish("colours", "old")
        await self.one.facts.exchange()
        old = f"UPDATE fact SET at = at - interval '{LIFETIME + 1} seconds'"
        await self.database.execute(old)
        self.one.bus.publish("colours", "new")
        await self.exchange()
        self.assertEqual(self.two.received, ["new"])
        self.assertEqual(len(await self.database.execute("SELECT id FROM fact")), 1)

    async def test_outage(self):
        """What cannot be written is written later; what was written meanwhile is read."""
        execute = self.one.database.execute
        errors = [DatabaseUnavailable(), OutcomeUnknown()]

        async def fail(statement, parameters=()):
            if statement is WRITE and errors:
                error = errors.pop()
                if isinstance(error, OutcomeUnknown):
                    await execute(statement, parameters)
                raise error
            return await execute(statement, parameters)

        self.patch(self.one.database, "execute", fail)
        for colour, error in (("red", OutcomeUnknown), ("green", DatabaseUnavailable)):
            self.one.bus.publish("colours", colour)
            with self.assertRaises(error):
                await self.one.facts.exchange()
        self.one.bus.publish("colours", "blue")
        await self.one.facts.exchange()
        await self.one.facts.exchange()
        self.one.facts._read_at -= 60
        await self.two.facts.exchange()
        self.assertEqual(self.two.received, ["red", "green", "blue"])
        self.assertEqual(self.one.received, [])

    async def test_long_outage(self):
        """After an outage, all is read that was written since, ten minutes at most."""
        self.one.bus.publish("colours", "red")
        await self.one.facts.exchange()
        await self.database.execute("UPDATE fact SET at = at - interval '1 minute'")
        await self.two.facts.exchange()
        self.assertEqual(self.two.received, [])
        self.two.facts._read_at -= 60
        await self.two.facts.exchange()
        self.assertEqual(self.two.received, ["red"])
        statements = []

        async def execute(statement, parameters=()):
            statements.append((statement, *parameters))
            return []

        self.two.ahead += 10_000
        self.patch(self.two.database, "execute", execute)
        await self.two.facts.exchange()
        self.assertEqual(statements, [(READ, LIFETIME)])

    async def test_limit(self):
        """Of too many updates in a second, the oldest are dropped."""
        for number in range(MAX_PENDING + 5):
            self.one.bus.publish("colours", number)
        await self.exchange()
        self.assertEqual(self.two.received, list(range(5, MAX_PENDING + 5)))

    async def test_unknown_form(self):
        """An update that a component does not understand is logged, and the others received."""
        self.one.bus.publish("penalties", ["failure", "and", "more"])
        self.one.bus.publish("colours", "red")
        await self.exchange()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(self.two.received, ["red"])

    def test_interval(self):
        """Facts are exchanged once a second."""
        with mock.patch.object(self.one.database, "work_regularly") as regularly:
            self.one.facts.start()
        self.assertEqual(regularly.call_args.args[:2], (self.one.facts.exchange, 1))

    async def test_regular(self):
        """Facts are exchanged regularly until the database is closed."""
        self.patch(facts, "INTERVAL", 0.02)
        self.one.facts.start()
        self.two.facts.start()
        self.one.bus.publish("colours", "red")
        for _ in range(500):
            if self.two.received:
                break
            await deferLater(reactor, 0.02)
        self.assertEqual(self.two.received, ["red"])
