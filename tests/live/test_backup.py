"""A backup of the database that is taken while mail comes and goes, and restored."""

import io
import os
import re
import subprocess
import time
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from popserv.core.user_settings import NO_SETTINGS
from popserv.database import Database, DatabaseConfig
from popserv.database.schema import create_schema
from popserv.errors import MaildropBusy
from popserv.maildrops.sql.objects import ObjectStore
from popserv.maildrops.sql.store import SQLMaildrops
from tests.docs.harness import DOCS
from tests.live.harness import TIMEOUT, require_programs, temporary_directory
from tests.live.postgresql import PostgreSQL, create_database, program, shared_server

USERS = [b"ann", b"bob", b"cid"]
MAX_ROUNDS = 30
"""The most messages that each user loses while the backup is taken; there are more before."""
INLINE = 100
DAY = 24 * 3600


def message(number):
    """Return a message, every third of which is large enough to be an object."""
    return b"Subject: %d\n\n%b\n" % (number, b"x" * (INLINE if number % 3 == 0 else 1))


class BackupCase(TestCase):
    """A store whose messages come and go, and another one over the restored database."""

    timeout = 120
    grace = 7 * DAY

    def setUp(self):
        """Make the database and the objects."""
        if not program("initdb"):
            require_programs(self, "initdb")
        self.objects = temporary_directory(self)
        self.server = self.make_server()
        self.name = create_database(self.server)
        self.delivered = 0
        self.going_on = True
        return Deferred.fromCoroutine(self.make_tables())

    def make_server(self):
        """Return the server of the database."""
        return shared_server()

    async def make_tables(self):
        """Make the tables, and some mail."""
        database = self.database(self.server, self.name, self.grace)
        await create_schema(database)
        await database.close()
        self.store = self.make_store(self.server, self.name, self.grace)
        for _ in range(len(USERS) * (MAX_ROUNDS + 5)):
            await self.deliver()

    def database(self, server, name, grace):
        """Return a database of a server."""
        parameters = {"host": str(server.directory), "user": "mail", "dbname": name}
        config = DatabaseConfig("store.toml", parameters, inline=INLINE, grace=grace, lease=3)
        return Database(config, reactor)

    def make_store(self, server, name, grace):
        """Return a store over a database and the objects."""
        objects = ObjectStore(f"file://{self.objects}")
        store = SQLMaildrops(self.database(server, name, grace), objects=objects)
        self.addCleanup(store.stop)
        return store

    async def deliver(self):
        """Deliver the next message to the next user."""
        self.delivered += 1
        user = USERS[self.delivered % len(USERS)]
        body = io.BytesIO(message(self.delivered))
        await self.store.deliver_new(user, NO_SETTINGS, body)

    async def remove(self, store, user, count):
        """Remove the oldest messages of a user."""
        mailbox = await store.open_maildrop(user)
        await mailbox.remove(list(mailbox.messages)[:count])
        await mailbox.release()

    async def come_and_go(self):
        """Deliver and remove until it is enough; objects that are due are removed as well."""
        for _ in range(MAX_ROUNDS):
            if not self.going_on:
                break
            for user in USERS:
                await self.deliver()
                await self.deliver()
                await self.remove(self.store, user, 1)
            await self.store.collect(lambda number: None)

    async def contents(self, store):
        """Return the unique-ids and the octets of all messages of each user."""
        contents = {}
        for user in USERS:
            mailbox = await self.open(store, user)
            found = {}
            for each in mailbox.messages:
                chunks = await mailbox.open(each)
                found[each.uid] = b"".join(
                    [chunk if isinstance(chunk, bytes) else await chunk for chunk in chunks]
                )
            await mailbox.release()
            contents[user] = found
        return contents

    async def open(self, store, user):
        """Open a maildrop, as soon as the lease of a session of the backup is over."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                return await store.open_maildrop(user)
            except MaildropBusy:
                self.assertLess(time.monotonic(), deadline)
                paused = Deferred()
                reactor.callLater(0.1, paused.callback, None)
                await paused

    async def back_up(self, function, *arguments):
        """Take a backup in a thread while mail comes and goes; return the contents after it."""
        running = Deferred.fromCoroutine(self.come_and_go())
        try:
            # Until some mail has come and gone.
            before = self.delivered
            while self.delivered < before + 12:
                paused = Deferred()
                reactor.callLater(0.01, paused.callback, None)
                await paused
            await deferToThread(function, *arguments)
        finally:
            self.going_on = False
            await running
        # What is certain to be later than the backup.
        self.old = await self.contents(self.store)
        # Another process, whose keys of objects are not reserved in the backup.
        self.store = self.make_store(self.server, self.name, self.grace)
        for user in USERS:
            await self.remove(self.store, user, 3)
            for _ in range(3):
                await self.deliver()
        self.new = await self.contents(self.store)

    async def check_restored(self, restored):
        """Check that each row of the restored database has its octets, and what came back."""
        contents = await self.contents(restored)
        sent = {message(number) for number in range(1, self.delivered + 1)}
        for user in USERS:
            self.assertLessEqual(set(contents[user].values()), sent)
            # Removed after the backup, and there again under the same unique-ids.
            back = self.old[user].keys() - self.new[user].keys()
            self.assertEqual(len(back), 3)
            self.assertLessEqual(back, contents[user].keys())
            self.assertFalse(self.new[user].keys() <= contents[user].keys())
        # Such as that databases of tests have no standby.
        self.assertEqual(await restored.diagnose(), await self.store.diagnose())
        return contents

    async def check_collection(self, restored, contents):
        """Check that a full collection finds the objects of lost messages, and no others."""
        paths = [path for path in self.objects.rglob("*") if path.is_file()]
        for path in paths:
            os.utime(path, (time.time() - 2 * DAY,) * 2)
        database = restored._database
        rows = await database.execute(
            "SELECT id FROM message WHERE NOT inline UNION SELECT key FROM doomed"
        )
        known = {key.hex for (key,) in rows}
        lost = {path.name for path in paths} - known
        self.assertTrue(lost)
        self.assertEqual(await restored.find_unknown(lambda number: None), len(lost))
        await database.execute("UPDATE doomed SET due = now() - interval '1 s'")
        await restored.collect(lambda number: None)
        left = {path.name for path in self.objects.rglob("*") if path.is_file()}
        rows = await database.execute("SELECT id FROM message WHERE NOT inline")
        self.assertEqual(left, {key.hex for (key,) in rows})
        self.assertEqual(await self.contents(restored), contents)


class DumpTests(BackupCase):
    """pg_dump, and psql into a new database."""

    def dump(self, file):
        """Take a backup."""
        self.run_program("pg_dump", "--file", str(file), self.name)

    def run_program(self, name, *arguments):
        """Run a program of PostgreSQL."""
        subprocess.run(
            [program(name), "--host", str(self.server.directory), "--username=mail", *arguments],
            check=True,
            capture_output=True,
            timeout=TIMEOUT,
        )

    def restore(self, file):
        """Restore the backup into a new database, and return its name."""
        name = create_database(self.server)
        self.run_program("psql", "-q", "-v", "ON_ERROR_STOP=1", "--dbname", name, "-f", str(file))
        return name

    async def test_restored(self):
        """Each row has its octets, and a full collection then removes what nothing refers to."""
        file = Path(temporary_directory(self)) / "mail.sql"
        await self.back_up(self.dump, file)
        name = await deferToThread(self.restore, file)
        restored = self.make_store(self.server, name, self.grace)
        contents = await self.check_restored(restored)
        await self.check_collection(restored, contents)

    async def test_reserved(self):
        """Objects are kept whose keys had been reserved before the backup, by the page's step."""
        page = (DOCS / "howto" / "cluster.rst").read_text("utf-8")
        [step] = re.findall(r'-d mail2 -c "(UPDATE .*)"', page)
        file = Path(temporary_directory(self)) / "mail.sql"
        await deferToThread(self.dump, file)
        before = set(self.objects.rglob("*"))
        for _ in range(3):
            await self.deliver()
        name = await deferToThread(self.restore, file)
        restored = self.make_store(self.server, name, self.grace)
        # It is restored two days later.
        await restored._execute("UPDATE doomed SET due = due - interval '2 days'", durable=True)
        self.assertGreater(len(await restored._execute("SELECT key FROM doomed")), 1)
        await restored._execute(step, durable=True)
        self.assertEqual(await restored.collect(lambda number: None), 0)
        [(kept,)] = await restored._execute(
            "SELECT count(*) FROM doomed WHERE due > now() + interval '6 days 23 hours'"
        )
        self.assertGreater(kept, 1)
        await restored._execute("UPDATE doomed SET due = now() - interval '1 s'", durable=True)
        await restored.collect(lambda number: None)
        left = {path for path in self.objects.rglob("*") if path.is_file()}
        self.assertLessEqual(left, before)

    async def test_short_grace(self):
        """If objects are kept for less time than backups, rows come back without octets."""
        await self.store.stop()
        self.grace = 1
        self.store = self.make_store(self.server, self.name, self.grace)
        file = Path(temporary_directory(self)) / "mail.sql"
        await self.back_up(self.dump, file)
        await self.store._execute("UPDATE doomed SET due = now() - interval '1 s'")
        self.assertTrue(await self.store.collect(lambda number: None))
        name = await deferToThread(self.restore, file)
        restored = self.make_store(self.server, name, self.grace)
        self.assertIn("message-object", [each.code for each in await restored.diagnose()])


class BaseBackupTests(BackupCase):
    """pg_basebackup, and a server over the copy."""

    async def test_restored(self):
        """The same as of a dump."""
        copies = []
        await self.back_up(lambda: copies.append(PostgreSQL(self, copy_of=self.server)))
        restored = self.make_store(copies[0], self.name, self.grace)
        contents = await self.check_restored(restored)
        await self.check_collection(restored, contents)
