"""popserv.maildrops.sql.leases: the locks of sessions."""

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.logger import globalLogPublisher

from popserv.database import DatabaseUnavailable, OutcomeUnknown
from popserv.errors import LoginTooSoon, MaildropBusy, RemovalFailed, TryLater
from popserv.maildrops.sql import statements
from popserv.maildrops.sql.leases import GATHERING, PAUSE
from popserv.testing import read_all
from tests.maildrops.sql.harness import SQLCase, losing, raising


class LeaseTests(SQLCase):
    """A lease is taken, renewed and released; who has lost it removes nothing."""

    async def setUp(self):
        """Make two stores, the first of which has a clock of the test for its leases."""
        await super().setUp()
        self.clock = Clock()
        self.other = self.make_store()
        self.store = self.make_store(self.clock)
        self.logged = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)

    def warnings(self):
        """Return the texts of the warnings of leases."""
        return [
            event["log_format"]
            for event in self.logged
            if event.get("log_namespace") == "popserv.maildrops.sql.leases"
        ]

    def expire(self):
        """Let all leases expire by the database's clock."""
        self.sql("UPDATE maildrop SET expires = now() - interval '1 second'")

    async def renew(self, seconds=10):
        """Let the time come when leases are renewed, and wait until they are."""
        self.clock.advance(seconds)
        for pending in list(self.store._leases._pending):
            await pending

    async def released(self):
        """Let the time come when the leases of sessions that have ended are released."""
        await self.renew(GATHERING)

    async def freed(self):
        """Wait until no maildrop is locked."""
        while self.sql("SELECT id FROM maildrop WHERE holder IS NOT NULL"):
            await deferLater(reactor, 0.01)

    async def open(self, user):
        """Open a maildrop in the first store; the time passes that a login waits."""
        opening = Deferred.fromCoroutine(self.store.open_maildrop(user))
        while not opening.called:
            self.clock.advance(PAUSE)
            await deferLater(reactor, 0.01)
        return await opening

    async def test_statements(self):
        """A login into a maildrop that has not changed is one statement."""
        await self.deliver(self.store, b"ann", b"x\n")
        for expected in ([statements.TAKE_LEASE, statements.LIST], [statements.TAKE_LEASE]):
            self.database.executed.clear()
            mailbox = await self.store.open_maildrop(b"ann")
            await mailbox.release()
            self.assertEqual(self.database.executed, expected)

    async def test_released(self):
        """The sessions that end in a hundredth of a second are released by one statement."""
        names = b"ann", b"bob", b"eve"
        mailboxes = [await self.store.open_maildrop(name) for name in names]
        self.database.executed.clear()
        for mailbox in mailboxes[:2]:
            await mailbox.release()
        self.assertEqual(self.database.executed, [])
        await self.released()
        self.assertEqual(self.database.executed, [statements.RELEASE_LEASES])
        for name in names[:2]:
            await (await self.other.open_maildrop(name)).release()
        with self.assertRaises(MaildropBusy):
            await self.other.open_maildrop(b"eve")
        await mailboxes[2].release()
        await self.released()

    async def test_reopened(self):
        """A login after the end of a session in the same process gets the maildrop from it."""
        mailbox = await self.store.open_maildrop(b"ann")
        await mailbox.release()
        self.database.executed.clear()
        mailbox = await self.store.open_maildrop(b"ann")
        await self.released()
        self.assertEqual(self.database.executed, [statements.TAKE_LEASE])
        with self.assertRaises(MaildropBusy):
            await self.other.open_maildrop(b"ann")
        await mailbox.release()

    async def test_reopened_meanwhile(self):
        """A login while the lock is being released gets the maildrop."""
        mailbox = await self.store.open_maildrop(b"ann")
        await mailbox.release()
        answered = Deferred()

        async def wait(execute):
            await answered
            return await execute()

        self.database.faults[statements.RELEASE_LEASES] = wait
        self.clock.advance(GATHERING)
        mailbox = await self.store.open_maildrop(b"ann")
        answered.callback(None)
        await self.released()
        with self.assertRaises(MaildropBusy):
            await self.other.open_maildrop(b"ann")
        await mailbox.release()

    async def test_not_reopened(self):
        """A login that fails leaves the lock of the session before it to be released."""
        for error in (DatabaseUnavailable, OutcomeUnknown):
            mailbox = await self.store.open_maildrop(b"ann")
            await mailbox.release()
            self.database.faults[statements.TAKE_LEASE] = raising(error())
            with self.assertRaises(error):
                await self.store.open_maildrop(b"ann")
            await self.released()
            self.assertEqual(self.sql("SELECT holder FROM maildrop"), [(None,)])

    async def test_reopened_later(self):
        """A login that has to wait still gets the maildrop of the session that has ended."""

        async def refused(_execute):
            return []

        mailbox = await self.store.open_maildrop(b"ann")
        await mailbox.release()
        for statement in (statements.TAKE_LEASE, statements.CREATE_WITH_LEASE):
            self.database.faults[statement] = refused
        mailbox = await self.open(b"ann")
        await mailbox.release()

    async def test_reopened_elsewhere(self):
        """A login in another process waits for the end of a session."""
        mailbox = await self.other.open_maildrop(b"ann")
        opening = Deferred.fromCoroutine(self.store.open_maildrop(b"ann"))
        while not self.waits():
            await deferLater(reactor, 0.01)
        await mailbox.release()
        await self.freed()
        self.clock.advance(PAUSE)
        mailbox = await opening
        await mailbox.release()

    def waits(self):
        """Return whether a login waits for the end of a session."""
        return bool(self.clock.getDelayedCalls())

    async def test_both_ended(self):
        """A session that has lost its lease to another one of its process keeps nothing locked."""
        for is_first in (True, False):
            lost = await self.store.open_maildrop(b"ann")
            self.expire()
            mailbox = await self.store.open_maildrop(b"ann")
            for each in (lost, mailbox) if is_first else (mailbox, lost):
                await each.release()
            await self.released()
            self.assertEqual(self.sql("SELECT holder FROM maildrop"), [(None,)])

    async def test_locked_row(self):
        """A row that another transaction has locked keeps no other maildrop locked."""
        names = b"ann", b"bob"
        mailboxes = [await self.store.open_maildrop(name) for name in names]
        for mailbox in mailboxes:
            await mailbox.release()
        holders = "SELECT holder IS NULL FROM maildrop ORDER BY name"
        with self.connection.transaction():
            self.sql("SELECT FROM maildrop WHERE name = 'ann' FOR UPDATE")
            self.clock.advance(GATHERING)
            while self.sql(holders) != [(False,), (True,)]:
                await deferLater(reactor, 0.01)
        for pending in list(self.store._leases._pending):
            await pending
        self.assertEqual(self.sql(holders), [(True,), (True,)])
        self.assertEqual(self.warnings(), [])

    async def test_login_delay(self):
        """A login on any host is refused until the delay since the last one has passed."""
        for store in (self.store, self.other):
            store.login_delay = 60
        await self.deliver(self.store, b"known", b"x\n")
        for user, expected in (
            (b"new", [statements.TAKE_LEASE, statements.CREATE_WITH_LEASE]),
            (b"known", [statements.TAKE_LEASE]),
        ):
            self.database.executed.clear()
            await (await self.store.open_maildrop(user)).release()
            await self.released()
            self.assertEqual(self.database.executed[: len(expected)], expected)
            self.assertNotIn(statements.LOGIN_DELAY, self.database.executed)
            for seconds, text in ((0, "60 seconds"), (58.5, "2 seconds"), (59.5, "1 second")):
                self.sql("UPDATE maildrop SET login = now() - %s * interval '1 second'", seconds)
                with self.assertRaises(LoginTooSoon) as refused:
                    await self.other.open_maildrop(user)
                self.assertIn(f"wait {text}", str(refused.exception.text))
            self.sql("UPDATE maildrop SET login = now() - interval '60 seconds'")
            mailbox = await self.other.open_maildrop(user)
            self.sql("UPDATE maildrop SET login = now() - interval '60 seconds'")
            with self.assertRaises(MaildropBusy):
                await self.open(user)
            await mailbox.release()

    async def test_login_delay_clock(self):
        """If the clock of the database was set back, nobody has to wait for it."""
        self.store.login_delay = 60
        await (await self.store.open_maildrop(b"ann")).release()
        self.sql("UPDATE maildrop SET login = now() + interval '1 hour'")
        await (await self.store.open_maildrop(b"ann")).release()
        with self.assertRaises(LoginTooSoon):
            await self.store.open_maildrop(b"ann")

    async def test_login_delay_repeated(self):
        """A login that is executed twice is one, and not too soon after itself."""
        self.store.login_delay = 60
        self.database.faults[statements.CREATE_WITH_LEASE] = twice
        await (await self.store.open_maildrop(b"ann")).release()
        self.sql("UPDATE maildrop SET login = NULL")
        self.database.faults[statements.TAKE_LEASE] = twice
        await (await self.store.open_maildrop(b"ann")).release()

    async def test_no_login(self):
        """A copy of mail is no login, and a server without a delay remembers none."""
        await (await self.store.open_maildrop(b"ann")).release()
        self.store.login_delay = 60
        for _ in range(2):
            await (await self.store.open_delivery(b"ann")).release()
        self.assertEqual(self.sql("SELECT login FROM maildrop"), [(None,)])

    async def test_expired(self):
        """A lease that has expired is another's; the first session reads, and removes nothing."""
        await self.deliver(self.store, b"ann", b"x\n")
        mailbox = await self.store.open_maildrop(b"ann")
        self.expire()
        others = await self.other.open_maildrop(b"ann")
        self.assertEqual(await read_all(await mailbox.open(mailbox.messages[0])), b"x\n")
        with self.assertRaises(RemovalFailed) as failed:
            await mailbox.remove(mailbox.messages)
        self.assertEqual(failed.exception.remaining, 1)
        await mailbox.release()
        with self.assertRaises(MaildropBusy):
            await self.open(b"ann")
        await others.remove(others.messages)
        await others.release()

    async def test_expired_alone(self):
        """If nobody has come, a session whose lease has expired removes its messages."""
        await self.deliver(self.store, b"ann", b"x\n")
        mailbox = await self.store.open_maildrop(b"ann")
        self.expire()
        await mailbox.remove(mailbox.messages)
        await mailbox.release()
        self.assertEqual(self.sql("SELECT count(*) FROM message"), [(0,)])

    async def test_renewed(self):
        """All sessions are renewed by one statement, but those that have just begun."""
        mailbox = await self.store.open_maildrop(b"ann")
        bobs = await self.store.open_maildrop(b"bob")
        self.expire()
        self.database.executed.clear()
        await self.renew()
        self.assertEqual(self.database.executed, [statements.RENEW_LEASES])
        with self.assertRaises(MaildropBusy):
            await self.other.open_maildrop(b"ann")
        self.clock.advance(8)
        await bobs.release()
        bobs = await self.store.open_maildrop(b"bob")
        self.expire()
        await self.renew(2)
        with self.assertRaises(MaildropBusy):
            await self.other.open_maildrop(b"ann")
        await (await self.other.open_maildrop(b"bob")).release()
        await mailbox.release()
        await bobs.release()
        self.assertEqual(self.warnings(), [])

    async def test_timer(self):
        """Without a session there is nothing to renew, and no timer; a young one waits."""
        await (await self.store.open_maildrop(b"ann")).release()
        self.clock.advance(8)
        mailbox = await self.store.open_maildrop(b"bob")
        self.database.executed.clear()
        await self.renew(2)
        self.assertEqual(self.database.executed, [])
        await mailbox.release()
        self.clock.advance(10)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_lost(self):
        """A renewal that finds another holder says so once."""
        mailbox = await self.store.open_maildrop(b"ann")
        self.expire()
        others = await self.other.open_maildrop(b"ann")
        await self.renew()
        await self.renew()
        self.assertEqual(len(self.warnings()), 1)
        self.assertIn("has lost the lock", self.warnings()[0])
        self.database.executed.clear()
        await mailbox.release()
        await self.released()
        self.assertEqual(self.database.executed, [])
        with self.assertRaises(MaildropBusy):
            await self.open(b"ann")
        await others.release()

    async def test_lost_at_stop(self):
        """The end of the process releases nothing that another session has."""
        await self.store.open_maildrop(b"ann")
        self.expire()
        others = await self.other.open_maildrop(b"ann")
        await self.renew()
        self.database.executed.clear()
        await self.store.stop()
        self.assertEqual(self.database.executed, [])
        await others.release()

    async def test_released_while_renewed(self):
        """A session that ends during a renewal has not lost its lock."""
        mailbox = await self.store.open_maildrop(b"ann")

        async def release_first(execute):
            await mailbox.release()
            self.clock.advance(GATHERING)
            await self.freed()
            return await execute()

        self.database.faults[statements.RENEW_LEASES] = release_first
        await self.renew()
        self.assertEqual(self.warnings(), [])

    async def test_not_renewed(self):
        """A database that does not answer is asked again at the next time."""
        mailbox = await self.store.open_maildrop(b"ann")
        self.database.faults[statements.RENEW_LEASES] = raising(DatabaseUnavailable())
        await self.renew()
        self.assertIn("cannot be renewed now", self.warnings()[0])
        self.expire()
        await self.renew()
        with self.assertRaises(MaildropBusy):
            await self.other.open_maildrop(b"ann")
        await mailbox.release()

    async def test_failing_renewal(self):
        """A renewal that fails for another reason is logged, and the next one comes."""
        mailbox = await self.store.open_maildrop(b"ann")
        self.database.faults[statements.RENEW_LEASES] = raising(KeyError(1))
        await self.renew()
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        await mailbox.release()

    async def test_unanswered_login(self):
        """A login that may have been executed is released in the background."""
        for fault in (raising, losing):
            for statement, user in (
                (statements.TAKE_LEASE, b"ann"),
                (statements.CREATE_WITH_LEASE, b"bob%d" % id(fault)),
            ):
                await (await self.open(b"ann")).release()
                self.database.faults[statement] = fault(OutcomeUnknown())
                with self.assertRaises(TryLater):
                    await self.store.open_maildrop(user)
                await self.released()
                await (await self.other.open_maildrop(user)).release()
                await self.freed()

    async def test_unavailable(self):
        """A login that was not executed is only refused."""
        await (await self.store.open_maildrop(b"ann")).release()
        self.database.executed.clear()
        self.database.faults[statements.TAKE_LEASE] = raising(DatabaseUnavailable())
        with self.assertRaises(TryLater):
            await self.store.open_maildrop(b"ann")
        self.assertEqual(self.database.executed, [statements.TAKE_LEASE])

    async def test_unreleased(self):
        """A session whose end the database does not notice ends without an error."""
        mailbox = await self.store.open_maildrop(b"ann")
        self.database.faults[statements.RELEASE_LEASES] = raising(DatabaseUnavailable())
        await mailbox.release()
        await self.released()
        self.assertIn("may stay locked", self.warnings()[0])

    async def test_repeated_creation(self):
        """A first login that is executed twice is one."""
        self.database.faults[statements.CREATE_WITH_LEASE] = twice
        mailbox = await self.store.open_maildrop(b"ann")
        with self.assertRaises(MaildropBusy):
            await self.other.open_maildrop(b"ann")
        await mailbox.release()

    async def test_stop(self):
        """The end of the process releases the locks of its sessions by one statement."""
        mailboxes = [await self.store.open_maildrop(name) for name in (b"ann", b"bob")]
        self.database.executed.clear()
        await self.store.stop()
        self.assertEqual(self.database.executed, [statements.RELEASE_LEASES])
        for name, mailbox in zip((b"ann", b"bob"), mailboxes, strict=True):
            await (await self.other.open_maildrop(name)).release()
            await mailbox.release()
        with self.assertRaises(TryLater):
            await self.store.open_maildrop(b"ann")
        self.assertEqual(self.database.executed, [statements.RELEASE_LEASES])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_stop_during_login(self):
        """A login that is under way at the end of the process leaves no lock."""
        answered, taken = Deferred(), Deferred()

        async def wait(execute):
            rows = await execute()
            taken.callback(None)
            await answered
            return rows

        await (await self.store.open_maildrop(b"ann")).release()
        self.database.faults[statements.TAKE_LEASE] = wait
        login = Deferred.fromCoroutine(self.store.open_maildrop(b"ann"))
        await taken
        stopped = Deferred.fromCoroutine(self.store.stop())
        self.assertNoResult(stopped)
        answered.callback(None)
        await self.assertFailure(login, TryLater)
        # A client that is still there.
        with self.assertRaises(TryLater):
            await self.store.open_maildrop(b"ann")
        await stopped
        await (await self.other.open_maildrop(b"ann")).release()


async def twice(execute):
    """Execute a statement twice, as if the first answer was lost."""
    await execute()
    return await execute()
