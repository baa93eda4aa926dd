"""popserv.maildrops.sql.copying: messages with unique-ids from elsewhere."""

from twisted.logger import LogLevel, globalLogPublisher

from popserv.database import DatabaseUnavailable, OutcomeUnknown
from popserv.errors import DeliveryRefused, TryLater
from popserv.maildrops.sql import copying, statements
from popserv.messages.details import NO_DETAILS, Flags, MessageDetails
from popserv.testing import read_all
from popserv.testing.delivery_contract import body_of
from tests.maildrops.sql.harness import SQLCase, losing, raising


class CopyingTests(SQLCase):
    """What DeliveryContract does not test."""

    async def open(self):
        """Open a delivery to Ann."""
        self.store = self.make_store()
        return await self.store.open_delivery(b"ann")

    async def listed(self):
        """Return Ann's unique-ids and messages."""
        mailbox = await self.store.open_maildrop(b"ann")
        read = [await read_all(await mailbox.open(message)) for message in mailbox.messages]
        await mailbox.release()
        return dict(zip(mailbox.messages.uids, read, strict=True))

    async def test_invalid_unique_id(self):
        """A unique-id that clients cannot be sent is refused; one of 255 octets is not."""
        delivery = await self.open()
        for unique_id in (b"", b"a b", b"x" * 256):
            with self.assertRaises(DeliveryRefused):
                await delivery.deliver(unique_id, NO_DETAILS, body_of(b"1\n"))
        self.assertTrue(await delivery.deliver(b"x" * 255, NO_DETAILS, body_of(b"1\n")))
        await delivery.commit()
        await delivery.release()
        self.assertEqual(await self.listed(), {b"x" * 255: b"1\n"})

    async def test_no_warning(self):
        """What is wrong with the database as a whole is no problem of a user."""
        warnings = []
        globalLogPublisher.addObserver(warnings.append)
        self.addCleanup(globalLogPublisher.removeObserver, warnings.append)
        await (await self.open()).release()
        source = self.make_store()
        self.assertEqual(await source.users(), [b"ann"])
        await (await source.open_maildrop(b"ann")).release()
        self.assertEqual([each for each in warnings if each["log_level"] >= LogLevel.warn], [])
        await (await self.make_store().open_maildrop(b"ann")).release()
        problems = [each for each in warnings if each["log_level"] >= LogLevel.warn]
        self.assertIn("synchronous_standby_names", problems[0]["problem"])

    async def test_batches(self):
        """Messages are written in several statements if they are large, and each once."""
        self.patch(copying, "_BATCH_OCTETS", 10)
        delivery = await self.open()
        messages = {b"%d" % at: b"x" * octets for at, octets in enumerate((4, 6, 1, 20, 3, 7, 3))}
        for unique_id, message in messages.items():
            await delivery.deliver(unique_id, NO_DETAILS, body_of(message))
        self.database.executed.clear()
        await delivery.commit()
        await delivery.release()
        self.assertEqual(self.database.executed.count(statements.COPY), 5)
        self.assertEqual(list((await self.listed()).items()), list(messages.items()))

    async def test_together(self):
        """Small messages are written by one statement."""
        delivery = await self.open()
        for number in range(100):
            await delivery.deliver(b"%d" % number, NO_DETAILS, body_of(b"%d\n" % number))
        self.database.executed.clear()
        await delivery.commit()
        await delivery.release()
        copied = [statements.COPY, statements.RELEASE_LEASES]
        self.assertEqual(self.database.executed, copied)
        self.assertEqual(len(await self.listed()), 100)

    async def test_repeated(self):
        """A statement that is executed twice adds the messages once."""

        async def twice(execute):
            await execute()
            return await execute()

        delivery = await self.open()
        for unique_id in (b"1", b"2"):
            await delivery.deliver(unique_id, NO_DETAILS, body_of(unique_id))
        self.database.faults[statements.COPY] = twice
        await delivery.commit()
        await delivery.release()
        self.assertEqual(await self.listed(), {b"1": b"1", b"2": b"2"})
        self.assertEqual(self.sql("SELECT count(*) FROM body"), [(2,)])

    async def test_unavailable(self):
        """What is not known to be written is written by the next attempt, once."""
        for fault, error in ((raising, DatabaseUnavailable()), (losing, OutcomeUnknown())):
            self.sql("TRUNCATE maildrop, message, body")
            delivery = await self.open()
            await delivery.deliver(b"1", MessageDetails(5.25, Flags.FLAGGED), body_of(b"1"))
            self.database.faults[statements.COPY] = fault(error)
            with self.assertRaises(TryLater):
                await delivery.commit()
            await delivery.commit()
            await delivery.release()
            self.assertEqual(await self.listed(), {b"1": b"1"})
            [(delivered, flags)] = self.sql(
                "SELECT extract(epoch FROM delivered)::float8, flags FROM message"
            )
            self.assertEqual((delivered, flags), (5.25, 4))

    async def test_lost(self):
        """Without the lock nothing is written."""
        delivery = await self.open()
        await delivery.deliver(b"1", NO_DETAILS, body_of(b"1"))
        self.sql("UPDATE maildrop SET holder = gen_random_uuid()")
        with self.assertRaises(TryLater):
            await delivery.commit()
        await delivery.release()
        self.assertEqual(self.sql("SELECT count(*) FROM message"), [(0,)])
