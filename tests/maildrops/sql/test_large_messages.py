"""Messages of the SQL store whose octets are in an object store."""

from popserv.database import OutcomeUnknown
from popserv.errors import TryLater
from popserv.interfaces import ICollectingStore
from popserv.maildrops.sql import collector, message_objects
from popserv.maildrops.sql.objects import ObjectStore
from popserv.maildrops.sql.statements import DELIVER_OBJECT
from popserv.testing import read_all
from tests.maildrops.sql.harness import SQLCase, losing, raising
from tests.maildrops.sql.object_contract import run
from tests.maildrops.sql.test_store import ContractTests

MESSAGE = b"Subject: x\n\n" + b"text\n" * 100


class ObjectContractTests(ContractTests):
    """The contract, with all messages in an object store."""

    def setUp(self):
        """Make an object store."""
        objects = ObjectStore("memory:///", run=run)
        self.settings = {"objects": objects, "inline": 0}
        return super().setUp()


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
        self.patch(message_objects, "PART", 1000)
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

    async def test_outcome(self):
        """A delivery whose answer is lost has succeeded if the message is there."""
        await self.deliver(self.store, b"ann", MESSAGE)
        self.database.faults[DELIVER_OBJECT] = losing(OutcomeUnknown())
        await self.deliver(self.store, b"ann", MESSAGE)
        self.database.faults[DELIVER_OBJECT] = raising(OutcomeUnknown())
        with self.assertRaises(OutcomeUnknown):
            await self.deliver(self.store, b"ann", MESSAGE)

    async def test_without(self):
        """A store without an object store collects nothing."""
        store = self.make_store()
        self.assertEqual(await store.collect(lambda number: None), 0)
        self.assertEqual(await store.find_unknown(lambda number: None), 0)
