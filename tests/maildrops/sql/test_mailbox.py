"""popserv.maildrops.sql.mailbox, and how the store lists messages."""

from io import BytesIO
from unittest import mock

from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from popserv.core.user_settings import NO_SETTINGS, UnsupportedSettings, UserSettings
from popserv.database import DatabaseUnavailable, OutcomeUnknown
from popserv.errors import MaildropUnavailable, RemovalFailed, TryLater
from popserv.interfaces import (
    ICaching,
    IConfigurableStore,
    IFinalDelivery,
    IJointDelivery,
    IMessageDetails,
    IReadOnlyMailbox,
    IRetrievalRecord,
    IScanCounts,
    IStoppingStore,
    IUserListing,
)
from popserv.maildrops.sql import snapshots, statements, store, storing
from popserv.messages.details import NO_DETAILS, Flags, MessageDetails
from popserv.messages.downgrade.downgrader import Downgrader
from popserv.testing import read_all
from tests.maildrops.sql.harness import SQLCase, losing, raising, wait_for


class MailboxCase(SQLCase):
    """Tests with a store in which Ann has three messages."""

    settings = {}

    async def open(self, *messages, settings=NO_SETTINGS):
        """Deliver messages to Ann, and open her mailbox."""
        self.store = self.make_store(**self.settings)
        for message in messages:
            await self.deliver(self.store, b"ann", message)
        self.mailbox = await self.store.open_configured(b"ann", settings)
        return self.mailbox

    async def again(self, settings=NO_SETTINGS):
        """End the session, and begin another one."""
        await self.mailbox.release()
        self.database.executed.clear()
        self.mailbox = await self.store.open_configured(b"ann", settings)
        return self.mailbox

    async def octets(self):
        """Return the octets of the messages of a new session, which ends."""
        mailbox = await self.again()
        return list(mailbox.messages.octets)


