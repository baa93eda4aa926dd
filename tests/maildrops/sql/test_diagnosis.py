"""popserv.maildrops.sql.diagnosis: what popserv doctor finds of a database and its objects."""

import time

from twisted.internet import reactor
from zope.interface.verify import verifyObject

from popserv.core.findings import Severity
from popserv.database import Database
from popserv.errors import TryLater
from popserv.interfaces import IDiagnosed
from popserv.maildrops.sql import diagnosis
from popserv.maildrops.sql.object_errors import ObjectStoreUnavailable, ObjectUnreadable
from popserv.maildrops.sql.objects import ObjectStore
from tests.maildrops.sql.harness import SQLCase

SMALL, LARGE = b"small\n", b"l" * 100 + b"\n"


async def look_in_vain(key, size):
    """Look for an object that is not there."""
    raise ObjectUnreadable(key, "it is not there")


class DiagnosisTests(SQLCase):
    """diagnose."""

    async def setUp(self):
        """Make a store with objects, whose messages are there, in a database with a standby."""
        await super().setUp()
        self.objects = ObjectStore("memory:///")
        self.store = self.make_store(objects=self.objects, inline=10)
        for message in (SMALL, LARGE):
            await self.deliver(self.store, b"ann", message)
        self.patch(diagnosis, "durability_problems", self.durability)

    async def durability(self, database):
        """Return what is wrong with the durability of the database."""
        return []

    async def found(self, store=None):
        """Return the code, the severity and the texts of each finding."""
        findings = await (store or self.store).diagnose()
        return [
            (each.code, each.severity, f"{each.where}: {each.what}; {each.remedy}")
            for each in findings
        ]

    async def assert_found(self, code, *texts, severity=Severity.ERROR, store=None):
        """Check that there is one finding."""
        [(found, found_severity, text)] = await self.found(store)
        self.assertEqual((found, found_severity), (code, severity))
        for each in texts:
            self.assertIn(each, text)

    async def test_good(self):
        """Nothing is found of a store that works, and nothing is left of the check."""
        verifyObject(IDiagnosed, self.store)
        before = [keys async for keys in self.objects.list_keys(0)]
        self.assertEqual(await self.found(), [])
        self.assertEqual([keys async for keys in self.objects.list_keys(0)], before)

    async def test_no_objects(self):
        """A file without an object store is told of if messages are in one."""
        store = self.make_store()
        await self.assert_found("objects-unknown", "which the file does not name", store=store)
        self.sql("DELETE FROM message WHERE NOT inline")
        self.assertEqual(await self.found(store), [])

    async def test_no_database(self):
        """A database that cannot be reached is told of, with the reason."""
        parameters = {**self._parameters, "host": "/nowhere"}
        self.database.config = self.config(patience=2)
        object.__setattr__(self.database.config, "parameters", parameters)
        while self.database._idle:
            self.database._idle.pop().shut()
        await self.assert_found("database-unavailable", "/nowhere/.s.PGSQL.5432")

    async def test_schema(self):
        """So is one with another schema, with the command that helps."""
        self.sql("INSERT INTO schema_version (version) VALUES (99)")
        self.addCleanup(self.sql, "DELETE FROM schema_version WHERE version = 99")
        await self.assert_found("database-schema", "has version 99", "upgrade popserv on this host")

    async def test_rights(self):
        """So is a user who lacks rights."""
        self.sql("CREATE ROLE clerk LOGIN")
        self.sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO clerk")
        self.addCleanup(self.sql, "DROP OWNED BY clerk; DROP ROLE clerk")
        config = self.config()
        object.__setattr__(config, "parameters", {**config.parameters, "user": "clerk"})
        database = Database(config, reactor)
        self.addCleanup(database.close)
        [finding] = [each async for each in diagnosis.diagnose(database, self.objects)]
        self.assertEqual(finding.code, "database-rights")
        self.assertIn("DELETE on account, INSERT on account", finding.what)
        self.sql("REVOKE SELECT ON message FROM clerk")
        _, other = [each async for each in diagnosis.diagnose(database, self.objects)]
        self.assertEqual(other.code, "database-unavailable")
        self.assertIn("permission denied for table message", other.what)

    async def test_durability(self):
        """So is a database that may lose messages."""

        async def problems(database):
            return ["synchronous_commit is off: messages may be lost; set it to on"]

        self.patch(diagnosis, "durability_problems", problems)
        await self.assert_found(
            "database-durability",
            "store.toml: synchronous_commit is off: messages may be lost; set it to on",
            severity=Severity.WARNING,
        )

    async def test_standby(self):
        """So is one that waits for a standby that is not there."""
        self.patch(diagnosis, "STANDBYS", "SELECT 'standby', 0::bigint")
        await self.assert_found("database-standby", "no standby is connected")

    async def test_clock(self):
        """A clock that differs is a hint."""
        now = time.time()
        for offset, difference in ((-3600, "36.. s"), (-60.5, "6. s"), (3600, "3[56].. s")):
            self.patch(diagnosis.time, "time", lambda offset=offset: now + offset)
            [(code, severity, text)] = await self.found()
            self.assertEqual((code, severity), ("database-clock", Severity.HINT))
            self.assertRegex(text, f"differ by {difference}")
        self.patch(diagnosis.time, "time", lambda: now + 59.5)
        self.assertEqual(await self.found(), [])

    async def test_lost_octets(self):
        """Messages whose octets are gone are told of, from either place."""
        self.sql("DELETE FROM body")
        await self.assert_found("message-body", "1 have no octets")
        self.sql("DELETE FROM message WHERE inline")
        [keys] = [keys async for keys in self.objects.list_keys(0)]
        await self.objects.delete(keys)
        for _ in range(2):
            what = f"of 1 messages, 1 have no object: {keys[0].hex}"
            await self.assert_found("message-object", what)
            # CPython 3.11 traces no line after an exception for which a coroutine has waited.
            self.patch(self.objects, "look", look_in_vain)

    async def test_overdue(self):
        """Objects that are not removed for a day are a warning."""
        overdue = "INSERT INTO doomed (key, due) VALUES (gen_random_uuid(), now() - %s::interval)"
        self.sql(overdue, "23:59:50")
        self.assertEqual(await self.found(), [])
        for age, hours in (("24:00:10", "24"), ("1000 d", "24000")):
            self.sql(overdue, age)
            what = f"for {hours} hours"
            await self.assert_found("objects-overdue", what, severity=Severity.WARNING)

    async def test_object_store(self):
        """What cannot be done with the object store is told of once."""
        bucket = self.objects._bucket

        def refuse(*arguments):
            raise ObjectStoreUnavailable("access denied")

        self.patch(bucket, "put", refuse)
        await self.assert_found("object-store", "cannot be stored: access denied")
        self.patch(bucket, "get", refuse)
        self.patch(bucket, "put", lambda key, octets: None)
        await self.assert_found("object-store", "an object cannot be read: access denied")

    async def test_late(self):
        """A database that fails in between is one that cannot be reached."""

        async def fail(execute):
            raise TryLater

        self.database.faults = {diagnosis.OVERDUE: fail}
        await self.assert_found("database-unavailable", "it does not answer")
