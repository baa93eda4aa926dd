"""popserv.maildrops.sql.leases: the locks of sessions."""

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from popserv.database import DatabaseUnavailable, OutcomeUnknown
from popserv.errors import LoginTooSoon, MaildropBusy, RemovalFailed, TryLater
from popserv.maildrops.sql import leases, statements
from popserv.maildrops.sql.leases import (
    BUSY_PAUSES,
    GATHERING_TIME,
    RELEASE_PAUSE,
    RENEWAL_PAUSE,
    STOP_PAUSES,
    UNANSWERED_PAUSE,
)
from popserv.testing import read_all
from tests.maildrops.sql.harness import SQLCase, losing, raising, wait_for


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

    async def end(self, mailbox):
        """End a session of the first store, and wait until its lock is released."""
        await mailbox.release()
        await self.renew(GATHERING_TIME)

    async def assert_busy(self, attempt):
        """Check that a login of the first store finds another session, after its pauses."""
        refused = self.assertFailure(Deferred.fromCoroutine(attempt), MaildropBusy)
        for pause in BUSY_PAUSES:
            await self.pause(pause)
        await refused

    async def pause(self, seconds=BUSY_PAUSES[0]):
        """Let a login of the first store wait before it tries again."""
        await self.pausing(seconds)
        self.clock.advance(seconds)

    async def pausing(self, seconds):
        """Wait until a login of the first store waits so long."""

        def is_pausing():
            times = [call.getTime() for call in self.clock.getDelayedCalls()]
            return self.clock.seconds() + seconds in times

        await wait_for(is_pausing, "the pause of a login")

    async def test_statements(self):
        """A login into a maildrop that has not changed is one statement, and so is its end."""
        await self.deliver(self.store, b"ann", b"x\n")
        for expected in ([statements.TAKE_LEASE, statements.LIST], [statements.TAKE_LEASE]):
            self.database.executed.clear()
            mailbox = await self.store.open_maildrop(b"ann")
            await self.end(mailbox)
            self.assertEqual(self.database.executed, [*expected, statements.RELEASE_LEASES])

    async def test_gathered(self):
        """The locks of sessions that end at about the same time are released by one statement."""
        users = [b"ann", b"bob", b"cyd"]
        ended = [await self.store.open_maildrop(user) for user in users]
        self.database.executed.clear()
        for mailbox in ended[:2]:
            await mailbox.release()
        self.clock.advance(GATHERING_TIME / 2)
        await ended[2].release()
        self.assertEqual(self.database.executed, [])
        await self.renew(GATHERING_TIME / 2)
        self.assertEqual(self.database.executed, [statements.RELEASE_LEASES])
        self.assertEqual(self.sql("SELECT count(*) FROM maildrop WHERE holder IS NULL"), [(3,)])
        self.assertEqual(self.store._leases._ended, {})
        for user in users:
            await (await self.other.open_maildrop(user)).release()

    async def test_again(self):
        """A user who logs in again on the same host does not wait."""
        answered = Deferred()

        async def wait(execute):
            await answered
            return await execute()

        for user in (b"ann", b"bob"):
            await (await self.store.open_maildrop(user)).release()
        self.database.executed.clear()
        mailbox = await self.store.open_maildrop(b"ann")
        self.assertEqual(self.database.executed, [statements.RELEASE_LEASES, statements.TAKE_LEASE])
        await mailbox.release()
        self.database.faults[statements.RELEASE_LEASES] = wait
        self.clock.advance(GATHERING_TIME)
        outcomes = []
        for _ in range(2):
            login = Deferred.fromCoroutine(self.store.open_maildrop(b"ann"))
            login.addBoth(outcomes.append)
        answered.callback(None)

        def have_ended():
            self.clock.advance(BUSY_PAUSES[0])
            return len(outcomes) == 2

        await wait_for(have_ended, "both logins")
        # Either may be the first, whose session the other one finds.
        [refused] = [each for each in outcomes if isinstance(each, Failure)]
        refused.trap(MaildropBusy)
        outcomes.remove(refused)
        await self.end(outcomes[0])

    async def test_own_session(self):
        """A session of this process is not waited for."""
        mailbox = await self.store.open_maildrop(b"ann")
        with self.assertRaises(MaildropBusy):
            await self.store.open_maildrop(b"ann")
        await self.end(mailbox)

    async def test_lost_and_again(self):
        """Two sessions of one user may end at once, if the first has lost its lock."""
        first = await self.store.open_maildrop(b"ann")
        self.expire()
        second = await self.store.open_maildrop(b"ann")
        await first.release()
        self.clock.advance(GATHERING_TIME)
        await self.end(second)
        self.assertEqual(self.store._leases._ended, {})
        await (await self.other.open_maildrop(b"ann")).release()

    async def test_ended_elsewhere(self):
        """A login on another host waits for the end of a session there."""
        clock = Clock()
        other = self.make_store(clock)
        mailbox = await other.open_maildrop(b"ann")
        await mailbox.release()
        login = Deferred.fromCoroutine(self.store.open_maildrop(b"ann"))
        await self.pausing(BUSY_PAUSES[0])
        clock.advance(GATHERING_TIME)
        await wait_for(lambda: not other._leases._ended, "the end of the session")
        self.clock.advance(BUSY_PAUSES[0])
        await self.end(await login)

    async def test_ended_after_pause(self):
        """A session that ends in the second pause, in this process, is looked for, too."""
        others = await self.other.open_maildrop(b"ann")
        login = Deferred.fromCoroutine(self.store.open_maildrop(b"ann"))
        await self.pause()
        await self.pausing(BUSY_PAUSES[1])
        self.expire()
        mailbox = await self.store.open_maildrop(b"ann")
        self.clock.advance(BUSY_PAUSES[1] - GATHERING_TIME / 2)
        await mailbox.release()
        self.clock.advance(GATHERING_TIME / 2)
        await self.end(await login)
        await others.release()

    async def test_many_together(self):
        """So many sessions that end together are released without waiting for more."""
        self.patch(leases, "MAX_TOGETHER", 2)
        ended = [await self.store.open_maildrop(user) for user in (b"ann", b"bob", b"cyd")]
        self.database.executed.clear()
        for mailbox in ended:
            await mailbox.release()
        await self.renew(0)
        self.assertEqual(self.database.executed, [statements.RELEASE_LEASES])
        await self.renew(GATHERING_TIME)
        self.assertEqual(self.database.executed[1:], [statements.RELEASE_LEASES])
        self.assertEqual(self.sql("SELECT count(*) FROM maildrop WHERE holder IS NULL"), [(3,)])

    async def test_locked_row(self):
        """A row that a transaction has locked does not keep the locks of others."""
        ended = [await self.store.open_maildrop(user) for user in (b"ann", b"bob")]
        self.database.executed.clear()
        with self.connection.transaction():
            self.sql("SELECT FROM maildrop WHERE name = %s FOR UPDATE", b"ann")
            for mailbox in ended:
                await mailbox.release()
            await self.renew(GATHERING_TIME)
            await (await self.other.open_maildrop(b"bob")).release()
            self.assertEqual([*self.store._leases._ended], [b"ann"])
            await self.renew(RELEASE_PAUSE)
            self.assertEqual([*self.store._leases._ended], [b"ann"])
        await self.renew(RELEASE_PAUSE)
        tried = [statements.RELEASE_LEASES, statements.HELD_LEASES]
        self.assertEqual(self.database.executed, [*tried, *tried, statements.RELEASE_LEASES])
        self.assertEqual(self.store._leases._ended, {})
        await (await self.other.open_maildrop(b"ann")).release()
        self.assertEqual(self.warnings(), [])

    async def test_many_unanswered(self):
        """While the database does not answer, all that was not released is tried again together."""
        ended = [await self.store.open_maildrop(user) for user in (b"ann", b"bob", b"cyd")]
        for mailbox in ended:
            self.database.faults[statements.RELEASE_LEASES] = raising(DatabaseUnavailable())
            await self.end(mailbox)
        self.assertEqual(len(self.warnings()), 3)
        self.database.executed.clear()
        self.database.faults[statements.RELEASE_LEASES] = raising(OutcomeUnknown())
        await self.renew(UNANSWERED_PAUSE - 3 * GATHERING_TIME)
        self.assertEqual(self.database.executed, [])
        await self.renew(2 * GATHERING_TIME)
        self.assertEqual(self.database.executed, [statements.RELEASE_LEASES])
        self.assertEqual(len(self.warnings()), 4)
        self.assertEqual(len(self.store._leases._waiting), 1)
        await self.renew(UNANSWERED_PAUSE)
        self.assertEqual(self.database.executed, [statements.RELEASE_LEASES] * 2)
        self.assertEqual(self.store._leases._ended, {})
        self.assertEqual(self.sql("SELECT count(*) FROM maildrop WHERE holder IS NULL"), [(3,)])

    async def test_too_many_unanswered(self):
        """No statement has more than so many of them, and none comes earlier for it."""
        self.patch(leases, "MAX_TOGETHER", 2)
        ended = [await self.store.open_maildrop(user) for user in (b"ann", b"bob", b"cyd")]
        for mailbox in ended:
            self.database.faults[statements.RELEASE_LEASES] = raising(DatabaseUnavailable())
            await self.end(mailbox)
        self.database.executed.clear()
        await self.renew(UNANSWERED_PAUSE - 3 * GATHERING_TIME)
        self.assertEqual(self.database.executed, [])
        # The last one need not wait for those before it.
        mailbox = await self.store.open_maildrop(b"cyd")
        self.assertEqual(self.database.executed.count(statements.RELEASE_LEASES), 1)
        await self.renew(4 * GATHERING_TIME)
        self.assertEqual(self.database.executed.count(statements.RELEASE_LEASES), 2)
        self.assertEqual(self.store._leases._ended, {})
        await self.end(mailbox)

    async def test_locked_row_again(self):
        """A user whose row was locked need not wait for the next attempt to release it."""
        mailbox = await self.store.open_maildrop(b"ann")
        with self.connection.transaction():
            self.sql("SELECT FROM maildrop WHERE name = %s FOR UPDATE", b"ann")
            await self.end(mailbox)
        await self.end(await self.store.open_maildrop(b"ann"))

    async def test_locked_row_elsewhere(self):
        """Nor does a login on another host, which waits for the next attempt, give up before it."""
        other = self.make_store(self.clock)
        mailbox = await self.store.open_maildrop(b"ann")
        with self.connection.transaction():
            self.sql("SELECT FROM maildrop WHERE name = %s FOR UPDATE", b"ann")
            await self.end(mailbox)
        login = Deferred.fromCoroutine(other.open_maildrop(b"ann"))
        await self.pause()
        await self.pausing(BUSY_PAUSES[1])
        for _ in range(2):
            await self.renew(BUSY_PAUSES[1] / 2)
        await (await login).release()

    async def test_never_released(self):
        """A lock that cannot be released is left alone when it has expired, or is lost."""
        mailbox = await self.store.open_maildrop(b"ann")
        lost = await self.store.open_maildrop(b"bob")
        self.sql("UPDATE maildrop SET holder = gen_random_uuid() WHERE name = %s", b"bob")
        await self.renew()
        await lost.release()
        with self.connection.transaction():
            self.sql("SELECT FROM maildrop FOR UPDATE")
            await self.end(mailbox)
            self.assertEqual([*self.store._leases._ended], [b"ann"])
            await self.renew(self.store._database.config.lease)
        self.assertEqual(self.store._leases._ended, {})
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_renewed_locked_row(self):
        """A row that a transaction has locked does not keep the locks of others from renewal."""
        mailboxes = [await self.store.open_maildrop(user) for user in (b"ann", b"bob")]
        self.sql("UPDATE maildrop SET expires = now() + interval '5 seconds'")
        renewed = "SELECT name FROM maildrop WHERE expires > now() + interval '15 seconds'"
        with self.connection.transaction():
            self.sql("SELECT FROM maildrop WHERE name = %s FOR UPDATE", b"ann")
            self.clock.advance(10)
            with self.connect() as other:
                await wait_for(
                    lambda: other.execute(renewed).fetchall() == [(b"bob",)], "the renewal of one"
                )
            await self.renew(0)
        await self.renew()
        self.assertEqual(len(self.sql(renewed)), 2)
        self.assertEqual(self.warnings(), [])
        for mailbox in mailboxes:
            await mailbox.release()

    async def test_renewed_soon(self):
        """A lock whose row is locked at each regular time is renewed a second later."""
        mailboxes = [await self.store.open_maildrop(user) for user in (b"ann", b"bob")]
        self.sql("UPDATE maildrop SET expires = now() + interval '5 seconds'")
        renewed = "SELECT name FROM maildrop WHERE expires > now() + interval '15 seconds'"
        with self.connection.transaction():
            self.sql("SELECT FROM maildrop WHERE name = %s FOR UPDATE", b"ann")
            await self.renew()
        self.database.executed.clear()
        await self.renew(0.5)
        self.assertEqual(self.database.executed, [])
        await self.renew(0.5)
        self.assertEqual(self.database.executed, [statements.RENEW_LEASES])
        self.assertEqual(len(self.sql(renewed)), 2)
        await self.renew(RENEWAL_PAUSE)
        self.assertEqual(self.database.executed, [statements.RENEW_LEASES])
        await self.renew(10)
        self.assertEqual(self.database.executed, [statements.RENEW_LEASES] * 2)
        for mailbox in mailboxes:
            await mailbox.release()

    async def test_renewed_last(self):
        """Nothing is tried again for a session that has ended meanwhile, nor after the end."""
        mailbox = await self.store.open_maildrop(b"ann")

        async def stop(execute):
            self.store._leases._timer.cancel()
            self.store._leases._timer = None
            return await execute()

        self.database.faults[statements.HELD_LEASES] = stop
        with self.connection.transaction():
            self.sql("SELECT FROM maildrop FOR UPDATE")
            await self.renew()
        self.assertEqual(self.warnings(), [])
        await self.end(mailbox)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_renewal_unanswered(self):
        """A lock of which the database does not say whether it is held is not lost."""
        mailbox = await self.store.open_maildrop(b"ann")
        self.database.faults[statements.RENEW_LEASES] = empty
        self.database.faults[statements.HELD_LEASES] = raising(DatabaseUnavailable())
        await self.renew()
        self.assertIn("cannot be renewed now", self.warnings()[0])
        await self.renew()
        self.assertEqual(len(self.warnings()), 1)
        await mailbox.release()

    async def test_many_renewed(self):
        """Many leases are renewed by several statements."""
        self.patch(leases, "MAX_TOGETHER", 2)
        mailboxes = [await self.store.open_maildrop(user) for user in (b"ann", b"bob", b"cyd")]
        self.sql("UPDATE maildrop SET expires = now() + interval '5 seconds'")
        self.database.executed.clear()
        await self.renew()
        self.assertEqual(self.database.executed, [statements.RENEW_LEASES] * 2)
        renewed = "SELECT count(*) FROM maildrop WHERE expires > now() + interval '15 seconds'"
        self.assertEqual(self.sql(renewed), [(3,)])
        for mailbox in mailboxes:
            await mailbox.release()

    async def test_busy(self):
        """Without a delay between logins nobody asks how long it is."""
        mailbox = await self.store.open_maildrop(b"ann")
        for attempt in (self.store.open_maildrop, self.store.open_delivery):
            self.database.executed.clear()
            with self.assertRaises(MaildropBusy):
                await attempt(b"ann")
            expected = [statements.TAKE_LEASE, statements.CREATE_WITH_LEASE]
            self.assertEqual(self.database.executed, expected)
        others = self.make_store()
        self.database.executed.clear()
        with self.assertRaises(MaildropBusy):
            await others.open_maildrop(b"ann")
        again = [statements.TAKE_LEASE] * len(BUSY_PAUSES)
        self.assertEqual(self.database.executed[-4:], [*expected, *again])
        await mailbox.release()

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
            await self.end(await self.store.open_maildrop(user))
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
            await self.assert_busy(self.store.open_maildrop(user))
            await mailbox.release()

    async def test_login_delay_clock(self):
        """If the clock of the database was set back, nobody has to wait for it."""
        self.store.login_delay = 60
        await (await self.store.open_maildrop(b"ann")).release()
        self.sql("UPDATE maildrop SET login = now() + interval '1 hour'")
        await (await self.store.open_maildrop(b"ann")).release()
        with self.assertRaises(LoginTooSoon):
            await self.store.open_maildrop(b"ann")

    async def test_clock(self):
        """If the clock of the database was set back, leases are renewed by its new time."""
        await self.store.open_maildrop(b"ann")
        self.sql("UPDATE maildrop SET expires = expires + interval '1 hour'")
        with self.assertRaises(MaildropBusy):
            await self.other.open_maildrop(b"ann")
        await self.renew()
        [(seconds,)] = self.sql("SELECT extract(epoch FROM expires - now())::float8 FROM maildrop")
        self.assertLessEqual(seconds, self.store._database.config.lease)

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
        await self.assert_busy(self.store.open_maildrop(b"ann"))
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
        await self.end(bobs)
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
        await self.end(await self.store.open_maildrop(b"ann"))
        self.clock.advance(8)
        mailbox = await self.store.open_maildrop(b"bob")
        self.database.executed.clear()
        await self.renew(2)
        self.assertEqual(self.database.executed, [])
        await self.end(mailbox)
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
        await mailbox.release()
        await self.assert_busy(self.store.open_maildrop(b"ann"))
        await others.release()

    async def test_released_while_renewed(self):
        """A session that ends during a renewal has not lost its lock."""
        mailbox = await self.store.open_maildrop(b"ann")

        async def release_first(execute):
            await mailbox.release()
            return await execute()

        self.database.faults[statements.RENEW_LEASES] = release_first
        await self.renew()
        self.assertEqual(self.warnings(), [])

    async def test_ended_while_renewed(self):
        """Nor has one that has been released when it is looked for."""
        mailbox = await self.store.open_maildrop(b"ann")

        async def end_first(execute):
            await mailbox.release()
            self.clock.advance(GATHERING_TIME)
            await wait_for(lambda: not self.store._leases._ended, "the release")
            return await execute()

        self.database.faults[statements.RENEW_LEASES] = empty
        self.database.faults[statements.HELD_LEASES] = end_first
        self.clock.advance(10)
        await wait_for(lambda: not self.store._leases._pending, "the renewal")
        self.assertEqual(self.warnings(), [])

    async def test_nothing_kept(self):
        """Nothing is kept of a renewal that has ended."""
        mailbox = await self.store.open_maildrop(b"ann")
        await self.renew()
        self.assertEqual(self.store._leases._pending, set())
        await mailbox.release()

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
                await self.end(await self.store.open_maildrop(b"ann"))
                self.database.faults[statement] = fault(OutcomeUnknown())
                with self.assertRaises(TryLater):
                    await self.store.open_maildrop(user)
                for pending in list(self.store._leases._pending):
                    await pending
                await (await self.other.open_maildrop(user)).release()
                await wait_for(lambda: not self.other._leases._ended, "the end of the session")

    async def test_unavailable(self):
        """A login that was not executed is only refused."""
        await self.end(await self.store.open_maildrop(b"ann"))
        self.database.executed.clear()
        self.database.faults[statements.TAKE_LEASE] = raising(DatabaseUnavailable())
        with self.assertRaises(TryLater):
            await self.store.open_maildrop(b"ann")
        self.assertEqual(self.database.executed, [statements.TAKE_LEASE])

    async def test_unreleased(self):
        """A session whose end the database does not notice ends without an error."""
        mailbox = await self.store.open_maildrop(b"ann")
        self.database.faults[statements.RELEASE_LEASES] = raising(DatabaseUnavailable())
        await self.end(mailbox)
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

    async def test_stop_locked_row(self):
        """The end of the process tries for about a second to release the lock of a locked row."""
        mailboxes = [await self.store.open_maildrop(name) for name in (b"ann", b"bob")]
        with self.connection.transaction():
            self.sql("SELECT FROM maildrop WHERE name = %s FOR UPDATE", b"ann")
            self.database.executed.clear()
            stopped = Deferred.fromCoroutine(self.store.stop())
            for pause in STOP_PAUSES[:2]:
                await self.pause(pause)
            await self.pausing(STOP_PAUSES[2])
        self.clock.advance(STOP_PAUSES[2])
        await stopped
        tried = [statements.RELEASE_LEASES, statements.HELD_LEASES]
        self.assertEqual(self.database.executed, [*tried * 3, statements.RELEASE_LEASES])
        for name, mailbox in zip((b"ann", b"bob"), mailboxes, strict=True):
            await (await self.other.open_maildrop(name)).release()
            await mailbox.release()
        self.assertEqual((self.warnings(), self.clock.getDelayedCalls()), ([], []))

    async def test_stop_not_released(self):
        """If it cannot be released, the log says so."""
        await self.store.open_maildrop(b"ann")
        with self.connection.transaction():
            self.sql("SELECT FROM maildrop FOR UPDATE")
            stopped = Deferred.fromCoroutine(self.store.stop())
            for pause in STOP_PAUSES:
                await self.pause(pause)
            await stopped
        self.assertAlmostEqual(self.clock.seconds(), 1.2)
        [warning] = self.warnings()
        self.assertIn("because they were being changed", warning)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_stop_unanswered(self):
        """A database that does not answer at the end of the process is not asked again."""
        await self.store.open_maildrop(b"ann")
        self.database.executed.clear()
        self.database.faults[statements.RELEASE_LEASES] = raising(DatabaseUnavailable())
        await self.store.stop()
        self.assertEqual(self.database.executed, [statements.RELEASE_LEASES])
        [warning] = self.warnings()
        self.assertIn("the database does not answer", warning)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_stop_during_release(self):
        """The end of the process waits for what is released in the background."""
        answered = Deferred()

        async def wait(execute):
            await answered
            return await execute()

        await self.end(await self.store.open_maildrop(b"ann"))
        self.database.faults[statements.TAKE_LEASE] = losing(OutcomeUnknown())
        self.database.faults[statements.RELEASE_BY_NAME] = wait
        with self.assertRaises(TryLater):
            await self.store.open_maildrop(b"ann")
        stopped = Deferred.fromCoroutine(self.store.stop())
        self.assertNoResult(stopped)
        answered.callback(None)
        await stopped
        await (await self.other.open_maildrop(b"ann")).release()

    async def stop_slowly(self):
        """Stop with a lock that stays locked, while another is released.

        Return the end, and what lets the other release, and the next, be executed.
        """
        ended = [await self.store.open_maildrop(user) for user in (b"ann", b"bob")]
        self.sql("BEGIN; SELECT FROM maildrop WHERE name = 'ann' FOR UPDATE")
        await self.end(ended[0])
        answered = [Deferred(), Deferred()]
        self.database.faults[statements.RELEASE_LEASES] = waiting_for(answered[0])
        await ended[1].release()
        self.clock.advance(GATHERING_TIME)
        stopped = Deferred.fromCoroutine(self.store.stop())
        await wait_for(lambda: self.store._leases._waiting, "an attempt to release")
        self.sql("COMMIT")
        self.database.faults[statements.RELEASE_LEASES] = waiting_for(answered[1])
        return stopped, *answered

    async def is_stopping(self, stopped):
        """Check that the end of the process goes on when only one lock is left."""
        await wait_for(lambda: [*self.store._leases._ended] == [b"ann"], "the other release")
        self.assertNoResult(stopped)

    async def test_stop_pauses(self):
        """The end of the process has its own pauses: nothing is tried again beside them."""
        stopped, bobs, anns = await self.stop_slowly()
        self.clock.advance(RELEASE_PAUSE)
        bobs.callback(None)
        await self.is_stopping(stopped)
        await self.pause(STOP_PAUSES[0])
        anns.callback(None)
        await stopped
        self.assertEqual((self.warnings(), self.clock.getDelayedCalls()), ([], []))
        await (await self.other.open_maildrop(b"ann")).release()

    async def test_stop_after_login(self):
        """It waits for the release that a login has begun meanwhile."""
        stopped, bobs, anns = await self.stop_slowly()
        login = Deferred.fromCoroutine(self.store.open_maildrop(b"ann"))
        bobs.callback(None)
        await self.is_stopping(stopped)
        anns.callback(None)
        await stopped
        await self.assertFailure(login, TryLater)
        await (await self.other.open_maildrop(b"ann")).release()

    async def test_stop_during_login(self):
        """A login that is under way at the end of the process leaves no lock."""
        answered, taken = Deferred(), Deferred()

        async def wait(execute):
            rows = await execute()
            taken.callback(None)
            await answered
            return rows

        await self.end(await self.store.open_maildrop(b"ann"))
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


def waiting_for(answered):
    """Return a fault: the statement is executed after a Deferred has fired."""

    async def fault(execute):
        await answered
        return await execute()

    return fault


async def empty(execute):
    """Execute no statement, and return no row."""
    return []


async def twice(execute):
    """Execute a statement twice, as if the first answer was lost."""
    await execute()
    return await execute()
