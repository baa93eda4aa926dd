"""Tests of popserv.database.schema."""

import os
from unittest import mock

from twisted.logger import globalLogPublisher

from popserv.database import schema
from popserv.database.schema import (
    SchemaError,
    check_schema,
    create_schema,
    durability_problems,
    schema_version,
    upgrade_schema,
)
from tests.database.harness import DatabaseCase

VERSION = len(schema.STEPS)


class SchemaTests(DatabaseCase):
    """The schema."""

    async def refused(self, awaitable):
        """Return the message of a SchemaError."""
        with self.assertRaises(SchemaError) as raised:
            await awaitable
        return str(raised.exception)

    def more_steps(self, *scripts):
        """Let later versions of popserv have added these statements."""
        directory = self.mktemp()
        names = [f"{directory}{number}.sql" for number, _ in enumerate(scripts)]
        for version, (name, script) in enumerate(zip(names, scripts, strict=True), VERSION + 1):
            done = f"INSERT INTO schema_version (version) VALUES ({version});"
            with open(name, "w", encoding="utf-8") as file:
                file.write(script + done)
        self.patch(schema, "STEPS", [*schema.STEPS, *map(os.path.abspath, names)])

    def steps(self, version):
        """Return a context in which popserv needs this version, which it once had."""
        return mock.patch.object(schema, "STEPS", schema.STEPS[:version])

    async def test_create(self):
        """A schema is made once, and a server needs it."""
        self.assertEqual(
            await self.refused(check_schema(self.database)),
            "/sql.toml: the database has no schema; "
            "run: popserv schema create --store sql:/sql.toml",
        )
        self.assertEqual(await schema_version(self.database), 0)
        self.assertIn("has no schema", await self.refused(upgrade_schema(self.database)))
        await create_schema(self.database)
        await check_schema(self.database)
        self.assertEqual(await upgrade_schema(self.database), VERSION)
        self.assertEqual(
            await self.refused(create_schema(self.database)),
            f"/sql.toml: the database has a schema, version {VERSION}; to bring it to the version "
            "of this popserv, run: popserv schema upgrade --store sql:/sql.toml",
        )

    async def test_upgrade(self):
        """A later popserv refuses the schema until it is upgraded, then an earlier one does."""
        await create_schema(self.database)
        own = schema.STEPS
        self.more_steps("CREATE TABLE new (id bigint);", "ALTER TABLE new ADD name text;")
        self.assertEqual(
            await self.refused(check_schema(self.database)),
            f"/sql.toml: the schema has version {VERSION}, and this popserv needs {VERSION + 2}; "
            "run: popserv schema upgrade --store sql:/sql.toml",
        )
        self.assertEqual(await upgrade_schema(self.database), VERSION)
        self.assertEqual(await schema_version(self.database), VERSION + 2)
        self.assertEqual(await self.database.execute("SELECT id, name FROM new"), [])
        self.patch(schema, "STEPS", own)
        for refused in (check_schema, upgrade_schema):
            self.assertEqual(
                await self.refused(refused(self.database)),
                f"/sql.toml: the schema has version {VERSION + 2}, and this popserv needs "
                f"{VERSION}; upgrade popserv on this host",
            )

    async def test_create_later(self):
        """A later popserv makes its schema by all of the steps."""
        self.more_steps("CREATE TABLE new (id bigint);")
        await create_schema(self.database)
        self.assertEqual(await schema_version(self.database), VERSION + 1)

    async def test_flags(self):
        """What version 1 knows of messages, version 2 keeps as the first of their flags."""
        with self.steps(1):
            await create_schema(self.database)
        await self.database.execute_script(
            "INSERT INTO maildrop (id, name, state, epoch)"
            " VALUES (1, '', gen_random_uuid(), gen_random_uuid());"
            "INSERT INTO message"
            " (maildrop, position, octets, stored, id, header_ends, inline, seen)"
            " SELECT 1, n, 9, 9, gen_random_uuid(), true, true, n = 2 FROM generate_series(1, 3) n"
        )
        with self.steps(2):
            self.assertEqual(await upgrade_schema(self.database), 1)
        flags = "SELECT position, flags FROM message ORDER BY position"
        self.assertEqual(await self.database.execute(flags), [(1, 0), (2, 1), (3, 0)])
        fields = "column_default, is_nullable, data_type"
        rows = await self.database.execute(
            f"SELECT {fields} FROM information_schema.columns"
            " WHERE table_name = 'message' AND column_name = 'flags'"
        )
        self.assertEqual(rows, [("0", "NO", "smallint")])

    async def test_schemes(self):
        """In version 3, users count whose shell is nologin, and those who are disabled do not."""
        with self.steps(2):
            await create_schema(self.database)
        await self.database.execute_script(
            "INSERT INTO account (name, record) VALUES"
            " ('a', '{PLAIN}x:1:1::/:/usr/sbin/nologin'), ('b', '{SSHA}x::::::fail'),"
            " ('c', '{plain}x::::::nologin'), ('d', '$5$x')"
        )
        schemes = "SELECT name, scheme FROM account ORDER BY name"
        before = [(b"a", None), (b"b", "SSHA"), (b"c", None), (b"d", "")]
        self.assertEqual(await self.database.execute(schemes), before)
        with self.steps(3):
            self.assertEqual(await upgrade_schema(self.database), 2)
        after = [(b"a", "PLAIN"), (b"b", None), (b"c", None), (b"d", "")]
        self.assertEqual(await self.database.execute(schemes), after)
        [(index,)] = await self.database.execute(
            "SELECT indexdef FROM pg_indexes WHERE indexname = 'account_scheme'"
        )
        self.assertTrue(index.endswith("(scheme, name) WHERE (scheme IS NOT NULL)"), index)

    async def test_failure(self):
        """If a step fails, it and those before it have changed nothing."""
        self.more_steps("CREATE TABLE new (id bigint);", "SELECT 1/0;")
        expected = (
            f"/sql.toml: cannot make version {VERSION + 2} of the schema, nothing was changed: "
            "division by zero"
        )
        self.assertEqual(await self.refused(create_schema(self.database)), expected)
        self.assertEqual(await schema_version(self.database), 0)
        with self.steps(VERSION):
            await create_schema(self.database)
        self.assertEqual(await self.refused(upgrade_schema(self.database)), expected)
        self.assertEqual(await schema_version(self.database), VERSION)
        [(there,)] = await self.database.execute("SELECT to_regclass('new') IS NOT NULL")
        self.assertFalse(there)

    async def test_empty(self):
        """An empty table schema_version counts as version 0."""
        await self.database.execute("CREATE TABLE schema_version (version integer)")
        self.assertEqual(await schema_version(self.database), 0)

    async def test_unreadable(self):
        """A table that popserv may not read, or has not made, is an error."""
        await self.database.execute("CREATE TABLE schema_version (other text)")
        message = await self.refused(check_schema(self.database))
        self.assertIn("/sql.toml: cannot read the schema: column", message)

    async def test_durability(self):
        """What may lose mail is logged, and does not keep a server from starting."""
        await create_schema(self.database)
        events = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        await check_schema(self.database)
        [problem] = [event["problem"] for event in events if "problem" in event]
        self.assertIn("synchronous_standby_names is empty", problem)
        commits = self.connect(options="-c synchronous_commit=off")
        [_, problem] = await durability_problems(commits)
        self.assertIn("synchronous_commit is off", problem)
