"""popserv.maildrops.sql.hosts: hosts and requests in a database."""

from uuid import uuid4

from psycopg import RawCursor
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from popserv.auth.accounts.source import Accounts
from popserv.database import Database, OutcomeUnknown
from popserv.errors import MaildropUnavailable, TryLater
from popserv.interfaces import IHostDirectory, ISharedStore
from popserv.maildrops.sql.hosts import ANNOUNCE, ANSWER, ASK, FORGET, WITHDRAW, Hosts
from tests.maildrops.sql.harness import SQLCase, losing


class HostsTests(SQLCase):
    """The hosts of a store."""

    async def setUp(self):
        """Forget all hosts."""
        await super().setUp()
        self.sql("TRUNCATE host CASCADE")
        self.store = self.make_store()
        self.hosts = self.store.hosts

    async def test_interface(self):
        """A store in a database is shared, and has a directory of hosts."""
        verifyObject(ISharedStore, self.store)
        verifyObject(IHostDirectory, self.hosts)

    async def test_decoy_secret(self):
        """All hosts have one secret of decoys, which is that of the users in the database."""
        self.sql("TRUNCATE setting")
        secrets = {await store.decoy_secret() for store in (self.store, self.make_store())}
        secrets.add(await Accounts(self.database).decoy_secret())
        self.assertEqual([len(secret) for secret in secrets], [32])
        self.sql("TRUNCATE setting")
        self.assertNotIn(await self.store.decoy_secret(), secrets)

    async def test_no_decoy_secret(self):
        """A database that cannot be used has none."""
        self.sql("ALTER TABLE schema_version RENAME TO renamed")
        try:
            with self.assertRaises(MaildropUnavailable):
                await self.store.decoy_secret()
        finally:
            self.sql("ALTER TABLE renamed RENAME TO schema_version")

    async def test_statements(self):
        """The schema is looked at once, and not whenever a host announces itself."""
        for _ in range(2):
            self.database.executed.clear()
            await self.hosts.announce(uuid4(), "mx2", "1.0", False)
        self.assertEqual(self.database.executed, [ANNOUNCE])

    async def test_listed(self):
        """A host is listed while it announces itself, and is gone when it is withdrawn."""
        one, other = uuid4(), uuid4()
        await self.hosts.announce(one, "mx2", "1.0", False)
        await self.hosts.announce(other, "mx1", "1.1", False)
        await self.hosts.announce(one, "mx2", "1.0", True)
        first, second = await self.hosts.listed()
        self.assertEqual((first.id, first.name, first.version), (other, "mx1", "1.1"))
        self.assertEqual((second.id, second.is_draining, first.is_draining), (one, True, False))
        self.assertGreaterEqual(second.uptime, second.unseen)
        self.assertEqual(first.short_id, other.hex[:8])
        await self.hosts.withdraw(other)
        self.assertEqual([each.id for each in await self.hosts.listed()], [one])

    async def test_dead(self):
        """A host that has died is listed for the time of a lease, and deleted some time later."""
        dead, other = uuid4(), uuid4()
        await self.hosts.announce(dead, "mx1", "1.0", False)
        self.sql("UPDATE host SET seen = now() - interval '29 s'")
        [host] = await self.hosts.listed()
        self.assertGreaterEqual(host.unseen, 29)
        self.sql("UPDATE host SET seen = now() - interval '31 s'")
        self.assertEqual(await self.hosts.listed(), [])
        await self.hosts.withdraw(other)
        self.assertEqual(self.sql("SELECT count(*) FROM host"), [(1,)])
        self.sql("UPDATE host SET seen = now() - interval '2 days'")
        await self.hosts.withdraw(other)
        self.assertEqual(self.sql("SELECT count(*) FROM host"), [(0,)])

    async def test_requests(self):
        """A request is for those that are asked; their answers come in parts, until forgotten."""
        one, other, request = uuid4(), uuid4(), uuid4()
        for host in (one, other):
            self.assertEqual(await self.hosts.announce(host, "mx", "1.0", False), [])
        await self.hosts.ask(request, "who", [one, uuid4()])
        self.assertEqual(await self.hosts.announce(one, "mx", "1.0", False), [(request, "who")])
        self.assertEqual(await self.hosts.announce(other, "mx", "1.0", False), [])
        self.assertEqual(await self.hosts.answers(request, {one: 0, other: 0}), [])
        for part in (0, 1, 1):
            await self.hosts.answer(request, one, part, f"part {part}")
        await self.hosts.answer(request, other, 0, "of one that was not asked")
        parts = [(one, 0, "part 0"), (one, 1, "part 1")]
        self.assertEqual(await self.hosts.answers(request, {one: 0, other: 0}), parts)
        self.assertEqual(await self.hosts.answers(request, {one: 1}), parts[1:])
        await self.hosts.forget(request)
        self.assertEqual(await self.hosts.answers(request, {one: 0}), [])
        await self.hosts.answer(request, one, 2, "too late")
        self.assertEqual(self.sql("SELECT count(*) FROM answer"), [(0,)])

    async def test_late(self):
        """A request that is old is not carried out, and is deleted by a later one."""
        host, old = uuid4(), uuid4()
        await self.hosts.announce(host, "mx", "1.0", False)
        await self.hosts.ask(old, "drain", [host])
        self.sql("UPDATE request SET at = now() - interval '11 s'")
        self.assertEqual(await self.hosts.announce(host, "mx", "1.0", False), [])
        for age in (59, 61):
            self.assertEqual(self.sql("SELECT request FROM request"), [("drain",)])
            self.sql("UPDATE request SET at = now() - %s * interval '1 minute'", age)
            await self.hosts.ask(uuid4(), "who", [])
        await self.hosts.ask(uuid4(), "who", [host])
        self.assertEqual(self.sql("SELECT request FROM request"), [("who",)])

    async def test_repeated(self):
        """A statement that is executed twice, because its answer was lost, does no more."""
        host, request = uuid4(), uuid4()
        hosts = Hosts(self.twice, 30, self.checked)
        await hosts.announce(host, "mx", "1.0", False)
        await hosts.ask(request, "who", [host])
        self.assertEqual(await hosts.announce(host, "mx", "1.0", False), [(request, "who")])
        await hosts.answer(request, host, 0, "text")
        self.assertEqual(await hosts.answers(request, {host: 0}), [(host, 0, "text")])
        await hosts.forget(request)
        await hosts.withdraw(host)
        self.assertEqual(await hosts.listed(), [])

    async def twice(self, statement, parameters=()):
        """Execute a statement twice."""
        await self.database.execute(statement, parameters)
        return await self.database.execute(statement, parameters)

    async def checked(self):
        """Do nothing, as the schema is right."""

    async def test_lost(self):
        """A database that does not answer is one that cannot be reached."""
        self.database.faults = {ANNOUNCE: losing(TryLater())}
        failing = self.hosts.announce(uuid4(), "mx", "1.0", False)
        await self.assertFailure(Deferred.fromCoroutine(failing), TryLater)

    async def test_at_once(self):
        """No statement waits for the disk; the next ones on its connection do again."""
        host, request = uuid4(), uuid4()
        commit = "SHOW synchronous_commit"
        usual = self.sql(commit)
        for statement, *parameters in (
            (ANNOUNCE, host, "mx", "1.0", False),
            (ASK, request, "who", [host]),
            (ANSWER, request, host, 0, "text"),
            (FORGET, request),
            (ASK, request, "who", [host]),
            (ASK, uuid4(), "who", []),
            (WITHDRAW, host),
        ):
            self.sql("UPDATE request SET at = now() - interval '61 minutes'")
            with self.connection.transaction():
                RawCursor(self.connection).execute(statement, parameters)
                self.assertEqual(self.sql(commit), [("off",)])
            self.assertEqual(self.sql(commit), usual)

    async def test_unconfirmed(self):
        """No statement waits for a standby, so that servers can be steered without one."""
        self.addCleanup(self.sql, "SELECT pg_reload_conf()")
        self.addCleanup(self.sql, "ALTER SYSTEM RESET synchronous_standby_names")
        self.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        self.sql("SELECT pg_reload_conf()")
        waiting = Database(self.config(patience=1), reactor)
        self.addCleanup(waiting.close)
        with self.assertRaises(OutcomeUnknown):
            while True:  # until PostgreSQL has read its settings
                await waiting.execute("UPDATE schema_version SET version = version")
        host, request = uuid4(), uuid4()
        await self.hosts.announce(host, "mx", "1.0", False)
        await self.hosts.ask(request, "who", [host])
        await self.hosts.answer(request, host, 0, "text")
        await self.hosts.forget(request)
        await self.hosts.withdraw(host)
        self.assertEqual(await self.hosts.listed(), [])

    async def test_no_schema(self):
        """Without the tables, the directory cannot be used."""
        self.sql("ALTER TABLE schema_version RENAME TO other")
        self.addCleanup(self.sql, "ALTER TABLE other RENAME TO schema_version")
        for failing in (
            self.hosts.announce(uuid4(), "mx", "1.0", False),
            self.hosts.withdraw(uuid4()),
            self.hosts.listed(),
        ):
            await self.assertFailure(Deferred.fromCoroutine(failing), MaildropUnavailable)