class MailboxTests(MailboxCase):
    """What a session does with its messages."""

    async def test_interfaces(self):
        """The store and its mailboxes provide what they promise."""
        mailbox = await self.open()
        for interface in (
            *(ICaching, IConfigurableStore, IFinalDelivery),
            *(IScanCounts, IStoppingStore, IUserListing),
        ):
            self.assertTrue(verifyObject(interface, self.store))
        for interface in (IMessageDetails, IRetrievalRecord):
            self.assertTrue(verifyObject(interface, mailbox))
        await mailbox.release()

    async def test_unreadable(self):
        """A message that is damaged cannot be read, and the log says why; it can be removed."""
        mailbox = await self.open(b"1\n", b"2\n", b"3\n", b"4\n", b"5\n", b"6\n")
        for position, change in enumerate(
            (
                "UPDATE message SET form = 7 WHERE position = %s",
                "UPDATE message SET inline = false WHERE position = %s",
                "UPDATE body SET body = 'x' WHERE position = %s",
                "UPDATE body SET body = 'xx' WHERE position = %s",
                "DELETE FROM body WHERE position = %s",
            )
        ):
            self.sql(change, position + 1)
            with self.assertRaises(MaildropUnavailable) as refused:
                await mailbox.open(mailbox.messages[position])
            self.assertEqual(
                str(refused.exception), "message cannot be read, contact your administrator"
            )
            self.assertIn(str(mailbox.index.id(position)), str(refused.exception.__cause__))
        await mailbox.remove(mailbox.messages[:5])
        self.assertEqual(await self.octets(), [3])
        await self.mailbox.release()

    async def test_without_digest(self):
        """A message that was imported without a digest is read."""
        mailbox = await self.open(b"1\n")
        self.sql("UPDATE message SET digest = NULL")
        self.assertEqual(await read_all(await mailbox.open(mailbox.messages[0])), b"1\n")
        await mailbox.release()

    async def test_large(self):
        """A large message comes in chunks."""
        message = b"x" * 99 + b"\n"
        mailbox = await self.open(message * 2000)
        chunks = await mailbox.open(mailbox.messages[0])
        self.assertEqual(b"".join(chunks), message * 2000)
        self.assertLessEqual(max(map(len, chunks)), 100_000)
        await mailbox.release()

    async def test_nothing_marked(self):
        """A session that marks nothing needs neither the database nor its lock at QUIT."""
        mailbox = await self.open(b"1\n")
        self.sql("UPDATE maildrop SET holder = gen_random_uuid()")
        self.database.executed.clear()
        await mailbox.remove([])
        self.assertEqual(self.database.executed, [])
        await mailbox.release()

    async def test_recorded_after_failover(self):
        """A message that has got the place of a lost one does not count as read."""
        mailbox = await self.open(b"1\n", b"2\n")
        self.sql("UPDATE message SET id = gen_random_uuid() WHERE position = 2")
        await mailbox.record_retrieved(mailbox.messages)
        flags = self.sql("SELECT flags FROM message ORDER BY position")
        self.assertEqual(flags, [(1,), (0,)])
        await mailbox.release()

    async def test_removal_repeated(self):
        """A removal that is executed twice is one; what became of it later does not matter."""
        mailbox = await self.open(b"1\n", b"2\n")

        async def twice(execute):
            await execute()
            return await execute()

        self.database.faults[statements.REMOVE] = twice
        await mailbox.remove(mailbox.messages[:1])
        self.assertEqual(await self.octets(), [3])
        self.assertEqual(self.sql("SELECT position FROM body"), [(2,)])
        await self.mailbox.release()

    async def test_removal_unknown(self):
        """A removal of which nothing is known has failed."""
        mailbox = await self.open(b"1\n", b"2\n")
        for fault in (raising, losing):
            self.database.faults[statements.REMOVE] = fault(OutcomeUnknown())
            with self.assertRaises(RemovalFailed) as failed:
                await mailbox.remove(mailbox.messages)
            self.assertEqual(failed.exception.remaining, 2)
        await mailbox.release()

    async def test_objects_of_removed(self):
        """The objects of removed messages are to be deleted after a time, others not."""
        self.settings = {"grace": 1000}
        mailbox = await self.open(b"1\n", b"2\n", b"3\n")
        self.sql("UPDATE message SET inline = false WHERE position < 3")
        await mailbox.remove([mailbox.messages[0], mailbox.messages[2]])
        [(key, seconds)] = self.sql("SELECT key, extract(epoch FROM due - now()) FROM doomed")
        self.assertEqual(key, mailbox.index.id(0))
        self.assertTrue(900 < seconds <= 1000, seconds)
        await mailbox.release()

    async def test_removal_of_another(self):
        """A message that has another id than the session has seen is not removed."""
        mailbox = await self.open(b"1\n")
        self.sql("UPDATE message SET id = gen_random_uuid()")
        await mailbox.remove(mailbox.messages)
        self.assertEqual(await self.octets(), [3])
        await self.mailbox.release()

    async def test_last_retrieved(self):
        """LAST is not shown a message that has come since."""
        mailbox = await self.open(b"1\n", b"2\n")
        self.assertIsNone(await mailbox.last_retrieved())
        self.sql("UPDATE message SET flags = 1")
        await self.deliver(self.store, b"ann", b"3\n")
        self.sql("UPDATE message SET flags = 1")
        self.assertEqual(await mailbox.last_retrieved(), mailbox.messages[1])
        await mailbox.release()

    async def test_details(self):
        """Of a message that is removed meanwhile, nothing is known."""
        mailbox = await self.open(b"1\n", b"2\n")
        self.sql("UPDATE message SET delivered = to_timestamp(5), flags = 33")
        self.sql("DELETE FROM message WHERE position = 1")
        expected = [NO_DETAILS, MessageDetails(5, Flags.SEEN | Flags.FORWARDED)]
        self.assertEqual(await mailbox.details(), expected)
        await mailbox.release()

    async def test_users(self):
        """Users who have a maildrop are listed, also those without mail."""
        await (await self.open()).release()
        await self.deliver(self.store, b"bob\xff", b"x\n")
        self.assertEqual(await self.store.users(), [b"ann", b"bob\xff"])
        self.assertTrue(await self.store.has_maildrop(b"bob\xff", NO_SETTINGS))
        self.assertFalse(await self.store.has_maildrop(b"bob", NO_SETTINGS))
        self.database.faults[statements.USERS] = raising(DatabaseUnavailable())
        with self.assertRaises(OSError):
            await self.store.users()


