"""What is acknowledged of what no standby has confirmed."""

from uuid import uuid4

from twisted.internet.defer import Deferred, ensureDeferred

from popserv.database import OutcomeUnknown
from popserv.database.facts import WRITE
from popserv.errors import TryLater
from popserv.maildrops.sql import statements
from popserv.maildrops.sql.hosts import ASK
from popserv.messages.details import NO_DETAILS
from popserv.testing.delivery_contract import body_of
from tests.live.postgresql import tls_server
from tests.maildrops.sql.harness import SQLCase, wait_for


class StandbyTests(SQLCase):
    """A store over a primary whose standby is away."""

    timeout = 60

    async def setUp(self):
        """Make a store, and the maildrop of Ann."""
        await super().setUp()
        self.postgresql, _ = self.server()
        self.store = self.make_store(patience=2)
        await self.deliver(self.store, b"ann", b"1\n")

    def server(self):
        """Return a server that no other process uses."""
        return tls_server()

    async def waits(self):
        """Wait until a commit waits for the standby."""
        await wait_for(self.postgresql.waiting, "a commit")

    async def ended(self, function):
        """Return a delivery that goes on after its commit was ended by a function."""
        delivery = ensureDeferred(self.deliver(self.store, b"ann", b"2\n"))
        await self.waits()
        self.postgresql.end_waits(function)
        count = "SELECT count(*) FROM message"
        await wait_for(lambda: self.sql(count) == [(2,)], "the local commit")
        await wait_for(lambda: self.postgresql.waiting() or delivery.called, "a question")
        return delivery

    async def test_delivery(self):
        """A delivery that was committed on the primary only is not acknowledged."""
        for function in ("pg_cancel_backend", "pg_terminate_backend"):
            self.sql("DELETE FROM message WHERE position > 1")
            with self.postgresql.without_standby():
                await self.assertFailure(await self.ended(function), TryLater)
            await wait_for(lambda: not self.postgresql.waiting(), "the standby")

    async def test_delivery_confirmed(self):
        """It is acknowledged once the standby has it."""
        with self.postgresql.without_standby():
            delivery = await self.ended("pg_cancel_backend")
            self.assertNoResult(delivery)
        await delivery
        self.assertEqual(self.sql("SELECT count(*) FROM message"), [(2,)])

    async def test_questions(self):
        """Each statement that asks what became of a delivery waits for the standby."""
        [(id_,)] = self.sql("SELECT id FROM message")
        for statement, parameters in (
            (statements.LOCK_MAILDROPS, ([b"ann"],)),
            (statements.IS_DELIVERED, (b"ann", id_)),
        ):
            with self.postgresql.without_standby():
                asking = Deferred.fromCoroutine(
                    self.database.execute(statement, parameters, durable=True)
                )
                await self.waits()
                self.postgresql.end_waits()
                await self.assertFailure(asking, OutcomeUnknown)

    async def test_facts(self):
        """What servers tell each other is not waited for, also if only old rows are deleted."""
        id_ = uuid4()
        await self.database.execute(WRITE, (id_, "", 600))
        self.sql("INSERT INTO host VALUES (%s, 'mx', '1', false)", id_)
        old = "now() - interval '1 day'"
        self.sql(f"INSERT INTO fact VALUES (gen_random_uuid(), {old}, '')")
        self.sql(f"INSERT INTO request VALUES (gen_random_uuid(), %s, {old}, '')", id_)
        with self.postgresql.without_standby():
            await self.database.execute(WRITE, (id_, "", 600))
            await self.database.execute(ASK, (uuid4(), "", []))
        self.assertEqual(self.sql("SELECT id FROM fact"), [(id_,)])
        self.assertEqual(self.sql("SELECT id FROM request"), [])

    async def test_copy(self):
        """A copy that finds messages of one that was not confirmed waits for the standby."""

        async def copy():
            delivery = await self.store.open_delivery(b"ann")
            try:
                await delivery.deliver(b"x", NO_DETAILS, body_of(b"2\n"))
                await delivery.commit()
                await delivery.commit()
            finally:
                await delivery.release()

        with self.postgresql.without_standby():
            copying = ensureDeferred(copy())
            await self.waits()
            self.postgresql.end_waits()
            await self.assertFailure(copying, TryLater)
            self.assertEqual(self.sql("SELECT count(*) FROM message"), [(2,)])
            again = ensureDeferred(copy())
            await self.waits()
            self.assertNoResult(again)
        await again
        self.database.executed.clear()
        await copy()
        self.assertEqual(self.database.executed.count(statements.LOCK_MAILDROPS), 1)
