"""popserv.maildrops.sql.collector: objects that no message has are removed."""

import os
from io import BytesIO
from uuid import UUID, uuid4

import psycopg
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase

from popserv.database.schema import create_schema
from popserv.errors import TryLater
from popserv.maildrops.sql import collector, delivery, keys, statements
from popserv.maildrops.sql.collector import (
    AGE,
    DOOM_UNKNOWN,
    FORGET,
    Collector,
    RegularCollection,
)
from popserv.maildrops.sql.delivery import deliver
from popserv.maildrops.sql.message_objects import MessageObjects
from popserv.maildrops.sql.object_errors import ObjectStoreUnavailable
from popserv.maildrops.sql.objects import ObjectStore
from popserv.runtime.threads import BoundedThreadPool
from tests.database.harness import DatabaseCase

run = BoundedThreadPool("tests-collector", 4).run

GRACE = 1000


class Stopped(Exception):
    """A process was killed at this point."""


DELIVER = """
WITH changed AS (UPDATE maildrop SET last = last + 1 RETURNING id, last)
INSERT INTO message (maildrop, position, id, octets, stored, header_ends, inline)
SELECT id, last, $1::uuid, 1, 1, true, false FROM changed
"""


class CollectorCase(DatabaseCase):
    """Tests with a database and objects in memory."""

    async def setUp(self):
        """Make the tables, a maildrop and a collector."""
        super().setUp()
        await create_schema(self.database)
        self.connection = psycopg.connect(**self.parameters, autocommit=True)
        self.addCleanup(self.connection.close)
        self.sql(
            "INSERT INTO maildrop (name, state, epoch) "
            "VALUES ('ann', gen_random_uuid(), gen_random_uuid())"
        )
        self.objects = ObjectStore("memory:///", run=run)
        self.collector = Collector(self.database.execute, self.objects, GRACE)

    def sql(self, statement, *parameters):
        """Execute a statement as another program, and return its rows."""
        cursor = self.connection.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []

    async def stored(self):
        """Return the keys of the objects."""
        return {key async for page in self.objects.list_keys(-10) for key in page}

    async def put(self, *, due=None, message=False):
        """Store an object, which is due in so many seconds, or belongs to a message."""
        key = uuid4()
        await self.objects.put(key, b"x")
        if due is not None:
            self.sql(
                "INSERT INTO doomed (key, due) VALUES (%s, now() + %s * interval '1 second')",
                *(key, due),
            )
        if message:
            self.deliver(key)
        return key

    def deliver(self, key):
        """Add a message whose octets are in an object."""
        self.sql(DELIVER.replace("$1", "%s"), key)

    def doomed(self):
        """Return the keys in the table, with whether they are taken."""
        return dict(self.sql("SELECT key, taken FROM doomed"))


class CollectTests(CollectorCase):
    """The objects in the table are deleted when they are due."""

    async def test_collected(self):
        """Objects that are due are deleted, and their keys forgotten; the others stay."""
        self.patch(collector, "AT_ONCE", 2)
        for _ in range(5):
            await self.put(due=-1)
        later = await self.put(due=100)
        message = await self.put(message=True)
        shown = []
        self.assertEqual(self.collector.collected, 0)
        self.assertEqual(await self.collector.collect(shown.append), 5)
        self.assertEqual(shown, [2, 4, 5])
        self.assertEqual(self.collector.collected, 5)
        self.assertEqual(await self.stored(), {later, message})
        self.assertEqual(self.doomed(), {later: False})
        self.assertEqual(await self.collector.collect(), 0)

    async def test_missing(self):
        """A key that was reserved and not used is forgotten."""
        self.sql("INSERT INTO doomed (key, due) VALUES (%s, now() - interval '1 s')", uuid4())
        self.assertEqual(await self.collector.collect(), 1)
        self.assertEqual(self.doomed(), {})

    async def test_message(self):
        """The object of a message is not deleted, even if its key is in the table."""
        key = await self.put(due=-1, message=True)
        self.assertEqual(await self.collector.collect(), 0)
        self.assertEqual(await self.stored(), {key})

    async def test_stopped(self):
        """What a process has left that was killed is collected by another one, some time later."""
        key = await self.put(due=-1)

        async def killed(statement, parameters, **options):
            if statement == FORGET:
                raise Stopped
            return await self.database.execute(statement, parameters, **options)

        with self.assertRaises(Stopped):
            await Collector(killed, self.objects, GRACE).collect()
        self.assertEqual(self.doomed(), {key: True})
        self.assertEqual(await self.collector.collect(), 0)
        self.sql("UPDATE doomed SET due = now() - interval '1 s'")
        self.assertEqual(await self.collector.collect(), 1)
        self.assertEqual(self.doomed(), {})

    async def test_unavailable(self):
        """Objects that cannot be deleted are deleted later."""
        key = await self.put(due=-1)
        delete = self.objects.delete

        async def fail(keys):
            raise ObjectStoreUnavailable("broken")

        self.objects.delete = fail
        with self.assertRaises(ObjectStoreUnavailable):
            await self.collector.collect()
        self.objects.delete = delete
        self.assertEqual(self.doomed(), {key: True})
        self.sql("UPDATE doomed SET due = now() - interval '1 s'")
        self.assertEqual(await self.collector.collect(), 1)

    async def test_end(self):
        """A collection that is told to stop does so after the objects that it has taken."""
        self.patch(collector, "AT_ONCE", 2)
        for _ in range(5):
            await self.put(due=-1)
        self.assertEqual(await self.collector.collect(lambda number: self.collector.stop()), 2)
        self.assertEqual(list(self.doomed().values()), [False] * 3)