class SchemaTests(SQLCase):
    """The schema of the database is that of this version."""

    async def test_schema(self):
        """Nothing is done until it is, and the log says what to do."""
        store = self.make_store()
        self.sql("ALTER TABLE schema_version RENAME TO other")
        for attempt in (
            store.open_maildrop(b"ann"),
            store.open_delivery(b"ann"),
            self.deliver(store, b"ann", b"x\n"),
            store.deliver_to_all([(b"ann", NO_SETTINGS)], BytesIO(b"x\n")),
            store.collect(lambda number: None),
            store.find_unknown(lambda number: None),
        ):
            with self.assertRaises(MaildropUnavailable) as refused:
                await attempt
            self.assertIn("popserv schema create", str(refused.exception.__cause__))
        with self.assertRaisesRegex(OSError, "popserv schema create"):
            await store.users()
        self.sql("ALTER TABLE other RENAME TO schema_version")
        await self.deliver(store, b"ann", b"x\n")
        self.database.executed.clear()
        await self.deliver(store, b"ann", b"x\n")
        self.assertEqual(self.database.executed, [statements.DELIVER])


class SettingsTests(MailboxCase):
    """What applies to one user."""

    async def test_read_only(self):
        """Nothing is removed or recorded in a maildrop that is read-only."""
        mailbox = await self.open(b"1\n", settings=UserSettings(read_only=True))
        self.assertTrue(verifyObject(IReadOnlyMailbox, mailbox))
        await mailbox.remove([])
        with self.assertRaises(RemovalFailed):
            await mailbox.remove(mailbox.messages)
        await mailbox.record_retrieved(mailbox.messages)
        self.assertIsNone(await mailbox.last_retrieved())
        self.assertEqual(await self.octets(), [3])
        await self.mailbox.release()

    async def test_unsupported(self):
        """Settings that would be ignored are refused, before anything is locked."""
        await (await self.open()).release()
        self.database.executed.clear()
        for settings in (UserSettings(maildrop=b"/x"), UserSettings(deleted="keep")):
            with self.assertRaises(UnsupportedSettings):
                await self.store.open_configured(b"ann", settings)
        self.assertEqual(self.database.executed, [])

    async def test_since(self):
        """Old messages are not shown; those whose time is not known are."""
        self.settings = {"since": 3600.0}
        await self.open(*(b"x" * octets + b"\n" for octets in range(5)))
        change = "UPDATE message SET delivered = now() - %s * interval '1 s' WHERE position = %s"
        for position, seconds in ((1, 7200), (3, 3700), (4, 3500)):
            self.sql(change, seconds, position)
        self.sql("UPDATE message SET delivered = to_timestamp(0) WHERE position = 2")
        self.assertEqual(await self.octets(), [3, 5, 6])
        mailbox = self.mailbox
        self.assertEqual(await read_all(await mailbox.open(mailbox.messages[1])), b"xxx\n")
        self.sql("UPDATE message SET flags = 1 WHERE position = 3")
        self.assertEqual(await mailbox.last_retrieved(), mailbox.messages[0])
        await mailbox.remove([mailbox.messages[1]])
        await self.again(UserSettings(since=36000.0))
        self.assertEqual(list(self.mailbox.messages.octets), [2, 3, 4, 6])
        self.sql("UPDATE message SET flags = (position = 1)::integer")
        await self.again()
        self.assertIsNone(await self.mailbox.last_retrieved())
        await self.mailbox.release()


