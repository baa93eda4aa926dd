"""Messages of the SQL store whose octets are in an object store."""

from io import BytesIO
from uuid import UUID

from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.internet.task import Clock

from popserv.core.user_settings import NO_SETTINGS
from popserv.database import DatabaseUnavailable, OutcomeUnknown
from popserv.errors import TryLater
from popserv.interfaces import ICollectingStore
from popserv.maildrops.sql import bucket, collector, message_objects
from popserv.maildrops.sql.keys import RESERVE
from popserv.maildrops.sql.objects import ObjectStore
from popserv.maildrops.sql.statements import COPY, CREATE, DELIVER_OBJECT
from popserv.messages.details import NO_DETAILS
from popserv.testing import read_all
from popserv.testing.delivery_contract import body_of
from tests.maildrops.sql.harness import SQLCase, losing, raising, wait_for
from tests.maildrops.sql.object_contract import run
from tests.maildrops.sql.test_store import (
    ContractTests,
    DeliveryContractTests,
    NewMailContractTests,
)

MESSAGE = b"Subject: x\n\n" + b"text\n" * 100


class ObjectContractTests(ContractTests):
    """The contract, with all messages in an object store."""

    def setUp(self):
        """Make an object store."""
        objects = ObjectStore("memory:///", run=run)
        self.settings = {"objects": objects, "inline": 0}
        return SQLCase.setUp(self)


class ObjectDeliveryContractTests(DeliveryContractTests):
    """The contract of deliveries with unique-ids, likewise."""

    setUp = ObjectContractTests.setUp


class ObjectNewMailContractTests(NewMailContractTests):
    """The contract of new mail, likewise."""

    setUp = ObjectContractTests.setUp