class UnknownTests(CollectorCase):
    """Objects are found that the database does not know."""

    async def setUp(self):
        """Compare all objects, however new."""
        await super().setUp()
        self.patch(collector, "AGE", -10)

    async def test_found(self):
        """An object in neither table is collected later, and no other."""
        unknown = await self.put()
        message = await self.put(message=True)
        doomed = await self.put(due=100)
        shown = []
        self.assertEqual(await self.collector.find_unknown(shown.append), 1)
        self.assertEqual(shown, [3])
        self.assertEqual(self.doomed(), {doomed: False, unknown: False})
        [(seconds,)] = self.sql(
            "SELECT extract(epoch FROM due - now()) FROM doomed WHERE key = %s", unknown
        )
        self.assertTrue(GRACE - 100 < seconds <= GRACE, seconds)
        self.assertEqual(await self.collector.collect(), 0)
        self.assertEqual(await self.stored(), {unknown, message, doomed})

    async def test_new(self):
        """An object may belong to a delivery, and is left alone, while its key can be reserved."""
        self.assertGreaterEqual(AGE, keys.RESERVED)
        self.patch(collector, "AGE", AGE)
        await self.put()
        self.assertEqual(await self.collector.find_unknown(), 0)
        self.assertEqual(self.doomed(), {})

    async def test_delivered_meanwhile(self):
        """An object is spared whose message is committed while the tables are compared."""
        key = await self.put()

        async def execute(statement, parameters, **options):
            rows = await self.database.execute(statement, parameters, **options)
            if statement == DOOM_UNKNOWN:
                # It did not see the message, which was not yet committed.
                self.sql("DELETE FROM doomed")
                self.deliver(key)
                self.sql("INSERT INTO doomed (key, due) VALUES (%s, now())", key)
            return rows

        await Collector(execute, self.objects, GRACE).find_unknown()
        self.assertEqual(self.doomed(), {})


class RaceTests(CollectorCase):
    """Collections at the same time as deliveries whose keys are due at once."""

    refused = 0

    async def race(self):
        """Deliver and collect; return the ids of the messages and those that were delivered."""
        self.patch(keys, "RESERVED", 0)
        self.patch(keys, "AT_ONCE", 3)
        self.patch(collector, "TAKEN", 0)
        is_over = []
        delivered = []

        async def deliver_some(objects):
            for _ in range(60):
                try:
                    uid = await deliver(
                        self.database.execute, b"ann", BytesIO(os.urandom(10)), run, objects
                    )
                except TryLater:
                    self.refused += 1
                else:
                    delivered.append(UUID(uid.decode()))

        async def collect():
            while not is_over:
                await self.collector.collect()
                await deferLater(reactor, 0)

        collecting = [Deferred.fromCoroutine(collect()) for _ in range(2)]
        execute = self.database.execute
        processes = [MessageObjects(execute, self.objects, 0, GRACE, Clock()) for _ in range(2)]
        await gatherResults(
            [Deferred.fromCoroutine(deliver_some(processes[number % 2])) for number in range(6)]
        )
        is_over.append(True)
        await gatherResults(collecting)
        return {key for (key,) in self.sql("SELECT id FROM message")}, delivered

    async def test_race(self):
        """No message is without its object, and each object has a message or is in the table."""
        messages, delivered = await self.race()
        self.assertEqual(messages, set(delivered))
        self.assertTrue(delivered)
        self.assertTrue(self.refused)
        stored = await self.stored()
        self.assertEqual(messages - stored, set())
        self.assertEqual(stored - messages - set(self.doomed()), set())
        await self.collector.collect()
        self.assertEqual(await self.stored(), messages)

    async def test_taken(self):
        """A delivery that used a key which is taken would be found: its object is missing."""
        careless = statements.DELIVER_OBJECT.replace(" AND NOT taken", "")
        self.assertNotEqual(careless, statements.DELIVER_OBJECT)
        self.patch(delivery, "DELIVER_OBJECT", careless)
        messages, _ = await self.race()
        self.assertNotEqual(messages - await self.stored(), set())


class FakeCollector:
    """A collector whose collections end when a test wants it."""

    def __init__(self):
        self.running = []
        self.is_stopped = False

    async def collect(self):
        """Wait for the test."""
        self.running.append(Deferred())
        await self.running[-1]

    def stop(self):
        """Remember it."""
        self.is_stopped = True


class RegularTests(SynchronousTestCase):
    """A process collects about once a minute."""

    def setUp(self):
        """Start."""
        self.clock = Clock()
        self.collector = FakeCollector()
        self.regular = RegularCollection(self.collector, self.clock, 60)
        self.regular.start()

    def test_stopped(self):
        """Nothing is collected after the end, which waits for what is under way."""
        self.clock.advance(90)
        stopping = Deferred.fromCoroutine(self.regular.stop())
        self.assertNoResult(stopping)
        self.assertTrue(self.collector.is_stopped)
        self.collector.running[0].callback(None)
        self.successResultOf(stopping)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.successResultOf(Deferred.fromCoroutine(self.regular.stop()))