class ListingTests(MailboxCase):
    """What is listed, and what is remembered."""

    async def listed(self):
        """Open the mailbox again, and return how many messages were listed for that."""
        before = self.store.scan_counts()[1]
        await self.again()
        return self.store.scan_counts()[1] - before

    async def test_added(self):
        """After a delivery, only the last message and the new ones are listed."""
        await self.open(*[b"x\n"] * 20)
        await self.deliver(self.store, b"ann", b"yy\n")
        self.assertEqual(await self.listed(), 2)
        self.assertEqual(list(self.mailbox.messages.octets), [3] * 20 + [4])
        self.assertEqual(await self.listed(), 0)
        await self.mailbox.remove(self.mailbox.messages[:1])
        self.assertEqual(await self.listed(), 20)
        await self.mailbox.release()
        self.assertEqual(self.store.cache_sizes(), {"maildrops": 1, "messages": 20})

    async def test_forgotten(self):
        """After a failover that has lost the last message, all are listed."""
        await self.open(b"1\n", b"22\n")
        before = self.sql("SELECT state, last - 1 FROM maildrop")[0]
        self.sql("DELETE FROM message WHERE position = 2")
        self.sql("DELETE FROM body WHERE position = 2")
        self.sql("UPDATE maildrop SET state = gen_random_uuid(), last = %s", before[1])
        self.assertEqual(await self.octets(), [3])
        await self.deliver(self.store, b"ann", b"333\n")
        self.assertEqual(await self.octets(), [3, 5])
        self.sql("DELETE FROM message WHERE position = 2")
        self.sql("DELETE FROM body WHERE position = 2")
        self.sql("UPDATE maildrop SET last = 1, state = gen_random_uuid()")
        await self.deliver(self.store, b"ann", b"4444\n")
        self.assertEqual(await self.listed(), 1 + 2)
        self.assertEqual(list(self.mailbox.messages.octets), [3, 6])
        await self.mailbox.release()

    async def test_delivered_meanwhile(self):
        """A message that comes between the two statements of a login is seen by the next one."""
        await (await self.open(b"1\n")).release()
        self.store = self.make_store()

        async def deliver_first(execute):
            await self.deliver(self.store, b"ann", b"22\n")
            return await execute()

        self.database.faults[statements.LIST] = deliver_first
        self.mailbox = await self.store.open_maildrop(b"ann")
        self.assertEqual(list(self.mailbox.messages.octets), [3])
        self.assertEqual(await self.octets(), [3, 4])
        await self.mailbox.release()

    async def test_uncertain(self):
        """A listing that took as long as a lease is remembered only if that was renewed."""
        clock = Clock()
        clock.advance(100)
        self.store = self.make_store(clock)
        await self.deliver(self.store, b"ann", b"1\n")

        async def sleep(execute, *faults):
            for _ in range(3):
                self.database.faults.update(faults)
                clock.advance(10)
                for pending in list(self.store._leases._pending):
                    await pending
            return await execute()

        async def sleep_without_renewal(execute):
            return await sleep(execute, (statements.RENEW_LEASES, raising(DatabaseUnavailable())))

        for listing, cached, listed in ((sleep_without_renewal, (0, 0), 1), (sleep, (1, 2), 0)):
            self.database.faults[statements.LIST] = listing
            self.mailbox = await self.store.open_maildrop(b"ann")
            self.assertEqual((*self.store.cache_sizes().values(),), cached)
            self.assertEqual(await self.listed(), listed)
            await self.mailbox.release()
            await self.deliver(self.store, b"ann", b"2\n")

    async def test_unavailable(self):
        """A login whose listing fails releases the lock."""
        for error in (DatabaseUnavailable, KeyError):
            await (await self.open(b"1\n")).release()
            self.store = self.make_store()
            self.database.faults[statements.LIST] = raising(error())
            with self.assertRaises(error if error is KeyError else TryLater):
                await self.store.open_maildrop(b"ann")
            for pending in list(self.store._leases._pending):
                await pending
            await (await self.store.open_maildrop(b"ann")).release()

    async def test_downgraded(self):
        """Only a server with UTF8 has the octets of downgraded forms."""
        messages = b"Subject: \xc3\xa9\n\nx\n", b"To: \xff@x\n\n", b"header alone\n", b"x\n\ny\n"
        for downgrader in (None, Downgrader):
            self.settings = {"downgrader": downgrader}
            self.sql("TRUNCATE maildrop, message, body")
            mailbox = await self.open()
            for message in messages:
                await self.deliver(self.store, b"ann", message)
            for _ in range(2):
                mailbox = await self.again()
                self.assertEqual(mailbox.messages.header_only, {2})
                self.assertEqual(bool(mailbox.messages.downgraded), downgrader is not None)
            await mailbox.release()

    async def test_many(self):
        """Many messages are decoded in a thread."""
        ran = []

        async def run(function, *args):
            ran.append(function)
            return function(*args)

        self.settings = {"run": run}
        with mock.patch.object(store, "_MANY", 2):
            await self.open(b"1\n", b"2\n")
            self.assertEqual(ran, [])
            for count in (3, 4):
                await self.deliver(self.store, b"ann", b"%d\n" % count)
                self.assertEqual(await self.octets(), [3] * count)
            self.assertEqual(ran, [snapshots.extend] * 2)
            await self.mailbox.release()