class LargeMessageTests(SQLCase):
    """Large messages are in an object store, others in the database."""

    async def setUp(self):
        """Make a store."""
        await super().setUp()
        self.objects = ObjectStore("memory:///", run=run)
        self.store = self.make_store(objects=self.objects, inline=100, grace=0)

    async def keys(self):
        """Return the hexadecimal keys of the objects."""
        return {key.hex.encode() async for page in self.objects.list_keys(-10) for key in page}

    async def read(self, user):
        """Return the messages of a user."""
        mailbox = await self.store.open_maildrop(user)
        texts = [await read_all(await mailbox.open(each)) for each in mailbox.messages]
        await mailbox.release()
        return texts

    async def test_inline(self):
        """What is longer than ``inline`` octets is an object, with the unique-id as key."""
        await self.deliver(self.store, b"ann", b"\n" * 100)
        large = await self.deliver(self.store, b"ann", b"\n" * 101)
        self.assertEqual(await self.keys(), {large})
        self.assertEqual(await self.read(b"ann"), [b"\n" * 100, b"\n" * 101])
        self.patch(bucket, "PART", 500)
        await self.deliver(self.store, b"ann", b"\n" * 1001)
        self.assertEqual((await self.read(b"ann"))[2], b"\n" * 1001)

    async def test_removed(self):
        """An object is collected after its message was removed, and no other."""
        self.assertTrue(ICollectingStore.providedBy(self.store))
        for _ in range(2):
            kept = await self.deliver(self.store, b"ann", MESSAGE)
        mailbox = await self.store.open_maildrop(b"ann")
        await mailbox.remove(mailbox.messages[:1])
        await mailbox.release()
        self.assertEqual(await self.store.collect(lambda number: None), 1)
        self.assertEqual(await self.keys(), {kept})
        self.patch(collector, "AGE", -10)
        await self.objects.put(message_objects.new_id(), b"x")
        self.assertEqual(await self.store.find_unknown(lambda number: None), 1)
        self.assertEqual(await self.read(b"ann"), [MESSAGE])

    async def test_collected_regularly(self):
        """From the first delivery on, objects are removed about once a minute, until the end."""
        clock = Clock()
        store = self.make_store(clock, objects=self.objects, inline=100, grace=0)
        await self.deliver(store, b"ann", MESSAGE)
        mailbox = await store.open_maildrop(b"ann")
        await mailbox.remove(mailbox.messages)
        await mailbox.release()
        clock.advance(29)
        self.assertEqual(len(await self.keys()), 1)
        clock.advance(61)
        await wait_for(lambda: store.counts()["collected"] == 1, "the removal")
        self.assertEqual(await self.keys(), set())
        await store.stop()
        with self.assertRaises(TryLater):
            await store.open_maildrop(b"ann")
        self.assertEqual(clock.getDelayedCalls(), [])

    async def test_taken(self):
        """A delivery is refused whose key was taken by a collection; nothing is left of it."""
        await self.deliver(self.store, b"ann", MESSAGE)
        [kept] = await self.keys()
        self.sql("UPDATE doomed SET taken = true")
        with self.assertRaises(TryLater):
            await self.deliver(self.store, b"ann", MESSAGE)
        self.assertEqual(await self.keys(), {kept})
        await self.deliver(self.store, b"ann", MESSAGE)
        self.assertEqual(len(await self.read(b"ann")), 2)

    async def test_refused_inline(self):
        """The refusal of a message in the database asks nothing of the object store."""

        async def nothing(execute):
            return []

        deleted = []
        self.patch(self.objects, "delete", deleted.append)
        self.database.faults[CREATE] = nothing
        with self.assertRaises(TryLater):
            await self.deliver(self.store, b"bob", b"1\n")
        self.assertEqual(deleted, [])

    async def test_to_all(self):
        """A message to several users is an object for each; without one key nobody gets it."""
        recipients = [(user, NO_SETTINGS) for user in (b"ann", b"bob")]
        await self.store.deliver_to_all(recipients, BytesIO(MESSAGE))
        self.assertEqual((len(await self.keys()), self.doomed()), (2, 0))
        for user in (b"ann", b"bob"):
            self.assertEqual(await self.read(user), [MESSAGE])
        key = self.store._objects._keys._keys[-1]
        self.sql("UPDATE doomed SET taken = true WHERE key = %s", key)
        with self.assertRaises(TryLater):
            await self.store.deliver_to_all(recipients, BytesIO(MESSAGE))
        self.assertEqual(len(await self.keys()), 2)
        await self.store.deliver_to_all(recipients[1:], BytesIO(MESSAGE))
        self.assertEqual(len(await self.read(b"ann")), 1)
        self.assertEqual(len(await self.read(b"bob")), 2)

    async def test_outcome(self):
        """A delivery whose answer is lost has succeeded if the message is there."""
        await self.deliver(self.store, b"ann", MESSAGE)
        self.database.faults[DELIVER_OBJECT] = losing(OutcomeUnknown())
        await self.deliver(self.store, b"ann", MESSAGE)
        self.database.faults[DELIVER_OBJECT] = raising(OutcomeUnknown())
        with self.assertRaises(OutcomeUnknown):
            await self.deliver(self.store, b"ann", MESSAGE)

    async def copy(self, *messages, release=True):
        """Copy messages to Ann that have their texts as unique-ids; return the delivery."""
        delivery = await self.store.open_delivery(b"ann")
        for each in messages:
            await delivery.deliver(b"%d" % len(each), NO_DETAILS, body_of(each))
        await delivery.commit()
        if release:
            await delivery.release()
        return delivery

    def doomed(self):
        """Return how many of the objects in the table doomed have octets."""
        return self.sql("SELECT count(*) FROM doomed JOIN message ON key = id")[0][0]

    async def test_copied(self):
        """What is copied is an object as well if it is long; a repeated statement adds nothing."""
        messages = [b"\n" * octets for octets in (100, 101, 5000, 3)]

        async def twice(execute):
            await execute()
            return await execute()

        self.database.faults[COPY] = twice
        await self.copy(*messages)
        await self.copy(*messages)
        self.assertEqual(await self.read(b"ann"), messages)
        self.assertEqual((len(await self.keys()), self.doomed()), (2, 0))
        self.assertEqual(self.sql("SELECT count(*) FROM body"), [(2,)])

    async def test_copy_interrupted(self):
        """Objects of a copy that was not committed are doomed, and it can be repeated."""
        delivery = await self.store.open_delivery(b"ann")
        await delivery.deliver(b"1", NO_DETAILS, body_of(MESSAGE))
        await delivery.release()
        [left] = await self.keys()
        await self.copy(MESSAGE)
        self.assertEqual(await self.read(b"ann"), [MESSAGE])
        self.sql("UPDATE doomed SET due = now() - interval '1 second'")
        await self.store.collect(lambda number: None)
        self.assertEqual(len(await self.keys()), 1)
        self.assertNotIn(left, await self.keys())

    async def test_copy_refused(self):
        """Without the reservation of one key nothing is added, and the order stays."""
        messages = [MESSAGE, b"x\n", MESSAGE + b"\n"]
        delivery = await self.store.open_delivery(b"ann")
        for each in messages:
            await delivery.deliver(b"%d" % len(each), NO_DETAILS, body_of(each))
        [key, other] = await self.keys()
        self.sql("UPDATE doomed SET taken = true WHERE key = %s", UUID(key.decode()))
        with self.assertRaises(TryLater) as raised:
            await delivery.commit()
        self.assertIn("copy them again", str(raised.exception.__cause__))
        await delivery.release()
        # The object of the other key is collected when its reservation is over.
        self.assertEqual((await self.read(b"ann"), await self.keys()), ([], {other}))
        await self.copy(*messages)
        self.assertEqual(await self.read(b"ann"), messages)

    async def race(self, execute):
        """Execute a statement twice at a time, and return what the second one says.

        So it is when the connection of the first one breaks, and the server goes on with it.
        """
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        with self.connection.transaction():
            self.sql("SELECT FROM maildrop FOR UPDATE")
            running = [ensureDeferred(execute()) for _ in range(2)]
            with self.connect() as other:
                await wait_for(lambda: other.execute(waiting).fetchone() == (2,), "both")
        self.second = sorted(await gatherResults(running))[1]
        return self.second

    async def test_copy_race(self):
        """Two executions at a time, of which the second has an older view, are one copy."""
        messages = [MESSAGE, b"x\n"]
        self.database.faults[COPY] = self.race
        await self.copy(*messages)
        self.assertEqual(self.second, [(True,)])
        self.assertEqual(await self.read(b"ann"), messages)

    async def test_copy_partly_there(self):
        """If keys are forgotten, the objects of messages that are there are kept."""
        delivery = await self.store.open_delivery(b"ann")
        await delivery.deliver(b"1", NO_DETAILS, body_of(MESSAGE))
        self.database.faults[COPY] = losing(OutcomeUnknown())
        with self.assertRaises(OutcomeUnknown):
            await delivery.commit()
        [there] = await self.keys()
        await delivery.deliver(b"2", NO_DETAILS, body_of(MESSAGE))
        self.sql("UPDATE doomed SET taken = true")
        with self.assertRaises(TryLater):
            await delivery.commit()
        await delivery.release()
        self.assertEqual(await self.keys(), {there})
        self.assertEqual(await self.read(b"ann"), [MESSAGE])

    async def test_copy_unavailable(self):
        """Without the object store a copy ends, so that no message is left out."""
        delivery = await self.store.open_delivery(b"ann")
        caused = DatabaseUnavailable()
        caused.__cause__ = OSError("no route")
        for error, reason in ((caused, "no route"), (DatabaseUnavailable(), "try again later")):
            self.database.faults[RESERVE] = raising(error)
            with self.assertRaisesRegex(OSError, f"^messages cannot be stored: .*{reason}"):
                await delivery.deliver(b"1", NO_DETAILS, body_of(MESSAGE))
        await delivery.deliver(b"1", NO_DETAILS, body_of(MESSAGE))
        await delivery.commit()
        await delivery.release()
        self.assertEqual(await self.read(b"ann"), [MESSAGE])

    async def test_without(self):
        """A store without an object store collects nothing."""
        store = self.make_store()
        self.assertEqual(await store.collect(lambda number: None), 0)
        self.assertEqual(await store.find_unknown(lambda number: None), 0)