class DeliveryTests(MailboxCase):
    """New mail."""

    async def test_answer_lost(self):
        """A delivery whose answer was lost is looked up; it succeeds if it is there."""
        mailbox = await self.open()
        self.database.faults[statements.DELIVER] = losing(OutcomeUnknown())
        uid = await self.deliver(self.store, b"ann", b"1\n")
        self.database.faults[statements.DELIVER] = raising(OutcomeUnknown())
        with self.assertRaises(OutcomeUnknown):
            await self.deliver(self.store, b"ann", b"2\n")
        mailbox = await self.again()
        self.assertEqual(list(mailbox.messages.uids), [uid])
        await mailbox.release()

    async def check_under_way(self, statement, deliver):
        """A delivery is waited for whose connection breaks while it waits for its first row."""
        self.sql("DELETE FROM message")
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        late = []

        async def lose(execute):
            late.append(ensureDeferred(execute()))
            await wait_for(lambda: self.sql(waiting) == [(1,)], "the delivery")
            raise OutcomeUnknown

        self.database.faults[statement] = lose
        with self.connect() as holder, holder.transaction():
            holder.execute("SELECT FROM maildrop ORDER BY id LIMIT 1 FOR UPDATE")
            delivery = ensureDeferred(deliver)
            await wait_for(lambda: self.sql(waiting) == [(2,)] or delivery.called, "both")
        await delivery
        await gatherResults(late)

    async def test_under_way(self):
        """A delivery of which nothing is known is not refused as long as it is under way."""
        await (await self.open()).release()
        await self.to_all(self.store, b"1\n", b"ann", b"bob")
        await self.check_under_way(statements.DELIVER, self.deliver(self.store, b"ann", b"1\n"))
        self.assertEqual(self.sql("SELECT count(*) FROM message"), [(1,)])
        to_all = self.to_all(self.store, b"1\n", b"bob", b"ann")
        await self.check_under_way(statements.DELIVER_TO_ALL, to_all)
        self.assertEqual(self.sql("SELECT count(*) FROM message"), [(2,)])

    async def test_once(self):
        """A delivery is not repeated after a break: the message would be there twice."""
        await self.open()

        async def breaking(execute):
            if execute.keywords["repeat"]:
                await execute()
            return await execute()

        async def without_maildrop(execute):
            self.database.faults[statements.DELIVER] = breaking
            return await execute()

        for user, fault in ((b"ann", breaking), (b"bob", without_maildrop)):
            self.database.faults[statements.DELIVER] = fault
            await self.deliver(self.store, user, b"1\n")
        self.assertEqual(self.database.faults, {})
        self.assertEqual(self.sql("SELECT count(*) FROM message"), [(2,)])
        await self.mailbox.release()

    async def test_removed_maildrop(self):
        """A maildrop that somebody removes at the same time is tried again by the sender."""
        await (await self.open()).release()

        async def nothing(execute):
            return []

        self.database.faults[statements.CREATE] = nothing
        with self.assertRaises(TryLater):
            await self.deliver(self.store, b"bob", b"1\n")

    async def test_whole_file(self):
        """The message is what the file has from its start, however large it is."""
        await self.open()
        for most in (storing.MAX_IN_MEMORY, 1):
            self.patch(storing, "MAX_IN_MEMORY", most)
            file = BytesIO(b"1\n2\n")
            file.read()
            await self.store.deliver_new(b"ann", NO_SETTINGS, file)
        self.assertEqual(await self.octets(), [6, 6])
        await self.mailbox.release()

    async def to_all(self, store, message, *users):
        """Deliver a message to users."""
        await store.deliver_to_all([(user, NO_SETTINGS) for user in users], BytesIO(message))

    async def test_to_all(self):
        """All users get a message, each once, whether they have a maildrop or not."""
        await self.open(b"1\n")
        verifyObject(IJointDelivery, self.store)
        await self.to_all(self.store, b"2\n", b"bob", b"ann", b"bob")
        await self.mailbox.release()
        for user, messages in ((b"ann", [b"1\n", b"2\n"]), (b"bob", [b"2\n"])):
            mailbox = await self.store.open_maildrop(user)
            texts = [await read_all(await mailbox.open(each)) for each in mailbox.messages]
            await mailbox.release()
            self.assertEqual(texts, messages)

    async def test_to_all_or_none(self):
        """Nobody has a message if one maildrop is removed, or if the outcome says so."""
        await self.open()
        await self.mailbox.release()

        async def nothing(execute):
            return []

        self.database.faults[statements.CREATE] = nothing
        with self.assertRaises(TryLater):
            await self.to_all(self.store, b"1\n", b"ann", b"bob")
        self.database.faults[statements.DELIVER_TO_ALL] = raising(OutcomeUnknown())
        with self.assertRaises(TryLater):
            await self.to_all(self.store, b"1\n", b"ann", b"bob")
        self.assertEqual(self.sql("SELECT count(*) FROM message"), [(0,)])
        await self.to_all(self.store, b"1\n", b"ann", b"bob")
        self.database.faults[statements.DELIVER_TO_ALL] = losing(OutcomeUnknown())
        await self.to_all(self.store, b"1\n", b"ann", b"bob")
        self.assertEqual(self.sql("SELECT count(*) FROM message"), [(4,)])
        with self.assertRaises(UnsupportedSettings):
            await self.store.deliver_to_all(
                [(b"ann", NO_SETTINGS), (b"bob", UserSettings(maildrop=b"/x"))], BytesIO()
            )

    async def test_to_all_at_a_time(self):
        """Deliveries to the same users, in any order, wait for each other at most."""
        await self.open()
        await self.mailbox.release()
        users = [b"user%d" % number for number in range(10)]
        await self.to_all(self.store, b"0\n", *users)
        self.database.executed.clear()
        others = [self.make_store(connections=8) for _ in range(2)]
        await gatherResults(
            [
                ensureDeferred(self.to_all(store, b"1\n", *users[at:], *users[:at]))
                for store in others
                for at in range(len(users))
            ]
        )
        counts = self.sql("SELECT count(*), max(position) FROM message GROUP BY maildrop")
        self.assertEqual(counts, [(21, 21)] * len(users))

    async def test_maildrop_of_user(self):
        """A user whose mail should be elsewhere gets none here."""
        await (await self.open()).release()
        with self.assertRaises(UnsupportedSettings):
            await self.store.deliver_new(b"ann", UserSettings(maildrop=b"/x"), BytesIO())
